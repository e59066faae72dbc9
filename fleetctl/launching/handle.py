"""What `bring_up_spots` returns: a future that can be awaited, iterated, blocked on, looked at, and cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from .. import display
from ..ending import fuse
from ..futures import Pending
from ..lifecycle import LaunchState, MachineState
from ..machines import Machine, Machines
from ..money.cost import Cost, total
from ..watched import Watched
from .launch import Conductor

if TYPE_CHECKING:
    from ..session import Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """A launch at one moment. `pending` counts what is still expected; times are seconds, `per_hour` and `so_far` USD, all included.

    `waiting` are AWS's words for the machines that are not there yet ("price-too-low", "capacity-not-available", …), with their numbers,
    as the last listing showed them. `interrupted` have been taken back by EC2, or are about to be, after they were ready; what was launched
    in their place counts in `up` and `pending`.
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
    interrupted: int = 0
    so_far: float = 0.0
    budget: float | None = None  # the session's
    soon: str = ""  # what is to be said of their end, if it is near
    what: str = ""  # which of several launches of one thing it is

    def __str__(self) -> str:
        kind = f" × {self.type}" if self.type else ""
        why = f" ({', '.join(f'{n} {status}' for status, n in self.waiting)})" if self.waiting and self.pending else ""
        taken = f"{self.interrupted} interrupted · " if self.interrupted else ""
        of_what = f"{self.what}: " if self.what else ""
        of = f" of ${self.budget:.2f}" if self.budget is not None else ""
        return (
            f"{of_what}{self.up}/{self.wanted}{kind} up · {self.pending} pending{why} · {self.failed} failed · {taken}"
            f"{self.elapsed:.1f} s of {self.allowed:.0f} s · ${self.per_hour:.4f}/h, ${self.so_far:.4f}{of} so far"
            f"{self.soon and ' · '}{self.soon}"
        )


class Launch(Watched[T], Generic[T]):
    """One bring-up under way. It goes on whether or not anybody waits.

    `await launch` and `launch.result()` give the machines, and raise LaunchFailed, RequestInvalid or AwsError when there are too few.
    A waiter that is cancelled (a timeout, an interrupted cell) leaves the launch running and says so. `launch.cancel()`, or Ctrl-C in
    `.result()`, ends it; one that another process has begun goes on.
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
        """The machines so far, those that were asked for in place of interrupted ones too."""
        first, *others = [conductor.snapshot() for conductor in self._conductor.family()]
        return first.joined(others)

    @property
    def replacements(self) -> list[Launch[Machines]]:
        """The launches that were begun in place of interrupted machines, of this launch and of those launches themselves."""
        return [Launch(conductor, self.session, lambda machines: machines) for conductor in self._conductor.family()[1:]]

    def progress(self) -> Progress:
        """Where the launch is now."""
        conductor = self._conductor
        core, family = conductor.core, conductor.family()
        cores = [one.core for one in family]
        underway = [one for one in cores if one.state in (LaunchState.ASKING, LaunchState.WAITING)]
        pending = sum(max(0, one.wanted - one.ready - one.lost) for one in underway)
        elapsed = (conductor.settled_at or time.time()) - conductor.began
        slots = [(one, slot) for one in family for slot in one.core.all()]
        cost = self.cost()
        waiting = Counter(slot.status for _, slot in slots if slot.state is MachineState.PENDING and slot.status)
        missing = sum((Counter(one.pools_asked.missing()) for one in family), Counter())
        return Progress(
            core.state,
            core.wanted,
            core.minimum,
            sum(slot.state is MachineState.READY for _, slot in slots),
            pending,
            core.lost,
            elapsed,
            conductor.deadline - conductor.began,
            cost.per_hour,
            conductor.order.type,
            tuple((waiting + missing).items()),
            sum(one.interruptions for one in cores),
            cost.so_far,
            cost.budget,
            fuse.warning(conductor.expires, time.time()) if any(slot.alive for _, slot in slots) else "",
        )

    def cost(self) -> Cost:
        """What it costs an hour and has cost so far, by what is known here; the budget is the session's."""
        spans = [span for one in self._conductor.family() for span in one.bill.spans(one.core.all())]
        return total(spans, time.time(), budget=self.session.budget)

    def extend(self, hours: float) -> Pending[datetime]:
        """Let its machines run `hours` longer than they would; resolves to the new end. Raises as the verb `extend`."""
        return self.session.submit(self.session.move_end(hours, self._conductor), f"extension of launch {self.uuid}")

    def enough(self) -> Pending[Machines]:
        """Resolves as soon as the minimum is up."""
        return Pending(self._conductor.enough, f"minimum of launch {self.uuid}")

    def cancel(self) -> Pending[None]:
        """Give the launch up: cancel its requests, terminate its instances. Once it is up it changes nothing: use `teardown(launch)`."""
        return self.session.submit(self._cancel(), f"cancelling of launch {self.uuid}")

    async def _cancel(self) -> None:
        self._conductor.cancel()
        await self._conductor.settled.wait()

    def _give_up(self) -> Pending[None] | None:
        return None if self._conductor.resumed else self.cancel()

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
