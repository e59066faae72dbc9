"""Hours that take no time: a clock that jumps to what happens next, and event loops on it.

A clock outlives its loops: what a cloud has still to do goes on when the loop of a dead controller is gone and another one begins.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
import selectors
import sys
import time
import types
import uuid

EPOCH = 1_800_000_000.0  # any time of day will do, if it is always the same


class Clock:
    """Seconds since the beginning, and what is to be done when. While it is `stopped`, loops wait for other threads as usual."""

    def __init__(self):
        self.now, self.stopped = 0.0, False
        self._tasks, self._order = [], itertools.count()

    def __repr__(self):
        return f"<clock at {self.now:.1f} s, {len(self._tasks)} to come>"

    def later(self, seconds, do, *arguments):
        heapq.heappush(self._tasks, (self.now + seconds, next(self._order), do, arguments))

    def jump(self, seconds=None):
        """To the next thing to be done, or by `seconds` if that is sooner. False if there is neither."""
        until = float("inf") if seconds is None else self.now + seconds
        if not self._tasks or self._tasks[0][0] > until:
            if seconds is None:
                return False
            self.now = until
            return True
        self.now, _, do, arguments = heapq.heappop(self._tasks)
        do(*arguments)
        return True

    def wait(self, seconds):
        """All that is to be done within that time, without any loop."""
        until = self.now + seconds
        while self.now < until:
            self.jump(until - self.now)


class _Jumps(selectors.DefaultSelector):
    """Instead of waiting, the clock is put forward."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def select(self, timeout=None):
        ready = super().select(0)
        if ready or self.clock.stopped:
            return ready or super().select(timeout)
        if timeout is None or timeout > 0:
            return [] if self.clock.jump(timeout) else super().select(timeout)
        return ready


class Virtual(asyncio.SelectorEventLoop):
    """An event loop on a clock."""

    def __init__(self, clock=None):
        self.clock = clock or Clock()
        super().__init__(_Jumps(self.clock))

    def time(self):
        return self.clock.now


def run(main, clock=None):
    """`asyncio.run` on a clock."""
    with asyncio.Runner(loop_factory=lambda: Virtual(clock)) as runner:
        return runner.run(main)


class _Policy(asyncio.DefaultEventLoopPolicy):
    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def new_event_loop(self):
        return Virtual(self._clock)


@contextlib.contextmanager
def lived(clock, seed):
    """Every loop that is made meanwhile is on the clock, and fleetctl's modules read their time, and draw their ids, from it."""
    draw = random.Random(seed)
    fakes = {
        time: types.SimpleNamespace(**{**vars(time), "time": lambda: EPOCH + clock.now, "monotonic": lambda: clock.now}),
        uuid.uuid4: lambda: uuid.UUID(int=draw.getrandbits(128), version=4),
    }
    changed = [(module, name, found) for key, module in sorted(sys.modules.items()) if key.startswith("fleetctl") and "local" not in key
               for name in ("time", "uuid4") if (found := vars(module).get(name)) in (time, uuid.uuid4)]
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Policy(clock))
    for module, name, found in changed:
        setattr(module, name, fakes[found] if found is uuid.uuid4 else fakes[time])
    try:
        yield
    finally:
        for module, name, found in changed:
            setattr(module, name, found)
        asyncio.set_event_loop_policy(before)
