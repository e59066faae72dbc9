"""Seeing from outside that the machines of a launch are ready: `readiness` decides what to look at next, this looks.

EC2 is asked for the states of all that are silent in one call, and for a console where a host key is needed; a machine that reports in time
costs neither. What is found out goes to the launch as a report would. Runs on the session's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from ..cloud import ec2
from ..errors import AwsError, FleetError
from ..events import Listed, Proved, Reported, Slot
from ..reach import holding
from .readiness import LOOKS, Case, Ready, Step, found_out, pause

if TYPE_CHECKING:
    from ..events import Event
    from ..lifecycle import Core
    from ..profiles import Profile
    from ..reach.hands import Hands

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # between looks at what is known already


class Profiled(Protocol):
    """Where a profile is."""

    profile: Profile


class Proven(Protocol):
    """What proving needs of a launch."""

    uuid: UUID
    core: Core
    via: Hands | None

    @property
    def desk(self) -> Profiled:
        """Its session."""

    @property
    def call(self) -> ec2.Call:
        """The way to AWS."""

    def feed(self, event: Event) -> None:
        """What has been found out."""

    def machine(self, slot: Slot) -> Hands:
        """The way to the machine."""


class Prover:
    """Of one launch. `cases` are the machines that are not ready, by instance."""

    def __init__(self, ready: Ready, launch: Proven) -> None:
        self.ready, self._launch = ready, launch
        self.cases: dict[str, Case] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._looks, self._next_look = 0, 0.0

    def __repr__(self) -> str:
        return f"<prover of {self._launch.uuid} by {self.ready}: {len(self.cases)} to do>"

    async def prove(self) -> None:
        """Until it is cancelled, as it is when the launch has its outcome."""
        clock = asyncio.get_running_loop().time
        self._next_look = clock() + LOOKS[0]
        try:
            while True:
                await asyncio.sleep(WAIT_SECONDS)
                self._sort()
                silent = [one for one in self._expected() if one.report is None and self._case(one).running is None]
                if silent and clock() >= self._next_look:
                    self._looks += 1
                    await self._look(silent)
                    self._next_look = clock() + pause(LOOKS, self._looks)
                for slot in self._expected():
                    self._go_on(slot, clock())
        finally:
            tasks = list(self._busy.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _expected(self) -> list[Slot]:
        """Those that may still get ready."""
        return [one for one in self._launch.core.all() if not (one.was_ready or one.lost or one.dropped)]

    def _case(self, slot: Slot) -> Case:
        return self.cases.setdefault(slot.instance, Case()) if slot.instance else Case()

    def _sort(self) -> None:
        """Forget those that are ready, or never will be."""
        expected = {one.instance for one in self._expected()}
        for instance in [one for one in self.cases if one not in expected]:
            del self.cases[instance]
            if (task := self._busy.pop(instance, None)) is not None:
                task.cancel()

    async def _look(self, silent: list[Slot]) -> None:
        """One look at the states of all of them. It shows too which instances requests have got."""
        try:
            rows = await ec2.instances_of(self._launch.call, [one.instance or one.key for one in silent])
        except AwsError as error:
            log.warning("launch %s: the states of its machines are not known: %s", self._launch.uuid, error.what)
            return
        self._launch.feed(Listed(ec2.seen(rows)))
        now = asyncio.get_running_loop().time()
        for row in rows:
            case, state = self.cases.setdefault(row["InstanceId"], Case()), row["State"]["Name"]
            case.row, case.why = row, f"EC2 says that it is {state}"
            if state == "running" and case.running is None:
                case.running = now

    def _go_on(self, slot: Slot, now: float) -> None:
        """Begin what is to be done next about a machine, if its time has come."""
        if slot.instance is None or slot.instance in self._busy:
            return
        case, known = self._case(slot), slot.report
        step, at = case.next(self.ready, reported=known is not None, keyed=known is not None and bool(known.ssh_key), now=now)
        if now < at:
            return
        match step:
            case Step.PROVED:
                self._launch.feed(Proved(slot.instance))
            case Step.CONSOLE if case.row is not None:
                self._begin(slot.instance, self._look_at_console(slot.instance, case))
            case Step.TRY:
                self._begin(slot.instance, self._try(slot, case))
            case _:
                pass

    def _begin(self, instance: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._busy[instance] = asyncio.get_running_loop().create_task(work, name=f"proof of {instance}")
        task.add_done_callback(lambda task: self._done(instance, task))

    def _done(self, instance: str, task: asyncio.Task[None]) -> None:
        if self._busy.get(instance) is task:
            del self._busy[instance]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the proof that %s is ready broke", instance, exc_info=error)

    async def _look_at_console(self, instance: str, case: Case) -> None:
        case.consoles += 1
        assert case.row is not None
        try:
            shown = await ec2.console(self._launch.call, instance)
        except AwsError as error:
            case.why = f"its console is not to be had: {error.what}"
        else:
            known = found_out(shown, case.row, launch=self._launch.uuid, user=self._launch.desk.profile.login_user)
            case.why = f"{known.source}, and it has not reported"
            if known.report is not None:
                log.info("%s is silent: %s", instance, known.source)
                self._launch.feed(Reported(known.report))
        case.last = asyncio.get_running_loop().time()

    async def _try(self, slot: Slot, case: Case) -> None:
        case.tries += 1
        try:
            if self.ready.proof is None:
                link = self._launch.machine(slot).link()
                self._launch.feed(Reported(await holding.report(link, self._launch.uuid, str(slot.instance))))
                case.last, case.why = asyncio.get_running_loop().time(), "its report says so"
                return
            done = await self._launch.machine(slot).link().run(self.ready.proof)
        except FleetError as error:
            case.why = error.what
        else:
            if done.ok:
                self._launch.feed(Proved(str(slot.instance)))
                return
            said = (done.stderr or done.stdout).strip()[-200:]
            case.why = f"{done.command.text[:60]!r} exits {done.exit_status}" + (f": {said}" if said else "")
        case.last = asyncio.get_running_loop().time()
