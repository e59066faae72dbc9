"""Calls as values: references to functions, canonical arguments, ids.

The id of a call is a hash of its function (import path and code version, or the hash of its pickle), its salt, and its canonical
arguments. Canonical means: equal dictionaries and sets have equal encodings whatever the order they were built in, equal strings
whether or not they are one object; 1, 1.0 and True are different arguments. What can't be put into a canonical form is hashed by
its pickle: it may be run twice where once would do, never mistaken for something else.

A function goes by import path, with a hash of its code, if importing that path gives this very function. Otherwise (notebooks,
scripts, lambdas, closures) it goes by value: cloudpickle, imported only then.
"""

from __future__ import annotations

import io
import marshal
import pickle
from _weakref import ref
from collections import deque
from functools import partial
from types import FunctionType

from .errors import CodeMismatch, NotACall, NotSerializable
from .limits import CODES_BYTES, CODES_MOST
from .parts import BIG, Aside, Part, digest, load
from .shelf import new_mark
from .versions import cannot_import, check_made_with, code_of, code_version, imported, made_with, path_of, version_of

try:                                        # hashlib would load OpenSSL: several ms at each start
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Loaded = tuple[Callable[..., Any], str]
    Versions = dict[int, tuple[str, str]]

SCALARS = frozenset((int, float, str, bytes, bool, type(None), complex))
_BY_VALUE = "="
_SHORT = 4096            # bytes of scalars that are marshalled


class Reference:
    """How a function travels: `text` names it on the wire, `token` tells the scripts which items are of one function.

    `code` is its pickle if it goes by value, else b"". If that is big, it is a `part` instead, which its calls need.
    """

    __slots__ = ("code", "name", "part", "state", "text", "token")

    def __init__(self, text: str, name: str, code: bytes = b"", salt: str = "", part: Part | None = None) -> None:
        self.text, self.name, self.code, self.part = text, name, code, part
        self.token = blake2b(text.encode(), digest_size=4).hexdigest()
        self.state = blake2b(f"{text}\0{salt}\0".encode(), digest_size=16)     # what the ids of its calls begin with

    def __repr__(self) -> str:
        return f"<Reference {self.text}>"


class salted:
    """A function whose calls are shared only with calls of the same salt. Without a salt it draws one: its own.

    `request("pool", salted(f, "run 7"), x)` runs f(x) anew although a result of f(x) is kept; asked for once more with the same salt, it
    is the same call. `fresh = salted(f)`: two requests of fresh(x) are one call, and one of salted(f)(x) is another.
    """

    __slots__ = ("function", "salt")

    def __init__(self, function: Callable[..., Any], salt: str | None = None) -> None:
        import os

        self.function, self.salt = function, os.urandom(8).hex() if salt is None else salt

    def __repr__(self) -> str:
        return f"salted({self.function!r}, {self.salt!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def pickled(value: Any, what: str, aside: Aside | None = None, root: str = "it", versions: Versions | None = None) -> bytes:
    """The value's pickle, protocol 5; by value what belongs to `__main__` or can't be imported. NotSerializable names `what`.

    It also tells which part of the value is to blame; `root` is what the value is called there. Big buffers go into `aside`, if there is
    one, and not into the pickle. `versions` are compared where it is unpickled.
    """
    try:
        data = _dumps(value, aside, versions)
        if b"__main__" not in data:
            return data
    except Exception:                       # lambdas, closures, local classes: cloudpickle decides
        data = b""
    try:
        left_out = aside.take() if aside is not None else []
        return _dumps_by_value(value, aside, versions)
    except Exception as error:
        if data:
            if aside is not None:
                aside.put_back(left_out)
            return data
        raise _unpicklable(value, what, root, error) from error


class _Compared(pickle.Pickler):
    """Puts the versions of functions into a pickle."""

    def __init__(self, out: io.BytesIO, aside: Aside | None, versions: Versions) -> None:
        super().__init__(out, 5, buffer_callback=aside)
        self._versions = versions

    def reducer_override(self, value: Any) -> Any:
        known = self._versions.get(id(value))
        return NotImplemented if known is None else (imported, known)


def _dumps(value: Any, aside: Aside | None, versions: Versions | None) -> bytes:
    if not versions:
        return pickle.dumps(value, 5, buffer_callback=aside)
    out = io.BytesIO()
    _Compared(out, aside, versions).dump(value)
    return out.getvalue()


def _dumps_by_value(value: Any, aside: Aside | None = None, versions: Versions | None = None) -> bytes:
    import cloudpickle

    if not versions:
        by_value: bytes = cloudpickle.dumps(value, 5, buffer_callback=aside)
        return by_value

    wanted = versions

    class Compared(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            known = wanted.get(id(value))
            return super().reducer_override(value) if known is None else (imported, known)

    out = io.BytesIO()
    Compared(out, 5, buffer_callback=aside).dump(value)
    return out.getvalue()


def versions_in(value: Any) -> Versions:
    """Path and code version, by id, of functions that are handed over and go by path: arguments, in containers and partials too.

    They are part of a call as the called function's version is: after an edit it is another call, which old workers refuse.
    """
    found: Versions = {}
    stack, seen = [value], set[int]()
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind is list or kind is tuple or kind is set or kind is frozenset or kind is dict:
            parts = value.values() if kind is dict else value
            if not SCALARS.issuperset(map(type, parts)) and id(value) not in seen:
                seen.add(id(value))         # it may contain itself
                stack += parts
        elif kind is partial:
            stack += (value.func, *value.args, *value.keywords.values())
        elif kind is FunctionType and (path := path_of(value)) is not None:
            found[id(value)] = path, version_of(value)
    return found


def _unpicklable(value: Any, what: str, root: str, error: Exception) -> NotSerializable:
    from .culprit import explain

    return NotSerializable(f"{what} cannot be pickled: {explain(value, error, root, lambda part: _dumps_by_value(part, Aside()))}")


def scalar(value: Any) -> bytes:
    """A result that is one of SCALARS, marshalled as arguments are, or pickled where that would be long."""
    data = b"m" + marshal.dumps(value, 2)
    return data if len(data) <= _SHORT else pickle.dumps(value, 5)


def _plain(value: object, aside: Aside | None = None) -> bytes:
    """A pickle without memo: the same bytes for equal scalars, and no difference between one string twice and two equal strings."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 5, buffer_callback=aside)
    pickler.fast = True
    pickler.dump(value)
    return out.getvalue()


def canonical(value: Any, depth: int = 0, aside: Aside | None = None) -> bytes:
    """An encoding that depends only on the value. With `aside`, digests stand in it for the big buffers of arrays and the like.

    >>> canonical({"a": 1, "b": {2, 3}}) == canonical({"b": {3, 2}, "a": 1})
    True
    >>> canonical((1, 2)) == canonical([1, 2]), canonical(1) == canonical(True)
    (False, False)
    """
    kind = type(value)
    if kind in SCALARS:
        return _plain(value)
    if depth > 200:
        raise NotSerializable("an argument is nested more than 200 deep, or contains itself")
    if kind is list or kind is tuple:
        if SCALARS.issuperset(map(type, value)):
            return (b"l" if kind is list else b"t") + _plain(tuple(value))
        return _joined(b"L" if kind is list else b"T", [canonical(part, depth + 1, aside) for part in value])
    if kind is dict:
        pairs = [[canonical(key, depth + 1, aside), canonical(part, depth + 1, aside)] for key, part in value.items()]
        return _joined(b"D", sorted(_joined(b"", pair) for pair in pairs))
    if kind is FunctionType and (path := path_of(value)) is not None:
        return b"V" + f"{path}@{version_of(value)}".encode()
    if kind is partial:
        parts = (value.func, value.args, value.keywords, vars(value))
        return _joined(b"A", [canonical(part, depth + 1, aside) for part in parts])
    if kind is set or kind is frozenset:
        return _joined(b"S" if kind is set else b"F", sorted(canonical(part, depth + 1, aside) for part in value))
    try:
        plain = _plain(value, aside)
    except Exception:                       # cyclic, or only cloudpickle can: its ordinary pickle then
        plain = b""
    views = aside.take() if aside is not None else []
    if not plain or b"__main__" in plain:   # what a script or notebook defines is told apart by what it is, not by its name
        plain = b"Q" + pickled(value, "an argument", aside)
        views = aside.take() if aside is not None else []
    else:
        plain = b"P" + plain
    if aside is None or not views:
        return plain
    return b"B" + _joined(b"", [aside.part(view).name.encode() for view in views]) + plain


def _joined(tag: bytes, parts: list[bytes]) -> bytes:
    return tag + b"%d:" % len(parts) + b"".join([b"%d:%b" % (len(part), part) for part in parts])


def short_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """What travels of a few scalars, the usual case, and is hashed, too; b"" for all others.

    They are marshalled: version 2 knows no references, so equal scalars have equal bytes, and it takes a fifth of a pickler's time.
    """
    if not kwargs and SCALARS.issuperset(map(type, args)):
        data = b"m" + marshal.dumps(args, 2)
        if len(data) <= _SHORT:
            return data
    return b""


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], aside: Aside | None = None) -> tuple[bytes, bytes]:
    """(what travels, what is hashed). With `aside`, what is big does not travel: `aside.parts` has it."""
    data = short_arguments(args, kwargs)
    return (data, data) if data else long_arguments(args, kwargs, aside)


def long_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], aside: Aside | None) -> tuple[bytes, bytes]:
    """As `encode_arguments`, of those that are not short."""
    if not kwargs and SCALARS.issuperset(map(type, args)):
        data = _plain(args)
        if aside is None or len(data) < BIG:
            return b"a" + data, b"a" + data
        return b"a" + aside.body(data), b"a#" + aside.parts[0].name.encode()
    mark, value = (b"k", (args, kwargs)) if kwargs else (b"a", args)
    data = pickled(value, "an argument", aside, "(args, kwargs)" if kwargs else "args", versions_in(value))
    if aside is None:
        return mark + data, mark + canonical(value)
    return mark + aside.body(data), mark + canonical(value, 0, aside)


def decode_arguments(data: bytes, parts: Sequence[bytes | bytearray | memoryview] = ()) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inverse of the first part of `encode_arguments`; `parts` are those that are stored beside."""
    if data[:1] == b"m":
        return marshal.loads(data[1:]), {}
    value = load(memoryview(data)[1:], parts) if parts else pickle.loads(memoryview(data)[1:])
    return value if data[:1] == b"k" else (value, {})


def call_id(reference: Reference, hashed: bytes) -> str:
    """32 hex digits: the name of the call everywhere."""
    state = reference.state.copy()
    state.update(hashed)
    return state.hexdigest()


def describe(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], limit: int = 60) -> str:
    """The call as one would write it, shortened: `divide(1, 0)`."""
    def short(value: Any) -> str:
        try:
            text = repr(value)
        except BaseException as error:      # a user's code: SystemExit, too
            text = f"<{type(value).__name__}: repr failed: {type(error).__name__}>"
        return text if len(text) <= limit else text[: limit - 1] + "…"

    parts = [short(value) for value in args] + [f"{key}={short(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"


class Functions:
    """Both ways between functions and references. One per process; not shared between threads without a lock of the caller.

    `fetch(where)` gets the pickle of a function that goes by value; `where` is its reference without the `=`.
    """

    def __init__(self, fetch: Callable[[str], bytes | bytearray | memoryview | None] | None = None) -> None:
        self._fetch = fetch
        self._references: dict[int, tuple[Any, Reference, Any]] = {}      # by id of the function, kept by a weak reference; with its code
        self._loaded: dict[bytes, Loaded] = {}
        self._by_value: deque[tuple[bytes, int]] = deque()      # those of them that go when it is too much, oldest first, and their size
        self._bytes = 0
        self._names: dict[str, str] = {}            # of functions by value, whose references do not tell

    def __repr__(self) -> str:
        return f"<Functions {len(self._references)} referenced, {len(self._loaded)} loaded>"

    def reference(self, function: Callable[..., Any]) -> Reference:
        """The function's reference. One that goes by value is pickled anew each time: what it refers to may have been edited."""
        known = self._references.get(id(function))
        if known is not None and known[0]() is function and known[2] is code_of(function):      # autoreload edits in place
            return known[1]
        if isinstance(function, Reference):     # made before, for many salts
            return function
        if type(function) is salted:
            inner = self.reference(function.function)
            return Reference(inner.text, inner.name, inner.code, function.salt, inner.part)
        if not callable(function):
            raise NotACall(f"{function!r} is not callable; write request(\"pool\", f, x), or requests(\"pool\", [(f, x), …])")
        if (path := path_of(function)) is not None:
            made = Reference(f"{path}@{made_with(function)}-{code_version(function)}", path.partition(":")[2])
            self._remember(function, made)
            return made
        made = _with_code(made_with(function).encode() + b"\0" + _by_value(function), _short_name(function))
        if len(self._names) > CODES_MOST:
            self._names.clear()
        self._names[made.text] = made.name
        return made

    def name(self, text: bytes) -> str:
        """What to call the function that a reference names, without importing or fetching anything.

        >>> Functions().name(b"math:sqrt@3.12-"), Functions().name(b"=0123456789abcdef")
        ('sqrt', 'function 01234567')
        """
        known = self._loaded.get(text)
        if known is not None:
            return _short_name(known[0])
        reference = text.decode()
        if reference.startswith(_BY_VALUE):
            return self._names.get(reference) or f"function {reference[1:9]}"
        return reference.partition("@")[0].rpartition(":")[2]

    def _remember(self, function: Callable[..., Any], made: Reference) -> None:
        number = id(function)
        try:
            self._references[number] = ref(function, lambda _: self._references.pop(number, None)), made, code_of(function)
        except TypeError:                   # cannot be referenced weakly (some builtins): looked up each time
            return

    def load(self, text: bytes) -> Callable[..., Any]:
        """The function that a reference names. CodeMismatch if it isn't here, or is another version."""
        return self.loaded(text)[0]

    def loaded(self, text: bytes) -> Loaded:
        """The function that a reference names, and its name. CodeMismatch as `load`."""
        known = self._loaded.get(text)
        if known is not None:
            return known
        function = self._load(text.decode())
        known = self._loaded[text] = function, self.reference(function).name
        return known

    def _keep(self, text: str, size: int) -> None:
        """A function by value is loaded. It stays, and the newest of the others as long as there is room."""
        self._by_value.append((text.encode(), size))
        self._bytes += size
        while len(self._by_value) > CODES_MOST or (self._bytes > CODES_BYTES and len(self._by_value) > 1):
            oldest, size = self._by_value.popleft()
            self._bytes -= size
            self._loaded.pop(oldest, None)

    def _load(self, text: str) -> Callable[..., Any]:
        if text.startswith(_BY_VALUE):
            code = self._fetch(text[1:]) if self._fetch else None
            if code is None:
                raise CodeMismatch(f"the code of function {text} is not stored on this grid any more: call it again from where it was made")
            versions = bytes(code[:1 << 16]).partition(b"\0")[0]
            check_made_with(versions.decode(), "this function by value")
            try:
                function: Callable[..., Any] = pickle.loads(memoryview(code)[len(versions) + 1:])
            except ImportError as error:
                raise cannot_import(error.name or "a module", error) from error
            self._keep(text, len(code))
            self._remember(function, Reference(text, _short_name(function)))
            return function
        path, _, version = text.partition("@")
        maker, _, version = version.partition("-")
        check_made_with(maker, path)
        function = imported(path, version)
        self._remember(function, Reference(text, path.partition(":")[2]))
        return function


def _with_code(code: bytes, name: str) -> Reference:
    """The reference of a function by value: `=` and its hash; if it is big `=` and its part, name:length."""
    if len(code) < BIG:
        return Reference(_BY_VALUE + blake2b(code, digest_size=16).hexdigest(), name, code)
    part = Part(hashed := digest(code), len(code), hashed, new_mark(), code)
    return Reference(f"{_BY_VALUE}{part.name}:{part.length}", name, part=part)


def _short_name(function: Callable[..., Any]) -> str:
    """What to call a function in messages: `make.add`, not `make.<locals>.add`."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__).replace("<locals>.", "")


def _by_value(function: Callable[..., Any]) -> bytes:
    try:
        return _dumps_by_value(function, versions=versions_in(function))
    except Exception as error:
        raise _unpicklable(function, f"the function {function!r}", _short_name(function), error) from error
