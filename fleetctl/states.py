"""The states of launches and machines, and their transitions as tables. No decisions: those are in `lifecycle`.

A machine moves along MACHINE, a launch along LAUNCH. A pair that a table lacks is illegal. `gone` and `ended` are never left.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from .messages import Phase


class MachineState(StrEnum):
    """Where a machine is, as far as its reports and AWS's listings have said."""

    PENDING = "pending"  # asked for, no instance yet
    LAUNCHED = "launched"  # an instance is listed, it has not reported
    BOOTED = "booted"  # its boot script runs
    READY = "ready"  # its commands are up
    INTERRUPTED = "interrupted"  # AWS has said that it will take it back
    FAILED = "failed"  # a command ended with a non-zero exit
    GONE = "gone"  # seen terminated, or its request ended without an instance


class LaunchState(StrEnum):
    """Where a launch is. `up`, `failed` and `cancelled` are outcomes; `ended` is an outcome whose machines are all gone."""

    ASKING = "asking"
    WAITING = "waiting"
    UP = "up"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ENDED = "ended"


class Happening(StrEnum):
    """What can happen to a machine."""

    LISTED = "listed"
    BOOTED = "booted"
    READY = "ready"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


class Turn(StrEnum):
    """What can happen to a launch as a whole."""

    ASKED = "asked"  # AWS has accepted the request
    REFUSED = "refused"  # AWS has refused it, for good
    ENOUGH = "enough"  # all that can come has come, and it is at least the minimum
    SHORT = "short"  # the minimum cannot be reached any more, or the deadline came first
    CANCEL = "cancel"  # the user cancels, or tears down
    ENDED = "ended"  # everything is seen to be gone


def _machine_table() -> dict[MachineState, dict[Happening, MachineState]]:
    """Reports only ever move a machine forward in this order; the one way back to an earlier row does not exist."""
    M, H = MachineState, Happening
    target = {H.LISTED: M.LAUNCHED, H.BOOTED: M.BOOTED, H.READY: M.READY, H.INTERRUPTED: M.INTERRUPTED, H.FAILED: M.FAILED, H.ENDED: M.GONE}
    order = list(M)
    return {state: {event: max(state, to, key=order.index) for event, to in target.items()} for state in M}


MACHINE: Mapping[MachineState, Mapping[Happening, MachineState]] = _machine_table()

LAUNCH: Mapping[LaunchState, Mapping[Turn, LaunchState]] = {
    LaunchState.ASKING: {
        Turn.ASKED: LaunchState.WAITING,
        Turn.REFUSED: LaunchState.FAILED,
        Turn.SHORT: LaunchState.FAILED,
        Turn.CANCEL: LaunchState.CANCELLED,
    },
    LaunchState.WAITING: {
        Turn.ASKED: LaunchState.WAITING,  # of a further capacity pool
        Turn.ENOUGH: LaunchState.UP,
        Turn.SHORT: LaunchState.FAILED,
        Turn.CANCEL: LaunchState.CANCELLED,
    },
    LaunchState.UP: {Turn.ASKED: LaunchState.UP, Turn.CANCEL: LaunchState.UP, Turn.ENDED: LaunchState.ENDED},
    # the answer to the asking call may come after the launch has its outcome: what it names is then ended
    LaunchState.FAILED: {
        Turn.ASKED: LaunchState.FAILED,
        Turn.REFUSED: LaunchState.FAILED,
        Turn.CANCEL: LaunchState.FAILED,
        Turn.ENDED: LaunchState.ENDED,
    },
    LaunchState.CANCELLED: {
        Turn.ASKED: LaunchState.CANCELLED,
        Turn.REFUSED: LaunchState.CANCELLED,
        Turn.CANCEL: LaunchState.CANCELLED,
        Turn.ENDED: LaunchState.ENDED,
    },
    LaunchState.ENDED: {Turn.CANCEL: LaunchState.ENDED, Turn.ENDED: LaunchState.ENDED},
}

HAPPENING = {
    Phase.BOOTED: Happening.BOOTED,
    Phase.READY: Happening.READY,
    Phase.FAILED: Happening.FAILED,
    Phase.INTERRUPTED: Happening.INTERRUPTED,
}

GIVEN_UP = frozenset({LaunchState.FAILED, LaunchState.CANCELLED, LaunchState.ENDED})
SETTLED = GIVEN_UP | {LaunchState.UP}


class IllegalTransition(RuntimeError):
    """An event that the launch's state does not allow: an error of this program, never of AWS or of a machine. Nothing was changed."""


def diagram(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> str:
    """A transition table as a Mermaid state diagram; events that change nothing are left out."""
    lines = ["stateDiagram-v2"]
    for state, row in table.items():
        for event, to in row.items():
            if to is not state:
                lines.append(f"    {state} --> {to}: {event}")
    return "\n".join(lines)
