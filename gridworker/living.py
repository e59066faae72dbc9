"""A client's life: opened, entered, left, closed; and ended when nobody refers to it any more.

A notebook whose cell `grid = Grid()` is run again refers to the earlier grid no longer, and would have two servers and twice the workers.
So nothing that goes on by itself holds a client: the thread that reads in the background, and all that it calls, know it weakly. Only
while somebody waits for an answer without standing still for it, in an event loop say, the thread holds the client (`Reading.hold`), since
then there may be nobody else. An answer that is not there yet holds it, too. When the last reference goes the client gives itself to the
thread, which ends it as `close` would: connections, then server and workers if they are its own.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from .answers import Nothing
from .embedded import Embedded
from .errors import GridError, GridUnreachable
from .here import enter, leave
from .keeping import fatal
from .reading import Reading

if TYPE_CHECKING:
    from .client import Grid

T = TypeVar("T")

PATIENCE_SECONDS = 60.0   # how long a lost server is looked for


class Living:
    """The part of a client that opens and ends it."""

    _closing: bool = True           # until it is made
    _connected: threading.Event
    _embedded: Embedded | None
    _error: GridError | None
    _lock: threading.Lock
    _reading: Reading
    _thread: threading.Thread

    def _begin(self) -> None:
        """In the background thread: connects. Raises what makes that impossible."""
        raise NotImplementedError

    def _reconnect(self, patience: float) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """In the background thread: fails what is unanswered, and closes connections."""
        raise NotImplementedError

    def _live(self, name: str) -> None:
        """Starts the thread in the background."""
        self._thread = threading.Thread(target=_read, args=(weakref.ref(self), self._reading), name=name, daemon=True)
        self._closing = False
        self._thread.start()

    def _is_closing(self) -> bool:
        return self._closing

    def _ready(self) -> Self:
        self._connected.wait()
        if self._error is not None:
            raise self._error
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        if not self._connected.is_set():
            yield from asyncio.get_running_loop().run_in_executor(None, self._connected.wait).__await__()
        return self._ready()

    def __enter__(self) -> Self:
        try:
            self._ready()
        except GridError:
            self.close()
            raise
        enter(cast("Grid", self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        leave(cast("Grid", self))
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await self
        except GridError:
            self.close()
            raise
        enter(cast("Grid", self))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        leave(cast("Grid", self))
        self.close()

    def close(self) -> Nothing:
        """Ends the connections; answers that are not there yet raise GridClosed. May be awaited, and need not be."""
        with self._lock:
            if self._closing:
                return Nothing()
            self._closing = True
        self._reading.wake()
        self._thread.join(10.0)
        self._dismantle()
        return Nothing()

    def _dismantle(self) -> None:
        self._reading.close()
        if self._embedded is not None:
            self._embedded.stop()

    def __del__(self) -> None:
        if not self._closing and not sys.is_finalizing():
            self._closing = True
            if not self._reading.bequeath(self):        # the thread has ended, over an error
                self._dismantle()


def weakly(method: Callable[..., T], otherwise: T) -> Callable[..., T]:
    """A method that does not hold its object; `otherwise` when that is gone."""
    known, function = weakref.ref(method.__self__), method.__func__      # type: ignore[attr-defined]

    def call(*args: Any) -> T:
        mine = known()
        return otherwise if mine is None else cast(T, function(mine, *args))

    return call


def _read(known: Callable[[], Living | None], reading: Reading) -> None:
    """The thread in the background. No variable here may hold the client while it reads or rests."""
    error: GridError | None = None
    try:
        if (client := known()) is not None:
            client._begin()
        del client
        while not _read_until_it_breaks(reading):
            if (client := known() or cast("Living | None", reading.hold)) is not None:
                client._reconnect(PATIENCE_SECONDS)
            del client
    except Exception as broken:                         # whatever it is: nobody is to wait for what will never come
        error = fatal(broken)
    client = cast("Living | None", reading.hold) or known()
    if client is not None:
        client._error = error or client._error
        client._end()
    del client, error
    if (left := reading.finish()) is not None:
        cast(Living, left)._dismantle()


def _read_until_it_breaks(reading: Reading) -> bool:
    """Whether it has not broken, and is over."""
    try:
        reading.background()
    except GridUnreachable:
        return False
    return True
