"""Big values in two: a small pickle that travels with its call, and big parts beside it, which are stored once and fetched where needed.

Big parts are the buffers that a pickle of protocol 5 may leave out (arrays of numpy, columns of pandas, buffers of arrow), and a pickle
that is big itself. What travels in place of a big value is a body that names its parts:

    body    a pickle; or  & · s or - · parts by commas · NL · pickle     s: the first part is the pickle, and nothing is behind the NL
    part    name:length:digest:mark      digest: of what is signed, or empty   mark: under which it may lie on a shelf (shelf.py), or empty

A part of arguments is named by its content, so that equal ones are one. A part of a result is named for its call and nothing else: a
result is read by few, and hashing it would cost more than all else that happens to it. Nothing here does I/O.
"""

from __future__ import annotations

import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

BIG = 64 << 10          # bytes: from here on the second round trip costs less than the way through the scripts
MANIFEST = b"&"         # no pickle begins with it


def digest(data: bytes | bytearray | memoryview) -> str:
    """32 hex digits of SHA-256. Not BLAKE2b as elsewhere: where the processor helps, and all recent ones do, this takes half the time."""
    from hashlib import sha256  # loads OpenSSL; only those who have big values do

    return sha256(data, usedforsecurity=True).hexdigest()[:32]


class Part:
    """A big part: name, bytes, digest or "", mark or "". `data` is None where it is only referred to."""

    __slots__ = ("__weakref__", "_own", "data", "digest", "laid", "length", "mark", "name")

    def __init__(self, name: str, length: int, digest: str = "", mark: str = "", data: bytes | memoryview | None = None) -> None:
        self.name, self.length, self.digest, self.mark, self.data = name, length, digest, mark, data
        self._own, self.laid = type(data) is bytes, False           # laid: on a shelf, under its mark, at some time

    def __repr__(self) -> str:
        return f"<Part {self.name} {self.length:,} bytes>"

    def settle(self, own: memoryview | None = None) -> None:
        """From now on the data are this part's own: whoever made the value may change it. `own`: the same, to be kept; else it copies."""
        if not self._own and self.data is not None:
            self.data, self._own = bytes(self.data) if own is None else own, True


class Aside:
    """What pickles leave out: given to them as `buffer_callback`. Of several pickles, a buffer is hashed once, and is one part.

    `parts` is what of the last arguments is stored beside them; `mark()` makes a mark for one.
    """

    __slots__ = ("_known", "_mark", "_views", "parts")

    def __init__(self, mark: Callable[[], str] = str) -> None:
        self._mark = mark
        self.parts: list[Part] = []
        self._views: list[memoryview] = []
        self._known: dict[tuple[int, int], Part] = {}      # a part keeps its object alive, and so the object's id

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:                 # not contiguous
            return True
        if view.nbytes < BIG:
            return True                     # stays in the pickle
        self._views.append(view)
        return False

    def take(self) -> list[memoryview]:
        """What the last pickle has left out, in order."""
        views, self._views = self._views, []
        return views

    def put_back(self, views: list[memoryview]) -> None:
        """The last pickle is not used, but the one before it, which had left these out."""
        self._views = views

    def part(self, view: memoryview) -> Part:
        """A buffer of arguments as a part, named by its content."""
        key = id(view.obj), view.nbytes
        if key not in self._known:
            self._known[key] = Part(name := digest(view), view.nbytes, name, self._mark(), view)
        return self._known[key]

    def body(self, stream: bytes) -> bytes:
        """The body of the arguments that have just been pickled; `parts` are its parts. A small pickle without any is its own body."""
        self.parts = [self.part(view) for view in self.take()]
        if own := len(stream) >= BIG:
            self.parts.insert(0, Part(name := digest(stream), len(stream), name, self._mark(), stream))
        return body_of(b"" if own else stream, self.parts, own=own) if self.parts else stream


def body_of(stream: bytes, parts: Sequence[Part], *, own: bool) -> bytes:
    """The body that names these parts. `own`: the first of them is the pickle.

    >>> body_of(b"pickle", [Part("0" * 32, 70_000)], own=False)
    b'&-00000000000000000000000000000000:70000::\\npickle'
    """
    named = ",".join([f"{part.name}:{part.length}:{part.digest}:{part.mark}" for part in parts])
    return b"%b%b%b\n%b" % (MANIFEST, b"s" if own else b"-", named.encode(), stream)


def parts_of(body: bytes | memoryview) -> tuple[bool, list[Part], bytes]:
    """Inverse of `body_of`: (own, parts, pickle). ValueError for what is none."""
    named, newline, stream = bytes(body).partition(b"\n")
    if named[:1] != MANIFEST or named[1:2] not in (b"s", b"-") or not newline:
        raise ValueError("not a body in parts")
    parts = []
    for entry in named[2:].decode("ascii").split(","):
        name, length, signed, mark = entry.split(":")
        parts.append(Part(name, int(length), signed, mark))
    return named[1:2] == b"s", parts, stream


def for_result(stream: bytes, views: list[memoryview], call: str, mark: str) -> tuple[bool, bytes, list[Part]]:
    """For `body_of`: whether a pickled result is a part itself, else its pickle; and its parts, which that mark tells from others."""
    own = len(stream) >= BIG
    data: list[bytes | memoryview] = [stream, *views] if own else [*views]
    parts = [Part(f"{call}.{mark}{number}", each.nbytes if isinstance(each, memoryview) else len(each), mark=mark, data=each)
             for number, each in enumerate(data)]
    return own, b"" if own else stream, parts


def load(body: bytes | memoryview, data: Sequence[bytes | bytearray | memoryview]) -> Any:
    """The value of a body whose parts are there. What is loaded lies in that very memory: arrays are not copied, and can be written."""
    own, _, stream = parts_of(body)
    return pickle.loads(data[0], buffers=data[1:]) if own else pickle.loads(stream, buffers=data)


class Whole(bytes):
    """A result's message whose parts have been fetched: its head as bytes, and the value, unpickled when it is first looked at."""

    body: bytes
    data: Sequence[bytearray | memoryview] | None
    _value: Any

    @classmethod
    def of(cls, head: bytes, body: bytes, data: Sequence[bytearray | memoryview]) -> Whole:
        """The message that begins with that head, with the body and the data of its parts."""
        whole = cls(head)
        whole.body, whole.data = body, data
        return whole

    def __repr__(self) -> str:
        return f"<Whole {self[1:9].decode('ascii', 'replace')}>"

    @property
    def value(self) -> Any:
        """The value: one object, however often it is looked at."""
        if self.data is not None:
            self._value = load(self.body, self.data)
            self.data = None
        return self._value

    def another(self) -> Whole:
        """The same for somebody else, sharing nothing. Only of one that nobody has looked at."""
        assert self.data is not None
        return Whole.of(bytes(self), self.body, [bytearray(each) for each in self.data])
