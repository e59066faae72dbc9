"""Calls that make calls, for gridworker: W3 and W4."""

from __future__ import annotations

from bench_calls import count

from gridworker import requests


def tree(level: int, tag: str) -> int:
    """W3: nothing is shared, since each call has a tag of its own."""
    if not level:
        return 1
    values: list[int] = requests([(tree, level - 1, f"{tag}.{number}") for number in range(level)])
    return 1 + sum(values)


def fib(n: int, tag: str) -> int:
    """W4: both calls at once, and equal calls run once."""
    count()
    if n < 2:
        return n
    values: list[int] = requests([(fib, n - 1, tag), (fib, n - 2, tag)])
    return sum(values)
