"""The calls of the soak: a tree of small computations, each of which notes in a file, outside the grid, that it was run."""

from __future__ import annotations

import os
import time
from typing import Any

from gridworker import requests


def value(number: str, level: int) -> int:
    """What `work` gives, computed here: to compare with."""
    return sum(number.encode()) + sum(value(f"{number}.{i}", level - 1) for i in range(level))


def work(path: str, number: str, level: int, ms: float) -> Any:
    """A call that computes for a moment, asks for `level` calls one level lower, and notes its end."""
    stop = time.perf_counter() + ms / 1000
    while time.perf_counter() < stop:
        pass
    below = sum(requests([(work, path, f"{number}.{i}", level - 1, ms) for i in range(level)]))
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{number}\n".encode())
    finally:
        os.close(handle)
    return sum(number.encode()) + below
