"""Who reads a client's sockets: whoever waits, where that is possible; else a thread in the background.

A thread that blocks in `result()` reads the sockets itself until its own answer is there: handing each answer from one thread to another
would cost more than all the rest of a short call. Reading is a role that one thread has at a time. The background thread has it while
answers are awaited in event loops, and rests while callers read for themselves; it looks every 50 ms whether something is unanswered that
nobody reads for, sleeps for good when nothing is, and is called when a reader leaves with something still unanswered.

While answers come at once, a caller looks for the next one again and again, for half a millisecond at most, before it sleeps; between two
looks it lets others run. A processor that falls asleep in the midst of a short call takes longer to wake than the call takes.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from .errors import GridUnreachable
from .interrupts import Held
from .store import readable
from .waits import Wait

TICK_SECONDS = 0.05
SPIN_SECONDS = 0.0005     # an answer that comes within this time is looked for before the thread sleeps
_YIELD = getattr(os, "sched_yield", None)      # not on every system


class Reading:
    """The role, the poll, and the pipe that wakes whoever is in it.

    `busy()` tells whether anything is unanswered; `patience()` how many seconds a poll may take; `after()` is called after each turn,
    `idle()` when nothing has come for a while; `why(wait)` tells what may be the matter with a wait that lasts; `over()` whether the client
    is closing. None of these holds the `client`. `in_background`: only the background thread reads.
    """

    def __init__(self, client: Callable[[], object], busy: Callable[[], bool], patience: Callable[[], float], after: Callable[[], None],
                 idle: Callable[[], None], why: Callable[[Wait], str], over: Callable[[], bool], *, in_background: bool = False) -> None:
        self._busy, self._patience, self._after, self._idle, self._in_background = busy, patience, after, idle, in_background
        self._client, self._over, self.why = client, over, why
        self.hold: object = None                # the client, while somebody waits whom nothing else may refer to
        self._bequeathed = self._finished = False
        self._role = threading.Lock()
        self._kick = threading.Lock()
        self._kick.acquire()
        self._state = threading.RLock()         # a client may come to its end anywhere, here too
        self._resting = self._deep = False
        self._callers = False                   # threads that block would read for themselves
        self._led = 0
        self._brisk = False                     # the last answer came within SPIN_SECONDS
        self._handlers: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        self._broken, self._woken = True, False         # until it is attached
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        self._poll.register(self._out, select.POLLIN)

    def __repr__(self) -> str:
        return f"<Reading {'by callers' if self._resting else 'in the background'}>"

    def attach(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        """After connecting: what to call when a descriptor is readable. By the background thread, outside `background()`."""
        with self._role:
            for descriptor in self._handlers:
                self._poll.unregister(descriptor)
            self._handlers = dict(handlers)
            for descriptor in self._handlers:
                self._poll.register(descriptor, select.POLLIN)
            self._broken = False

    def wake(self) -> None:
        """The background thread is to look at the state of things; whoever else reads leaves."""
        self._woken = True
        os.write(self._in, b"x")
        self._call()

    def lose(self) -> None:
        """A write has failed: nobody is to read any more, the background thread is to connect again."""
        self._broken = True
        self.wake()

    def asked(self) -> None:
        """Something was asked: if the background thread sleeps for good it has to watch again. With the client's lock held."""
        if self._deep:
            self._call()

    def need(self) -> None:
        """Somebody waits who can't read: the background thread has to, now."""
        self._callers = False
        self.hold = self._client()
        if self._resting:
            self._call()

    def bequeath(self, client: object) -> bool:
        """The background thread is to end this client, to which nobody refers any more. False if it has ended itself."""
        with self._state:
            if self._finished:
                return False
            self.hold, self._bequeathed = client, True
            self.wake()
        return True

    def finish(self) -> object:
        """The background thread ends: the client that is to be ended with it, or None."""
        with self._state:
            self._finished = True
            left, self.hold = self.hold if self._bequeathed else None, None
        return left

    def _ended(self) -> bool:
        return self._bequeathed or self._over()

    def lead(self, wait: Wait, timeout: float | None) -> None:
        """Reads until the wait is over, the time is, or somebody else has to read. Whoever has the role already keeps it."""
        if self._in_background:
            return
        with Held() as held:
            self._lead(wait, timeout, held)

    def _lead(self, wait: Wait, timeout: float | None, held: Held) -> None:
        if not self._role.acquire(False):
            self._callers = True
            return
        try:
            self._led += 1
            deadline = None if timeout is None else time.monotonic() + timeout
            while not wait.over and not self._broken:
                most = self._patience()
                if deadline is not None and (most := min(most, deadline - time.monotonic())) <= 0:
                    break
                if not self._turn(most, held):
                    break
        except GridUnreachable:
            self._broken = True
        finally:
            self._role.release()
            if self._broken or not wait.over or self._busy():
                self._call()

    def glance(self) -> None:
        """Reads what is there already, without waiting, if nobody else does."""
        with Held():
            if self._role.acquire(False):
                try:
                    if not self._broken:
                        self._turn(0.0)
                except GridUnreachable:
                    self._broken = True
                    self._call()
                finally:
                    self._role.release()

    def background(self) -> None:
        """The background thread's reading, until the client closes. GridUnreachable when a connection breaks, whoever found out."""
        while not self._ended():
            self._rest()
            with self._role:
                self._drain()
                while not self._ended() and not self._broken and (not self._callers or self._busy()):
                    try:
                        served = self._turn(self._patience())
                    except GridUnreachable:
                        self._broken = True
                        raise
                    if not served:
                        self._drain()
                if self._broken and not self._ended():
                    raise GridUnreachable("the connection broke")

    def _rest(self) -> None:
        idle = False
        while self._callers and not self._broken and not self._woken and not self._ended():
            led = self._led
            with self._state:
                self._resting, self._deep = True, idle
            if idle and self._busy():           # asked for just before it could be seen that this thread sleeps
                idle = self._deep = False
            called = self._kick.acquire(timeout=-1 if idle else TICK_SECONDS)
            with self._state:
                self._resting = self._deep = False
            busy = self._busy()
            if busy and (self._led == led or called) and not self._role.locked() and not idle:
                return                          # nobody has read for a whole tick, or who did has left
            if not busy and self._led == led:
                if not idle:
                    self._idle()
                idle = not self._busy()
            else:
                idle = False

    def _spin(self) -> list[tuple[int, int]]:
        """What is readable within SPIN_SECONDS, if the last time it was there so soon; else nothing, at once."""
        found: list[tuple[int, int]] = []
        if self._brisk and _YIELD is not None:
            until = time.perf_counter() + SPIN_SECONDS
            while not (found := self._poll.poll(0)) and time.perf_counter() < until:
                _YIELD()
        return found

    def _turn(self, seconds: float, held: Held | None = None) -> bool:
        """Waits for a descriptor and serves it. False if it was woken instead; the wake is left for the background thread.

        `held`: by a caller, who may look again and again before he sleeps, and whom Ctrl-C wakes.
        """
        served = True
        if held is not None:
            began = time.perf_counter()
            try:
                held.open()
                found = self._spin() or self._poll.poll(1000 * seconds + 1)
            finally:
                held.shut()
            self._brisk = bool(found) and time.perf_counter() - began < SPIN_SECONDS
        else:
            found = self._poll.poll(1000 * seconds + 1 if seconds else 0)
        try:
            if not found and seconds:
                self._idle()
            for descriptor, _ in found:
                if descriptor == self._out:
                    served = False
                else:
                    self._handlers[descriptor]()
            self._after()
        except BaseException:               # a signal's handler has raised: what had been taken here may be lost, so it is asked for again
            self._broken = True
            raise
        return served

    def _drain(self) -> None:
        if self._woken:
            self._woken = False
            with suppress(BlockingIOError):
                os.read(self._out, 4096)

    def _call(self) -> None:
        with self._state:
            if self._kick.locked():
                self._kick.release()

    def pause(self, seconds: float) -> None:
        """Between attempts to connect: that long, or until it is woken. By the background thread."""
        if readable(self._out, seconds):
            self._drain()

    def close(self) -> None:
        """By the client, after the background thread has ended."""
        os.close(self._in)
        os.close(self._out)
