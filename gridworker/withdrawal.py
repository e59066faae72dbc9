"""Taking back what was asked: cancellation and timeouts by the caller, for clients and for calls that ask for calls.

An asker that takes an ask back hears at once that the call was cancelled, whatever becomes of it: the last asker's withdrawal cancels the
call itself (cancel.lua). Clients keep a withdrawal until the server has acknowledged it, so that a broken connection loses none.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from heapq import heappop, heappush

from .errors import GridUnreachable
from .messages import ID, Failure
from .store import Script, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .keys import Keys
    from .waits import Wait

OPTIONS = ("timeout", "durable", "memo_errors", "trace")       # keywords of a client's request that are not passed on
BATCH = 500                           # withdrawals in one script
Withdrawn = tuple[str, str, str]      # call, the call that asked for it or "", pool it was sent to or ""


def cancelled() -> Failure:
    """What an asker gets that has cancelled."""
    return Failure("cancelled", "CallCancelled", "it was cancelled by who asked for it")


def timed_out(wait: Wait, timeout: float) -> Failure:
    """What an asker gets whose time is over."""
    text = f"{len(wait.missing)} of {len(wait.calls)} call(s) were not done within {timeout:g} s and are cancelled"
    return Failure("timeout", "CallTimeout", text)


def cancel_arguments(keys: Keys, asker: str, withdrawn: list[Withdrawn], kill: bool) -> tuple[tuple[str, ...], list[Any]]:
    """Keys and arguments of cancel.lua."""
    return (keys.nodes, keys.pools), [keys.prefix, asker, "1" if kill else "", *(word for ask in withdrawn for word in ask)]


def own_option(function: Any, name: str, kwargs: dict[str, Any]) -> Any:
    """Takes an option of the request out of the function's keywords. TypeError if the function has a parameter of that name."""
    if name not in kwargs:
        return None
    code = getattr(function, "__code__", None)
    if code is not None and name in code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]:
        raise TypeError(f"{name}= is an option of request(), and {function.__qualname__} has a parameter of that name: "
                        "pass it by position, or use requests() with functools.partial")
    return kwargs.pop(name)


def without(asks: deque[tuple[str, str, bytes]], withdrawn: list[Withdrawn]) -> deque[tuple[str, str, bytes]]:
    """Asks (pool, parent, item) that have not been sent, without those that were withdrawn."""
    gone = {call.encode() for call, _, _ in withdrawn}
    return deque(ask for ask in asks if ask[2][:ID] not in gone)


class Withdrawals:
    """What a client has taken back and the server has not acknowledged. With the client's lock held."""

    def __init__(self, keys: Keys, asker: str) -> None:
        self._keys, self._asker = keys, asker
        self._script: Script | None = None
        self._open: dict[int, tuple[list[Withdrawn], bool]] = {}
        self._unsent: list[int] = []
        self._count = 0

    def __repr__(self) -> str:
        return f"<Withdrawals {len(self._open)}>"

    def add(self, withdrawn: list[Withdrawn], kill: bool) -> None:
        """These are not wanted any more."""
        for at in range(0, len(withdrawn), BATCH):
            self._count += 1
            self._open[self._count] = withdrawn[at:at + BATCH], kill
            self._unsent.append(self._count)

    def all(self, replies: deque[Callable[[Any], None]]) -> bytes:
        """Everything again, for a new connection; `replies` gets what is to be done with each reply."""
        self._unsent = list(self._open)
        return self.unsent(replies)

    def unsent(self, replies: deque[Callable[[Any], None]]) -> bytes:
        """What has not been sent on this connection, packed."""
        if self._script is None:
            self._script = Script("cancel")
        data = b""
        for number in self._unsent:
            keys, arguments = cancel_arguments(self._keys, self._asker, *self._open[number])
            replies.append(partial(self._acknowledged, number))
            data += pack(("EVAL", self._script.text, len(keys), *keys, *arguments))
        self._unsent.clear()
        return data

    def _acknowledged(self, number: int, reply: Any) -> None:
        if not isinstance(reply, GridUnreachable):
            self._open.pop(number, None)


class Deadlines:
    """When waits are to be given up: a heap on the monotonic clock. Not shared between threads without a lock of the caller."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, float, Wait]] = []
        self._count = 0

    def __repr__(self) -> str:
        return f"<Deadlines {len(self._heap)}>"

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, wait: Wait, timeout: float) -> bool:
        """Gives a wait `timeout` seconds from now. Whether it is now the first that ends."""
        self._count += 1
        entry = (time.monotonic() + timeout, self._count, timeout, wait)
        heappush(self._heap, entry)
        return self._heap[0] is entry

    def seconds(self, most: float) -> float:
        """How long nothing is due, `most` at most."""
        while self._heap and self._heap[0][3].over:
            heappop(self._heap)
        return min(most, max(0.0, self._heap[0][0] - time.monotonic())) if self._heap else most

    def expire(self, give_up: Callable[[Wait, Failure], object]) -> None:
        """Calls `give_up` for each wait whose time is over."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, _, timeout, wait = heappop(self._heap)
            if not wait.over:
                give_up(wait, timed_out(wait, timeout))
