"""What exists in a region, as the rules ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPES

from fleetctl.local import rules
from fleetctl.local.book import Refused


def vcpus(type: str) -> int:
    """The vCPUs of an instance type."""
    return int(INSTANCE_TYPES[type]["VCpuInfo"]["DefaultVCpus"])


class Existing:
    """What exists in a region, for the rules."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def image(self, id: str) -> bool:
        """Whether this image exists. Raises Refused for one that is not ready."""
        if id in self._backend.amis and self._backend.amis[id].state != "available":
            raise Refused("InvalidAMIID.Unavailable", f"The image id '[{id}]' is not available: it is {self._backend.amis[id].state}")
        return id in self._backend.amis

    def type(self, name: str) -> bool:
        """Whether this instance type exists."""
        return name in INSTANCE_TYPES

    def subnet_zone(self, id: str) -> str | None:
        """The zone of a subnet; None if there is no such subnet."""
        return next((str(subnets[id].availability_zone) for subnets in self._backend.subnets.values() if id in subnets), None)

    def group(self, id: str) -> bool:
        """Whether this security group exists."""
        return self._backend.get_security_group_from_id(id) is not None

    def group_name(self, name: str) -> bool:
        """Whether the default VPC has a security group of this name."""
        return self._backend.get_security_group_from_name(name, self._backend.default_vpc.id) is not None

    def key(self, name: str) -> bool:
        """Whether this key pair exists."""
        return name in self._backend.key_pairs

    def profile(self, name: str | None, arn: str | None) -> bool:
        """Whether this instance profile exists."""
        return self._backend.instance_profile(name, arn) is not None

    def zones(self) -> Sequence[str]:
        """The zones of the region that the local cloud uses."""
        return [zone.name for zone in self._backend.describe_availability_zones()]

    def zone_of(self, spec: Mapping[str, Any]) -> str:
        """The zone in which a specification would be launched: its subnet's ('' for an unknown one), its own, or the first."""
        for subnet in rules.subnets(spec):
            return self.subnet_zone(subnet) or ""
        return str((spec.get("Placement") or {}).get("AvailabilityZone") or self.zones()[0])
