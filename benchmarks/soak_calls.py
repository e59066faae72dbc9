"""The calls of the soak: a tree of small computations, some with big values. Each notes in a file, outside the grid, that it was run."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from gridworker import request, requests

HEAVY = 2                   # calls of this level and above ask for one with big values, too


def ballast(number: str) -> bytes:
    """Something big, another for each call."""
    return random.Random(number).randbytes(80_000)


def value(number: str, level: int) -> int:
    """What `work` gives, computed here: to compare with."""
    carried = sum(ballast(f"{number}.b")) if level >= HEAVY else 0
    return carried + sum(number.encode()) + sum(value(f"{number}.{i}", level - 1) for i in range(level))


def work(path: str, number: str, level: int, ms: float) -> Any:
    """A call that computes for a moment, asks for `level` calls one level lower, and notes its end."""
    stop = time.perf_counter() + ms / 1000
    while time.perf_counter() < stop:
        pass
    below = sum(requests([(work, path, f"{number}.{i}", level - 1, ms) for i in range(level)]))
    if level >= HEAVY:
        below += sum(request(carry, path, f"{number}.b", ballast(f"{number}.b")))
    _note(path, number)
    return sum(number.encode()) + below


def carry(path: str, number: str, data: bytes) -> bytes:
    """A call whose argument and result are big."""
    _note(path, number)
    return data[::-1]


def _note(path: str, number: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{number}\n".encode())
    finally:
        os.close(handle)
