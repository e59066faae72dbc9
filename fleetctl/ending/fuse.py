"""When a machine ends by itself: what its session writes for it, when that is due, and what is said before the end. Pure.

Two clocks end a machine, whichever comes first:

* the fuse: FUSE_MINUTES after the last sign of life of its session. A living session rewrites one object in S3; machines read it, and a
  number in it that has grown is the sign. What cannot be read is no sign, and the countdown goes on.
* the hard end, a time that only `extend` moves. It stands in the boot script, in the object, and in the instances' `expires` tag.

So a session whose launches end within FUSE_MINUTES of their beginning has nothing to write, and makes no bucket for it, until
somebody extends one. A launch that the object does not name keeps the end that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

FUSE_MINUTES = 120
HOURS = 2.0  # to the hard end, where nothing else is said
MOST_HOURS = 24.0 * 365
RENEW_SECONDS = 300.0  # a 24th of the fuse: an hour of trouble on either side ends nothing, and a day costs 288 requests, $0.0015
RETRY_SECONDS = 30.0  # after a write that failed
WARN_SECONDS = 600.0
KEY = "fuse"


def text(number: int, ends: Mapping[str, float]) -> bytes:
    """The object: a number that grows from one writing to the next, and for each launch its hard end in seconds since the epoch.

    >>> print(text(7, {"6f1c": 1800000000.4}).decode(), end="")
    renewed 7
    6f1c 1800000000
    """
    return "".join(f"{word} {value:.0f}\n" for word, value in (("renewed", number), *ends.items())).encode()


def look_seconds(hours: float) -> int:
    """How often a machine reads: as often as the session writes, or six times until its end if that is near.

    >>> look_seconds(2.0), look_seconds(0.01)
    (300, 6)
    """
    return max(1, min(int(RENEW_SECONDS), int(hours * 600)))


def must_write(spans: Iterable[tuple[float, float]]) -> bool:
    """Whether a session has to show that it lives: where a launch of it, from beginning to hard end, is longer than the fuse."""
    return any(end - began > 60 * FUSE_MINUTES for began, end in spans)


def warning(end: float, now: float) -> str:
    """What every display says of machines that end soon; '' while the end is far.

    >>> warning(1000.0, 460.0), warning(1000.0, 0.0)
    ('ends in 9 min: extend() moves it', '')
    """
    left = end - now
    if left > WARN_SECONDS:
        return ""
    return f"ends in {max(0, int(left // 60))} min: extend() moves it"


def said(end: float) -> str:
    """A hard end as people read it."""
    return f"{datetime.fromtimestamp(end).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def when(text: str) -> float | None:
    """The time of an `expires` tag; None where it cannot be read.

    >>> when("2030-01-01T00:00:00Z"), when("soon")
    (1893456000.0, None)
    """
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
