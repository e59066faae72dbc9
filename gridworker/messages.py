"""What travels: items (a call on its way to be run) and failures; inbox messages are a letter, an id and a body.

    item     id (32 hex) · function token (8 hex) · tries (1 digit) · depth (4 digits) · sealed (reference · NUL · pickle)
    message  W<item> · R<id><sealed pickle> · E<id><sealed failure, or plain one> · C<id><id,id,…> · X<id> (cancelled) ·
             N<id><sealed pickle> (a result of its own that nobody is waiting for) · L (links have changed)

Sealed is what signing.py says; what is pickled in an item is (args, kwargs), and in a result the value (a short scalar is `m` and
marshalled). The scripts read the fixed-width head of an item and nothing else. These classes have slots and no dataclass decorator:
dataclasses import `inspect`, which would cost every worker a fifth of its start.
"""

from __future__ import annotations

import pickle

from .errors import CallCancelled, CallFailed, CallTimeout, CycleFound, NodeLost
from .signing import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ID, TOKEN = 32, 8
HEAD = ID + TOKEN + 1 + 4
WORK, RESULT, FAILURE, CYCLE, CANCEL, UNASKED, LINKS = 87, 82, 69, 67, 88, 78, 76     # first bytes of what lies in an inbox
SCALAR = 109        # 'm': a result that is a marshalled scalar, which no pickle begins with
VERSION = 1
UNSIGNED = Seal()
PLAIN = b"!"        # a failure that the grid itself made, for calls of any id: text only, never unpickled
CHAIN_MOST = 40     # calls shown of a chain; the middle of a longer one is left out


def item(call: str, token: str, reference: str, arguments: bytes, depth: int = 0, seal: Seal = UNSIGNED) -> bytes:
    """The item of a call that has not been tried yet; `depth`: how many calls stand above it.

    >>> split(item("0" * 32, "12345678", "math:sqrt@", b"args"))
    ('00000000000000000000000000000000', '12345678', 0, b'math:sqrt@', b'args')
    """
    return assembled(call.encode(), *shared(token, reference, depth), arguments, seal)


def shared(token: str, reference: str, depth: int) -> tuple[bytes, bytes]:
    """What the items of a request have in common: what the scripts read behind the call's id, and the reference."""
    return f"{token}0{depth:04}".encode(), reference.encode() + b"\0"


def assembled(wire: bytes, head: bytes, reference: bytes, arguments: bytes, seal: Seal) -> bytes:
    """The item of a call with that id, of its parts; see `shared`."""
    return wire + head + seal.close(b"W", wire, reference + arguments)


def split(data: bytes, seal: Seal = UNSIGNED) -> tuple[str, str, int, bytes, bytes]:
    """Call id, function token, deaths so far, function reference, pickled arguments. NotTrusted, TooBig. See `depth_of`."""
    reference, _, arguments = opened(data, seal).partition(b"\0")
    return data[:ID].decode("ascii"), data[ID:ID + TOKEN].decode("ascii"), data[ID + TOKEN] - 48, reference, arguments


def opened(data: bytes, seal: Seal, asked: bytes | None = None) -> bytes:
    """The function reference, a NUL and the pickled arguments. `asked`: the item as this process has sent it, if it has: one that
    comes back as it was needs no second look. NotTrusted, TooBig.
    """
    return seal.own(data[HEAD:]) if data == asked else bytes(seal.open(b"W", data[:ID], data[HEAD:]))


def depth_of(data: bytes) -> int:
    """How many calls stand above the one in an item.

    >>> depth_of(item("0" * 32, "12345678", "math:sqrt@", b"args", 12))
    12
    """
    return int(data[HEAD - 4:HEAD])


def shortened(chain: tuple[str, ...]) -> tuple[str, ...]:
    """A chain of calls for people: without the middle of a long one."""
    if len(chain) <= CHAIN_MOST:
        return chain
    return (*chain[:CHAIN_MOST // 4], "…", *chain[1 - CHAIN_MOST + CHAIN_MOST // 4:])


class Failure:
    """Why a call failed: what a worker reports, and what a `CallFailed` shows.

    kind        "raised", "lost", "cycle", "cancelled" or "timeout"
    type        class name of the exception          message    its text
    traceback   remote traceback, as text            node       where it happened
    chain       the calls that led there as text, the failing one last
    cause       the pickled exception, or b"" if it can't be pickled
    """

    __slots__ = ("cause", "chain", "kind", "message", "node", "traceback", "type")

    def __init__(self, kind: str, type: str, message: str, *, traceback: str = "", node: str = "", chain: tuple[str, ...] = (),
                 cause: bytes = b"") -> None:
        self.kind, self.type, self.message = kind, type, message
        self.traceback, self.node, self.chain, self.cause = traceback, node, chain, cause

    def __repr__(self) -> str:
        return f"<Failure {self.type}: {self.message} in {' > '.join(self.chain) or '?'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failure) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def _fields(self) -> tuple[object, ...]:
        return self.kind, self.type, self.message, self.traceback, self.node, self.chain, self.cause

    def encode(self) -> bytes:
        """The wire form: a pickle of plain strings, so that reading it never needs the exception's class."""
        return pickle.dumps((VERSION, *self._fields()), 5)

    def plain(self) -> bytes:
        """The wire form of what has no cause: scripts can give it to any call, since there is nothing in it to unpickle or to sign."""
        return PLAIN + "\0".join((self.kind, self.type, self.message, self.node)).encode()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Failure:
        """The failure in its wire form; garbage becomes a failure that says so, since somebody waits for an answer."""
        try:
            if data[:1] == PLAIN:
                kind, type, message, node = bytes(data[1:]).decode().split("\0")
                return cls(kind, type, message, node=node)
            version, kind, type, message, traceback, node, chain, cause = pickle.loads(data)
            if version != VERSION:
                raise ValueError(f"version {version}")
        except Exception as error:
            return cls("raised", "BadFailure", f"the report of a failure could not be read: {error!r}")
        return cls(kind, type, message, traceback=traceback, node=node, chain=tuple(chain), cause=cause)

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure that stands for an error of this process's own making."""
        if isinstance(error, CallFailed):
            return error.failure
        return cls("lost", type(error).__name__, str(error), cause=pickle.dumps(error))

    def called_by(self, call: str) -> Failure:
        """The same failure as seen by the caller of the call."""
        return Failure(self.kind, self.type, self.message, traceback=self.traceback, node=self.node,
                       chain=shortened((call, *self.chain)), cause=self.cause)

    def text(self) -> str:
        """All of it for a human: what failed, who had called it, the remote traceback."""
        *callers, last = self.chain or ("a call",)
        lines = [f"{last} {'raised' if self.kind == 'raised' else 'failed:'} {self.type}: {self.message}"]
        lines += [f"    called by {caller}" for caller in reversed(callers)]
        if self.traceback:
            lines += [f"remote traceback (node {self.node or '?'}):", self.traceback.rstrip()]
        return "\n".join(lines)


_KINDS: dict[str, type[CallFailed]] = {"lost": NodeLost, "cycle": CycleFound, "cancelled": CallCancelled,
                                       "timeout": CallTimeout}


def raised(failure: Failure) -> CallFailed:
    """The error to raise at the caller: also an instance of the remote exception's class if that class can be mixed in."""
    cause: BaseException | None = None
    if failure.cause:
        try:
            cause = pickle.loads(failure.cause)
        except Exception:                   # its class is not importable here: the text has to do
            cause = None
    error: CallFailed = _mixed(failure, cause) if isinstance(cause, Exception) else _KINDS.get(failure.kind, CallFailed)(failure)
    error.__cause__ = cause
    return error


def _mixed(failure: Failure, cause: Exception) -> CallFailed:
    if isinstance(cause, CallFailed):
        return CallFailed(failure)
    kind = cause.__class__
    try:
        mixed: Any = type(kind.__name__, (CallFailed, kind), {"__module__": kind.__module__, "__slots__": ()})
        error: CallFailed = mixed.__new__(mixed, failure)
        CallFailed.__init__(error, failure)
        for name, value in getattr(cause, "__dict__", {}).items():
            error.__dict__.setdefault(name, value)
        error.args = cause.args
        _copy_members(cause, error)
    except Exception:                       # its memory layout, constructor or metaclass does not allow it
        return CallFailed(failure)
    return error


def _copy_members(cause: Exception, error: CallFailed) -> None:
    """What exceptions keep outside of their dictionary: the `errno` of an OSError, the `name` of an ImportError."""
    from types import GetSetDescriptorType, MemberDescriptorType

    for kind in cause.__class__.__mro__:
        if kind is Exception:
            return
        for name, member in vars(kind).items():
            if isinstance(member, GetSetDescriptorType | MemberDescriptorType) and not name.startswith("__"):
                try:
                    setattr(error, name, getattr(cause, name))
                except Exception:           # not set there, or not to be set
                    continue
