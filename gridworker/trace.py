"""What a worker writes down of a call that is traced: when it began and ended, what it computed, which calls it made and when.

A call is traced if its request was, or if the call that made it is. On its way that is a `T` in front of its function token, so that
nothing is paid for calls that are not. What is written down is text, kept as long as a result.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .parking import Running

MARK = 84               # 'T'


def marked(token: str) -> str:
    """The function token of a traced call.

    >>> marked("0a1b2c3d")
    'Ta1b2c3d'
    """
    return "T" + token[1:]


class Trace:
    """The record of a running call. Times are seconds since 1970 on the clock of the node."""

    __slots__ = ("begun", "calls")

    def __init__(self) -> None:
        self.begun = time.time()
        self.calls: list[tuple[str, float]] = []

    def __repr__(self) -> str:
        return f"<Trace {len(self.calls)} calls>"

    def made(self, calls: list[str]) -> None:
        """The call makes others, now."""
        now = time.time()
        self.calls += [(call, now) for call in calls]

    def record(self, running: Running, node: str, computed: float, error: str) -> str:
        """The whole record, as JSON. `computed`: seconds without waiting."""
        import json

        return json.dumps({"name": running.describe(), "node": node, "begun": self.begun, "ended": time.time(), "computed": computed,
                           "calls": self.calls, "error": error})
