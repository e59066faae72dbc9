"""Functions over big values that the tests send to workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy
from grid_calls import note, wait_for
from grid_lab import lines

from gridworker import request, requests


def ones(n: int) -> Any:
    return numpy.ones(n)


def noted_ones(path: str, n: int) -> Any:
    note(path, "here")
    return numpy.ones(n)


def add(array: Any, x: float) -> Any:
    return array + x


def total(array: Any, x: float = 0.0) -> float:
    return float(array.sum()) + x


def identity(x: Any) -> Any:
    return x


def in_place(array: Any) -> float:
    """Changes its argument: arguments are a call's own."""
    array += 1
    return float(array.sum())


def texts(n: int) -> list[str]:
    return [str(number) for number in range(n)]


def dies_once(path: str, array: Any) -> float:
    """Kills its worker the first time."""
    note(path, "here")
    if len(lines(Path(path))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(array.sum())


def ones_when_told(path: str, n: int) -> Any:
    wait_for(path, n)
    return numpy.ones(n)


def total_when_told(path: str, array: Any) -> float:
    wait_for(path, 0)
    return float(array.sum())


def nested(n: int) -> Any:
    """Big values from call to call: up and down."""
    array = request(ones, n)
    array += 1                              # a result can be written
    return requests([(add, array, 1.0), (add, array, 2.0)])


async def aio_nested(n: int) -> Any:
    array = await request(ones, n)
    return await request(add, array, 1.0)


def frames(rows: int) -> Any:
    import pandas

    return pandas.DataFrame({"a": numpy.arange(rows), "b": numpy.arange(rows) / 2})
