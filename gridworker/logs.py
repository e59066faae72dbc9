"""Logs in Redis: a bounded stream per grid, written by a logging handler, read by `grid.logs()`.

The handler's connection asks the server for no replies, so a record costs one write to a socket and never a round trip.
"""

from __future__ import annotations

import logging
import time

from .errors import GridError, GridUnreachable
from .node import current_call
from .store import Connection, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .keys import Keys
    from .store import Address

KEPT = 10_000        # entries of a grid's stream, about
LONGEST = 4_000      # characters of one entry


def level_number(level: str | int) -> int:
    """The number of a level given by name in any case, or by number. ValueError if there is no such level.

    >>> level_number("debug"), level_number(30)
    (10, 30)
    """
    if isinstance(level, int):
        return level
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ValueError(f"{level!r} is no log level: debug, info, warning, error or critical")
    return number


class RedisHandler(logging.Handler):
    """Writes records into the grid's stream under a node's name. While the server is away records are dropped, and counted."""

    def __init__(self, address: Address, password: str | None, keys: Keys, node: str) -> None:
        super().__init__()
        self.node, self.dropped = node, 0
        self._address, self._password = address, password
        self.become(node, keys)

    def __repr__(self) -> str:
        return f"<RedisHandler {self.node} dropped={self.dropped}>"

    def become(self, node: str, keys: Keys) -> None:
        """Writes under that name from now on, on a new connection."""
        self.node, self._key = node, keys.log
        self._connection = Connection(self._address, self._password, timeout=5.0, name=f"log:{node}")
        self._open, self._again_at = False, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """One entry. Never raises: logging must not end what it tells about."""
        try:
            text = self.format(record)[:LONGEST]
        except Exception:
            self.handleError(record)
            return
        entry = ("XADD", self._key, "MAXLEN", "~", KEPT, "*", "node", self.node, "level", record.levelno, "from", record.name, "call",
                 current_call(), "text", text.encode("utf-8", "backslashreplace"))       # names of files may be no text
        try:
            if not self._open:
                self._connect()
            self._connection.send(pack(entry))
        except GridError:
            self._open = False
            self.dropped += 1

    def _connect(self) -> None:
        if time.monotonic() < self._again_at:
            raise GridUnreachable("not again yet")
        self._again_at = time.monotonic() + 1.0
        self._connection.connect()
        self._connection.send(pack(("CLIENT", "REPLY", "OFF")))
        self._open = True

    def close(self) -> None:
        """Closes the connection."""
        self._open = False
        self._connection.close()
        super().close()


def become(node: str, keys: Keys) -> None:
    """The handlers that write to Redis write into that grid's log under that name, on connections of their own. Also after a fork."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RedisHandler):
            handler.become(node, keys)


def install(address: Address, password: str | None, keys: Keys, node: str, level: str) -> None:
    """From now on what this process logs at that level and above goes into the grid's log, and warnings to stderr still."""
    root = logging.getLogger()
    number = level_number(level)
    handler = RedisHandler(address, password, keys, node)
    handler.setLevel(number)
    if not root.handlers and logging.lastResort is not None:
        root.addHandler(logging.lastResort)
    root.addHandler(handler)
    root.setLevel(min(root.level or logging.WARNING, number))


class Entry:
    """One line of a grid's log: `time` (seconds since 1970, the server's clock), `node`, `level` (a name), `logger`, `text`, and `call`,
    the id of the call in which it was written, or "". Shown in the reader's local time, as receipts and `gridworker top` are."""

    __slots__ = ("call", "level", "logger", "node", "number", "text", "time")

    def __init__(self, time: float, node: str, number: int, logger: str, text: str, call: str = "") -> None:
        self.time, self.node, self.number, self.logger, self.text, self.call = time, node, number, logger, text, call
        self.level = logging.getLevelName(number).lower()

    def __repr__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.time)) + f".{int(self.time % 1 * 1000):03d}"
        return f"{clock} {self.node} {self.level} {self.text}"


class Entries(list[Entry]):
    """Log entries, oldest first; shown as a table in a notebook and as lines elsewhere."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no log entries"

    def _repr_html_(self) -> str:
        import html

        rows = "".join(f"<tr><td>{html.escape(repr(entry).partition(' ')[0])}</td><td>{html.escape(entry.node)}</td><td>{entry.level}</td>"
                       f"<td style='text-align:left'><code>{html.escape(entry.text)}</code></td></tr>" for entry in self)
        return f"<table><tr><th>time</th><th>node</th><th>level</th><th>text</th></tr>{rows}</table>"


def decode_entries(replies: list[Any], least: int, node: str | None) -> Entries:
    """Entries out of XREVRANGE's reply (newest first), of a level and above, of one node or of all."""
    entries = Entries()
    for name, pairs in reversed(replies):
        fields = {pairs[i].decode(): pairs[i + 1].decode("utf-8", "replace") for i in range(0, len(pairs), 2)}
        number = int(fields.get("level", 0))
        if number >= least and node in (None, fields.get("node")):
            written = int(name.partition(b"-")[0]) / 1000
            entries.append(Entry(written, fields.get("node", "?"), number, fields.get("from", ""), fields.get("text", ""),
                                 fields.get("call", "")))
    return entries
