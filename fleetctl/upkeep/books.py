"""A session's books: which prices it knows, what it has spent, and whether its budget bears what is asked for.

Now and then, while machines run, the books are brought up to date: prices once an hour, and one listing every five minutes, for a
machine that has ended by itself must not be shown as if it went on costing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from .. import display
from ..cloud import ec2
from ..ending.receipt import Receipt
from ..ending.teardown import FORGOTTEN_SECONDS
from ..errors import AwsError, StillBilling
from ..launching.launch import Conductor
from ..lifecycle import SETTLED, Ended, LaunchState
from ..money import budget
from ..money.cost import Cost, total
from ..money.prices import Tariff

log = logging.getLogger(__name__)

PRICES_SECONDS = 3600.0  # how long a told spot price is taken for the present one
LISTING_SECONDS = 300.0
PATIENCE_SECONDS = 30.0  # for a listing: the budget is looked at after it
AGAIN_SECONDS = 60.0  # to the next try of a teardown that could not prove everything gone


class Desk(Protocol):
    """What the books need of their session."""

    launches: list[Conductor]

    @property
    def id(self) -> str:
        """The session's id."""

    @property
    def call(self) -> ec2.Call:
        """The journalled way to AWS."""

    def end_all(self) -> Coroutine[Any, Any, Receipt]:
        """End everything."""


class Books:
    """Prices, sums, and the budget in USD (None: there is none). `tick` is called every half minute while a launch is alive."""

    def __init__(self, desk: Desk, budget: float | None = None) -> None:
        self._desk, self.budget = desk, budget
        self.tariff = Tariff()  # replaced, never changed: other threads read it
        self._asked: dict[str, float] = {}  # type -> when its prices were asked for last, seconds since the epoch
        self._asking = asyncio.Lock()
        self._next_listing = 0.0
        self._ending: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<books: {self.cost()!r}>"

    def cost(self) -> Cost:
        """USD an hour and so far, of all launches. From any thread."""
        spans = [span for launch in list(self._desk.launches) for span in launch.bill.spans(launch.core.all())]
        return total(spans, time.time(), budget=self.budget)

    def admit(self, *launches: Conductor) -> None:
        """Raise BudgetExceeded where these launches, which have not begun, could come to more than the budget bears."""
        budget.admit(self.budget, self.cost().so_far, self._claims(()), [_claim(one) for one in launches], time.time())

    def admit_extension(self, launches: Sequence[Conductor], hours: float) -> None:
        """The same for launches that are to run longer."""
        claims = [_claim(one) for one in launches]
        longer = [budget.Claim(one.title, one.machines, one.rate, one.end + 3600 * hours) for one in claims]
        budget.admit(self.budget, self.cost().so_far, self._claims(launches), longer, time.time())

    def _claims(self, but: Sequence[Conductor]) -> list[budget.Claim]:
        return [_claim(one) for one in list(self._desk.launches) if one not in but]

    async def prices(self, types: Sequence[str]) -> Tariff:
        """Spot prices, those of these types asked for once an hour. What AWS does not tell is not there; the caps are shown then."""
        async with self._asking:
            now = time.time()
            new = [one for one in types if now - self._asked.get(one, 0.0) >= PRICES_SECONDS]
            known = [one for one in new if one in self._asked]  # of these, what has changed since
            since = min((self._asked[one] for one in known), default=now) if len(known) == len(new) else now
            if new:
                try:
                    told = await ec2.spot_prices(self._desk.call, new, datetime.fromtimestamp(since, UTC))
                    self.tariff = self.tariff.joined(told)
                    self._asked |= dict.fromkeys(new, now)
                except AwsError as error:
                    log.warning("spot prices are not known, the caps are shown instead: %s", error.what)
            return self.tariff

    async def tick(self) -> None:
        """What is due: a listing; the end, where the budget is reached; prices. Never raises for what AWS refuses."""
        launches = [one for one in self._desk.launches if one.core.state is not LaunchState.ENDED]
        running = [one for one in launches if any(slot.alive for slot in one.core.all())]
        if any(one.core.state in SETTLED for one in running) and self._due():  # the others list themselves
            await self._list(running)
        if budget.reached(self.cost()) and (self._ending is None or self._ending.done()):
            self._ending = asyncio.get_running_loop().create_task(self._end(), name="budget")
        for one in running:
            await one.renew_prices()

    def _due(self) -> bool:
        """Whether it is time for a listing; not at the first look. By the time of day, for a computer that has slept is far behind."""
        now, before = time.time(), self._next_listing
        if now < before <= now + LISTING_SECONDS:
            return False
        self._next_listing = now + LISTING_SECONDS
        return before > 0

    async def _list(self, launches: Sequence[Conductor]) -> None:
        """Whatever has ended is told its launch, what AWS has forgotten since too; of that, the hard end bounds what it has cost."""
        call, old = self._desk.call, time.time() - FORGOTTEN_SECONDS
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                rows = await ec2.instances_with(call, f"tag:{ec2.SESSION_TAG}", [self._desk.id])
                shown = {row["InstanceId"] for row in rows}
                missing = {id: slot for one in launches for id, slot in one.core.by_instance.items()
                           if slot.alive and id not in shown and (slot.launched or old) < old}  # fmt: skip
                rows += await ec2.instances(call, list(missing)) if missing else []  # such as could not be tagged
        except (AwsError, TimeoutError) as error:
            log.warning("what runs could not be listed, so costs are shown as if all of it did: %s", error)
            return
        gone = missing.keys() - {row["InstanceId"] for row in rows}
        for one in launches:
            one.listed(rows)
            one.feed(Ended(tuple(gone)))
            for slot in (one.core.by_instance[id] for id in gone & one.core.by_instance.keys()):
                slot.gone = min(time.time(), max(one.expires, slot.launched or 0.0))

    async def _end(self) -> None:
        """The budget is reached: everything ends, in several tries if need be, and whoever looks at this process hears of it."""
        display.say(f"the budget is reached ({self.cost().words()}): tearing everything down")
        while True:
            try:
                receipt = await self._desk.end_all()
            except StillBilling as error:
                display.say(f"the teardown for the budget: {error}")
            else:
                display.say(receipt.headline())
                return
            await asyncio.sleep(AGAIN_SECONDS)
            if not budget.reached(self.cost()):  # it was raised, or what costs most is gone
                return


def _claim(launch: Conductor) -> budget.Claim:
    """What may still be spent on a launch."""
    coming = launch.core.state in (LaunchState.ASKING, LaunchState.WAITING)
    return launch.bill.claim(launch.core.all(), coming=coming, end=launch.expires)
