"""The bodies of the calls: the same for every system that is measured."""

from __future__ import annotations

import os
import time
from typing import Any


def count() -> None:
    """Notes one execution where no grid is involved: a byte at the end of the file that $BENCH_COUNT names."""
    file = os.open(os.environ["BENCH_COUNT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"x")
    os.close(file)


def counted() -> int:
    """Executions noted so far."""
    try:
        return os.path.getsize(os.environ["BENCH_COUNT"])
    except FileNotFoundError:
        return 0


def inc(x: int) -> int:
    """W1, W2."""
    return x + 1


def addone(array: Any) -> Any:
    """W5: an array in and out."""
    return array + 1


def sleep50(number: int) -> int:
    """W7: 50 ms each, counted."""
    count()
    time.sleep(0.05)
    return number


def spin(seconds: float, number: int) -> int:
    """The picture: computes for so many seconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return number


def rest(seconds: float, number: int) -> int:
    """The picture: waits for so many seconds, so that more workers than processors can be seen."""
    time.sleep(seconds)
    return number


def tree_size(level: int) -> int:
    """Calls in a tree in which a call of level n makes n calls of level n - 1; also its value.

    >>> [tree_size(level) for level in (3, 4, 5)]
    [16, 65, 326]
    """
    return 1 + level * tree_size(level - 1) if level else 1


def fibonacci(n: int) -> int:
    """Locally.

    >>> fibonacci(25)
    75025
    """
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
