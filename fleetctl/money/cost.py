"""What machines cost: their own prices over time, their volumes, their public addresses. Pure sums; what is left out is named.

AWS bills Linux instances by the second, 60 at least (EC2 User Guide, "Instance purchasing options"; EC2 on-demand pricing page), and
volumes and addresses by the second too (EBS and VPC pricing pages).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .prices import Steps

LEFT_OUT = "data transfer, requests, provisioned IOPS, CPU credits, and what fleetctl did not start, such as NAT gateways"
MINIMUM_SECONDS = 60.0
PARTS = ("machines", "volumes", "public addresses")


def usage(seconds: float, per_hour: float) -> float:
    """USD for one machine that ran so long at that price. Never negative, never less than the minimum that is billed."""
    return max(seconds, MINIMUM_SECONDS) * per_hour / 3600


def paid(steps: Steps, began: float, ended: float) -> float:
    """USD from `began` to `ended`, 60 seconds at least, at a price that changes.

    >>> paid(((0.0, 3600.0), (1000.0, 7200.0)), 900.0, 1100.0)
    300.0
    """
    ended, total = max(ended, began + MINIMUM_SECONDS), 0.0
    for number, (since, price) in enumerate(steps):
        start = began if number == 0 else max(began, since)
        stop = steps[number + 1][0] if number + 1 < len(steps) else ended
        total += max(0.0, min(ended, stop) - start) * price / 3600
    return total


@dataclass(frozen=True, slots=True)
class Span:
    """One machine's time: from `began` until `ended` (None: it runs), at `steps`, () where its price is not known. Seconds since the epoch.

    `volumes` and `address` are USD an hour, for as long as it runs.
    """

    began: float
    ended: float | None
    steps: Steps
    volumes: float = 0.0
    address: float = 0.0

    @property
    def per_hour(self) -> float:
        """USD an hour at the last price, with all that belongs to the machine."""
        return (self.steps[-1][1] if self.steps else 0.0) + self.volumes + self.address

    def cost(self, now: float) -> float:
        """USD until now, or until its end."""
        end = now if self.ended is None else self.ended
        return paid(self.steps, self.began, end) + usage(end - self.began, self.volumes + self.address)


@dataclass(frozen=True, slots=True)
class Cost:
    """USD an hour of what is alive, USD so far of all that ever ran, and what these sums leave out.

    `parts` tells the dollars an hour by what they are for; `unpriced` counts living machines whose own price nobody knows; `budget` is the
    session's, if it has one.
    """

    per_hour: float
    so_far: float
    machines: int
    parts: Mapping[str, float] = field(default_factory=dict)
    unpriced: int = 0
    budget: float | None = None
    leaves_out: str = LEFT_OUT

    def __repr__(self) -> str:
        return f"<cost {self.words()}; without {self.leaves_out}>"

    def words(self) -> str:
        """The sums in words.

        >>> Cost(0.5, 0.25, 3, budget=5.0).words()
        '$0.5000/h for 3 machines with their volumes and addresses, $0.2500 so far of $5.00'
        """
        unknown = f", {self.unpriced} of them at a price that is not known" if self.unpriced else ""
        of = f" of ${self.budget:.2f}" if self.budget is not None else ""
        noun = "machine with its" if self.machines == 1 else "machines with their"
        return f"${self.per_hour:.4f}/h for {self.machines} {noun} volumes and addresses{unknown}, ${self.so_far:.4f} so far{of}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("per_hour", "so_far", "machines", "unpriced", "budget", "leaves_out")
        return {**{name: getattr(self, name) for name in names}, "parts": dict(self.parts)}


def total(spans: Iterable[Span], now: float, *, budget: float | None = None) -> Cost:
    """Sum over machines, those that have ended too."""
    parts = dict.fromkeys(PARTS, 0.0)
    so_far, machines, unpriced = 0.0, 0, 0
    for span in spans:
        so_far += span.cost(now)
        if span.ended is None:
            machines += 1
            unpriced += not span.steps
            for name, rate in zip(PARTS, (span.steps[-1][1] if span.steps else 0.0, span.volumes, span.address), strict=True):
                parts[name] += rate
    return Cost(sum(parts.values()), so_far, machines, parts, unpriced, budget)
