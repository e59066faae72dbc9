"""Requests that are on the server's disk before they count as accepted: `durable=True`.

They go over a connection of their own, because WAITAOF holds back what comes after it on the same one. How long it takes follows from
the server's `appendfsync`: with `everysec` up to a second, with `always` one write to the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import GridUnreachable, NotDurable
from .keys import Keys
from .limits import CODE_MS
from .store import Connection, Script, ServerError

PATIENCE_MS = 10_000


class Disk:
    """Submits calls and waits for the disk. May be used by any thread, one at a time."""

    def __init__(self, connection: Connection, keys: Keys, asker: str) -> None:
        self._connection, self._keys, self._asker = connection, keys, asker
        self._script = Script("submit")
        self._lock = threading.Lock()
        self._connected = False

    def __repr__(self) -> str:
        return f"<Disk of {self._connection.address.url}>"

    def submit(self, asks: Iterable[tuple[str, str, bytes]], codes: Mapping[str, bytes]) -> None:
        """Asks (pool, parent, item), with the functions by value that they need; returns when an fsync covers them.

        Raises NotDurable, GridUnreachable, GridFull.
        """
        arguments: list[Any] = [self._keys.prefix, self._asker, "1"]
        for pool, _, wire in asks:
            arguments += (pool, wire)
        with self._lock:
            try:
                if not self._connected:
                    self._connection.connect(patience=5.0)
                    self._connected = True
                for text, code in codes.items():
                    self._connection.call("SET", self._keys.code(text[1:]), code, "PX", CODE_MS)
                self._connection.run(self._script, (self._keys.nodes,), arguments)
                local, _ = self._connection.call("WAITAOF", 1, 0, PATIENCE_MS)
            except GridUnreachable:
                self._connected = False
                raise
            except ServerError as error:
                raise NotDurable(f"the server cannot confirm that something is on its disk: {error}; durable=True needs Redis or Valkey "
                                 "from 7.2, with `appendonly yes`") from error
        if not local:
            raise NotDurable(f"the server's disk has not confirmed the calls within {PATIENCE_MS / 1000:g} s; they are taken back")

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()
