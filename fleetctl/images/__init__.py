"""Machine images: made of a machine, listed, removed with their snapshots. They bear a tag of their own and no session's, so they stay.

CreateImage knows no client token; but an image's name is the account's own, so whoever did not hear the answer looks for the name. What
AWS calls available is whole, as an image is asked for only when all that was to be done on its machine is done.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import profiles
from ..cloud import ec2
from ..ending.receipt import Line, Receipt
from ..errors import AwsError, FleetError, Network, NotFound, RequestInvalid, StillBilling

__all__ = ["BASES", "Image", "base", "check_name", "listing", "machine", "made", "make", "remove", "users"]

log = logging.getLogger(__name__)

IMAGE_TAG, RECIPE_TAG = "fleetctl:image", "fleetctl:recipe"
BASES = {  # public parameters of SSM, which name the newest image of each region
    "al2023": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    "al2023-arm64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
    "ubuntu-24.04": "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    "debian-12": "/aws/service/debian/release/12/latest/amd64",
}
NAME = re.compile(r"[A-Za-z0-9()\[\] ./'@_-]{3,128}")  # (EC2 API Reference, CreateImage)
WAIT_SECONDS = 3600.0  # for an image; large disks take long
UNSEEN_SECONDS = 60.0  # in which AWS may not show what it has made
PAUSES = (1.0, 2.0, 5.0, 10.0, 15.0)  # between looks
DOUBT = (2.0, 5.0, 10.0)  # after a call that was not answered
GIGABYTE_MONTH = 0.05  # USD, of a snapshot in us-east-1 (see prices of the checklist)
Told = Callable[[str], None]


def _silent(what: str) -> None:
    pass


@dataclass(frozen=True)
class Image:
    """An image of ours. `state` is AWS's word: pending, available, failed; `gigabytes` is what its disks hold at most."""

    name: str
    id: str
    state: str
    region: str
    made: str = ""
    gigabytes: int = 0
    snapshots: tuple[str, ...] = ()
    why: str = ""
    ours: bool = True
    recipe: str = ""

    def __repr__(self) -> str:
        return f"<image {self.name} {self.id} {self.state}>"

    @property
    def per_month(self) -> float:
        """USD that its snapshots cost a month at most."""
        return self.gigabytes * GIGABYTE_MONTH


async def base(call: ec2.Call, name: str) -> str:
    """The id of an image to begin with: an id as it is, or one of `BASES` as the region has it now. Raises RequestInvalid, AwsError."""
    if name.startswith("ami-"):
        return name
    if name not in BASES:
        raise RequestInvalid(f"there is no image {name!r} to begin with", todo=f"give an id (ami-…) or one of {', '.join(BASES)}")
    answer = await call("ssm", "get_parameter", Name=BASES[name])
    return str(answer["Parameter"]["Value"])


async def listing(call: ec2.Call, region: str) -> list[Image]:
    """The images that fleetctl made in a region, oldest first."""
    rows = await _rows(call, {"Name": "tag-key", "Values": [IMAGE_TAG]})
    return sorted((_image(row, region) for row in rows), key=lambda one: one.made)


async def machine(call: ec2.Call, id: str) -> str:
    """What kind of machine an image is for, as bundles name it: x86_64 or aarch64. Raises AwsError, RequestInvalid."""
    try:
        rows = (await call("ec2", "describe_images", ImageIds=[id]))["Images"]
    except AwsError as error:
        if not _absent(error):
            raise
        rows = []
    if not rows:
        todo = f"give one of the region, or of {', '.join(BASES)}"
        raise RequestInvalid(f"there is no image {id} here", alias="from", found=id, todo=todo)
    return "aarch64" if rows[0].get("Architecture") == "arm64" else "x86_64"


async def made(call: ec2.Call, name: str, region: str, recipe: str, *, told: Told = _silent) -> Image | None:
    """The image of that name and recipe, waited for until it is available; None where there is none, or AWS could not make it."""
    there = [one for one in await _named(call, name, region) if one.ours and one.recipe == recipe and one.state in ("pending", "available")]
    if not there:
        return None
    told(f"image {name} was asked for before: {there[0].id}")
    return await _available(call, there[0].id, name, region, told)


async def check_name(call: ec2.Call, name: str, region: str) -> list[Image]:
    """Images of that name that failed and can go. Raises RequestInvalid where the name is taken, or none that an image can have."""
    if not NAME.fullmatch(name):
        raise RequestInvalid(f"{name!r} is no name that an image can have", alias="name", found=name,
                             todo="3 to 128 letters, digits and ()[] ./-'@_")  # fmt: skip
    there = await _named(call, name, region)
    for one in there:
        if one.state != "failed" or not one.ours:
            todo = f"`fleetctl image rm {name}`, or give another name" if one.ours else "give another name"
            raise RequestInvalid(f"there is an image {name!r} already: {one.id}, {one.state}", alias="name", found=name, todo=todo)
    return there


async def make(call: ec2.Call, instance: str, name: str, region: str, *, reboot: bool = True, recipe: str = "",
               told: Told = _silent) -> Image:  # fmt: skip
    """Make an image of a machine, and wait until it is available. With `reboot` its file systems are at rest, and its programs end.

    `recipe` stands for what it is made of, for `made` to find it by.

    Raises RequestInvalid where the name is taken, AwsError where AWS cannot make it: then nothing of it stays but what the error names.
    """
    for failed in await check_name(call, name, region):
        await remove(call, failed.id, region)
    tags = [{"Key": IMAGE_TAG, "Value": name}, {"Key": "Name", "Value": name}, *([{"Key": RECIPE_TAG, "Value": recipe}] if recipe else [])]
    wanted = {"InstanceId": instance, "Name": name, "Description": f"made by fleetctl of {instance}", "NoReboot": not reboot,
              "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")]}  # fmt: skip
    id = await _asked(call, wanted, name, region)
    told(f"image {name} is being made: {id}")
    return await _available(call, id, name, region, told)


async def _available(call: ec2.Call, id: str, name: str, region: str, told: Told) -> Image:
    """Wait for an image. Raises AwsError."""
    clock = asyncio.get_running_loop().time
    began, looks = clock(), 0
    while True:
        image = await _one(call, id, region)
        if image is not None and image.state == "available":
            return image
        if image is not None and image.state != "pending":
            why, todo = image.why or "AWS does not say why", f"`fleetctl image rm {name}` removes what is left of it"
            raise AwsError(f"image {name} ({id}) came to {image.state}: {why}", service="ec2", operation="create_image", code="ImageFailed",
                           todo=todo)  # fmt: skip
        waited = clock() - began
        if waited > (WAIT_SECONDS if image is not None else UNSEEN_SECONDS):
            raise AwsError(f"image {name} ({id}) is not available after {waited:.0f} s", service="ec2", operation="describe_images",
                           code="TimedOut", todo="`fleetctl image ls` shows it")  # fmt: skip
        told(f"image {name} ({id}): {image.state if image else 'not seen yet'} for {waited:.0f} s")
        await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
        looks += 1


async def _asked(call: ec2.Call, wanted: dict[str, Any], name: str, region: str) -> str:
    """CreateImage, once: where no answer came, its name is looked for before it is asked again."""
    lost: AwsError | None = None
    for pause in (*DOUBT, 0.0):
        try:
            return str((await call("ec2", "create_image", **wanted))["ImageId"])
        except Network as error:
            lost = error
            await asyncio.sleep(pause)
        except AwsError as error:
            if lost is None or error.code != "InvalidAMIName.Duplicate":
                raise
            lost = error  # made by the call before, though it was not shown
            await asyncio.sleep(pause)
        if found := await _named(call, name, region):
            return found[0].id
    assert lost is not None
    raise lost


async def remove(call: ec2.Call, which: str, region: str) -> Receipt:
    """Remove images of ours by name or id, with their snapshots, and see their end. Raises FleetError where there is none of ours.

    What a removal that was cut off has left, snapshots without an image, is found by the name. Raises StillBilling.
    """
    found = [one for one in await listing(call, region) if which in (one.name, one.id)]
    names = {one.name for one in found} or {which}
    kept = await _snapshots(call, sorted(names))
    if found and which.startswith("ami-"):  # of several images of one name that one's disks only
        kept = [one for one in kept if one in found[0].snapshots]
    snapshots = list(dict.fromkeys([*(id for one in found for id in one.snapshots), *kept]))
    if not found and not snapshots:
        raise FleetError(f"no image of fleetctl's is called {which}", todo="`fleetctl image ls` shows those that there are")
    lines = [await _ended(call, "image", one.id, region, "deregister_image", "describe_images", "ImageId") for one in found]
    lines += [await _ended(call, "snapshot", id, region, "delete_snapshot", "describe_snapshots", "SnapshotId") for id in snapshots]
    receipt = Receipt(tuple(lines))
    if receipt.remaining:
        raise StillBilling(receipt)
    return receipt


async def users(call: ec2.Call, which: str, region: str) -> list[str]:
    """Who uses images of ours, by name or id, one line each: profiles on this computer, machines, spot requests that wait for some."""
    ids = [one.id for one in await listing(call, region) if which in (one.name, one.id)]
    said = [f"profile {name} has it: what it launches would fail until another is baked for it" for name in profiles.with_image(ids)]
    if not ids:
        return said
    of_it = {"Name": "image-id", "Values": ids}
    alive = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    rows = await ec2.pages(call, "describe_instances", "Reservations", Filters=[of_it, alive])
    if machines := [one["InstanceId"] for row in rows for one in row["Instances"]]:
        said.append(f"{_counted(machines, 'machine')} came up from it: they go on without it")
    waiting = [{"Name": "launch.image-id", "Values": ids}, {"Name": "state", "Values": ["open"]}]
    rows = await ec2.pages(call, "describe_spot_instance_requests", "SpotInstanceRequests", Filters=waiting)
    if requests := [row["SpotInstanceRequestId"] for row in rows]:
        said.append(f"{_counted(requests, 'spot request')} would launch from it: they would fail")
    return said


def _counted(ids: Sequence[str], what: str) -> str:
    return f"{len(ids)} {what}{'s' if len(ids) > 1 else ''} ({', '.join(ids[:3])}{', …' if len(ids) > 3 else ''})"


async def _ended(call: ec2.Call, thing: str, id: str, region: str, operation: str, look: str, key: str) -> Line:
    """End one thing, and look until AWS does not show it."""
    line = Line(thing, id, region, "deleted")
    try:
        one: dict[str, Any] = {key: id}
        await call("ec2", operation, **one)
    except AwsError as error:
        if not _absent(error):
            return Line(thing, id, region, "not deleted", error.code, todo=error.todo)
    for pause in (*PAUSES, 30.0):
        try:
            named: dict[str, Any] = {f"{key}s": [id]}
            rows = (await call("ec2", look, **named)).get(f"{key[:-2]}s", [])
            if not [row for row in rows if row.get("State") not in ("deregistered", "disabled")]:
                return Line(thing, id, region, "deleted", "not listed by its id", time.time())
        except AwsError as error:
            if _absent(error):
                return Line(thing, id, region, "deleted", error.code, time.time())
            return Line(thing, id, region, "deleted", error.code, todo=error.todo)
        await asyncio.sleep(pause)
    return line


def _absent(error: AwsError) -> bool:
    return isinstance(error, NotFound) or error.code == "InvalidAMIID.Unavailable"  # that is what EC2 says of an image that was


async def _named(call: ec2.Call, name: str, region: str) -> list[Image]:
    return [_image(row, region) for row in await _rows(call, {"Name": "name", "Values": [name]})]


async def _one(call: ec2.Call, id: str, region: str) -> Image | None:
    """None while AWS does not show it."""
    try:
        rows = (await call("ec2", "describe_images", ImageIds=[id]))["Images"]
    except AwsError as error:
        if _absent(error):
            return None
        raise
    return _image(rows[0], region) if rows else None


async def _rows(call: ec2.Call, condition: dict[str, Any]) -> list[dict[str, Any]]:
    return await ec2.pages(call, "describe_images", "Images", Owners=["self"], Filters=[condition])


async def _snapshots(call: ec2.Call, names: Sequence[str]) -> list[str]:
    ours = [{"Name": f"tag:{IMAGE_TAG}", "Values": list(names)}]
    rows = await ec2.pages(call, "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=ours)
    return sorted(row["SnapshotId"] for row in rows)


def _image(row: dict[str, Any], region: str) -> Image:
    disks = [one["Ebs"] for one in row.get("BlockDeviceMappings", ()) if "Ebs" in one]
    tags = {one["Key"]: one["Value"] for one in row.get("Tags", ())}
    return Image(
        tags.get(IMAGE_TAG, row.get("Name", "")), row["ImageId"], row.get("State", ""), region, str(row.get("CreationDate", "")),
        sum(int(one.get("VolumeSize", 0)) for one in disks), tuple(one["SnapshotId"] for one in disks if one.get("SnapshotId")),
        row.get("StateReason", {}).get("Message", ""), IMAGE_TAG in tags, tags.get(RECIPE_TAG, ""),
    )  # fmt: skip
