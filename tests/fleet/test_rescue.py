"""What no ledger knows is found by its tags, taken in, ended; what is past its end is reaped. The oracle is the cloud's inventory."""

import asyncio

import pytest
from test_ending import launch

from fleetctl import attach, bring_up_one_spot, shapes, teardown_all
from fleetctl.cloud import ec2
from fleetctl.ledger import sessions
from fleetctl.oversight import abandoned, recovery

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]  # several commands each, each a process
RUN = {"InstanceMarketOptions": {"MarketType": "spot"}, "InstanceType": "t3.micro"}


@pytest.fixture
def run(session):
    """A request for RunInstances on the local cloud, whose machine leaves a volume behind."""
    kept = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}]
    subnet = next(iter(session.profile.subnets.values()))
    return {**shapes.apply(RUN, image=session.profile.image, subnet=subnet), "BlockDeviceMappings": kept}


@pytest.fixture
def lost(connect, run, home):
    """A session with everything that one can have, whose ledger is lost: as if it had been another computer's."""
    session = connect()
    session.submit(session.channel(), "channel").result(60)
    session.submit(session.secret_parameter(), "parameter").result(60)
    session.submit(session.bucket(), "bucket").result(60)
    launch(session, run, 2)
    session.submit(session.call("ec2", "create_launch_template", LaunchTemplateName=f"fleetctl-{session.id}", LaunchTemplateData={
        "InstanceType": "t3.micro"}, TagSpecifications=[{"ResourceType": "launch-template", "Tags": [
            {"Key": ec2.SESSION_TAG, "Value": session.id}]}]), "template").result(60)
    session.leave()
    for path in (home / "ledgers").glob(f"{session.id}.*"):
        path.unlink()
    return session.id


def remains(cloud, session):
    """What the cloud still has of a session, told by tags and names."""
    inventory = cloud.inventory()
    tagged = [one["id"] for kind in ("instances", "volumes", "launch_templates", "fleets") for one in inventory[kind]
              if one["tags"].get(ec2.SESSION_TAG) == session]
    named = [str(one) for kind in ("topics", "queues", "subscriptions", "parameters", "buckets") for one in inventory[kind]
             if session in str(one)]
    return [*tagged, *named]


def test_orphans_are_listed_by_what_they_are_taken_in_and_ended_and_the_living_are_no_orphans(lost, session, run, cloud, fleetctl, home):
    launch(session, run)
    mine = remains(cloud, session.id)
    found = recovery.orphaned(home, recovery.look(recovery.cloud("local", home)))
    assert {one.session for one in found} == {lost}
    assert {one.kind for one in found} == {"instance", "spot request", "volume", "launch template", "topic", "subscription", "queue",
                                           "parameter", "bucket"}
    listed = fleetctl("orphans", "--cloud", "local")
    assert listed.returncode == 1
    assert lost in listed.stdout
    assert "2 × instance" in listed.stdout
    assert session.id not in listed.stdout
    unasked = fleetctl("adopt", lost, "--cloud", "local")
    assert "nobody is there to answer" in unasked.stdout
    assert lost not in [one.id for one in sessions(home / "ledgers")]
    assert fleetctl("adopt", lost, "--cloud", "local", "--yes").returncode == 0
    assert fleetctl("orphans", "--cloud", "local").stdout.strip() == "there are no orphans"
    kept = fleetctl("recover", lost)
    assert (kept.returncode, remains(cloud, lost) != []) == (1, True)
    ended = fleetctl("recover", lost, "--end")
    assert ended.returncode == 0, ended
    assert "all seen gone" in ended.stdout
    assert remains(cloud, lost) == []
    assert remains(cloud, session.id) == mine


def test_what_is_past_its_end_is_reaped_and_nothing_else(lost, session, request_, cloud, fleetctl, home):
    living = bring_up_one_spot(request_, "sleep 1000", session=session).result(60)
    api = session.boto3().client("ec2")
    mine = [one["id"] for one in cloud.inventory()["instances"] if one["tags"].get(ec2.SESSION_TAG) == lost]
    nothing = fleetctl("reap", "--cloud", "local")
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "nothing has outlived its end")
    api.create_tags(Resources=mine, Tags=[{"Key": ec2.EXPIRES_TAG, "Value": "2020-01-01T00:00:00Z"}])
    tried = fleetctl("reap", "--cloud", "local", "--dry-run")
    assert tried.returncode == 1
    assert lost in tried.stdout
    assert {*mine} <= {*remains(cloud, lost)}
    reaped = fleetctl("reap", "--cloud", "local")
    assert reaped.returncode == 0, reaped
    assert remains(cloud, lost) == []
    assert living.instance_id in {one["id"] for one in cloud.inventory()["instances"]}


@pytest.fixture
def neighbours(session, run):
    """What others have in the account, machines that run among it; returns what tells how it is, and ends it at last."""
    api, told = session.boto3(), [{"Key": ec2.SESSION_TAG, "Value": "5eaf00d5eaf0"}]
    ours, stranger = api.client("ec2"), [{"ResourceType": kind, "Tags": told} for kind in ("instance", "volume")]
    machines = [one["InstanceId"] for tags in ([], stranger) for one in ours.run_instances(
        **{**run, "BlockDeviceMappings": []}, MinCount=1, MaxCount=1, TagSpecifications=tags)["Instances"]]
    volumes = [ours.create_volume(AvailabilityZone="us-east-1a", Size=1, TagSpecifications=tags)["VolumeId"] for tags in ([], stranger[1:])]
    address = ours.allocate_address(Domain="vpc")["AllocationId"]
    topic = api.client("sns").create_topic(Name="fleetctl-alarms")["TopicArn"]
    queue = api.client("sqs").create_queue(QueueName="fleetctl-jobs")["QueueUrl"]
    api.client("s3").create_bucket(Bucket="fleetctl-of-somebody")
    api.client("s3").put_object(Bucket="fleetctl-of-somebody", Key="data", Body=b"theirs")

    def look():
        rows = [one for many in ours.describe_instances(InstanceIds=machines)["Reservations"] for one in many["Instances"]]
        there = ours.describe_volumes(VolumeIds=volumes)["Volumes"]
        ours.describe_addresses(AllocationIds=[address])
        api.client("sns").get_topic_attributes(TopicArn=topic)
        api.client("sqs").get_queue_attributes(QueueUrl=queue)
        data = api.client("s3").get_object(Bucket="fleetctl-of-somebody", Key="data")["Body"].read()
        return {one["State"]["Name"] for one in rows}, {one["State"] for one in there}, data

    yield look
    ours.terminate_instances(InstanceIds=machines)
    for volume in volumes:
        ours.delete_volume(VolumeId=volume)
    ours.release_address(AllocationId=address)
    api.client("sns").delete_topic(TopicArn=topic)
    api.client("sqs").delete_queue(QueueUrl=queue)
    api.client("s3").delete_object(Bucket="fleetctl-of-somebody", Key="data")
    api.client("s3").delete_bucket(Bucket="fleetctl-of-somebody")


ENDS = {"down and reap": [[("down",)], [("reap", "--cloud", "local")]],
        "recover and adopt": [[("recover", "--end")], [("adopt", "SESSION", "--cloud", "local", "--yes"), ("recover", "--end")]]}


@pytest.mark.parametrize("ends", ENDS)
def test_whatever_ends_things_leaves_those_of_others_alone(ends, connect, run, cloud, fleetctl, home, neighbours, wait_for):
    wait_for(lambda: neighbours()[0] == {"running"})
    before = neighbours()
    for commands in ENDS[ends]:
        mine = connect()
        launch(mine, run, 1)
        mine.leave()
        if commands[0][0] in ("adopt", "reap"):
            (home / "ledgers" / f"{mine.id}.sqlite").unlink()
        if commands[0][0] == "reap":
            bearing = [one["id"] for one in cloud.inventory()["instances"] if one["tags"].get(ec2.SESSION_TAG) == mine.id]
            tags = [{"Key": ec2.EXPIRES_TAG, "Value": "2020-01-01T00:00:00Z"}]
            mine.boto3().client("ec2").create_tags(Resources=bearing, Tags=tags)
        for words in commands:
            answer = fleetctl(*[mine.id if word == "SESSION" else word for word in words])
            assert answer.returncode == 0, answer
        assert remains(cloud, mine.id) == [], commands
        assert neighbours() == before, commands


def test_all_regions_are_looked_at_when_asked_for(lost, cloud, home):
    profile = recovery.cloud("local", home)
    found = [one for one in recovery.look(profile, all_regions=True) if one.session == lost]
    assert {one.region for one in found} == {"us-east-1"}
    recovery.adopt(home, profile, found)
    assert abandoned.down(home)[0].remaining == ()
    seen = []

    async def call(service, operation, **parameters):
        seen.append(operation)
        return {"Regions": [{"RegionName": "eu-west-1"}, {"RegionName": "us-east-1"}]}

    assert asyncio.run(recovery.regions(call)) == ["eu-west-1", "us-east-1"]
    assert seen == ["describe_regions"]


def test_a_cloud_that_does_not_run_has_no_orphans_and_none_is_started_for_the_question(fleetctl, tmp_path):
    answer = fleetctl("orphans", "--cloud", "local", at=tmp_path)
    assert answer.returncode == 1
    assert "does not run" in answer.stderr
    assert list(tmp_path.iterdir()) == []


BEGIN = """
import time
from fleetctl import bring_up_spots, connect
session = connect("local")
request = {"LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}}
launch = bring_up_spots(request, 2, "sleep 1000", lifetime="fuse")
launch.result(60)
print(launch.uuid, session.id, session.place.whole("fuse"), flush=True)
time.sleep(600)
"""


def test_a_launch_of_a_killed_process_is_gone_on_with_here_and_its_machines_are_reached(start, cloud, home, environment, fleetctl, living):
    del environment["FLEETCTL_SIDECAR"]  # it is beside the process, and leaves what is left to its fuse
    process = start(BEGIN)
    launch, session, fuse_object = process.stdout.readline().split()
    process.kill()
    process.wait()
    mine = {one["id"] for one in cloud.inventory()["instances"] if one["tags"].get(ec2.SESSION_TAG) == session}
    shown = fleetctl("attach", launch[:8])
    assert shown.returncode == 0, shown
    assert all(one in shown.stdout for one in mine)
    assert f"session {session} goes on without a process" in shown.stdout
    resumed = attach(launch, home=home)
    machines = resumed.result(90)
    assert {one.instance_id for one in machines.succeeded} == mine
    assert machines.succeeded[0].forward(22).result(30).path
    assert mine <= living()
    end = resumed.extend(1).result(30)
    bucket, _, key = fuse_object.partition("/")
    api = resumed.session.boto3()
    body = api.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    assert f"{launch} {end.timestamp():.0f}" in body.splitlines(), "where its machines were told to look"
    rows = api.client("ec2").describe_instances(InstanceIds=[*mine])["Reservations"]
    ends = {tag["Value"] for many in rows for one in many["Instances"] for tag in one["Tags"] if tag["Key"] == ec2.EXPIRES_TAG}
    assert ends == {resumed._conductor.order.stamp(end.timestamp())}
    receipt = teardown_all(session=resumed.session).result(60)
    assert mine <= {line.id for line in receipt.found}
    assert receipt.remaining == ()
    assert not mine & living()
    assert remains(cloud, session) == []
    resumed.session.leave()
