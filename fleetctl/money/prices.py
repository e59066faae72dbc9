"""What AWS asks for an hour: the spot prices that it tells, and a table of the others that ships with its date.

The table, `prices.json`, is a snapshot of AWS's price list for Linux in some regions that share their prices. Of a family whose sizes
cost in proportion it has the price of `large`; other types stand there one by one. What it lacks is not known, and nothing is guessed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import NamedTuple

SMALL = {"nano": 1 / 16, "micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1.0, "xlarge": 2.0}
MONTH_HOURS = 720.0  # of a GB-month: a month of 30 days, the dearer reading of AWS's examples
ELSEWHERE = 2.0  # no region asks so many times what those of the table do: a bound, for budgets only
DEFAULT_VOLUME = ("gp2", 8)  # type and GiB where the request does not say: what EC2 takes, and Amazon Linux's images need

Steps = tuple[tuple[float, float], ...]
"""A price over time: (since when, USD an hour), oldest first. The first holds for all time before it too."""


class Volume(NamedTuple):
    """A volume that a machine is launched with; `gib` as the request says, or as DEFAULT_VOLUME does."""

    type: str
    gib: int


@dataclass(frozen=True)
class Table:
    """The prices that ship. USD an hour, but `months`: USD a month and GB."""

    date: str
    regions: tuple[str, ...]
    families: Mapping[str, float]
    types: Mapping[str, float]
    months: Mapping[str, float]
    address: float
    surplus: Mapping[str, float] = field(default_factory=dict)  # burstable families: an hour of one processor beyond its share

    def __repr__(self) -> str:
        return f"<prices of {self.date} in {', '.join(self.regions)}: {len(self.families)} families, {len(self.types)} types>"

    def on_demand(self, type: str) -> float | None:
        """A machine's price on demand; None for a type that the table does not know.

        >>> table().on_demand("m5.2xlarge"), table().on_demand("x9.large")
        (0.384, None)
        """
        family, _, size = type.partition(".")
        if type in self.types:
            return self.types[type]
        times = SMALL.get(size) or (2.0 * int(size[:-6]) if size.endswith("xlarge") and size[:-6].isdigit() else None)
        large = self.families.get(family)
        return None if times is None or large is None else round(large * times, 5)

    def credits(self, type: str, said: str = "") -> float:
        """What an hour of a burstable machine can cost beside its price, with all processors busy beyond its share; 0.0 for others.

        `said`: "unlimited" or "standard"; without a word a t2 is standard, the others are unlimited, and then it is charged.

        >>> table().credits("t3.micro"), table().credits("t3.2xlarge"), table().credits("t2.micro"), table().credits("m5.large")
        (0.1, 0.4, 0.0, 0.0)
        """
        family, _, size = type.partition(".")
        if (said or ("standard" if family == "t2" else "unlimited")) != "unlimited":
            return 0.0
        return self.surplus.get(family, 0.0) * {"xlarge": 4, "2xlarge": 8}.get(size, 2)

    def volumes(self, volumes: Iterable[Volume]) -> float:
        """USD an hour of volumes; of a type that the table does not know, as the dearest."""
        dearest = max(self.months.values())
        return sum(self.months.get(one.type, dearest) * one.gib for one in volumes) / MONTH_HOURS

    def margin(self, region: str) -> float:
        """What a price of this table has to be multiplied with, to be a bound for that region."""
        return 1.0 if region in self.regions else ELSEWHERE


@functools.cache
def table() -> Table:
    """The table that ships."""
    told = json.loads(resources.files(__package__).joinpath("prices.json").read_text(encoding="utf-8"))
    return Table(told["date"], tuple(told["regions"]), told["large"], told["types"], told["GB-month"], told["public address"],
                 told["surplus vCPU-hour"])  # fmt: skip


@dataclass(frozen=True)
class Tariff:
    """The spot prices that AWS has told, by (type, zone). It never changes, so any thread may read it."""

    spot: Mapping[tuple[str, str], Steps] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<spot prices of {len(self.spot)} pools>"

    def __bool__(self) -> bool:
        return bool(self.spot)

    def joined(self, told: Mapping[tuple[str, str], Steps]) -> Tariff:
        """With later news of some pools."""
        return Tariff({**self.spot, **{pool: tuple(sorted({*self.spot.get(pool, ()), *steps})) for pool, steps in told.items()}})

    def steps(self, type: str, zone: str) -> Steps:
        """A pool's prices; where AWS has told none of it, those of the zone in which the type is dearest; () where nothing is known."""
        if (type, zone) in self.spot:
            return self.spot[type, zone]
        return max((steps for (kind, _), steps in self.spot.items() if kind == type), key=lambda steps: steps[-1][1], default=())
