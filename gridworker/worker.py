"""A worker: one logical thread that runs calls, parks those that wait, and talks to the server in steps.

The hub's round: resume what has been answered, run what has been handed over, then one step (steps.py) that carries everything that
has happened and brings what comes next; if there is nothing, wait for the bell. How many calls it takes at once follows from how long
calls of that function have taken, so that a batch lasts about 5 ms: the first batch is one call, slow calls are never hoarded.
"""

from __future__ import annotations

import logging
from collections import deque
from time import perf_counter
from types import CoroutineType

from .blobs import Blobs
from .codes import fetching
from .errors import CallCancelled, CodeMismatch, GridError, NotSerializable, PartsGone, TooBig, TooDeep
from .keys import checked
from .limits import DEPTH_MOST, HEARD_MOST, RESULT_MS
from .links import Climber
from .messages import CANCEL, CYCLE, ID, LINKS, TOKEN, UNASKED, UNSIGNED, WORK, Failure, depth_of, opened
from .naming import cycle, named
from .node import NOBODY, SEVERAL, become, reap
from .outgoing import encoded
from .parking import Runner, Running, current_runner
from .parts import BIG, MANIFEST, Aside
from .report import report
from .serialize import SCALARS, Functions, decode_arguments, pickled, scalar
from .steps import Steps
from .store import Script
from .tally import ASKED, BUSY, EXECUTED, FAILED, LOCAL, OLDEST, PARKED, SINCE
from .trace import MARK, Trace
from .waits import Wait, Waits, batches, values
from .withdrawal import Deadlines, cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .asking import Call
    from .coroutines import Coroutines
    from .node import Node
    from .outgoing import Ask
    from .serialize import Reference
    from .signing import Seal
    from .store import Connection

log = logging.getLogger("gridworker.worker")
BATCH_SECONDS = 0.005
BATCH_MOST = 512
BREADTH = 64             # up to so many parked calls it begins fresh ones although it has others to do: that makes fewer, larger steps
RESTING_MOST = 1000      # runners that are kept for later calls, as many as may be parked: a new one costs as much as ten switches
PARKED_MOST = 1000       # beyond, only calls made by calls are taken
BELL_SECONDS = 10.0      # the longest wait for the bell; then it asks again what it has not heard


class Drain(BaseException):
    """Raised by the signal handler while the worker waits for its bell: it is to leave."""


class Worker:
    """The worker of this process. `run()` returns when it has drained, or when the grid has given this incarnation up."""

    def __init__(self, node: Node, connection: Connection, *, cap: int = PARKED_MOST, seal: Seal = UNSIGNED) -> None:
        self.node, self.cap, self.seal = node, cap, seal
        self.waits = Waits(seal, lambda data: named(data, self.functions, seal))
        self.steps = Steps(node, connection, self.waits.asked, seal)
        self.blobs = Blobs(connection.another("parts"), node.keys, seal, patience=float("inf"))
        self.functions = Functions(fetching(self.steps, self.blobs))
        self.steps.before_asking_again = self.blobs.supply_again
        self.items: deque[bytes] = deque()              # handed over, not started
        self.parked = 0
        self.draining = False
        self.listening = False
        self._resting: list[Runner] = []
        self._woken: deque[tuple[Runner, Wait]] = deque()
        self._pace: dict[bytes, float] = {}             # function token -> seconds that a call takes, smoothed
        self._token = b""
        self._flush_at = 0.0
        self._deadlines = Deadlines()
        self._coroutines: Coroutines | None = None
        self._climber = Climber(self.steps)
        self.tally = node.tally
        self._ended, self._local, self._busy = 0, 0, 0.0       # what the next round adds to it
        self._debug = log.isEnabledFor(logging.DEBUG)

    def __repr__(self) -> str:
        return f"<Worker {self.node.name} queued={len(self.items)} parked={self.parked} waits={len(self.waits)}>"

    # the hub

    def run(self) -> None:
        """The hub: runs until drained or given up. GridUnreachable is survived."""
        become(self)
        try:
            while not self.draining and not self.steps.gone:
                self._round()
        except Drain:
            self.steps.connection.connect(patience=5.0)      # a reply to BLMPOP may still be on its way on the old one
        finally:
            become(None)

    def leave(self) -> None:
        """Sends what is finished, gives back what is not, and goes."""
        if not self.steps.gone:
            self.steps.exchange(want=0, token=b"", idle=False, capped=True)
            reap(self.steps.connection, Script("reap"), self.node.keys, self.node.incarnation, dead=False, tries=9, why=b"")

    def drain(self) -> None:
        """Tells it to leave when what it is computing now has come to a wait or an end. For signal handlers; may raise Drain."""
        self.draining = True
        if self.listening:
            raise Drain
        if self._coroutines is not None:
            self._coroutines.nudge()

    def _round(self) -> None:
        self._flush_at, pending = perf_counter() + BATCH_SECONDS, False
        while (self._woken or self.items) and perf_counter() <= self._flush_at:
            if not self._woken:
                (self._resting.pop() if self._resting else Runner(self._serve)).switch()
                continue
            pending = pending or self.steps.pending
            if pending and not self._brief(self._woken[0][0]):
                break                           # it may go on for long: what is done and asked is told first
            runner, _ = self._woken.popleft()
            self.parked -= 1
            if runner.running is not None:
                self.node.now[:] = runner.running.call.encode()
                self.tally[SINCE] = runner.running.begun
            runner.switch()
        if self._coroutines is not None:
            self.node.now[:] = SEVERAL
            self._coroutines.tick()
        self.node.now[:] = NOBODY
        self.tally[EXECUTED] += self._ended
        self.tally[LOCAL] += self._local
        self.tally[BUSY] += self._busy
        self._ended, self._local, self._busy = 0, 0, 0.0
        self.tally[SINCE], self.tally[PARKED], self.tally[OLDEST] = 0.0, self._waiting(), self.waits.oldest()
        unstarted = list(self.items)
        self.items.clear()
        idle = not self._woken and not unstarted
        messages, items = self.steps.exchange(want=self._appetite() if idle else 0, token=self._token, idle=idle,
                                              capped=self._capped(), spare=BREADTH - self._waiting(), back=unstarted)
        self._sort(messages)
        self.items.extend(items)
        self._deadlines.expire(self.withdraw)
        if len(self.waits.heard) >= HEARD_MOST:
            self.steps.acknowledge(batches(self.waits.heard))
        if idle and not self.items and not self._woken and not messages and not self.steps.gone:
            self.items.extend(self._climber.climb(self._appetite(), self._token, self._capped()))
            heard = [] if self.items or self.draining else self._listen()
            if not heard and self.waits.heard and not self.steps.pending:      # the server has what was heard here, before that is said
                self.steps.acknowledge(batches(self.waits.heard))
            self._sort(heard)

    def _brief(self, runner: Runner) -> bool:
        """Whether the call of a runner, as others of its function, is over within the present batch's time."""
        pace = None if runner.running is None else self._pace.get(runner.running.token)
        return pace is not None and perf_counter() + pace <= self._flush_at

    def _listen(self) -> list[bytes]:
        """Waits for the bell. A signal to leave ends the wait with Drain."""
        if self.blobs.untidy:
            self.blobs.tidy()
        if self._coroutines is not None and (self._coroutines.live or self._coroutines.listening):
            return self._coroutines.listen(self._deadlines.seconds(BELL_SECONDS))
        self.listening = True
        try:
            if self.draining:
                raise Drain
            return self.steps.listen(max(0.001, self._deadlines.seconds(BELL_SECONDS)))      # 0 would be for ever
        finally:
            self.listening = False

    def _sort(self, messages: list[bytes]) -> None:
        for message in messages:
            if message[0] == WORK:
                if message[1:1 + ID] not in self.steps.held:      # else it was found by a resync before the bell was heard
                    self.items.append(message[1:])
                    self.steps.held.add(message[1:1 + ID])
            elif message[0] == LINKS:
                self._climber.relink()
            elif message[0] == CANCEL:
                self._cancel(message[1:1 + ID])
            elif message[0] == CYCLE:
                self._heard(cycle(message, self.steps.items(message[1 + ID:].decode("ascii").split(",")), self.functions, self.seal))
            elif message[0] == UNASKED:
                self._unasked(b"R" + message[1:])
            elif self.blobs.is_big(message):
                self._fetch_big(message)
            else:
                self._heard(message)

    def _unasked(self, result: bytes) -> None:
        """Nobody waits for a result of this worker: it is kept like one that was heard, not for the hour of those that may be."""
        if self.blobs.is_big(result):
            self.blobs.enter(result)
        self.waits.hear(result)
        self.steps.acknowledge(batches(self.waits.heard))

    def _heard(self, message: bytes) -> None:
        self.waits.arrive(message)
        if self.blobs.holding:
            self.blobs.forget((message[1:1 + ID].decode("ascii"),))

    def _fetch_big(self, message: bytes) -> None:
        """A result in parts: waits for them."""
        call = message[1:1 + ID].decode("ascii")
        if call not in self.waits:
            return
        try:
            self._heard(self.blobs.whole(message))
        except GridError as error:
            if isinstance(error, PartsGone) and self.blobs.again(message):
                self.steps.ask(self.waits.asks(call))
            else:
                self.waits.refuse(message[1:1 + ID], Failure.of(error))

    # cancelling

    def _cancel(self, call: bytes) -> None:
        """Nobody wants this call any more: it is not begun, or told where it waits. One that has ended meanwhile is not here."""
        self.steps.held.discard(call)
        name = call.decode()
        if any(data[:ID] == call for data in self.items):
            self.items = deque(data for data in self.items if data[:ID] != call)
            self.steps.drop(name)
            return
        for runner, _ in self._woken:
            if runner.running is not None and runner.running.call == name:
                runner.running.cancelled = True
        if self._coroutines is not None:
            self._coroutines.cancel(name)
        for wait in self.waits.of(name):
            if wait.running is not None:
                wait.running.cancelled = True
            self.withdraw(wait, cancelled())

    def withdraw(self, wait: Wait, failure: Failure) -> None:
        """Ends a wait with that failure, and tells the grid which calls are not wanted any more."""
        if withdrawn := self.waits.withdraw(wait, failure):
            self.blobs.forget([call for call, _, _ in withdrawn])
            self.steps.take_back(withdrawn)

    def _waiting(self) -> int:
        return self.parked + (self._coroutines.live if self._coroutines is not None else 0)

    def _capped(self) -> bool:
        return self._waiting() >= self.cap

    def _appetite(self) -> int:
        pace = self._pace.get(self._token)
        return 1 if pace is None else max(1, min(BATCH_MOST, int(BATCH_SECONDS / max(pace, 1e-7))))

    # running calls

    def _serve(self) -> None:
        """A runner's life: calls, one after the other, with rests between."""
        runner = current_runner()
        assert runner is not None
        while True:
            while self.items:
                if self._execute(runner, self.items.popleft()) > self._flush_at:
                    break
            if len(self._resting) >= RESTING_MOST:
                return
            runner.running = None
            self._resting.append(runner)
            runner.parent.switch()

    def _execute(self, runner: Runner, data: bytes) -> float:
        """Runs a call, to its end or into a coroutine; when that was."""
        wire, token = data[:ID], data[ID:ID + TOKEN]
        call = wire.decode()
        runner.since, runner.spent = perf_counter(), 0.0
        self.node.now[:] = wire
        self.tally[SINCE] = runner.since
        running = Running(call, token, depth_of(data), runner.since)
        if (asked := self.waits.item(call)) is not None:
            self._local += 1
        if data[ID] == MARK:
            running.trace = Trace()
        try:
            reference, _, arguments = opened(data, self.seal, asked).partition(b"\0")
            function, running.name = self.functions.loaded(reference)
            running.args, running.kwargs = self._arguments(running, arguments)
            runner.running = running
            if self._debug:
                log.debug("start %s %s", call[:8], running.describe())
            value = function(*running.args, **running.kwargs)
            if type(value) is CoroutineType:        # of an `async def`, or of what calls one
                self._start(value, running)
                return perf_counter()
            body = self.body(running, value)
        except BaseException as error:      # whatever user code raises, SystemExit too, is the call's outcome
            running.name = running.name or f"call {call[:8]}"
            self.fail(running, error)
        else:
            self.finish(running, body)
        now = perf_counter()
        spent, known = runner.spent + now - runner.since, self._pace.get(token)
        self._busy += spent
        if known is None:
            if len(self._pace) > 10_000:        # functions by value, an edited cell each
                self._pace.clear()
            known = spent
        self._pace[token] = 0.75 * known + 0.25 * spent
        self._token = token
        return now

    def _arguments(self, running: Running, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        parts = self.blobs.fetch(b"W", running.call.encode(), memoryview(data)[1:]) if data[1:2] == MANIFEST else ()
        try:
            return decode_arguments(data, parts)
        except CodeMismatch:
            raise
        except Exception as error:
            raise NotSerializable(f"the arguments of {running.name} cannot be read on this worker: "
                                  f"{type(error).__name__}: {error}") from error

    def body(self, running: Running, value: Any) -> bytes:
        """What is sealed as the result of a call: its pickle, or, if that is big, where it is. NotSerializable, TooBig, GridUnreachable."""
        if running.cancelled:
            return b""                              # `finish` drops it: nothing is to be stored
        if type(value) in SCALARS:
            stream = scalar(value)
            return stream if len(stream) < BIG else self.blobs.leave(running.call, stream, [])
        aside = Aside()
        stream = pickled(value, f"the result of {running.name}", aside, "result")
        views = aside.take()
        return self.blobs.leave(running.call, stream, views) if views or len(stream) >= BIG else stream

    def _start(self, coroutine: CoroutineType[Any, Any, Any], running: Running) -> None:
        if self._coroutines is None:
            from .coroutines import Coroutines

            self._coroutines = Coroutines(self)
        self._coroutines.start(coroutine, running)

    def finish(self, running: Running, body: bytes) -> None:
        """A call has its result, pickled; the next step sends it."""
        if running.cancelled:
            self._dropped(running)
            return
        try:
            wire = running.call.encode()
            sealed = self.seal.close(b"R", wire, body)
        except TooBig as error:
            self.fail(running, error)
            return
        self._ended += 1
        if running.trace is not None:
            self._record(running, "")
        outcome = b"R" + wire + sealed
        if here := running.call in self.waits and body[:1] != MANIFEST:
            self._heard(outcome)                # who waits for it here goes on at once, not after the way to the server and back
        self.steps.complete(outcome, here)
        if self._debug:
            log.debug("done %s %s", running.call[:8], running.describe())

    def fail(self, running: Running, error: BaseException) -> None:
        """A call has failed; the next step says so to whoever waits."""
        if running.cancelled:
            self._dropped(running)
            return
        failure = report(error, running, self.node.name)
        self._ended += 1
        self.tally[FAILED] += 1
        if running.trace is not None:
            self._record(running, f"{failure.type}: {failure.message}")
        wire = running.call.encode()
        self.steps.complete(b"E" + wire + self.seal.close(b"E", wire, failure.encode()))
        log.info("failed %s %s: %s: %s", running.call[:8], running.describe(), failure.type, failure.message)

    def _record(self, running: Running, error: str) -> None:
        """Writes a traced call down, before anybody hears of its end."""
        assert running.trace is not None
        runner = current_runner()
        computed = runner.spent + perf_counter() - runner.since if runner is not None else perf_counter() - running.begun
        self.steps.write(self.node.keys.trace(running.call), running.trace.record(running, self.node.name, computed, error), RESULT_MS)

    def _dropped(self, running: Running) -> None:
        self.steps.drop(running.call)
        log.info("cancelled %s %s", running.call[:8], running.describe())

    # calls that calls make

    def request(self, pool: str, calls: list[Call], *, single: bool, patient: bool,
                timeout: float | None = None) -> Any:
        """Behind `gridworker.request` and `requests`: parks the running call until the values are there (or returns an awaitable)."""
        if pool:
            checked("pool", pool)
        if not calls:
            return []
        if self._coroutines is not None and (running := self._coroutines.running()) is not None:
            return self._coroutines.request(self._asks(pool, running, calls), running, single=single, patient=patient,
                                            timeout=timeout)
        runner = current_runner()
        if runner is None or runner.running is None:
            raise GridError("request() was called in a thread that a function on the grid has started; call it in the function itself")
        running = runner.running
        asks = self._asks(pool, running, calls)
        wait = Wait([call for call, _ in asks], patient, lambda wait: self._woken.append((runner, wait)), running)
        self.ask(wait, asks, timeout)
        self.parked += 1
        runner.park()
        if running.cancelled:
            raise CallCancelled(cancelled())
        return values(wait, single, self.seal)

    def ask(self, wait: Wait, asks: list[Ask], timeout: float | None = None) -> None:
        """Registers a wait; the next step asks for what nobody here has asked for yet."""
        if timeout is not None:
            self._deadlines.add(wait, timeout)
        fresh = self.waits.add(wait, asks)
        self.tally[ASKED] += len(fresh)
        self.steps.ask(fresh)

    def _asks(self, pool: str, running: Running, calls: list[Call]) -> list[Ask]:
        if running.cancelled:
            raise CallCancelled(cancelled())
        if running.depth >= DEPTH_MOST:
            raise TooDeep(f"{running.describe()} stands at the end of {running.depth} calls of calls: is this recursion without end? "
                          "(GRIDWORKER_DEPTH_MOST on the workers allows more)")
        trace = running.trace
        asks, big = encoded(pool, calls, {}, self._refer, self.seal, parent=running.call, depth=running.depth + 1, trace=trace is not None)
        if trace is not None:
            trace.made([call for call, _ in asks])
        if big:
            self.blobs.supply(big)
        return asks

    def _refer(self, function: Callable[..., Any]) -> Reference:
        reference = self.functions.reference(function)
        if reference.code:
            self.steps.store_code(reference)
        return reference
