"""What the answers of the launch calls say: which spot requests and instances there are now, and where a fleet got none.

| call | requests | instances | type, zone |
|---|---|---|---|
| RequestSpotInstances | `SpotInstanceRequests[].SpotInstanceRequestId` | none yet | `LaunchSpecification` of each |
| RunInstances | `Instances[].SpotInstanceRequestId`, none on demand | `Instances[].InstanceId` | of each |
| CreateFleet, instant | in DescribeInstances only | `Instances[].InstanceIds[]` | of each entry, or of its `Overrides` |

RunInstances says nothing of what it did not launch between MinCount and MaxCount, and fails as a whole when there is nothing to give. A
fleet names an error for each pool that gave none, and succeeds with no instance at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Launched", "Shortfall", "launched", "shortfalls"]


class Launched(NamedTuple):
    """One machine to be: its spot request, its instance, or both, as far as the answer names them."""

    request: str | None
    instance: str | None
    type: str
    zone: str


class Shortfall(NamedTuple):
    """A capacity pool that gave none, or not enough: EC2's code and message, the type, and the subnet or zone ("" where EC2 chose)."""

    code: str
    message: str
    type: str
    place: str


def launched(answer: Mapping[str, Any]) -> tuple[Launched, ...]:
    """The machines in the answer of a launch call, told by its keys. A key that is missing is an empty list, as EC2 leaves out those.

    >>> launched({"ReservationId": "r-1", "Instances": [{"InstanceId": "i-1", "InstanceType": "t3.micro", "SpotInstanceRequestId": "sir-1",
    ...                                                 "Placement": {"AvailabilityZone": "eu-west-1a"}}]})
    (Launched(request='sir-1', instance='i-1', type='t3.micro', zone='eu-west-1a'),)
    """
    rows = _of_requests if "SpotInstanceRequests" in answer else _of_fleet if "FleetId" in answer else _of_instances
    return tuple(rows(answer))


def shortfalls(answer: Mapping[str, Any]) -> tuple[Shortfall, ...]:
    """Where a fleet got nothing, in EC2's order; empty for the other calls."""
    found = []
    for error in answer.get("Errors", ()) if "FleetId" in answer else ():
        said = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
        place = said.get("SubnetId") or said.get("AvailabilityZone", "")
        found.append(Shortfall(error.get("ErrorCode", ""), error.get("ErrorMessage", ""), said.get("InstanceType", ""), place))
    return tuple(found)


def _of_requests(answer: Mapping[str, Any]) -> Iterator[Launched]:
    for one in answer["SpotInstanceRequests"]:
        launch = one.get("LaunchSpecification", {})
        zone = one.get("LaunchedAvailabilityZone") or launch.get("Placement", {}).get("AvailabilityZone", "")
        yield Launched(one["SpotInstanceRequestId"], one.get("InstanceId"), launch.get("InstanceType", ""), zone)


def _of_instances(answer: Mapping[str, Any]) -> Iterator[Launched]:
    for one in answer.get("Instances", ()):
        zone = one.get("Placement", {}).get("AvailabilityZone", "")
        yield Launched(one.get("SpotInstanceRequestId"), one["InstanceId"], one.get("InstanceType", ""), zone)


def _of_fleet(answer: Mapping[str, Any]) -> Iterator[Launched]:
    for entry in answer.get("Instances", ()):
        said = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
        kind = entry.get("InstanceType") or said.get("InstanceType", "")
        zone = entry.get("AvailabilityZone") or said.get("AvailabilityZone", "")
        yield from (Launched(None, instance, kind, zone) for instance in entry.get("InstanceIds", ()))
