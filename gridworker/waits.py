"""Who waits for which call: the table behind every inbox, in workers and clients alike. Nothing here does I/O or knows how one waits.

Many answers arrive on one wire; the id in each says whose wait it is for. A wait is over when it has called back, which resumes a
greenlet, a coroutine or a client's thread. Each waiter unpickles its own copy: what they get is never shared between them.
"""

from __future__ import annotations

import marshal
import pickle

from .errors import GridError, NotTrusted, TooBig
from .limits import KEPT_MOST
from .messages import CYCLE, ID, PLAIN, RESULT, SCALAR, UNSIGNED, Failure, raised
from .parts import Whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .outgoing import Ask
    from .parking import Running
    from .signing import Seal

SHORT = 1024             # bytes of a result that the server rather reads whole than by itself
BATCH_MOST = 500


class Wait:
    """Somebody waits for several calls: until all are there, or (unless `patient`) until one has failed. `running`: the call that does."""

    __slots__ = ("calls", "missing", "outcomes", "over", "parent", "patient", "running", "wake")

    def __init__(self, calls: list[str], patient: bool, wake: Callable[[Wait], None], running: Running | None = None) -> None:
        self.calls, self.patient, self.wake, self.running = calls, patient, wake, running
        self.parent = running.call if running is not None else ""
        self.missing = set(calls)
        self.outcomes: dict[str, bytes] = {}
        self.over = False

    def __repr__(self) -> str:
        return f"<Wait {len(self.missing)} of {len(self.calls)} missing>"

    def hold(self) -> None:
        """More calls will come: it is not over before its `release`."""
        self.missing.add("")

    def more(self, asks: list[Ask]) -> list[Ask]:
        """These calls, too. Returns the asks of those whose outcome is not here already."""
        self.calls += [call for call, _ in asks]
        asks = [ask for ask in asks if ask[0] not in self.outcomes]
        if not self.over:
            self.missing.update(call for call, _ in asks)
        return asks

    def release(self) -> None:
        """That were all."""
        self.missing.discard("")
        if not self.missing and not self.over:
            self.over = True
            self.wake(self)

    def arrive(self, call: str, message: bytes) -> None:
        """The outcome of a call, as the inbox has it; wakes whoever waits if that was the last, or a failure."""
        if self.over or (self.missing and call not in self.missing):       # none missing, and not over: this was broken off by a signal
            return
        self.outcomes[call] = message
        self.missing.discard(call)
        if not self.missing or (message[0] != RESULT and not self.patient):
            self.over = True
            self.wake(self)


class Waits:
    """All waits of a process by call id: the demultiplexer's table. It keeps what was asked, so that it can be asked again.

    `named(item)`: what to call a call when something has become of it that only the server knows.
    """

    __slots__ = ("_asked", "_named", "_seal", "_waits", "heard")

    def __init__(self, seal: Seal = UNSIGNED, named: Callable[[bytes], str] | None = None) -> None:
        self._seal, self._named = seal, named
        self._waits: dict[str, list[Wait]] = {}
        self._asked: dict[str, list[tuple[str, str, bytes]]] = {}
        self.heard: list[bytes] = []        # results that came and have not been acknowledged, see `batches`

    def __repr__(self) -> str:
        return f"<Waits {len(self._waits)} calls>"

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, call: str) -> bool:
        return call in self._waits

    def item(self, call: str) -> bytes | None:
        """The item of a call that this process has asked for and waits for, as it was sent; else None."""
        asked = self._asked.get(call)
        return asked[0][2] if asked else None

    def oldest(self) -> float:
        """When the call that has been waiting longest had begun; 0.0 if none waits, or its waiter is no call."""
        for waits in self._waits.values():
            running = waits[0].running
            return running.begun if running is not None else 0.0
        return 0.0

    def add(self, wait: Wait, asks: Iterable[Ask]) -> list[tuple[str, str, bytes]]:
        """Registers a wait; `asks` are (call, (pool, parent, item)) of all its calls, or none. Returns what nobody has asked for yet."""
        fresh, waiting, asked_of, asked_for = [], self._waits, self._asked, False
        for call, ask in asks:
            asked_for = True
            waits = waiting.get(call)
            if waits is None:
                waiting[call], asked_of[call] = [wait], [ask]
                fresh.append(ask)
                continue
            if wait not in waits:                   # else it stands twice among these asks
                waits.append(wait)
            asked = asked_of[call]
            if all(known[1] != ask[1] for known in asked):
                asked.append(ask)
                fresh.append(ask)
        if not asked_for:                           # known by id only
            for call in wait.missing:
                waiting.setdefault(call, []).append(wait)
                asked_of.setdefault(call, [])
        return fresh

    def arrive(self, message: bytes) -> bool:
        """An outcome out of the inbox. False if nobody waits for it (a repeated answer)."""
        call = message[1:1 + ID].decode("ascii")
        waits = self._waits.get(call)
        if waits is None:
            return False
        asked, result = self._asked[call], message[0] == RESULT
        if not result and asked and self._named is not None and message[1 + ID:2 + ID] == PLAIN:
            failure = Failure.decode(message[1 + ID:])
            failure.chain = (self._named(asked[0][2]),)
            message = self._failed(message[1:1 + ID], failure)
        for wait in waits:
            wait.arrive(call, message if wait is waits[-1] or type(message) is not Whole else message.another())
        del self._waits[call], self._asked[call]        # at the end: what a signal breaks off is asked for again
        if result:
            self.hear(message)
        return True

    def hear(self, message: bytes) -> None:
        """A result is here, or nobody is waiting for it: it is to be acknowledged."""
        self.heard.append((b"R" if len(message) < SHORT else b"L") + message[1:1 + ID])

    def withdraw(self, wait: Wait, failure: Failure) -> list[tuple[str, str, str]]:
        """Ends a wait with that failure in place of what is missing. Returns (call, parent, pool) of asks not needed any more."""
        back = []
        for call in wait.missing:
            wait.outcomes[call] = self._failed(call.encode(), failure)
            waits, asked = self._waits[call], self._asked[call]
            waits.remove(wait)
            if all(other.parent != wait.parent for other in waits):
                back += [(call, parent, pool) for pool, parent, _ in asked if parent == wait.parent]
                self._asked[call] = [ask for ask in asked if ask[1] != wait.parent]
            if not waits:
                del self._waits[call], self._asked[call]
        wait.missing.clear()
        wait.over = True
        wait.wake(wait)
        return back

    def of(self, parent: str) -> list[Wait]:
        """The waits of one running call."""
        return list({id(wait): wait for waits in self._waits.values() for wait in waits if wait.parent == parent}.values())

    def fail(self, failure: Callable[[str], Failure]) -> None:
        """Ends all waits, each call with the failure that is made for its id."""
        for call in list(self._waits):
            self.refuse(call.encode(), failure(call))

    def refuse(self, call: bytes, failure: Failure) -> None:
        """Ends the waits for a call with a failure of this process's own making."""
        self.arrive(self._failed(call, failure))

    def _failed(self, call: bytes, failure: Failure) -> bytes:
        return b"E" + call + self._seal.close(b"E", call, failure.encode())

    def asks(self, call: str) -> list[tuple[str, str, bytes]]:
        """What was asked of one call and is not answered: (pool, parent, item)."""
        return list(self._asked.get(call, ()))

    def pools(self, wait: Wait | None = None) -> set[str]:
        """The pools that have been asked for what is missing: of one wait, or of all."""
        missing = self._asked if wait is None else wait.missing
        return {pool for call in missing for pool, _, _ in self._asked.get(call, ())}

    def known_by_id(self) -> list[str]:
        """Calls that are waited for and cannot be asked again: there is nothing of them but their ids."""
        return [call for call, asks in self._asked.items() if not asks]

    def asked(self) -> list[tuple[str, str, bytes]]:
        """Everything that was asked and not answered: (pool, parent, item)."""
        return [ask for asks in self._asked.values() for ask in asks]


def batches(heard: list[bytes]) -> list[bytes]:
    """What has been heard, as acknowledge.lua takes it: a letter and an id each, some hundred in one string. Clears the list."""
    size = min(BATCH_MOST, KEPT_MOST // 10 + 1)         # they go as they came, and more than a few should be kept
    joined = [b"".join(heard[at:at + size]) for at in range(0, len(heard), size)]
    heard.clear()
    return joined


def values(wait: Wait, single: bool, seal: Seal = UNSIGNED) -> Any:
    """What a wait that is over gives to the one who waited: the value or values; raises the failure unless it is patient.

    What is not signed as the seal demands is a failure, too: NotTrusted; and what is over its limit: TooBig.
    """
    if not wait.patient:
        for message in wait.outcomes.values():
            if message[0] != RESULT:
                raise outcome_error(message, seal)
        got = [_value(wait.outcomes[call], seal) for call in wait.calls]
    else:
        got = [value_of(wait.outcomes[call], seal) for call in wait.calls]
    return got[0] if single else got


def _value(message: bytes, seal: Seal) -> Any:
    if type(message) is Whole:
        return message.value
    body = seal.open(b"R", message[1:1 + ID], message[1 + ID:] if len(message) < 4096 else memoryview(message)[1 + ID:])
    return marshal.loads(body[1:]) if body[0] == SCALAR else pickle.loads(body)


def value_of(message: bytes, seal: Seal) -> Any:
    """The value in an inbox message, or the error if it is a failure or cannot be read."""
    if message[0] != RESULT:
        return outcome_error(message, seal)
    try:
        return _value(message, seal)
    except (NotTrusted, TooBig) as error:
        return error


def outcome_error(message: bytes, seal: Seal = UNSIGNED) -> GridError:
    """The error in an inbox message that is not a result: CallFailed; or NotTrusted, TooBig if it cannot be read."""
    if message[0] == CYCLE:
        way = message[1 + ID:].decode("ascii").split(",")
        text = f"the call would wait for itself, through {len(way)} call(s): {' > '.join(call[:8] for call in way)}"
        return raised(Failure("cycle", "CycleFound", text, chain=("a call that is waiting",)))
    body: bytes | memoryview = memoryview(message)[1 + ID:]
    if body[:1] != PLAIN:
        try:
            body = seal.open(b"E", message[1:1 + ID], body)
        except (NotTrusted, TooBig) as error:
            return error
    return raised(Failure.decode(body))
