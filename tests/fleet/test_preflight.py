"""A preflight on the local cloud: what it finds there, and that it makes nothing."""

import pytest

from fleetctl import preflight, templates
from fleetctl.errors import NotConnected, RequestInvalid

pytestmark = pytest.mark.cloud

REQUESTS = {
    "RequestSpotInstances": {"LaunchSpecification": {"InstanceType": "t3.micro"}},
    "RunInstances": templates.spot(itype="t3.micro"),
    "CreateFleet": templates.fleet(types=["t3.micro", "t3.small"]),
}


@pytest.mark.parametrize("call", REQUESTS)
def test_nothing_speaks_against_a_good_launch_and_nothing_is_made(session, cloud, oracle, call):
    found = preflight(REQUESTS[call], 5, "sleep 1000", session=session).result(60)
    assert found.ok
    assert {one.verdict.value for one in found.checks if one.name != "permission"} == {"ok"}
    assert found["permission"].verdict.value == ("unknown" if call == "CreateFleet" else "ok")
    assert list(session.ledger.entries()) == []
    assert cloud.inventory()["instances"] == []
    made = session.boto3().client("ec2").describe_tags(Filters=[{"Name": "value", "Values": [session.id]}])
    assert made["Tags"] == []
    assert session.boto3().client("ec2").describe_launch_templates()["LaunchTemplates"] == []


def test_each_trouble_is_found_before_anything_costs(session, cloud):
    ec2 = session.boto3().client("ec2")
    cloud.fault("quota", market="spot", vcpus=4)
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    lonely = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/28")["Subnet"]["SubnetId"]
    try:
        found = preflight(
            templates.spot(), 12, "x" * 10, session=session, itype="t4g.micro", subnet=lonely,
            disk={"VolumeSize": 9, "DeleteOnTermination": False},
        ).result(60)  # fmt: skip
    finally:
        ec2.delete_subnet(SubnetId=lonely)
        ec2.delete_vpc(VpcId=vpc)
    assert {one.name for one in found.failed} == {"image", "quota", "addresses", "reports"}
    assert found["volumes"].verdict.value == "warn"
    assert "4 (L-34B43A08)" in found["quota"].found
    assert "no route out" in found["reports"].found


def test_it_takes_what_the_launch_will_take(session, request_):
    options = {"minutes": 5, "minimum": 2, "hours": 3, "on_interruption": "replace", "ready": "ssh", "env": {"SEED": "1"}}
    assert preflight(request_, 4, "sleep 1000", session=session, itype="t3.small", **options).result(60).ok
    with pytest.raises(RequestInvalid, match="minimum is between 1 and n = 4"):
        preflight(request_, 4, session=session, minimum=5)


def test_what_is_wrong_in_the_request_is_refused_at_the_call(session, request_):
    with pytest.raises(RequestInvalid):
        preflight(request_, 0, session=session)
    with pytest.raises(RequestInvalid, match="itipe"):
        preflight(request_, 1, session=session, itipe="t3.micro")
    with pytest.raises(NotConnected):
        preflight(request_, 1)
