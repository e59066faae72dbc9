"""Looking over a cloud for what no ledger knows, taking it into a ledger, and ending what has outlived its `expires` tag."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..cloud import ec2
from ..cloud.aws import Aws
from ..ending import nat
from ..ending.estate import Estate
from ..ending.receipt import Receipt
from ..ending.teardown import end
from ..errors import ProfileError
from ..ledger import Ledger, sessions
from ..profiles import Profile, load, local_cloud
from ..session import LEDGERS
from . import orphans
from .orphans import Found
from .survey import regions, survey, survey_buckets

log = logging.getLogger(__name__)


def cloud(name: str, home: Path) -> Profile:
    """The profile of that name. Starts no local cloud: in one that does not run there is nothing. Raises ProfileError."""
    if name == "local" and local_cloud().status(home / "local") is None:
        raise ProfileError("the local cloud does not run, so there is nothing in it", todo="name another with --cloud")
    return load(name, home=home)


def look(profile: Profile, *, all_regions: bool = False) -> list[Found]:
    """Everything of fleetctl in the profile's region, or in all regions, that has not ended. Raises kinds of AwsError."""
    return asyncio.run(_look(profile, all_regions))


async def _look(profile: Profile, all_regions: bool) -> list[Found]:
    places = await _at(profile, profile.region, regions) if all_regions else [profile.region]
    found: list[Found] = await _at(profile, profile.region, survey_buckets)
    found = [one for one in found if all_regions or one.region == profile.region]
    for region in dict.fromkeys([profile.region, *places]):
        found += await _at(profile, region, partial(survey, region=region))
    return found


async def _at(profile: Profile, region: str, work: Callable[[ec2.Call], Coroutine[Any, Any, Any]]) -> Any:
    """What `work` makes of a way to one region."""
    aws: Aws = (profile if region == profile.region else replace(profile, region=region)).aws()
    try:
        return await work(aws.call)
    finally:
        await aws.close()


def orphaned(home: Path, found: Sequence[Found]) -> list[Found]:
    """What of it no session with a ledger in `home` owns."""
    return orphans.orphans(found, sessions(home / LEDGERS))


def adopt(home: Path, profile: Profile, found: Sequence[Found]) -> list[str]:
    """Write orphans into ledgers, one for each session, as if their making had been answered here. Returns the sessions.

    From then on `fleetctl ls`, `recover` and `down` know them. Raises LedgerError where somebody else writes a session's ledger.
    """
    taken: list[str] = []
    for session in dict.fromkeys(one.session for one in found):
        path = home / LEDGERS / f"{session}.sqlite"
        if path.exists():
            ledger = Ledger.open(path)
        else:
            ledger = Ledger.create(path.parent, session, cloud=profile.name, region=profile.region, endpoint=profile.endpoint_url)
        try:
            for one in orphans.entries([thing for thing in found if thing.session == session], time.time()):
                number = ledger.intent(one.service, one.operation, one.request, region=one.region, launch=one.launch)
                ledger.result(number, one.result)
        finally:
            ledger.close()
        taken.append(session)
    return taken


def overdue(found: Sequence[Found]) -> list[Found]:
    """What of it has outlived the end that its tag names."""
    return orphans.expired(found, time.time())


def idle(profile: Profile, *, all_regions: bool = False) -> list[Found]:
    """The NAT instances of set-ups that run though no session holds them, and have not shut themselves down. Raises kinds of AwsError."""
    return asyncio.run(_idle(profile, all_regions))


async def _idle(profile: Profile, all_regions: bool) -> list[Found]:
    places = await _at(profile, profile.region, regions) if all_regions else [profile.region]
    found = []
    for region in dict.fromkeys([profile.region, *places]):
        rows = await _at(profile, region, partial(nat.idle, now=time.time()))
        found += [Found(nat.THING, row["InstanceId"], region, "–", state=row["State"]["Name"]) for row in rows]
    return found


def reap(profile: Profile, *, all_regions: bool = False) -> Receipt:
    """End what has outlived the end that its tag names, whoever made it, and prove it. Never raises for what AWS refuses to end.

    A living session moves that end while it works; so what is past it has nobody who wants it. NAT instances that run for nobody are
    stopped. Raises kinds of AwsError.
    """
    found = look(profile, all_regions=all_regions)
    return asyncio.run(_reap(profile, found, overdue(found), idle(profile, all_regions=all_regions)))


async def _reap(profile: Profile, found: Sequence[Found], over: Sequence[Found], unused: Sequence[Found]) -> Receipt:
    total = Receipt()
    for session, region in dict.fromkeys((one.session, one.region) for one in over):
        mine = [one for one in over if (one.session, one.region) == (session, region)]
        whole = all(one in over for one in found if one.session == session)
        launches = None if whole else orphans.launches(mine)
        estate = Estate.read(session, region, orphans.entries(mine, time.time()), launches)
        total += await _at(profile, region, partial(end, estate=estate, cost=lambda row: 0.0, launches=launches))
    stopped = [await _at(profile, one.region, partial(nat.release, instance=one.id, session="", region=one.region)) for one in unused]
    return total + Receipt(tuple(stopped))
