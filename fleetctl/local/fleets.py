"""CreateFleet of type `instant`: which pools it may use, in which order, how many from each, and what it says of the rest. Pure.

    pools(…)      templates × overrides → capacity pools with their finished launch specifications
    allocate(…)   pools, a target and a market → shares (pool, machines) and an error for each pool that could not give

The market decides over one pool at a time; nothing is launched here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from fleetctl.local import rules
from fleetctl.local.book import Refused
from fleetctl.local.supply import no_capacity
from fleetctl.local.templates import Templates, with_override

SPOT_STRATEGIES = ("lowest-price", "diversified", "capacity-optimized", "capacity-optimized-prioritized", "price-capacity-optimized")
ON_DEMAND_STRATEGIES = ("lowest-price", "prioritized")


@dataclass(frozen=True)
class Pool:
    """An instance type in a zone, and what is launched there. `shown` is its LaunchTemplateAndOverrides in answers."""

    spec: Mapping[str, Any]
    type: str
    zone: str
    shown: Mapping[str, Any]
    max_price: Decimal | None = None
    weight: float = 1.0
    priority: float = math.inf


@dataclass(frozen=True)
class Failure:
    """A pool that could not give what it was asked for: an entry of Errors."""

    pool: Pool
    lifecycle: str
    code: str
    message: str


@dataclass(frozen=True)
class Target:
    """What one lifecycle ("spot" or "on-demand") of a fleet is to have, in units of capacity."""

    lifecycle: str
    units: float
    strategy: str = "lowest-price"
    least: float = 0.0                      # MinTargetCapacity
    one_type: bool = False
    one_zone: bool = False
    most_per_hour: Decimal | None = None    # MaxTotalPrice


@dataclass
class Fleet:
    """One fleet as it was made. `shares` are (lifecycle, pool, instance ids)."""

    id: str
    given: Mapping[str, Any]
    created: datetime
    state: str = "active"
    shares: list[tuple[str, Pool, list[str]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def instances(self) -> list[str]:
        """The ids of everything that it launched."""
        return [id for _, _, ids in self.shares for id in ids]

    def units(self, lifecycle: str = "") -> float:
        """The capacity that it launched, of one lifecycle or of both."""
        return sum(pool.weight * len(ids) for kind, pool, ids in self.shares if lifecycle in ("", kind))


class Market(Protocol):
    """What a fleet asks of the market. Both raise Refused for a reason other than capacity."""

    def offer(self, pool: Pool, lifecycle: str) -> Decimal:
        """The price of a machine, $ per hour."""

    def take(self, pool: Pool, lifecycle: str, wanted: int, least: int) -> int:
        """Take up to `wanted` machines, or none if there are not `least`; how many were taken."""


def pools(configs: Sequence[Mapping[str, Any]], templates: Templates, zone_of: Callable[[Mapping[str, Any]], str]) -> Iterator[Pool]:
    """Every pool that a fleet's LaunchTemplateConfigs name. Raises Refused."""
    if not configs:
        raise rules.missing("LaunchTemplateConfigs")
    for config in configs:
        named = config.get("LaunchTemplateSpecification") or {}
        template = templates.named(named)
        if not named.get("Version"):
            raise rules.missing("LaunchTemplateSpecification.Version")
        data = template.data(named["Version"])
        specification = {"LaunchTemplateId": template.id, "Version": str(template.number(named["Version"]))}
        for override in config.get("Overrides") or [{}]:
            if override.get("InstanceRequirements"):
                raise Refused("UnsupportedOperation", "The local cloud does not choose instance types by InstanceRequirements.")
            if "," in str(override.get("SubnetId") or ""):
                raise Refused("InvalidParameterValue", "A fleet of type instant can have only one subnet ID in an override.")
            spec = with_override(data, override)
            if not spec.get("InstanceType"):
                raise rules.missing("InstanceType")
            yield Pool(spec, spec["InstanceType"], zone_of(spec),
                       {"LaunchTemplateSpecification": specification, "Overrides": {**override, "InstanceType": spec["InstanceType"]}},
                       rules.max_price(override.get("MaxPrice") or _max_price(data)), float(override.get("WeightedCapacity") or 1),
                       float(override["Priority"]) if override.get("Priority") is not None else math.inf)


def distinct(found: Sequence[Pool]) -> list[Pool]:
    """The pools, if no type in a zone is there twice, be it by other subnets; raises Refused otherwise."""
    places = [(pool.type, pool.zone) for pool in found if pool.zone]
    if len(set(places)) < len(places):
        raise Refused("InvalidFleetConfig", "The fleet configuration contains duplicate instance pools.")
    return list(found)


def targets(given: Mapping[str, Any]) -> list[Target]:
    """What a CreateFleet call wants of each lifecycle. Raises Refused."""
    capacity = given.get("TargetCapacitySpecification") or {}
    total = float(capacity.get("TotalTargetCapacity") or 0)
    wanted = {"spot": float(capacity.get("SpotTargetCapacity") or 0), "on-demand": float(capacity.get("OnDemandTargetCapacity") or 0)}
    default = capacity.get("DefaultTargetCapacityType") or "on-demand"
    if default not in wanted:
        raise Refused("UnsupportedOperation", f"The local cloud has no {default}.")
    if sum(wanted.values()) > total:
        raise Refused("InvalidParameterCombination", "The sum of Spot and On-Demand target capacity is more than the total.")
    wanted[default] += total - sum(wanted.values())
    found = []
    for lifecycle, key, strategies in (("on-demand", "OnDemandOptions", ON_DEMAND_STRATEGIES), ("spot", "SpotOptions", SPOT_STRATEGIES)):
        options = given.get(key) or {}
        strategy = options.get("AllocationStrategy") or "lowest-price"
        if strategy not in strategies:
            raise Refused("InvalidParameterValue", f"Invalid AllocationStrategy: {strategy}")
        target = Target(lifecycle, wanted[lifecycle], strategy, float(options.get("MinTargetCapacity") or 0),
                        bool(options.get("SingleInstanceType")), bool(options.get("SingleAvailabilityZone")),
                        rules.price(options.get("MaxTotalPrice")))
        if target.least and not (target.one_type or target.one_zone):
            raise Refused("InvalidParameterCombination",
                          "MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone.")
        if target.units > 0:
            found.append(target)
    return found


def allocate(found: Sequence[Pool], target: Target, market: Market) -> tuple[list[tuple[Pool, int]], list[Failure]]:
    """Shares of the pools, taken from the market, and the failures; no shares if MinTargetCapacity is not reached."""
    priced: list[tuple[Pool, Decimal]] = []
    failures: list[Failure] = []
    for pool in found:
        try:
            priced.append((pool, market.offer(pool, target.lifecycle)))
        except Refused as refused:
            failures.append(Failure(pool, target.lifecycle, refused.code, refused.message))
    priced.sort(key=lambda one: (one[0].priority if "prioritized" in target.strategy else 0, float(one[1]) / one[0].weight))
    for group in _groups([pool for pool, _ in priced], target):
        shares = _fill([one for one in priced if one[0] in group], target, market, failures)
        if shares or not (target.one_type or target.one_zone):
            return shares, failures
    return [], failures


def _groups(ordered: Sequence[Pool], target: Target) -> Iterator[list[Pool]]:
    """The pools that may be used together, best first."""
    def key(pool: Pool) -> tuple[str, str]:
        return pool.type if target.one_type else "", pool.zone if target.one_zone else ""
    for chosen in dict.fromkeys(map(key, ordered)):
        yield [pool for pool in ordered if key(pool) == chosen]


def _fill(priced: Sequence[tuple[Pool, Decimal]], target: Target, market: Market, failures: list[Failure]) -> list[tuple[Pool, int]]:
    """Take from one pool after the other until the target is reached; `diversified` first takes an equal part of each."""
    shares: dict[int, int] = {}
    left, money = target.units, target.most_per_hour
    rounds = [target.units / len(priced), math.inf] if target.strategy == "diversified" and len(priced) > 1 else [math.inf]
    empty: set[int] = set()
    for part in rounds:
        for index, (pool, price) in enumerate(priced):
            wanted = math.ceil(min(part, left) / pool.weight)
            if money is not None:
                wanted = min(wanted, int(money / price))
            if wanted <= 0 or index in empty:
                continue
            least = math.ceil(target.least / pool.weight) if len(priced) == 1 else 1
            reason: Refused | None = None
            try:
                got = market.take(pool, target.lifecycle, wanted, least)
                reason = no_capacity(pool.type, pool.zone) if got < wanted else None
            except Refused as refused:
                got, reason = 0, refused
            if reason is not None:
                empty.add(index)
                failures.append(Failure(pool, target.lifecycle, reason.code, reason.message))
            shares[index] = shares.get(index, 0) + got
            left -= got * pool.weight
            money = None if money is None else money - got * price
    if target.units - left < target.least:
        return []
    return [(priced[index][0], count) for index, count in shares.items() if count]


def _max_price(data: Mapping[str, Any]) -> str | None:
    price: str | None = ((data.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}).get("MaxPrice")
    return price
