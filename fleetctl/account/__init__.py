"""The set-up of an account: everything that has to be there before the first launch, made, looked at, put right and removed.

    plan = account.plan()          # what would be made, with what it costs; asks AWS, changes nothing
    account.apply(plan.options)    # makes it, and writes the profile that connect("default") loads
    account.status()               # the same as a plan: is all there, and as it was?
    account.destroy()              # removes it; returns a receipt

The account itself knows what belongs to a set-up, by tags and names. Each call that makes or ends something is in a ledger before it is
asked, and only one process at a time writes a set-up's ledger. Whoever is killed runs the same command again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import profiles
from ..cloud.ec2 import Call
from ..cloud.journal import Journal
from ..ending.receipt import Receipt
from ..errors import LedgerError, SetupFailed, StillBilling
from ..ledger import Ledger
from ..profiles import Profile
from . import billing, costs, files, keys, planning, whence, work
from .options import BILLS_REGION, Facts, Options, wanted
from .pages import Plan, refusal
from .place import Place
from .planning import Seen, Step

__all__ = ["Options", "Plan", "apply", "destroy", "plan", "refusal", "status"]

log = logging.getLogger(__name__)

DEFAULT = "default"
BILLS = (*billing.SERVICES, *costs.SERVICES)  # what is asked in the region of the bills
LEDGERS = "setups"  # apart from the sessions': no teardown of those may take a set-up's things for theirs
DOUBT_SECONDS = 10.0  # in which a call without an answer has arrived, or never will, and what was made can be seen
Report = Callable[[Step, str], None]


def _yes(_: object) -> bool:
    return True


def _silent(step: Step, trouble: str) -> None:
    pass


def plan(options: Options | None = None, *, name: str = DEFAULT, cloud: str | None = None, home: Path | None = None,
         key_file: Path | None = None, fix: bool = False) -> Plan:  # fmt: skip
    """What `apply` would do. Asks AWS and changes nothing. `options` None: as the account remembers them, else the default ones.

    Raises RequestInvalid, ProfileError, SetupFailed and kinds of AwsError.
    """
    return asyncio.run(looked(_profile(cloud, home), name, options, key_file, fix=fix))


def status(*, name: str = DEFAULT, cloud: str | None = None, home: Path | None = None, key_file: Path | None = None) -> Plan:
    """Whether all is there and as it was: a plan by the options that the account remembers. `.complete` says so."""
    return plan(name=name, cloud=cloud, home=home, key_file=key_file)


def apply(options: Options | None = None, *, name: str = DEFAULT, cloud: str | None = None, home: Path | None = None,
          key_file: Path | None = None, fix: bool = False, agree: Callable[[Plan], bool] = _yes,
          report: Report = _silent) -> Plan:  # fmt: skip
    """Make what is missing, finish what was cut off, with `fix` change what has drifted; then write the profile.

    Returns what is there then, as a plan that is empty. `agree` is asked once before anything is made; `report` hears of each step.
    Raises SetupFailed with all that did not succeed; the rest is done then, and the same call goes on from there.
    """
    return asyncio.run(applied(_profile(cloud, home), name, options, key_file, fix=fix, agree=agree, report=report))


def destroy(*, name: str = DEFAULT, cloud: str | None = None, home: Path | None = None,
            agree: Callable[[Sequence[Step]], bool] = _yes) -> Receipt:  # fmt: skip
    """Remove all of a set-up, its profile and the keys made for it too. Raises StillBilling for what is not seen to be gone.

    Refuses with SetupFailed while machines run in its network, whoever made them. Where `agree` says no, nothing is removed.
    """
    return asyncio.run(destroyed(_profile(cloud, home), name, agree=agree))


# --- the same for whoever has an event loop -------------------------------------------------------------------------------------------


async def looked(profile: Profile, name: str, options: Options | None = None, key_file: Path | None = None, *, fix: bool = False) -> Plan:
    """`plan` in the running event loop."""
    async with _opened(profile, name, key_file, write=False) as place:
        return (await _planned(place, profile, options, fix))[0]


async def applied(profile: Profile, name: str, options: Options | None = None, key_file: Path | None = None, *, fix: bool = False,
                  agree: Callable[[Plan], bool] = _yes, report: Report = _silent) -> Plan:  # fmt: skip
    """`apply` in the running event loop."""
    async with _opened(profile, name, key_file, write=True) as place:
        files.check(name, profile)
        own = files.key_files(name, profile, key_file)
        for part, file in own.items():
            keys.make(file, f"fleetctl-{name}-{part}")
        place.facts = replace(place.facts, keys=files.public_halves(name, profile, key_file))
        now, seen = await _planned(place, profile, options, fix)
        if now.clashes:
            taken = ", ".join(f"{step.kind} {step.id}" for step in now.clashes)
            raise SetupFailed(f"nothing was made, as these names are taken by what is not this set-up's: {taken}",
                              todo="give the set-up another name, or remove them")  # fmt: skip
        if not now.empty and not agree(now):
            return now
        await work.carry_out(place, now.steps, seen, report)
        after, _ = await _planned(place, profile, now.options, False)
        await files.write(place, profile, after.options, own["user"])
        return after


async def destroyed(profile: Profile, name: str, *, agree: Callable[[Sequence[Step]], bool] = _yes) -> Receipt:
    """`destroy` in the running event loop."""
    async with _opened(profile, name, None, write=True) as place:
        seen = await work.look(place)
        steps = planning.removal(seen, work.ORDER)
        if machines := await work.living_machines(place):
            raise SetupFailed(f"nothing was removed: {len(machines)} machines are in the set-up's network", left=machines,
                              todo="end them first: `fleetctl down`, or `fleetctl orphans` for those of other computers")  # fmt: skip
        if any(not step.idle for step in steps) and not agree(steps):
            return Receipt()
        receipt = await work.remove(place, steps, seen)
        if receipt.remaining:
            raise StillBilling(receipt)
        return receipt + Receipt(tuple(files.forget(name, profile.region)))


def _profile(cloud: str | None, home: Path | None) -> Profile:
    """Where the account is: the cloud that is named, else the local one while it runs, else AWS."""
    home = home or profiles.state_home()
    running = profiles.local_cloud().status(home / "local") is not None
    return profiles.load(cloud or ("local" if running else "aws"), home=home)


@contextlib.asynccontextmanager
async def _opened(profile: Profile, name: str, key_file: Path | None, *, write: bool) -> AsyncIterator[Place]:
    """The set-up in its account; whoever writes has its ledger. What is about the bills is asked in their region."""
    async with contextlib.AsyncExitStack() as ways:
        aws = profile.aws()
        ways.push_async_callback(aws.close)
        bills = aws
        if profile.region != BILLS_REGION:
            bills = replace(profile, region=BILLS_REGION).aws()
            ways.push_async_callback(bills.close)
        me = await aws.call("sts", "get_caller_identity")
        partition = me["Arn"].split(":")[1]
        facts = Facts(name, profile.region, me["Account"], partition, files.public_halves(name, profile, key_file))
        if not write:
            yield Place(_by_service(aws.call, bills.call), facts)
            return
        ledger = _ledger(profile, facts)
        ways.callback(ledger.close)
        await _let_arrive(ledger)
        yield Place(_by_service(Journal(aws, ledger), Journal(bills, ledger)), facts)


def _by_service(near: Call, bills: Call) -> Call:
    """One way to AWS out of two."""

    async def call(service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        return await (bills if service in BILLS else near)(service, operation, **parameters)

    return call


def _ledger(profile: Profile, facts: Facts) -> Ledger:
    path = profile.home / LEDGERS / f"{facts.account}-{facts.region}-{facts.setup}.sqlite"
    try:
        if path.exists():
            return Ledger.open(path)
        return Ledger.create(path.parent, path.stem, cloud=profile.name, region=profile.region, endpoint=profile.endpoint_url)
    except LedgerError as error:
        error.todo = f"another fleetctl may be at work on set-up {facts.setup!r}: let it end. {error.todo}"
        raise


async def _let_arrive(ledger: Ledger) -> None:
    """After a run that was cut off a moment ago: wait until what it asked for last can be seen, so that nothing is made twice."""
    last = max((entry.at for entry in ledger.entries() if entry.unknown), default=0.0)
    if (rest := last + DOUBT_SECONDS - time.time()) > 0:
        log.info("waiting %.0f s for a call of an earlier run", rest)
        await asyncio.sleep(min(rest, DOUBT_SECONDS))


async def _planned(place: Place, profile: Profile, options: Options | None, fix: bool) -> tuple[Plan, list[Seen]]:
    seen = await work.look(place)
    remembered = next((Options.decode(thing.settings.get("options") or "") for thing in seen if thing.kind == "vpc" and thing.ours), None)
    chosen = (options or Options()).over(remembered)
    if not chosen.ssh:
        endpoint = profile.endpoint_url or f"https://ec2.{profile.region}.amazonaws.com"
        chosen = replace(chosen, ssh=(await whence.caller(endpoint),))
    chosen = chosen.checked(await _zones(place))
    steps = planning.plan(wanted(chosen, place.facts), seen, work.ORDER, work.FIXED, fix=fix)
    return Plan(place.facts, chosen, steps), seen


async def _zones(place: Place) -> list[str]:
    """The zones of the region: no local and no wavelength zones, and none that one has to ask for."""
    filters = [{"Name": "zone-type", "Values": ["availability-zone"]}, {"Name": "opt-in-status", "Values": ["opt-in-not-required"]}]
    answer = await place.call("ec2", "describe_availability_zones", Filters=filters)
    return sorted(one["ZoneName"] for one in answer["AvailabilityZones"])
