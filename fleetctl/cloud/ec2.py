"""EC2's verbs as fleetctl needs them: in batches, through all pages, and never stopped by one bad id.

Every function takes `call`, the session's journalled way to AWS: `await call("ec2", operation, **parameters)`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from sys import intern
from typing import Any, Protocol

from ..errors import AwsError, BadRequest, Network, NotFound, Throttled
from ..events import Seen
from ..money.prices import Steps
from ..reasons import reason

log = logging.getLogger(__name__)

BATCH = 1000  # ids in one call; CreateTags takes 1,000 resources (EC2 API reference)
TEMPLATES = 200  # in a page of DescribeLaunchTemplates
FLEETS = 25  # instant fleets in one DeleteFleets (EC2 API reference)
VALUES = 200  # values of one filter (EC2 API reference, Filter)
PAUSES = (1, 2, 4, 8, 15)  # seconds between tries of a call that AWS throttles or does not answer, beyond what botocore does by itself
TRANSIENT = (Throttled, Network)
SESSION_TAG, LAUNCH_TAG, EXPIRES_TAG = "fleetctl:session", "fleetctl:launch", "fleetctl:expires"
SETUP_TAG = "fleetctl:setup"  # on what an account's set-up made
OVER = frozenset({"failed", "closed"})  # states of a spot request that has no living instance and never will
RUNS_ON = "request-canceled-and-instance-running"
TERMINATED = "instance-terminated"  # how the statuses begin that say so (EC2 User Guide, "Spot request status")


class Call(Protocol):
    """The session's way to AWS. Intent goes to the ledger before anything is made or ended."""

    async def __call__(self, service: str, operation: str, /, *, launch: str | None = None, **parameters: Any) -> dict[str, Any]: ...


async def spot_requests(call: Call, tag: str, value: str) -> list[dict[str, Any]]:
    """Every spot request that bears the tag, as DescribeSpotInstanceRequests shows it. Not yet visible ones are missing, not an error."""
    return await pages(
        call, "describe_spot_instance_requests", "SpotInstanceRequests", Filters=[{"Name": f"tag:{tag}", "Values": [value]}]
    )


async def instances(call: Call, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Instances by id; those that AWS does not know are missing. Up to VALUES by a filter, since one unknown id fails the other form."""
    rows: list[dict[str, Any]] = []
    for part in _parts(ids, VALUES if len(ids) <= VALUES else BATCH):
        try:
            given: dict[str, Any] = {"Filters": [_by_id(part)]} if len(part) <= VALUES else {"InstanceIds": list(part)}
            rows += await pages(call, "describe_instances", "Reservations", paged=len(part) <= VALUES, **given)
        except NotFound:
            for few in _parts(part, VALUES):
                rows += await pages(call, "describe_instances", "Reservations", Filters=[_by_id(few)])
    return [one for reservation in rows for one in reservation["Instances"]]


async def instances_of(call: Call, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Instances by their own ids and by those of spot requests, mixed as they come. Not yet visible ones are missing, not an error."""
    requests = [one for one in keys if not one.startswith("i-")]
    rows = await instances(call, [one for one in keys if one.startswith("i-")])
    return rows + (await instances_with(call, "spot-instance-request-id", requests) if requests else [])


async def status(call: Call, instance: str) -> dict[str, Any] | None:
    """An instance's status checks, as DescribeInstanceStatus shows them; None where it shows none."""
    rows = await pages(call, "describe_instance_status", "InstanceStatuses", paged=False, InstanceIds=[instance], IncludeAllInstances=True)
    return rows[0] if rows else None


async def console(call: Call, instance: str) -> str:
    """What an instance has printed: the latest, or, where its type does not offer that, what EC2 has kept of it."""
    try:
        answer = await call("ec2", "get_console_output", InstanceId=instance, Latest=True)
    except BadRequest:
        answer = await call("ec2", "get_console_output", InstanceId=instance)
    return str(answer.get("Output") or "")


async def instances_with(call: Call, name: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """Instances by a filter, such as `tag:…` or `spot-instance-request-id`. Not yet visible ones are missing, not an error."""
    rows: list[dict[str, Any]] = []
    for part in _parts(values, VALUES):
        rows += await pages(call, "describe_instances", "Reservations", Filters=[{"Name": name, "Values": list(part)}])
    return [one for reservation in rows for one in reservation["Instances"]]


async def requests_by_id(call: Call, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Spot requests by id; those that AWS does not know, or does not know any more, are missing."""
    rows: list[dict[str, Any]] = []
    for part in _parts(ids, VALUES):
        by_id = {"Name": "spot-instance-request-id", "Values": list(part)}
        rows += await pages(call, "describe_spot_instance_requests", "SpotInstanceRequests", Filters=[by_id])
    return rows


async def volumes(call: Call, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Volumes by id; those that AWS does not know are missing."""
    rows: list[dict[str, Any]] = []
    for part in _parts(ids, VALUES):
        rows += await pages(call, "describe_volumes", "Volumes", Filters=[{"Name": "volume-id", "Values": list(part)}])
    return rows


async def templates(call: Call, tag: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """Launch templates that bear the tag with one of the values."""
    return await pages(call, "describe_launch_templates", "LaunchTemplates", Filters=[{"Name": f"tag:{tag}", "Values": list(values)}],
                        most=TEMPLATES)  # fmt: skip


async def tagged(call: Call, *keys: str, values: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """(id, key, value) of everything in EC2 that bears one of the tags, of whatever kind: one call. Without values: with any value.

    What has ended may still be among it, and what was made a moment ago may not be yet.
    """
    rows: list[dict[str, Any]] = []
    for part in _parts(values, VALUES) if values else [()]:
        filters = [{"Name": "key", "Values": list(keys)}, *([{"Name": "value", "Values": list(part)}] if part else [])]
        rows += await pages(call, "describe_tags", "Tags", Filters=filters)
    return [(row["ResourceId"], row["Key"], row["Value"]) for row in rows]


async def delete_fleets(call: Call, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Delete instant fleets, which ends their instances. Returns for each its new state, "" where AWS refused, and then the reason."""
    out: dict[str, tuple[str, str]] = {}
    for part in _parts(ids, FLEETS):
        answer = await call("ec2", "delete_fleets", FleetIds=list(part), TerminateInstances=True)
        out |= {one["FleetId"]: (one["CurrentFleetState"], "") for one in answer.get("SuccessfulFleetDeletions", ())}
        out |= {one["FleetId"]: ("", one["Error"]["Code"]) for one in answer.get("UnsuccessfulFleetDeletions", ())}
    return out


async def fleet_states(call: Call, ids: Sequence[str]) -> dict[str, str]:
    """The states of fleets by id. Instant ones are shown by id only, and one unknown id fails the call, so they are asked for singly."""
    states: dict[str, str] = {}
    for id in ids:
        try:
            rows = (await call("ec2", "describe_fleets", FleetIds=[id])).get("Fleets", [])
        except NotFound as error:
            states[id] = error.code
        else:
            states |= {row["FleetId"]: row["FleetState"] for row in rows}
    return states


def _by_id(ids: Sequence[str]) -> dict[str, Any]:
    return {"Name": "instance-id", "Values": list(ids)}


async def cancel(call: Call, ids: Sequence[str]) -> dict[str, AwsError]:
    """Cancel spot requests; their instances go on running (EC2 API reference, CancelSpotInstanceRequests). Returns what AWS refused."""
    refused: dict[str, AwsError] = {}
    for part in _parts(ids, BATCH):
        refused |= await _each_or_all(call, "cancel_spot_instance_requests", "SpotInstanceRequestIds", part)
    return refused


async def terminate(call: Call, ids: Sequence[str]) -> dict[str, AwsError]:
    """Terminate instances; returns the ids that AWS refused, with the reasons.

    One bad id fails AWS's whole call, so a refused batch is halved.
    """
    refused: dict[str, AwsError] = {}
    for part in _parts(ids, BATCH):
        refused |= await _each_or_all(call, "terminate_instances", "InstanceIds", part)
    return refused


async def tag(call: Call, resources: Sequence[str], tags: dict[str, str]) -> None:
    """Put tags on resources of any kind; what AWS does not know, any more or yet, is passed over, and keeps no other from its tags."""
    told = [{"Key": k, "Value": v} for k, v in tags.items()]
    for part in _parts(resources, BATCH):
        for one in await _each_or_all(call, "create_tags", "Resources", part, because=NotFound, Tags=told):
            log.info("%s is not there to be tagged", one)


async def spot_prices(call: Call, types: Sequence[str], since: datetime) -> dict[tuple[str, str], Steps]:
    """Spot prices by (type, zone) from a time on, the price in force then first (EC2 API reference, DescribeSpotPriceHistory)."""
    rows = await pages(
        call,
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=sorted(types),
        ProductDescriptions=["Linux/UNIX"],
        StartTime=since,
    )
    prices: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for row in rows:
        step = (row["Timestamp"].timestamp(), float(row["SpotPrice"]))
        prices.setdefault((row["InstanceType"], row["AvailabilityZone"]), set()).add(step)
    return {pool: tuple(sorted(steps)) for pool, steps in prices.items()}


def seen(rows: Sequence[dict[str, Any]]) -> tuple[Seen, ...]:
    """Listed spot requests, or instances, as the events that a launch understands."""
    return tuple(_instance(row) if isinstance(row.get("State"), dict) else _request(row) for row in rows)


def _request(row: dict[str, Any]) -> Seen:
    instance, state = row.get("InstanceId") or None, row.get("State", "")
    status = row.get("Status", {}).get("Code", "")
    # a cancelled request without an instance is over, unless its status says that there is one, which this listing does not show yet
    without = instance is None and status != RUNS_ON
    over = state in OVER or (state == "cancelled" and (without or status.startswith(TERMINATED)))
    kind, zone = row.get("LaunchSpecification", {}).get("InstanceType", ""), row.get("LaunchedAvailabilityZone", "")
    message = row.get("Status", {}).get("Message", "") if reason(status) else ""
    instance = intern(instance) if instance else None  # the same texts in each listing and report: kept once
    return Seen(intern(row["SpotInstanceRequestId"]), instance, intern(status), over, type=intern(kind), zone=intern(zone), message=message)


def _instance(row: dict[str, Any]) -> Seen:
    """Of an instance that has ended, the status is EC2's reason for it."""
    one, state = intern(row["InstanceId"]), row["State"]["Name"]
    status = row.get("StateReason", {}).get("Code") or state
    zone = row.get("Placement", {}).get("AvailabilityZone", "")
    message = row.get("StateReason", {}).get("Message", "") if reason(status) else ""
    return Seen(one, one, status, state == "terminated", row.get("SpotInstanceRequestId"), row.get("InstanceType", ""), zone, message)


async def persist(call: Call, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    """A call that is asked again, some seconds long, while it is throttled or not answered. Only for calls that bear repetition."""
    for pause in PAUSES[:3]:
        try:
            return await call(service, operation, **parameters)
        except TRANSIENT as error:
            log.warning("%s; again in %d s", error.what, pause)
        await asyncio.sleep(pause)
    return await call(service, operation, **parameters)


async def pages(call: Call, operation: str, key: str, *, paged: bool = True, most: int = BATCH, **parameters: Any) -> list[dict[str, Any]]:
    """All pages of a listing. AWS may send an empty page with a token, so only a missing token ends it."""
    rows: list[dict[str, Any]] = []
    if paged:  # MaxResults cannot stand beside ids
        parameters["MaxResults"] = most
    while True:
        answer = await call("ec2", operation, **parameters)
        rows += answer.get(key, [])
        if not answer.get("NextToken"):
            return rows
        parameters["NextToken"] = answer["NextToken"]


async def _each_or_all(
    call: Call, operation: str, key: str, ids: Sequence[str], *, because: type[AwsError] = AwsError, **parameters: Any
) -> dict[str, AwsError]:
    """One call for all; when AWS refuses it `because` of some of them, halves, down to the ids that are refused by themselves."""
    if not ids:
        return {}
    given: dict[str, Any] = {**parameters, key: list(ids)}
    try:
        await call("ec2", operation, **given)
    except TRANSIENT:  # not because of some of the ids
        raise
    except because as error:
        if len(ids) == 1:
            return {ids[0]: error}
        middle, refused = len(ids) // 2, dict[str, AwsError]()
        for half in (ids[:middle], ids[middle:]):
            refused |= await _each_or_all(call, operation, key, half, because=because, **parameters)
        return refused
    return {}


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
