"""The big parts of values (parts.py) on the server: stored by whoever makes a value, fetched by whoever needs it, past all scripts.

Parts of arguments are there before their call is asked for, and for as long as it is pending: `keep.lua` enters the call as one that
needs them, and lets go what no pending call needs when there is more of it than is kept. So whatever ends a call needs no word about
its parts. An asker keeps its own copy until it has the answer, for a server that forgets everything. Parts of a result have a time to
live, as their result has; when they have been heard they are entered, too, and go, with their result, when there is no room.

On a grid of one machine parts lie on its shelf (shelf.py), and the server has notes of them. Then nobody waits for it: whoever stores
says what he has stored, and whoever needs it takes it.
"""

from __future__ import annotations

import time
from _thread import allocate_lock
from weakref import WeakValueDictionary

from .errors import GridError, GridFull, GridUnreachable, NotTrusted, PartsGone
from .limits import HOLD_MS, PARTS_MOST, RESULT_MS, UNHEARD_MS, UPLOAD_MS
from .messages import ID, RESULT
from .parts import MANIFEST, Part, Whole, body_of, digest, for_result, parts_of
from .shelf import Shelf, beside, new_mark, note, read_note
from .signing import SIGNATURE
from .store import Script, ServerError, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    from .keys import Keys
    from .signing import Seal
    from .store import Connection

    T = TypeVar("T")

_NONE: Mapping[str, bytes] = {}

KNOWN_MOST = 10_000         # names of parts that the server has had lately
KNOWN_SECONDS = 60.0
UNREAD_MOST = 32
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
        self._doubt = False                             # one of them did not come: a note may have been lost
        self._keep, self._put, self._forget = Script("keep"), Script("put"), Script("forget")
        self._shelf: Shelf | None = None
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
        needs = {call: [self._parts.setdefault(part.name, part) for part in parts] for call, parts in wanted.items()}   # one copy for all
        self._held.update(needs)            # another thread that asks for the same may hear of it, and forget it, at any time
        try:
            with self._lock:
                self._insisting(lambda: self._supply(needs, known=False))
        except BaseException as error:      # Ctrl-C, too
            if not isinstance(error, GridUnreachable):
                self.forget(wanted)
            raise
        finally:
            for parts in needs.values():
                for part in parts:
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
        notes = {part.name: note(part) for part in parts if self._lay(part)}
        sent = [part for part in parts if part.name not in notes]
        pieces: list[bytes | memoryview] = []
        if most == 0:
            pieces.append(self._entering({}, most=most))
        for part in sent:
            pieces += _set(self._keys.part(part.name), _data(part), UPLOAD_MS, b"NX")
        pieces.append(self._entering(calls, notes, most))
        self._connection.send_pieces(pieces)
        for part in parts:                  # while the server reads
            part.settle(self._taken(part, part.mark) if part.name in notes else None)
        if most and len(notes) == len(calls):           # nothing can be missing
            self._leave_unread(1)
            return [], None
        self._read_unread()
        if most == 0:
            self._entered(self._connection.reply())
        stored = [self._connection.reply() for _ in sent]
        missing = self._entered(self._connection.reply())
        errors = [reply for reply in stored if isinstance(reply, GridError)]
        full = next((error for error in errors if isinstance(error, GridFull)), None)
        if errors and full is None:
            raise errors[0]
        return missing, full

    def _entering(self, calls: Mapping[str, Sequence[str]], notes: Mapping[str, bytes] = _NONE, most: int | None = None) -> bytes:
        keys = self._keys
        entries = [word for name, needing in calls.items() for word in (name, notes.get(name, b""), len(needing), *needing)]
        most = PARTS_MOST if most is None else most
        most = most if self._shelf is None else min(most, self._shelf.most)
        return pack(("EVALSHA", self._keep.digest, 2, keys.parts, keys.parts + ":bytes", keys.prefix, most, RESULT_MS, HOLD_MS, *entries))

    def _entered(self, reply: Any) -> list[str]:
        """What `keep` answers: names of parts that are not there. Those that it has let go are taken from the shelf."""
        if isinstance(reply, GridError):
            raise reply
        missing, gone = reply
        for name, what in zip(gone[::2], gone[1::2], strict=True):
            if self._shelf is not None and (mark := read_note(what)) is not None:
                self._shelf.remove(self._keys.part(name.decode()), mark)
        return [name.decode() for name in missing]

    def _lay(self, part: Part) -> bool:
        if self._shelf is None or not part.mark:
            return False
        if part.laid:                       # under that mark it may be about to be removed
            part.mark = new_mark()
        part.laid = True
        return self._shelf.put(self._keys.part(part.name), part.mark, _data(part))

    # results

    def leave(self, call: str, stream: bytes, views: list[memoryview]) -> bytes:
        """Stores the big parts of a call's pickled result; what is to travel in its place. TooBig, GridUnreachable."""
        self._seal.check(b"R", call.encode(), len(stream) + sum(view.nbytes for view in views))
        own, stream, parts = for_result(stream, views, call, new_mark())
        if not parts:
            return stream
        with self._lock:
            self._insisting(lambda: self._leave(parts))
        return body_of(stream, parts, own=own)

    def enter(self, message: bytes) -> None:
        """Nobody will fetch this result of a call, which has been left: it counts as heard."""
        _, parts, _ = parts_of(bytes(self._seal.open(b"R", message[1:1 + ID], memoryview(message)[1 + ID:])))
        with self._lock:
            self._insisting(lambda: self._enter(parts, {part.name: note(part) for part in parts if part.mark}))

    def _enter(self, parts: list[Part], notes: Mapping[str, bytes]) -> None:
        self._connection.send(self._entering({part.name: () for part in parts}, notes))
        self._leave_unread(1)

    def _leave(self, parts: list[Part]) -> None:
        pieces: list[bytes | memoryview] = []
        sent = []
        for part in parts:
            if self._lay(part):
                pieces.append(pack(("EVALSHA", self._put.digest, 1, self._keys.part(part.name), *self._putting(note(part)))))
                continue
            part.mark, part.digest = "", digest(_data(part)) if self._seal.signing else ""
            sent.append(part)
            pieces += _set(self._keys.part(part.name), _data(part), UNHEARD_MS + UPLOAD_MS)
        self._connection.send_pieces(pieces)
        if not sent:
            self._leave_unread(len(parts))
            return
        self._read_unread()
        for part, reply in [(part, self._connection.reply()) for part in parts]:
            if isinstance(reply, GridFull):
                self._connection.run(self._put, (self._keys.part(part.name),), self._putting(_data(part)))
            elif isinstance(reply, GridError):
                raise reply

    def _putting(self, value: bytes | memoryview) -> list[Any]:
        return [self._keys.prefix, value, UNHEARD_MS + UPLOAD_MS]

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

    def fetch(self, kind: bytes, call: bytes, body: bytes | memoryview) -> list[bytearray | memoryview]:
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
                if type(each) is bytearray and digest(each) != part.digest:
                    raise NotTrusted(f"a big part of call {_short(call)} is not the one that was signed: not used")
        return data

    def _fetch(self, parts: list[Part], *, results: bool) -> list[bytearray | memoryview | None]:
        """The parts: on the shelf, where they are said to be; else what the server has, or where it says that they are."""
        found: list[bytearray | memoryview | None] = [self._taken(part, part.mark) for part in parts]
        if asked := [number for number, each in enumerate(found) if each is None]:
            self._read_unread()
            self._connection.send(b"".join([pack(("GET", self._keys.part(parts[number].name))) for number in asked]))
        for number, value in [(number, self._connection.read_big(parts[number].length)) for number in asked]:
            found[number] = value if type(value) is bytearray else self._noted(parts[number], value)
        if results and None not in found:
            notes = {part.name: note(part) for part, each in zip(parts, found, strict=True) if type(each) is memoryview}
            self._enter(parts, notes)
        return found

    def _taken(self, part: Part, mark: str) -> memoryview | None:
        return self._shelf.read(self._keys.part(part.name), mark, part.length) if self._shelf is not None and mark else None

    def _noted(self, part: Part, value: bytes | bytearray | None) -> memoryview | None:
        """A part that the server has a note of. If somebody has emptied the shelf, the note goes, so that the part can be stored again."""
        if value is None or (mark := read_note(value)) is None:
            return None
        if self._shelf is None:
            raise GridError(f"a big value of {part.length:,} bytes lies in the memory of the server's machine: connect to this grid there, "
                            "through the socket that its server was started with")
        if (found := self._taken(part, mark)) is None:
            self._let_go(self._keys.part(part.name), value)
        return found

    def _let_go(self, key: str, said: bytes | bytearray) -> None:
        self._read_unread()
        self._connection.run(self._forget, (key,), [self._keys.prefix, said])

    def again(self, message: bytes) -> bool:
        """The parts of a result are gone: so is the result. Whether its call should be asked for again; not for ever."""
        call = message[1:1 + ID].decode("ascii")
        with self._lock:
            self._insisting(lambda: self._let_go(self._keys.call(call), message))
        self._asked_again[call] = count = self._asked_again.get(call, 0) + 1
        return count <= AGAIN_MOST

    # the connection

    def _insisting(self, action: Callable[[], T]) -> T:
        """Does it on a connection that works, however often that breaks while there is patience; all that is done here can be repeated."""
        until, loaded = None, False
        while True:
            try:
                if not self._connected:
                    self._doubt, self._unread = self._doubt or self._unread > 0, 0
                    self._connection.connect(patience=0.0 if until is None else max(0.0, until - time.monotonic()))
                    self._shelf = beside(self._connection.address)
                    self._connection.pipeline([("SCRIPT", "LOAD", script.text) for script in (self._keep, self._put)])
                    self._connected = loaded = True
                    if self._shelf is not None and self._doubt:
                        self._supply(dict(self._held), known=True)
                    self._doubt = False
                return action()
            except BaseException as error:
                if isinstance(error, ServerError) and error.code == "NOSCRIPT" and not loaded:
                    self._connected = False         # somebody has flushed the server's scripts
                    continue
                if not isinstance(error, GridFull | PartsGone):      # replies may be on their way that nobody will read
                    self._connected = False
                    self._connection.close()
                if not isinstance(error, GridUnreachable) or (until is not None and time.monotonic() >= until):
                    raise
            until = time.monotonic() + self._patience if until is None else until

    def _leave_unread(self, replies: int) -> None:
        """These replies are read when there is time, or when there are many."""
        self._unread += replies
        if self._unread >= UNREAD_MOST:
            self._read_unread()

    def _read_unread(self) -> None:
        while self._unread:
            reply = self._connection.reply()
            self._unread -= 1
            if isinstance(reply, ServerError):
                self._connected, self._doubt = False, True      # somebody has flushed the server's scripts
            elif isinstance(reply, list):
                self._entered(reply)

    @property
    def untidy(self) -> bool:
        """Whether there is anything to `tidy`."""
        return self._unread > 0

    def tidy(self) -> None:
        """While others are at work: reads what the server has said meanwhile, and takes from the shelf what it has let go."""
        if self._lock.acquire(False):
            try:
                self._read_unread()
                if not self._connected:
                    self._insisting(bool)
            except GridError:               # whoever needs the connection next makes a new one
                self._connected = False
            finally:
                self._lock.release()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _data(part: Part) -> bytes | memoryview:
    assert part.data is not None
    return part.data


def _short(call: bytes) -> str:
    return call[:8].decode("ascii", "replace")


def _set(key: str, data: bytes | memoryview, ms: int, option: bytes = b"") -> list[bytes | memoryview]:
    """SET, packed around the data and not copied."""
    name = key.encode()
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (6 if option else 5, len(name), name, size)
    time_to_live = b"\r\n$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(ms)), ms)
    return [head, data, time_to_live + (b"$%d\r\n%b\r\n" % (len(option), option) if option else b"")]
