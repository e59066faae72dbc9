"""Finding everything in a cloud that bears fleetctl's tags, or a session's name: what `orphans` decides over.

EC2: one DescribeTags shows the tags of all kinds of things, then each kind is asked for its states, so that what has ended is left out.
The other services list by name, and what has tags is believed only if they agree.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..cloud import ec2
from ..cloud.bucket import HOME_REGION
from ..cloud.ec2 import EXPIRES_TAG, LAUNCH_TAG, SESSION_TAG
from ..ending.fuse import when
from ..ending.kinds import kind_of_id
from ..errors import AwsError, NotFound
from .orphans import Found, session_of

log = logging.getLogger(__name__)

KEYS = (SESSION_TAG, LAUNCH_TAG, EXPIRES_TAG)
OVER = {"terminated", "cancelled", "closed", "failed", "deleted", "deleting", "deleted_terminating", "deleted_running"}


async def regions(call: ec2.Call) -> list[str]:
    """The regions that the account uses."""
    answer = await call("ec2", "describe_regions")
    return sorted(one["RegionName"] for one in answer["Regions"])


async def survey(call: ec2.Call, region: str) -> list[Found]:
    """Everything of fleetctl in a region that has not ended, but for buckets."""
    found = await _ec2(call, region)
    for listing in LISTINGS:
        found += [one async for one in _named(call, region, listing)]
    return found


async def survey_buckets(call: ec2.Call) -> list[Found]:
    """The buckets of all regions, which S3 lists at once, each with the region that it is in."""
    return [one._replace(region=await _place(call, one.id)) async for one in _named(call, "", BUCKETS)]


async def _place(call: ec2.Call, bucket: str) -> str:
    """A bucket's region. S3 calls the first of them by no name, and the first in Europe by an old one (GetBucketLocation)."""
    named = str((await call("s3", "get_bucket_location", Bucket=bucket)).get("LocationConstraint") or HOME_REGION)
    return "eu-west-1" if named == "EU" else named


# --- EC2 ----------------------------------------------------------------------------------------------------------------------------


async def _ec2(call: ec2.Call, region: str) -> list[Found]:
    tags: dict[str, dict[str, str]] = {}
    for id, key, value in await ec2.tagged(call, *KEYS):
        tags.setdefault(id, {})[key] = value
    mine = {id: own for id, own in tags.items() if SESSION_TAG in own}
    states: dict[str, tuple[str, str]] = {}
    for kind, look in LOOKS.items():
        if ids := [id for id in mine if kind_of_id(id) == kind]:
            states |= {id: (name, state) for id, name, state in await look(call, ids)}
    return [_found(states[id], region, kind_of_id(id), own) for id, own in mine.items() if id in states and states[id][1] not in OVER]


def _found(shown: tuple[str, str], region: str, kind: str, tags: Mapping[str, str]) -> Found:
    name, state = shown
    return Found(kind, name, region, tags[SESSION_TAG], tags.get(LAUNCH_TAG, ""), when(tags.get(EXPIRES_TAG, "")), state)


Rows = Iterable[tuple[str, str, str]]  # id, the name by which it is ended, state


async def _instances(call: ec2.Call, ids: list[str]) -> Rows:
    return [(one["InstanceId"], one["InstanceId"], one["State"]["Name"]) for one in await ec2.instances(call, ids)]


async def _requests(call: ec2.Call, ids: list[str]) -> Rows:
    rows = await ec2.requests_by_id(call, ids)
    return [(one["SpotInstanceRequestId"], one["SpotInstanceRequestId"], one["State"]) for one in rows]


async def _volumes(call: ec2.Call, ids: list[str]) -> Rows:
    return [(one["VolumeId"], one["VolumeId"], one["State"]) for one in await ec2.volumes(call, ids)]


async def _fleets(call: ec2.Call, ids: list[str]) -> Rows:
    states = await ec2.fleet_states(call, ids)
    return [(id, id, "deleted" if state.endswith(".NotFound") else state) for id, state in states.items()]


async def _templates(call: ec2.Call, ids: list[str]) -> Rows:
    rows = await ec2.pages(call, "describe_launch_templates", "LaunchTemplates", most=ec2.TEMPLATES, Filters=[_ours()])
    return [(one["LaunchTemplateId"], one["LaunchTemplateName"], "") for one in rows]


async def _addresses(call: ec2.Call, ids: list[str]) -> Rows:
    rows = (await call("ec2", "describe_addresses", Filters=[_ours()])).get("Addresses", [])
    return [(one["AllocationId"], one["AllocationId"], "") for one in rows]


async def _gateways(call: ec2.Call, ids: list[str]) -> Rows:
    rows = await ec2.pages(call, "describe_nat_gateways", "NatGateways", Filters=[_ours()])
    return [(one["NatGatewayId"], one["NatGatewayId"], one["State"]) for one in rows]


def _ours() -> dict[str, Any]:
    return {"Name": "tag-key", "Values": [SESSION_TAG]}


LOOKS: Mapping[str, Callable[[ec2.Call, list[str]], Any]] = {
    "instance": _instances,
    "spot request": _requests,
    "volume": _volumes,
    "fleet": _fleets,
    "launch template": _templates,
    "address": _addresses,
    "NAT gateway": _gateways,
}


# --- what is listed by name -----------------------------------------------------------------------------------------------------------


class Listing(NamedTuple):
    """How a kind is listed: service, operation, its parameters, where the rows stand, what is the id of one ("" for the row itself).

    `tags` is the call that shows its tags, with the parameter that takes the id and where they stand in the answer.
    """

    kind: str
    service: str
    operation: str
    parameters: dict[str, Any]
    rows: str
    id: str
    tags: tuple[str, str, str] | None = None


LISTINGS = (
    Listing("topic", "sns", "list_topics", {}, "Topics", "TopicArn", ("list_tags_for_resource", "ResourceArn", "Tags")),
    Listing("subscription", "sns", "list_subscriptions", {}, "Subscriptions", "SubscriptionArn"),
    Listing("queue", "sqs", "list_queues", {"QueueNamePrefix": "fleetctl-", "MaxResults": 1000}, "QueueUrls", "",
            ("list_queue_tags", "QueueUrl", "Tags")),
    Listing("parameter", "ssm", "describe_parameters",
            {"ParameterFilters": [{"Key": "Name", "Option": "BeginsWith", "Values": ["/fleetctl/"]}]}, "Parameters", "Name"),
)  # fmt: skip
BUCKETS = Listing("bucket", "s3", "list_buckets", {}, "Buckets", "Name", ("get_bucket_tagging", "Bucket", "TagSet"))


async def _named(call: ec2.Call, region: str, listing: Listing) -> AsyncIterator[Found]:
    parameters = dict(listing.parameters)
    while True:
        answer = await call(listing.service, listing.operation, **parameters)
        for row in answer.get(listing.rows, []):
            id = row[listing.id] if listing.id else row
            # a subscription of a shared topic is known by its end, the session's queue
            session = session_of(id) or (session_of(row.get("Endpoint", "")) if listing.kind == "subscription" else "")
            if session and id != "PendingConfirmation" and await _agrees(call, listing, id, session):
                yield Found(listing.kind, id, region, session)
        if not answer.get("NextToken"):
            return
        parameters["NextToken"] = answer["NextToken"]


async def _agrees(call: ec2.Call, listing: Listing, id: str, session: str) -> bool:
    """Whether the thing's tags name the same session as its name does. A bucket is tagged after it is made, so it may have none."""
    if listing.tags is None:
        return True
    operation, parameter, place = listing.tags
    try:
        shown = (await call(listing.service, operation, **{parameter: id})).get(place, {})
    except NotFound:
        return False
    except AwsError as error:
        if error.code != "NoSuchTagSet":
            log.warning("%s %s is passed over: %s", listing.kind, id, error.what)
        return error.code == "NoSuchTagSet"
    tags = shown if isinstance(shown, dict) else {one["Key"]: one["Value"] for one in shown}
    return tags.get(SESSION_TAG) == session
