"""What a user's editor and mypy know of the public API: checked by test_typing.py with mypy, never run.

`assert_type` says what must be inferred; each `type: ignore` marks a mistake that must be found (an unused one is an error itself).
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import assert_type

from gridworker import Answer, Grid, Many, as_completed, remote


def divide(a: float, b: float = 1.0) -> float:
    return a / b


async def fetch(name: str) -> bytes:
    return name.encode()


@remote
def half(x: int) -> float:
    return x / 2


@remote(pool="big")
def third(x: int, *, exact: bool = False) -> float:
    return x / 3


@remote
async def look(name: str) -> bytes:
    return name.encode()


def requests_know_the_functions_signature(grid: Grid) -> None:
    assert_type(grid.request(divide, 1.0), Answer[float])
    assert_type(grid.request("pool", divide, 1.0, b=2.0), Answer[float])
    assert_type(grid.request(divide, 1.0).result(), float)
    assert_type(grid.request(fetch, "x"), Answer[bytes])
    assert_type(grid.request(fetch, "x", timeout=5), Answer[bytes])
    assert_type(grid.request("pool", divide, 1.0, timeout=5), Answer[float])
    assert_type(grid.request(divide, 1.0, timeout=None), Answer[float])
    assert_type(grid.request("pool", fetch, "x", timeout=0.5, durable=True).result(), bytes)
    grid.request(divide, "one")  # type: ignore[call-overload]
    grid.request("pool", divide, c=1)  # type: ignore[call-overload]


async def answers_are_awaited(grid: Grid) -> None:
    assert_type(await grid.request(divide, 1.0), float)
    assert_type(await look.on(grid)("x"), bytes)
    assert_type(await look.on(grid).submit("x"), bytes)
    assert_type(await half.on(grid).map([1, 2]), list[float])
    async for value in half.on(grid).map([1]):
        assert_type(value, float)
    async for number, seen in half.on(grid).map([1]).completed():
        assert_type(number, int)
        assert_type(seen, float)
    async for answer in as_completed([half.submit(1)]):
        assert_type(answer, Answer[float])


def remote_functions_keep_their_signature(grid: Grid) -> None:
    assert_type(half(1), float)
    assert_type(half.on(grid)(1), float)
    assert_type(third.on(grid, "pool")(1, exact=True), float)
    assert_type(half.on(grid).map([1, 2]), Many[float])
    assert_type(half.submit(1).result(), float)
    half("x")  # type: ignore[arg-type]
    half.on(grid)()  # type: ignore[call-arg]
    third.submit(1, precise=True)  # type: ignore[call-arg]


def executors_are_those_of_the_standard_library(grid: Grid) -> None:
    with grid.executor() as executor:
        assert_type(executor.submit(divide, 1.0), Future[float])
        assert_type(list(executor.map(divide, [1.0, 2.0])), list[float])


def grids_are_opened_by_with() -> None:
    with Grid() as grid:
        assert_type(grid, Grid)
    Grid(workers="many")  # type: ignore[arg-type]
