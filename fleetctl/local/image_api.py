"""CreateImage and what ends an image: an image carries the files of the machine that it was made of to those that come up from it.

What a machine's files are here is its home directory: all else is this computer's. So nothing needs to reboot for it, and nothing does.
An image is pending until its files have been copied, and cannot be launched before; a snapshot is held by its image.
"""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult

from fleetctl.local import rules
from fleetctl.local.answers import Calls, errors
from fleetctl.local.book import Refused

STATES = ("pending", "running", "stopping", "stopped")   # of an instance that an image can be made of


class ImageCalls(Calls):
    """The calls on images and their snapshots."""

    def create_image(self) -> ActionResult:
        """Answers at once, with an image that is pending."""
        given, backend = dict(self.params), self.region_backend
        with errors():
            tags = rules.tags(given.get("TagSpecifications") or [], ["image", "snapshot"])
            name = str(given.get("Name") or "")
            if taken := [one.id for one in backend.amis.values() if one.name == name and one.owner_id == backend.account_id]:
                raise Refused("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {taken[0]}")
            instance = backend.get_instance(str(given["InstanceId"]))
            if instance.state not in STATES:
                raise Refused("IncorrectInstanceState", f"The instance {instance.id} is not in a state from which an image can be made")
            self.error_on_dryrun()
            image = backend.create_image(instance.id, name, given.get("Description", ""), tag_specifications=[])
            image.state, image.root_device_name, image.root_device_type = "pending", rules.ROOT_DEVICE, "ebs"
            for id, kind in ((image.id, "image"), (image.ebs_snapshot.id, "snapshot")):
                backend.tags[id].update(tags.get(kind, {}))
            backend.wire.instances.machines.photograph(instance.id, image.id, lambda well: _photographed(backend, image, well))
        return ActionResult({"ImageId": image.id})

    def deregister_image(self) -> ActionResult:
        """The image goes with its files; its snapshot stays until it is deleted."""
        answer: ActionResult = super().deregister_image()
        self.region_backend.wire.instances.machines.forget_image(str(self._get_param("ImageId")))
        return answer

    def delete_snapshot(self) -> ActionResult:
        """Refused while an image is made of it."""
        id = str(self._get_param("SnapshotId"))
        with errors():
            if used := [one.id for one in self.region_backend.amis.values() if one.ebs_snapshot.id == id]:
                raise Refused("InvalidSnapshot.InUse", f"The snapshot {id} is currently in use by {used[0]}")
        answer: ActionResult = super().delete_snapshot()
        return answer


def _photographed(backend: Any, image: Any, well: bool) -> None:
    """The files are copied, or could not be."""
    with backend.wire.lock:
        image.state = "available" if well else "failed"
