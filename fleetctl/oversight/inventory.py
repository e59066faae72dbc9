"""Looking at all of an account that costs money by being there, region by region. What may not be looked at is told, not left out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ..cloud import ec2
from ..errors import AwsError, Denied
from ..money.prices import Tariff
from ..profiles import Profile
from .expenses import SOURCES, Expense, Prices, Source, assembled
from .survey import regions

__all__ = ["Inventory", "look"]

log = logging.getLogger(__name__)

UNASKED = ("NoCredentialsError", "ProfileNotFound")  # nobody has asked AWS anything
AT_A_TIME = 8  # calls: one look at an account must not take its request limits from those who work


@dataclass(frozen=True)
class Inventory:
    """What was found; and which looks failed, by region and call, with AWS's words."""

    expenses: tuple[Expense, ...] = ()
    failed: tuple[tuple[str, AwsError], ...] = ()
    regions: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        return f"<inventory of {', '.join(self.regions)}: {len(self.expenses)} things, {len(self.failed)} looks failed>"

    @property
    def denied(self) -> tuple[tuple[str, str], ...]:
        """The calls that AWS did not allow, as (service, operation)."""
        return tuple(dict.fromkeys((error.service, error.operation) for _, error in self.failed if isinstance(error, Denied)))

    def of(self, owner: str) -> tuple[Expense, ...]:
        """What one owner has."""
        return tuple(one for one in self.expenses if one.owner == owner)


def look(profile: Profile, *, all_regions: bool = False, sources: Sequence[Source] = SOURCES) -> Inventory:
    """Everything in the profile's region, or in all regions, and what is the account's own. Raises kinds of AwsError where it cannot
    be told which regions there are, and where there are no credentials."""
    return asyncio.run(_look(profile, all_regions, sources))


async def _look(profile: Profile, all_regions: bool, sources: Sequence[Source]) -> Inventory:
    places = [profile.region]
    if all_regions:
        aws = profile.aws()
        try:
            places = list(dict.fromkeys([*places, *await regions(aws.call)]))
        finally:
            await aws.close()
    found: list[Expense] = []
    failed: list[tuple[str, AwsError]] = []
    for place in places:
        aws = (profile if place == profile.region else replace(profile, region=place)).aws()
        gate = asyncio.Semaphore(AT_A_TIME)
        asked = [one for one in sources if place == places[0] or not one.home]
        try:
            rows = await asyncio.gather(*(_rows(aws.call, one, gate) for one in asked), return_exceptions=True)
            machines = [row for source, told in zip(asked, rows, strict=True) if source.rows == "Reservations" and isinstance(told, list)
                        for reservation in told for row in reservation["Instances"]]  # fmt: skip
            prices = Prices(await _spot(aws.call, machines, failed, place))
        finally:
            await aws.close()
        for source, told in zip(asked, rows, strict=True):
            if isinstance(told, AwsError) and told.code not in UNASKED:
                failed.append((place, told))
            elif isinstance(told, BaseException):
                raise told
            else:
                where = "" if source.home else place
                found += [one._replace(region=where) for row in told for one in source.read(row, prices)]
    return Inventory(tuple(assembled(found)), tuple(failed), tuple(places))


async def _rows(call: ec2.Call, source: Source, gate: asyncio.Semaphore) -> list[Any]:
    """All pages of a listing. Only a missing token ends it, for AWS may send an empty page with one."""
    given, rows = dict(source.given), list[Any]()
    while True:
        async with gate:
            answer = await call(source.service, source.operation, **given)
        rows += answer.get(source.rows) or []
        if source.token is None or not answer.get(source.token[1]):
            return rows
        given[source.token[0]] = answer[source.token[1]]


async def _spot(call: ec2.Call, machines: Sequence[dict[str, Any]], failed: list[tuple[str, AwsError]], place: str) -> Tariff:
    """The spot prices in force of what runs on spot."""
    types = sorted({one["InstanceType"] for one in machines if one.get("InstanceLifecycle") == "spot"})
    if not types:
        return Tariff()
    try:
        return Tariff(await ec2.spot_prices(call, types, datetime.now(UTC)))
    except AwsError as error:
        failed.append((place, error))
        return Tariff()
