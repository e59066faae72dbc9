"""What one machine of a launch costs: which price is its own, what belongs to it, and what it may cost at worst. Pure.

| the price of a machine | is |
|---|---|
| a spot machine whose pool's prices AWS has told | those, each for its time |
| … of another zone only, or while the type is not known | the dearest that was told |
| … of none | the cap, `price=`; without one the on-demand price, which is EC2's cap |
| an on-demand machine | the table's |
| anything else | not known: it is counted as such, not as nothing |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..events import Slot
from ..money.budget import Claim
from ..money.cost import Span
from ..money.prices import Steps, Tariff, table
from .order import Order

# EC2's reasons for an instance that ended during its launch and never ran (EC2 API reference, StateReason); it is not billed
NEVER_RAN = frozenset(
    {"Server.InternalError", "Server.InsufficientInstanceCapacity", "Client.InternalError", "Client.InvalidSnapshot.NotFound",
     "Client.VolumeLimitExceeded"}
)  # fmt: skip


def steps(slot: Slot, order: Order, tariff: Tariff) -> Steps:
    """A machine's own price over time; () where nobody knows it."""
    kinds = (slot.type,) if slot.type else order.types
    asked = [price for kind in kinds if (price := table().on_demand(kind)) is not None]
    if slot.on_demand:
        return ((0.0, max(asked)),) if asked else ()
    zone = slot.zone or (slot.report.zone if slot.report else "")
    if told := max((found for kind in kinds if (found := tariff.steps(kind, zone))), key=lambda one: one[-1][1], default=()):
        return told
    if order.cap is not None:
        return ((0.0, order.cap),)
    return ((0.0, max(asked)),) if asked else ()


def span(slot: Slot, order: Order, tariff: Tariff) -> Span | None:
    """A machine's time and prices; None while it has no instance, and for one that never ran."""
    if slot.launched is None or (slot.gone is not None and slot.report is None and slot.status in NEVER_RAN):
        return None
    public = bool(slot.report.public_ip) if slot.report is not None else order.public is not False
    volumes, address = table().volumes(order.volumes), table().address if public else 0.0
    return Span(slot.launched, slot.gone, steps(slot, order, tariff), volumes, address)


def described(row: Mapping[str, Any], tariff: Tariff) -> Span:
    """The time and prices of an instance that is known by its description only. Its volumes' sizes do not stand there."""
    kind, zone = row.get("InstanceType", ""), row.get("Placement", {}).get("AvailabilityZone", "")
    if row.get("InstanceLifecycle") == "spot" or "SpotInstanceRequestId" in row:
        found = tariff.steps(kind, zone)
    else:
        on_demand = table().on_demand(kind)
        found = ((0.0, on_demand),) if on_demand is not None else ()
    address = table().address if row.get("PublicIpAddress") else 0.0
    return Span(row["LaunchTime"].timestamp(), None, found, 0.0, address)


def worst(order: Order, region: str) -> float | None:
    """What an hour of one machine can cost at most, USD; None where that cannot be told.

    A spot machine never costs more than its cap, and without a cap not more than on demand; but no cap holds for CPU credits.
    """
    margin = table().margin(region)
    beside = margin * (table().volumes(order.volumes) + (table().address if order.public is not False else 0.0) + surplus(order))
    if order.cap is not None and not order.on_demand:
        return order.cap + beside
    known = [table().on_demand(kind) for kind in order.types]
    prices = [one for one in known if one is not None]
    return margin * max(prices) + beside if prices and len(prices) == len(known) else None


def surplus(order: Order) -> float:
    """USD that an hour of one machine can cost at most in CPU credits, by the table."""
    return max((table().credits(kind, order.credits) for kind in order.types), default=0.0)


class Bill:
    """What one launch costs, or may. `offers` are its order as each pool gets it; `tariff` is replaced as prices become known."""

    def __init__(self, offers: Sequence[Order], region: str) -> None:
        self.offers, self.tariff = tuple(offers), Tariff()
        rates = [worst(one, region) for one in offers]
        known = [one for one in rates if one is not None]
        self.worst = max(known) if len(known) == len(rates) else None  # whichever pool a machine comes from

    def __repr__(self) -> str:
        return f"<bill of {self.offers[0]!r} by {self.tariff!r}>"

    def price(self, slot: Slot) -> float | None:
        """A machine's own price now, USD an hour; None where nobody knows it."""
        found = steps(slot, self.offers[0], self.tariff)
        return found[-1][1] if found else None

    def span(self, slot: Slot) -> Span | None:
        """A machine's time and prices, its volumes and address among them; None for one that never ran."""
        return span(slot, self.offers[0], self.tariff)

    def spans(self, slots: Iterable[Slot]) -> list[Span]:
        """Those of all that ever ran."""
        return [found for slot in slots if (found := self.span(slot)) is not None]

    def claim(self, slots: Sequence[Slot], *, coming: bool, end: float) -> Claim:
        """What may still be spent until `end`. `coming`: as many machines as are wanted may be there then."""
        order, alive = self.offers[0], sum(slot.alive for slot in slots)
        machines = max(alive, order.wanted) if coming else alive
        busy = ", all processors busy beyond their share" if surplus(order) else ""
        return Claim(f"launch {order.uuid} ({order.wanted} × {order.type or 'machine'}{busy})", machines, self.worst, end)
