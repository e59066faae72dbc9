"""The future of a request: it can be awaited in any asyncio loop, uvloop too, and blocked on by any thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

from .culprit import Stays
from .habits import OF_AN_ANSWER, Habits
from .messages import UNSIGNED
from .reading import Reading
from .signing import Seal
from .waits import Wait, values

T_co = TypeVar("T_co", covariant=True)


class Nothing:
    """Awaitable at once: what `Grid.close()` returns."""

    def __repr__(self) -> str:
        return "closed"

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Answer(Habits, Stays, Generic[T_co]):
    """What will be the value of a request, or values of requests. Await it in any asyncio loop, or block on `result()`."""

    __slots__ = ("_callbacks", "_lock", "_reading", "_seal", "_single", "_take_back", "wait")
    habits = OF_AN_ANSWER
    instead = "let its value travel, `answer.result()`; a function on the grid asks for itself, with `gridworker.request(f, x)`"

    def __init__(self, calls: list[str], single: bool, patient: bool, lock: threading.Lock,
                 take_back: Callable[[Wait, bool], bool] | None = None, seal: Seal = UNSIGNED, reading: Reading | None = None) -> None:
        self.wait = Wait(calls, patient, self._over)
        self._single, self._lock, self._take_back, self._seal, self._reading = single, lock, take_back, seal, reading
        self._callbacks: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        done = len(self.wait.outcomes)
        return f"<Answer {done} of {len(set(self.wait.calls))} here>"

    @property
    def calls(self) -> Sequence[str]:
        """The ids of the calls, in order."""
        return tuple(self.wait.calls)

    def done(self) -> bool:
        """Whether `result()` would not wait."""
        return self.wait.over

    def cancel(self, *, kill: bool = False) -> bool:
        """Takes the request back: `result()` raises CallCancelled from now on. False if it was over already.

        A call that nobody else asks for is cancelled with all it asked for: out of its queue; or, if it runs, at its next await, or where a
        plain function next waits for other calls. With `kill`, a worker that goes on computing it for another second or two is killed, and
        started again; other calls that it held are run elsewhere.
        """
        take_back = self._take_back
        return take_back is not None and take_back(self.wait, kill)

    def _over(self, wait: Wait) -> None:
        if wait.over:
            self._take_back = None              # an answer that is there does not hold its grid
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _when_over(self, callback: Callable[[], object], *, blocks: bool = False) -> None:
        """Calls back when it is over. `blocks`: the caller is a thread that stands still until then, and would have read for itself."""
        if self._reading is not None and not blocks:
            self._reading.need()
        with self._lock:
            if not self.wait.over:
                self._callbacks.append(callback)
                return
        callback()

    def result(self, timeout: float | None = None) -> T_co:
        """The value (values, in order), waiting for it. Raises CallFailed, TimeoutError after `timeout` seconds; the call goes on then."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.wait.over and self._reading is not None:
            self._reading.lead(self.wait, timeout)
        if not self.wait.over:
            gate = threading.Lock()
            gate.acquire()
            self._when_over(gate.release, blocks=True)
            if not gate.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
                missing = len(self.wait.missing)
                raise TimeoutError(f"{missing} of {len(self.wait.calls)} call(s) are not done after {timeout} s; they go on{self._why()}")
        outcome: T_co = values(self.wait, self._single, self._seal)
        return outcome

    def exception(self, timeout: float | None = None) -> Exception | None:
        """What `result()` raises, or None, waiting for it. Raises TimeoutError after `timeout` seconds; the call goes on then."""
        try:
            self.result(timeout)
        except Exception as error:
            if not self.done():
                raise
            return error
        return None

    def _why(self) -> str:
        return "" if self._reading is None else self._reading.why(self.wait)

    def __await__(self) -> Generator[Any, None, T_co]:
        if not self.wait.over:
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def arrived() -> None:
                if not future.done():
                    future.set_result(None)

            def wake() -> None:
                try:
                    loop.call_soon_threadsafe(arrived)
                except RuntimeError:        # that loop was closed: nobody waits there any more
                    return

            self._when_over(wake)
            yield from future.__await__()
        outcome: T_co = values(self.wait, self._single, self._seal)
        return outcome
