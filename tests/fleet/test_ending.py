"""A teardown ends what each launch call leaves, whatever else is in the account. The oracle is the cloud's own inventory."""

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from fake_aws import FakeAws, refusal

from fleetctl import StillBilling, shapes, teardown_all
from fleetctl.cloud import ec2
from fleetctl.ending import teardown as ending
from fleetctl.errors import AwsError, Denied, Network

IMAGE = "ami-0123456789abcdef0"
SHAPES = {
    "spot": {"LaunchSpecification": {"ImageId": IMAGE, "InstanceType": "t3.micro"}},
    "run": {"ImageId": IMAGE, "InstanceType": "t3.micro", "InstanceMarketOptions": {"MarketType": "spot"}},
    "fleet": {"LaunchTemplateData": {"ImageId": IMAGE}, "LaunchTemplateConfigs": [{"Overrides": [{"InstanceType": "t3.micro"}]}]},
}
KEPT = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": True}},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def finished(request, session, n=1):
    """A launch's calls, and its id."""
    launch, tomorrow = str(uuid4()), datetime.now(UTC) + timedelta(days=1)
    tags = {ec2.SESSION_TAG: session.id, ec2.LAUNCH_TAG: launch}
    return launch, shapes.calls(shapes.finish(request, n=n, token=launch, valid_until=tomorrow, tags=tags))


def launch(session, request, n=1):
    """Launch without anybody who waits for it, as if its process had died at once. Returns the last answer."""

    async def make():
        launch, calls = finished(request, session, n)
        for call in calls:
            answer = await session.call("ec2", call.method, launch=launch, **call.parameters)
        return answer

    return session.submit(make(), "launch").result(30)


def down(session):
    return teardown_all(session=session).result(60)


def still(session):
    with pytest.raises(StillBilling) as caught:
        down(session)
    return caught.value.receipt


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ec2, "PAUSES", (0.001,) * 5)


@pytest.fixture
def local_shapes(session):
    """The requests on the local cloud."""
    image, subnet = session.profile.image, next(iter(session.profile.subnets.values()))
    return {name: shapes.apply(request, image=image, subnet=subnet) for name, request in SHAPES.items()}


# --- each launch call ---------------------------------------------------------------------------------------------------------------


@each_shape
def test_a_hundred_machines_are_ended_and_proved_in_six_calls(fake_session, shape):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch(session, SHAPES[shape], 100)
    before = cloud.ec2_calls()
    tags = cloud.count("describe_tags")
    receipt = down(session)
    calls = cloud.ec2_calls() - before
    assert receipt.remaining == ()
    assert sum(line.thing == "instance" for line in receipt.found) == 100
    assert cloud.left() == set()
    assert sum(calls.values()) + cloud.count("describe_tags") * ("describe_tags" not in calls) - tags <= 6, calls
    assert down(session).found == ()


@pytest.mark.cloud
@each_shape
def test_on_the_local_cloud_machines_of_each_call_are_gone_after_six_calls(session, cloud, oracle, local_shapes, shape):
    launch(session, local_shapes[shape], 3)
    before = sum(oracle.ec2_calls().values())
    receipt = down(session)
    after = cloud.inventory()
    kinds = ("instances", "fleets", "launch_templates", "volumes")
    assert [one for kind in kinds for one in after[kind] if one["tags"].get(ec2.SESSION_TAG) == session.id] == []
    mine = [one for one in after["spot_requests"] if one["tags"].get(ec2.SESSION_TAG) == session.id]
    assert {one["state"] for one in mine} <= {"cancelled", "closed"}
    assert len(mine) == 3
    assert sum(line.thing == "instance" for line in receipt.found) == 3
    assert sum(oracle.ec2_calls().values()) - before <= 6, oracle.ec2_calls()


@each_shape
def test_machines_of_a_call_that_was_never_answered_are_found_by_their_tag(fake_session, impatient, shape):
    cloud = FakeAws()
    session = fake_session(cloud)

    async def lost(service, operation, parameters):
        if operation in ("request_spot_instances", "run_instances", "create_fleet"):
            raise refusal(Network, service, operation, "ReadTimeoutError")

    cloud.after = lost
    with pytest.raises(Network):
        launch(session, SHAPES[shape], 3)
    assert len(cloud.instances) >= (0 if shape == "spot" else 3)
    receipt = down(session)
    assert sum(line.thing == "instance" for line in receipt.found) == len(cloud.instances)
    assert cloud.left() == set()
    assert receipt.remaining == ()


@pytest.mark.parametrize("shape", ["run", "fleet"])
def test_where_fewer_machines_are_visible_than_were_asked_for_the_receipt_says_so_until_time_has_told(fake_session, shape, monkeypatch):
    cloud = FakeAws()
    cloud.grant = lambda kind, zone, wanted, least, spot: (2, "InsufficientInstanceCapacity")
    session = fake_session(cloud)

    async def lost(service, operation, parameters):
        if operation in ("run_instances", "create_fleet"):
            raise refusal(Network, service, operation, "ReadTimeoutError")

    cloud.after = lost
    with pytest.raises(Network):
        launch(session, SHAPES[shape], 3)
    [line] = still(session).remaining
    assert (line.thing, line.proof) == ("launch call", "2 of 3 visible")
    assert cloud.left() == set()
    monkeypatch.setattr(ending, "VISIBLE_SECONDS", 0.0)
    assert down(session).remaining == ()
    assert down(session).found == ()


@pytest.mark.parametrize("kind", [AwsError, Denied])
def test_machines_of_a_fleet_that_cannot_be_deleted_are_terminated_all_the_same(fake_session, kind):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch(session, SHAPES["fleet"], 3)

    async def refuse(service, operation, parameters):
        if operation == "delete_fleets":
            raise refusal(kind, service, operation, "Refused")

    cloud.before = refuse
    [line] = still(session).remaining
    assert (line.thing, line.done, line.proof) == ("fleet", "not deleted", "Refused")
    assert cloud.alive() == set()


def test_a_fleet_that_somebody_else_has_deleted_is_gone(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    fleet = launch(session, SHAPES["fleet"], 3)["FleetId"]
    session.submit(session.aws.call("ec2", "delete_fleets", FleetIds=[fleet], TerminateInstances=True), "deletion").result(10)
    assert {line.id: line.proof for line in down(session).found}[fleet] == "deleted"
    assert cloud.left() == set()


# --- what machines leave --------------------------------------------------------------------------------------------------------------


@each_shape
def test_volumes_that_outlive_their_machines_are_deleted_and_foreign_ones_are_not(fake_session, shape):
    cloud = FakeAws()
    session, stranger = fake_session(cloud), fake_session(cloud)
    place = {"spot": "LaunchSpecification", "fleet": "LaunchTemplateData"}.get(shape)
    request = {**SHAPES[shape], **({place: {**SHAPES[shape][place], "BlockDeviceMappings": KEPT}} if place
                                   else {"BlockDeviceMappings": KEPT})}  # fmt: skip
    launch(stranger, SHAPES["run"])
    cloud.volumes["vol-foreign"] = {"VolumeId": "vol-foreign", "instance": None, "goes": False}
    foreign = cloud.left()
    launch(session, request, 2)
    receipt = down(session)
    assert [line.done for line in receipt.found if line.thing == "volume"] == ["deleted"] * 2
    assert cloud.left() == foreign


@pytest.mark.cloud
@each_shape
def test_on_the_local_cloud_volumes_are_not_left_behind(session, cloud, local_shapes, shape):
    api = session.boto3().client("ec2")
    foreign = api.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    before = {one["id"] for one in cloud.inventory()["volumes"]}
    request = local_shapes[shape]
    place = {"spot": "LaunchSpecification", "fleet": "LaunchTemplateData"}.get(shape)
    request = {**request, place: {**request[place], "BlockDeviceMappings": KEPT}} if place else {**request, "BlockDeviceMappings": KEPT}
    launch(session, request, 2)
    receipt = down(session)
    assert receipt.remaining == ()
    assert {one["id"] for one in cloud.inventory()["volumes"]} == before
    assert foreign in before
    api.delete_volume(VolumeId=foreign)


def test_a_volume_of_ours_that_a_foreign_machine_holds_is_named_and_left(fake_session):
    cloud = FakeAws()
    session, stranger = fake_session(cloud), fake_session(cloud)
    launch(session, {**SHAPES["run"], "BlockDeviceMappings": KEPT})
    other = launch(stranger, SHAPES["run"])["Instances"][0]["InstanceId"]
    volume = next(key for key, one in cloud.volumes.items() if not one["goes"])
    end_instance = cloud._end_instance

    def taken(key, why):
        end_instance(key, why)
        cloud.volumes[volume]["instance"] = other

    cloud._end_instance = taken
    [line] = still(session).remaining
    assert (line.id, line.proof) == (volume, f"in use by {other}")
    assert "detach" in line.todo
    assert volume in cloud.volumes


def test_a_bucket_goes_with_what_is_in_it_and_a_named_one_keeps_what_is_not_ours(fake_session):
    cloud = FakeAws()
    cloud.buckets["users"] = {"their/object": b""}
    session = fake_session(cloud)

    async def make():
        await session.call("s3", "create_bucket", Bucket="fleetctl-ours")
        for number in range(3):
            await session.call("s3", "put_object", Bucket="fleetctl-ours", Key=f"{number}", Body=b"x")
        await session.call("s3", "put_object", Bucket="users", Key="their/object of ours", Body=b"x")

    session.submit(make(), "objects").result(10)
    receipt = down(session)
    assert [(line.thing, line.id) for line in receipt.found] == [("bucket", "fleetctl-ours"), ("object", "users/their/object of ours")]
    assert cloud.buckets == {"users": {"their/object": b""}}
    assert down(session).found == ()


@pytest.mark.cloud
def test_on_the_local_cloud_buckets_addresses_and_nat_gateways_of_ours_go_and_others_stay(session, cloud, local_shapes):
    api = session.boto3().client("ec2")
    mine, theirs = ({"ResourceType": "elastic-ip", "Tags": [{"Key": ec2.SESSION_TAG, "Value": who}]} for who in (session.id, "another"))
    ours = api.allocate_address(Domain="vpc", TagSpecifications=[mine])["AllocationId"]
    foreign = api.allocate_address(Domain="vpc", TagSpecifications=[theirs])["AllocationId"]
    subnet = next(iter(session.profile.subnets.values()))
    nat = api.create_nat_gateway(SubnetId=subnet, AllocationId=foreign, TagSpecifications=[
        {"ResourceType": "natgateway", "Tags": [{"Key": ec2.SESSION_TAG, "Value": session.id}]}])["NatGateway"]["NatGatewayId"]
    launch(session, local_shapes["run"])
    session.submit(session.bucket(), "bucket").result(20)
    receipt = down(session)
    assert {line.id for line in receipt.found} >= {ours, nat}
    inventory = cloud.inventory()
    assert [one["id"] for one in inventory["addresses"]] == [foreign]
    assert {one["State"] for one in api.describe_nat_gateways(NatGatewayIds=[nat])["NatGateways"]} == {"deleted"}
    assert [one for one in inventory["buckets"] if session.id in one["name"]] == []
    api.release_address(AllocationId=foreign)


def test_a_protected_machine_says_what_ends_it(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch(session, SHAPES["run"], 3)
    cloud.protected.add(instance := sorted(cloud.instances)[1])
    [line] = still(session).remaining
    assert (line.id, line.proof) == (instance, "OperationNotPermitted")
    assert f"--instance-id {instance} --no-disable-api-termination" in line.todo
    assert cloud.alive() == {instance}


# --- later ------------------------------------------------------------------------------------------------------------------------------


@each_shape
def test_what_aws_has_forgotten_days_later_is_over_and_what_it_shows_is_not(fake_session, shape, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch(session, SHAPES[shape], 2)
    for table in (cloud.instances, cloud.requests, cloud.volumes, cloud.fleets):
        table.clear()
    monkeypatch.setattr(ending, "PROOF_SECONDS", 0.0)
    monkeypatch.setattr(ending, "VISIBLE_SECONDS", 0.0)
    assert still(session).remaining, "an hour ago it may have been there"
    later = time.time() + ending.FORGOTTEN_SECONDS + 60
    monkeypatch.setattr(ending.time, "time", lambda: later)
    assert down(session).remaining == ()


def test_an_instance_whose_request_is_forgotten_and_untagged_is_found_by_it_and_ended(fake_session, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    [key] = [one["SpotInstanceRequestId"] for one in launch(session, SHAPES["spot"])["SpotInstanceRequests"]]
    while not cloud.instances:
        time.sleep(0.01)
    del cloud.requests[key]
    later = time.time() + ending.FORGOTTEN_SECONDS + 60
    monkeypatch.setattr(ending.time, "time", lambda: later)
    receipt = down(session)
    assert [line.thing for line in receipt.found] == ["spot request", "instance"]
    assert cloud.alive() == set()
