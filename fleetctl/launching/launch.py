"""One launch: `lifecycle.Core` decides, the conductor acts through AWS, the ledger and the channel. Runs on the session's loop only.

Order of things: the channel's probe has come back, the intent is in the ledger, then AWS is asked. From then on events (reports,
listings, the deadline, a cancel) go into the core one at a time, and its commands are carried out as tasks that nobody can cancel.
Whatever breaks on the way, the futures get their outcome, and what the launch has made is ended: see `_break`.

EC2 calls from the start to the resolution, whatever the number of machines, beside a listing every 30 s of waiting: by
RequestSpotInstances the request, one listing a second after the first report, one when held reports would decide, the prices, one
DescribeInstances (volumes), one CreateTags; by RunInstances, whose answer names the instances and which tags all, the request, the prices
and one DescribeInstances; by CreateFleet the same, and the making and deleting of its launch template.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from .. import shapes
from ..cloud import denied, ec2
from ..cloud.bucket import Bucket
from ..errors import AwsError, Denied, FleetError, LaunchFailed
from ..events import (
    Arrived,
    Asked,
    Cancel,
    Command,
    Deadline,
    Describe,
    Enough,
    Event,
    GiveUp,
    Interrupted,
    Listed,
    Refused,
    Reported,
    Resolve,
    Slot,
    Terminate,
)
from ..lifecycle import Core
from ..machines import Home, Machine, Machines
from ..messages import Report
from ..money.prices import Tariff
from ..notify import Channel
from ..profiles import Profile
from ..reach.hands import Hands
from ..states import GIVEN_UP, SETTLED, LaunchState, MachineState
from .asking import Asking
from .billing import Bill
from .bulk import put_aside
from .examining import examine
from .listing import Listing
from .order import Order
from .outcome import END_IT, Facts, failure
from .proving import Prover
from .readiness import REPORTED, Ready
from .replacing import Replacing
from .topup import Ask, Plan, Pool

log = logging.getLogger(__name__)


class Desk(Home, Protocol):
    """What a launch needs of its session."""

    id: str
    profile: Profile

    async def channel(self) -> Channel:
        """The open channel, made and probed when first asked for."""

    async def secret_parameter(self) -> str:
        """The SSM parameter that holds the session's grid secret."""

    async def bucket(self) -> Bucket:
        """The session's place in S3, made when first asked for."""

    async def prices(self, types: Sequence[str]) -> Tariff:
        """Spot prices, those of these types among them if AWS tells."""

    async def way_out(self, conductor: Conductor) -> None:
        """Whatever the launch's machines go out by is there until their end."""


class Conductor:
    """Carries one launch from the call to its outcome."""

    lifetime = "session"  # or "fuse": left to its machines' fuses when the session's process ends
    end_known = True  # whether `expires` is what its machines obey
    via: Hands | None = None  # the machine that SSH to these goes through
    resumed = False  # another process has begun it: to stop waiting for it ends nothing

    def __init__(self, desk: Desk, order: Order, *, minimum: int, pools: Sequence[Pool] = (), ready: Ready = REPORTED) -> None:
        wanted = order.wanted
        self.desk, self.order = desk, order
        self.expires = order.expires  # the hard end of its machines, which `extend` moves
        self.uuid: UUID = order.uuid
        self.type, self.cap = order.type, order.cap
        self._shape = order.shape
        self._pools = tuple(pools) or (Pool(order.request),)
        self._offers = [replace(self.order, request=pool.request, on_demand=pool.on_demand) for pool in self._pools]
        self.bill = Bill(self._offers, desk.profile.region)
        self._plan = Plan(wanted, len(self._offers))
        self.call: ec2.Call = functools.partial(desk.call, launch=str(self.uuid))
        self.ready = ready
        self.core = Core(wanted, minimum, proving=ready.proved)
        self.listing = Listing(self.core, self._list, waits=self._shape.waits)
        self.prover = Prover(ready, self) if ready != REPORTED else None
        self.pools_asked = Asking(self.call, f"launch {self.uuid}", order.deadline, lambda: self.core.state in SETTLED)
        self.began, self.deadline = order.began, order.deadline
        self.settled_at: float | None = None
        self.future: concurrent.futures.Future[Machines] = concurrent.futures.Future()
        self.enough: concurrent.futures.Future[Machines] = concurrent.futures.Future()
        self.watchers: list[Callable[[], None]] = []  # told of each arrival, and of the outcome
        self.machines: dict[str, Machine] = {}
        self.arrived: list[str] = []  # keys in the order of their getting ready
        self.refusal: Exception | None = None
        self.replacing = Replacing()
        self.settled = asyncio.Event()  # the outcome is out, and whatever ends with it has been ended
        self._broken: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: asyncio.Task[None] | None = None
        self._listing: asyncio.Task[None] | None = None
        self._proving: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None  # carries out the outcome
        self._timer: asyncio.TimerHandle | None = None
        self._terminated: set[str] = set()
        self._terminating = asyncio.Lock()  # who comes second hears what became of the first

    def __repr__(self) -> str:
        return f"<conductor of {self.uuid}: {self.core!r}>"

    # --- the outside ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, unless it was cancelled before. On the session's loop."""
        if self.core.state in SETTLED:
            return
        self._asking = self._spawn(self._ask())
        self._listing = self._spawn(self.listing.keep())
        if self.prover is not None:
            self._proving = self._spawn(self.prover.prove())
        self._timer = asyncio.get_running_loop().call_later(self.deadline - time.time(), self.feed, Deadline())

    def feed(self, event: Event) -> None:
        """One event into the core, its commands out. Never raises: a caller is a timer, the listener or another launch's teardown."""
        before = self.core.state
        try:
            for command in self.core.step(event, time.time()):
                self._carry_out(command)
        except Exception as error:
            self._break(error)
        if before not in SETTLED and self.core.state in SETTLED:
            self.settled_at = time.time()
            if self._proving is not None:
                self._proving.cancel()
        if self.core.state is LaunchState.ENDED and self._listing is not None:
            self._listing.cancel()

    def cancel(self) -> None:
        """The user gives up. Harmless when there is an outcome already."""
        self.feed(Cancel())

    def abandon(self, error: Exception) -> None:
        """The session lets go: whoever waits hears `error`. What runs goes on."""
        self._settle(error)

    def report(self, report: Report) -> None:
        """A report from the channel."""
        first = not self.core.held and not self.core.by_instance
        if report.rebalance and (slot := self.core.by_instance.get(report.instance)) and slot.report and not slot.report.rebalance:
            log.info("EC2 recommends to rebalance %s, which may be taken back and may not", report.instance)
        self.feed(Reported(report))
        if first:
            self.listing.heard_first()

    def listed(self, rows: Sequence[dict[str, Any]]) -> None:
        """A listing of spot requests or of instances, as AWS gives it. It may be wider than the launch."""
        self.feed(Listed(ec2.seen(rows)))

    async def tag_end(self) -> None:
        """Tag what may live, requests and instances, with the end as it is now: an extension has moved it. Raises AwsError."""
        there = [slot for slot in self.core.all() if slot.state is not MachineState.GONE]
        ids = dict.fromkeys(id for slot in there for id in (slot.key, slot.instance) if id)
        await ec2.tag(self.desk.call, list(ids), {ec2.EXPIRES_TAG: self.order.stamp(self.expires)})

    @property
    def subnets(self) -> frozenset[str]:
        """The subnets that it names."""
        said = (shapes.view(pool.request).get("subnet", ()) for pool in self._pools)
        return frozenset(one for few in said for one in ((few,) if isinstance(few, str) else few))

    def machine(self, slot: Slot) -> Machine:
        """The user's view of a slot."""
        if slot.key not in self.machines:
            machine = Machine(slot, self.desk, self.bill.price, self.bill.span)
            machine.via = self.via
            return self.machines.setdefault(slot.key, machine)  # from any thread: one of two is it
        return self.machines[slot.key]

    def family(self) -> list[Conductor]:
        """This launch and those that replace what it has lost. From any thread."""
        return [self, *(one for launch in list(self.replacing.launches) for one in launch.family())]

    def snapshot(self) -> Machines:
        """All machines as they are now. From any thread."""
        machines, arrived = {slot.key: self.machine(slot) for slot in self.core.all()}, list(self.arrived)
        return Machines(machines, tuple(arrived[: self.core.wanted]), tuple(arrived[self.core.wanted :]))

    async def renew_prices(self) -> None:
        """Ask for the prices that concern this launch. On the session's loop; never raises."""
        types = {slot.type for slot in self.core.all() if slot.type} or self.order.types
        try:
            self.bill.tariff = await self.desk.prices(sorted(types))
        except Exception:  # a display's concern, which no launch fails for
            log.warning("launch %s: its prices are not known", self.uuid, exc_info=True)

    # --- carrying out -----------------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        match command:
            case Arrived(slot):
                self.machine(slot)  # first, since other threads look up what has arrived
                self.arrived.append(slot.key)
                self._tell()
            case Interrupted(slot):
                self.replacing.interrupted(self.machine(slot), was_ready=slot.was_ready, state=self.core.state)
            case Enough():
                if not self.enough.done():
                    self.enough.set_result(self.snapshot())
            case Describe():
                self.listing.want()
            case Terminate(instances):
                self._spawn(self._terminate_late(instances))
            case Resolve(requests, instances):
                self._closing = self._spawn(self._resolve(requests, instances))
            case GiveUp(why):
                self._closing = self._spawn(self._give_up(why))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"launch {self.uuid}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break(error, for_good=task is self._closing)

    def _break(self, error: BaseException, *, for_good: bool = False) -> None:
        """A fault of this program. The launch is given up, and its waiters hear of it; at the second fault at once."""
        log.error("launch %s broke", self.uuid, exc_info=error)
        again, self._broken = self._broken is not None, self._broken or error
        if for_good or (again and self.core.state not in SETTLED):
            self._settle(error)
        elif self.core.state not in SETTLED:
            self.feed(Cancel())

    def _tell(self) -> None:
        for watcher in list(self.watchers):
            with contextlib.suppress(RuntimeError):  # its event loop has closed: nobody iterates any more
                watcher()

    def _settle(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for future in (self.enough, self.future):
            if future.done():
                continue
            if error is None:
                future.set_result(self.snapshot())
            else:
                future.set_exception(error)
        self.settled.set()
        self._tell()

    # --- asking AWS ---------------------------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        """Channel, user data, intent, request. A refusal is an event like any other."""
        try:
            channel = await self.desk.channel()
            channel.demultiplexer.handlers[self.uuid] = self.report
            await self.desk.way_out(self)
            secret = await self.desk.secret_parameter() if self.order.program.secret else None
            bulk = await put_aside(self.order, self.desk, topic_arn=channel.topic_arn, secret=secret)
            calls = functools.partial(self._calls_for, topic_arn=channel.topic_arn, secret=secret, bulk=bulk)
            await self.pools_asked.fill(self._plan, self._pools, calls, self._made)
        except Exception as error:
            if isinstance(error, Denied):
                await denied.explain(self.call, error)
            self.refusal = error
            if self.core.state is LaunchState.ASKING or self.core.state in GIVEN_UP:
                self.feed(Refused(str(error)))
            else:  # some machines are there, and may be enough; what a lost answer has made a listing shows
                log.warning("launch %s: no more could be asked for: %s", self.uuid, error)
                self.feed(Asked(()))

    def _calls_for(self, ask: Ask, *, topic_arn: str, secret: str | None, bulk: str) -> Sequence[shapes.Call]:
        """The calls that ask a pool for what is missing."""
        part = replace(self._offers[ask.pool], wanted=ask.number, part=ask.part)
        return shapes.calls(part.finished(topic_arn=topic_arn, region=self.desk.profile.region, secret=secret, bulk=bulk))

    def _made(self, made: Asked) -> None:
        self.feed(made)
        if made.keys:
            self._spawn(self.renew_prices())

    # --- listing ------------------------------------------------------------------------------------------------------------------

    async def _list(self) -> bool:
        """One listing into the core; False where AWS gave none."""
        try:
            rows = await self._rows()
        except AwsError as error:
            log.warning("launch %s could not be listed: %s", self.uuid, error.what)
            return False
        if isinstance(self.refusal, ec2.TRANSIENT):  # a lost answer may have made machines beside those that are known
            self._found(rows)
        else:
            self.listed(rows)
        return True

    async def _rows(self) -> list[dict[str, Any]]:
        """What AWS shows of the launch: its spot requests where those wait for capacity, else its instances."""
        if self._shape.waits:
            return await ec2.spot_requests(self.call, ec2.LAUNCH_TAG, str(self.uuid))
        return await ec2.instances_with(self.call, f"tag:{ec2.LAUNCH_TAG}", [str(self.uuid)])

    # --- outcomes -----------------------------------------------------------------------------------------------------------------

    async def _resolve(self, requests: Sequence[str], instances: Sequence[str]) -> None:
        """Up. Whoever has not come is cancelled first, listed again (a request may have been filled meanwhile), then terminated."""
        await self._stop_asking()
        if isinstance(self.refusal, ec2.TRANSIENT):
            await self._list()  # what a lost answer has made is not needed any more
            requests = [*requests, *(slot.key for slot in self.core.all() if slot.dropped)]
        if requests:
            try:
                if self._shape.waits:
                    await ec2.cancel(self.call, requests)
                    await self._list()
                await self._terminate([*instances, *(s.instance for s in self.core.all() if s.dropped and s.instance)])
            except AwsError as error:
                log.warning("launch %s is up; what has not reported could not be ended, the teardown will: %s", self.uuid, error.what)
        await self._adopt()
        self._settle(None)

    async def _adopt(self) -> None:
        """Learn when the instances began and which requests they have; tag what the launch call could not tag, in one call.

        If that fails, instances are still ours by the chain from the tagged request.
        """
        alive = [slot.instance for slot in self.core.all() if slot.instance and slot.alive and not slot.dropped]
        try:
            found = await ec2.instances(self.call, alive)
            self.listed(found)
            for one in found:
                self.core.by_instance[one["InstanceId"]].launched = one["LaunchTime"].timestamp()
            if "instance" not in self._shape.tagged:
                volumes = [v["Ebs"]["VolumeId"] for one in found for v in one.get("BlockDeviceMappings", []) if "Ebs" in v]
                await ec2.tag(self.call, [*alive, *volumes], {**self.order.tags, ec2.EXPIRES_TAG: self.order.stamp(self.expires)})
            elif self.expires != self.order.expires:  # it was moved before there was anything to be tagged
                await self.tag_end()
        except FleetError as error:  # AWS, or the disk that holds the ledger: the machines are up all the same
            log.warning("launch %s: its instances could not be looked up and tagged: %s", self.uuid, error.what)

    async def _terminate(self, instances: Sequence[str]) -> None:
        """Terminate what nobody waits for, each once. Raises AwsError when AWS takes none of it."""
        async with self._terminating:
            new = [one for one in dict.fromkeys(instances) if one not in self._terminated]
            refused = await ec2.terminate(self.call, new)
            self._terminated.update(one for one in new if one not in refused)
        for instance, error in refused.items():
            log.warning("launch %s: %s could not be terminated: %s", self.uuid, instance, error.what)

    async def _terminate_late(self, instances: Sequence[str]) -> None:
        """After the outcome there is nobody left to tell; the machine's next report, or the teardown, tries again."""
        try:
            await self._terminate(instances)
        except AwsError as error:
            log.warning("launch %s: %s could not be terminated: %s", self.uuid, ", ".join(instances), error.what)

    async def _stop_asking(self) -> None:
        """Nothing more is asked for afterwards. A call on its way is waited for: its answer names what must be ended."""
        if self._asking is not None:
            if not self.pools_asked.in_call:
                self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _give_up(self, why: str) -> None:
        """Below the minimum: cancel, list, terminate, then say why."""
        await self._stop_asking()
        examined = await examine(self, self.prover.cases if self.prover else {}) if why == "deadline" else ()  # while they live
        unsure = any(isinstance(one, ec2.TRANSIENT) for one in (self.refusal, self.pools_asked.trouble))  # a lost answer may hide machines
        if self.pools_asked.sent and (why in ("deadline", "cancelled") or unsure):
            with contextlib.suppress(AwsError):  # tells a silent channel from dead machines; `_end_all` lists again
                self._found(await self._rows())
        error = failure(why, self._facts()._replace(examined=examined))  # as things are before their end changes them
        left = await self._end_all()
        if unsure and not self.core.slots:
            left = (f"launch {self.uuid}, if AWS has taken the request: it shows nothing of it yet",)
        outcome = self._broken or (self.refusal if why == "refused" else None) or error
        if left and isinstance(outcome, FleetError):
            outcome.left, outcome.todo = left, END_IT
        elif isinstance(outcome, LaunchFailed):
            outcome.ended = len(self._terminated)
        self._settle(outcome)

    async def _end_all(self) -> tuple[str, ...]:
        """Cancel, list, terminate everything of the launch; returns what may still run."""
        try:
            if self.core.slots:
                if self._shape.waits:
                    await ec2.cancel(self.call, list(self.core.slots))
                self._found(await self._rows())
            await self._terminate([slot.instance for slot in self.core.all() if slot.instance and slot.alive])
        except AwsError as trouble:
            log.warning("launch %s was given up, but could not be ended: %s", self.uuid, trouble.what)
            return (f"launch {self.uuid}: {trouble.what}",)
        known = (i for i, slot in self.core.by_instance.items() if slot.alive and i not in self._terminated)
        # a request that no listing has shown as over may have an instance, or get one yet
        unseen = (f"the instance of {one.key}" for one in self.core.all() if one.instance is None and one.state is not MachineState.GONE)
        return (*known, *unseen)

    def _found(self, rows: Sequence[dict[str, Any]]) -> None:
        """A listing after an answer may have been lost. What that has made is ours by its tag."""
        seen = ec2.seen(rows)
        known = (*self.core.slots, *self.core.by_instance)
        self.feed(Asked(tuple(one.key for one in seen if one.key not in known and one.request not in known), seen))

    def _facts(self) -> Facts:
        seconds = self.deadline - self.began
        title = f"launch {self.uuid} of {self.core.wanted} × {self.type or 'machine'}"
        return Facts(title, self.core, self.snapshot(), seconds, tuple(self.pools_asked.shortfalls), ready=str(self.ready))
