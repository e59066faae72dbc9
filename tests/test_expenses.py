"""What costs money by being there: the table of listings against botocore's models, and what is made of their rows."""

import botocore.session
import pytest
from botocore.validate import ParamValidator

from fleetctl.money.prices import Tariff
from fleetctl.oversight.expenses import HOURS, SOURCES, Expense, Prices, assembled, monthly

OURS = [{"Key": "fleetctl:session", "Value": "0123456789ab"}]
PRICES = Prices(Tariff({("m5.large", "us-east-1a"): ((0.0, 0.05), (100.0, 0.04))}))
SEEN = {(one.service, one.operation): one for one in SOURCES}


@pytest.fixture(scope="module")
def session():
    return botocore.session.Session()


def read(service, operation, *rows):
    return [one for row in rows for one in SEEN[service, operation].read(row, PRICES)]


@pytest.mark.parametrize("source", SOURCES, ids=repr)
def test_each_listing_is_a_call_that_takes_what_it_is_given_and_answers_with_these_rows(session, source):
    model = session.get_service_model(source.service)
    named = {botocore.xform_name(one): one for one in model.operation_names}
    operation = model.operation_model(named[source.operation])
    assert not ParamValidator().validate(dict(source.given), operation.input_shape).has_errors()
    assert operation.output_shape.members[source.rows].type_name == "list"
    if source.token is None:
        assert not {"NextToken", "NextMarker"} & operation.output_shape.members.keys()
    else:
        asked, told = source.token
        assert operation.input_shape.members[asked].type_name == operation.output_shape.members[told].type_name == "string"


def test_a_running_machine_costs_its_market_s_price_and_its_address():
    spot = {"InstanceId": "i-1", "InstanceType": "m5.large", "State": {"Name": "running"}, "InstanceLifecycle": "spot",
            "Placement": {"AvailabilityZone": "us-east-1a"}, "PublicIpAddress": "203.0.113.7", "Tags": OURS}  # fmt: skip
    demand = {"InstanceId": "i-2", "InstanceType": "m5.large", "State": {"Name": "running"}}
    assert read("ec2", "describe_instances", {"Instances": [spot, demand]}) == [
        Expense("instance", "i-1", "", "running, m5.large spot", pytest.approx(0.04 * HOURS), "session 0123456789ab"),
        Expense("public address", "203.0.113.7", "", "of i-1", pytest.approx(3.65), "session 0123456789ab"),
        Expense("instance", "i-2", "", "running, m5.large", pytest.approx(0.096 * HOURS)),
    ]


def test_a_stopped_machine_costs_nothing_an_ended_one_is_not_there_and_an_unknown_price_is_not_guessed():
    machines = (("i-1", "m5.large", "stopped"), ("i-2", "m5.large", "terminated"), ("i-3", "x9.large", "running"))
    rows = [{"InstanceId": id, "InstanceType": type, "State": {"Name": state}} for id, type, state in machines]
    assert [(one.id, one.month) for one in read("ec2", "describe_instances", {"Instances": rows})] == [("i-1", 0.0), ("i-3", None)]


@pytest.mark.parametrize(
    ("call", "row", "kind", "month"),
    [
        (("ec2", "describe_volumes"), {"VolumeId": "v", "State": "available", "Size": 72, "VolumeType": "gp3"}, "volume", 0.08 * 73),
        (("ec2", "describe_snapshots"), {"SnapshotId": "s", "VolumeSize": 100}, "snapshot", 5.0),
        (("ec2", "describe_addresses"), {"AllocationId": "a", "PublicIp": "203.0.113.7"}, "address", 3.65),
        (("ec2", "describe_nat_gateways"), {"NatGatewayId": "n", "State": "available"}, "NAT gateway", 32.85),
        (
            ("ec2", "describe_vpc_endpoints"),
            {"VpcEndpointId": "e", "VpcEndpointType": "Interface", "State": "available", "ServiceName": "a.b.sns", "SubnetIds": ["1", "2"]},
            "endpoint",
            14.6,
        ),
        (("ec2", "describe_vpn_connections"), {"VpnConnectionId": "v", "State": "available"}, "VPN", 36.5),
        (("ec2", "describe_capacity_reservations"),
         {"CapacityReservationId": "c", "State": "active", "TotalInstanceCount": 2, "InstanceType": "m5.large"},
         "capacity reservation", 140.16),
        (("elbv2", "describe_load_balancers"), {"LoadBalancerName": "l", "Type": "application"}, "load balancer", 16.425),
        (("rds", "describe_db_instances"), {"DBInstanceIdentifier": "d", "DBInstanceStatus": "stopped", "DBInstanceClass": "db.t3.micro"},
         "database", None),
        (("eks", "list_clusters"), "theirs", "EKS cluster", 73.0),
        (("efs", "describe_file_systems"), {"FileSystemId": "f", "SizeInBytes": {"Value": 10 * 2**30}}, "file system", 3.0),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_a_thing_costs_a_month_is_told_by_its_row(call, row, kind, month):
    (one,) = read(*call, row)
    assert (one.kind, one.owner) == (kind, "")
    assert one.month == (None if month is None else pytest.approx(month))


@pytest.mark.parametrize(
    ("call", "row"),
    [
        (("ec2", "describe_nat_gateways"), {"NatGatewayId": "n", "State": "deleted"}),
        (("ec2", "describe_vpc_endpoints"), {"VpcEndpointId": "e", "VpcEndpointType": "Gateway", "State": "available", "ServiceName": "x"}),
        (("ec2", "describe_vpc_endpoints"), {"VpcEndpointId": "e", "VpcEndpointType": "Interface", "State": "deleted", "ServiceName": "x"}),
        (("ec2", "describe_hosts"), {"HostId": "h", "State": "released"}),
        (("ec2", "describe_capacity_reservations"), {"CapacityReservationId": "c", "State": "cancelled"}),
    ],
)
def test_what_has_ended_or_is_free_is_not_in_the_list(call, row):
    assert read(*call, row) == []


def test_an_elastic_address_is_paid_once_and_the_dearest_is_first():
    listed = assembled([
        Expense("public address", "203.0.113.7", "r", "of i-1", 3.65), Expense("address", "eipalloc-1", "r", "203.0.113.7", 3.65),
        Expense("NAT gateway", "nat-1", "r", "available", 32.85), Expense("bucket", "b", "", "", None),
    ])  # fmt: skip
    assert [one.id for one in listed] == ["nat-1", "eipalloc-1", "b"]
    assert monthly(listed) == (pytest.approx(36.5), 1)
