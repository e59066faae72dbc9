"""Functions that go by value: what of them a client stores on the server and for how long, and where a worker gets them.

The code of a function is stored under its hash, once, and lives for a day after its last use. A function that encloses something big is a
big value: its code is a part (parts.py), which every call of it needs as it needs its big arguments. So it stays while such a call is
pending, and what no call needs is bounded in bytes, also where a loop makes another closure over another array each time.
"""

from __future__ import annotations

import time

from .errors import GridError, PartsGone
from .limits import CODE_MS, CODES_MOST
from .messages import HEAD
from .parts import Part, body_of
from .store import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableSequence
    from typing import Any

    from .blobs import Blobs
    from .keys import Keys
    from .serialize import Reference
    from .signing import Seal
    from .steps import Steps

REFRESH_SECONDS = CODE_MS / 4000


class Codes:
    """The code, not the big one, that a client's unanswered calls may need; what the server has of it. With the client's lock held.

    `asked()`: all that is asked and not answered: (pool, parent, item).
    """

    def __init__(self, keys: Keys, seal: Seal, asked: Callable[[], Iterable[tuple[str, str, bytes]]]) -> None:
        self._keys, self._seal, self._asked = keys, seal, asked
        self._held: dict[str, bytes] = {}               # by reference, sealed
        self._stored: dict[str, float] = {}             # what the server has, and when it got it
        self._due: dict[str, None] = {}                 # what is to be stored before the next calls
        self._most = CODES_MOST                         # then it is looked which of them are needed
        self._refresh_at = time.monotonic() + REFRESH_SECONDS

    def __repr__(self) -> str:
        return f"<Codes {len(self._held)} held, {len(self._due)} to store>"

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, references: Iterable[Reference]) -> dict[str, bytes]:
        """For calls of these functions, which are about to be asked for: those that go by value, sealed."""
        codes = {each.text: self._held.get(each.text) or self._seal.close(b"F", each.text[1:].encode(), each.code)
                 for each in references if each.code}
        for text, code in codes.items():
            if text not in self._held:
                self._held[text] = code
                self._want(text, time.monotonic())
        if len(self._held) > self._most:
            self._let_go(codes)
        return codes

    def _let_go(self, fresh: Mapping[str, bytes]) -> None:
        """What no unanswered call is of goes. It is looked again when there is twice as much, so each function costs a look or two."""
        needed = {self._seal.own(item[HEAD:]).partition(b"\0")[0].decode() for _, _, item in self._asked()}
        self._held = {text: code for text, code in self._held.items() if text in needed or text in fresh}
        self._due = {text: None for text in self._due if text in self._held}
        self._most = max(CODES_MOST, 2 * len(self._held))

    def clear(self) -> None:
        """Nothing is unanswered."""
        if self._held:
            self._held.clear()
            self._due.clear()
            self._most = CODES_MOST

    def _want(self, text: str, now: float) -> None:
        if now - self._stored.get(text, -REFRESH_SECONDS) >= REFRESH_SECONDS:
            self._due[text] = None

    def lost(self) -> None:
        """The connection: the next server may have nothing."""
        self._stored.clear()
        self._due = dict.fromkeys(self._held)

    def refresh(self) -> bool:
        """Whether it is time to store again what is needed for longer than it lives."""
        if not self._held or (now := time.monotonic()) < self._refresh_at:
            return False
        self._refresh_at = now + REFRESH_SECONDS
        for text in self._held:
            self._want(text, now)
        return bool(self._due)

    def take(self, replies: MutableSequence[Callable[[Any], None]]) -> bytes:
        """Packed commands that store what the server may not have; who takes their replies is added to `replies`."""
        if not self._due:
            return b""
        now, data = time.monotonic(), []
        for text in self._due:
            data.append(pack(("SET", self._keys.code(text[1:]), self._held[text], "PX", CODE_MS)))
            replies.append(lambda reply, text=text: self._has_stored(text, reply))  # type: ignore[misc]
            self._stored[text] = now
        while len(self._stored) > CODES_MOST:
            del self._stored[next(iter(self._stored))]
        self._due.clear()
        return b"".join(data)

    def _has_stored(self, text: str, reply: Any) -> None:
        if isinstance(reply, GridError):        # the server was full, say: it has to be stored again
            self._stored.pop(text, None)
            if text in self._held:
                self._due[text] = None


def fetching(steps: Steps, blobs: Blobs) -> Callable[[str], bytes | bytearray | memoryview | None]:
    """Where a worker gets the code of a function from: what its reference says behind the `=`. None for what is not there any more."""
    def fetch(where: str) -> bytes | bytearray | memoryview | None:
        name, colon, length = where.partition(":")
        if not colon:
            return steps.fetch_code(name)
        try:
            code, = blobs.fetch(b"F", name.encode(), body_of(b"", [Part(name, int(length), name)], own=True))
        except PartsGone:
            return None
        return code
    return fetch
