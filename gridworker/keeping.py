"""What a client does so that results and functions are kept as long as they are needed, and no longer.

It acknowledges results in batches, and the word of the last who waited starts their time to live; refreshes functions by value while it
waits for calls of them; and collects results by the ids of their calls, or those that were meant for an earlier process of its name.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .answers import Answer
from .blobs import Blobs
from .codes import Codes
from .durable import Disk
from .errors import GridClosed, GridError, GridUnreachable, PartsGone
from .keys import Keys
from .limits import KEPT_MOST, RESULT_MS
from .messages import ID, Failure
from .parts import Part
from .reading import Reading
from .signing import Seal
from .store import Connection, Script, pack
from .waits import Wait, Waits, batches
from .withdrawal import cancelled

UNCLAIMED_MOST = 100_000      # messages that a named client holds for `collect`


def fatal(error: Exception) -> GridError:
    """What ends a client for good, as the error that everybody gets from then on."""
    if isinstance(error, GridError):
        return error
    broken = GridError(f"the client has ended: {type(error).__name__}: {error}; calls go on, and open clients have their results")
    broken.__cause__ = error
    return broken


class Keeping:
    """The part of a client that keeps. Everything with a leading underscore is called with the client's lock held."""

    keys: Keys
    name: str
    seal: Seal
    _closing: bool
    _commands: Connection
    _lock: threading.Lock
    _open: bool
    _reading: Reading
    _replies: deque[Callable[[Any], None]]
    _waits: Waits

    def _ready(self) -> object:
        raise NotImplementedError

    def _lose(self) -> None:
        raise NotImplementedError

    def _ring(self) -> None:
        raise NotImplementedError

    def _send(self, batch: list[tuple[str, str, bytes]], *, again: bool) -> None:
        raise NotImplementedError

    def _take_back(self, wait: Wait, kill: bool) -> bool:
        raise NotImplementedError

    def _withdraw(self, wait: Wait, failure: Failure, kill: bool = False) -> None:
        raise NotImplementedError

    def _keep(self, *, named: bool) -> None:
        self._codes = Codes(self.keys, self.seal, self._waits.asked)
        self._strangers: dict[str, bytes] | None = {} if named else None      # answers to an earlier process of this name
        self._collect_script, self._acknowledge_script = Script("collect"), Script("acknowledge")
        self._acknowledged = False                      # on this connection: the server knows that script
        self._blobs = Blobs(self._commands.another(f"parts:{self.name}"), self.keys, self.seal)
        self._big: list[bytes] = []                     # results that have arrived and whose parts have not
        self._disk = Disk(self._commands.another(f"disk:{self.name}"), self.keys, self.name)

    def _first_look(self) -> None:
        """On its first connection, before anybody uses it, and without the lock: what has arrived under its name."""
        while self._strangers is not None and (messages := self._commands.call("LPOP", self.keys.inbox(self.name), 1000)):
            with self._lock:
                for message in messages:
                    self._arrived(message)

    def _refresh_codes(self) -> None:
        if self._open and self._codes.refresh():
            self._write(self._codes.take(self._replies))

    # results

    def _send_heard(self) -> None:
        if heard := batches(self._waits.heard):
            keys, script = (self.keys.kept, self.keys.unheard, self.keys.nodes), self._acknowledge_script
            how = ("EVALSHA", script.digest) if self._acknowledged else ("EVAL", script.text)
            self._replies.append(lambda reply: None)    # if it is lost, those results are kept for longer than they need
            self._acknowledged = True
            self._write(pack((*how, len(keys), *keys, self.keys.prefix, RESULT_MS, KEPT_MOST, self.name, *heard)))

    def _write(self, data: bytes) -> None:
        try:
            self._commands.send(data)
        except GridUnreachable:
            self._lose()

    # big values

    def _supply(self, big: dict[str, list[Part]]) -> None:
        """Stores what the calls need that are about to be asked for. Without the lock. GridFull, TooBig."""
        self._ready()
        try:
            self._blobs.supply(big)
        except GridUnreachable:                         # the background thread connects again, supplies and asks
            with self._lock:
                self._lose()

    def _arrived(self, message: bytes) -> None:
        """A message out of the inbox."""
        if self._blobs.is_big(message) and message[1:1 + ID].decode("ascii") in self._waits:
            self._big.append(message)
        elif self._waits.arrive(message):
            self._blobs.forget((message[1:1 + ID].decode("ascii"),))
        else:
            self._unclaimed(message)

    def _fetch_big(self) -> None:
        """Gets the parts of what has arrived, without the lock. GridUnreachable: then all that is unanswered is asked for again."""
        with self._lock:
            messages, self._big = self._big, []
        for message in messages:
            call = message[1:1 + ID]
            name = call.decode("ascii")
            failure: Failure | None = None
            try:
                whole: bytes = self._blobs.whole(message)
            except PartsGone as error:
                if not self._blobs.again(message) or name in self._waits.known_by_id():
                    failure = Failure.of(error)
                else:
                    self._ask_again(name)
                    continue
            except GridUnreachable:
                raise
            except GridError as error:
                failure = Failure.of(error)
            with self._lock:
                if failure is not None:
                    self._waits.refuse(call, failure)
                else:
                    self._waits.arrive(whole)
                self._blobs.forget((name,))
                self._ring()

    def _ask_again(self, call: str) -> None:
        """A result has gone before it could be fetched: its call is run again."""
        self._blobs.supply_again()
        with self._lock:
            if self._open and (asks := self._waits.asks(call)):
                try:
                    self._send(asks, again=True)
                except GridUnreachable:
                    self._lose()
                self._ring()

    def _unclaimed(self, message: bytes) -> None:
        if self._strangers is not None and message[:1] in b"RE" and len(self._strangers) < UNCLAIMED_MOST:
            self._strangers[message[1:1 + ID].decode("ascii")] = message

    def _collect_again(self) -> bytes:
        """For a new connection: calls that are known by their ids only."""
        return self._collecting(self._waits.known_by_id())

    def _collecting(self, calls: list[str]) -> bytes:
        if not calls:
            return b""
        unknown = Failure("lost", "GridError", "the grid knows nothing of this call (any more): ask for it again").plain()
        self._replies.append(lambda reply: None)        # the outcomes come through the inbox
        return pack(("EVAL", self._collect_script.text, 1, self.keys.nodes, self.keys.prefix, self.name, unknown, *calls))

    def collect(self, calls: Iterable[str] | None = None) -> dict[str, Answer[Any]]:
        """Answers for calls that another process has asked for, by call id: of these ids (see `Answer.calls`), from any client.

        Without ids: of a client that has been given a name, those outcomes that have arrived for an earlier process of that name and were
        not delivered to it. A call of which the grid knows nothing any more fails.
        """
        self._ready()
        with self._lock:
            if self._closing:
                raise GridClosed("this client was closed")
            strangers = self._strangers or {}
            wanted = list(dict.fromkeys(strangers if calls is None else calls))
            answers = {call: Answer[Any]([call], True, False, self._lock, self._take_back, self.seal, self._reading) for call in wanted}
            for answer in answers.values():
                self._waits.add(answer.wait, [])
            for call in wanted:
                if message := strangers.pop(call, None):
                    self._arrived(message)
            missing = [call for call, answer in answers.items() if not answer.wait.over]
            if missing and self._open:
                self._write(self._collecting(missing))
                self._ring()
                self._reading.asked()
        if self._big:
            self._fetch_big()
        return answers

    def _submit_durably(self, wait: Wait, asks: list[tuple[str, str, bytes]], codes: dict[str, bytes]) -> None:
        """Blocks until the asks are on the server's disk, without the lock; takes them back if they will not be."""
        try:
            self._disk.submit(asks, codes)
        except GridError:
            with self._lock:
                if not wait.over:
                    self._withdraw(wait, cancelled())
            raise
