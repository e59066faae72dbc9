"""A grid's log as it is written: an iterator that waits for the next entry with a blocking read, so that nothing is polled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .errors import GridUnreachable
from .keys import Keys
from .logs import Entry, decode_entries
from .store import Connection

BLOCK_MS = 1000         # then it looks whether it was closed


class Following:
    """Log entries: first the last ones there are, then each as it comes, until `close()` or the end of its grid.

    `for entry in grid.logs(follow=True)`, or `async for`. What has been pushed out of the bounded stream before it was read is missed.
    """

    def __init__(self, connection: Connection, keys: Keys, least: int, node: str | None, last: int, closed: Callable[[], bool]) -> None:
        self._connection, self._key, self._least, self._node = connection, keys.log, least, node
        self._last, self._closed = last, closed
        self._at: bytes | None = None
        self._entries: deque[Entry] = deque()
        self._done = self._reading = False

    def __repr__(self) -> str:
        return f"<Following {'closed' if self._done else 'from ' + (self._at or b'the beginning').decode()}>"

    def __iter__(self) -> Following:
        return self

    def __aiter__(self) -> Following:
        return self

    def close(self) -> None:
        """Ends the iteration: at once, or within a second if it waits in another thread."""
        self._done = True
        if not self._reading:
            self._connection.close()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self._connection.close()            # a loop was left by `break`

    def __next__(self) -> Entry:
        while not self._entries:
            if self._done or self._closed():
                self._done = True
                self._connection.close()
                raise StopIteration
            self._reading = True
            try:
                self._entries.extend(decode_entries(self._read(), self._least, self._node))
            finally:
                self._reading = False
        return self._entries.popleft()

    async def __anext__(self) -> Entry:
        entry = await asyncio.get_running_loop().run_in_executor(None, next, self, None)
        if entry is None:
            raise StopAsyncIteration
        return entry

    def _read(self) -> list[Any]:
        """What is new, newest first; none after a second."""
        try:
            if self._at is None:
                self._connection.connect(patience=10.0)
                found: list[Any] = self._connection.call("XREVRANGE", self._key, "+", "-", "COUNT", self._last)
                self._at = found[0][0] if found else b"0-0"
                return found
            reply = self._connection.call("XREAD", "COUNT", 1000, "BLOCK", BLOCK_MS, "STREAMS", self._key, self._at)
        except GridUnreachable:
            self._connection.connect(patience=60.0)
            return []
        if reply is None:
            return []
        entries: list[Any] = reply[0][1]
        self._at = entries[-1][0]
        return entries[::-1]
