"""What EC2 refuses in a fleet request of type `instant` although botocore's models let it through, and what would break the count: pure.

The request is CreateFleet's, with the data of its launch template inline (see `shapes.fleet`). Where no other source is named, a rule is
of the API reference of CreateFleet and its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .rules import Fault, Path, call_faults, dicts, launch_faults, price_faults, protection_faults

__all__ = ["fleet_faults", "template_faults"]

_CONFIGS = "LaunchTemplateConfigs"
_NOT_INSTANT = {   # key → why it has no place in a request that is placed once and at once
    "ExcessCapacityTerminationPolicy": "only for fleets of type maintain; these are instant",
    "ReplaceUnhealthyInstances": "only for fleets of type maintain; these are instant",
    "TerminateInstancesWithExpiration": "an instant fleet does not expire",
    "ValidFrom": "an instant fleet is tried at once",
    "ValidUntil": "an instant fleet is tried once, at once",
}


def template_faults(request: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong in the launch template's data."""
    data, at = request.get("LaunchTemplateData"), ("LaunchTemplateData",)
    if data is None:
        yield Fault(at, "required, but nothing is there; it says what the machines are, as CreateLaunchTemplate takes it")
    if not isinstance(data, dict):
        return
    overrides = [override for _, override in _overrides(request)]
    named = bool(overrides) and all(override.get("ImageId") for override in overrides)
    yield from launch_faults(data, at, required=() if named else ("ImageId",))
    yield from protection_faults(data, at)
    yield from _type_faults(data, at)
    if "InstanceMarketOptions" in data:
        yield Fault((*at, "InstanceMarketOptions"), "the fleet says what it buys (TargetCapacitySpecification, SpotOptions, MaxPrice of "
                    "an override), not its template", data["InstanceMarketOptions"])


def fleet_faults(request: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong beside the template's data."""
    yield from call_faults(request)
    for key, why in _NOT_INSTANT.items():
        if key in request:
            yield Fault((key,), why, request[key])
    yield from _config_faults(request)
    yield from _pool_faults(request)
    yield from _spot_option_faults(request.get("SpotOptions"))
    yield from _capacity_faults(request.get("TargetCapacitySpecification"))


def _config_faults(request: dict[str, Any]) -> Iterator[Fault]:
    for index, config in dicts(request.get(_CONFIGS)):
        if index == 1:
            yield Fault((_CONFIGS, 1), "one launch template, so one entry; its Overrides name types and places", config)
        if "LaunchTemplateSpecification" in config:
            yield Fault((_CONFIGS, index, "LaunchTemplateSpecification"), "LaunchTemplateData is in its place: the template is made of it "
                        "for this launch alone", config["LaunchTemplateSpecification"])


def _pool_faults(request: dict[str, Any]) -> Iterator[Fault]:
    """FleetLaunchTemplateOverridesRequest; for the pools "EC2 Fleet limitations" (User Guide) and EC2's error "The fleet configuration
    contains duplicate instance pools"."""
    data = request.get("LaunchTemplateData")
    data = data if isinstance(data, dict) else {}
    typed = bool({"InstanceType", "InstanceRequirements"} & data.keys())
    overrides = list(_overrides(request))
    if not overrides and not typed:
        yield Fault((_CONFIGS, 0, "Overrides", 0, "InstanceType"), "required (or InstanceRequirements), but nothing is there")
    pools: set[tuple[str, str]] = set()
    zones: dict[str, str] = {}
    subnets: dict[str, str] = {}
    for at, override in overrides:
        if not typed and not {"InstanceType", "InstanceRequirements"} & override.keys():
            yield Fault((*at, "InstanceType"), "required (or InstanceRequirements), but nothing is there")
        yield from _type_faults(override, at)
        yield from _place_faults(override, at, data)
        yield from price_faults(override, "MaxPrice", at, least=True)
        if override.get("WeightedCapacity", 1) != 1:
            yield Fault((*at, "WeightedCapacity"), "machines are counted, so each weighs 1", override["WeightedCapacity"])
        place = next((override[key] for key in ("AvailabilityZone", "AvailabilityZoneId", "SubnetId") if key in override), None)
        pool = (repr(override.get("InstanceType", override.get("InstanceRequirements"))), repr(place))
        if pool in pools:
            yield Fault(at, "a duplicate capacity pool: another override is for this type in this zone", override)
        pools.add(pool)
        if "SubnetId" in override and "AvailabilityZone" in override:
            subnet, zone = repr(override["SubnetId"]), repr(override["AvailabilityZone"])
            if (known := zones.setdefault(subnet, zone)) != zone:
                yield Fault((*at, "AvailabilityZone"), f"a subnet lies in one zone, and another override has this one in {known}",
                            override["AvailabilityZone"])
            elif (known := subnets.setdefault(zone, subnet)) != subnet:
                yield Fault((*at, "SubnetId"), f"a fleet cannot span two subnets of one zone, and another override has {known}",
                            override["SubnetId"])


def _type_faults(launch: dict[str, Any], at: Path) -> Iterator[Fault]:
    """InstanceType and InstanceRequirementsRequest."""
    needs = launch.get("InstanceRequirements")
    if "InstanceType" in launch and "InstanceRequirements" in launch:
        yield Fault((*at, "InstanceRequirements"), "not allowed beside InstanceType", needs)
    if not isinstance(needs, dict):
        return
    at = (*at, "InstanceRequirements")
    for one, other in (("AllowedInstanceTypes", "ExcludedInstanceTypes"),
                       ("SpotMaxPricePercentageOverLowestPrice", "MaxSpotPriceAsPercentageOfOptimalOnDemandPrice")):
        if one in needs and other in needs:
            yield Fault((*at, other), f"not allowed beside {one}", needs[other])
    for key, limits in needs.items():
        low, high = (limits.get("Min"), limits.get("Max")) if isinstance(limits, dict) else (None, None)
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield Fault((*at, key), f"from {low} to {high} there is nothing", limits)


def _place_faults(override: dict[str, Any], at: Path, data: dict[str, Any]) -> Iterator[Fault]:
    subnet = override.get("SubnetId")
    if isinstance(subnet, str) and "," in subnet:
        yield Fault((*at, "SubnetId"), "one subnet an override, in a fleet of type instant", subnet)
    if {"AvailabilityZone", "AvailabilityZoneId"} <= override.keys():
        yield Fault((*at, "AvailabilityZoneId"), "not allowed beside AvailabilityZone", override["AvailabilityZoneId"])
    if subnet is not None and any("SubnetId" in interface for _, interface in dicts(data.get("NetworkInterfaces"))):
        yield Fault((*at, "SubnetId"), "the template's interface names a subnet too; name subnets in one of the two places", subnet)


def _spot_option_faults(options: Any) -> Iterator[Fault]:
    """SpotOptionsRequest; for the behaviour "Interruption behavior" (User Guide: stop and hibernate need a fleet of type maintain)."""
    if not isinstance(options, dict):
        return
    at = ("SpotOptions",)
    behaviour = options.get("InstanceInterruptionBehavior")
    if behaviour in ("stop", "hibernate"):
        yield Fault((*at, "InstanceInterruptionBehavior"), "an instant fleet terminates what is interrupted", behaviour)
    if "MinTargetCapacity" in options:
        yield Fault((*at, "MinTargetCapacity"), "the launch keeps its minimum itself; EC2 takes this for one type or one zone only",
                    options["MinTargetCapacity"])
    if "MaintenanceStrategies" in options:
        yield Fault((*at, "MaintenanceStrategies"), "only for fleets of type maintain; these are instant", options["MaintenanceStrategies"])
    if "InstancePoolsToUseCount" in options and options.get("AllocationStrategy") != "lowest-price":
        yield Fault((*at, "InstancePoolsToUseCount"), "only with the AllocationStrategy lowest-price", options["InstancePoolsToUseCount"])
    yield from price_faults(options, "MaxTotalPrice", at)


def _capacity_faults(capacity: Any) -> Iterator[Fault]:
    """A launch counts machines of one market: units other than machines, or a mix of markets, would make n mean something else."""
    if not isinstance(capacity, dict):
        return
    at, total = ("TargetCapacitySpecification",), capacity.get("TotalTargetCapacity")
    if isinstance(total, int) and not isinstance(total, bool) and total < 1:
        yield Fault((*at, "TotalTargetCapacity"), "at least 1", total)
    if capacity.get("TargetCapacityUnitType", "units") != "units":
        yield Fault((*at, "TargetCapacityUnitType"), "machines are counted, so the unit is a machine", capacity["TargetCapacityUnitType"])
    for key in ("SpotTargetCapacity", "OnDemandTargetCapacity"):
        if key in capacity:
            yield Fault((*at, key), "n is said by TotalTargetCapacity, and all of it is of one market", capacity[key])


def _overrides(request: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The well-formed overrides, with their paths."""
    for index, config in dicts(request.get(_CONFIGS)):
        for number, override in dicts(config.get("Overrides")):
            yield (_CONFIGS, index, "Overrides", number), override
