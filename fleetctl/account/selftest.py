"""Whether a set-up really works: a machine comes up on either side of its network, and all is tried that launches will need.

Both come up by the profile's defaults, report for themselves, and are reached by SSH, the private one through the public one. The public
one listens on a port: a neighbour must reach it, and this computer must not. Then everything is torn down, and the receipt is part of the
test. A check that could not be made is "unknown", never "ok".
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .. import profiles
from ..ending.receipt import Receipt
from ..errors import FleetError, StillBilling
from ..launching.checks import Check, Preflight, Verdict
from ..machines import Machine
from ..money.prices import DEFAULT_VOLUME, Volume, table
from ..session import Session
from ..spot import bring_up_one_spot
from ..templates import spot
from ..upkeep import guard

__all__ = ["HOURS", "TYPE", "Examined", "cost", "run"]

TYPE = "t3.micro"
HOURS = 0.5  # after which the machines end themselves, whatever becomes of the test
MINUTES = 5.0  # for both to report
PORT = 8123  # one that only the group's own machines may reach
OUTSIDE_SECONDS = 5.0  # in which an open port would have answered
SIDES = ("public", "private")
LISTENS = f'exec python3 -m http.server {PORT} --bind "$FLEETCTL_IP" --directory "$(mktemp -d)"'
GROUP = "`fleetctl setup plan` shows what of its rules has changed, `apply --fix` sets it right"
NO_WAY_OUT = "(machines of a set-up with `--private none` have no way to report)"
NOT_TRIED = "not tried: a machine for it is missing"
Say = Callable[[str], None]


@dataclass(frozen=True, repr=False)
class Examined(Preflight):
    """What the self-test came to. It is true where nothing has failed; shown as a table. `receipt` is that of its teardown."""

    receipt: Receipt = field(default_factory=Receipt)

    def headline(self) -> str:
        """One sentence."""
        counts = ", ".join(f"{number} {verdict.value}" for verdict in Verdict if (number := self._count(verdict)))
        return f"Self-test: {'the set-up works' if self.ok else 'the set-up does not work'} ({counts})"


def cost(region: str) -> tuple[float, float]:
    """USD that the self-test costs an hour, and at most, by the on-demand price; spot machines mostly take a third."""
    known = table()
    hourly = len(SIDES) * ((known.on_demand(TYPE) or 0.0) + known.volumes([Volume(*DEFAULT_VOLUME)])) + known.address
    return hourly, hourly * HOURS * known.margin(region)


def run(name: str, *, home: Path | None = None, say: Say = lambda text: None) -> Examined:
    """Test the set-up whose profile this is. Blocks for a minute or two. `say` hears what is being done.

    Raises ProfileError where there is no such profile, LocalCloudError, LedgerError; all else is a check.
    """
    session = Session(profiles.load(name, home=home), sidecar=guard.wanted())
    try:
        checks = asyncio.run(_examine(session, say))
    finally:
        say("tearing down …")
        ended, receipt = _end(session)
    return Examined((*checks, ended), receipt)


async def _examine(session: Session, say: Say) -> list[Check]:
    say(f"bringing up a {TYPE} in the public subnet and one in the private one …")
    request, began = spot(itype=TYPE), time.monotonic()
    launches = {side: bring_up_one_spot(request, LISTENS if side == "public" else "true", subnet=side, minutes=MINUTES, hours=HOURS,
                                        session=session) for side in SIDES}  # fmt: skip
    checks, up = [], {}
    for side, launch in launches.items():
        try:
            up[side] = await launch
            seconds = time.monotonic() - began
            checks.append(Check(f"{side} machine", Verdict.OK, f"{up[side].instance_id} reported, {seconds:.0f} s after the call"))
        except FleetError as error:
            checks.append(_failed(f"{side} machine", error, NO_WAY_OUT if side == "private" else ""))
    say("looking which ways are open …")
    public, private = up.get("public"), up.get("private")
    checks += [await _ssh(public), await _via(private, public), _hidden(private)]
    return [*checks, await _within(private, public), await _outside(public)]


async def _ssh(public: Machine | None) -> Check:
    let_in = "if its group does not let this computer in: `fleetctl setup apply --ssh ADDRESS --fix`"
    return await _runs("SSH to the public machine", public, "true", "it answers from here", let_in)


async def _via(private: Machine | None, public: Machine | None) -> Check:
    if private is not None and public is not None:
        private.via = public
    both = private if public is not None else None
    return await _runs("SSH to the private machine", both, "true", f"it answers through {public and public.instance_id}", GROUP)


async def _within(private: Machine | None, public: Machine | None) -> Check:
    """The same port as `_outside`: that it is silent there says something only if somebody listens."""
    ask = f"exec 3<>/dev/tcp/{public.ip}/{PORT}" if public is not None else ""
    both = private if public is not None else None
    return await _runs("machines among themselves", both, f"timeout 10 bash -c '{ask}'", f"port {PORT} answers the neighbour", GROUP)


async def _runs(name: str, machine: Machine | None, line: str, found: str, todo: str) -> Check:
    if machine is None:
        return Check(name, Verdict.UNKNOWN, NOT_TRIED)
    try:
        await machine.run(line, timeout=60)
    except FleetError as error:
        return _failed(name, error, todo)
    return Check(name, Verdict.OK, found)


def _hidden(private: Machine | None) -> Check:
    name = "private address"
    if private is None:
        return Check(name, Verdict.UNKNOWN, NOT_TRIED)
    if private.public_ip:
        return Check(name, Verdict.FAIL, f"the private machine has the public address {private.public_ip}", GROUP)
    return Check(name, Verdict.OK, "the private machine has no public address")


async def _outside(public: Machine | None) -> Check:
    """Whether something else than SSH answers this computer, if that is outside."""
    name, address = "nothing but SSH from outside", public.public_ip if public is not None else ""
    if not address:
        return Check(name, Verdict.UNKNOWN, NOT_TRIED)
    if not ipaddress.ip_address(address).is_global:
        return Check(name, Verdict.UNKNOWN, f"{address} is no address of the internet, so nothing here is outside")
    if await answers(address, PORT):
        return Check(name, Verdict.FAIL, f"port {PORT} of {address} answers", GROUP)
    return Check(name, Verdict.OK, f"port {PORT} of {address} does not answer, and is listened on")


async def answers(address: str, port: int) -> bool:
    """Whether something takes a connection there."""
    try:
        async with asyncio.timeout(OUTSIDE_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _failed(name: str, error: FleetError, todo: str = "") -> Check:
    return Check(name, Verdict.FAIL, error.what, " ".join(filter(None, (error.todo, todo))))


def _end(session: Session) -> tuple[Check, Receipt]:
    """End everything; that all of it was seen to be gone is a check, too."""
    spent = session.cost().so_far
    try:
        receipt = session.close()
    except StillBilling as error:
        return _failed("teardown", error), error.receipt
    except FleetError as error:
        return _failed("teardown", error, "`fleetctl ls` shows what is left, `fleetctl down` ends it"), Receipt()
    return Check("teardown", Verdict.OK, f"{len(receipt.found)} things, all seen gone; ${spent:.4f} so far by the prices known"), receipt
