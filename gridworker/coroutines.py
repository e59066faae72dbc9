"""`async def` functions on a worker. Their loop starts with the first of them and shares the worker's one thread with the greenlets.

The loop runs only between plain calls: a tick each round of the hub, and, when there is nothing else to do, until the bell rings or a
coroutine has something to tell. Plain functions never run inside it, so they may use `asyncio.run` themselves. The bell is waited for on
a connection of its own, so that steps can be sent meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .errors import GridUnreachable
from .parking import Running
from .store import Connection, pack
from .waits import Wait, values
from .withdrawal import cancelled

if TYPE_CHECKING:
    from .worker import Worker

_running: ContextVar[Running | None] = ContextVar("gridworker_running", default=None)


class Coroutines:
    """The coroutines of a worker. `live` is how many calls of `async def` functions have begun and not ended."""

    def __init__(self, worker: Worker) -> None:
        self.live = 0
        self._worker = worker
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[asyncio.Task[None], Running] = {}
        self._bell: Connection | None = None
        self.listening = False          # a blocking pop is under way on the bell's connection: only there will the bell ring

    def __repr__(self) -> str:
        return f"<Coroutines live={self.live}>"

    def start(self, coroutine: Coroutine[Any, Any, Any], running: Running) -> None:
        """Takes a call over that has given a coroutine; the loop runs it in its ticks."""
        self.live += 1
        task = self._loop.create_task(self._run(coroutine, running))
        self._tasks[task] = running
        task.add_done_callback(self._tasks.pop)

    async def _run(self, coroutine: Coroutine[Any, Any, Any], running: Running) -> None:
        _running.set(running)
        try:
            body = self._worker.body(running, await coroutine)
        except BaseException as error:      # as for plain functions: whatever is raised is the outcome
            self._worker.fail(running, error)
        else:
            self._worker.finish(running, body)
        self.live -= 1
        self._loop.stop()

    def cancel(self, call: str) -> None:
        """Cancels the tasks of a call, as asyncio does."""
        for task, running in self._tasks.items():
            if running.call == call:
                running.cancelled = True
                task.cancel()

    def running(self) -> Running | None:
        """The call whose code is executing in the loop, or None while the loop stands."""
        return _running.get() if self._loop.is_running() else None

    def request(self, asks: list[tuple[str, tuple[str, str, bytes]]], running: Running, *, single: bool, patient: bool,
                timeout: float | None = None) -> Awaitable[Any]:
        """What `request()` returns in an `async def` function. It is asked for at once, awaited or not."""
        future: asyncio.Future[None] = self._loop.create_future()
        wait = Wait([call for call, _ in asks], patient, lambda wait: None if future.done() else future.set_result(None), running)
        self._worker.ask(wait, asks, timeout)
        self._loop.call_soon(self._loop.stop)       # when this tick has collected all its requests, one step takes them

        async def outcome() -> Any:
            try:
                await future
            except asyncio.CancelledError:          # by asyncio.wait_for, say, or with its call
                if not wait.over:
                    self._worker.withdraw(wait, cancelled())
                raise
            return values(wait, single, self._worker.seal)

        return outcome()

    def tick(self) -> None:
        """Lets whoever can go on go on, once."""
        if self.live:
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()

    def nudge(self) -> None:
        """Ends `listen` soon. For signal handlers."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def listen(self, seconds: float) -> list[bytes]:
        """Runs the loop until the bell rings, a coroutine has something to tell, or the time is over: the messages, possibly none."""
        if self._worker.steps.pending or self._worker.draining:
            return []
        try:
            if not self.listening:
                self._ring(seconds)
            assert self._bell is not None
            self._loop.add_reader(self._bell.fileno(), self._loop.stop)
            until = self._loop.call_later(seconds, self._loop.stop)     # the pop may have been sent when there was more time
            try:
                self._loop.run_forever()
            finally:
                until.cancel()
                self._loop.remove_reader(self._bell.fileno())
            return self._take()
        except GridUnreachable:
            self.listening = False
            if self._bell is not None:
                self._bell.close()
            return self._worker.steps.recover([])

    def _ring(self, seconds: float) -> None:
        steps = self._worker.steps
        if self._bell is None:
            self._bell = steps.connection.another("bell")
        self._bell.connect(patience=5.0)
        self._bell.send(pack(("BLMPOP", seconds, 1, self._worker.node.keys.inbox(self._worker.node.incarnation), "LEFT", "COUNT", 1000)))
        self.listening = True

    def _take(self) -> list[bytes]:
        assert self._bell is not None
        if not self._bell.readable():
            return []
        reply = self._bell.read()
        self.listening = False
        return [] if reply is None else list(reply[1])
