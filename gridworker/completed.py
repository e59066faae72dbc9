"""Answers as they come: `for answer in as_completed(answers)`, `async for answer in as_completed(answers)`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from .answers import Answer

A = TypeVar("A", bound=Answer[Any])


class as_completed(Generic[A]):
    """Iterates over answers, of any grids, in the order in which they are over; failed ones too: `result()` tells.

    Synchronous and asynchronous. TimeoutError if not all are over within `timeout` seconds from the beginning of the iteration.
    """

    def __init__(self, answers: Iterable[A], *, timeout: float | None = None) -> None:
        self._answers, self._timeout = list(answers), timeout

    def __repr__(self) -> str:
        return f"<as_completed {sum(answer.done() for answer in self._answers)} of {len(self._answers)}>"

    def _late(self, missing: int) -> TimeoutError:
        return TimeoutError(f"{missing} of {len(self._answers)} answer(s) are not there after {self._timeout} s")

    def __iter__(self) -> Iterator[A]:
        arrived: SimpleQueue[A] = SimpleQueue()
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        for answer in self._answers:
            answer._when_over(lambda answer=answer: arrived.put(answer))  # type: ignore[misc]
        for missing in range(len(self._answers), 0, -1):
            try:
                yield arrived.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Empty:
                raise self._late(missing) from None

    async def __aiter__(self) -> AsyncIterator[A]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[A] = asyncio.Queue()
        deadline = None if self._timeout is None else loop.time() + self._timeout

        def tell(answer: A) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, answer)
            except RuntimeError:            # that loop was closed: nobody iterates there any more
                return

        for answer in self._answers:
            answer._when_over(lambda answer=answer: tell(answer))  # type: ignore[misc]
        for missing in range(len(self._answers), 0, -1):
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await arrived.get()
            except TimeoutError:
                raise self._late(missing) from None
            yield answer
