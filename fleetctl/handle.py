"""What `bring_up_spots` returns: a future that can be awaited, iterated, blocked on, looked at, and cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from . import display
from .cost import Cost, total
from .futures import Pending
from .launch import Conductor
from .lifecycle import LaunchState, MachineState
from .machines import Machine, Machines

if TYPE_CHECKING:
    from .session import Session

T = TypeVar("T")
CANCEL_SECONDS = 60.0  # what an interrupted `.result()` gives the cancelling before it lets go


@dataclass(frozen=True, slots=True)
class Progress:
    """A launch at one moment. `pending` counts what is still expected; times are seconds, `per_hour` is USD.

    `waiting` are AWS's words for the requests that have no machine yet ("price-too-low", "capacity-not-available", …), with their numbers,
    as the last listing showed them.
    """

    state: LaunchState
    wanted: int
    minimum: int
    up: int
    pending: int
    failed: int
    elapsed: float
    allowed: float
    per_hour: float
    type: str = ""
    waiting: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        kind = f" × {self.type}" if self.type else ""
        why = f" ({', '.join(f'{n} {status}' for status, n in self.waiting)})" if self.waiting and self.pending else ""
        return (
            f"{self.up}/{self.wanted}{kind} up · {self.pending} pending{why} · {self.failed} failed · "
            f"{self.elapsed:.1f} s of {self.allowed:.0f} s · ${self.per_hour:.4f}/h"
        )


class Launch(Pending[T], Generic[T]):
    """One bring-up under way. It goes on whether or not anybody waits.

    `await launch` and `launch.result()` give the machines, and raise LaunchFailed, RequestInvalid or AwsError when there are too few.
    A waiter that is cancelled (a timeout, an interrupted cell) leaves the launch running and says so. `launch.cancel()`, or Ctrl-C in
    `.result()`, ends it.
    """

    def __init__(self, conductor: Conductor, session: Session, choose: Callable[[Machines], T]) -> None:
        super().__init__(_mapped(conductor.future, choose), f"launch {conductor.uuid}")
        self._conductor, self.session = conductor, session

    def __repr__(self) -> str:
        return f"<launch {str(self.uuid)[:8]} {self.progress().state}: {self.progress()}>"

    def _repr_html_(self) -> str:
        return display.launch_html(self)

    @property
    def uuid(self) -> UUID:
        """The id that its machines report with."""
        return self._conductor.uuid

    @property
    def machines(self) -> Machines:
        """The machines so far."""
        return self._conductor.snapshot()

    def progress(self) -> Progress:
        """Where the launch is now."""
        conductor = self._conductor
        core, counts = conductor.core, conductor.core.counts()
        pending = max(0, core.wanted - core.ready - core.lost) if core.state in (LaunchState.ASKING, LaunchState.WAITING) else 0
        elapsed = (conductor.settled_at or time.time()) - conductor.began
        alive = [slot for slot in core.all() if slot.alive]
        return Progress(
            core.state,
            core.wanted,
            core.minimum,
            counts[MachineState.READY],
            pending,
            core.lost,
            elapsed,
            conductor.deadline - conductor.began,
            sum(conductor.rate(slot) or 0.0 for slot in alive),
            conductor.order.type,
            tuple(Counter(slot.status for slot in core.all() if slot.state is MachineState.PENDING and slot.status).items()),
        )

    def cost(self) -> Cost:
        """What it costs an hour and has cost so far, by what is known here."""
        slots = [slot for slot in self._conductor.core.all() if slot.launched is not None]
        return total(((slot.launched or 0.0, slot.gone, self._conductor.rate(slot) or 0.0) for slot in slots), time.time())

    def enough(self) -> Pending[Machines]:
        """Resolves as soon as the minimum is up."""
        return Pending(self._conductor.enough, f"minimum of launch {self.uuid}")

    def cancel(self) -> Pending[None]:
        """Give the launch up: cancel its requests, terminate its instances. Once it is up it changes nothing: use `teardown(launch)`."""
        return self.session.submit(self._cancel(), f"cancelling of launch {self.uuid}")

    async def _cancel(self) -> None:
        self._conductor.cancel()
        await self._conductor.settled.wait()

    def result(self, timeout: float | None = None) -> T:
        """Block for the machines. Raises TimeoutError after `timeout` seconds (the launch goes on); Ctrl-C cancels the launch."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
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
                display.say(f"interrupted: cancelling {self!r}")
                self.cancel().result(CANCEL_SECONDS)
            raise

    async def _wait(self) -> T:
        """Wait with progress where somebody looks. The ticks run on the waiter's own loop, so a busy cell only delays what is shown."""
        over = self._over()
        try:
            with display.progress(self) as tick:
                while not self.done():
                    await asyncio.wait([over], timeout=tick.seconds)
                    tick.show()
        except asyncio.CancelledError:
            if not self.done():
                display.say(f"no longer waiting; {self!r} goes on. Await it again, or end it with .cancel() or teardown(…)")
            raise
        return self._outcome(None)

    async def __aiter__(self) -> AsyncIterator[Machine]:
        """The machines in the order in which they get ready; ends with the launch, and raises what the launch raises."""
        here, conductor = asyncio.get_running_loop(), self._conductor
        news = asyncio.Event()

        def tell() -> None:
            here.call_soon_threadsafe(news.set)

        conductor.watchers.append(tell)
        number = 0
        try:
            while True:
                news.clear()
                over = self.done()
                while number < len(conductor.arrived):
                    number += 1
                    yield conductor.machines[conductor.arrived[number - 1]]
                if over:
                    break
                await news.wait()
        finally:
            with contextlib.suppress(ValueError):  # gone already, if the loop could not be told any more
                conductor.watchers.remove(tell)
        self._outcome(None)


def _mapped(future: concurrent.futures.Future[Machines], choose: Callable[[Machines], T]) -> concurrent.futures.Future[T]:
    """A concurrent future of `choose(value)`."""
    out: concurrent.futures.Future[T] = concurrent.futures.Future()

    def done(source: concurrent.futures.Future[Machines]) -> None:
        try:
            out.set_result(choose(source.result()))
        except BaseException as error:  # whatever it is, the waiter hears of it
            out.set_exception(error)

    future.add_done_callback(done)
    return out
