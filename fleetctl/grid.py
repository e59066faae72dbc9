"""`bring_up_grid`: a grid and the machines under it, in one line. They come together, change their number, and go together.

First comes the server's machine, then the workers' machines, which are told its address. What fails on the way is ended before anybody
hears of it. A grid that shrinks is drained: hosts that are to go finish what runs, or give it back, before their machines are ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

from gridworker import Grid

from . import commands, shapes
from .commands import GRACE_SECONDS, PORT
from .ending.receipt import Receipt
from .errors import FleetError, RequestInvalid
from .futures import Pending
from .launching.handle import Launch, Progress
from .machines import Machine, Machines
from .session import Session, current
from .spot import asked, bring_up_one_spot, bring_up_spots
from .states import LaunchState, MachineState
from .upkeep.retiring import retirable
from .watched import Watched

log = logging.getLogger(__name__)
T = TypeVar("T")

COUNTED = frozenset({MachineState.PENDING, MachineState.LAUNCHED, MachineState.BOOTED, MachineState.READY})
SERVER = "server"  # as `via`: through the grid's own server
SHARED = ("minutes", "lifetime", "hours", "bundle")  # what a server's machine has from the workers' options


@dataclass(frozen=True)
class Plan:
    """How a grid's machines are brought up. `each`: worker processes a machine, None: one for each processor."""

    session: Session
    request: dict[str, Any]
    pool: str
    each: int | None
    distributors: int
    log: str
    server: Mapping[str, Any]
    workers: Mapping[str, Any]

    def begin_server(self, durable: bool) -> Launch[Machine]:
        """Its machine, with the distributor beside it where that has none of its own."""
        program = commands.server(durable=durable, distributor="" if self.distributors else self.pool, log=self.log)
        bundle = None if self.distributors else self.workers.get("bundle")  # a server alone needs no Python
        return bring_up_one_spot(self.request, program, session=self.session, **{"bundle": bundle, **self.server})

    def begin_distributors(self, server: Machine) -> Launch[Machines]:
        """Machines of their own for distributors."""
        program = commands.distributor(self.pool, server, log=self.log)
        bundle = self.workers.get("bundle")
        return bring_up_spots(self.request, self.distributors, program, session=self.session, **{"bundle": bundle, **self.server})

    def begin_workers(self, n: int, server: Machine, **others: Any) -> Launch[Machines]:
        """Machines that work."""
        program = commands.worker(self.each, self.pool, server, log=self.log)
        way = {"via": server} if self.workers.get("via") == SERVER else {}
        return bring_up_spots(self.request, n, program, session=self.session, **{**self.workers, **way, **others})


class FleetGrid(Grid):
    """A grid with its machines: what `gridworker.Grid` does, and `resize`, `teardown`, `machines`, `server`.

    `with` and `async with` close it and tear its machines down. `launches` are all of its launches, the server's first.
    """

    def __init__(
        self, url: str, *, password: str, key: str, plan: Plan, server: Machine, others: Sequence[Launch[Any]], workers: Launch[Machines]
    ) -> None:  # fmt: skip
        super().__init__(url, password=password, key=key, pool=plan.pool)
        self.session, self.server = plan.session, server
        self._plan, self._others, self._crews = plan, list(others), [workers]
        self._resizing = asyncio.Lock()

    def __repr__(self) -> str:
        up, per_hour = len(self.machines.up), sum(launch.cost().per_hour for launch in self.launches)
        state = "closed" if self._closing else f"{len(self._waits)} calls unanswered"
        return f"<grid of {up} worker machines at {self.server.ip}: {state}, ${per_hour:.4f}/h>"

    @property
    def launches(self) -> list[Launch[Any]]:
        """All launches that were made for it; not that of a server that was there before."""
        return [*self._others, *self._crews]

    @property
    def machines(self) -> Machines:
        """The workers' machines, those too that stand in for interrupted ones."""
        first, *others = [launch.machines for launch in self._crews]
        return first.joined(others)

    def resize(self, workers: int) -> Pending[Machines]:
        """Have so many worker machines. New ones are launched; those that are too many are drained, ended and seen to be gone.

        Resolves to `machines`. Those with the least to do go first. Growing is content with what it gets, if that is anything; it raises
        what `bring_up_spots` raises, shrinking what `teardown` raises, GridUnreachable where the server does not answer. RequestInvalid at
        once for what is no number of machines.
        """
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise RequestInvalid(f"workers is a number of machines, not {workers!r}", alias="workers", found=workers)
        return self.session.submit(self._resize(workers), f"resizing to {workers} machines")

    async def _resize(self, workers: int) -> Machines:
        async with self._resizing:
            there = [one for one in self.machines.values() if one.state in COUNTED and not one.lost]
            if workers > len(there):
                launch = self._plan.begin_workers(workers - len(there), self.server, minimum=1)
                self._crews.append(launch)
                await settled(launch)
            elif workers < len(there):
                await self._shrink([one for one in there if one.state is MachineState.READY], len(there) - workers)
        return self.machines

    async def _shrink(self, ready: Sequence[Machine], number: int) -> None:
        nodes = (await asyncio.to_thread(self.status)).nodes
        busy = {one: sum(node["owned"] for name, node in nodes.items() if _of(name, one)) for one in ready}
        youngest_first = ready[::-1]
        going = sorted(youngest_first, key=busy.__getitem__)[:number]
        names = [name for name in nodes if any(_of(name, one) for one in going)]
        try:
            late = await asyncio.to_thread(self.drain, names, timeout=GRACE_SECONDS)
        except LookupError as error:  # one has died meanwhile
            log.warning("%s; the machines are ended without being drained", error)
        else:
            if late:
                log.warning("%s did not end in %d s: what they run is run again elsewhere", ", ".join(late), GRACE_SECONDS)
        await self.session.end_machines(retirable(self.session.launches, going))

    def teardown(self) -> Pending[Receipt]:
        """Close it, end its machines, and prove it. A server that was there before stays. Raises StillBilling."""
        return self.session.submit(self._teardown(), f"teardown of {self!r}")

    async def _teardown(self) -> Receipt:
        await asyncio.to_thread(self.close)
        async with self._resizing:
            return await self.session.end_launches([launch._conductor for launch in self.launches])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        super().__exit__(kind, error, where)
        if not self.session.closed:
            self.teardown().result()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        await super().__aexit__(kind, error, where)
        if not self.session.closed:
            await self.teardown()


class GridLaunch(Watched[FleetGrid]):
    """A grid that is coming up. `launches` are those begun so far. When it fails, all of them have been ended."""

    def __init__(self, plan: Plan, workers: int, server: Machine | Launch[Machine]) -> None:
        self._plan, self._workers, self._server = plan, workers, server
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self.launches: list[Launch[Any]] = [server] if isinstance(server, Launch) else []
        super().__init__(plan.session.submit(self._work(), "grid")._future, f"grid of {workers} worker machines")

    async def _work(self) -> FleetGrid:
        self._task = asyncio.current_task()
        try:
            return await self._come_up()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not self._cancelled:
                raise  # the session lets go, which ends nothing
            await self._plan.session.end_launches([launch._conductor for launch in self.launches])
            if self._cancelled:
                raise FleetError("the grid was given up", left=[], todo="its machines have been ended") from None
            raise

    async def _come_up(self) -> FleetGrid:
        plan, server = self._plan, self._server
        if isinstance(server, Launch):
            server = await settled(server)
        if plan.distributors:
            self.launches.append(plan.begin_distributors(server))
        others, workers = list(self.launches), plan.begin_workers(self._workers, server)
        self.launches.append(workers)
        await asyncio.gather(*map(settled, self.launches))

        def connect(url: str, *, password: str, key: str) -> FleetGrid:
            return FleetGrid(url, password=password, key=key, plan=plan, server=server, others=others, workers=workers)

        return await commands.connected(server, PORT, plan.session, connect)

    def progress(self) -> Progress:
        """Where it is: the launch that was begun last."""
        before = isinstance(self._server, Launch) + bool(self._plan.distributors)
        if not self.launches:  # the server was there before, and the workers are begun in a moment
            return Progress(LaunchState.ASKING, self._workers, self._workers, 0, self._workers, 0, 0.0, 0.0, 0.0, what="workers")
        return replace(self.launches[-1].progress(), what="workers" if len(self.launches) > before else "server")

    def cancel(self) -> Pending[None]:
        """Give it up, and end what it has begun. Once it is up it changes nothing: use `grid.teardown()`."""
        return self._plan.session.submit(self._cancel(), "cancelling of the grid")

    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()
            await asyncio.wait([self._task])

    def _give_up(self) -> Pending[None]:
        return self.cancel()


def bring_up_grid(
    request: dict[str, Any],
    workers: int,
    *,
    each: int | None = None,
    server: Mapping[str, Any] | Machine | None = None,
    distributors: int = 0,
    durable: bool = False,
    pool: str = "pool",
    log: str = "info",
    session: Session | None = None,
    **options: Any,
) -> GridLaunch:
    """Bring up a grid: a server's machine, and `workers` machines with `each` worker processes (None: one for each processor).

    Returns at once; resolves to a `FleetGrid`, a `gridworker.Grid` that has its machines. `request` and `options` are those of
    `bring_up_spots` for the workers' machines; interrupted ones are replaced, unless `on_interruption` says otherwise. The server's
    machine has the same request with the aliases in `server`, in the profile's subnet "public" if there is one and nothing says otherwise;
    or `server` is a machine that runs a server already. EC2 may take the server back as any other: with it the grid is gone. An on-demand
    machine costs three times as much, and stays. `distributors`: machines of their own for so many; 0: one runs beside the server.
    `durable`: the server appends what it accepts to a file. `via="server"`: SSH to the workers goes through the server's machine, as
    into a private subnet.

    Raises RequestInvalid, ProfileError and NotConnected at once. The future raises what `bring_up_spots` raises, MachineError and
    GridUnreachable; everything has been ended then.
    """
    session = session or current()
    options = {"on_interruption": "replace", **options}
    own: dict[str, Any] = {}
    if not isinstance(server, Machine):
        own = {name: options[name] for name in SHARED if name in options} | dict(server or {})
        if "subnet" not in own | shapes.view(request) and "public" in session.profile.subnets:
            own["subnet"] = "public"
    whole = isinstance(distributors, int) and not isinstance(distributors, bool) and distributors >= 0
    if not whole:
        raise RequestInvalid(f"distributors is a number of machines, not {distributors!r}", alias="distributors", found=distributors)
    if each is not None:
        commands.whole("each", each, 1, 10_000)
    sayable = {name: value for name, value in options.items() if (name, value) != ("via", SERVER)}
    asked(request, workers, "true", session=session, **sayable)  # wrong options are told before the server costs anything
    plan = Plan(session, request, pool, each, distributors, log, own, options)
    return GridLaunch(plan, workers, server if isinstance(server, Machine) else plan.begin_server(durable))


def _of(node: str, machine: Machine) -> bool:
    """Whether a node runs on that machine: its name tells, see `commands.worker`."""
    return node.rpartition(".")[0] == machine.instance_id


async def settled(pending: Pending[T]) -> T:
    """The outcome; on the session's loop, where nobody looks at progress."""
    return await Pending._wait(pending)
