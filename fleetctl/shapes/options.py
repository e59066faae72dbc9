"""The options that describe an instance. RequestSpotInstances, RunInstances and a launch template's data have the same keys for them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from ..lenses import Lens, Transform, describe, misfit
from .rules import base64_text, price_text
from .shape import Option, Request

__all__ = ["PRICE", "count_of", "in_front", "is_primary", "launch_options", "tagged_with", "tags_option"]


# -- what stands inside a request, and what the user sees of it

def _text(stored: str) -> str:
    return base64_text(stored).decode()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _profile_name(stored: dict[str, str]) -> str:
    return stored["Arn"] if "Arn" in stored else stored["Name"]


def _profile_dict(name: str) -> dict[str, str]:
    return {"Arn" if name.startswith("arn:") else "Name": name}


def _only(items: list[Any]) -> Any:
    if len(items) != 1:
        raise ValueError(f"expected one entry, found {len(items)}; 'groups' takes and shows any number")
    return items[0]


def _alone(item: Any) -> list[Any]:
    return [item]


def _tags_dict(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


def _tags_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    for key, value in tags.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise ValueError(f"the tag {key!r}: {value!r} is not str: str")
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def count_of(n: int) -> int:
    """A number of machines as it is. Raises ValueError below 1."""
    if n < 1:
        raise ValueError("at least 1")
    return n


PRICE = Transform(Decimal, price_text)
"""A cap in USD an hour, stored as AWS's text."""


# -- a request in the form that a lens is for

def in_front(request: Request, place: Lens, wanted: Callable[[dict[str, Any]], bool], **new: Any) -> Request:
    """The request with the wanted entry of a list of dicts in front, made if there is none; it says what `new` says unless it does already.

    In these lists the order of the entries means nothing to EC2.
    """
    entries = place.get(request, [])
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, dict) for entry in entries):
        raise misfit(f"expected list of dicts, found {describe(entries)}", path=place.keys, found=entries)
    at = next((index for index, entry in enumerate(entries) if wanted(entry)), None)
    front = {**new, **(entries[at] if at is not None else {})}
    changed: Request = place.put(request, [front, *(entry for index, entry in enumerate(entries) if index != at)])
    return changed


def is_primary(interface: dict[str, Any]) -> bool:
    """Whether this is the interface that every instance has."""
    return bool(interface.get("DeviceIndex", 0) == 0)


def _network_ready(launch: Lens, **moved: str) -> Callable[[Request], Request]:
    """Ready for the primary interface's options: the keys that are `moved` go from beside the interfaces into it, under a new name.

    Where the interface already says otherwise, both stay for `validate` to refuse: which of the two is meant is not ours to say.
    """
    interfaces = Lens(launch, "NetworkInterfaces")

    def ready(request: Request) -> Request:
        request = in_front(request, interfaces, is_primary, DeviceIndex=0)
        beside = launch.get(request)
        primary, *others = interfaces.get(request)
        gone = set()
        for key, inner in moved.items():
            if key in beside and primary.get(inner, beside[key]) == beside[key]:
                primary = {**primary, inner: beside[key]}
                gone.add(key)
        kept = {key: value for key, value in beside.items() if key not in gone}
        changed: Request = launch.put(request, {**kept, "NetworkInterfaces": [primary, *others]})
        return changed
    return ready


ROOT_DEVICES = ("/dev/xvda", "/dev/sda1")   # "Device names for volumes" (User Guide): what root volumes are called; xvda on Amazon Linux


def _disk_ready(launch: Lens) -> Callable[[Request], Request]:
    """Ready for `disk`: the root device's mapping in front."""
    def ready(request: Request) -> Request:
        return in_front(request, Lens(launch, "BlockDeviceMappings"), lambda mapping: mapping.get("DeviceName") in ROOT_DEVICES,
                        DeviceName=ROOT_DEVICES[0])
    return ready


def _join_disk(old: Any, new: Any) -> Any:
    """A size replaces the size; a dict replaces the fields it names."""
    before = {"VolumeSize": old} if isinstance(old, int) else old or {}
    return {**before, **(new if isinstance(new, dict) else {"VolumeSize": new})}


def _disk_seen(stored: dict[str, Any]) -> Any:
    return stored["VolumeSize"] if stored.keys() == {"VolumeSize"} else stored


def _disk_stored(seen: Any) -> dict[str, Any]:
    return seen if isinstance(seen, dict) else {"VolumeSize": seen}


def _tags_ready(kind: str) -> Callable[[Request], Request]:
    """Ready for `tags`: the specification of this resource type in front."""
    def ready(request: Request) -> Request:
        return in_front(request, Lens("TagSpecifications"), lambda entry: entry.get("ResourceType") == kind, ResourceType=kind)
    return ready


# -- the tables

def launch_options(launch: Lens, *, encoded: bool = True) -> dict[str, Option]:
    """The options of the part of a request that describes the instance.

    `encoded`: the call takes user data in base64, as all do at the wire, but botocore encodes that of RunInstances by itself.
    """
    interface = Lens(launch, "NetworkInterfaces", 0)
    groups = Lens(interface, "Groups")
    network = _network_ready(launch, SubnetId="SubnetId", SecurityGroupIds="Groups")
    # An interface takes no groups by name: they are seen as its groups, to be replaced, but not moved there for another option's sake.
    regroup = _network_ready(launch, SubnetId="SubnetId", SecurityGroupIds="Groups", SecurityGroups="Groups")
    text = [Transform(_text, _base64)] if encoded else []
    return {
        "zone": Option(Lens(launch, "Placement", "AvailabilityZone"), (str,)),
        "itype": Option(Lens(launch, "InstanceType"), (str,)),
        "subnet": Option(Lens(interface, "SubnetId"), (str,), network),
        "groups": Option(groups, (list, tuple), regroup),
        "group": Option(Lens(groups, Transform(_only, _alone)), (str,), regroup),
        "public": Option(Lens(interface, "AssociatePublicIpAddress"), (bool,), network),
        "key": Option(Lens(launch, "KeyName"), (str,)),
        "udata": Option(Lens(launch, "UserData", *text), (str,)),
        "profile": Option(Lens(launch, "IamInstanceProfile", Transform(_profile_name, _profile_dict)), (str,)),
        "image": Option(Lens(launch, "ImageId"), (str,)),
        "disk": Option(Lens(launch, "BlockDeviceMappings", 0, "Ebs", Transform(_disk_seen, _disk_stored)), (int, dict),
                       _disk_ready(launch), _join_disk),
    }


def tags_option(kind: str) -> Option:
    """The option `tags` of a call, as the tags of the resources of this type."""
    return Option(Lens("TagSpecifications", 0, "Tags", Transform(_tags_dict, _tags_list)), (dict,), _tags_ready(kind))


def tagged_with(request: Request, tags: Mapping[str, str], kinds: Iterable[str]) -> Request:
    """The request with the tags added to its own on resources of all these types. Raises RequestInvalid for malformed ones."""
    for kind in reversed(list(kinds)):   # each goes to the front
        option = tags_option(kind)
        request = option.ready(request)
        request = option.lens.put(request, {**option.lens.get(request, {}), **tags})
    return request
