"""EC2 as the local cloud speaks it: moto's classes, with the spot request life cycle, the launch rules and the booting put in.

    LocalInstance   a moto instance whose start, stop and terminate go to the hypervisor
    LocalEC2        the region's backend: run_instances, whoever calls it (RunInstances, CreateFleet, spot requests), boots

The calls themselves are in `fleetctl.local.ec2_api`, what exists for the rules in `fleetctl.local.existing`.
`LocalEC2.wire` is set once, by `fleetctl.local.patches`, before moto makes the backend.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError
from moto.ec2.models.instances import Instance, InstanceState, Reservation
from moto.iam.models import iam_backends

from fleetctl.local import rules, seed
from fleetctl.local.answers import Tokens, errors
from fleetctl.local.book import SpotBook
from fleetctl.local.existing import Existing, vcpus
from fleetctl.local.faults import Faults
from fleetctl.local.fleets import Fleet
from fleetctl.local.hidden import Hidden
from fleetctl.local.instances import Instances
from fleetctl.local.market import SpotMarket
from fleetctl.local.network import NetworkEC2
from fleetctl.local.spot import Order, SpotRequest
from fleetctl.local.supply import Supply
from fleetctl.local.templates import Templates
from fleetctl.local.timers import Timers

SHOWN = ("ImageId", "InstanceType", "KeyName", "SubnetId", "SecurityGroupIds", "NetworkInterfaces", "Placement", "BlockDeviceMappings",
         "IamInstanceProfile", "EbsOptimized", "Monitoring")   # what a spot request shows of a launch
ROOT_GIB = 8


@dataclass(frozen=True)
class Wire:
    """What the backend is connected to."""

    instances: Instances
    faults: Faults
    timers: Timers
    lock: threading.RLock


class LocalInstance(Instance):
    """A moto instance that has a machine behind it."""

    instance_initiated_shutdown_behavior: str
    spot_instance_request_id: str | None = None

    def setup_defaults(self) -> None:
        """The root volume, under the image's own name for it (moto: /dev/sda1)."""
        self.add_block_device(ROOT_GIB, self.root_device_name, None, False, True, None, "gp3")

    def start(self) -> InstanceState:
        """Boot again."""
        return self._power(self.ec2_backend.instances.start)

    def stop(self) -> InstanceState:
        """Power off."""
        return self._power(self.ec2_backend.instances.stop)

    def terminate(self) -> InstanceState:
        """Power off for good."""
        return self._power(self.ec2_backend.instances.terminate)

    def reboot(self) -> None:
        """Refused: a machine can reboot itself, but nothing here reboots it from outside."""
        raise EC2ClientError("UnsupportedOperation", "The local cloud does not reboot instances; stop and start them.")

    def dismantle(self) -> None:
        """What moto does at once on terminate, done when the process is gone: interfaces, addresses and volumes go.

        A volume that is not to be deleted with its instance stays behind, and costs.
        """
        self.ec2_backend.hidden.show(self.id, *(device.volume_id for _, device in self.get_block_device_mapping))
        Instance.terminate(self)
        self.nics: dict[int, Any] = {}
        self.security_groups: list[Any] = []
        self._subnet_id = None

    @property
    def private_ip(self) -> str | None:
        """None once terminated, as the other addresses."""
        return self.nics[0].private_ip_address if self.nics else None

    @property
    def private_ip_address(self) -> str | None:
        """The same under its other name."""
        return self.private_ip

    @property
    def public_ip(self) -> str | None:
        """None without a public address, and while it is stopped: EC2 takes it back then."""
        return self.nics[0].public_ip if self.nics and self.state != "stopped" else None

    @property
    def public_ip_address(self) -> str | None:
        """The same under its other name."""
        return self.public_ip

    @property
    def private_dns_name(self) -> str:
        """'': there is no name service here that would know it."""
        return ""

    @property
    def public_dns_name(self) -> str:
        """'': as in a VPC without DNS hostnames."""
        return ""

    def _power(self, do: Callable[[Any], None]) -> InstanceState:
        before = InstanceState(self._state.name, self._state.code)
        do(self)
        return before


class LocalEC2(NetworkEC2):
    """One region's EC2, with booting instances and a spot market."""

    wire: Wire
    amis: dict[str, Any]

    def __init__(self, region_name: str, account_id: str) -> None:
        self.instances = self.wire.instances
        self.book = SpotBook(lambda id: self.tags.get(id, {}))
        self.supply = Supply(self.wire.faults, vcpus, self._used)
        self.market = SpotMarket(self.book, self.supply, self.instances, self.wire.faults, self.wire.timers, self.wire.lock, self._fulfil)
        self.tokens, self.hidden, self.templates = Tokens(), Hidden(), Templates()
        self.instant_fleets: dict[str, Fleet] = {}
        super().__init__(region_name, account_id)

    def _load_amis(self) -> None:
        """The one image that there is, under the id that it has in this region."""
        super()._load_amis()
        images: list[Any] = list(self.amis.values())
        self.amis.clear()
        for image in images:
            image.id = seed.image(self.region_name)
            self.amis[image.id] = image

    def run_instances(self, image_id: str, count: int, user_data: Base64EncodedString | None, security_group_names: list[str],
                      **kwargs: Any) -> Reservation:
        """Every launch ends here; afterwards the instances boot. A launch that fails half-way leaves nothing."""
        before, tags = set(self.reservations), kwargs.get("tags") or {}
        try:
            reservation = super().run_instances(image_id, count, user_data, security_group_names, **kwargs)
        except Exception:
            for id in set(self.reservations) - before:
                for instance in self.reservations.pop(id).instances:
                    instance.dismantle()
            raise
        profile = self.instance_profile(kwargs.get("iam_instance_profile_name"), kwargs.get("iam_instance_profile_arn"))
        for instance in reservation.instances:
            for nic, asked in zip(instance.nics.values(), kwargs.get("nics") or [{}], strict=False):
                nic.delete_on_termination = asked.get("DeleteOnTermination") is not False   # EC2's default for what a launch makes
                nic.add_tags(tags.get("network-interface", {}))
            if instance.root_device_name not in instance.block_device_mapping:
                instance.setup_defaults()   # moto leaves the root out where other disks are named
                root = self.get_volume(instance.block_device_mapping[instance.root_device_name].volume_id)
                root.add_tags(tags.get("volume", {}))
            if profile is not None:
                self.associate_iam_instance_profile(instance.id, iam_instance_profile_arn=profile.arn)
            instance.security_groups = list(instance.nics[0].group_set)   # EC2 shows the first interface's
            instance.spot_instance_request_id = kwargs.get("spot_request")
            if instance.lifecycle == "spot" and instance.spot_instance_request_id is None:
                request = self.market.record(instance, kwargs["spot_order"])   # RunInstances and CreateFleet make requests, too
                instance.spot_instance_request_id = request.id
                self.tags[request.id].update(tags.get("spot-instances-request", {}))
            self.instances.adopt(instance, role=profile.roles[0].name if profile is not None and profile.roles else None)
            self.made(instance.id, *(device.volume_id for _, device in instance.get_block_device_mapping))
            if instance.spot_instance_request_id is not None:
                self.made(instance.spot_instance_request_id)
        return reservation

    def made(self, *ids: str) -> None:
        """Something new exists; whether it is seen already is for the faults to say."""
        for id in ids:
            if fault := self.wire.faults.strikes("invisible", resource=id.partition("-")[0]):
                self.hidden.hide(id, time.monotonic() + float(fault.settings["seconds"]))

    def all_reservations(self, filters: Any = None) -> list[Reservation]:
        """Those of which something is seen, each with what is seen; all that looks for instances goes through here."""
        unseen = self.hidden.now(time.monotonic())
        found = super().all_reservations(filters)
        if unseen:
            for reservation in found:
                reservation.instances = [instance for instance in reservation.instances if instance.id not in unseen]
        return [reservation for reservation in found if reservation.instances or not unseen]

    def get_instance(self, instance_id: str) -> Instance:
        """One that is seen. moto looks through all of them, for each disk that is attached."""
        known: Instance | None = self.instances.get(instance_id)
        if known is None:   # it is being launched, and the newest
            newest = next(reversed(self.reservations.values()), None)
            known = next((one for one in reversed(newest.instances) if one.id == instance_id), None) if newest is not None else None
        if known is None or known.region_name != self.region_name or instance_id in self.hidden.now(time.monotonic()):
            raise InvalidInstanceIdError(instance_id)
        return known

    def describe_volumes(self, volume_ids: list[str] | None = None, filters: Any = None) -> list[Any]:
        """Those that are seen; an id that is not is an error."""
        with errors():
            self.hidden.check(volume_ids or (), time.monotonic())
        unseen = self.hidden.now(time.monotonic())
        return [volume for volume in super().describe_volumes(volume_ids, filters) if volume.id not in unseen]

    def stop_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        """On-demand ones; EC2 refuses to stop an instance of a one-time spot request."""
        for instance in self.get_multi_instances_by_id(instance_ids):
            if instance.lifecycle == "spot":
                raise EC2ClientError("UnsupportedOperation", f"You can't stop the Spot Instance '{instance.id}' because it is associated "
                                                             "with a one-time Spot Instance request.")
        return super().stop_instances(instance_ids)

    def start_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        """Those that are stopped, or run already."""
        for instance in self.get_multi_instances_by_id(instance_ids):
            if instance.state not in ("stopped", "pending", "running"):
                raise EC2ClientError("IncorrectInstanceState",
                                     f"The instance '{instance.id}' is not in a state from which it can be started.")
        return super().start_instances(instance_ids)

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        """All of them, or none if one id is wrong; those of a zone in which one is protected are spared, and the call fails then."""
        malformed = [id for id in instance_ids if not re.fullmatch(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?", id)]
        if malformed:
            raise EC2ClientError("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
        by_zone: dict[str, list[Instance]] = defaultdict(list)
        for instance in self.get_multi_instances_by_id(instance_ids):
            by_zone[instance.placement.zone].append(instance)
        ended: dict[str, tuple[Instance, InstanceState]] = {}
        spared: list[Instance] = []
        for instances in by_zone.values():
            if protected := [instance for instance in instances if instance.disable_api_termination]:
                spared += protected
            else:
                ended.update({instance.id: (instance, instance.terminate()) for instance in instances})
        if spared:
            raise EC2ClientError("OperationNotPermitted", f"The instance '{spared[0].id}' may not be terminated. Modify its "
                                                          "'disableApiTermination' instance attribute and try again.")
        return [ended[id] for id in dict.fromkeys(instance_ids)]

    def associate_iam_instance_profile(self, instance_id: str, iam_instance_profile_name: str | None = None,
                                       iam_instance_profile_arn: str | None = None) -> Any:
        """moto's RunInstances associates the first instance only, and again: what is there already stays."""
        there = self.iam_instance_profile_associations.get(instance_id)
        if there is not None and there.iam_instance_profile is self.instance_profile(
                iam_instance_profile_name, iam_instance_profile_arn):
            return there
        return super().associate_iam_instance_profile(instance_id, iam_instance_profile_name, iam_instance_profile_arn)

    def launch(self, spec: Mapping[str, Any], count: int, *, tags: dict[str, dict[str, str]] | None = None, spot_request: str | None = None,
               spot: bool = False, price: Decimal | None = None, token: str | None = None) -> Reservation:
        """Instances from a specification that has passed the rules. `spot_request` is the request that they fulfil; without one,
        spot instances get requests of their own, with `price` as their cap."""
        profile = spec.get("IamInstanceProfile") or {}
        order = Order({"InstanceType": rules.DEFAULT_TYPE, **{key: spec[key] for key in SHOWN if spec.get(key)}}, price=price)
        kwargs: dict[str, Any] = {"block_device_mappings": [_disk(m) for m in spec["BlockDeviceMappings"]]} \
            if spec.get("BlockDeviceMappings") else {}
        return self.run_instances(
            spec["ImageId"], count, Base64EncodedString(spec["UserData"]) if spec.get("UserData") else None,
            list(spec.get("SecurityGroups") or ()),
            instance_type=spec.get("InstanceType", rules.DEFAULT_TYPE), is_instance_type_default=not spec.get("InstanceType"),
            placement=(spec.get("Placement") or {}).get("AvailabilityZone"), region_name=self.region_name, subnet_id=spec.get("SubnetId"),
            key_name=spec.get("KeyName"), security_group_ids=list(spec.get("SecurityGroupIds") or ()),
            nics=[dict(nic) for nic in spec.get("NetworkInterfaces") or ()], private_ip=None, associate_public_ip=None,
            tags=tags or {}, ebs_optimized=bool(spec.get("EbsOptimized")), disable_api_stop=False,
            instance_market_options="spot" if spot else None, lifecycle="spot" if spot else None,
            launch_template={}, disable_api_termination=bool(spec.get("DisableApiTermination")), spot_order=order,
            instance_initiated_shutdown_behavior="terminate" if spot else spec.get("InstanceInitiatedShutdownBehavior"),
            iam_instance_profile_name=profile.get("Name"), iam_instance_profile_arn=profile.get("Arn"),
            monitoring_state="enabled" if (spec.get("Monitoring") or {}).get("Enabled") else "disabled",
            metadata_options=dict(spec.get("MetadataOptions") or {}), client_token=token, spot_request=spot_request, **kwargs)

    def _fulfil(self, request: SpotRequest) -> str:
        spec = dict(request.order.spec)
        rules.check(spec, Existing(self))   # again: what it names may have been deleted since
        if not any(rules.subnets(spec)):
            spec["Placement"] = {**(spec.get("Placement") or {}), "AvailabilityZone": request.zone}
        return self.launch(spec, 1, spot=True, spot_request=request.id).instances[0].id

    def instance_profile(self, name: str | None, arn: str | None) -> Any:
        """The instance profile of this name or ARN, or None."""
        profiles = iam_backends[self.account_id][self.partition].instance_profiles.values()
        return next((p for p in profiles if (arn and p.arn == arn) or (name and p.name == name)), None)

    def _used(self, market: str) -> int:
        """The vCPUs of this region's living instances in a market."""
        return sum(vcpus(instance.instance_type) for instance in self.instances.live()
                   if instance.region_name == self.region_name and (instance.lifecycle or "on-demand") == market)


def _disk(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A block device mapping as moto's backend wants it; the root's defaults are the image's."""
    disk = dict(mapping.get("Ebs") or {})
    root = mapping["DeviceName"] == rules.ROOT_DEVICE
    return {"DeviceName": mapping["DeviceName"], "NoDevice": mapping.get("NoDevice"), "VirtualName": mapping.get("VirtualName"),
            "Ebs": {"VolumeSize": disk.get("VolumeSize") or (ROOT_GIB if root else None), "SnapshotId": disk.get("SnapshotId"),
                    "VolumeType": disk.get("VolumeType", "gp3"), "Iops": disk.get("Iops"), "Encrypted": disk.get("Encrypted", False),
                    "KmsKeyId": disk.get("KmsKeyId"), "DeleteOnTermination": disk.get("DeleteOnTermination", root)}}
