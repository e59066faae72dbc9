"""The ways out of the private subnets: public address, NAT gateway, VPC endpoints. What of a network costs money by the hour."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..cloud.ec2 import Call
from ..errors import AwsError
from .place import Place, ids, in_ec2, nothing_to_put, parts, seen, tags_of, until
from .planning import Seen, Wanted

__all__ = ["ENDPOINT", "KINDS"]

NAT_OVER = {"deleted", "failed"}
WAYS = {"Interface": ("SubnetIds", "subnet"), "Gateway": ("RouteTableIds", "routes")}


# --- public address --------------------------------------------------------------------------------------------------------------------


async def _find_addresses(place: Place) -> list[Seen]:
    rows = await place.ours("describe_addresses", "Addresses", most=0)
    return [seen("address", row["AllocationId"], tags_of(row), {}) for row in rows]


async def _make_address(place: Place, wanted: Wanted) -> str:
    specification = place.specification("elastic-ip", wanted.part, done=True)
    answer = await place.do("ec2", "allocate_address", Domain="vpc", TagSpecifications=specification)
    return str(answer["AllocationId"])


async def _remove_address(place: Place, thing: Seen) -> None:
    await place.call("ec2", "release_address", AllocationId=thing.id)


# --- NAT gateway -----------------------------------------------------------------------------------------------------------------------


async def _find_nats(place: Place) -> list[Seen]:
    rows = await _nat_rows(place.call, place.facts.setup)
    return [
        seen("nat", row["NatGatewayId"], tags_of(row), {"subnet": place.part("subnet", row["SubnetId"])}, ending=row["State"] == "deleting")
        for row in rows
        if row["State"] not in NAT_OVER
    ]


async def _nat_rows(call: Call, setup: str) -> list[dict[str, Any]]:
    """The one call whose filters are named `Filter`."""
    answer = await call("ec2", "describe_nat_gateways", Filter=[{"Name": "tag:fleetctl:setup", "Values": [setup]}], MaxResults=1000)
    rows: list[dict[str, Any]] = answer.get("NatGateways", [])
    return rows


async def _make_nat(place: Place, wanted: Wanted) -> str:
    answer = await place.do(
        "ec2",
        "create_nat_gateway",
        SubnetId=place.id("subnet", wanted.settings["subnet"]),
        AllocationId=place.id("address", "nat"),
        TagSpecifications=place.specification("natgateway", wanted.part),
    )
    return str(answer["NatGateway"]["NatGatewayId"])


async def _put_nat(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """Wait until it works: a route to one that never comes is worse than an error here."""

    async def works() -> bool:
        for row in await _nat_rows(place.call, place.facts.setup):
            if row["NatGatewayId"] == id and row["State"] == "failed":
                raise AwsError(f"NAT gateway {id} failed: {row.get('FailureMessage', '')}", service="ec2", operation="create_nat_gateway",
                               code=row.get("FailureCode", "failed"), todo="mend that, then run the same command again")  # fmt: skip
            if row["NatGatewayId"] == id:
                return bool(row["State"] == "available")
        return False

    await until(works, f"NAT gateway {id}")


async def _remove_nat(place: Place, thing: Seen) -> None:
    if not thing.ending:
        await place.call("ec2", "delete_nat_gateway", NatGatewayId=thing.id)


# --- endpoints ---------------------------------------------------------------------------------------------------------------------------


async def _endpoint_rows(place: Place) -> list[dict[str, Any]]:
    rows = await place.ours("describe_vpc_endpoints", "VpcEndpoints")
    return [row for row in rows if str(row["State"]).lower() not in ("deleted", "failed", "rejected", "expired")]


async def _find_endpoints(place: Place) -> list[Seen]:
    found = []
    for row in await _endpoint_rows(place):
        key, kind = WAYS[row["VpcEndpointType"]]
        settings = {
            "service": row["ServiceName"].rpartition(".")[2],
            "type": row["VpcEndpointType"],
            "in": parts(place, kind, row.get(key, ())),
        }
        found.append(seen("endpoint", row["VpcEndpointId"], tags_of(row), settings, ending=str(row["State"]).lower() == "deleting"))
    return found


async def _make_endpoint(place: Place, wanted: Wanted) -> str:
    """Interface endpoints are members of the machines' group, which lets in everything among members."""
    key, kind = WAYS[wanted.settings["type"]]
    inside: dict[str, Any] = {key: ids(place, kind, wanted.settings["in"])}
    if wanted.settings["type"] == "Interface":
        inside |= {"SecurityGroupIds": [place.id("group", "machines")], "PrivateDnsEnabled": True}
    answer = await place.do(
        "ec2",
        "create_vpc_endpoint",
        VpcId=place.id("vpc", "vpc"),
        VpcEndpointType=wanted.settings["type"],
        ServiceName=f"com.amazonaws.{place.facts.region}.{wanted.settings['service']}",
        TagSpecifications=place.specification("vpc-endpoint", wanted.part, done=True),
        **inside,
    )
    return str(answer["VpcEndpoint"]["VpcEndpointId"])


async def _put_endpoint(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    key, kind = WAYS[wanted.settings["type"]]
    there = next((set(row.get(key, ())) for row in await _endpoint_rows(place) if row["VpcEndpointId"] == id), set())
    wished = set(ids(place, kind, wanted.settings["in"]))
    change = {f"Add{key}": sorted(wished - there), f"Remove{key}": sorted(there - wished)}
    if change := {name: value for name, value in change.items() if value}:
        await place.do("ec2", "modify_vpc_endpoint", VpcEndpointId=id, **change)


async def _remove_endpoint(place: Place, thing: Seen) -> None:
    if thing.ending:
        return
    answer = await place.call("ec2", "delete_vpc_endpoints", VpcEndpointIds=[thing.id])
    for refused in answer.get("Unsuccessful", ()):  # an error that comes with success
        error = refused.get("Error", {})
        if not str(error.get("Code", "")).endswith("NotFound"):
            raise AwsError(f"VPC endpoint {thing.id} was not deleted: {error.get('Message', '')}", service="ec2",
                           operation="delete_vpc_endpoints", code=str(error.get("Code", "")))  # fmt: skip


KINDS = (
    in_ec2("address", _find_addresses, _make_address, nothing_to_put, _remove_address, "describe_addresses", "AllocationIds", whole=True),
    in_ec2("nat", _find_nats, _make_nat, _put_nat, _remove_nat, "describe_nat_gateways", "NatGatewayIds",
           needs=("address", "subnet", "gateway"), fixed=frozenset({"subnet"})),
)  # fmt: skip
ENDPOINT = in_ec2("endpoint", _find_endpoints, _make_endpoint, _put_endpoint, _remove_endpoint, "describe_vpc_endpoints", "VpcEndpointIds",
                  needs=("vpc", "group", "routes", "subnet"), fixed=frozenset({"service", "type"}), whole=True)  # fmt: skip
