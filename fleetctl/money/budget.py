"""A budget: what a session may cost at most, with what is alive and what is asked for reckoned at its worst. Pure.

The worst case of a launch is the dearest that its machines can be, each from now until its hard end, with volumes and addresses, and for
burstable types (t3, t4g …) with the CPU credits of processors that are busy all the time: AWS charges them unless asked not to. That
bound holds without anybody's help: machines end themselves, also when the computer that started them is gone. So a launch that is
let through cannot pass the budget, unless prices are other than the table says; what is really spent is watched all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import BudgetExceeded, RequestInvalid
from .cost import Cost, usage

LEAD_SECONDS = 120.0  # a teardown takes about a minute, and is noticed to be due within half of one


@dataclass(frozen=True, slots=True)
class Claim:
    """What a launch may still cost: so many machines at `rate` USD an hour, None where nobody knows it, until `end` (epoch seconds)."""

    title: str
    machines: int
    rate: float | None
    end: float

    def worst(self, now: float) -> float | None:
        """USD from now on, at most; None where that cannot be told."""
        if not self.machines:
            return 0.0
        return None if self.rate is None else self.machines * usage(self.end - now, self.rate)

    def words(self, now: float) -> str:
        """How the sum is made.

        >>> Claim("launch 1", 10, 0.05, 7200.0).words(0.0)
        'launch 1: 10 × $0.0500/h × 2.00 h = $1.0000'
        """
        worst = self.worst(now)
        if worst is None:
            return f"{self.title}: {self.machines} × a price that is not known"
        return f"{self.title}: {self.machines} × ${self.rate or 0.0:.4f}/h × {max(0.0, self.end - now) / 3600:.2f} h = ${worst:.4f}"


def checked(budget: float | None) -> float | None:
    """The budget, if it is one. Raises RequestInvalid."""
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < float("inf"):
        raise RequestInvalid(f"budget is an amount of US dollars above 0, or None, not {budget!r}", alias="budget", found=budget)
    return float(budget)


def admit(budget: float | None, spent: float, alive: Iterable[Claim], asked: Iterable[Claim], now: float) -> None:
    """Raise BudgetExceeded where what was spent, what is alive and what is asked for could come to more than the budget."""
    if budget is None:
        return
    alive, asked = [one for one in alive if one.machines], list(asked)
    unknown = [one for one in (*alive, *asked) if one.worst(now) is None]
    sums = [sum(one.worst(now) or 0.0 for one in claims) for claims in (alive, asked)]
    total = spent + sum(sums)
    if not unknown and total <= budget:
        return
    lines = [*(one.words(now) for one in asked), *(f"alive: {one.words(now)}" for one in alive)]
    shown = "; ".join([*lines, f"spent so far: ${spent:.4f}"])
    if unknown:
        what = f"what this may cost cannot be told, so it cannot be held to the budget of ${budget:.2f} ({shown})"
        todo = "name types that have a price here, or a highest spot price (price=…), or give the budget up: session.budget = None"
    else:
        what = f"this could come to ${total:.4f}, more than the budget of ${budget:.2f} ({shown})"
        todo = "ask for fewer machines, cheaper ones, fewer hours (hours=…), a lower highest price (price=…), or raise session.budget"
    raise BudgetExceeded(
        what, budget=budget, spent=spent, alive=sums[0], asked=sums[1], left=[one.title for one in alive], todo=todo
    )


def reached(cost: Cost) -> bool:
    """Whether it is time to end everything, so that the end still comes within the budget."""
    return cost.budget is not None and cost.machines > 0 and cost.so_far + usage(LEAD_SECONDS, cost.per_hour) >= cost.budget
