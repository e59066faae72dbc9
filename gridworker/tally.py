"""What a node counts while it works: numbers in memory that it shares with its supervisor, which sends them along with its beat.

So counting costs a call some nanoseconds and the server one command a second for each host, however many calls are run. What the server
has is a beat old at most, and of this incarnation only.
"""

from __future__ import annotations

from time import monotonic, perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .node import Node

# places in a tally
EXECUTED = 0    # calls that have ended here
FAILED = 1      # of them with an exception
ASKED = 2       # calls that calls have made here
LOCAL = 3       # of them begun here, where they were made
BUSY = 4        # seconds spent computing, of calls that have ended
PARKED = 5      # calls that stand waiting now
SINCE = 6       # when the call that computes now has begun or gone on, on the host's own clock; 0 if none does
OLDEST = 7      # when the oldest call that is parked has begun; 0 if none is
PLACES = 8


def private() -> memoryview[float]:
    """A tally that nobody else sees."""
    return memoryview(bytearray(8 * PLACES)).cast("d")


def shared() -> memoryview[float]:
    """One that a child which is forked afterwards shares with its parent."""
    import mmap

    return memoryview(mmap.mmap(-1, 8 * PLACES)).cast("d")


class Paces:
    """A supervisor's view of its nodes' tallies: makes of each what the grid is told, with what was done since the last time."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}       # incarnation -> calls executed, and when

    def __repr__(self) -> str:
        return f"<Paces of {len(self._last)} nodes>"

    def beat(self, nodes: Iterable[Node]) -> list[str]:
        """Incarnation and numbers, for each node: executed, failed, asked, local, parked, busy s, age of the oldest call s, calls/s."""
        words, now, last = [], monotonic(), {}
        clock = perf_counter()
        for node in nodes:
            tally = node.tally
            executed = tally[EXECUTED]
            before, then = self._last.get(node.incarnation, (0.0, now - 1.0))
            last[node.incarnation] = executed, now
            begun = [since for since in (tally[SINCE], tally[OLDEST]) if since]
            age = max(0.0, clock - min(begun)) if begun else 0.0
            rate = (executed - before) / max(now - then, 1e-3)
            words += [node.incarnation, f"{executed:.0f} {tally[FAILED]:.0f} {tally[ASKED]:.0f} {tally[LOCAL]:.0f} {tally[PARKED]:.0f} "
                                        f"{tally[BUSY]:.3f} {age:.3f} {rate:.1f}"]
        self._last = last
        return words


def read(text: bytes) -> dict[str, float]:
    """A node's numbers by name, out of what `beat` wrote.

    >>> read(b"5 1 4 3 0 0.250 1.500 2.0")["local"]
    3
    """
    executed, failed, asked, local, parked, busy, age, rate = text.split()
    return {"executed": int(executed), "failed": int(failed), "asked": int(asked), "local": int(local), "parked": int(parked),
            "busy": float(busy), "oldest": float(age), "rate": float(rate)}
