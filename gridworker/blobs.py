"""The big parts of values (parts.py) on the server: stored by whoever makes a value, fetched by whoever needs it, past all scripts.

Parts of arguments are there before their call is asked for, and for as long as it is pending: `keep.lua` enters the call as one that
needs them, and lets go what no pending call needs when there is more of it than is kept. So whatever ends a call needs no word about
its parts. An asker keeps its own copy until it has the answer, for a server that forgets everything. Parts of a result have a time to
live, as their result has; when they have been heard they are entered, too, and go, with their result, when there is no room.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from weakref import WeakValueDictionary

from .errors import GridError, GridFull, GridUnreachable, NotTrusted, PartsGone
from .limits import HOLD_MS, PARTS_MOST, RESULT_MS, UNHEARD_MS, UPLOAD_MS
from .messages import ID, RESULT
from .parts import MANIFEST, Part, Whole, digest, for_result, parts_of
from .signing import SIGNATURE
from .store import Script, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from .keys import Keys
    from .signing import Seal
    from .store import Connection

    T = TypeVar("T")

KNOWN_MOST = 10_000         # names of parts that the server has had lately
KNOWN_SECONDS = 60.0
AGAIN_MOST = 3              # a call whose result has gone before it was fetched is run again so often


class Blobs:
    """A process's way to the parts, over a connection of its own. For any thread, one at a time.

    `patience`: seconds for which a lost server is looked for; then GridUnreachable.
    """

    def __init__(self, connection: Connection, keys: Keys, seal: Seal, *, patience: float = 2.0) -> None:
        self._connection, self._keys, self._seal, self._patience = connection, keys, seal, patience
        self._lock = allocate_lock()
        self._connected = False
        self._unread = 0                                # replies that nobody has waited for
        self._keep = Script("keep")
        self._known: dict[str, float] = {}
        self._held: dict[str, list[Part]] = {}          # of calls that this process has asked for and not heard of
        self._parts: WeakValueDictionary[str, Part] = WeakValueDictionary()
        self._asked_again: dict[str, int] = {}
        self._at = 1 + ID + (SIGNATURE if seal.signing else 0) + 1

    @property
    def holding(self) -> bool:
        """Whether there is anything to `forget`."""
        return bool(self._held or self._asked_again)

    def __repr__(self) -> str:
        return f"<Blobs for {len(self._held)} calls>"

    # arguments

    def supply(self, wanted: Mapping[str, list[Part]]) -> None:
        """Before these calls are asked for: stores the parts of their arguments. TooBig, GridFull, GridUnreachable (then: `supply_again`).

        Returns when the values may be changed. Until `heard` of a call its parts are kept here, too.
        """
        for call, parts in wanted.items():
            self._seal.check(b"W", call.encode(), sum(part.length for part in parts))
        for call, parts in wanted.items():
            self._held[call] = [self._parts.setdefault(part.name, part) for part in parts]      # one copy for all calls
        try:
            with self._lock:
                self._insisting(lambda: self._supply({call: self._held[call] for call in wanted}, known=False))
        except GridError as error:
            if not isinstance(error, GridUnreachable):
                self.forget(wanted)
            raise
        finally:
            for call in wanted:
                for part in self._held.get(call, ()):
                    part.settle()

    def supply_again(self) -> None:
        """After the server was lost: whatever it has forgotten, for all calls that are not answered."""
        if self._held:
            with self._lock:
                self._insisting(lambda: self._supply(dict(self._held), known=True))

    def forget(self, calls: Mapping[str, object] | Sequence[str]) -> None:
        """These calls are answered, or not wanted any more."""
        for call in calls:
            self._held.pop(call, None)
            self._asked_again.pop(call, None)

    def _supply(self, wanted: Mapping[str, list[Part]], *, known: bool) -> None:
        calls: dict[str, list[str]] = {}
        parts: dict[str, Part] = {}
        for call, needs in wanted.items():
            for part in needs:
                parts[part.name] = part
                calls.setdefault(part.name, []).append(call)
        now = time.monotonic()
        to_send = [part for part in parts.values() if not known and now - self._known.get(part.name, -KNOWN_SECONDS) >= KNOWN_SECONDS]
        for most in (PARTS_MOST, PARTS_MOST, 0):        # the last: a full server has to let go what it can
            missing, refused = self._store(to_send, calls, most)
            if not missing:
                break
            to_send = [parts[name] for name in missing]
        else:
            if refused is not None:
                raise refused
            raise GridError(f"the server does not keep big values: {len(missing)} part(s) are gone at once; is it evicting keys?")
        for name in parts:
            self._known.pop(name, None)
            self._known[name] = now
        while len(self._known) > KNOWN_MOST:
            del self._known[next(iter(self._known))]

    def _store(self, parts: list[Part], calls: Mapping[str, list[str]], most: int) -> tuple[list[str], GridFull | None]:
        """Stores, and enters what is needed: names of parts that are not there, and why if the server has said so."""
        pieces: list[bytes | memoryview] = []
        if most == 0:
            pieces.append(self._entering({}, most))
        for part in parts:
            assert part.data is not None
            pieces += _set(self._keys.part(part.name), part.data, UPLOAD_MS, b"NX")
        pieces.append(self._entering(calls, most))
        self._connection.send_pieces(pieces)
        for part in parts:
            part.settle()                   # while the server reads
        self._read_unread()
        replies = [self._connection.reply() for _ in range(len(parts) + 1 + (most == 0))]
        if isinstance(replies[-1], GridError):
            raise replies[-1]
        errors = [reply for reply in replies if isinstance(reply, GridError)]
        full = next((error for error in errors if isinstance(error, GridFull)), None)
        if errors and full is None:
            raise errors[0]
        return [name.decode() for name in replies[-1]], full

    def _entering(self, calls: Mapping[str, Sequence[str]], most: int = PARTS_MOST) -> bytes:
        keys = self._keys
        entries = [word for name, needing in calls.items() for word in (name, len(needing), *needing)]
        return pack(("EVAL", self._keep.text, 2, keys.parts, keys.parts + ":bytes", keys.prefix, most, RESULT_MS, HOLD_MS, *entries))

    # results

    def leave(self, call: str, stream: bytes, views: list[memoryview]) -> bytes:
        """Stores the big parts of a call's pickled result; what is to travel in its place. TooBig, GridUnreachable."""
        self._seal.check(b"R", call.encode(), len(stream) + sum(view.nbytes for view in views))
        body, parts = for_result(stream, views, f"{call}.{os.urandom(4).hex()}", signed=self._seal.signing)
        if parts:
            with self._lock:
                self._insisting(lambda: self._leave(parts))
        return body

    def _leave(self, parts: list[Part]) -> None:
        pieces: list[bytes | memoryview] = []
        for part in parts:
            assert part.data is not None
            pieces += _set(self._keys.part(part.name), part.data, UNHEARD_MS + UPLOAD_MS)
        self._connection.send_pieces(pieces)
        self._read_unread()
        for part, reply in [(part, self._connection.reply()) for part in parts]:
            if isinstance(reply, GridFull):
                self._connection.run(Script("put"), (self._keys.part(part.name),), [self._keys.prefix, part.data, UNHEARD_MS + UPLOAD_MS])
            elif isinstance(reply, GridError):
                raise reply

    # fetching

    def is_big(self, message: bytes) -> bool:
        """Whether a message of an inbox is a result in parts, which `whole` is to be asked for."""
        return message[self._at:self._at + 1] == MANIFEST and message[0] == RESULT and type(message) is bytes

    def whole(self, message: bytes) -> Whole:
        """The message with its parts. PartsGone, NotTrusted, TooBig, GridUnreachable."""
        call = message[1:1 + ID]
        body = bytes(self._seal.open(b"R", call, memoryview(message)[1 + ID:]))
        data = self.fetch(b"R", call, body)
        return Whole.of(message[:1 + ID], body, data)

    def fetch(self, kind: bytes, call: bytes, body: bytes | memoryview) -> list[bytearray]:
        """The parts of a body. PartsGone, NotTrusted, TooBig, GridUnreachable."""
        try:
            _, parts, _ = parts_of(body)
        except ValueError as error:
            raise NotTrusted(f"the parts of a big value of {_short(call)} cannot be read: {error}") from error
        self._seal.check(kind, call, sum(part.length for part in parts))
        with self._lock:
            found = self._insisting(lambda: self._fetch(parts, results=kind == b"R"))
        data = [each for each in found if each is not None]
        if len(data) < len(parts):
            what, size = "result" if kind == b"R" else "arguments", sum(part.length for part in parts)
            raise PartsGone(f"the big {what} of call {_short(call)} ({size:,} bytes) are not on the server any more, or not as they were: "
                            "ask for the call again")
        if self._seal.signing:
            for part, each in zip(parts, data, strict=True):
                if digest(each) != part.digest:
                    raise NotTrusted(f"a big part of call {_short(call)} is not the one that was signed: not used")
        return data

    def _fetch(self, parts: list[Part], *, results: bool) -> list[bytearray | None]:
        self._read_unread()
        self._connection.send(b"".join([pack(("GET", self._keys.part(part.name))) for part in parts]))
        found = [self._connection.read_big(part.length) for part in parts]
        if results and None not in found:
            self._connection.send(self._entering({part.name: () for part in parts}))
            self._unread += 1               # its reply is read when there is time
        return found

    def again(self, message: bytes) -> bool:
        """The parts of a result are gone: so is the result. Whether its call should be asked for again; not for ever."""
        call = message[1:1 + ID].decode("ascii")
        with self._lock:
            self._insisting(lambda: self._connection.run(Script("forget"), (), [self._keys.prefix, call, message]))
        self._asked_again[call] = count = self._asked_again.get(call, 0) + 1
        return count <= AGAIN_MOST

    # the connection

    def _insisting(self, action: Callable[[], T]) -> T:
        """Does it on a connection that works, however often that breaks while there is patience; all that is done here can be repeated."""
        until = None
        while True:
            try:
                if not self._connected:
                    self._unread = 0
                    self._connection.connect(patience=0.0 if until is None else max(0.0, until - time.monotonic()))
                    self._connected = True
                return action()
            except BaseException as error:
                if not isinstance(error, GridFull | PartsGone):      # replies may be on their way that nobody will read
                    self._connected = False
                    self._connection.close()
                if not isinstance(error, GridUnreachable) or (until is not None and time.monotonic() >= until):
                    raise
            until = time.monotonic() + self._patience if until is None else until

    def _read_unread(self) -> None:
        while self._unread:
            self._connection.reply()
            self._unread -= 1

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _short(call: bytes) -> str:
    return call[:8].decode("ascii", "replace")


def _set(key: str, data: bytes | memoryview, ms: int, option: bytes = b"") -> list[bytes | memoryview]:
    """SET, packed around the data and not copied."""
    name = key.encode()
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (6 if option else 5, len(name), name, size)
    time_to_live = b"\r\n$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(ms)), ms)
    return [head, data, time_to_live + (b"$%d\r\n%b\r\n" % (len(option), option) if option else b"")]
