"""What no ledger knows is found by its tags, taken in, ended; what is past its end is reaped. The oracle is the cloud's inventory."""

import asyncio

import pytest
from test_ending import launch

from fleetctl import bring_up_one_spot, ec2, recovery, shapes
from fleetctl.ledger import sessions

pytestmark = pytest.mark.cloud
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
    unasked = fleetctl("adopt", "--cloud", "local")
    assert "nobody is there to answer" in unasked.stdout
    assert lost not in [one.id for one in sessions(home / "ledgers")]
    assert fleetctl("adopt", "--cloud", "local", "--yes").returncode == 0
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


def test_all_regions_are_looked_at_when_asked_for(lost, cloud, home):
    profile = recovery.cloud("local", home)
    assert {one.region for one in recovery.look(profile, all_regions=True) if one.session == lost} == {"us-east-1"}
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
