"""An event loop in a thread of its own, so that a notebook cell that computes for a minute delays nothing; and what closes with it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from .futures import Pending, submit

log = logging.getLogger(__name__)
T = TypeVar("T")

CLOSE_SECONDS = 15.0  # what a tunnel, or the loop itself, may take to close


class Background:
    """Starts at once. `stop()` ends the loop and its thread; what was to be kept has to be closed before, by `close_ways()`."""

    def __init__(self, name: str) -> None:
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self.thread.start()

    def __repr__(self) -> str:
        return f"<background {self.thread.name}: {len(self._closers)} to close>"

    def submit(self, work: Coroutine[Any, Any, T], what: str) -> Pending[T]:
        """Run a coroutine on the loop; it starts now. Raises FleetError when the loop has ended."""
        return submit(self.loop, work, what)

    def keep(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this at the end; the latest first."""
        self._closers.append(close)

    async def close_ways(self) -> None:
        """Tunnels and the like, the latest first. One that breaks or hangs while it closes must not keep the others from their end."""
        while self._closers:
            close = self._closers.pop()
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await close()
            except Exception:
                log.warning("%r did not close cleanly", close, exc_info=True)

    async def end_tasks(self) -> None:
        """Nothing else runs on the loop afterwards."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def shut(self) -> None:
        """The loop can be stopped afterwards."""
        await self.end_tasks()
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def stop(self) -> None:
        """From any thread but the loop's own."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(CLOSE_SECONDS)
        self.loop.close()
