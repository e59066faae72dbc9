"""Something under way that whoever waits for it can watch: a line in a terminal, a box in a notebook, nothing where nobody looks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from typing import Any, Generic, TypeVar

from . import display
from .futures import Pending

T = TypeVar("T")
CANCEL_SECONDS = 60.0  # what an interrupted `.result()` gives the cancelling before it lets go


class Watched(Pending[T], Generic[T]):
    """A value to come, with progress to show meanwhile.

    Who stops waiting leaves it running and is told so; Ctrl-C in `.result()` ends it. What is done within `patience` seconds shows nothing.
    """

    patience = 0.0
    again = "Await it again, or end it with .cancel() or teardown(…)"

    def progress(self) -> Any:
        """Where it is; its str is one line, `up`, `failed` and `wanted` are numbers."""
        raise NotImplementedError

    def _give_up(self) -> Pending[None] | None:
        """End it, because whoever waits for it was interrupted. None: it is not theirs to end."""
        raise NotImplementedError

    def result(self, timeout: float | None = None) -> T:
        """Block for the value. Raises TimeoutError after `timeout` seconds (it goes on). Ctrl-C ends what is under way."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
            concurrent.futures.wait([self._future], self.patience if timeout is None else min(self.patience, timeout))
            if self.done():
                return self._outcome(0)
            with display.progress(self) as tick:
                while not self.done():
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    concurrent.futures.wait([self._future], min((t for t in (left, tick.seconds) if t is not None), default=None))
                    tick.show()
            if not self.done():
                raise TimeoutError(f"{self!r} goes on; wait again, or end it with .cancel()")
            return self._outcome(0)
        except KeyboardInterrupt:
            if not self.done():
                said = repr(self)  # as it was before it ended
                if (end := self._give_up()) is not None:
                    display.say(f"interrupted: cancelling {said}")
                    end.result(CANCEL_SECONDS)
            raise

    async def _wait(self) -> T:
        """Wait with progress where somebody looks. The ticks run on the waiter's own loop, so a busy cell only delays what is shown."""
        over = self._over()
        try:
            await asyncio.wait([over], timeout=self.patience)
            if self.done():
                return self._outcome(None)
            with display.progress(self) as tick:
                while not self.done():
                    await asyncio.wait([over], timeout=tick.seconds)
                    tick.show()
        except asyncio.CancelledError:
            if not self.done():
                display.say(f"no longer waiting; {self!r} goes on. {self.again}")
            raise
        return self._outcome(None)
