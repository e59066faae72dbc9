"""What the things of a set-up cost while they are there, used or not. A table with its date; pure.

USD an hour in us-east-1, from AWS's pricing pages as they were quoted in public on the date below; other regions are up to a third
dearer. What is used up (data, requests, gigabytes) comes on top of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from .planning import Wanted

__all__ = ["AS_OF", "MONTH_HOURS", "monthly", "per_hour"]

AS_OF = "2026-06"
MONTH_HOURS = 730
HOURLY = {
    "nat": 0.045,
    "address": 0.005,  # a public IPv4 address, whether anything uses it or not
    "endpoint Interface": 0.01,  # in each zone
    "nat-instance": 8 * 0.08 / MONTH_HOURS,  # its volume, which it keeps while it is stopped
}
BESIDES = {
    "nat": "$0.045 a GB",
    "nat-instance": "$0.0092 an hour while sessions use it",  # the machine and its public address
    "endpoint Interface": "$0.01 a GB",
    "bucket": "$0.023 a GB and month",
    "report": "nothing but its place in the bucket",
    "alarm": "ten of an account free, then $0.10 a month",
    "stack": "nothing within Lambda's free tier, else about $0.02 a month",
}


def _row(thing: Wanted) -> str:
    return f"endpoint {thing.settings['type']}" if thing.kind == "endpoint" else thing.kind


def per_hour(thing: Wanted) -> float:
    """USD an hour of one thing.

    >>> per_hour(Wanted("endpoint", "sns", {"type": "Interface", "in": ("private-a",)})), per_hour(Wanted("vpc", "vpc"))
    (0.01, 0.0)
    """
    each = HOURLY.get(_row(thing), 0.0)
    return each * len(thing.settings["in"]) if thing.kind == "endpoint" else each


def besides(thing: Wanted) -> str:
    """What is paid by use, '' where nothing is."""
    return BESIDES.get(_row(thing), "")


def monthly(things: Iterable[Wanted]) -> float:
    """USD a month of all of them, left there and unused."""
    return sum(map(per_hour, things)) * MONTH_HOURS
