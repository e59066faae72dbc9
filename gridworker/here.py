"""Which grid this code is in: that of the innermost `with grid:` of this thread or task. So that a function needs no grid handed down."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from .errors import NotOnWorker

if TYPE_CHECKING:
    from .client import Grid

_entered: ContextVar[tuple[Grid, ...]] = ContextVar("gridworker_entered", default=())


def enter(grid: Grid) -> Grid:
    """This thread or task is within `with grid:` from now on. Returns the grid."""
    _entered.set((*_entered.get(), grid))
    return grid


def leave(grid: Grid) -> None:
    """It is no longer; whatever other grids have been entered and left meanwhile."""
    _entered.set(tuple(other for other in _entered.get() if other is not grid))


def current() -> Grid:
    """The grid of the innermost `with`. NotOnWorker if there is none."""
    if not (entered := _entered.get()):
        raise NotOnWorker("there is no grid here: use `f.on(grid)`, or enter one with `with Grid() as grid:` (each thread for itself)")
    return entered[-1]
