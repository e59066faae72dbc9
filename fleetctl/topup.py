"""Where to ask for machines, and for how many: pool after pool, until there are as many as are wanted. Pure.

A pool is one call's worth of places: one type in one subnet or zone, or all that a fleet chooses among. Each is asked once, for what is
missing by then, by a call with a token of its own. So no more are ever asked for than are wanted, and nothing is asked for twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import Kind, RequestInvalid
from .shapes import Request, apply, shape_of

__all__ = ["FALLBACKS", "Ask", "Plan", "Pool", "pools"]

FALLBACKS = ("on-demand",)
AXES = ("itype", "subnet", "zone")  # what tells capacity pools apart
ELSEWHERE = frozenset({Kind.CAPACITY, Kind.PRICE, Kind.QUOTA})  # another pool may have machines all the same
NOT_OFFERED = ("Unsupported", "UnsupportedOperation", "InvalidInstanceType")  # the type is not to be had in that zone


class Pool(NamedTuple):
    """A request for machines of one market."""

    request: Request
    on_demand: bool = False


class Ask(NamedTuple):
    """Ask pool number `pool` (from 0) for `number` machines."""

    pool: int
    number: int


@dataclass(slots=True)
class Plan:
    """How far the asking has come. `ask` tells what to ask next; `gave` and `refused` what came of it."""

    wanted: int
    pools: int
    given: int = 0
    asked: int = 0

    def ask(self) -> Ask | None:
        """The next pool to be asked, and for how many; None when there are enough, or all pools have been asked. It counts as asked now."""
        if self.given >= self.wanted or self.asked >= self.pools:
            return None
        self.asked += 1
        return Ask(self.asked - 1, self.wanted - self.given)

    def gave(self, number: int) -> None:
        """The pool that was asked last has given so many."""
        self.given += number

    def goes_on(self, kind: Kind, code: str) -> bool:
        """Whether the next pool is worth a call after a refusal of this kind, and there is one."""
        return self.asked < self.pools and (kind in ELSEWHERE or code in NOT_OFFERED)

    @property
    def owed(self) -> int:
        """How many machines may still be asked for."""
        return max(0, self.wanted - self.given) if self.asked < self.pools else 0


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
