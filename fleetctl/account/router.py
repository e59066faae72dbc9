"""The NAT instance: the private subnets' way out that runs, and costs, only while a session uses it; `ending.nat` starts and stops it.

One small machine in the first public subnet, by AWS's own way of making one (VPC User Guide, "Work with NAT instances"): it takes what is
not for itself (no source and destination check), nothing reaches it but the private subnets, and its user data has it forward. A call
cannot terminate it unless its protection is lifted before; a shutdown from inside only stops it. Its role is none: it can ask AWS nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping
from importlib import resources
from typing import Any

from ..ending import nat
from ..ending.fuse import said
from ..images import BASES
from .place import Place, in_ec2, seen, tags_of, until
from .planning import Seen, Wanted

__all__ = ["KIND", "user_data"]

IMAGE = BASES["al2023-arm64"]
LOOK_SECONDS, GRACE_SECONDS = 30, 300  # between its looks at who holds it, and from the last hold to its shutdown
METADATA = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "InstanceMetadataTags": "enabled"}


def user_data() -> str:
    """What makes the machine a NAT instance, at each boot."""
    text = resources.files(__package__).joinpath("nat.sh").read_text(encoding="utf-8")
    return text.replace("@LOOK@", str(LOOK_SECONDS)).replace("@GRACE@", str(GRACE_SECONDS))


async def _rows(place: Place) -> list[dict[str, Any]]:
    """All that bears the set-up's tag and runs, or may: the set-up makes no other machine."""
    reservations = await place.ours("describe_instances", "Reservations")
    return [row for one in reservations for row in one["Instances"] if row["State"]["Name"] != "terminated"]


async def _find(place: Place) -> list[Seen]:
    found = []
    for row in await _rows(place):
        tags, state = tags_of(row), row["State"]["Name"]
        ending = state == "shutting-down"
        settings = {} if ending else await _settings(place, row)
        found.append(seen("nat-instance", row["InstanceId"], tags, settings, ending=ending, note=_note(state, tags)))
    return found


async def _settings(place: Place, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": row["InstanceType"],
        "subnet": place.part("subnet", row["SubnetId"]),
        "group": " ".join(place.part("group", one["GroupId"]) for one in row["SecurityGroups"]),
        "protected": await _attribute(place, row["InstanceId"], "disableApiTermination"),
        "forwards": not row.get("SourceDestCheck", True),
        "at shutdown": await _attribute(place, row["InstanceId"], "instanceInitiatedShutdownBehavior"),
    }


async def _attribute(place: Place, id: str, name: str) -> Any:
    answer = await place.call("ec2", "describe_instance_attribute", InstanceId=id, Attribute=name)
    return answer[name[0].upper() + name[1:]]["Value"]


def _note(state: str, tags: Mapping[str, str]) -> str:
    """What it does at the moment; a route that ends nowhere while it is stopped is as it should be.

    >>> _note("stopped", {}), _note("running", {})
    ('stopped, as no session uses it', 'running, held by no session: shuts down in some minutes')
    """
    held = nat.holders(tags, time.time())
    if held:
        return f"{state}, held by session {', '.join(f'{one} until {said(end)}' for one, end in sorted(held.items()))}"
    if state in ("stopped", "stopping"):
        return f"{state}, as no session uses it"
    return f"{state}, held by no session: shuts down in some minutes"


async def _make(place: Place, wanted: Wanted) -> str:
    """It comes up once, so that what it needs is there when a session wants it at once; then it shuts itself down."""
    settings = wanted.settings
    image = (await place.call("ssm", "get_parameter", Name=IMAGE))["Parameter"]["Value"]
    interface = {"DeviceIndex": 0, "SubnetId": place.id("subnet", settings["subnet"]), "Groups": [place.id("group", settings["group"])],
                 "AssociatePublicIpAddress": True}  # fmt: skip
    answer = await place.do(
        "ec2",
        "run_instances",
        ImageId=image,
        InstanceType=settings["type"],
        MinCount=1,
        MaxCount=1,
        ClientToken=str(uuid.uuid4()),
        NetworkInterfaces=[interface],
        DisableApiTermination=settings["protected"],
        InstanceInitiatedShutdownBehavior=settings["at shutdown"],
        CreditSpecification={"CpuCredits": "standard"},  # the type's default is to pay for what is above its share
        MetadataOptions=METADATA,
        UserData=user_data(),
        TagSpecifications=[*place.specification("instance", wanted.part), *place.specification("volume", wanted.part, done=True)],
    )
    return str(answer["Instances"][0]["InstanceId"])


async def _put(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """Once it is there: no route takes one that is still on its way."""

    async def there() -> bool:
        return any(row["InstanceId"] == id and row["State"]["Name"] in ("running", "stopped") for row in await _rows(place))

    await until(there, f"NAT instance {id}")
    values: dict[str, dict[str, Any]] = {
        "protected": {"DisableApiTermination": {"Value": wanted.settings["protected"]}},
        "forwards": {"SourceDestCheck": {"Value": not wanted.settings["forwards"]}},
        "at shutdown": {"Attribute": "instanceInitiatedShutdownBehavior", "Value": wanted.settings["at shutdown"]},
        "group": {"Groups": [place.id("group", wanted.settings["group"])]},
    }
    for key in (one for one in values if one in keys):
        await place.do("ec2", "modify_instance_attribute", InstanceId=id, **values[key])


async def _remove(place: Place, thing: Seen) -> None:
    """The protection goes first."""
    if thing.ending:
        return
    if thing.settings["protected"]:
        await place.call("ec2", "modify_instance_attribute", InstanceId=thing.id, DisableApiTermination={"Value": False})
    await place.call("ec2", "terminate_instances", InstanceIds=[thing.id])


async def _end(place: Place, id: str) -> str:
    """The state that is its end; EC2 shows it for an hour."""
    by_id = [{"Name": "instance-id", "Values": [id]}]
    answer = await place.call("ec2", "describe_instances", Filters=by_id)
    states = {row["State"]["Name"] for one in answer["Reservations"] for row in one["Instances"]}
    return "terminated" if states <= {"terminated"} else ""


KIND = in_ec2("nat-instance", _find, _make, _put, _remove, _end, needs=("subnet", "group", "gateway"),
              fixed=frozenset({"type", "subnet"}), given=frozenset({"protected", "at shutdown", "group"}))  # fmt: skip
