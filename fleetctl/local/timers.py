"""Things to do later, on one thread: spot requests that expire, messages that come late, machines that are interrupted."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Timers:
    """Runs callables at their time, one after the other; one that fails is logged and the next one runs.

    Also the way out of a lock: a thread that must not wait for the cloud's lock leaves its work here with `after(0, …)`.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
        self._thread.start()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` in `seconds` (0: as soon as possible, after what is already due)."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + max(0.0, seconds), next(self._order), do))
            self._changed.notify()

    def close(self) -> None:
        """Forget what has not come due; returns when the running callable has ended."""
        with self._changed:
            self._open = False
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not (self._heap and self._heap[0][0] <= time.monotonic()):
                    self._changed.wait(max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None)
                if not self._open:
                    return
                _, _, do = heapq.heappop(self._heap)
            try:
                do()
            except Exception:   # the thread must outlive any one timer
                log.exception("a timer failed: %r", do)

    def __repr__(self) -> str:
        return f"<Timers {len(self._heap)} waiting>"
