"""The values of a map: a list when awaited or blocked on; or one after the other, in order or as they arrive; with a progress bar."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, TypeVar

from .answers import Answer
from .errors import NotTrusted, TooBig
from .messages import RESULT, UNSIGNED
from .progress import Bar
from .reading import Reading
from .signing import Seal
from .waits import Wait, outcome_error, value_of

T = TypeVar("T")


class _Counted(Wait):
    """A wait that tells of each arrival. With the client's lock held."""

    __slots__ = ("each",)

    def __init__(self, calls: list[str], wake: Callable[[Wait], None], each: Callable[[bytes], None]) -> None:
        super().__init__(calls, True, wake)
        self.each = each

    def arrive(self, call: str, message: bytes) -> None:
        """As Wait's, and tells."""
        if call in self.missing:
            self.each(message)
            super().arrive(call, message)


class Many(Answer[list[T]]):
    """What will be the values of a map, in order.

    values = many.result()  or  await many    all of them; the first failure is raised as soon as it is known (the others go on)
    for value in many,  async for             in order, each as soon as it is there
    for number, value in many.completed()     as they arrive, in any order; `async for` too

    While it is waited for it shows a progress bar, in a terminal or a notebook, after a second; `progress` True: at once, False: never.
    """

    __slots__ = ("_arrived", "_failed", "_hooks", "_patient", "progress")

    def __init__(self, calls: list[str], single: bool, patient: bool, lock: threading.Lock,
                 take_back: Callable[[Wait, bool], bool] | None = None, seal: Seal = UNSIGNED, reading: Reading | None = None) -> None:
        super().__init__(calls, False, True, lock, take_back, seal, reading)
        self.wait = _Counted(calls, self._over, self._each)
        self.progress: bool | None = None
        self._patient, self._failed = patient, 0
        self._arrived: list[str] = []                       # ids in the order of their arrival
        self._hooks: list[Callable[[], object]] = []        # to be called once, at the next arrival

    def __repr__(self) -> str:
        return f"<Many {len(self._arrived)} of {len(set(self.wait.calls))} here, {self._failed} failed>"

    def __len__(self) -> int:
        return len(self.wait.calls)

    def done(self) -> bool:
        """Whether `result()` would not wait."""
        return self.wait.over or bool(self._failed and not self._patient)

    # arrivals

    def _each(self, message: bytes) -> None:
        self.wait.outcomes[message[1:33].decode("ascii")] = message
        self._arrived.append(message[1:33].decode("ascii"))
        if message[0] != RESULT:
            self._failed += 1
            if not self._patient:
                super()._over(self.wait)
        self._tell()

    def _over(self, wait: Wait) -> None:
        if len(self._arrived) < len(wait.outcomes):         # taken back: what was missing has failed without arriving
            arrived = set(self._arrived)
            taken = [call for call in wait.outcomes if call not in arrived]
            self._arrived += taken
            self._failed += len(taken)
            self._tell()
        super()._over(wait)

    def _tell(self) -> None:
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook()

    def _when_over(self, callback: Callable[[], object], *, blocks: bool = False) -> None:
        if self._reading is not None:
            self._reading.need()            # also for threads that block: they wait for each arrival
        with self._lock:
            if not self.done():
                self._callbacks.append(callback)
                return
        callback()

    def _at_next(self, seen: int, hook: Callable[[], object]) -> None:
        """Calls the hook once when more than `seen` have arrived."""
        if self._reading is not None:
            self._reading.need()
        with self._lock:
            if len(self._arrived) == seen and not self.wait.over:
                self._hooks.append(hook)
                return
        hook()

    def _block(self, seen: int, seconds: float | None) -> bool:
        """Waits until more than `seen` have arrived: whether they have."""
        gate = threading.Event()
        self._at_next(seen, gate.set)
        return gate.wait(seconds)

    async def _pause(self, seen: int, seconds: float | None) -> None:
        """The same in a coroutine."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(arrived.set)
            except RuntimeError:            # that loop was closed: nobody waits there any more
                return

        self._at_next(seen, wake)
        try:
            await asyncio.wait_for(arrived.wait(), seconds)
        except TimeoutError:
            return

    # all of them

    def result(self, timeout: float | None = None) -> list[T]:
        """The values, in order. Raises the first failure as soon as it is known, TimeoutError after `timeout` seconds; the calls go on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._bar() as bar:
            while not self.done():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{len(self.wait.missing)} of {len(self)} call(s) are not done after {timeout} s; they go on"
                                       f"{self._why()}")
                self._block(bar.show(len(self._arrived), self._failed), bar.pause(left))
            bar.show(len(self._arrived), self._failed)
        return self._values()

    async def _awaited(self) -> list[T]:
        with self._bar() as bar:
            while not self.done():
                await self._pause(bar.show(len(self._arrived), self._failed), bar.pause(None))
            bar.show(len(self._arrived), self._failed)
        return self._values()

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self._awaited().__await__()

    def _bar(self) -> Bar:
        return Bar(len(set(self.wait.calls)), self.progress)

    def _values(self) -> list[T]:
        if self._failed and not self._patient:
            for call in self._arrived:
                if (message := self.wait.outcomes[call])[0] != RESULT:
                    raise outcome_error(message, self._seal)
        return [self._value(call) for call in self.wait.calls]

    def _value(self, call: str) -> T:
        message = self.wait.outcomes[call]
        value: Any = value_of(message, self._seal)
        if not self._patient and (message[0] != RESULT or isinstance(value, NotTrusted | TooBig)):
            raise value
        result: T = value
        return result

    # one after the other

    def __iter__(self) -> Iterator[T]:
        with self._bar() as bar:
            for call in self.wait.calls:
                while call not in self.wait.outcomes:
                    self._block(bar.show(len(self._arrived), self._failed), bar.pause(None))
                bar.show(len(self._arrived), self._failed)
                yield self._value(call)

    async def __aiter__(self) -> AsyncIterator[T]:
        with self._bar() as bar:
            for call in self.wait.calls:
                while call not in self.wait.outcomes:
                    await self._pause(bar.show(len(self._arrived), self._failed), bar.pause(None))
                bar.show(len(self._arrived), self._failed)
                yield self._value(call)

    def completed(self) -> Completed[T]:
        """(number in the map, value) of each call as it arrives; the number is that of its arguments, from 0."""
        return Completed(self)


class Completed(Iterator[tuple[int, T]]):
    """What has arrived of a map, in the order of arrival: an iterator, synchronous or asynchronous."""

    def __init__(self, many: Many[T]) -> None:
        self._many, self._seen = many, 0
        self._numbers: dict[str, list[int]] = {}
        for number, call in enumerate(many.calls):
            self._numbers.setdefault(call, []).append(number)       # equal calls are one, and arrive together
        self._ready: list[tuple[int, T]] = []
        self._bar = many._bar()

    def __repr__(self) -> str:
        return f"<Completed {self._seen} of {self._many!r}>"

    def _next(self) -> tuple[int, T] | None:
        many = self._many
        self._bar.show(len(many._arrived), many._failed)
        if not self._ready and self._seen < len(many._arrived):
            call = many._arrived[self._seen]
            self._seen += 1
            self._ready = [(number, many._value(call)) for number in reversed(self._numbers[call])]
        return self._ready.pop() if self._ready else None

    def _exhausted(self) -> bool:
        over = self._seen == len(self._numbers) and not self._ready
        if over:
            self._bar.close()
        return over

    def __iter__(self) -> Completed[T]:
        return self

    def __aiter__(self) -> Completed[T]:
        return self

    def __next__(self) -> tuple[int, T]:
        if self._exhausted():
            raise StopIteration
        while (found := self._next()) is None:
            self._many._block(self._seen, self._bar.pause(None))
        return found

    async def __anext__(self) -> tuple[int, T]:
        if self._exhausted():
            raise StopAsyncIteration
        while (found := self._next()) is None:
            await self._many._pause(self._seen, self._bar.pause(None))
        return found
