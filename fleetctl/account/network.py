"""The network's kinds: VPC, internet gateway, subnets, routes, security group."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .access import permission, rules
from .place import Place, ids, in_ec2, parts, seen, tags_of
from .planning import Seen, Wanted

__all__ = ["KINDS", "OPTIONS_TAG", "ROUTES"]

OPTIONS_TAG = "fleetctl:options"
EVERYTHING = "0.0.0.0/0"
ROUTED = {"gateway": "GatewayId", "nat": "NatGatewayId", "nat-instance": "InstanceId"}  # what a route goes to, and how it names that
GROUPS = {"machines": "SSH from outside, everything among members", "nat": "everything from the private subnets"}


# --- VPC -------------------------------------------------------------------------------------------------------------------------------


async def _find_vpcs(place: Place) -> list[Seen]:
    found = []
    for row in await place.ours("describe_vpcs", "Vpcs"):
        names = await place.call("ec2", "describe_vpc_attribute", VpcId=row["VpcId"], Attribute="enableDnsHostnames")
        tags = tags_of(row)
        settings = {
            "addresses": row["CidrBlock"],
            "host names": names["EnableDnsHostnames"]["Value"],
            "options": tags.get(OPTIONS_TAG),
        }
        found.append(seen("vpc", row["VpcId"], tags, settings))
    return found


async def _make_vpc(place: Place, wanted: Wanted) -> str:
    specification = place.specification("vpc", wanted.part)
    specification[0]["Tags"].append({"Key": OPTIONS_TAG, "Value": wanted.settings["options"]})
    answer = await place.do("ec2", "create_vpc", CidrBlock=wanted.settings["addresses"], TagSpecifications=specification)
    return str(answer["Vpc"]["VpcId"])


async def _put_vpc(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    if "host names" in keys:  # without them the endpoints' names mean nothing inside
        await place.do("ec2", "modify_vpc_attribute", VpcId=id, EnableDnsHostnames={"Value": wanted.settings["host names"]})
    if "options" in keys:
        await place.do("ec2", "create_tags", Resources=[id], Tags=[{"Key": OPTIONS_TAG, "Value": wanted.settings["options"]}])


async def _remove_vpc(place: Place, thing: Seen) -> None:
    await place.call("ec2", "delete_vpc", VpcId=thing.id)


# --- internet gateway ---------------------------------------------------------------------------------------------------------------


async def _find_gateways(place: Place) -> list[Seen]:
    vpc = place.ids.get(("vpc", "vpc"))
    return [
        seen("gateway", row["InternetGatewayId"], tags_of(row),
             {"attached": vpc is not None and vpc in [one["VpcId"] for one in row.get("Attachments", ())]})
        for row in await place.ours("describe_internet_gateways", "InternetGateways")
    ]  # fmt: skip


async def _make_gateway(place: Place, wanted: Wanted) -> str:
    specification = place.specification("internet-gateway", wanted.part)
    answer = await place.do("ec2", "create_internet_gateway", TagSpecifications=specification)
    return str(answer["InternetGateway"]["InternetGatewayId"])


async def _put_gateway(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    if "attached" in keys:
        await place.do("ec2", "attach_internet_gateway", InternetGatewayId=id, VpcId=place.id("vpc", "vpc"))


async def _remove_gateway(place: Place, thing: Seen) -> None:
    if thing.settings["attached"]:
        await place.call("ec2", "detach_internet_gateway", InternetGatewayId=thing.id, VpcId=place.id("vpc", "vpc"))
    await place.call("ec2", "delete_internet_gateway", InternetGatewayId=thing.id)


# --- subnets -----------------------------------------------------------------------------------------------------------------------------


async def _find_subnets(place: Place) -> list[Seen]:
    return [
        seen("subnet", row["SubnetId"], tags_of(row),
             {"addresses": row["CidrBlock"], "zone": row["AvailabilityZone"], "public": row.get("MapPublicIpOnLaunch", False)})
        for row in await place.ours("describe_subnets", "Subnets")
    ]  # fmt: skip


async def _make_subnet(place: Place, wanted: Wanted) -> str:
    answer = await place.do(
        "ec2",
        "create_subnet",
        VpcId=place.id("vpc", "vpc"),
        CidrBlock=wanted.settings["addresses"],
        AvailabilityZone=wanted.settings["zone"],
        TagSpecifications=place.specification("subnet", wanted.part),
    )
    return str(answer["Subnet"]["SubnetId"])


async def _put_subnet(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    if "public" in keys:
        await place.do("ec2", "modify_subnet_attribute", SubnetId=id, MapPublicIpOnLaunch={"Value": wanted.settings["public"]})


async def _remove_subnet(place: Place, thing: Seen) -> None:
    await place.call("ec2", "delete_subnet", SubnetId=thing.id)


# --- routes ------------------------------------------------------------------------------------------------------------------------------


async def _route_rows(place: Place) -> list[dict[str, Any]]:
    return await place.ours("describe_route_tables", "RouteTables", most=100)  # EC2 API reference: a page has 100 at most


def _out_by(place: Place, row: dict[str, Any]) -> str:
    """Where everything goes that has no other way: kind and part, or the id of what is not ours; '' for nowhere."""
    for route in row.get("Routes", ()):
        if route.get("DestinationCidrBlock") == EVERYTHING:
            for kind, key in ROUTED.items():
                if route.get(key):
                    return f"{kind} {place.part(kind, route[key])}"
            return "something else"
    return ""


def _associated(row: dict[str, Any]) -> dict[str, str]:
    """The associations of a table by their subnets."""
    return {one["SubnetId"]: one["RouteTableAssociationId"] for one in row.get("Associations", ()) if one.get("SubnetId")}


async def _find_routes(place: Place) -> list[Seen]:
    return [
        seen("routes", row["RouteTableId"], tags_of(row),
             {"out by": _out_by(place, row), "subnets": parts(place, "subnet", list(_associated(row)))})
        for row in await _route_rows(place)
    ]  # fmt: skip


async def _make_routes(place: Place, wanted: Wanted) -> str:
    answer = await place.do(
        "ec2", "create_route_table", VpcId=place.id("vpc", "vpc"), TagSpecifications=place.specification("route-table", wanted.part)
    )
    return str(answer["RouteTable"]["RouteTableId"])


async def _put_routes(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    row: dict[str, Any] = next((one for one in await _route_rows(place) if one["RouteTableId"] == id), {})  # none: not visible yet
    if "out by" in keys:
        kind, _, part = wanted.settings["out by"].partition(" ")
        there = _out_by(place, row)
        way = {"DestinationCidrBlock": EVERYTHING}
        if kind:
            if there != wanted.settings["out by"]:
                operation = "replace_route" if there else "create_route"
                await place.do("ec2", operation, RouteTableId=id, **way, **{ROUTED[kind]: place.id(kind, part)})
        elif there:
            await place.do("ec2", "delete_route", RouteTableId=id, **way)
    if "subnets" in keys:
        there_now, wished = _associated(row), ids(place, "subnet", wanted.settings["subnets"])
        for subnet in there_now.keys() - set(wished):
            await place.do("ec2", "disassociate_route_table", AssociationId=there_now[subnet])
        for subnet in wished:
            if subnet not in there_now:
                await place.do("ec2", "associate_route_table", RouteTableId=id, SubnetId=subnet)


async def _remove_routes(place: Place, thing: Seen) -> None:
    for row in await _route_rows(place):
        if row["RouteTableId"] == thing.id:
            for association in _associated(row).values():
                await place.call("ec2", "disassociate_route_table", AssociationId=association)
    await place.call("ec2", "delete_route_table", RouteTableId=thing.id)


# --- security group --------------------------------------------------------------------------------------------------------------------


async def _find_groups(place: Place) -> list[Seen]:
    return [
        seen("group", row["GroupId"], tags_of(row), {"lets in": rules(row.get("IpPermissions", ()), row["GroupId"])})
        for row in await place.ours("describe_security_groups", "SecurityGroups")
    ]


async def _make_group(place: Place, wanted: Wanted) -> str:
    answer = await place.do(
        "ec2",
        "create_security_group",
        GroupName=f"fleetctl-{place.facts.setup}-{wanted.part}",
        Description=f"fleetctl: {GROUPS[wanted.part]}",
        VpcId=place.id("vpc", "vpc"),
        TagSpecifications=place.specification("security-group", wanted.part),
    )
    return str(answer["GroupId"])


async def _put_group(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    there: set[str] = set()
    for row in await place.ours("describe_security_groups", "SecurityGroups"):
        if row["GroupId"] == id:
            there = set(rules(row.get("IpPermissions", ()), id))
    wished = set(wanted.settings["lets in"])
    if less := sorted(there - wished):
        await place.do("ec2", "revoke_security_group_ingress", GroupId=id, IpPermissions=[permission(one, id) for one in less])
    if more := sorted(wished - there):
        await place.do("ec2", "authorize_security_group_ingress", GroupId=id, IpPermissions=[permission(one, id) for one in more])


async def _remove_group(place: Place, thing: Seen) -> None:
    await place.call("ec2", "delete_security_group", GroupId=thing.id)


KINDS = (
    in_ec2("vpc", _find_vpcs, _make_vpc, _put_vpc, _remove_vpc, "describe_vpcs", "VpcIds", fixed=frozenset({"addresses"}),
           given=frozenset({"options"})),
    in_ec2("gateway", _find_gateways, _make_gateway, _put_gateway, _remove_gateway, "describe_internet_gateways", "InternetGatewayIds",
           needs=("vpc",)),
    in_ec2("subnet", _find_subnets, _make_subnet, _put_subnet, _remove_subnet, "describe_subnets", "SubnetIds", needs=("vpc",),
           fixed=frozenset({"addresses", "zone"})),
    in_ec2("group", _find_groups, _make_group, _put_group, _remove_group, "describe_security_groups", "GroupIds", needs=("vpc",)),
)  # fmt: skip
ROUTES = in_ec2("routes", _find_routes, _make_routes, _put_routes, _remove_routes, "describe_route_tables", "RouteTableIds",
                needs=("vpc", "subnet", "gateway", "nat", "nat-instance"))  # fmt: skip
