"""A free list: machines that are up, configured and waiting, of which one is handed out at once. Runs on the session's loop.

Behind the list one task asks for what is missing, configures what arrives, ends what is too much, and looks for machines that have gone.
A machine is tried over the connection that stands before it is handed out. Where each one is stands in the ledger.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ..cloud.journal import attempt
from ..ending.receipt import Receipt
from ..errors import FleetError, HomeError, RequestInvalid
from ..futures import Pending
from ..launching.handle import Launch
from ..launching.launch import Conductor
from ..machines import Machine, Machines
from ..reach.command import Command, command
from ..session import Session, current
from ..spot import Commands, asked, bring_up_spots
from ..states import SETTLED, MachineState
from ..upkeep.retiring import retirable
from .homes import Lodging, Saved, place
from .standing import NOTE, STEPS, Step, Where, missing, note, noted, surplus

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS = 5.0  # between looks for machines that have gone by themselves
TRY_SECONDS = 5.0  # for which a machine may be silent before it is not handed out
AGAIN = (10.0, 30.0, 120.0, 600.0)  # seconds to the next launch after one that has failed
LISTS: WeakValueDictionary[tuple[str, str], Standby] = WeakValueDictionary()


class Member:
    """A machine of the list; while it is taken, with the home that was brought to it, if any."""

    __slots__ = ("home", "machine", "moving", "where")

    def __init__(self, machine: Machine, where: Where = Where.CONFIGURING, home: str = "") -> None:
        self.machine, self.where, self.home = machine, where, home
        self.moving = asyncio.Lock()  # a home is moved by one at a time

    def __repr__(self) -> str:
        return f"<member {self.machine.instance_id} {self.where} {self.home}>"


class Standby:
    """Keeps `size` machines free: configured, waiting, handed out at once by `take`, and missed ones are brought up behind.

    `request`, `cmds` and `options` are those of `bring_up_spots`. `configure` are commands (text, words, `Command`) that each machine runs,
    in order, before it is free; `clean` those before a machine that was given back is free again. At most `most` machines are alive.
    When nobody has taken one for `idle_hours`, the free ones are ended, and brought up again by the next `take`.

    `home` ("s3://bucket/name") are a user's files: they are brought to a machine when it is handed out, into `home_dir` below the login
    user's home directory, and saved when it is given back, retired or ended, when EC2 takes it back, and every `save_minutes`. The machine
    does that with its role's rights. A home is on one machine at a time; `take(home=…)` says another one.

    Machines are the session's: `close` ends them, as its teardown does. After `attach`, a list of the same `name` in that session goes on
    with the machines of the former; those that were taken still are. Raises RequestInvalid, ProfileError and NotConnected.
    """

    def __init__(
        self, request: dict[str, Any], size: int = 5, *, cmds: Commands = "true", configure: Sequence[Any] = (),
        clean: Sequence[Any] = (), idle_hours: float = 1.0, most: int | None = None, name: str = "standby",
        home: str = "", home_dir: str = "home", save_minutes: float = 15.0, session: Session | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self.session, self.name = session or current(), name
        for what, value in (("size", size), ("most", size if most is None else most)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RequestInvalid(f"{what} is a number of machines, not {value!r}", alias=what, found=value)
        if (self.session.id, name) in LISTS:
            what = f"this session has a list {name!r} already"
            raise RequestInvalid(what, alias="name", found=name, todo="close it, or name this one otherwise")
        self.home = str(place(home)) if home else ""
        words = {"session": self.session.id, "list": name}
        self._lodging = Lodging(self.session.call, self.session.region, home_dir, save_minutes, words)
        asked(request, size, cmds, session=self.session, **options)
        self.size, self.most, self.idle_hours = size, most, idle_hours
        self._request, self._cmds, self._options = request, cmds, {"on_interruption": self._interrupted, **options}
        self._configure, self._clean = [[command(one) for one in each] for each in (configure, clean)]
        self._members: dict[str, Member] = {}
        self._launches: list[Launch[Machines]] = []
        self._conductors: list[Conductor] = []
        self._coming = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None]
        self._news = asyncio.Event()  # for the task behind
        self._changed = asyncio.Event()  # for those who wait for a machine; a new one each time
        self._used = time.time()
        self._closed = False
        self._trouble: FleetError | None = None
        self._fails, self._next_launch = 0, 0.0
        LISTS[self.session.id, name] = self
        self.session.submit(self._begin(), f"list {name}").result()

    def __repr__(self) -> str:
        coming = self._coming + len(self._in(Where.CONFIGURING))
        trouble = f", {self._trouble.what}" if self._trouble else ""
        return (f"<standby {self.name}: {len(self.free)} free of {self.size}, {len(self.taken)} taken, {coming} coming, "
                f"${sum(one.per_hour for one in self._alive()):.4f}/h{trouble}>")  # fmt: skip

    @property
    def free(self) -> list[Machine]:
        """Machines that wait, in the order in which they are handed out."""
        return self._in(Where.FREE)

    @property
    def taken(self) -> list[Machine]:
        """Machines that have been handed out."""
        return self._in(Where.TAKEN)

    @property
    def homes(self) -> dict[str, Machine]:
        """The machines that homes are on, by home."""
        return {one.home: one.machine for one in self._lodgers()}

    def _lodgers(self) -> list[Member]:
        return [one for one in list(self._members.values()) if one.home and one.where is Where.TAKEN]

    def _in(self, where: Where) -> list[Machine]:
        return [one.machine for one in list(self._members.values()) if one.where is where]

    def _alive(self) -> list[Machine]:
        return [one.machine for one in list(self._members.values()) if one.where is not Where.GONE]

    # --- what people ask of it --------------------------------------------------------------------------------------------------------

    def take(self, timeout: float | None = None, *, home: str | None = None) -> Pending[Machine]:
        """A machine, at once if one is free; else as soon as one is. With its `home` (None: the list's, "": none), once that is there.

        Raises TimeoutError after `timeout` seconds; what made a launch or its configuration fail, where none is free or coming; HomeError
        where the home is on another machine, or cannot be brought.
        """
        whose = self.home if home is None else str(place(home)) if home else ""
        return self.session.submit(self._take(timeout, whose), f"machine of {self.name}")

    def full(self, timeout: float | None = None) -> Pending[None]:
        """Wait until as many are free as are wanted. Raises as `take`."""
        return self.session.submit(self._full(timeout), f"filling of {self.name}")

    def save(self, machine: Machine) -> Pending[Saved | None]:
        """Save a taken machine's home now; it stays there. None: the machine is no more.

        Raises HomeError, MachineError, RequestInvalid for one that has none.
        """
        member = self._member(machine, Where.TAKEN)
        if not member.home:
            raise RequestInvalid(f"{machine!r} has no home", alias="machine", found=machine)
        return self.session.submit(self._lodging.save(member), f"saving of {member.home}")

    def give_back(self, machine: Machine, *, save: bool = True) -> Pending[None]:
        """It is not needed any more: it is cleaned and free again, or ended where enough are. Resolves when that is done.

        Its home is saved and taken away before. Where that fails it stays taken, with the files, and HomeError or MachineError says so;
        `save=False` does without: what was saved last counts. Raises RequestInvalid for a machine that was not taken here, CommandFailed
        and MachineError if it cannot be cleaned, and is ended.
        """
        member = self._member(machine, Where.TAKEN)
        return self.session.submit(self._give_back(member, save), f"return of {machine.instance_id}")

    def retire(self, machine: Machine, *, save: bool = True) -> Pending[None]:
        """End a machine of the list, whatever it is doing; its home is saved before, as by `give_back`.

        Raises RequestInvalid for a strange one, HomeError, StillBilling.
        """
        return self.session.submit(self._end(self._member(machine), save), f"retirement of {machine.instance_id}")

    @asynccontextmanager
    async def lend(self, timeout: float | None = None, *, home: str | None = None) -> AsyncIterator[Machine]:
        """A machine for a block; given back at its end, and ended where the block has raised: who knows what it has left there.

        Its home is saved in either case.
        """
        taking = self.take(timeout, home=home)
        try:
            machine = await taking
        except asyncio.CancelledError:
            taking.add_done_callback(self._unwanted)
            raise
        try:
            yield machine
        except BaseException:
            self.retire(machine)
            raise
        await self.give_back(machine)

    def _unwanted(self, taken: concurrent.futures.Future[Machine]) -> None:
        """Nobody waits any more for a machine that comes now."""
        if not taken.cancelled() and taken.exception() is None and not self.session.closed:
            self.give_back(taken.result())

    def close(self, *, save: bool = True) -> Pending[Receipt]:
        """End the list and all of its machines, taken ones too; homes are saved before. Raises StillBilling; HomeError: nothing was ended.
        """
        return self.session.submit(self._close(save), f"end of {self.name}")

    async def __aenter__(self) -> Standby:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.session.closed:
            await self.close()

    # --- on the session's loop --------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        launches, machines = noted(self.session.ledger.entries(), self.name)
        self._conductors = [one for launch in self.session.launches for one in launch.family() if str(one.uuid) in launches]
        for conductor in self._conductors:
            for machine in conductor.snapshot().up:
                id = str(machine.instance_id)
                member = self._members[id] = Member(machine, *machines.get(id, (Where.CONFIGURING,)))
                if member.where is Where.CONFIGURING:
                    self._spawn(self._set_up(member, self._configure))
        self._tending = asyncio.get_running_loop().create_task(self._tend(), name=f"standby {self.name}")
        self.session.keep(self._stop)
        self.session.before_end(self._farewell)

    async def _farewell(self) -> None:
        """The session ends everything. A launch that was begun from now on would outlive that, and nobody would be left to take of it."""
        self._closed = True
        self._tending.cancel()
        for one in [each for conductor in self._conductors for each in conductor.family() if each.core.state not in SETTLED]:
            one.cancel()
        await self._lodging.farewell(self._lodgers())

    async def _tend(self) -> None:
        """Round after round: what has gone, what is missing, what is too much."""
        while True:
            for member in list(self._members.values()):
                state = member.machine.state
                if state is MachineState.GONE or (state is MachineState.INTERRUPTED and member not in self._lodgers()):
                    self._lose(member)
                elif state is MachineState.FAILED and member.where in (Where.CONFIGURING, Where.FREE):
                    self._let_go([member])
            size = self._size()
            wanted = missing(size, [one.where for one in self._members.values()], self._coming, self.most)
            if wanted and time.time() >= self._next_launch:
                self._launch(wanted)
            free = [one for one in self._members.values() if one.where is Where.FREE]
            if leaving := free[len(free) - surplus(size, [one.where for one in free]) :]:
                self._let_go(leaving)
            self._news.clear()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _size(self) -> int:
        return 0 if time.time() - self._used >= 3600 * self.idle_hours else self.size

    def _launch(self, number: int) -> None:
        try:
            launch = bring_up_spots(self._request, number, self._cmds, minimum=1, session=self.session, **self._options)
        except FleetError as error:  # the budget, say
            self._fail(error)
            return
        self._note(launch=str(launch.uuid))
        self._launches.append(launch)
        self._conductors.append(launch._conductor)
        self._coming += number
        self._spawn(self._receive(launch, number))

    async def _receive(self, launch: Launch[Machines], number: int) -> None:
        try:
            async for machine in launch:
                number, self._coming = number - 1, self._coming - 1
                member = self._members[str(machine.instance_id)] = Member(machine)
                self._spawn(self._set_up(member, self._configure))
        except FleetError as error:
            self._fail(error)
        finally:
            self._coming -= number
            self._tell()
        if failed := launch.machines.failed:  # they would stay, for whoever wants to look at them
            await self.session.end_machines(retirable(self.session.launches, failed))

    async def _set_up(self, member: Member, commands: Sequence[Command]) -> None:
        """Run these on it, and then it is free."""
        try:
            for one in commands:
                (await member.machine.link().run(one)).check()
            await member.machine.link().connection()  # so that there is one when it is handed out
        except FleetError as error:
            self._fail(error)
            await self._retire([member])
            raise
        if member.where is Where.CONFIGURING:
            self._fails, self._trouble = 0, None
            self._step(member, Step.CONFIGURED)

    def _wake(self) -> None:
        """Somebody wants machines: an idle list fills again, and a failed launch is tried again now."""
        self._used, self._next_launch = time.time(), 0.0
        self._news.set()

    async def _take(self, timeout: float | None, home: str) -> Machine:
        self._wake()
        async with asyncio.timeout(timeout):
            while True:
                if home in self.homes:
                    raise HomeError(f"{home} is in use on {self.homes[home].called}, which was taken here", trouble="held",
                                    todo="give that back first, or take another home")  # fmt: skip
                free = (one for one in self._members.values() if one.where is Where.FREE and not self._closed)
                member = next(free, None)
                if member is None:
                    await self._wait()
                    continue
                self._step(member, Step.TAKE, home)
                try:
                    async with asyncio.timeout(TRY_SECONDS):
                        (await member.machine.link().run(Command("true"))).check()
                except (FleetError, TimeoutError) as error:
                    log.warning("%r is not handed out, for it does not answer: %s", member.machine, error)
                    self._spawn(self._retire([member]))
                    continue
                except BaseException:  # whoever waited has gone
                    self._spawn(self._give_back(member))
                    raise
                try:
                    if home:
                        async with member.moving:
                            await self._lodging.bring(member)
                    return member.machine
                except BaseException:  # what has come of it is taken away again
                    self._spawn(self._give_back(member))
                    raise

    async def _full(self, timeout: float | None) -> None:
        self._wake()
        async with asyncio.timeout(timeout):
            while len(self.free) < self.size:
                await self._wait()

    async def _wait(self) -> None:
        if self._closed:
            raise FleetError(f"list {self.name} was closed", todo="make another")
        changed, coming = self._changed, self._coming + len(self._in(Where.CONFIGURING))
        if self._trouble is not None and not coming and time.time() < self._next_launch:
            raise self._trouble
        await changed.wait()

    async def _give_back(self, member: Member, save: bool = True) -> None:
        self._used = time.time()
        async with member.moving:
            self._member(member.machine, Where.TAKEN)  # who came second finds it given back
            cleared = not member.home or await self._lodging.part(member, save=save)
            self._step(member, Step.RETURN if cleared else Step.RETIRE)
        if cleared:
            await self._set_up(member, self._clean)
        else:
            await self._retire([member])

    async def _end(self, member: Member, save: bool) -> None:
        async with member.moving:
            if member.home:
                await self._lodging.part(member, save=save)
        await self._retire([member])

    def _let_go(self, members: Sequence[Member]) -> None:
        """Retire them behind. They leave at once: a task that begins a moment later would end what has been handed out meanwhile."""
        for member in members:
            self._step(member, Step.RETIRE)
        self._spawn(self._retire(members))

    async def _retire(self, members: Sequence[Member]) -> None:
        for member in members:
            self._step(member, Step.RETIRE)
        going = [one.machine for one in members if one.where is Where.LEAVING]
        await self.session.end_machines(retirable(self.session.launches, going))
        for member in members:
            self._lose(member)

    async def _close(self, save: bool) -> Receipt:
        if save:
            await self._lodging.save_all(self._lodgers())
        await self._stop()
        family = [one for conductor in self._conductors for one in conductor.family()]
        receipt = await self.session.end_launches(family)
        for member in self._members.values():
            self._lose(member)
        return receipt

    async def _stop(self) -> None:
        """Nothing is brought up any more."""
        LISTS.pop((self.session.id, self.name), None)
        self._closed = True
        tasks = [*self._tasks, self._tending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell()

    # --- helpers ----------------------------------------------------------------------------------------------------------------------

    def _member(self, machine: Machine, where: Where | None = None) -> Member:
        member = self._members.get(str(machine.instance_id))
        if member is None or (where is not None and member.where is not where):
            state = "is not of this list" if member is None else f"is {member.where}"
            raise RequestInvalid(f"{machine!r} {state}", alias="machine", found=machine)
        return member

    def _step(self, member: Member, step: Step, home: str = "") -> None:
        after = STEPS[member.where][step]
        if after is not member.where:
            member.where, member.home = after, home
            self._note(instance=str(member.machine.instance_id), where=after, **({"home": home} if home else {}))
        self._tell()

    def _lose(self, member: Member) -> None:
        if member.where is not Where.GONE:
            self._step(member, Step.LOSE)

    def _note(self, **what: Any) -> None:
        attempt(self.session.ledger.note, NOTE, note(self.name, **what))

    def _fail(self, error: FleetError) -> None:
        pause = AGAIN[min(self._fails, len(AGAIN) - 1)]
        log.warning("list %s, again in %.0f s: %s", self.name, pause, error.what)
        self._trouble, self._fails, self._next_launch = error, self._fails + 1, time.time() + pause
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def _interrupted(self, machine: Machine) -> None:
        """EC2 takes it back. In a thread of its own."""
        self.session.loop.call_soon_threadsafe(self._news.set)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"standby {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, FleetError):
            log.error("list %s broke", self.name, exc_info=error)
