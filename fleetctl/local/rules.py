"""What EC2 refuses in a launch and moto lets through: pure rules over one launch specification.

A rule looks at the specification (AWS's names, as the request's model has them) and at `Known`, which answers what
exists; it raises Refused with AWS's code. RULES is the list; the order is that in which EC2 was seen to complain where
that is documented, and otherwise cheap before dear.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from fleetctl.local.book import Refused

USER_DATA_LIMIT = 16_384   # bytes before base64: EC2 User Guide, "Run commands at launch"
ROOT_DEVICE = "/dev/xvda"
LEAST_MAX_PRICE = Decimal("0.001")   # $ per hour: model, SpotMarketOptions and FleetLaunchTemplateOverridesRequest
DEFAULT_TYPE = "m1.small"   # what EC2 launches where no type is named

Spec = Mapping[str, Any]


class Known(Protocol):
    """What exists in the region."""

    def image(self, id: str) -> bool: ...
    def type(self, name: str) -> bool: ...
    def subnet_zone(self, id: str) -> str | None: ...
    def group(self, id: str) -> bool: ...
    def group_name(self, name: str) -> bool: ...
    def key(self, name: str) -> bool: ...
    def profile(self, name: str | None, arn: str | None) -> bool: ...
    def zones(self) -> Sequence[str]: ...


def missing(parameter: str) -> Refused:
    """AWS's answer to a parameter that is not there."""
    return Refused("MissingParameter", f"The request must contain the parameter {parameter}")


def _image(spec: Spec, known: Known) -> None:
    if not spec.get("ImageId"):
        raise missing("ImageId")
    image = str(spec["ImageId"])
    if not re.fullmatch(r"ami-[0-9a-f]{8}(?:[0-9a-f]{9})?", image):
        raise Refused("InvalidAMIID.Malformed", f'Invalid id: "{image}" (expecting "ami-...")')
    if not known.image(image):
        raise Refused("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")


def _type(spec: Spec, known: Known) -> None:
    if "InstanceType" in spec and not known.type(str(spec["InstanceType"])):
        raise Refused("InvalidParameterValue", f"Invalid value '{spec['InstanceType']}' for InstanceType.")


def _interfaces(spec: Spec, known: Known) -> None:
    nics = spec.get("NetworkInterfaces") or []
    if not nics:
        return
    if spec.get("SubnetId"):
        raise Refused("InvalidParameterCombination",
                      "Network interfaces and an instance-level subnet ID may not be specified on the same request")
    if spec.get("SecurityGroupIds") or spec.get("SecurityGroups"):
        raise Refused("InvalidParameterCombination",
                      "Network interfaces and instance-level security groups may not be specified on the same request")
    seen: set[int] = set()
    for nic in nics:
        if nic.get("DeviceIndex") is None:
            raise Refused("InvalidParameterValue", "Each network interface requires a device index.")
        if nic["DeviceIndex"] in seen:
            raise Refused("InvalidParameterValue", "Each network interface requires a unique device index.")
        seen.add(nic["DeviceIndex"])
    if len(nics) > 1 and any("AssociatePublicIpAddress" in nic for nic in nics):
        raise Refused("InvalidParameterCombination",
                      "The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces.")


def _subnets(spec: Spec, known: Known) -> None:
    for subnet in subnets(spec):
        zone = known.subnet_zone(subnet)
        if zone is None:
            raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        wanted = (spec.get("Placement") or {}).get("AvailabilityZone")
        if wanted and wanted != zone:
            raise Refused("InvalidParameterValue", f"The availability zones of the placement ({wanted}) and the subnet ({zone}) differ.")


def _zone(spec: Spec, known: Known) -> None:
    wanted = (spec.get("Placement") or {}).get("AvailabilityZone")
    if wanted and wanted not in known.zones():
        raise Refused("InvalidParameterValue", f"Invalid availability zone: [{wanted}]")


def _groups(spec: Spec, known: Known) -> None:
    ids = [*(spec.get("SecurityGroupIds") or ()), *(g for nic in spec.get("NetworkInterfaces") or () for g in nic.get("Groups") or ())]
    for group in ids:
        if not known.group(str(group)):
            raise Refused("InvalidGroup.NotFound", f"The security group '{group}' does not exist")
    for name in spec.get("SecurityGroups") or ():
        if not known.group_name(str(name)):
            raise Refused("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC")


def _key(spec: Spec, known: Known) -> None:
    if spec.get("KeyName") and not known.key(str(spec["KeyName"])):
        raise Refused("InvalidKeyPair.NotFound", f"The key pair '{spec['KeyName']}' does not exist")


def _profile(spec: Spec, known: Known) -> None:
    profile = spec.get("IamInstanceProfile") or {}
    name, arn = profile.get("Name"), profile.get("Arn")
    if name and arn:
        raise Refused("InvalidParameterCombination",
                      "The parameter 'iamInstanceProfile.name' may not be used with 'iamInstanceProfile.arn'")
    if (name or arn) and not known.profile(name, arn):
        raise Refused("InvalidParameterValue", f"Value ({arn or name}) for parameter iamInstanceProfile.{'arn' if arn else 'name'} "
                                               f"is invalid. Invalid IAM Instance Profile {'ARN' if arn else 'name'}")


def _user_data(spec: Spec, known: Known) -> None:
    if len(user_data(spec)) > USER_DATA_LIMIT:
        raise Refused("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")


def _disks(spec: Spec, known: Known) -> None:
    for mapping in spec.get("BlockDeviceMappings") or ():
        if not mapping.get("DeviceName"):
            raise missing("deviceName")
        if "NoDevice" in mapping or "VirtualName" in mapping:
            continue
        disk = mapping.get("Ebs")
        if not disk:
            raise missing("ebs")
        if not disk.get("VolumeSize") and not disk.get("SnapshotId") and mapping["DeviceName"] != ROOT_DEVICE:
            raise missing("size or snapshotId")


RULES: tuple[Callable[[Spec, Known], None], ...] = (
    _image, _type, _interfaces, _zone, _subnets, _groups, _key, _profile, _disks, _user_data)


def check(spec: Spec, known: Known) -> None:
    """Raise Refused if EC2 would refuse to launch this specification."""
    for rule in RULES:
        rule(spec, known)


def subnets(spec: Spec) -> Iterator[str]:
    """The subnets that a specification names."""
    if spec.get("SubnetId"):
        yield str(spec["SubnetId"])
    for nic in spec.get("NetworkInterfaces") or ():
        if nic.get("SubnetId"):
            yield str(nic["SubnetId"])


def user_data(spec: Spec) -> bytes:
    """The user data of a specification, decoded; raises Refused if it is not base64."""
    try:
        return base64.b64decode(spec.get("UserData") or "", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None


def price(text: str | None) -> Decimal | None:
    """SpotPrice as a number; raises Refused if it is none, or not above zero."""
    if text is None:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise Refused("InvalidParameterValue", f"Invalid value '{text}' for spotPrice. It must be a number.") from None
    if not value.is_finite() or value <= 0:
        raise Refused("InvalidParameterValue", f"Invalid value '{text}' for spotPrice. It must be above zero.")
    return value


def max_price(text: str | None) -> Decimal | None:
    """MaxPrice of RunInstances and of fleets, which has a least value; raises Refused."""
    value = price(text)
    if value is not None and value < LEAST_MAX_PRICE:
        raise Refused("InvalidParameterValue", f"Invalid value '{text}' for maxPrice. It must be more than {LEAST_MAX_PRICE}.")
    return value


def market(spec: Spec, *, spot: bool) -> None:
    """Raise Refused for what EC2 refuses in a launch of RunInstances or of a fleet because it is for spot instances, or is not."""
    if spot and spec.get("InstanceInitiatedShutdownBehavior") == "stop":
        raise Refused("InvalidParameterCombination", "instance_initiated_shutdown_behavior=stop is not supported for spot instances")
    if spot and spec.get("DisableApiTermination"):
        raise Refused("InvalidParameterCombination", "Termination protection is not supported for spot instances")
    if not spot and any(tagged.get("ResourceType") == "spot-instances-request" for tagged in spec.get("TagSpecifications") or ()):
        raise Refused("InvalidParameterValue", "You cannot specify tags for Spot instances requests if there are no Spot instances "
                                               "requests being created by the request.")


def count(number: int) -> int:
    """InstanceCount of a spot request; raises Refused below 1."""
    if number < 1:
        raise Refused("InvalidParameterValue", f"Value ({number}) for parameter instanceCount is invalid. It must be 1 or more.")
    return number


def tags(specifications: Sequence[Mapping[str, Any]], allowed: Sequence[str]) -> dict[str, dict[str, str]]:
    """TagSpecifications as {resource type: {key: value}}; raises Refused for a type that this call can't tag, and for broken tags."""
    found: dict[str, dict[str, str]] = {}
    for specification in specifications:
        kind = specification.get("ResourceType")
        if not kind:
            raise Refused("InvalidParameterValue", "Tag specification resource type must have a value")
        if kind not in allowed:
            raise Refused("InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation.")
        if kind in found:
            raise Refused("InvalidParameterValue",
                          f"The same resource type may not be specified more than once in tag specifications: {kind}")
        if not specification.get("Tags"):
            raise Refused("InvalidParameterValue", "Tag specification must have at least one tag")
        found[kind] = _tags(specification["Tags"])
    return found


def _tags(given: Sequence[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tag in given:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not key:
            raise missing("Tag key")
        if key.lower().startswith("aws:"):
            raise Refused("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if len(key) > 127 or len(value) > 255:
            raise Refused("InvalidParameterValue", "Tag key exceeds 127 characters, or tag value exceeds 255 characters")
        if key in found:
            raise Refused("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        found[key] = value
    if len(found) > 50:
        raise Refused("TagLimitExceeded", "You have reached the maximum number of tags for this resource")
    return found
