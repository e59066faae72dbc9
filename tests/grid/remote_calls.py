"""Remote functions that the tests send to workers by import path."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from gridworker import node_id, remote


@remote
def square(x: int) -> int:
    """The square of x."""
    return x * x


@remote
def add(x: int, y: int = 0) -> int:
    return x + y


@remote
def invert(x: float) -> float:
    return 1 / x


@remote(pool="other")
def elsewhere(x: int) -> str:
    return node_id()


@remote
def modules() -> set[str]:
    return set(sys.modules)


@remote
async def later_square(x: int) -> int:
    await asyncio.sleep(0)
    return x * x


@remote
def sum_of_squares(n: int) -> Any:
    """Uses map and submit inside of a function that runs on the grid."""
    one, two = square.submit(1), square.submit(2)
    return sum(square.map(range(n)).result()) - one.result() - two.result() + square.on()(1) + 4


@remote
async def later_sum(n: int) -> Any:
    three = square.submit(3)
    return sum(await later_square.map(range(n))) + await three + await later_square.on()(2)


@remote
def inverses(xs: list[float]) -> Any:
    return [str(value) for value in invert.map(xs, return_exceptions=True)]


class Counter:
    """A method may be a remote function too: called, it runs here."""

    def __init__(self, step: int) -> None:
        self.step = step

    @remote
    def next(self, x: int) -> int:
        return x + self.step
