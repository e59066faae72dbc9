"""The messages of one SQS queue: pure, with the clock passed in (seconds), every operation O(log n).

moto looks at every message of a queue at each receive and delete; here a message is in exactly one place:

    delayed  ──due──▶  ready  ──receive──▶  in flight  ──delete──▶ (gone)
                         ▲                      │
                         └──── visible again ───┘

Heaps hold (time, version, message); an entry whose version is no longer the message's is stale and skipped.
"""

from __future__ import annotations

import heapq
import itertools
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import Any


class ReceiptInvalid(Exception):
    """A receipt handle that this queue never gave."""


@dataclass
class Held:
    """A message in a queue. `content` is the owner's; `receipts` are all handles ever given for it."""

    content: Any
    sent: float
    due: float = 0.0            # ready, or visible again, from then on
    received: int = 0
    first_received: float = 0.0
    version: int = 0
    place: str = "ready"
    receipts: list[str] = field(default_factory=list)


class MessageQueue:
    """Messages of one standard queue. Not thread-safe: its owner holds a lock."""

    def __init__(self, retention: float = 4 * 86_400.0) -> None:
        self.retention = retention
        self._ready: deque[Held] = deque()
        self._waiting: list[tuple[float, int, int, Held]] = []   # delayed and in flight, by the time at which they become ready
        self._by_receipt: dict[str, Held] = {}
        self._deleted: set[str] = set()
        self._order = itertools.count()
        self._counts = {"ready": 0, "delayed": 0, "in flight": 0}

    def send(self, content: Any, now: float, delay: float = 0.0) -> Held:
        """Put a message in; it is ready after `delay`."""
        held = Held(content, sent=now)
        self._counts["ready"] += 1
        if delay > 0:
            self._wait(held, "delayed", now + delay)
        else:
            self._ready.append(held)
        return held

    def receive(self, most: int, visibility: float, now: float) -> list[tuple[str, Held]]:
        """Up to `most` ready messages, oldest first, each with a new receipt; they are in flight for `visibility`."""
        self._wake(now)
        taken: list[tuple[str, Held]] = []
        while self._ready and len(taken) < most:
            held = self._ready.popleft()
            if held.place != "ready":
                continue
            if held.sent + self.retention <= now:
                self._remove(held)
                continue
            receipt = secrets.token_urlsafe(24)
            held.receipts.append(receipt)
            held.received += 1
            held.first_received = held.first_received or now
            self._by_receipt[receipt] = held
            self._wait(held, "in flight", now + visibility)
            taken.append((receipt, held))
        return taken

    def delete(self, receipt: str) -> None:
        """Remove a message, in flight or not, by any of its receipts; again is fine. Raises ReceiptInvalid."""
        if receipt in self._deleted:
            return
        if receipt not in self._by_receipt:
            raise ReceiptInvalid(receipt)
        self._remove(self._by_receipt[receipt])

    def hide(self, receipt: str, visibility: float, now: float) -> Held:
        """Make a message visible again `visibility` seconds from now. Raises ReceiptInvalid."""
        if receipt not in self._by_receipt:
            raise ReceiptInvalid(receipt)
        held = self._by_receipt[receipt]
        if held.place == "in flight":
            self._wait(held, "in flight", now + visibility)
            self._wake(now)
        return held

    def take(self, held: Held) -> None:
        """Remove a message that was just received, for a dead-letter queue."""
        self._remove(held)

    def purge(self) -> None:
        """Remove everything."""
        self.__init__(self.retention)   # type: ignore[misc]

    def next_due(self) -> float | None:
        """When the next waiting message becomes ready; None if none waits."""
        while self._waiting and self._waiting[0][2] != self._waiting[0][3].version:
            heapq.heappop(self._waiting)
        return self._waiting[0][0] if self._waiting else None

    def counts(self, now: float) -> dict[str, int]:
        """How many are "ready", "delayed" and "in flight"."""
        self._wake(now)
        return dict(self._counts)

    def _move(self, held: Held, place: str) -> None:
        self._counts[held.place] -= 1
        self._counts[place] += 1
        held.place = place
        held.version += 1

    def _wait(self, held: Held, place: str, due: float) -> None:
        self._move(held, place)
        held.due = due
        heapq.heappush(self._waiting, (due, next(self._order), held.version, held))

    def _wake(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            held = heapq.heappop(self._waiting)[3]
            self._move(held, "ready")
            self._ready.append(held)

    def _remove(self, held: Held) -> None:
        self._counts[held.place] -= 1
        held.place = "gone"
        held.version += 1
        for receipt in held.receipts:
            del self._by_receipt[receipt]
            self._deleted.add(receipt)

    def __repr__(self) -> str:
        return f"<MessageQueue {', '.join(f'{count} {place}' for place, count in self._counts.items())}>"
