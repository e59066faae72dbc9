"""Spot requests and instances, by boto3 against a daemon whose instances boot."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud


def status(world: Any, id: str) -> tuple[str, str]:
    found = world.requests([id])[0]
    return found["State"], found["Status"]["Code"]


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=rf"\({code}\)")


def test_a_request_is_open_then_active_and_its_instance_boots(world: Any) -> None:
    answer = world.ec2.request_spot_instances(SpotPrice="0.01", LaunchSpecification=world.specification())["SpotInstanceRequests"][0]
    assert (answer["State"], answer["Status"]["Code"]) == ("open", "pending-evaluation")
    id = answer["SpotInstanceRequestId"]
    [made] = world.fulfilled([id])
    assert status(world, id) == ("active", "fulfilled")
    seen = world.in_state(made, "running")
    assert seen["InstanceLifecycle"] == "spot"
    assert seen["SpotInstanceRequestId"] == id
    assert seen["PrivateIpAddress"].startswith("127.")
    assert "PublicIpAddress" not in seen
    assert seen["IamInstanceProfile"]["Arn"].endswith(world.cloud.instance_profile)
    assert [group["GroupId"] for group in seen["SecurityGroups"]] == [world.cloud.groups["default"]]
    assert world.cloud.inventory()["processes"][made] > 0
    world.ec2.terminate_instances(InstanceIds=[made])
    world.in_state(made, "terminated")
    assert status(world, id) == ("closed", "instance-terminated-by-user")


def test_a_public_interface_gets_a_public_address_equal_to_the_private_one(world: Any) -> None:
    spec = world.specification()
    spec["NetworkInterfaces"][0].update(SubnetId=world.cloud.subnets["public"], AssociatePublicIpAddress=True)
    [made] = world.fulfilled(world.request_spot(spec=spec))
    seen = world.instance(made)
    assert seen["PublicIpAddress"] == seen["PrivateIpAddress"]
    world.ec2.terminate_instances(InstanceIds=[made])


def test_a_terminated_instance_stays_visible_without_interfaces_and_its_volume_is_gone(world: Any) -> None:
    [made] = world.fulfilled(world.request_spot())
    [disk] = world.instance(made)["BlockDeviceMappings"]
    assert disk["DeviceName"] == "/dev/xvda"
    world.ec2.terminate_instances(InstanceIds=[made])
    ended = world.in_state(made, "terminated")
    assert ended["NetworkInterfaces"] == []
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert disk["Ebs"]["VolumeId"] not in [volume["id"] for volume in world.cloud.inventory()["volumes"]]


def test_the_same_client_token_makes_the_same_requests(world: Any) -> None:
    token = uuid.uuid4().hex
    first = world.request_spot(2, ClientToken=token)
    assert world.request_spot(2, ClientToken=token) == first
    with refused("IdempotentParameterMismatch"):
        world.request_spot(3, ClientToken=token)
    world.ec2.terminate_instances(InstanceIds=world.fulfilled(first))


def test_a_low_price_keeps_the_request_open_until_it_is_cancelled(world: Any) -> None:
    [id] = world.request_spot(SpotPrice="0.0001")
    world.until(lambda: status(world, id) == ("open", "price-too-low"))
    answer = world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[id])["CancelledSpotInstanceRequests"]
    assert answer == [{"SpotInstanceRequestId": id, "State": "cancelled"}]
    assert status(world, id) == ("cancelled", "canceled-before-fulfillment")


def test_a_cancelled_request_leaves_its_instance_and_says_so(world: Any) -> None:
    ids = world.request_spot()
    [made] = world.fulfilled(ids)
    world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    assert status(world, ids[0]) == ("cancelled", "request-canceled-and-instance-running")
    world.in_state(made, "running")
    world.ec2.terminate_instances(InstanceIds=[made])
    assert status(world, ids[0]) == ("cancelled", "instance-terminated-by-user")


def test_a_request_expires_at_its_valid_until(world: Any) -> None:
    [id] = world.request_spot(SpotPrice="0.0001", ValidUntil=datetime.now(UTC) + timedelta(seconds=2))
    world.until(lambda: status(world, id) == ("cancelled", "schedule-expired"))


def test_cancel_and_terminate_do_all_or_nothing(world: Any) -> None:
    ids = world.request_spot()
    [made] = world.fulfilled(ids)
    with refused("InvalidSpotInstanceRequestID.NotFound"):
        world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[*ids, "sir-00000000"])
    with refused("InvalidInstanceID.NotFound"):
        world.ec2.terminate_instances(InstanceIds=[made, "i-0123456789abcdef0"])
    with refused("InvalidInstanceID.Malformed"):
        world.ec2.terminate_instances(InstanceIds=[made, "i-nonsense"])
    assert status(world, ids[0]) == ("active", "fulfilled")
    world.in_state(made, "running")
    world.ec2.terminate_instances(InstanceIds=[made])


def test_tags_are_the_requests_and_filters_and_pages_find_them(world: Any) -> None:
    launch = uuid.uuid4().hex
    tags = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "launch", "Value": launch}]}]
    ids = world.request_spot(7, SpotPrice="0.0001", TagSpecifications=tags, LaunchGroup="g")
    where = [{"Name": "tag:launch", "Values": [launch]}, {"Name": "state", "Values": ["open", "active"]}]
    pages = world.ec2.get_paginator("describe_spot_instance_requests").paginate(Filters=where, PaginationConfig={"PageSize": 5})
    assert [len(page["SpotInstanceRequests"]) for page in pages] == [5, 2]
    world.ec2.create_tags(Resources=[ids[0]], Tags=[{"Key": "later", "Value": "x"}])
    found = world.ec2.describe_spot_instance_requests(Filters=[{"Name": "tag:later", "Values": ["*"]}])["SpotInstanceRequests"]
    assert [request["SpotInstanceRequestId"] for request in found] == [ids[0]]
    with refused("InvalidParameterValue"):
        world.ec2.describe_spot_instance_requests(Filters=[{"Name": "colour", "Values": ["red"]}])
    world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)


def test_tags_of_a_spot_request_are_not_its_instances(world: Any) -> None:
    tags = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "launch", "Value": "x"}]}]
    [made] = world.fulfilled(world.request_spot(TagSpecifications=tags))
    assert "Tags" not in world.instance(made)
    world.ec2.terminate_instances(InstanceIds=[made])


def test_an_instance_that_shuts_itself_down_ends_with_its_request(world: Any) -> None:
    script = base64.b64encode(b"#!/bin/bash\nshutdown -h now\nexec sleep 1000\n").decode()
    ids = world.request_spot(spec=world.specification(UserData=script))
    [made] = world.fulfilled(ids)
    assert world.in_state(made, "terminated")["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert status(world, ids[0]) == ("closed", "instance-terminated-by-user")
    assert made not in world.cloud.inventory()["processes"]


def test_run_instances_launches_max_count_on_demand_and_stops_and_starts(world: Any) -> None:
    token = uuid.uuid4().hex

    def run() -> list[str]:
        answer = world.ec2.run_instances(MinCount=1, MaxCount=2, ClientToken=token, **world.specification())
        return [instance["InstanceId"] for instance in answer["Instances"]]

    made = run()
    assert len(made) == 2
    assert run() == made
    assert "InstanceLifecycle" not in world.in_state(made[0], "running")
    assert world.instance(made[1])["IamInstanceProfile"]["Arn"].endswith(world.cloud.instance_profile)
    world.ec2.stop_instances(InstanceIds=made[:1])
    world.in_state(made[0], "stopped")
    assert made[0] not in world.cloud.inventory()["processes"]
    world.ec2.start_instances(InstanceIds=made[:1])
    world.in_state(made[0], "running")
    world.ec2.terminate_instances(InstanceIds=made)
    world.in_state(made[0], "terminated")


@pytest.mark.parametrize(("change", "code"), [
    ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
    ({"ImageId": "image"}, "InvalidAMIID.Malformed"),
    ({"InstanceType": "t9.enormous"}, "InvalidParameterValue"),
    ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidParameterCombination"),
    ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidParameterCombination"),
    ({"NetworkInterfaces": [{"SubnetId": "subnet-0123456789abcdef0", "DeviceIndex": 0}]}, "InvalidSubnetID.NotFound"),
    ({"NetworkInterfaces": [{"Groups": ["sg-0123456789abcdef0"], "DeviceIndex": 0}]}, "InvalidGroup.NotFound"),
    ({"NetworkInterfaces": [{"AssociatePublicIpAddress": True}]}, "InvalidParameterValue"),
    ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
    ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
    ({"UserData": base64.b64encode(b"x" * 16_385).decode()}, "InvalidParameterValue"),
    ({"UserData": "no base64!"}, "InvalidUserData.Malformed"),
    ({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": 9}}]}, "MissingParameter"),
])
def test_ec2_refuses_what_it_documents_to_refuse(world: Any, change: dict[str, Any], code: str) -> None:
    with refused(code):
        world.ec2.request_spot_instances(LaunchSpecification=world.specification(**change))


@pytest.mark.parametrize(("more", "code"), [
    ({"SpotPrice": "cheap"}, "InvalidParameterValue"),
    ({"InstanceCount": 0}, "InvalidParameterValue"),
    ({"ValidUntil": datetime(2020, 1, 1, tzinfo=UTC)}, "InvalidParameterValue"),
    ({"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]}, "InvalidParameterValue"),
    ({"TagSpecifications": [{"Tags": [{"Key": "a", "Value": "b"}]}]}, "InvalidParameterValue"),
    ({"DryRun": True}, "DryRunOperation"),
])
def test_a_spot_request_is_refused_for_its_own_parameters(world: Any, more: dict[str, Any], code: str) -> None:
    with refused(code):
        world.ec2.request_spot_instances(LaunchSpecification=world.specification(), **more)


def test_a_root_disk_of_ones_own_keeps_its_size_and_goes_with_the_instance(world: Any) -> None:
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 21}}]
    [made] = world.fulfilled(world.request_spot(spec=world.specification(BlockDeviceMappings=disks)))
    [disk] = world.instance(made)["BlockDeviceMappings"]
    assert disk["Ebs"]["DeleteOnTermination"]
    assert world.ec2.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"][0]["Size"] == 21
    world.ec2.terminate_instances(InstanceIds=[made])


def test_prices_are_newest_first_and_those_that_requests_are_judged_by(world: Any) -> None:
    history = world.ec2.describe_spot_price_history(InstanceTypes=["t3.micro"], AvailabilityZone="us-east-1a")["SpotPriceHistory"]
    assert [entry["Timestamp"] for entry in history] == sorted((entry["Timestamp"] for entry in history), reverse=True)
    now = history[0]["SpotPrice"]
    [enough] = world.request_spot(SpotPrice=now)
    [made] = world.fulfilled([enough])
    world.ec2.terminate_instances(InstanceIds=[made])


def test_a_spot_instance_of_run_instances_has_its_request_too(world: Any) -> None:
    answer = world.ec2.run_instances(MinCount=1, MaxCount=1, InstanceMarketOptions={"MarketType": "spot"}, **world.specification())
    made = answer["Instances"][0]["InstanceId"]
    found = world.ec2.describe_spot_instance_requests(Filters=[{"Name": "instance-id", "Values": [made]}])["SpotInstanceRequests"]
    assert [request["SpotInstanceRequestId"] for request in found] == [world.instance(made)["SpotInstanceRequestId"]]
    with refused("UnsupportedOperation"):
        world.ec2.stop_instances(InstanceIds=[made])
    world.ec2.terminate_instances(InstanceIds=[made])
    assert status(world, found[0]["SpotInstanceRequestId"])[1] == "instance-terminated-by-user"
    with refused("IncorrectInstanceState"):
        world.ec2.start_instances(InstanceIds=[made])


@pytest.mark.parametrize("kind", ["spot", "on-demand"])
def test_the_instances_of_a_fleet_boot(world: Any, kind: str) -> None:
    name = f"template-{uuid.uuid4().hex[:8]}"
    world.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=world.specification())
    configuration = {"LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
                     "Overrides": [{"InstanceType": "t3.micro", "SubnetId": world.cloud.subnets["private"]}]}
    answer = world.ec2.create_fleet(Type="instant", LaunchTemplateConfigs=[configuration],
                                    TargetCapacitySpecification={"TotalTargetCapacity": 2, "DefaultTargetCapacityType": kind})
    made = [id for part in answer["Instances"] for id in part["InstanceIds"]]
    assert len(made) == 2
    for id in made:
        world.in_state(id, "running")
    assert set(made) <= set(world.cloud.inventory()["processes"])
    world.ec2.terminate_instances(InstanceIds=made)


def test_a_broken_launch_leaves_nothing(world: Any) -> None:
    before = world.cloud.inventory()
    disks = [{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}]
    with refused("InvalidSnapshot.NotFound"):
        world.ec2.run_instances(MinCount=1, MaxCount=3, **world.specification(BlockDeviceMappings=disks))
    after = world.cloud.inventory()
    for kind in ("instances", "volumes"):   # those of earlier tests may have ended meanwhile
        assert {thing["id"] for thing in after[kind]} <= {thing["id"] for thing in before[kind]}


def test_a_hundred_machines_are_asked_for_in_one_call(world: Any) -> None:
    ids = world.request_spot(100, SpotPrice="0.0001")
    assert len(ids) == 100
    world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)


@pytest.mark.parametrize(("behavior", "state"), [("stop", "stopped"), ("terminate", "terminated")])
def test_an_on_demand_instance_that_shuts_down_does_as_it_was_launched_to(world: Any, behavior: str, state: str) -> None:
    script = "#!/bin/bash\nshutdown -h now\nexec sleep 1000\n"   # RunInstances encodes it itself
    answer = world.ec2.run_instances(MinCount=1, MaxCount=1, InstanceInitiatedShutdownBehavior=behavior,
                                     **world.specification(UserData=script))
    made = answer["Instances"][0]["InstanceId"]
    assert world.in_state(made, state)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    world.ec2.terminate_instances(InstanceIds=[made])
    world.in_state(made, "terminated")


def test_the_console_shows_what_a_machine_printed(world: Any) -> None:
    script = base64.b64encode(b"#!/bin/bash\necho a word on the console\nexec sleep 1000\n")
    [made] = world.fulfilled(world.request_spot(spec=world.specification(UserData=script.decode())))
    world.until(lambda: "a word on the console" in world.ec2.get_console_output(InstanceId=made).get("Output", ""))
    world.ec2.terminate_instances(InstanceIds=[made])
