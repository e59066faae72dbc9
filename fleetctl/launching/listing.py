"""When AWS is asked what has become of a launch: when somebody wants to know, and now and then while there is no outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..lifecycle import Core
from ..states import SETTLED

EARLY_SECONDS = 10.0  # to the first listing where no report asks for one: it shows why requests wait
LISTING_SECONDS = 30.0  # between listings while nothing else asks for one
FIRST_LISTING_SECONDS = 1.0  # after the first report: by then its neighbours have instances too
PATIENCE = (0.0, 2.0, 8.0, LISTING_SECONDS)  # between listings that were to decide and did not: AWS's view may lag


class Listing:
    """Of one launch; `look` makes a listing, and says whether AWS gave one. `waits`: its requests may wait for capacity."""

    def __init__(self, core: Core, look: Callable[[], Awaitable[bool]], *, waits: bool) -> None:
        self._core, self._look, self._waits = core, look, waits
        self._wanted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<listing{', wanted' if self._wanted.is_set() else ''}>"

    def want(self) -> None:
        """A listing would decide something: make one soon."""
        self._wanted.set()

    def heard_first(self) -> None:
        """The first report is here. Bind instances to requests soon, even when nothing is decided by it, so that progress can be shown."""
        asyncio.get_running_loop().call_later(FIRST_LISTING_SECONDS, self._if_held)

    def _if_held(self) -> None:
        if self._core.held and self._core.state not in SETTLED:
            self._wanted.set()

    async def keep(self) -> None:
        """Until it is cancelled: less and less often if listings that were wanted do not help."""
        clock = asyncio.get_running_loop().time
        tries, last, regular = 0, clock() - LISTING_SECONDS, EARLY_SECONDS if self._waits else LISTING_SECONDS
        while True:
            try:
                async with asyncio.timeout(None if self._core.state in SETTLED else regular):
                    await self._wanted.wait()
                await asyncio.sleep(max(0.0, last + PATIENCE[min(tries, len(PATIENCE) - 1)] - clock()))
                tries += 1
            except TimeoutError:
                tries = 0
            regular = LISTING_SECONDS
            wanted = self._wanted.is_set() or self._core.state not in SETTLED
            self._wanted.clear()
            if wanted and self._core.slots:
                last = clock()
                if not await self._look():
                    self._wanted.set()
