"""The client's side: a `Grid`, whose requests return answers (answers.py) at once.

A request is sent by the thread that makes it; a background thread reads. It waits on two sockets: the bell (a blocking pop on the
client's one inbox, whose messages it hands out by call id) and the commands' replies. While two batches are on their way further
requests collect, and leave together when one is acknowledged: so the batch grows with the load, with no timer and no loop to belong
to. Requests are idempotent, so after a broken connection or a long silence everything unanswered is simply asked again.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .culprit import Stays
from .embedded import embed
from .errors import GridClosed, GridError, GridUnreachable
from .forked import watch
from .habits import OF_A_GRID, Habits
from .interrupts import Held
from .keeping import Keeping
from .keys import Keys, checked
from .limits import HEARD_MOST
from .living import Living, weakly
from .looking import Looking
from .messages import ID, Failure
from .naming import named
from .outgoing import encoded
from .reading import Reading
from .serialize import Functions, Reference
from .signing import Seal, key_from
from .store import Connection, Script, ServerError, pack, parse_url, read_secret
from .vacancy import Vacancies
from .verbs import A, Verbs
from .waits import Wait, Waits
from .wire import enter
from .withdrawal import Deadlines, Withdrawals, cancelled, without

if TYPE_CHECKING:
    from .asking import Call
    from .outgoing import Ask

BATCH_MOST = 500
ON_THEIR_WAY = 2          # batches sent and not acknowledged
SILENCE_SECONDS = 15.0    # then what is unanswered is asked again
POOL = "pool"             # where calls go that name no pool


class Grid(Living, Verbs, Looking, Keeping, Habits, Stays):
    """One grid, seen by a client. `with` and `async with` close it. Its methods may be called from any thread.

    `Grid()` is a grid of this machine's own: a server and workers, one per core or as many as `workers` says, that end with it.
    `Grid("redis://host:port/0")` and `Grid("unix:///path")` connect to one that is there. Calls that name no pool go to `pool`.
    `trace`: all its calls are traced, see `graph`.
    """

    habits = OF_A_GRID

    def __init__(self, url: str | None = None, *, password: str | None = None, key: str | bytes | None = None, namespace: str = "grid",
                 name: str | None = None, workers: int | None = None, pool: str = POOL, trace: bool = False) -> None:
        self.pool, self.trace = checked("pool", pool), trace
        self._embedded = embed(url, workers, pool, namespace, weakly(self._lost, None))
        if self._embedded is not None:
            url, password, key = self._embedded.server.url, self._embedded.server.password, self._embedded.key
        assert url is not None
        self.address, in_url = parse_url(url)
        self.keys = Keys(namespace)
        self.seal = Seal(key_from(key or read_secret(os.environ)[1]))
        self.name = "c." + (checked("client", name) if name else os.urandom(8).hex())
        self._lock = threading.Lock()
        self._functions = functions = Functions()
        self._waits = Waits(seal := self.seal, lambda data: named(data, functions, seal))
        self._buffer: deque[tuple[str, str, bytes]] = deque()
        self._replies: deque[Callable[[Any], None]] = deque()
        self._flying = 0
        self._before: deque[Callable[[Any], None]] = deque()    # for replies on the bell's connection that come before that of the pop
        self._rung = False                                      # a blocking pop on the inbox is under way
        self._submit = Script("submit")
        self._listening = pack(("BLMPOP", SILENCE_SECONDS, 1, self.keys.inbox(self.name), "LEFT", "COUNT", 1000))
        self._withdrawals, self._deadlines = Withdrawals(self.keys, self.name), Deadlines()
        self._vacancies = Vacancies(self.pool if self._embedded else "")
        secret = password or in_url
        self._commands = Connection(self.address, secret, timeout=60.0, name=f"client:{self.name}")
        self._bell = Connection(self.address, secret, timeout=60.0, name=f"bell:{self.name}")
        self._keep(named=name is not None)
        self._open = False
        self._error: GridError | None = None
        self._connected = threading.Event()             # once: connected, or failed
        self._opened = threading.Event()                # while there is a connection
        self._reading = Reading(
            weakref.ref(self), weakly(self._busy, False), weakly(self._patience, SILENCE_SECONDS), weakly(self._after, None),
            weakly(self._idle, None), weakly(self._why, ""), weakly(self._is_closing, False), in_background=name is not None)  # fmt: skip
        watch(self)
        self._live(f"grid {namespace}")

    @classmethod
    def connect(cls, url: str, *, password: str | None = None, key: str | bytes | None = None, namespace: str = "grid",
                name: str | None = None, pool: str = POOL, trace: bool = False) -> Grid:
        """A client of the grid at `redis://host:port/0` or `unix:///path`: `grid = await Grid.connect(…)`, or without await in a script.

        `key`, in hex or bytes, is what this grid signs with; else the one in $GRIDWORKER_SECRET_FILE; without any nothing is signed.
        It connects in the background; awaiting it, `with`, or the first use tells if that failed (GridUnreachable, GridDenied).
        """
        return cls(url, password=password, key=key, namespace=namespace, name=name, pool=pool, trace=trace)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "connected" if self._open else "not connected"
        return f"<Grid {self.keys.namespace} at {self.address.url} {state}, {len(self._waits)} calls unanswered>"

    # requests

    def _reference(self, function: Callable[..., Any]) -> Reference:
        with self._lock:
            return self._functions.reference(function)

    def _ask(self, pool: str, calls: list[Call], kind: type[A], *, single: bool = False, patient: bool = False,
             timeout: float | None = None, durable: bool = False, memo_errors: bool = False, trace: bool = False) -> A:
        checked("pool", pool)
        if self._error is not None:
            raise self._error
        codes: dict[str, bytes] = {}
        references: dict[int, Reference] = {}                     # a function by value is pickled once for all of these calls
        if len(calls) > BATCH_MOST and not (durable or memo_errors or timeout is not None):
            answer = kind([], False, patient, self._lock, self._take_back, self.seal, self._reading)
            self._ask_many(answer.wait, pool, calls, references, trace)
            return answer
        asks = self._asks(pool, calls, references, trace)
        ids = [call for call, _ in asks]
        answer = kind(ids, single, patient, self._lock, self._take_back, self.seal, self._reading)
        with Held(), self._lock:
            if self._closing:
                raise GridClosed("this client was closed")
            if ids:
                codes = self._codes.hold(references.values())
                fresh = self._waits.add(answer.wait, asks)
                if memo_errors and self._open:
                    self._send(fresh, again=True)
                elif not durable:
                    self._buffer.extend(fresh)
                    self._flush()
                self._ring()
                self._reading.asked()
                if timeout is not None and self._deadlines.add(answer.wait, timeout):
                    self._reading.wake()
                if pool not in self._vacancies.known and self._vacancies.asked(pool, time.monotonic(), timeout):
                    self._reading.wake()
            else:
                answer.wait.release()
        if single and len(self._buffer) > BATCH_MOST:
            self._reading.glance()                      # what has been acknowledged lets more of many single requests go
        if self._blobs.untidy:
            with Held():
                self._blobs.tidy()
        if durable and ids:
            self._submit_durably(answer.wait, [ask for _, ask in asks], codes)
        return answer

    def _asks(self, pool: str, calls: list[Call], references: dict[int, Reference], trace: bool) -> list[Ask]:
        asks, big = encoded(pool, calls, references, self._reference, self.seal, trace=trace or self.trace)
        if big:
            self._supply(big)
        return asks

    def _ask_many(self, wait: Wait, pool: str, calls: list[Call], references: dict[int, Reference], trace: bool) -> None:
        """Sends the first of many calls while it still encodes the others. What cannot be encoded takes all of them back."""
        wait.hold()
        try:
            for at in range(0, len(calls), BATCH_MOST):
                asks = self._asks(pool, calls[at:at + BATCH_MOST], references, trace)
                with Held(), self._lock:
                    if self._closing:
                        raise GridClosed("this client was closed")
                    self._codes.hold(references.values())
                    self._buffer.extend(self._waits.add(wait, wait.more(asks)))
                    self._flush()
                    self._ring()
                    self._reading.asked()
                self._reading.glance()                  # what has been acknowledged lets more go
        except BaseException:
            with self._lock:
                wait.release()
                if not wait.over:
                    self._withdraw(wait, cancelled())
            raise
        with self._lock:
            wait.release()

    def _take_back(self, wait: Wait, kill: bool) -> bool:
        """Behind `Answer.cancel`."""
        with self._lock:
            if wait.over:
                return False
            self._withdraw(wait, cancelled(), kill)
            return True

    def _withdraw(self, wait: Wait, failure: Failure, kill: bool = False) -> None:
        """Ends a wait, and tells the server what is not wanted any more. With the lock held."""
        if withdrawn := self._waits.withdraw(wait, failure):
            self._blobs.forget([call for call, _, _ in withdrawn])
            self._buffer = without(self._buffer, withdrawn)
            self._withdrawals.add(withdrawn, kill)
            if self._open:
                try:
                    self._commands.send(self._withdrawals.unsent(self._replies))
                except GridUnreachable:
                    self._lose()

    def _give_up(self, wait: Wait, failure: Failure) -> None:
        """The time of a wait is over. With the lock held."""
        failure.message += self._vacancies.why(self._waits.pools(wait))
        self._withdraw(wait, failure)

    def _flush(self) -> None:
        """Sends what has collected, if not too much is on its way. With the lock held."""
        while self._buffer and self._open and self._flying < ON_THEIR_WAY:
            batch = [self._buffer.popleft() for _ in range(min(BATCH_MOST, len(self._buffer)))]
            try:
                self._send(batch, again=False)
            except GridUnreachable:         # the reader will connect again, and ask for all that is unanswered
                self._lose()

    def _lose(self) -> None:
        """A write has failed: the reader is to connect again. With the lock held."""
        self._open = False
        self._opened.clear()
        self._reading.lose()

    def _send(self, batch: list[tuple[str, str, bytes]], *, again: bool) -> None:
        codes = self._codes.take(self._replies)
        arguments: list[Any] = [self.keys.prefix, self.name, "1" if again else ""]
        for pool, _, wire in batch:
            arguments += (pool, wire)
        data = pack(("EVALSHA", self._submit.digest, 1, self.keys.nodes, *arguments))
        self._flying += 1
        if codes or self._rung:
            self._replies.append(partial(self._submitted, batch))
            self._commands.send(codes + data)
        else:                                           # one write, and one wake of the server, for asking and for listening
            self._before.append(partial(self._submitted, batch))
            self._rung = True
            self._bell.send(data + self._listening)

    def _submitted(self, batch: list[tuple[str, str, bytes]], reply: Any) -> None:
        if isinstance(reply, GridUnreachable):      # the connection broke: the reader will ask for all of it again
            return
        self._flying -= 1
        if isinstance(reply, ServerError) and reply.code == "NOSCRIPT":      # somebody has flushed the server's scripts
            self._replies.append(lambda reply: None)
            self._commands.send(pack(("SCRIPT", "LOAD", self._submit.text)))
            self._send(batch, again=True)
        elif isinstance(reply, GridError):
            for _, _, wire in batch:
                self._waits.refuse(wire[:ID], Failure.of(reply))
        self._flush()

    # the reading thread

    def _lost(self, error: GridError) -> None:
        """The grid's processes have ended by themselves: nothing that is unanswered will be answered."""
        with self._lock:
            self._error = error
            self._lose()

    def _begin(self) -> None:
        if self._embedded is not None:
            self._embedded.start()
        self._reconnect(0.0)
        self._connected.set()

    def _end(self) -> None:
        with self._lock:
            if self._open:
                self._send_heard()
            self._open = False
            self._opened.set()                          # whoever waits for it finds the error
            reason = self._error or GridClosed("the client was closed before the answer arrived")
            self._waits.fail(lambda call: Failure.of(reason))
            for arrived in self._replies:
                arrived(reason)
            self._replies.clear()
        self._connected.set()
        self._commands.hang_up()                        # when the server has read all of it, acknowledgements too
        self._bell.close()
        self._disk.close()
        self._blobs.close()

    def _reconnect(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not self._closing:
            if self._error is not None:
                raise self._error
            with self._lock:
                self._open, self._flying = False, 0
                self._opened.clear()
                self._commands.close()
                replies, self._replies = self._replies + self._before, deque()
                self._before, self._rung = deque(), False
                self._codes.lost()
                self._acknowledged = False
                for arrived in replies:
                    arrived(GridUnreachable("the connection broke before the reply"))
            try:
                self._bell.hang_up()
                self._bell.connect()
                self._commands.connect()
                enter(self._commands, self.keys, "client")      # each time: the server may be another, or have begun anew
                if not self._connected.is_set():
                    self._first_look()
                self._commands.call("SCRIPT", "LOAD", self._submit.text)
                self._blobs.supply_again()
                self._reading.attach({self._bell.fileno(): weakly(self._hear, None),
                                      self._commands.fileno(): weakly(self._acknowledge, None)})
                with self._lock:
                    self._open = True
                    self._again()
                    self._ring()
                self._opened.set()
                return
            except GridUnreachable:
                if time.monotonic() >= deadline:
                    raise
            self._reading.pause(0.2)
            with self._lock:
                self._deadlines.expire(self._give_up)

    def _again(self) -> None:
        """Asks for everything that is unanswered. With the lock held."""
        self._commands.send(self._withdrawals.all(self._replies) + self._collect_again())
        asked = self._waits.asked()
        self._buffer.clear()
        for at in range(0, len(asked), BATCH_MOST):
            self._send(asked[at:at + BATCH_MOST], again=True)

    def _ring(self) -> None:
        """Listens, if something is to be heard and nobody does. With the lock held."""
        if not self._rung and self._open and (self._waits or self._strangers is not None):
            self._rung = True
            try:
                self._bell.send(self._listening)
            except GridUnreachable:
                self._lose()

    def _hear(self) -> None:
        """Replies on the bell's connection: to a submission that went before the pop, and what the pop found in the inbox."""
        self._bell.feed()
        with self._lock:
            while (reply := self._bell.ready()) is not False:
                if self._before:
                    self._before.popleft()(reply)
                    continue
                self._rung = False
                if isinstance(reply, GridError):
                    raise GridUnreachable(f"waiting for answers failed: {reply}") from reply
                for message in () if reply is None else reply[1]:
                    self._arrived(message)
                if not self._waits:
                    self._codes.clear()
                elif reply is None:         # silence
                    self._vacancies.doubt(self._waits.pools(), time.monotonic())
                    self._again()
                if len(self._waits.heard) >= HEARD_MOST:
                    self._send_heard()
                self._ring()
        if self._big:
            self._fetch_big()

    def _acknowledge(self) -> None:
        self._commands.feed()
        with self._lock:
            while (reply := self._commands.ready()) is not False:
                self._replies.popleft()(reply)

    # what the reading role asks

    def _busy(self) -> bool:
        return bool(self._waits or self._replies or self._before)

    def _patience(self) -> float:
        if not self._deadlines and not self._vacancies:
            return SILENCE_SECONDS
        with self._lock:
            return self._deadlines.seconds(self._vacancies.seconds(SILENCE_SECONDS, time.monotonic()))

    def _after(self) -> None:
        if self._reading.hold is not None and not self._waits:
            with self._lock:
                if not self._waits and not self._closing:
                    self._reading.hold = None
        if self._deadlines or self._codes or self._vacancies:
            with self._lock:
                self._look_for_workers()
                self._deadlines.expire(self._give_up)
                self._refresh_codes()

    def _idle(self) -> None:
        if self._waits.heard:
            with self._lock:
                if self._open:
                    self._send_heard()

