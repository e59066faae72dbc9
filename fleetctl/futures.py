"""Results that come from the session's background loop: awaited from any event loop, blocked on, or shared by several who ask.

Awaiting is shielded: when the waiter is cancelled (a timeout, an interrupted cell), the work goes on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import FleetError

T = TypeVar("T")


class Pending(Generic[T]):
    """A value to come. `await` it in any asyncio loop (uvloop too), or call `.result()` where there is none."""

    def __init__(self, future: concurrent.futures.Future[T], what: str) -> None:
        self._future, self._what = future, what

    def __repr__(self) -> str:
        broken = self.done() and (self._future.cancelled() or self._future.exception() is not None)
        return f"<{self._what}: {'failed' if broken else 'done' if self.done() else 'pending'}>"

    if not TYPE_CHECKING:  # a type checker is to go on refusing what is not there

        def __getattr__(self, name: str) -> Any:
            hint = "" if name.startswith("_") else f"; await it first, or call its .result(): {self!r}"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        await self._over()
        return self._outcome(None)

    def result(self, timeout: float | None = None) -> T:
        """Block for the value, `timeout` seconds at most. Raises TimeoutError (the work goes on), or what the work raised."""
        return self._outcome(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Block for the end and return what the work raised, or None. Raises TimeoutError."""
        if not concurrent.futures.wait([self._future], timeout).done:
            raise TimeoutError
        try:
            self._outcome(0)
        except BaseException as error:
            return error
        return None

    def stop(self) -> None:
        """Stop the work itself, wherever it is."""
        self._future.cancel()

    def done(self) -> bool:
        """True once there is a value or an error."""
        return self._future.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with the underlying concurrent future once it is done, in a thread of its own: it may take its time.

        On the session's loop, which ends the future, it would hold up every deadline, every report and the budget.
        """

        def call(future: concurrent.futures.Future[T]) -> None:
            threading.Thread(target=callback, args=(future,), name=f"callback of {self._what}", daemon=True).start()

        self._future.add_done_callback(call)

    def _over(self) -> asyncio.Future[None]:
        """A future of the running loop that is done when this is. Cancelling it is felt nowhere else; no task stands behind it."""
        here = asyncio.get_running_loop()
        over: asyncio.Future[None] = here.create_future()

        def wake() -> None:
            if not over.done():
                over.set_result(None)

        def tell(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # that loop has closed: nobody waits in it any more
                here.call_soon_threadsafe(wake)

        self._future.add_done_callback(tell)
        return over

    def _outcome(self, timeout: float | None) -> T:
        try:
            return self._future.result(timeout)
        except concurrent.futures.CancelledError:
            raise FleetError(f"{self._what} was stopped: its session has ended", todo="connect again") from None


def submit(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], what: str) -> Pending[T]:
    """Start a coroutine on the session's loop, at once. Raises FleetError when that loop has ended."""
    try:
        return Pending(asyncio.run_coroutine_threadsafe(work, loop), what)
    except RuntimeError:
        work.close()
        raise FleetError(f"{what}: its session has ended", todo="connect again") from None


class Shared(Generic[T]):
    """One attempt at making something, for all who ask meanwhile; what it made is kept, a failure is forgotten. On one loop.

    Whoever stops waiting stops nobody else, nor the attempt.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._attempt: asyncio.Task[T] | None = None

    def __repr__(self) -> str:
        return f"<shared: {'nothing' if self._attempt is None else 'made' if self._attempt.done() else 'being made'}>"

    @property
    def value(self) -> T | None:
        """What was made, None while there is nothing."""
        return _made(self._attempt)

    async def get(self) -> T:
        """What was made; makes it where nobody has yet. Raises what the making raised."""
        if self._attempt is None or (self._attempt.done() and self.value is None):
            self._attempt = asyncio.get_running_loop().create_task(self._make())
            self._attempt.add_done_callback(_heard)
        return await asyncio.shield(self._attempt)

    async def drop(self) -> T | None:
        """Forget it, and stop making it. Returns what was made."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done():
            attempt.cancel()
            await asyncio.wait([attempt])
        return _made(attempt)  # it may have been done just before the cancel reached it


def _made(attempt: asyncio.Task[T] | None) -> T | None:
    if attempt is None or not attempt.done() or attempt.cancelled() or attempt.exception() is not None:
        return None
    return attempt.result()


def _heard(attempt: asyncio.Task[Any]) -> None:
    """Take note of a failure, for all who asked may have stopped waiting."""
    if not attempt.cancelled():
        attempt.exception()
