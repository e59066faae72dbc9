"""What the local cloud's capacity pools have: prices, room and the account's quotas. Endless, unless a fault says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from fleetctl.local.book import Refused
from fleetctl.local.faults import Faults

# $ per hour, of the order of what us-east-1 asks; types that are not here are priced by their size.
PRICES = {"t2.micro": "0.0035", "t3.nano": "0.0016", "t3.micro": "0.0031", "t3.small": "0.0062", "t3.medium": "0.0125",
          "t3.large": "0.0250", "t3a.micro": "0.0028", "t4g.micro": "0.0025", "m3.medium": "0.0067", "m3.large": "0.0133",
          "m5.large": "0.0350", "m5.xlarge": "0.0700", "c5.large": "0.0340", "c5.xlarge": "0.0680", "r5.large": "0.0400"}
SIZES = {"nano": 1, "micro": 2, "small": 4, "medium": 8, "large": 16, "xlarge": 32}
STEP = Decimal("0.0022")   # $ per hour and step of SIZES, for types without a price of their own
ON_DEMAND = 3              # an on-demand machine costs so many times a spot one
ZONE_MARKUP = {"b": Decimal("1.04"), "c": Decimal("1.08")}   # zones differ, so that choosing the cheapest means something


def spot_price(type: str, zone: str) -> Decimal:
    """The spot price of a capacity pool, $ per hour; the same at all times, but for faults."""
    size = type.partition(".")[2]
    if type in PRICES:
        base = Decimal(PRICES[type])
    elif size.endswith("xlarge") and size[:-6].isdigit():
        base = STEP * SIZES["xlarge"] * int(size[:-6])
    else:
        base = STEP * SIZES.get(size, 32)
    return (base * ZONE_MARKUP.get(zone[-1:], Decimal(1))).quantize(Decimal("0.000001"))


class Supply:
    """The pools of one region. A market is "spot" or "on-demand".

    `vcpus(type)` is the size of a type, `used(market)` the vCPUs of the instances that live.
    """

    def __init__(self, faults: Faults, vcpus: Callable[[str], int], used: Callable[[str], int]) -> None:
        self._faults, self._vcpus, self._used = faults, vcpus, used

    def price(self, type: str, zone: str, market: str) -> Decimal:
        """$ per hour."""
        usual = spot_price(type, zone)
        if market != "spot":
            return usual * ON_DEMAND
        fault = self._faults.strikes("price", type=type, zone=zone)
        return usual if fault is None else Decimal(str(fault.settings["price"]))

    def affords(self, type: str, zone: str, price: Decimal | None) -> None:
        """Raises Refused if `price` is no cap that a spot instance can be had for; None is the on-demand price, which always is."""
        now = self.price(type, zone, "spot")
        if price is not None and price < now:
            raise Refused("SpotMaxPriceTooLow", f"Your Spot request price of {price} is lower than the minimum required Spot request "
                                                f"fulfillment price of {now}.")

    def room(self, type: str, zone: str, market: str, wanted: int, least: int) -> int:
        """How many of `wanted` machines the pool gives: they are taken from it, or none if they are fewer than `least`."""
        granted = self._faults.room(wanted, least, type=type, zone=zone, market=market)
        return granted if granted >= least else 0

    def limit(self, market: str) -> int | None:
        """The vCPUs that the account may have in a market; None: as many as it likes."""
        fault = self._faults.strikes("quota", market=market)
        return None if fault is None else int(fault.settings["vcpus"])

    def quota(self, type: str, market: str, count: int) -> None:
        """Raises Refused if so many more would be more than the account may have."""
        limit = self.limit(market)
        if limit is None or self._used(market) + self._vcpus(type) * count <= limit:
            return
        if market == "spot":
            raise Refused("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        raise Refused("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of "
                                           f"{limit} allows for the instance bucket that the specified instance type "
                                           "belongs to.")

    def __repr__(self) -> str:
        return f"<Supply {self._faults!r}>"


def no_capacity(type: str, zone: str) -> Refused:
    """EC2's answer where a pool has not enough machines."""
    return Refused("InsufficientInstanceCapacity", f"We currently do not have sufficient {type} capacity in the Availability Zone you "
                                                   f"requested ({zone}). Our system will be working on provisioning additional capacity.")
