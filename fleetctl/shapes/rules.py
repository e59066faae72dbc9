"""What EC2 refuses in a launch request although botocore's model of the call lets it through: pure.

Every rule takes a part of the request that may be malformed in any way (the model's check reports that) and yields a `Fault` for each
breach it can see. The source of each rule is the EC2 API reference or user guide, named at the rule.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from ..errors import RequestInvalid, UserDataTooLarge

__all__ = [
    "USER_DATA_LIMIT", "Fault", "Path",
    "call_faults", "launch_faults", "price_faults", "protection_faults", "run_faults", "spot_faults", "tag_faults",
    "base64_text", "dicts", "price_text",
]

USER_DATA_LIMIT = 16_384   # bytes before base64 ("Run commands when you launch an EC2 instance", User Guide)
LEAST_PRICE = Decimal("0.001")   # USD an hour, of any MaxPrice (SpotMarketOptions, FleetLaunchTemplateOverridesRequest: API reference)

Path = tuple[str | int, ...]


class Fault(NamedTuple):
    """Something wrong at a place of a request. `found` is what stands there, None if nothing does."""

    path: Path
    why: str
    found: Any = None
    error: type[RequestInvalid] = RequestInvalid


def launch_faults(
    launch: Any, at: Path = (), *, required: Iterable[str] = ("ImageId", "InstanceType"), encoded: bool = True
) -> Iterator[Fault]:
    """What is wrong in the part of a request that describes the instance. `at` is where that part stands, `required` what it must say,
    `encoded` whether its user data are in base64."""
    if not isinstance(launch, dict):
        return
    for key in required:
        if not launch.get(key):
            yield Fault((*at, key), "required, but nothing is there", launch.get(key))
    yield from _interfaces(launch, at)
    yield from _disks(launch, at)
    yield from _user_data(launch, at, encoded)
    yield from _profile(launch, at)


def _interfaces(launch: dict[str, Any], at: Path) -> Iterator[Fault]:
    """InstanceNetworkInterfaceSpecification, and the keys beside it, in the API reference; AWS's own words for the breach of the first are
    "Network interfaces and an instance-level subnet ID (security groups) may not be specified on the same request"."""
    interfaces = list(dicts(launch.get("NetworkInterfaces")))
    for key in ("SubnetId", "SecurityGroupIds", "SecurityGroups", "PrivateIpAddress", "Ipv6AddressCount", "Ipv6Addresses"):
        if interfaces and key in launch:
            yield Fault((*at, key), "not allowed beside NetworkInterfaces; put it into the interface", launch[key])
    taken: Counter[tuple[Any, Any]] = Counter()
    for index, interface in interfaces:
        here = (*at, "NetworkInterfaces", index)
        if "DeviceIndex" not in interface:
            yield Fault((*here, "DeviceIndex"), "required in an interface, but nothing is there")
            continue
        slot = (repr(interface.get("NetworkCardIndex", 0)), repr(interface["DeviceIndex"]))
        taken[slot] += 1
        if taken[slot] == 2:
            yield Fault((*here, "DeviceIndex"), "used by two interfaces", interface["DeviceIndex"])
        if interface.get("AssociatePublicIpAddress") is True and len(interfaces) > 1:
            yield Fault((*here, "AssociatePublicIpAddress"), "only allowed with a single interface", True)
        if interface.get("AssociatePublicIpAddress") is True and "NetworkInterfaceId" in interface:
            yield Fault((*here, "AssociatePublicIpAddress"), "only allowed for a new interface, not for an existing one", True)


def _disks(launch: dict[str, Any], at: Path) -> Iterator[Fault]:
    """BlockDeviceMapping and EbsBlockDevice in the API reference."""
    names: Counter[str] = Counter()
    for index, mapping in dicts(launch.get("BlockDeviceMappings")):
        here = (*at, "BlockDeviceMappings", index)
        name = mapping.get("DeviceName")
        if not name:
            yield Fault((*here, "DeviceName"), "required in a block device mapping, but nothing is there", name)
        elif isinstance(name, str):
            names[name] += 1
            if names[name] == 2:
                yield Fault((*here, "DeviceName"), "used by two mappings", name)
        disk = mapping.get("Ebs")
        size = disk.get("VolumeSize") if isinstance(disk, dict) else None
        if isinstance(size, int) and not isinstance(size, bool) and size < 1:
            yield Fault((*here, "Ebs", "VolumeSize"), "a disk has at least 1 GiB", size)


def _user_data(launch: dict[str, Any], at: Path, encoded: bool) -> Iterator[Fault]:
    text = launch.get("UserData")
    if not isinstance(text, str):
        return
    try:
        size = len(base64_text(text) if encoded else text.encode())
    except ValueError:
        why = "not base64 (the alias udata takes plain text)" if encoded else "not a text that UTF-8 can say"
        yield Fault((*at, "UserData"), why, text)
        return
    if size > USER_DATA_LIMIT:
        yield Fault((*at, "UserData"), f"{size:,} bytes, where EC2 takes at most {USER_DATA_LIMIT:,}", text, UserDataTooLarge)


def _profile(launch: dict[str, Any], at: Path) -> Iterator[Fault]:
    """IamInstanceProfileSpecification in the API reference: one of the two names the profile."""
    profile = launch.get("IamInstanceProfile")
    if isinstance(profile, dict) and len({"Arn", "Name"}.intersection(profile)) != 1:
        yield Fault((*at, "IamInstanceProfile"), "needs either Name or Arn", profile)


def tag_faults(specifications: Any, at: Path, types: Iterable[str]) -> Iterator[Fault]:
    """What is wrong in TagSpecifications, where the call tags resources of these types ("Tag restrictions", User Guide)."""
    types = list(types)
    for index, specification in dicts(specifications):
        here = (*at, index)
        kind = specification.get("ResourceType")
        if kind not in types:
            why = "not tagged by this call" if kind else "required in a tag specification, but nothing is there"
            yield Fault((*here, "ResourceType"), f"{why}; it takes {', '.join(types)}", kind)
        tags = list(dicts(specification.get("Tags")))
        if len(tags) > 50:
            yield Fault((*here, "Tags"), f"{len(tags)} tags, where a resource takes at most 50", specification["Tags"])
        keys: Counter[str] = Counter()
        for number, tag in tags:
            key, value = tag.get("Key"), tag.get("Value", "")
            if not key or (isinstance(key, str) and (len(key) > 128 or key.lower().startswith("aws:"))):
                yield Fault((*here, "Tags", number, "Key"), "a tag's key has 1 to 128 characters and does not begin with aws:", key)
            if isinstance(value, str) and len(value) > 256:
                yield Fault((*here, "Tags", number, "Value"), "a tag's value has at most 256 characters", value)
            keys[str(key)] += 1
            if keys[str(key)] == 2:
                yield Fault((*here, "Tags", number, "Key"), "used by two tags", key)


def spot_faults(request: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong beside the launch specification of RequestSpotInstances (API reference)."""
    yield from _count_faults(request, "InstanceCount")
    yield from call_faults(request)
    behaviour = request.get("InstanceInterruptionBehavior")
    if behaviour in ("stop", "hibernate") and request.get("Type", "one-time") != "persistent":
        yield Fault(("InstanceInterruptionBehavior",), "only allowed when Type is persistent; a one-time request terminates", behaviour)
    yield from price_faults(request, "SpotPrice")


def run_faults(request: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong in RunInstances beside the description of the instance (RunInstances in the API reference)."""
    yield from _count_faults(request, "MinCount")
    yield from _count_faults(request, "MaxCount")
    low, high = request.get("MinCount"), request.get("MaxCount")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        yield Fault(("MinCount",), f"more than MaxCount, which is {high}", low)
    if isinstance(high, int) and high > 1 and "PrivateIpAddress" in request:
        yield Fault(("PrivateIpAddress",), "only allowed when one machine is launched", request["PrivateIpAddress"])
    yield from call_faults(request)
    yield from protection_faults(request, ())
    yield from _market_faults(request.get("InstanceMarketOptions"), ("InstanceMarketOptions",))


def _market_faults(market: Any, at: Path) -> Iterator[Fault]:
    """InstanceMarketOptionsRequest and SpotMarketOptions in the API reference."""
    if not isinstance(market, dict):
        return
    if (kind := market.get("MarketType", "spot")) not in ("spot", "on-demand"):
        yield Fault((*at, "MarketType"), "machines are of the market spot or on-demand", kind)
    options, at = market.get("SpotOptions"), (*at, "SpotOptions")
    if not isinstance(options, dict):
        return
    behaviour, persistent = options.get("InstanceInterruptionBehavior"), options.get("SpotInstanceType") == "persistent"
    if persistent and behaviour not in ("stop", "hibernate"):
        yield Fault((*at, "InstanceInterruptionBehavior"), "a persistent request needs stop or hibernate here", behaviour)
    if not persistent and behaviour in ("stop", "hibernate"):
        yield Fault((*at, "InstanceInterruptionBehavior"), "only allowed for a persistent request; a one-time one terminates", behaviour)
    if not persistent and "ValidUntil" in options:
        yield Fault((*at, "ValidUntil"), "only allowed for a persistent request", options["ValidUntil"])
    yield from price_faults(options, "MaxPrice", at, least=True)


def protection_faults(launch: dict[str, Any], at: Path) -> Iterator[Fault]:
    """What would keep a machine from ending. "Change instance termination protection" (User Guide) has no spot instances protected;
    EC2's own words for the second are "instance_initiated_shutdown_behavior=stop is not supported for spot instances"."""
    if launch.get("DisableApiTermination") is True:
        yield Fault((*at, "DisableApiTermination"), "a spot instance cannot be protected from termination", True)
    if launch.get("InstanceInitiatedShutdownBehavior") == "stop":
        yield Fault((*at, "InstanceInitiatedShutdownBehavior"), "a spot instance terminates at a shutdown from inside", "stop")
    hibernation = launch.get("HibernationOptions")
    if isinstance(hibernation, dict) and hibernation.get("Configured") is True:
        yield Fault((*at, "HibernationOptions", "Configured"), "a machine that can hibernate does not end when it is interrupted", True)


def call_faults(request: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong with what every launch call takes: the client token ("Ensuring idempotency in Amazon EC2 API requests"), and a dry
    run, which is always answered with an error."""
    token = request.get("ClientToken")
    if isinstance(token, str) and not (token.isascii() and 1 <= len(token) <= 64):
        yield Fault(("ClientToken",), "1 to 64 ASCII characters", token)
    if request.get("DryRun") is True:
        yield Fault(("DryRun",), "a dry run launches nothing; leave it out, and ask with `await preflight(request, n, cmds)` instead", True)


def price_faults(launch: dict[str, Any], key: str, at: Path = (), *, least: bool = False) -> Iterator[Fault]:
    """What is wrong with a cap. `least`: it is one that has a lowest value."""
    if not isinstance(price := launch.get(key), str):
        return
    try:
        price_text(price)
    except ValueError as error:
        yield Fault((*at, key), str(error), price)
        return
    if least and Decimal(price) < LEAST_PRICE:
        yield Fault((*at, key), f"EC2 takes no cap below {LEAST_PRICE}", price)


def _count_faults(request: dict[str, Any], key: str) -> Iterator[Fault]:
    count = request.get(key)
    if isinstance(count, int) and not isinstance(count, bool) and count < 1:
        yield Fault((key,), "at least 1", count)


def price_text(price: Decimal | int | float | str) -> str:
    """A price in $ per hour as AWS takes it: plain decimal digits. Raises ValueError unless it is a finite number above 0.

    >>> price_text(0.05), price_text(Decimal("1e-3")), price_text("2")
    ('0.05', '0.001', '2')
    """
    try:
        exact = Decimal(str(price))   # by way of str: the float 0.05 is meant as 0.05
    except InvalidOperation:
        raise ValueError("not a number") from None
    if isinstance(price, bool) or not exact.is_finite() or exact <= 0:
        raise ValueError("a price is a finite number above 0")
    return format(exact, "f")


def base64_text(text: str) -> bytes:
    """The bytes of base64 text; line breaks in it are allowed. Raises ValueError for anything else that is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(f"not base64: {error}") from error


def dicts(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The well-formed entries of what should be a list of dicts."""
    if isinstance(value, list | tuple):
        yield from ((index, item) for index, item in enumerate(value) if isinstance(item, dict))
