"""What `fleetctl reap` does for machines, as a function that AWS Lambda runs: end whatever has outlived its `expires` tag.

This file is the function's code as it stands (`fleetctl reap --template` puts it into a CloudFormation template), so it imports nothing
of fleetctl. It ends what costs by the hour: spot requests, fleets, instances, and volumes that nothing uses any more (those of machines
that are going down it is refused; its next run deletes them).
"""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import boto3

TAG, LAUNCH = "fleetctl:expires", "fleetctl:launch"


def overdue(ec2: Any, now: datetime) -> list[str]:
    """Ids of what bears a tag whose time is over; a tag that is no time is nobody's word for an end.

    The latest end within a launch is that of all of it: an extension moves the tags of its machines alone.
    """
    launch: dict[str, str] = {}
    end: dict[str, datetime] = {}
    for page in ec2.get_paginator("describe_tags").paginate(Filters=[{"Name": "key", "Values": [TAG, LAUNCH]}]):
        for tag in page["Tags"]:
            if tag["Key"] == LAUNCH:
                launch[tag["ResourceId"]] = tag["Value"]
                continue
            try:
                end[tag["ResourceId"]] = datetime.strptime(tag["Value"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            except ValueError:
                continue
    last: dict[str, datetime] = {}
    for one, when in end.items():
        whole = launch.get(one, one)
        last[whole] = max(when, last.get(whole, when))
    return [one for one in end if last[launch.get(one, one)] <= now]


def instances_of(ec2: Any, requests: list[str]) -> list[str]:
    """A spot request bears its tag from the first moment, its instance sometimes later."""
    if not requests:
        return []
    by_id = [{"Name": "spot-instance-request-id", "Values": requests}]
    pages = ec2.get_paginator("describe_spot_instance_requests").paginate(Filters=by_id)
    return [row["InstanceId"] for page in pages for row in page["SpotInstanceRequests"] if row.get("InstanceId")]


def reap(ec2: Any, now: datetime) -> dict[str, list[str]]:
    """End it all, each thing by itself: one that AWS refuses spares no other. Returns what was done and what was refused."""
    ids = overdue(ec2, now)
    done: list[str] = []
    refused: list[str] = []

    def each(things: Iterable[str], end: Callable[[str], Any]) -> None:
        for one in sorted(set(things)):
            try:
                end(one)
                done.append(one)
            except ec2.exceptions.ClientError as error:
                code = error.response["Error"]["Code"]
                if not code.endswith(".NotFound"):  # a tag outlives its thing
                    refused.append(f"{one}: {code}")

    requests = [one for one in ids if one.startswith("sir-")]
    machines = [one for one in ids if one.startswith("i-")]
    for start in range(0, len(requests), 200):
        machines += instances_of(ec2, requests[start : start + 200])
    each(requests, lambda one: ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[one]))
    each((i for i in ids if i.startswith("fleet-")), lambda one: ec2.delete_fleets(FleetIds=[one], TerminateInstances=True))
    each(machines, lambda one: ec2.terminate_instances(InstanceIds=[one]))
    each((i for i in ids if i.startswith("vol-")), lambda one: ec2.delete_volume(VolumeId=one))
    return {"ended": done, "refused": refused}


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Called by the schedule, for each region that REGIONS names (default: the function's own)."""
    regions = os.environ.get("REGIONS", "").split() or [os.environ["AWS_REGION"]]
    now = datetime.now(UTC)
    result = {region: reap(boto3.client("ec2", region_name=region), now) for region in regions}
    print(result)
    return result
