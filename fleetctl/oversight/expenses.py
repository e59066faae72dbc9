"""What of an account costs money by being there: where each kind is listed, and what it costs a month. A table; pure.

Prices are USD of us-east-1, quoted in public in June 2026; those of machines and volumes come from `prices`. What is paid by use alone
(requests, traffic) is not here. Where the price hangs on more than the listing tells, it is None, which a reader must look up: nothing is
guessed. A kind that the table lacks is not looked at; docs/money.md names those that it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..cloud.ec2 import SESSION_TAG, SETUP_TAG
from ..ending.nat import HELD
from ..money.prices import Table, Tariff, Volume, table
from .orphans import session_of

__all__ = ["HOURS", "SOURCES", "Expense", "Prices", "Source", "assembled", "monthly", "owner"]

HOURS = 730  # of a month
SETUP_NAME = re.compile(r"fleetctl-([a-z][a-z0-9-]*?)-[a-z]{2}(?:-[a-z]+)+-\d-(?:\d{12}|over-\d+)")  # its bucket, its alarms
NAT, ENDPOINT, VPN, ATTACHMENT, CLUSTER = 0.045, 0.01, 0.05, 0.05, 0.1  # an hour each
BALANCERS = {"application": 0.0225, "network": 0.0225, "gateway": 0.0125, "classic": 0.025}
SNAPSHOT, FILES, LOGS, BACKUP = 0.05, 0.3, 0.03, 0.095  # a GB and month; a snapshot shares with older ones, so it is at most that
SECRET, ZONE, ALARM = 0.4, 0.5, 0.1  # a month each
GIB = 2**30

Row = Mapping[str, Any]


class Expense(NamedTuple):
    """One thing. `month`: USD a month if it stays as it is, None where that cannot be told. `owner`: '' for what is not ours."""

    kind: str
    id: str
    region: str
    state: str
    month: float | None
    owner: str = ""


@dataclass(frozen=True)
class Prices:
    """What things are priced by: the table that ships, and what AWS says of spot."""

    spot: Tariff = field(default_factory=Tariff)
    table: Table = field(default_factory=table)

    def machine(self, row: Row) -> float | None:
        """USD an hour of a running machine, None where it is not known."""
        type = row["InstanceType"]
        if row.get("InstanceLifecycle") == "spot":
            steps = self.spot.steps(type, row.get("Placement", {}).get("AvailabilityZone", ""))
            return steps[-1][1] if steps else None
        return self.table.on_demand(type)


@dataclass(frozen=True)
class Source:
    """A call that lists things, and what to make of its rows. `token`: how it is asked for the next page, and where the answer names that.

    `home`: the listing is the whole account's, and is asked once.
    """

    service: str
    operation: str
    rows: str
    read: Callable[[Row, Prices], Iterable[Expense]]
    given: Mapping[str, Any] = field(default_factory=dict)
    token: tuple[str, str] | None = ("NextToken", "NextToken")
    home: bool = False

    def __repr__(self) -> str:
        return f"<source {self.service} {self.operation}>"


def owner(tags: Iterable[Row]) -> str:
    """Whose a thing is by its tags: a session's, a set-up's, or not ours.

    >>> owner([{"Key": "fleetctl:session", "Value": "0123456789ab"}]), owner([{"Key": "Name", "Value": "theirs"}])
    ('session 0123456789ab', '')
    """
    told = {one["Key"]: one["Value"] for one in tags}
    if SESSION_TAG in told:
        return f"session {told[SESSION_TAG]}"
    return f"set-up {told[SETUP_TAG]}" if SETUP_TAG in told else ""


def named(name: str) -> str:
    """Whose a thing is by its name, for what is listed without tags.

    >>> named("fleetctl-lab-us-east-1-123456789012"), named("fleetctl-lab-us-east-1-over-20"), named("theirs")
    ('set-up lab', 'set-up lab', '')
    """
    if session := session_of(name):
        return f"session {session}"
    found = SETUP_NAME.fullmatch(name)
    return f"set-up {found[1]}" if found else ""


def assembled(expenses: Iterable[Expense]) -> list[Expense]:
    """In the order in which one wants to read them: what is dearest first, what is not known before what is nothing.

    An elastic address is listed by itself and by the machine that has it; it is paid once.
    """
    all_of_them = list(expenses)
    elastic = {one.state for one in all_of_them if one.kind == "address"}
    once = [one for one in all_of_them if not (one.kind == "public address" and one.id in elastic)]
    return sorted(once, key=lambda one: (-(0.005 if one.month is None else one.month), one.kind, one.region, one.id))


def monthly(expenses: Iterable[Expense]) -> tuple[float, int]:
    """USD a month of all whose price is known, and of how many it is not."""
    months = [one.month for one in expenses]
    return sum(one for one in months if one is not None), months.count(None)


# --- EC2 ---------------------------------------------------------------------------------------------------------------------------------


def _instances(row: Row, prices: Prices) -> Iterable[Expense]:
    for one in row["Instances"]:
        state, whose = one["State"]["Name"], owner(one.get("Tags", ()))
        held = sum(tag["Key"].startswith(HELD) for tag in one.get("Tags", ()))  # of a set-up's NAT instance
        if state in ("terminated", "shutting-down"):
            continue
        market = " spot" if one.get("InstanceLifecycle") == "spot" else ""
        hour = prices.machine(one) if state in ("pending", "running") else 0.0  # a stopped one costs its volumes, which are listed
        what = f"{state}, {one['InstanceType']}{market}{f', sessions: {held}' if held else ''}"
        yield Expense("instance", one["InstanceId"], "", what, _times(hour, HOURS), whose)
        if address := one.get("PublicIpAddress"):
            yield Expense("public address", address, "", f"of {one['InstanceId']}", prices.table.address * HOURS, whose)


def _times(price: float | None, count: float) -> float | None:
    return None if price is None else price * count


def _volume(row: Row, prices: Prices) -> Iterable[Expense]:
    state = "attached" if row["State"] == "in-use" else "detached"
    month = prices.table.volumes([Volume(row["VolumeType"], row["Size"])]) * HOURS
    yield Expense("volume", row["VolumeId"], "", f"{state}, {row['Size']} GB {row['VolumeType']}", month, owner(row.get("Tags", ())))


def _snapshot(row: Row, _: Prices) -> Iterable[Expense]:
    state = f"at most {row['VolumeSize']} GB"
    yield Expense("snapshot", row["SnapshotId"], "", state, SNAPSHOT * row["VolumeSize"], owner(row.get("Tags", ())))


def _address(row: Row, prices: Prices) -> Iterable[Expense]:
    """Since 2024 one that is in use costs the same."""
    yield Expense("address", row["AllocationId"], "", row["PublicIp"], prices.table.address * HOURS, owner(row.get("Tags", ())))


def _nat(row: Row, _: Prices) -> Iterable[Expense]:
    if row["State"] in ("pending", "available"):
        yield Expense("NAT gateway", row["NatGatewayId"], "", row["State"], NAT * HOURS, owner(row.get("Tags", ())))


def _endpoint(row: Row, _: Prices) -> Iterable[Expense]:
    if row.get("VpcEndpointType", "Gateway") != "Gateway" and row["State"].lower() in ("pending", "available"):
        zones = max(1, len(row.get("SubnetIds", ())))
        state = f"{row['ServiceName'].rpartition('.')[2]}, zones: {zones}"
        yield Expense("endpoint", row["VpcEndpointId"], "", state, ENDPOINT * zones * HOURS, owner(row.get("Tags", ())))


def _vpn(row: Row, _: Prices) -> Iterable[Expense]:
    if row["State"] in ("pending", "available"):
        yield Expense("VPN", row["VpnConnectionId"], "", row["State"], VPN * HOURS, owner(row.get("Tags", ())))


def _attachment(row: Row, _: Prices) -> Iterable[Expense]:
    if row["State"] in ("pending", "available"):
        yield Expense("transit gateway attachment", row["TransitGatewayAttachmentId"], "", row["State"], ATTACHMENT * HOURS)


def _host(row: Row, _: Prices) -> Iterable[Expense]:
    if not row["State"].startswith("released"):
        yield Expense("dedicated host", row["HostId"], "", row["State"], None)


def _reservation(row: Row, prices: Prices) -> Iterable[Expense]:
    """Paid whether machines run in it or not; those that do are not paid again, so it may be counted twice here."""
    if row["State"] in ("pending", "active"):
        count, type = row["TotalInstanceCount"], row["InstanceType"]
        month = _times(prices.table.on_demand(type), count * HOURS)
        yield Expense("capacity reservation", row["CapacityReservationId"], "", f"{count} × {type}", month)


# --- other services -------------------------------------------------------------------------------------------------------------------


def _balancer(row: Row, _: Prices) -> Iterable[Expense]:
    hour = BALANCERS.get(row["Type"])
    yield Expense("load balancer", row["LoadBalancerName"], "", row["Type"], _times(hour, HOURS))


def _classic(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("load balancer", row["LoadBalancerName"], "", "classic", BALANCERS["classic"] * HOURS)


def _database(row: Row, _: Prices) -> Iterable[Expense]:
    state = f"{row['DBInstanceStatus']}, {row['DBInstanceClass']}"  # a stopped one costs its disk, and starts by itself after a week
    yield Expense("database", row["DBInstanceIdentifier"], "", state, None)


def _kept(row: Row, _: Prices) -> Iterable[Expense]:
    """The automatic backups that a database of this size has free are not told apart."""
    yield Expense("database snapshot", row["DBSnapshotIdentifier"], "", f"{row['AllocatedStorage']} GB", BACKUP * row["AllocatedStorage"])


def _cache(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("cache", row["CacheClusterId"], "", f"{row.get('NumCacheNodes', 1)} × {row['CacheNodeType']}", None)


def _warehouse(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("Redshift cluster", row["ClusterIdentifier"], "", f"{row.get('NumberOfNodes', 1)} × {row['NodeType']}", None)


def _kubernetes(row: Any, _: Prices) -> Iterable[Expense]:
    yield Expense("EKS cluster", str(row), "", "its control plane", CLUSTER * HOURS)


def _notebook(row: Row, _: Prices) -> Iterable[Expense]:
    state = f"{row['NotebookInstanceStatus']}, {row['InstanceType']}"
    yield Expense("SageMaker notebook", row["NotebookInstanceName"], "", state, None)


def _files(row: Row, _: Prices) -> Iterable[Expense]:
    size = row["SizeInBytes"]["Value"] / GIB
    yield Expense("file system", row["FileSystemId"], "", f"{size:.1f} GB", FILES * size)


def _bucket(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("bucket", row["Name"], "", "$0.023 a GB", None, named(row["Name"]))


def _logs(row: Row, _: Prices) -> Iterable[Expense]:
    size = row.get("storedBytes", 0) / GIB
    yield Expense("log group", row["logGroupName"], "", f"{size:.1f} GB", LOGS * size)


def _secret(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("secret", row["Name"], "", "", SECRET, owner(row.get("Tags", ())))


def _zone(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("hosted zone", row["Name"], "", "", ZONE)


def _alarm(row: Row, _: Prices) -> Iterable[Expense]:
    yield Expense("alarm", row["AlarmName"], "", "ten are free", ALARM, named(row["AlarmName"]))


MARKER, BY_MARKER = ("Marker", "NextMarker"), ("Marker", "Marker")
PAGE = {"MaxResults": 1000}

SOURCES = (
    Source("ec2", "describe_instances", "Reservations", _instances, PAGE),
    Source("ec2", "describe_volumes", "Volumes", _volume, {"MaxResults": 500}),
    Source("ec2", "describe_snapshots", "Snapshots", _snapshot, {**PAGE, "OwnerIds": ["self"]}),
    Source("ec2", "describe_addresses", "Addresses", _address, token=None),
    Source("ec2", "describe_nat_gateways", "NatGateways", _nat, PAGE),
    Source("ec2", "describe_vpc_endpoints", "VpcEndpoints", _endpoint, PAGE),
    Source("ec2", "describe_vpn_connections", "VpnConnections", _vpn, token=None),
    Source("ec2", "describe_transit_gateway_attachments", "TransitGatewayAttachments", _attachment, PAGE),
    Source("ec2", "describe_hosts", "Hosts", _host, {"MaxResults": 500}),
    Source("ec2", "describe_capacity_reservations", "CapacityReservations", _reservation, PAGE),
    Source("elbv2", "describe_load_balancers", "LoadBalancers", _balancer, token=MARKER),
    Source("elb", "describe_load_balancers", "LoadBalancerDescriptions", _classic, token=MARKER),
    Source("rds", "describe_db_instances", "DBInstances", _database, token=BY_MARKER),
    Source("rds", "describe_db_snapshots", "DBSnapshots", _kept, {"SnapshotType": "manual"}, token=BY_MARKER),
    Source("elasticache", "describe_cache_clusters", "CacheClusters", _cache, token=BY_MARKER),
    Source("redshift", "describe_clusters", "Clusters", _warehouse, token=BY_MARKER),
    Source("eks", "list_clusters", "clusters", _kubernetes, token=("nextToken", "nextToken")),
    Source("sagemaker", "list_notebook_instances", "NotebookInstances", _notebook),
    Source("efs", "describe_file_systems", "FileSystems", _files, token=MARKER),
    Source("logs", "describe_log_groups", "logGroups", _logs, token=("nextToken", "nextToken")),
    Source("secretsmanager", "list_secrets", "SecretList", _secret),
    Source("cloudwatch", "describe_alarms", "MetricAlarms", _alarm),
    Source("s3", "list_buckets", "Buckets", _bucket, token=("ContinuationToken", "ContinuationToken"), home=True),
    Source("route53", "list_hosted_zones", "HostedZones", _zone, token=MARKER, home=True),
)
"""Every listing that is asked. Whatever costs by being there and is in none of them is not in the checklist."""
