"""Waiting without holding a thread: greenlets that stand still while their calls are computed elsewhere.

A plain function runs in a greenlet. When it asks for a call it parks: the greenlet is left standing and the worker goes on with other
calls. One greenlet, the runner, runs calls one after the other until one of them parks; then another takes over, one that rests or a new
one. So a call that never waits costs no greenlet of its own.
"""

from __future__ import annotations

import sys
from time import perf_counter

from greenlet import getcurrent, greenlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .trace import Trace


_NONE: dict[str, Any] = {}


class Running:
    """A call that is being run: its id, what is needed to describe it, and how many calls stand above it."""

    __slots__ = ("args", "begun", "call", "cancelled", "depth", "kwargs", "name", "token", "trace")

    def __init__(self, call: str, token: bytes, depth: int, begun: float) -> None:
        self.call, self.token, self.depth = call, token, depth      # token: of its function
        self.begun = begun                      # on this process's clock
        self.name = ""                          # this and its arguments: until they have been read
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = _NONE
        self.cancelled = False
        self.trace: Trace | None = None

    def __repr__(self) -> str:
        return f"<Running {self.describe()}>"

    def describe(self) -> str:
        """As one would write it: `divide(1, 0)`."""
        from .serialize import describe

        return describe(self.name, self.args, self.kwargs)


class Runner(greenlet):  # type: ignore[misc]  # greenlet ships no types
    """Runs calls one after the other; when one parks, the hub takes another runner.

    `spent` is the time in seconds that the present call has computed so far, without its waiting.
    """

    running: Running | None = None
    since = 0.0
    spent = 0.0

    def park(self) -> None:
        """Switches to the hub until somebody switches back. User code may be inside asyncio.run: its loop is put aside meanwhile."""
        self.spent += perf_counter() - self.since
        events = sys.modules.get("asyncio.events")
        loop = events._get_running_loop() if events is not None else None
        if loop is None or events is None:
            self.parent.switch()
            self.since = perf_counter()
            return
        events._set_running_loop(None)
        try:
            self.parent.switch()
        finally:
            self.since = perf_counter()
            events._set_running_loop(loop)


def current_runner() -> Runner | None:
    """The runner whose call is executing, or None outside of calls."""
    here = getcurrent()
    return here if isinstance(here, Runner) else None
