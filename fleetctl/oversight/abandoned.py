"""Sessions whose process is gone: what their ledgers say, and ending what they left. A living session is left alone unless forced."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..cloud import ec2
from ..cloud.ec2 import Call
from ..cloud.journal import Journal, attempt
from ..ending.estate import LAUNCH_CALLS, Estate, instance_types, regions
from ..ending.receipt import Receipt
from ..ending.teardown import end
from ..errors import AwsError, FleetError, LedgerError, ProfileError
from ..launching.billing import described
from ..ledger import Entry, Ledger, SessionRecord, sessions
from ..money.prices import Tariff
from ..profiles import Profile, load, local_cloud
from ..session import LEDGERS

log = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 86_400.0  # a month is what a bill covers, so long a ledger can answer for it
DYING_SECONDS = 30.0  # what the kernel may take to end a killed process, whose memory may be large


def listing(home: Path) -> list[SessionRecord]:
    """The sessions that are alive or have not ended, oldest first."""
    return [record for record in sessions(home / LEDGERS) if record.living or record.ended is None]


def tidy(home: Path, now: float) -> list[str]:
    """Delete the ledgers of sessions that ended more than KEPT_SECONDS ago; returns their ids. All they knew of was seen to be gone."""
    old = [one for one in sessions(home / LEDGERS) if not one.living and one.ended is not None and now - one.ended > KEPT_SECONDS]
    for record in old:
        for file in (record.path, record.path.with_suffix(".lock")):
            file.unlink(missing_ok=True)
    return [record.id for record in old]


def launches(record: SessionRecord) -> list[Entry]:
    """The launch calls of a session."""
    return [entry for entry in record.entries if entry.operation in LAUNCH_CALLS]


def down(home: Path, *, force: bool = False) -> tuple[Receipt, list[SessionRecord]]:
    """End what every unowned session left; with `force` that of living ones too. Returns the receipt and the sessions left alone.

    Old ledgers of sessions that have ended are deleted.

    Raises ProfileError for a session whose cloud cannot be told any more, LedgerError for one that somebody else ends at the moment,
    when all the others have been ended; nothing of that one was touched then.
    """
    total, spared = Receipt(), []
    tidy(home, time.time())
    trouble: FleetError | None = None
    for record in listing(home):
        if record.living and not force:
            spared.append(record)
            continue
        try:
            total += asyncio.run(_end(record, home))
        except (ProfileError, LedgerError) as error:
            log.warning("session %s was not ended: %s", record.id, error.what)
            trouble = trouble or error
    if trouble is not None:
        if total.lines:
            trouble.add_note(repr(total))
        raise trouble
    return total, spared


def take_over(home: Path, session: str, kept: Collection[str] = ()) -> Receipt:
    """End what one session left, but for the launches `kept`. Its process is dying or dead: waits until its lock is free.

    With something kept, the channel stays for it. Raises ProfileError, LedgerError.
    """
    until = time.monotonic() + DYING_SECONDS
    while True:
        record = next((one for one in sessions(home / LEDGERS) if one.id == session), None)
        if record is None or record.ended is not None:
            return Receipt()
        try:
            if not record.living:
                return asyncio.run(_end(record, home, kept))
            held = LedgerError(f"session {session} still has a process that holds its ledger", todo="`fleetctl down --force` ends it too")
        except LedgerError as error:  # whoever lists the sessions holds each lock for a moment
            held = error
        if time.monotonic() >= until:
            raise held
        time.sleep(0.05)


async def _end(record: SessionRecord, home: Path, kept: Collection[str] = ()) -> Receipt:
    """One session's end. Of a forced living one the ledger is only read: it belongs to its process."""
    profile = profile_of(record, home)
    if record.living:
        return Receipt() if profile is None else await _end_at(profile, record, record.entries, None)
    ledger = Ledger.open(record.path)
    try:
        receipt = Receipt() if profile is None else await _end_at(profile, record, tuple(ledger.entries()), ledger, kept)
        attempt(ledger.seen_gone, receipt.proved)
        if not receipt.remaining and not kept:
            attempt(ledger.mark_ended)
        return receipt
    finally:
        ledger.close()


async def _end_at(
    profile: Profile, record: SessionRecord, entries: tuple[Entry, ...], ledger: Ledger | None, kept: Collection[str] = ()
) -> Receipt:
    """The end in each region that the ledger names."""
    only = {one.launch for one in entries if one.launch} - {*kept} if kept else None
    total = Receipt()
    for region in regions(entries, record.region):
        aws = (profile if profile.region == region else replace(profile, region=region)).aws()
        call: Call = aws.call if ledger is None else Journal(aws, ledger)
        try:
            await _same_account(call, record, entries)
            cost = await _cost_of(call, entries)
            total += await end(call, Estate.read(record.id, region, entries, only), cost=cost, launches=only)
        finally:
            await aws.close()
    return total


async def _same_account(call: Call, record: SessionRecord, entries: tuple[Entry, ...]) -> None:
    """Raise ProfileError where the credentials are of another account than the session's: there, nothing would look like all gone."""
    theirs = {account for entry in entries if (account := _account(entry))}
    if not theirs:
        return
    try:
        mine = (await call("sts", "get_caller_identity"))["Account"]
    except AwsError as error:
        log.warning("whose account this is could not be asked: %s", error.what)
        return
    if mine not in theirs:
        raise ProfileError(
            f"session {record.id} worked in the account {', '.join(sorted(theirs))}, but the credentials are those of {mine}",
            left=[f"whatever session {record.id} left"],
            todo="use the credentials of that account, then try again",
        )


def _account(entry: Entry) -> str:
    """The account that a topic's ARN names, '' where the entry made no topic."""
    arn = (entry.result or {}).get("TopicArn", "") if entry.operation == "create_topic" else ""
    return arn.split(":")[4] if arn.count(":") >= 5 else ""


async def _cost_of(call: Call, entries: tuple[Entry, ...]) -> Callable[[dict[str, Any]], float]:
    """USD that a described instance has cost, by what AWS tells of the prices since the session began; 0 without them."""
    types, tariff = instance_types(entries), Tariff()
    began = min((entry.at for entry in entries), default=time.time())
    try:
        if types:
            tariff = tariff.joined(await ec2.spot_prices(call, types, datetime.fromtimestamp(began, UTC)))
    except AwsError as error:
        log.warning("spot prices are not known, so the receipt has no costs of spot machines: %s", error.what)
    return lambda row: described(row, tariff).cost(time.time())


def profile_of(record: SessionRecord, home: Path) -> Profile | None:
    """The cloud that the session worked on, in its region. None: a local cloud that has ended, and its machines with it."""
    if record.cloud == "local":
        running = local_cloud().status(home / "local")
        if running is None or running.endpoint_url != record.endpoint:
            return None
    profile = load(record.cloud, home=home)
    if profile.endpoint_url != record.endpoint:
        raise ProfileError(
            f"session {record.id} worked on {record.endpoint or 'AWS'}, but {record.cloud!r} now means {profile.endpoint_url or 'AWS'}",
            todo="point the profile back, then try again",
        )
    return profile if profile.region == record.region else replace(profile, region=record.region)
