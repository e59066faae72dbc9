"""What machines cost. Pure sums over prices that AWS gave; what is left out is named, never guessed.

AWS bills Linux instances by the second, 60 at least (EC2 user guide, "Instance purchasing options"; EC2 on-demand pricing page).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

LEFT_OUT = "volumes, public addresses, NAT, data transfer and requests"
MINIMUM_SECONDS = 60.0


def usage(seconds: float, per_hour: float) -> float:
    """USD for one machine that ran so long at that price. Never negative, never less than the minimum that is billed."""
    return max(seconds, MINIMUM_SECONDS) * per_hour / 3600


@dataclass(frozen=True, slots=True)
class Cost:
    """USD an hour of what is alive, USD so far of all that ever ran, and what these sums leave out."""

    per_hour: float
    so_far: float
    machines: int
    leaves_out: str = LEFT_OUT

    def __repr__(self) -> str:
        return f"<cost ${self.per_hour:.4f}/h for {self.machines} machines, ${self.so_far:.4f} so far; without {self.leaves_out}>"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def total(spans: Iterable[tuple[float, float | None, float]], now: float) -> Cost:
    """Sum over machines given as (began, ended or None, USD an hour); times are seconds since the epoch."""
    per_hour = so_far = 0.0
    machines = 0
    for began, ended, rate in spans:
        so_far += usage((now if ended is None else ended) - began, rate)
        if ended is None:
            per_hour += rate
            machines += 1
    return Cost(per_hour, so_far, machines)
