"""What is unpickled here was made by somebody who has the grid's key, for this very call; and it is no larger than this process takes.

Unpickling runs code, and whoever can write to the server could put a pickle there. So arguments, results, failures and functions travel
sealed: `+`, a keyed BLAKE2b over kind, call id and body, the body. The id binds a body to its call: a genuine result of one call is no
result of another. Without a key a body travels behind a `-`; a process with a key refuses it, and one without refuses what is sealed,
so that a key which was forgotten somewhere is an error and not a gap.

    kinds    W arguments with the function's reference   R result   E failure   F function by value, bound to its hash
"""

from __future__ import annotations

from _operator import _compare_digest  # what hmac.compare_digest is; hmac would load OpenSSL

from .errors import GridDenied, NotTrusted, TooBig
from .limits import PAYLOAD_MOST

try:                                        # hashlib would load OpenSSL: several ms and 1.5 MB at each start
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

SIGNATURE = 16           # bytes
SEALED, OPEN = 43, 45    # '+', '-'
LEAST_KEY = 16           # bytes
_SHORT = 4096            # bytes of a body that is rather copied
FAILURE_MOST = 4 << 20   # bytes of a failure, whatever the limit: what tells of a body that is too large must itself arrive
_WHAT = {b"W": "the arguments", b"R": "the result", b"E": "the failure", b"F": "the code of function"}
_MORE = "GRIDWORKER_PAYLOAD_MOST, set where the grid's processes start, allows more"


class Seal:
    """Signs and checks with a grid's key; with None it only marks, and takes only what is not signed. `limit`: bytes of a body."""

    __slots__ = ("_state", "limit")

    def __init__(self, key: bytes | None = None, limit: int = PAYLOAD_MOST) -> None:
        self.limit = limit
        self._state = blake2b(key=key, digest_size=SIGNATURE) if key else None

    def __repr__(self) -> str:
        return f"<Seal {'signing' if self._state else 'not signing'} limit={self.limit}>"

    def _most(self, kind: bytes) -> int:
        return max(self.limit, FAILURE_MOST) if kind == b"E" else self.limit

    @property
    def signing(self) -> bool:
        """Whether there is a key."""
        return self._state is not None

    def check(self, kind: bytes, call: bytes, size: int) -> None:
        """TooBig if a body of so many bytes, with its parts, is not carried."""
        if size > self._most(kind):
            raise TooBig(f"{_WHAT[kind]} of {_short(call)}: {size:,} bytes pickled; a grid carries {self.limit:,} ({_MORE})")

    def close(self, kind: bytes, call: bytes, body: bytes) -> bytes:
        """The body as it travels. TooBig beyond the limit: here, where it was made, and not at who gets it."""
        if len(body) > self.limit:
            self.check(kind, call, len(body))
        if self._state is None:
            return b"-" + body
        state = self._state.copy()
        state.update(kind + call)
        state.update(body)
        return b"+" + state.digest() + body

    def own(self, sealed: bytes) -> bytes:
        """The body of what this process itself has closed, and nobody can have changed."""
        return sealed[1:] if self._state is None else sealed[SIGNATURE + 1:]

    def open(self, kind: bytes, call: bytes, sealed: bytes | memoryview) -> bytes | memoryview:
        """The body of what travelled, not copied if it is long. Nothing of it has been interpreted. NotTrusted, TooBig."""
        if type(sealed) is bytes and len(sealed) < _SHORT and self._state is not None and sealed[0] == SEALED:
            state, body = self._state.copy(), sealed[SIGNATURE + 1:]        # the usual case; slices cost less than views
            state.update(kind + call)
            state.update(body)
            if len(body) <= self.limit and _compare_digest(state.digest(), sealed[1:SIGNATURE + 1]):
                return body
        view = memoryview(sealed)
        if len(view) > self._most(kind) + SIGNATURE + 1:
            raise TooBig(f"{_WHAT[kind]} of {_short(call)}: {len(view):,} bytes; a grid carries {self.limit:,} ({_MORE})")
        mark = view[0] if len(view) else 0
        if self._state is None:
            if mark == OPEN:
                return view[1:]
            if mark == SEALED:
                raise NotTrusted(f"{_WHAT[kind]} of {_short(call)} is signed and this process has no key: Grid.connect(key=…), "
                                 "or $GRIDWORKER_SECRET_FILE")
        elif mark == SEALED:
            state = self._state.copy()
            state.update(kind + call)
            state.update(view[SIGNATURE + 1:])
            if _compare_digest(state.digest(), bytes(view[1:SIGNATURE + 1])):
                return view[SIGNATURE + 1:]
        elif mark == OPEN:
            raise NotTrusted(f"{_WHAT[kind]} of {_short(call)} is not signed: whoever made it does not have this grid's key")
        raise NotTrusted(f"{_WHAT[kind]} of {_short(call)} is not signed with this grid's key for this call: not used")


def _short(call: bytes) -> str:
    return bytes(call[:8]).decode("ascii", "replace")


def key_from(text: str | bytes | None) -> bytes | None:
    """The key in bytes, from hex or as it is; None stays None. GridDenied if it is not hex, or shorter than 16 bytes."""
    try:
        key = bytes.fromhex(text) if isinstance(text, str) else text
    except ValueError as error:
        raise GridDenied("the grid's key is not written in hex") from error
    if key is not None and not LEAST_KEY <= len(key) <= 64:
        raise GridDenied(f"the grid's key has {len(key)} bytes: it takes {LEAST_KEY} to 64")
    return key
