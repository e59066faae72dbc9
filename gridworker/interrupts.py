"""Ctrl-C in the midst of reading or asking: it waits until what has begun is done, so that no answer that was taken is lost.

Whoever waits for an answer reads the sockets himself, in IPython and in scripts the main thread, where Python runs signal handlers between
any two steps: also between taking a message and giving it to whom it belongs. While he sleeps in `poll` Ctrl-C is heard at once.
"""

from __future__ import annotations

import threading
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]     # the module around them takes longer, for enums
from types import FrameType, TracebackType
from typing import Any


class Held:
    """Within it Ctrl-C is held back, but for `open()` to `shut()`. A second one is not. Does nothing in other threads than the main one."""

    __slots__ = ("_before", "_frame", "_noted", "_open")

    def __init__(self) -> None:
        self._before: Any = None
        self._frame: FrameType | None = None
        self._noted = self._open = False

    def __repr__(self) -> str:
        return f"<Held{' Ctrl-C' if self._noted else ''}>"

    def __enter__(self) -> Held:
        if threading.get_ident() == threading.main_thread().ident and callable(before := getsignal(SIGINT)):
            try:
                signal(SIGINT, self._note)
            except ValueError:                          # a subinterpreter: no handlers run in it
                return self
            self._before = before
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._before is not None:
            signal(SIGINT, self._before)
            self._deliver()

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self._noted, self._frame = self._noted, True, frame
        if (self._open or again) and self._before is not None:
            self._deliver()

    def _deliver(self) -> None:
        """What has been held is heard now, by the handler that would have heard it."""
        if self._noted:
            self._noted, frame, self._frame = False, self._frame, None
            self._before(SIGINT, frame)

    def open(self) -> None:
        """From now on it is heard at once; what came before, too."""
        self._open = True
        if self._noted:
            self._deliver()

    def shut(self) -> None:
        """It is held back again."""
        self._open = False
