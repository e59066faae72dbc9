"""EC2's token buckets: how many calls, and how many instances, it takes before it answers RequestLimitExceeded. Pure.

Each API of each region has a request bucket, from which a call takes one token; some have a resource bucket too, from which
a call takes a token for each instance (EC2 Developer Guide, "Request throttling for the Amazon EC2 API"). A bucket
fills by its rate each second up to its size. A call that finds too little takes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Size = tuple[float, float]   # tokens, tokens per second

REQUESTS: Mapping[str, Size] = {"RunInstances": (5, 2), "TerminateInstances": (100, 5), "StartInstances": (5, 2),
                                "DescribeSpotInstanceRequests": (50, 3), "CreateTags": (100, 10)}
READING: Size = (100, 20)       # Describe*, Get* and the like, with a filter, ids or a page size
READING_ALL: Size = (50, 10)    # … without any of them
CHANGING: Size = (50, 5)
RESOURCES: Mapping[str, Size] = {"RunInstances": (1000, 2), "TerminateInstances": (1000, 20), "StartInstances": (1000, 2),
                                 "StopInstances": (1000, 20)}


@dataclass
class Bucket:
    """One bucket. Times are seconds of any clock that does not go back."""

    size: float
    rate: float
    tokens: float
    since: float

    def has(self, wanted: float, now: float) -> bool:
        """Fill up, and tell whether that is enough."""
        self.tokens = min(self.size, self.tokens + (now - self.since) * self.rate)
        self.since = now
        return self.tokens >= wanted


class Buckets:
    """The buckets of one account in one region."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take(self, operation: str, resources: int, broad: bool, now: float) -> bool:
        """Whether a call may pass; it then has its tokens. `broad`: it reads everything there is."""
        reading = operation.startswith(("Describe", "Get", "List", "Search"))
        usual = (READING_ALL if broad else READING) if reading else CHANGING
        wanted = [(self._bucket("requests", operation, REQUESTS.get(operation, usual), now), 1.0)]
        if operation in RESOURCES:
            wanted.append((self._bucket("resources", operation, RESOURCES[operation], now), float(resources)))
        if not all(bucket.has(tokens, now) for bucket, tokens in wanted):
            return False
        for bucket, tokens in wanted:
            bucket.tokens -= tokens
        return True

    def _bucket(self, kind: str, operation: str, size: Size, now: float) -> Bucket:
        if (kind, operation) not in self._buckets:
            full = max(1.0, size[0] * self._scale)
            self._buckets[kind, operation] = Bucket(full, size[1] * self._scale, full, now)
        return self._buckets[kind, operation]

    def __repr__(self) -> str:
        return f"<Buckets {', '.join(f'{operation} {bucket.tokens:.0f}' for (_, operation), bucket in self._buckets.items())}>"
