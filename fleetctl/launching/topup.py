"""Where to ask for machines, and for how many: pool after pool, round after round, until there are as many as are wanted. Pure.

A pool is one call's worth of places: one type in one subnet or zone, or all that a fleet chooses among. In a round each is asked once, for
what is missing by then, by a call with a token of its own. So no more are ever asked for than are wanted, and nothing is asked for twice.

Capacity comes and goes within minutes, so pools that had none, or too little, are asked again in a further round, after a pause that grows:
for as long as the launch has time. What minutes do not mend (a price, a quota, a type that a zone does not offer) is not asked again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import Kind, RequestInvalid
from ..reasons import CAPACITY, reason
from ..shapes import Request, apply, shape_of

__all__ = ["FALLBACKS", "Ask", "Plan", "Pool", "mends", "pause", "pools"]

FALLBACKS = ("on-demand",)
AXES = ("itype", "subnet", "zone")  # what tells capacity pools apart
ELSEWHERE = frozenset({Kind.CAPACITY, Kind.PRICE, Kind.QUOTA})  # another pool may have machines all the same
FIRST_GAP, LAST_GAP = 15.0, 120.0  # seconds between rounds
NOT_OFFERED = ("Unsupported", "UnsupportedOperation", "InvalidInstanceType")  # the type is not to be had in that zone


class Pool(NamedTuple):
    """A request for machines of one market."""

    request: Request
    on_demand: bool = False


class Ask(NamedTuple):
    """Ask pool number `pool` (from 0) for `number` machines; it is call number `part` (from 0) of its launch."""

    pool: int
    number: int
    part: int


@dataclass(slots=True)
class Plan:
    """How far the asking has come. `ask` tells what to ask next, `gave` and `refused` what came of it, `again` begins another round."""

    wanted: int
    pools: int
    given: int = 0
    asked: int = 0  # calls so far
    rounds: int = 1
    _left: list[int] = field(init=False)  # pools that are still to be asked in this round
    _open: list[int] = field(init=False, default_factory=list)  # those that have been, and may have more in some minutes
    _last: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        self._left = list(range(self.pools))

    def ask(self) -> Ask | None:
        """The next pool to be asked, and for how many; None when there are enough, or the round is over. It counts as asked now."""
        if self.given >= self.wanted or not self._left:
            return None
        self._last, self.asked = self._left.pop(0), self.asked + 1
        return Ask(self._last, self.wanted - self.given, self.asked - 1)

    def gave(self, number: int, *, mends: bool = True) -> None:
        """The pool that was asked last has given so many. `mends`: where they were too few, it may have more in some minutes."""
        self.given += number
        if mends:
            self._open.append(self._last)

    def refused(self, kind: Kind, code: str) -> None:
        """The pool that was asked last gave none. Where the reason holds for all pools, none is worth a call any more."""
        if mends(code):
            self._open.append(self._last)
        elif kind not in ELSEWHERE and code not in NOT_OFFERED:
            self._left, self._open = [], []

    def again(self) -> float | None:
        """Seconds until the round that begins now may be asked for; None where there is none, for want of a need or of a pool."""
        if self.given >= self.wanted or self._left or not self._open:
            return None
        gap = pause(self.rounds, len(self._open))
        self._left, self._open, self.rounds = self._open, [], self.rounds + 1
        return gap

    @property
    def owed(self) -> int:
        """How many machines may still be asked for."""
        return max(0, self.wanted - self.given) if self._left or self._open else 0


def mends(code: str) -> bool:
    """Whether a pool that was short of machines for this reason may have some in a few minutes."""
    return reason(code) is CAPACITY


def pause(rounds: int, calls: int) -> float:
    """Seconds between so many rounds and a further one of so many calls: at first 15, later 120, and never more than 4 calls a minute.

    >>> [pause(rounds, 1) for rounds in (1, 2, 3, 4, 5)], pause(1, 6)
    ([15.0, 30.0, 60.0, 120.0, 120.0], 90.0)
    """
    return max(min(FIRST_GAP * 2.0 ** min(rounds - 1, 10), LAST_GAP), FIRST_GAP * calls)


def pools(request: Request, aliases: Mapping[str, Any], fallback: str | None) -> tuple[Pool, ...]:
    """The pools that request and options name, in the order of asking: every type in the first place, then in the next, then on demand.

    A fleet is one pool, as EC2 chooses among its types and places itself. Raises RequestInvalid for options that do not fit.
    """
    shape = shape_of(request)
    if fallback is not None and fallback not in FALLBACKS:
        raise RequestInvalid(f'fallback is "on-demand" or nothing, not {fallback!r}', alias="fallback", found=fallback)
    if fallback and shape.waits:
        raise RequestInvalid(
            f"{shape.operation} has no on-demand machines to fall back on", alias="fallback", found=fallback,
            todo="write the request for RunInstances or CreateFleet: templates.spot() and templates.fleet() do",
        )  # fmt: skip
    one_only = [name for name in AXES if name in shape.options and list not in shape.options[name].takes and not shape.waits]
    several = {name: _different(name, aliases[name]) for name in one_only if isinstance(aliases.get(name), list | tuple)}
    if {"subnet", "zone"} <= several.keys():
        raise RequestInvalid("a subnet is in a zone: name several of one of them, not of both", alias="zone", found=several["zone"])
    rest = {name: value for name, value in aliases.items() if name not in several}
    places = [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]
    places.sort(key=lambda place: [several[name].index(place[name]) for name in ("subnet", "zone") if name in place])
    spot = [Pool(apply(request, **rest, **place)) for place in places]
    return (*spot, *(Pool(one.request, on_demand=True) for one in spot if fallback))


def _different(name: str, values: Sequence[Any]) -> list[Any]:
    found = list(dict.fromkeys(values)) if all(isinstance(one, str) for one in values) else []
    if not found or len(found) < len(values):
        raise RequestInvalid(f"{name} takes a text, or a list of different ones, not {values!r}", alias=name, found=values)
    return found
