"""What a living session does for its machines: it shows that it lives, moves their end when told to, and warns before it.

Everything here runs on the session's loop. The rules are in `fuse`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from .. import display
from ..cloud import ec2
from ..cloud.bucket import Bucket
from ..ending import fuse
from ..errors import AwsError, FleetError, RequestInvalid
from ..launching.launch import Conductor
from ..lifecycle import SETTLED, LaunchState

log = logging.getLogger(__name__)


class Desk(Protocol):
    """What the keeper needs of its session."""

    launches: list[Conductor]

    @property
    def call(self) -> ec2.Call:
        """The journalled way to AWS."""

    async def bucket(self) -> Bucket:
        """The session's place in S3, made when first asked for."""

    async def way_out(self, conductor: Conductor) -> None:
        """Whatever the launch's machines go out by is there until their end."""


class Keeper:
    """Writes the session's object for as long as there is need. `check(launches, hours)` may refuse an extension by raising.

    `tick` is called with it, every half minute while a launch is alive.
    """

    def __init__(
        self, desk: Desk, check: Callable[[Sequence[Conductor], float], None], tick: Callable[[], Awaitable[None]]
    ) -> None:
        self._desk, self._check, self._tick = desk, check, tick
        self._written = 0  # the number of the last writing, 0 before the first
        self._task: asyncio.Task[None] | None = None
        self._warned: set[tuple[str, float]] = set()

    def __repr__(self) -> str:
        return f"<keeper, {'at work' if self._task and not self._task.done() else 'at rest'}, last writing {self._written or 'none'}>"

    def living(self) -> list[Conductor]:
        """The launches whose machines may run."""
        return [one for one in self._desk.launches if one.core.state is not LaunchState.ENDED]

    def wake(self) -> None:
        """Look after the launches from now on, until the last has ended. Called when one begins."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="fuse")

    async def rest(self) -> None:
        """Stop, for a teardown of everything: nothing may be written after what was written has been deleted."""
        task, self._task, self._written = self._task, None, 0
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def extend(self, hours: float, launches: Sequence[Conductor]) -> float:
        """Move the hard end of these launches; returns the earliest of the new ones. Raises RequestInvalid, BudgetExceeded, AwsError.

        The object is written first: it is what machines obey, and if it cannot be, nothing has moved. Then the tags, which `reap` obeys:
        an error of those says that the end has moved all the same.
        """
        if isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 0 < hours <= fuse.MOST_HOURS:
            raise RequestInvalid(f"hours moves the end, above 0 and at most a year, not {hours!r}", alias="hours", found=hours)
        if not launches:
            raise RequestInvalid("there is nothing to extend: no launch is alive", todo="bring something up first")
        self._check(launches, hours)
        before = {one: one.expires for one in launches}
        for one in launches:
            one.expires += 3600 * hours
        try:
            await self._write()
        except BaseException:
            for one, end in before.items():
                one.expires = end
            raise
        self.wake()
        trouble: AwsError | None = None
        for one in launches:
            try:
                await one.tag_end()
                await self._desk.way_out(one)
            except AwsError as error:
                trouble = trouble or error
        if trouble is not None:
            trouble.what = f"the machines' end has been moved, but not all that hangs on it: {trouble.what}"
            raise trouble
        return min(one.expires for one in launches)

    async def _write(self) -> None:
        self._written = max(self._written + 1, int(time.time()))
        bucket = await self._desk.bucket()
        await bucket.put(fuse.KEY, fuse.text(self._written, self._ends()))

    def _ends(self) -> dict[str, float]:
        return {str(one.uuid): one.expires for one in self.living() if one.end_known}

    def _must_write(self) -> bool:
        """Not while an end is being looked up: it may have been moved, and machines must hear of that before the old one comes."""
        looking = any(not one.end_known and one.core.state not in SETTLED for one in self.living())
        return not looking and fuse.must_write((one.order.began, one.expires) for one in self.living())

    async def _keep(self) -> None:
        next_write, troubled = 0.0, False
        clock = asyncio.get_running_loop().time
        while self.living():
            self._warn()
            try:
                await self._tick()
            except Exception:  # nothing must keep this loop from showing that the session lives
                log.exception("the books of the session could not be brought up to date")
            if clock() >= next_write and self._must_write():
                try:
                    await self._write()
                    next_write, troubled = clock() + fuse.RENEW_SECONDS, False
                except FleetError as error:
                    next_write = clock() + fuse.RETRY_SECONDS
                    if not troubled:
                        display.say(f"machines cannot be told that their session lives; {fuse.FUSE_MINUTES} min of that end them: {error}")
                    troubled = True
            await asyncio.sleep(fuse.RETRY_SECONDS)

    def _warn(self) -> None:
        """Once for each end, to whoever looks at this process."""
        for one in self.living():
            key, words = (str(one.uuid), one.expires), fuse.warning(one.expires, time.time())
            if words and key not in self._warned and one.core.by_instance:
                self._warned.add(key)
                display.say(f"launch {one.uuid} {words} ({fuse.said(one.expires)})")


