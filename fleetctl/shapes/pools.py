"""The capacity pools of a fleet request: the overrides of its launch template, every instance type in every subnet or zone.

An override is for one type (or the attributes of one, `InstanceRequirements`) in one place. The options that may name several of
something rewrite all overrides at once, so that each of the several stands with each of whatever else the overrides tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from ..lenses import Lens, describe, misfit, put
from .options import in_front, is_primary
from .rules import price_text
from .shape import Option, Request

__all__ = ["DATA", "pool_options"]

DATA = Lens("LaunchTemplateData")
_OVERRIDES = Lens("LaunchTemplateConfigs", 0, "Overrides")
_AXES = ("InstanceType", "SubnetId", "AvailabilityZone")   # what tells pools apart, in the order in which they are listed
_EITHER_OR = {"InstanceType": "InstanceRequirements", "InstanceRequirements": "InstanceType"}   # one override says one of the two
_RANGES = ("VCpuCount", "MemoryMiB")   # what InstanceRequirements must say (model)

Override = dict[str, Any]


def pool_options() -> dict[str, Option]:
    """The options that the overrides say. `itype`, `subnet` and `zone` take one of their kind or a list of different ones."""
    several = (str, list, tuple)
    return {
        "itype": _option("InstanceType", takes=several, join=_spread("InstanceType"), show=_named("InstanceType")),
        "subnet": _option("SubnetId", takes=several, join=_spread("SubnetId"), show=_named("SubnetId")),
        "zone": _option("AvailabilityZone", takes=several, join=_spread("AvailabilityZone"), show=_named("AvailabilityZone")),
        "vcpus": _option("InstanceRequirements", "VCpuCount", takes=(int, tuple), join=_require("VCpuCount", 1),
                         show=_range("VCpuCount", 1)),
        "memory": _option("InstanceRequirements", "MemoryMiB", takes=(int, float, tuple), join=_require("MemoryMiB", 1024),
                          show=_range("MemoryMiB", 1024)),
        "price": _option("MaxPrice", takes=(Decimal, int, float, str), join=_cap, show=_capped),
    }


def _option(*inner: str, takes: tuple[type, ...], join: Callable[[Any, Any], Any], show: Callable[[Any], Any]) -> Option:
    return Option(_OVERRIDES, takes, _pools_ready, join, show, inner)


def _pools_ready(request: Request) -> Request:
    """Ready for the overrides: there is one at least, and they say what else the template would say of type and place.

    As an override wins over the template, what is moved goes only where the override does not say it already.
    """
    request = in_front(request, Lens("LaunchTemplateConfigs"), lambda config: True)
    request = in_front(request, _OVERRIDES, lambda override: True)
    data, overrides = DATA.get(request, {}), list(_OVERRIDES.get(request))
    said = bool(data)
    if not isinstance(data, dict):
        raise misfit(f"expected dict, found {describe(data)}", path=DATA.keys, found=data)
    for key in ("InstanceType", "InstanceRequirements"):
        if key in data:
            overrides = [one if key in one or _EITHER_OR[key] in one else {**one, key: data[key]} for one in overrides]
            data = _without(data, key)
    if "SubnetId" in (primary := _primary(data)):
        overrides = [{"SubnetId": primary["SubnetId"], **one} for one in overrides]
        data = put(in_front(data, Lens("NetworkInterfaces"), is_primary), ["NetworkInterfaces", 0],
                   _without(primary, "SubnetId"))
    placement = data.get("Placement")
    if isinstance(placement, dict) and "AvailabilityZone" in placement:
        overrides = [{"AvailabilityZone": placement["AvailabilityZone"], **one} for one in overrides]
        data = {**data, "Placement": _without(placement, "AvailabilityZone")}
        data = data if data["Placement"] else _without(data, "Placement")
    changed: Request = _OVERRIDES.put(DATA.put(request, data) if said else request, overrides)
    return changed


def _primary(data: dict[str, Any]) -> dict[str, Any]:
    interfaces = data.get("NetworkInterfaces")
    if not isinstance(interfaces, list | tuple):
        return {}
    return next((one for one in interfaces if isinstance(one, dict) and is_primary(one)), {})


def _spread(key: str) -> Callable[[list[Override], Any], list[Override]]:
    """Every value of one axis with every combination of the rest."""
    def join(overrides: list[Override], given: Any) -> list[Override]:
        values = [given] if isinstance(given, str) else list(given)
        if not values or not all(isinstance(value, str) for value in values):
            raise ValueError("a text, or a list of them")
        if len(set(values)) < len(values):
            raise ValueError("each is named once")
        rests = _different(_without(override, key, _EITHER_OR.get(key)) for override in overrides)
        made = [{**rest, key: value} for value in values for rest in rests]
        pools = [[override.get(axis) for axis in (*_AXES, "InstanceRequirements")] for override in made]
        if len(_different(pools)) < len(pools):
            raise ValueError("the overrides differ in more than type and place; change this one in LaunchTemplateConfigs[0].Overrides")
        for axis in reversed(_AXES):
            order = _different(override.get(axis) for override in made)
            made.sort(key=lambda override, axis=axis, order=order: order.index(override.get(axis)))   # type: ignore[misc]
        return made
    return join


def _named(key: str) -> Callable[[list[Override]], Any]:
    """The values of one axis: one as it is, several as a list."""
    def show(overrides: list[Override]) -> Any:
        values = _different(override[key] for override in overrides if key in override)
        return None if not values else values[0] if len(values) == 1 else values
    return show


def _require(key: str, unit: int) -> Callable[[list[Override], Any], list[Override]]:
    """Attributes instead of types. A number means at least so much, a pair from so much to so much; 0 is no minimum to EC2."""
    def amount(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or (value * unit) % 1:
            raise ValueError(f"not a whole number{'' if unit == 1 else f' of 1/{unit}'}, 0 or more")
        return int(value * unit)

    def join(overrides: list[Override], given: Any) -> list[Override]:
        pair = given if isinstance(given, tuple) else (given,)
        if not 1 <= len(pair) <= 2 or pair[-1] == 0 or tuple(sorted(pair)) != pair:
            raise ValueError("a number above 0, or a pair (from, to)")
        wanted = dict(zip(("Min", "Max"), map(amount, pair), strict=False))
        made = []
        for override in overrides:
            before = {**{kind: {"Min": 0} for kind in _RANGES}, **override.get("InstanceRequirements", {})}
            made.append({**_without(override, "InstanceType"), "InstanceRequirements": {**before, key: wanted}})
        return _different(made)
    return join


def _range(key: str, unit: int) -> Callable[[list[Override]], Any]:
    def show(overrides: list[Override]) -> Any:
        needs: dict[str, Any] = next((one["InstanceRequirements"] for one in overrides if "InstanceRequirements" in one), {})
        low, high = needs.get(key, {}).get("Min", 0), needs.get(key, {}).get("Max")
        amounts = tuple(value // unit if value % unit == 0 else value / unit for value in (low, high) if value is not None)
        return amounts if len(amounts) == 2 else amounts[0] or None
    return show


def _cap(overrides: list[Override], price: Any) -> list[Override]:
    return [{**override, "MaxPrice": price_text(price)} for override in overrides]


def _capped(overrides: list[Override]) -> Any:
    """The highest cap; none where some pool has none."""
    return max(Decimal(one["MaxPrice"]) for one in overrides) if all("MaxPrice" in one for one in overrides) else None


def _without(override: Mapping[str, Any], *keys: str | None) -> Override:
    return {key: value for key, value in override.items() if key not in keys}


def _different(items: Iterable[Any]) -> list[Any]:
    """The items, each once, in the order in which they come first. They need not be hashable."""
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
