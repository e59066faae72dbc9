"""A session: one background event loop with its ledger, its channel and its registry of launches.

Everything runs on the session's own loop, in a thread of its own, so a notebook cell that computes for a minute delays no deadline and
no report. The public verbs are in `spot.py`; they find the session here.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401  (see _at_exit)
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import boto3

from . import display, profiles
from .background import CLOSE_SECONDS, Background
from .cloud import ec2
from .cloud.bucket import Bucket
from .cloud.journal import Journal, attempt
from .ending.estate import Estate
from .ending.receipt import Receipt
from .ending.teardown import end
from .errors import FleetError, LaunchFailed, NotConnected, StillBilling
from .futures import Pending
from .launching.billing import described
from .launching.launch import Conductor
from .ledger import Ledger
from .lifecycle import SETTLED, Ended, LaunchState
from .messages import Report
from .money.budget import checked
from .money.cost import Cost
from .money.prices import Tariff
from .notify import Channel
from .profiles import Profile
from .reach.link import HANDSHAKES
from .upkeep import guard
from .upkeep.belongings import Belongings
from .upkeep.books import Books
from .upkeep.former import Former
from .upkeep.guard import Guard
from .upkeep.keeper import Keeper
from .upkeep.retiring import Parts, retire

log = logging.getLogger(__name__)
T = TypeVar("T")

LEDGERS = "ledgers"
LEFT = "`fleetctl ls` shows what is left, `fleetctl down` ends it"


class Session:
    """One controlling process's launches. Make it with `connect`; end it with `teardown_all()`, or by leaving Python.

    `probe_seconds` is how long the channel's first message may take before nothing is launched; `sidecar`: from the first launch on, a
    process stands by that ends what the session left when this process dies. `budget` is in USD. `former`: what an earlier process has
    left, whose session goes on as this one.
    """

    def __init__(
        self, profile: Profile, *, probe_seconds: float = 60, sidecar: bool = False, budget: float | None = None,
        former: Former | None = None,
    ) -> None:  # fmt: skip
        self.id = former.ledger.session if former else uuid4().hex[:12]
        self.profile = profile
        self.key_file: Path | None = profile.key_file
        self.handshakes = asyncio.Semaphore(HANDSHAKES)
        self.launches: list[Conductor] = []
        self.ledger = former.ledger if former else Ledger.create(
            profile.home / LEDGERS, self.id, cloud=profile.name, region=profile.region, endpoint=profile.endpoint_url
        )  # fmt: skip
        self.aws = profile.aws()
        self.call: ec2.Call = Journal(self.aws, self.ledger)
        self._belongings = Belongings(self, self.aws.call, probe_seconds=probe_seconds, former=former)
        self._books: Books = Books(self, checked(budget))
        self._admitting = threading.Lock()  # from the look at the budget until the launch is one of those that count
        self._keeper = Keeper(self, self._books.admit_extension, self._books.tick)
        self._ending = asyncio.Lock()  # held by a teardown of everything
        self._farewells: list[Callable[[], Awaitable[None]]] = []
        self._background = Background(f"fleetctl session {self.id}")
        self._leaving = threading.Lock()
        self._sidecar = sidecar
        self._guard: Guard | None = None
        self._pid = os.getpid()
        self.closed = False
        _living[self] = None
        os.register_at_fork(after_in_child=functools.partial(_forked, weakref.ref(self)))

    def __repr__(self) -> str:
        return f"<session {self.id} on {self.profile.name} ({self.profile.region}): {len(self.launches)} launches, {self.cost()!r}>"

    # --- what launches and machines ask of it ---------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The background loop."""
        return self._background.loop

    def submit(self, work: Coroutine[Any, Any, T], what: str) -> Pending[T]:
        """Run a coroutine on the session's loop; it starts now. Raises FleetError when the session has ended."""
        return self._background.submit(work, what)

    def keep(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this when the session tears down; the latest first."""
        self._background.keep(close)

    def before_end(self, do: Callable[[], Awaitable[None]]) -> None:
        """Do this before a teardown of everything ends machines, while they can be reached. It must bound its own time, and not raise."""
        self._farewells.append(do)

    def heard(self, report: Report) -> None:
        """A machine has told where it is, past the channel. On the session's loop."""
        for conductor in (one for launch in self.launches for one in launch.family() if one.uuid == report.launch):
            conductor.report(report)

    async def channel(self) -> Channel:
        """The session's channel, opened and probed when first asked for; all who ask meanwhile share the attempt and its failure."""
        await self._not_during_an_end()
        return await self._belongings.channel.get()

    async def _not_during_an_end(self) -> None:
        """What begins during a teardown of everything begins after it: it would neither find nor end what is made meanwhile."""
        async with self._ending:
            pass

    async def secret_parameter(self) -> str:
        """The SSM SecureString that machines read the grid's secret from, put there when first asked for."""
        return await self._belongings.parameter.get()

    @property
    def secret(self) -> str:
        """The password of the grid's server and the grid's key, which that parameter holds."""
        return self._belongings.secret

    async def bucket(self) -> Bucket:
        """The session's place in S3, made when first asked for; a teardown of everything ends what is in it."""
        await self._not_during_an_end()
        return await self._belongings.bucket.get()

    @property
    def place(self) -> Bucket:
        """That place, whether there is anything yet or not."""
        return self._belongings.place

    async def way_out(self, conductor: Conductor) -> None:
        """The NAT instance runs until the launch's hard end, where its machines go out by one."""
        await self._belongings.way_out(conductor.subnets, conductor.expires)

    async def prices(self, types: Sequence[str]) -> Tariff:
        """Spot prices, those of these types among them if AWS tells."""
        return await self._books.prices(types)

    # --- what people ask of it ------------------------------------------------------------------------------------------------------

    @property
    def region(self) -> str:
        """The region that it works in."""
        return self.profile.region

    def boto3(self) -> boto3.Session:
        """A boto3 session on the same cloud, for whatever this package does not do."""
        return self.aws.boto3()

    async def move_end(self, hours: float, only: Conductor | None = None) -> datetime:
        """Move the hard end of all launches, or of one, `hours` later; returns the earliest new end. Raises as the verb `extend`."""
        await self._not_during_an_end()
        chosen = [one for one in self._keeper.living() if only is None or one in only.family()]
        return datetime.fromtimestamp(await self._keeper.extend(hours, chosen)).astimezone()

    def cost(self) -> Cost:
        """USD an hour and so far, of all launches, with their volumes and addresses."""
        return self._books.cost()

    @property
    def budget(self) -> float | None:
        """USD that this session may cost at most; None: no limit. It may be set at any time, and what is alive stays."""
        return self._books.budget

    @budget.setter
    def budget(self, amount: float | None) -> None:
        self._books.budget = checked(amount)

    def begin(self, conductor: Conductor) -> None:
        """Register a launch and start it. From any thread. Raises BudgetExceeded, and FleetError when the session has ended."""
        self._stand_by()
        self._register(conductor)
        try:
            self.loop.call_soon_threadsafe(conductor.start)
            self.loop.call_soon_threadsafe(self._keeper.wake)
        except RuntimeError:
            self.launches.remove(conductor)
            raise FleetError(f"{self!r} has ended", todo="connect again") from None

    def resume(self, conductors: Sequence[Conductor]) -> None:
        """Register and start launches that an earlier process has begun: all of them before the first report is read."""
        self._stand_by()
        for one in conductors:
            self._register(one)

        async def begin() -> None:
            for one in conductors:
                one.start()
            self._keeper.wake()

        self.submit(begin(), "resuming").result()

    def begin_again(self, conductor: Conductor) -> None:
        """Register and start a launch that stands in for an earlier one. On the session's loop, while the session lives.

        Raises BudgetExceeded, and FleetError when it has ended.
        """
        if self.closed:
            raise FleetError(f"{self!r} has ended", todo="connect again")
        self._register(conductor)
        conductor.start()
        self._keeper.wake()

    def _stand_by(self) -> None:
        with self._leaving:
            if self._sidecar and self._guard is None and not self.closed:
                self._guard = Guard.start(self.id, self.profile.home)

    def _register(self, conductor: Conductor) -> None:
        """From now on the launch counts. Raises BudgetExceeded."""
        with self._admitting:
            self._books.admit(conductor)
            self.launches.append(conductor)
        if self._guard is not None and conductor.lifetime == "fuse":
            self._guard.keep(str(conductor.uuid))

    async def end_launches(self, launches: Sequence[Conductor]) -> Receipt:
        """End some launches, and those that replace what they have lost; the channel stays for the others."""
        launches = await self._stop(launches)
        ids = {str(one.uuid) for one in launches}
        return self._checked(await self._end(Estate.read(self.id, self.profile.region, self.ledger.entries(), ids), launches, ids))

    async def end_machines(self, parts: Parts) -> Receipt:
        """End some machines of launches that go on."""
        receipt = await retire(self.call, self.id, self.profile.region, self.ledger.entries(), parts, self._cost_of)
        attempt(self.ledger.seen_gone, receipt.proved)
        return self._checked(receipt)

    def teardown_all(self) -> Pending[Receipt]:
        """As the verb of that name."""
        return self.submit(self.end_all(), "teardown of everything")

    def end_all(self) -> Coroutine[Any, Any, Receipt]:
        """End everything that this session made, the channel too. A launch that begins after this call waits until it is over."""
        return self._end_all(list(self.launches))  # the launches of now, not those of when the loop gets to it

    async def _end_all(self, launches: Sequence[Conductor]) -> Receipt:
        async with self._ending:
            await asyncio.gather(*(do() for do in self._farewells))
            launches = await self._stop(launches)
            await self._background.close_ways()
            await self._keeper.rest()
            if {*self.launches} - {*launches}:  # begun meanwhile, and waiting for the end of this
                self._keeper.wake()
            await self._belongings.drop()
            receipt = await self._end(Estate.read(self.id, self.profile.region, self.ledger.entries()), launches, None)
            if not receipt.remaining:
                attempt(self.ledger.mark_ended)
        return self._checked(receipt)

    @staticmethod
    async def _stop(launches: Sequence[Conductor]) -> list[Conductor]:
        """Every launch has its outcome afterwards, and nothing more is on its way for it. Returns them with those that replace some."""
        launches = list(dict.fromkeys(one for launch in launches for one in launch.family()))
        for one in launches:
            one.replacing.stop()
            if one.core.state not in SETTLED:
                one.cancel()
        for one in launches:
            await one.settled.wait()
        return launches

    async def _end(self, estate: Estate, launches: Sequence[Conductor], only: set[str] | None) -> Receipt:
        def listed(rows: Sequence[dict[str, Any]]) -> None:
            for one in launches:
                one.listed(rows)

        def gone(ids: Sequence[str]) -> None:
            for one in launches:
                one.feed(Ended(tuple(ids)))

        receipt = await end(self.call, estate, cost=self._cost_of, on_listed=listed, on_gone=gone, launches=only)
        attempt(self.ledger.seen_gone, receipt.proved)
        if not receipt.remaining:
            for one in launches:
                one.feed(Ended((), all=True))
        return receipt

    def _cost_of(self, row: dict[str, Any]) -> float:
        """USD that a described instance has cost: until its end, where that is known, and nothing if it never ran."""
        for one in self.launches:
            if (slot := one.core.by_instance.get(row["InstanceId"])) is not None:
                span = one.bill.span(slot)
                return 0.0 if span is None else span.cost(time.time())
        return described(row, self._books.tariff).cost(time.time())

    @staticmethod
    def _checked(receipt: Receipt) -> Receipt:
        if receipt.remaining:
            error = StillBilling(receipt)
            log.error("%s", error)  # the teardown may have nobody who waits for it
            raise error
        return receipt

    # --- the end --------------------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Let go without ending anything: what runs goes on until its fuse, and `fleetctl ls` and `down` find it by the ledger.

        Launches that are under way fail with LaunchFailed. Harmless when repeated, from any thread but the session's own.
        """
        self._leave(well=True)

    def _leave(self, *, well: bool) -> None:
        """`well`: what is left is left on purpose. Else the sidecar, if there is one, ends it as soon as the ledger is free."""
        if threading.current_thread() is self._background.thread:
            raise RuntimeError("a session cannot be ended from its own thread: it would wait for itself")
        with self._leaving:
            if self.closed:
                return
            self.closed = True
            try:
                self.submit(self._shut(), "closing of the session").result(2 * CLOSE_SECONDS)
            finally:
                self._background.stop()
                self.ledger.close()
                if self._guard is not None:
                    (self._guard.dismiss if well else self._guard.let_go)()
                _living.pop(self, None)

    async def _shut(self) -> None:
        """Nothing runs on the loop afterwards, and no connection is open."""
        await self._background.close_ways()
        for one in self.launches:
            if not one.settled.is_set():
                one.abandon(LaunchFailed(f"{self!r} was left before launch {one.uuid} was over", left=[f"launch {one.uuid}"], todo=LEFT))
        await self._background.end_tasks()
        await self.aws.close()
        await self._background.shut()

    def close(self) -> Receipt:
        """Tear everything down, then let go. Blocks; harmless when repeated. Raises StillBilling."""
        return Receipt() if self.closed else self._end_by(self.end_all())

    def _end_by(self, teardown: Coroutine[Any, Any, Receipt]) -> Receipt:
        """Wait for a teardown, then let go: well only where it has proved all gone."""
        well = False
        try:
            receipt = self.submit(teardown, "teardown").result()
            well = True
            return receipt
        finally:
            self._leave(well=well)

    def _at_exit(self) -> None:
        if self.closed or os.getpid() != self._pid:  # a forked child is not the one who pays
            return
        running = [launch for launch in self.launches if launch.core.state is not LaunchState.ENDED]
        kept = [launch for launch in running if launch.lifetime == "fuse"]
        if len(running) > len(kept):
            display.say(f"{self!r} ends with this process: tearing down")
        try:
            receipt = self._close_but(running, kept) if kept else self.close()
        except KeyboardInterrupt:
            display.say(f"the teardown of {self!r} was interrupted. {LEFT}")
        except Exception as error:
            display.say(f"the teardown at exit met: {error}")
        else:
            if receipt.lines:
                display.say(receipt.headline())

    def _close_but(self, running: Sequence[Conductor], kept: Sequence[Conductor]) -> Receipt:
        """The end of a process some of whose launches are left to their fuses."""
        names = ", ".join(f"launch {one.uuid}" for one in kept)
        display.say(f'{names} goes on: its lifetime is "fuse". {LEFT}')
        return self._end_by(self.end_launches([one for one in running if one not in kept]))


_living: dict[Session, None] = {}  # a session is kept until it ends, whoever has let go of it, and not for longer


def _at_exit() -> None:
    """Leaving Python ends what its sessions started."""
    for session in reversed(list(_living)):
        session._at_exit()


# The ordinary atexit comes too late: by then no executor takes work, and looking up a host name needs one. What is registered last is
# called first, so executors' own end, registered by their import above, comes after this.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)


def _forked(session: weakref.ref[Session]) -> None:
    """In a forked child: neither the ledger's lock nor the sidecar's pipe may outlive the parent because of it."""
    parent = session()
    if parent is not None:
        parent.ledger.forked()
        if parent._guard is not None:
            parent._guard.forked()


_default: Session | None = None


def connect(name: str = "local", *, home: Path | None = None, budget: float | None = None) -> Session:
    """Connect to a cloud and make it the default of the module-level verbs. Again with the same name: the same session.

    `budget` is what the session may cost at most, in USD: a launch that could pass it is refused (BudgetExceeded), and all ends before
    it is reached. It can be changed: `current().budget = …`.

    `name` is "local", "aws" or a profile; `home` is where state is kept, a local cloud's too. From the first launch on a small process
    stands by that ends what this one leaves when it is killed; FLEETCTL_SIDECAR=off in the environment does without.
    Raises ProfileError, LocalCloudError, LedgerError.
    """
    global _default
    checked(budget)
    if _default is not None and not _default.closed and home is None and _default.profile.name == name:
        _default.budget = _default.budget if budget is None else budget
        return _default
    _default = Session(profiles.load(name, home=home), sidecar=guard.wanted(), budget=budget)
    return _default


def offer(session: Session) -> None:
    """Make it the default session of the module-level verbs, where there is none that lives."""
    global _default
    if _default is None or _default.closed:
        _default = session


def current() -> Session:
    """The default session. Raises NotConnected where there is none."""
    if _default is None or _default.closed:
        raise NotConnected
    return _default
