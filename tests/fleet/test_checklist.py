"""The shutdown checklist on the local cloud: what is there, whose it is, what may not be looked at, and that only ours is ended by it."""

import json
import subprocess
import sys

import pytest

from fleetctl import bring_up_spots, local, profiles
from fleetctl.cli import checklist
from fleetctl.errors import FleetError
from fleetctl.oversight import inventory, recovery
from fleetctl.session import Session

pytestmark = pytest.mark.cloud


@pytest.fixture
def theirs(home):
    """Things of somebody else's that cost money, made by another client; gone at the end of the test."""
    local = profiles.load("local", home=home)
    session = local.aws().boto3()
    ec2, elb = session.client("ec2"), session.client("elbv2")
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=100, VolumeType="gp3")["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    subnets = [local.subnets["public"], local.subnets["public-b"]]
    balancer = elb.create_load_balancer(Name="theirs", Subnets=subnets)["LoadBalancers"][0]["LoadBalancerArn"]
    yield {"volume": volume, "snapshot": snapshot, "address": address, "load balancer": "theirs"}
    elb.delete_load_balancer(LoadBalancerArn=balancer)
    ec2.release_address(AllocationId=address)
    ec2.delete_snapshot(SnapshotId=snapshot)
    ec2.delete_volume(VolumeId=volume)
    for client in (ec2, elb):
        client.close()


@pytest.fixture
def look(home):
    return lambda **more: inventory.look(profiles.load("local", home=home), **more)


def test_what_costs_is_listed_with_its_price_and_owner_whoever_made_it(session, request_, theirs, look):
    launch = bring_up_spots(request_, 2, "true", session=session)
    machines = launch.result(60)
    found = look()
    there = {one.id: one for one in found.expenses}
    assert {kind: there[id].month for kind, id in theirs.items()} == pytest.approx(
        {"volume": 8.11, "snapshot": 5.0, "address": 3.65, "load balancer": 16.425}, abs=0.01
    )
    assert {there[id].owner for id in theirs.values()} == {""}
    for machine in machines.values():
        shown = there[machine.instance_id]
        assert (shown.kind, shown.owner) == ("instance", f"session {session.id}")
        assert "spot" in shown.state and 0 < shown.month < 100
    assert {one.kind for one in found.of(f"session {session.id}")} >= {"instance", "volume"}


def test_what_may_not_be_looked_at_is_told_with_the_rest(cloud, theirs, look):
    cloud.fault("denied", caller="controller", operation="DescribeVolumes")
    found = look()
    assert ("ec2", "describe_volumes") in found.denied
    assert theirs["address"] in {one.id for one in found.expenses}
    shown = checklist.as_json(found)
    told = {"region": "us-east-1", "service": "ec2", "operation": "describe_volumes", "code": "UnauthorizedOperation"}
    assert told in shown["not looked at"]


def test_only_what_is_ours_is_ended_and_a_living_session_is_left_alone(home, request_, theirs, look, fleetctl):
    one = Session(profiles.load("local", home=home))
    try:
        bring_up_spots(request_, 1, "true", session=one).result(60)
        refused = fleetctl("shutdown-checklist", "--cloud", "local", "--end", theirs["volume"], "--yes")
        assert refused.returncode == 1 and "no session and no set-up" in refused.stderr
        alive = fleetctl("shutdown-checklist", "--cloud", "local", "--end", one.id, "--yes")
        assert alive.returncode == 1 and "is alive" in alive.stderr
        assert look().of(f"session {one.id}")
    finally:
        one.close()


def test_a_session_of_another_computer_is_ended_by_its_name_and_all_else_stays(home, tmp_path, request_, theirs, look, fleetctl):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "local").symlink_to(home / "local")
    one = Session(profiles.load("local", home=elsewhere))
    bring_up_spots(request_, 1, "true", session=one).result(60)
    try:
        ran = fleetctl("shutdown-checklist", "--cloud", "local", "--end", one.id, "--yes", "--json")
        left = json.loads(ran.stdout)
        assert f"session {one.id}" not in {thing["owner"] for thing in left["things"]}
        assert set(theirs.values()) <= {thing["id"] for thing in left["things"]}
        assert "all seen gone" in ran.stderr
    finally:
        one.close()


LACKING = {"describe_capacity_reservations", "describe_cache_clusters", "describe_clusters", "list_clusters", "list_notebook_instances",
           "describe_file_systems", "list_hosted_zones"}  # what the local cloud has not  # fmt: skip


def test_all_regions_are_looked_at_and_of_each_is_told_what_could_not_be(tmp_path, environment):
    """A cloud of its own with two regions: elsewhere tests count on one."""
    import boto3

    cloud = local.up(tmp_path / "local", regions=("us-east-1", "eu-west-1"))
    try:
        made = {}
        for region in ("us-east-1", "eu-west-1"):
            ec2 = boto3.client("ec2", **cloud.in_region(region).client())
            made[region] = ec2.create_volume(AvailabilityZone=f"{region}a", Size=50, VolumeType="gp3")["VolumeId"]
            ec2.close()

        def checklist_of(*options):
            words = [sys.executable, "-m", "fleetctl", "shutdown-checklist", "--cloud", "local", *options]
            there = {**environment, "FLEETCTL_HOME": str(tmp_path), "COLUMNS": "80"}
            return subprocess.run(words, env=there, capture_output=True, text=True, timeout=120).stdout

        found = json.loads(checklist_of("--all-regions", "--json"))
        assert found["regions"] == ["us-east-1", "eu-west-1"]
        assert {thing["region"]: thing["id"] for thing in found["things"] if thing["kind"] == "volume"} == made
        lacking = {region: set() for region in made}
        for one in found["not looked at"]:
            lacking[one["region"]].add((one["operation"], one["code"]))
        assert lacking["us-east-1"] == {(operation, "InvalidAction") for operation in LACKING}
        assert lacking["eu-west-1"] == lacking["us-east-1"] - {("list_hosted_zones", "InvalidAction")}, "what has no region is asked once"
        shown = checklist_of("--all-regions")
        assert "things in us-east-1, eu-west-1: $" in shown and shown.count("NOT LOOKED AT in") == 2
        assert max(map(len, shown.splitlines())) <= 80
        alone = checklist_of()
        assert made["us-east-1"] in alone and made["eu-west-1"] not in alone and "eu-west-1" not in alone
    finally:
        local.down(tmp_path / "local", force=True)


def test_without_credentials_that_is_said_and_no_policy_is_shown(fleetctl, environment, tmp_path):
    for name in [one for one in environment if one.startswith("AWS_")]:
        del environment[name]
    nowhere = {name: str(tmp_path / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HOME", "XDG_CONFIG_HOME")}
    environment.update(nowhere, AWS_REGION="eu-west-1", AWS_EC2_METADATA_DISABLED="true")
    done = fleetctl("shutdown-checklist")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Unable to locate credentials" in done.stderr and "aws configure" in done.stderr


def test_names_of_nobody_end_nothing(look):
    with pytest.raises(FleetError, match="nothing was ended"):
        checklist._owners(look(), ["0123456789ab"])


def test_a_cloud_that_does_not_run_has_nothing(tmp_path):
    with pytest.raises(FleetError, match="does not run"):
        recovery.cloud("local", tmp_path)
