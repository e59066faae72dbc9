"""Pools in which nobody works: calls that are sent there wait, perhaps because the name is mistyped. Pure: clocks are passed in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

WARN_SECONDS = 5.0          # after a pool is first asked, or has been silent
AGAIN_SECONDS = 15.0        # between looks at one that stays without workers
START_SECONDS = 60.0        # in which workers that this process has started may not be there yet: a busy computer takes its time


def staffed(nodes: Mapping[bytes, bytes], links: Mapping[bytes, bytes]) -> set[str]:
    """The pools that have workers, their own or those of pools that are linked to them. `nodes`, `links`: as the server has them.

    >>> staffed({b"left/w~0": b'{"kind": "worker", "pool": "left"}'}, {b"left": b"all"}) == {"left", "all"}
    True
    """
    found = {known["pool"] for known in map(json.loads, nodes.values()) if known["kind"] == "worker"}
    above = {child.decode(): parent.decode() for child, parent in links.items()}
    for pool in list(found):
        while (pool := above.get(pool, "")) and pool not in found:
            found.add(pool)
    return found


class Vacancies:
    """What a client knows of the pools that it asks: those with workers are of no interest, until they fall silent.

    `starting`: the pool whose workers are being started, and whose failure to start is told otherwise.
    """

    def __init__(self, starting: str = "") -> None:
        self._starting, self._until = starting, 0.0     # when to speak of it like of others
        self.known: set[str] = set()                # have workers
        self._due: dict[str, float] = {}            # others: when to look
        self._vacant: set[str] = set()              # have been seen without workers
        self._refused = ""                          # what to say besides: that some came and were refused

    def __repr__(self) -> str:
        return f"<Vacancies {', '.join(sorted(self._vacant)) or 'none'}>"

    def __len__(self) -> int:
        return len(self._due)

    def asked(self, pool: str, now: float, within: float | None = None) -> bool:
        """Calls were sent to a pool that is not known. `within`: seconds after which they are given up. Whether the next look is sooner."""
        if pool == self._starting:
            self._until = self._until or now + START_SECONDS
        if within is None and pool in self._due:
            return False
        due = now + min(WARN_SECONDS, WARN_SECONDS if within is None else within / 2)
        before = min(self._due.values(), default=float("inf"))
        self._due[pool] = min(due, self._due.get(pool, due))
        return due < before

    def doubt(self, pools: Iterable[str], now: float) -> None:
        """These pools have not answered for long."""
        for pool in pools:
            self.known.discard(pool)
            self._due.setdefault(pool, now)

    def seconds(self, most: float, now: float) -> float:
        """How long there is nothing to look at, `most` at most."""
        return max(0.0, min(most, min(self._due.values(), default=float("inf")) - now))

    def due(self, now: float) -> bool:
        """Whether to look now. Then the next look is a while away."""
        if min(self._due.values(), default=float("inf")) > now:
            return False
        for pool in self._due:
            self._due[pool] = now + AGAIN_SECONDS
        return True

    def learn(self, staffed: set[str], waited_for: Iterable[str], now: float, refused: str = "") -> list[str]:
        """Which pools have workers. Returns what is to be said, once, of those that are waited for and have none.

        `refused`: what is to be said besides, of workers that came and were refused.
        """
        if refused and not self._refused:
            self._vacant.clear()
        self._refused = refused
        for pool in staffed & self._due.keys():
            del self._due[pool]
        self.known |= staffed
        self._vacant -= staffed
        if self._starting in staffed or 0.0 < self._until <= now:
            self._starting = ""
        news = sorted((set(waited_for) & self._due.keys()) - self._vacant - {self._starting})
        self._vacant.update(news)
        return [vacancy(pool, staffed) + refused for pool in news]

    def why(self, pools: Iterable[str]) -> str:
        """What to add to the message of a time limit: "", or the pools of these that have no workers."""
        return "".join(f"; {vacancy(pool, self.known)}{self._refused}" for pool in sorted(self._vacant.intersection(pools)))


def vacancy(pool: str, staffed: set[str]) -> str:
    """Tells that a pool has no workers, and which have.

    >>> vacancy("pol", {"pool", "big"}), vacancy("pol", set())
    ("pool 'pol' has no workers; there are some in: big, pool", "pool 'pol' has no workers, nor has any other")
    """
    others = f"; there are some in: {', '.join(sorted(staffed))}" if staffed else ", nor has any other"
    return f"pool {pool!r} has no workers{others}"
