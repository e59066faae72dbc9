"""A free list of machines: states, and how many are to be asked for or let go. Pure; `standby` acts.

    configuring ──▶ free ──▶ taken ──▶ configuring (cleaned for the next)
                      any of them ──▶ leaving ──▶ gone

A machine is taken from before a home is brought to it until that is saved and away: what fails meanwhile leaves it taken, with the files.
What happened to each machine is noted in the session's ledger, so that the list can be gone on with by another process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..ledger import Entry

__all__ = ["NOTE", "STEPS", "Step", "Where", "missing", "note", "noted", "surplus"]

NOTE = "standby"  # the operation of such a line in the ledger


class Where(StrEnum):
    """Where a machine of the list is."""

    CONFIGURING = "configuring"
    FREE = "free"
    TAKEN = "taken"
    LEAVING = "leaving"
    GONE = "gone"


class Step(StrEnum):
    """What can happen to it."""

    CONFIGURED = "configured"
    TAKE = "take"
    RETURN = "return"
    RETIRE = "retire"
    LOSE = "lose"


STEPS: Mapping[Where, Mapping[Step, Where]] = {
    Where.CONFIGURING: {Step.CONFIGURED: Where.FREE, Step.RETIRE: Where.LEAVING, Step.LOSE: Where.GONE},
    Where.FREE: {Step.TAKE: Where.TAKEN, Step.RETIRE: Where.LEAVING, Step.LOSE: Where.GONE},
    Where.TAKEN: {Step.RETURN: Where.CONFIGURING, Step.RETIRE: Where.LEAVING, Step.LOSE: Where.GONE},
    Where.LEAVING: {Step.RETIRE: Where.LEAVING, Step.LOSE: Where.GONE},
    Where.GONE: {Step.RETIRE: Where.GONE, Step.LOSE: Where.GONE},
}


def missing(size: int, there: Iterable[Where], coming: int, most: int | None = None) -> int:
    """How many machines are to be asked for, so that `size` are free soon, and no more than `most` alive.

    >>> missing(3, [Where.FREE, Where.TAKEN], coming=1), missing(3, [Where.TAKEN] * 4, coming=0, most=5)
    (1, 1)
    """
    counts = Counter(there)
    wanted = size - counts[Where.FREE] - counts[Where.CONFIGURING] - coming
    room = wanted if most is None else most - coming - (counts.total() - counts[Where.GONE])
    return max(0, min(wanted, room))


def surplus(size: int, there: Iterable[Where]) -> int:
    """How many of the free machines are more than are wanted.

    >>> surplus(1, [Where.FREE, Where.FREE, Where.TAKEN])
    1
    """
    return max(0, Counter(there)[Where.FREE] - size)


def noted(entries: Iterable[Entry], name: str) -> tuple[set[str], dict[str, tuple[Where, str]]]:
    """What a ledger tells of the list of that name: its launches; where each instance was last, and whose home was brought to it."""
    launches: set[str] = set()
    machines: dict[str, tuple[Where, str]] = {}
    for entry in entries:
        if entry.operation == NOTE and entry.request["list"] == name:
            if "launch" in entry.request:
                launches.add(entry.request["launch"])
            else:
                machines[entry.request["instance"]] = Where(entry.request["where"]), entry.request.get("home", "")
    return launches, machines


def note(name: str, **what: Any) -> dict[str, Any]:
    """A line for the ledger."""
    return {"list": name, **what}
