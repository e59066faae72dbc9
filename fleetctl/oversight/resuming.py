"""Going on with the launches of a process that is gone: its ledger is taken over, its channel listened to, its machines come back.

Nothing is made or ended for it: who has not reported in time is still there, and shown as pending. From then on the session is this
process's own: it shows the machines that it lives, and `teardown`, `extend`, `connect_grid` and the rest hold for it as for any other.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

from ..bootstrap import Program, Retold
from ..ending.estate import Estate, regions
from ..errors import FleetError, LedgerError, RequestInvalid
from ..events import Refused
from ..launching import interruption
from ..launching.handle import Launch
from ..launching.interruption import FUNCTION, Policy, again, kept
from ..launching.launch import Conductor
from ..launching.order import Order
from ..launching.readiness import TOLD
from ..launching.replacing import Replacing
from ..ledger import Entry, Ledger, SessionRecord, sessions
from ..machines import Machines
from ..money.budget import checked
from ..notify import Wire
from ..profiles import state_home
from ..session import LEDGERS, Session, offer
from ..upkeep import guard
from ..upkeep.former import Former, Past, end_of, now_of, parameter_of, past_launches, wire_of
from . import abandoned

log = logging.getLogger(__name__)

UNTOLD = Program(("true",))  # a ledger keeps no commands but in the boot script, and they have been given long ago
SHORTEST = 8  # characters of a launch's id that may stand for it, as `fleetctl ls` shows it


class Resumed(Conductor):
    """A launch that another process has begun. It resolves when all that still lives has reported, or after `seconds` with what has."""

    resumed = True
    end_known = False  # until its tags have been read: an extension has moved it

    def __init__(self, session: Session, past: Past, *, seconds: float, lifetime: str, secret: bool, policy: Policy | None) -> None:
        hours = ((past.end or past.at) - past.at) / 3600
        order = Order(UUID(past.launch), session.id, past.request, UNTOLD, past.wanted, past.at, time.time() + seconds, hours=hours,
                      fuse_object=past.fuse_object)  # fmt: skip
        super().__init__(session, order, minimum=0, ready=TOLD)
        self.began, self.lifetime, self.core.keeps = time.time(), lifetime, True
        self._session, self._past, self._secret, self._seconds = session, past, secret, seconds
        if policy is None and past.policy == FUNCTION:
            log.warning("the function that launch %s had for interruptions ended with its process: say attach(…, on_interruption=…), "
                        "else it goes on with fewer machines", past.launch)  # fmt: skip
        self.replacing = Replacing(again(past.policy) if policy is None else policy, self._instead)

    def _instead(self, lost: int) -> Conductor:
        """A launch of machines like the interrupted ones: by the same request and script, until those would have ended."""
        now = time.time()
        order = Order(uuid4(), self._session.id, self._past.request, Retold(self._past.script), lost, now, now + self._seconds,
                      hours=max(0.0, self.expires - now) / 3600, fuse_object=self._past.fuse_object,
                      policy=kept(self.replacing.policy))  # fmt: skip
        made = Conductor(self._session, order, minimum=1)
        made.lifetime, made.replacing = self.lifetime, Replacing(self.replacing.policy, self._instead)
        self._session.begin_again(made)
        return made

    async def _ask(self) -> None:
        """Channel, secret, one listing: nothing is asked for."""
        try:
            channel = await self.desk.channel()
            channel.demultiplexer.handlers[self.uuid] = self.report
            if self._secret:
                await self.desk.secret_parameter()
            rows = await self._rows()
            now = now_of(self._past, rows, time.time())
            if not now.keys:
                raise FleetError(f"nothing is to be seen of launch {self.uuid}", todo="`fleetctl recover` ends what is left of its session")
        except Exception as error:
            self.refusal = error
            self.feed(Refused(str(error)))
            return
        end = end_of(self._past, rows)
        self.end_known, self.expires = end is not None, end or self.expires
        self._made(now)
        for slot in self.core.all():
            if not slot.alive:
                slot.launched = None  # nobody here knows how long it ran


def attach(
    launch: str | UUID, *, minutes: float = 10, lifetime: str = "fuse", on_interruption: Policy | None = None, budget: float | None = None,
    home: Path | None = None,
) -> Launch[Machines]:  # fmt: skip
    """Go on with a launch whose process is gone. `launch` is its id, or at least the first eight characters of that.

    Returns at once; resolves to its `Machines` when all that still live have told where they are, or after `minutes` with those that
    have. What is silent for seconds is asked over SSH: its report stands on the machine, and its host key on its console. The whole
    session is taken over: `launch.session.launches` are all its launches, and what they cost from their machines' beginning on counts
    against `budget` (USD); machines that had ended before are not in it. It becomes the default session where none is connected. With
    `lifetime="fuse"` its machines stay when this process ends, with "session" they end with it. `on_interruption` is as `bring_up_spots`
    was told, unless another is given; a function is not kept, and a warning says so.

    Raises FleetError where no ledger knows the launch, its session lives or has ended; RequestInvalid, LedgerError, ProfileError.
    """
    if lifetime not in ("session", "fuse"):
        raise RequestInvalid(f'lifetime is "session" or "fuse", not {lifetime!r}', alias="lifetime", found=lifetime)
    checked(budget)
    policy = on_interruption if on_interruption is None else interruption.checked(on_interruption)
    home = home or state_home()
    record, chosen = _find(home, str(launch))
    taken = take(record, home, minutes=minutes, lifetime=lifetime, wanted=chosen, policy=policy)
    found = next(one for one in taken if str(one.uuid) == chosen)
    found.session.budget = budget
    offer(found.session)
    return found


def take(record: SessionRecord, home: Path, *, minutes: float, lifetime: str, wanted: str = "",
         policy: Policy | None = None) -> list[Launch[Machines]]:  # fmt: skip
    """Take over an unowned session with all its launches, as `attach` does; the launch `wanted` must be among them, and `policy` is its."""
    if record.ended is not None:
        raise FleetError(f"session {record.id} has ended, with all that it made")
    profile = abandoned.profile_of(record, home)
    if profile is None:
        raise FleetError(f"the local cloud of session {record.id} has ended, and its machines with it")
    ledger = _ledger(record)
    try:
        entries = list(ledger.entries())
        estate = Estate.read(record.id, record.region, entries)
        launches = past_launches(entries, estate.gone)
        if wanted and wanted not in [one.launch for one in launches]:
            raise _not_there(wanted, record, entries)
        wire = _whole(estate, entries, launches)
        fuse_object = next((one.fuse_object for one in reversed(launches) if one.fuse_object), "")
        former = Former(ledger, wire, parameter_of(estate), fuse_object)
        session = Session(profile, former=former, sidecar=guard.wanted())
    except BaseException:
        ledger.close()
        raise
    secret = bool(former.parameter)
    conductors = [
        Resumed(session, one, seconds=60 * minutes, lifetime=lifetime, secret=secret, policy=policy if one.launch == wanted else None)
        for one in launches
    ]
    session.resume(conductors)
    return [Launch(conductor, session, lambda machines: machines) for conductor in conductors]


def _not_there(launch: str, record: SessionRecord, entries: Sequence[Entry]) -> FleetError:
    if any(one.launch == launch for one in past_launches(entries)):
        return FleetError(f"launch {launch} has ended: all that it made was seen to be gone")
    what = f"launch {launch} cannot be gone on with: it was taken in by its tags, so its request is not known"
    return FleetError(what, todo=f"`fleetctl recover {record.id}` ends it")


def _ledger(record: SessionRecord) -> Ledger:
    """The session's ledger, as soon as nobody holds it. Raises FleetError where its process lives, or somebody else holds it for long.

    Of a dead process the sidecar may for some seconds, and whoever lists sessions for a moment.
    """
    until = time.monotonic() + abandoned.DYING_SECONDS
    while True:
        if record.living and _runs(record.pid):
            what = f"session {record.id} is alive (process {record.pid}), so its launches are that process's"
            raise FleetError(what, todo="use them there")
        try:
            return Ledger.take_over(record.path)
        except LedgerError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _whole(estate: Estate, entries: Sequence[Entry], launches: Sequence[Past]) -> Wire:
    """The channel of a session that can be gone on with. Raises FleetError for another."""
    wire, elsewhere = wire_of(estate, entries), [one for one in regions(entries, estate.region) if one != estate.region]
    if wire is not None and not elsewhere and launches:
        return wire
    why = "nothing is left of its launches" if wire else "its channel is not whole, so an end of it has begun, or it never began"
    why = f"it has things in {', '.join(elsewhere)} too" if elsewhere else why
    raise FleetError(f"session {estate.session} cannot be gone on with: {why}", todo=f"`fleetctl recover {estate.session}` ends it")


def _find(home: Path, launch: str) -> tuple[SessionRecord, str]:
    """The session and the whole id of a launch."""
    known = [(record, id) for record in sessions(home / LEDGERS)
             for id in dict.fromkeys(one.launch for one in abandoned.launches(record) if one.launch)]  # fmt: skip
    found = [(record, id) for record, id in known if id == launch or (len(launch) >= SHORTEST and id.startswith(launch))]
    if len(found) != 1:
        why = f"{len(found)} launches begin with" if found else "no ledger here knows a launch"
        raise FleetError(f"{why} {launch}", todo="`fleetctl ls` shows the sessions and their launches")
    return found[0]
