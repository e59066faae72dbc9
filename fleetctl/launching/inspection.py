"""Looks up what a preflight judges. Nothing is made, and nothing goes into the ledger: only describing calls, and dry runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

from .. import shapes
from ..bootstrap import USER_DATA_BYTES, Program, packed
from ..cloud import denied, ec2
from ..errors import AwsError, Denied, FleetError, UserDataTooLarge
from ..shapes import Call, Request
from .checks import Facts, Rows, quota_code
from .order import Order
from .topup import Pool

T = TypeVar("T")
ALIVE = ["pending", "running", "shutting-down", "stopping"]


async def inspect_launch(call: ec2.Call, order: Order, pools: Sequence[Pool], *, region: str, nat: str | None = None) -> Facts:
    """The facts of a launch of `order` from `pools`; `nat` is the NAT instance that the session starts for it.

    `call` is a way past the ledger. Raises nothing that AWS says: facts hold it.
    """
    said = [shapes.view(pool.request) for pool in pools]
    types = tuple(dict.fromkeys(kind for one in said for kind in _several(one.get("itype"))))
    subnets = tuple(dict.fromkeys(subnet for one in said for subnet in _several(one.get("subnet"))))
    market = "on-demand" if all(pool.on_demand for pool in pools) else "spot"
    finished, aside = _finished(order, region)
    part = _machine(pools[0].request)
    codes = {code for kind in types if (code := quota_code(kind, on_demand=market != "spot")) is not None}
    image, kinds, places, endpoints = await asyncio.gather(
        _rows(call, "describe_images", "Images", "ImageIds", [part["ImageId"]] if part.get("ImageId") else []),
        _rows(call, "describe_instance_types", "InstanceTypes", "InstanceTypes", types),
        _rows(call, "describe_subnets", "Subnets", "SubnetIds", subnets),
        _tried(ec2.pages(call, "describe_vpc_endpoints", "VpcEndpoints", paged=False)),
    )
    running, dry, limits = await asyncio.gather(_running(call, market), _dry(call, finished), _limits(call, codes))
    vpcs = [] if isinstance(places, AwsError) else list(dict.fromkeys(row["VpcId"] for row in places))
    mine = [{"Name": "vpc-id", "Values": vpcs}]
    routes = await _tried(ec2.pages(call, "describe_route_tables", "RouteTables", paged=False, Filters=mine)) if vpcs else []
    return Facts(
        n=order.wanted, region=region, on_demand=market != "spot", types=types, subnets=subnets, dry=dry,
        user_data=finished if isinstance(finished, FleetError) else _size(finished), aside=aside, limit=USER_DATA_BYTES,
        image=image, kinds=kinds,
        places=places, routes=routes, endpoints=endpoints, quotas=limits, running=running, disks=part.get("BlockDeviceMappings", ()),
        needs=("sns", *(["ssm"] if order.program.secret else []), *(["s3"] if aside else [])), public=said[0].get("public"), nat=nat,
    )  # fmt: skip


def _finished(order: Order, region: str) -> tuple[Request | FleetError, int]:
    """The request as it would be sent, or why it cannot be; and how many bytes of commands go into the session's bucket."""
    names = {"topic_arn": f"arn:aws:sns:{region}:000000000000:fleetctl-preflight", "secret": f"/fleetctl/{order.session}"}
    try:
        try:
            return order.finished(region=region, **names), 0
        except UserDataTooLarge:
            aside = len(packed(order.program)) if isinstance(order.program, Program) else 0
            return order.finished(region=region, bulk=order.fuse_object or "fleetctl-preflight/commands", **names), aside
    except FleetError as error:
        return error, 0


def _several(said: Any) -> Sequence[str]:
    return () if said is None else (said,) if isinstance(said, str) else tuple(said)


def _machine(request: Request) -> Request:
    """The part of a request that describes the machine: where its call takes the image."""
    part: Any = request
    for key in shapes.shape_of(request).options["image"].place[:-1]:
        part = part.get(key, {})
    return dict(part)


def _size(finished: Request) -> int:
    return len(str(shapes.view(finished).get("udata", "")).encode())


async def _rows(call: ec2.Call, operation: str, key: str, named: str, ids: Sequence[str]) -> Rows:
    """What AWS shows of these; without MaxResults, which has another bound in each of these calls."""
    one: dict[str, Any] = {named: list(ids)}
    return await _tried(ec2.pages(call, operation, key, paged=False, **one)) if ids else []


async def _running(call: ec2.Call, market: str) -> Rows:
    """Living instances of the market; those on demand are they that have no lifecycle."""
    found = await _tried(ec2.instances_with(call, "instance-state-name", ALIVE))
    if isinstance(found, AwsError):
        return found
    return [row for row in found if row.get("InstanceLifecycle", "on-demand") == market]


async def _limits(call: ec2.Call, codes: Iterable[str]) -> dict[str, float | AwsError]:
    found: dict[str, float | AwsError] = {}
    for code in codes:
        answer = await _tried(call("service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=code))
        found[code] = answer if isinstance(answer, AwsError) else float(answer["Quota"]["Value"])
    return found


async def _dry(call: ec2.Call, finished: Request | FleetError) -> dict[str, FleetError]:
    """What each launch call's dry run was answered with; AWS answers every one with an error."""
    if isinstance(finished, FleetError):
        return {"the launch call": finished}
    return {one.method: await _dry_run(call, one) for one in shapes.calls(finished)}


async def _dry_run(call: ec2.Call, one: Call) -> FleetError:
    try:
        await call("ec2", one.method, **{**one.parameters, "DryRun": True})
    except AwsError as error:
        if isinstance(error, Denied):
            await denied.explain(call, error)
        return error
    return FleetError(f"{one.method} did not say what its dry run came to")


async def _tried(asking: Awaitable[T]) -> T | AwsError:
    try:
        return await asking
    except AwsError as error:
        return error
