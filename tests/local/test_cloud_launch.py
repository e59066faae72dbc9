"""RunInstances: prices, capacity, counts, tokens, templates, tags, protection, and the disks that stay behind."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud

SLEEP = "#!/bin/bash\nexec sleep 1000\n"   # boto3 encodes it for RunInstances itself


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=rf"\({code}\)")


def run(world: Any, count: int = 1, least: int | None = None, **more: Any) -> list[dict[str, Any]]:
    """The instances of one call."""
    parameters = {**world.specification(UserData=SLEEP), "MinCount": least or count, "MaxCount": count, **more}
    found: list[dict[str, Any]] = world.ec2.run_instances(**parameters)["Instances"]
    return found


def ids(instances: list[dict[str, Any]]) -> list[str]:
    return [instance["InstanceId"] for instance in instances]


def spot(**options: Any) -> dict[str, Any]:
    return {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}


def test_between_minimum_and_maximum_as_many_are_launched_as_there_is_capacity_for(world: Any) -> None:
    world.cloud.fault("capacity", type="t3.micro", left=2)
    made = ids(run(world, 5, least=1))
    assert len(made) == 2
    with refused("InsufficientInstanceCapacity") as none_left:
        run(world)
    assert none_left.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    world.ec2.terminate_instances(InstanceIds=made)


def test_a_launch_that_misses_its_minimum_takes_nothing_from_the_pool(world: Any) -> None:
    world.cloud.fault("capacity", type="t3.micro", left=2)
    with refused("InsufficientInstanceCapacity"):
        run(world, 5, least=3)
    made = ids(run(world, 2))
    assert len(made) == 2
    world.ec2.terminate_instances(InstanceIds=made)


def test_capacity_is_by_type_zone_and_market(world: Any) -> None:
    world.cloud.fault("capacity", type="t3.micro", zone="us-east-1a", market="spot")
    with refused("InsufficientInstanceCapacity"):
        run(world, **spot())
    made = ids(run(world)) + ids(run(world, InstanceType="t3.small", **spot()))
    world.ec2.terminate_instances(InstanceIds=made)


def test_a_spot_price_below_the_market_is_refused_at_once(world: Any) -> None:
    with refused("SpotMaxPriceTooLow"):
        run(world, **spot(MaxPrice="0.0011"))
    world.cloud.fault("price", type="t3.micro", price=0.5)
    with refused("SpotMaxPriceTooLow"):
        run(world, **spot(MaxPrice="0.4"))
    history = world.ec2.describe_spot_price_history(InstanceTypes=["t3.micro"], AvailabilityZone="us-east-1a")["SpotPriceHistory"]
    assert float(history[0]["SpotPrice"]) == 0.5
    made = ids(run(world, **spot(MaxPrice="0.5"))) + ids(run(world, **spot()))   # without a cap, the on-demand price is the cap
    world.ec2.terminate_instances(InstanceIds=made)


@pytest.mark.parametrize(("more", "code"), [
    ({"InstanceInitiatedShutdownBehavior": "stop", **spot()}, "InvalidParameterCombination"),
    ({"DisableApiTermination": True, **spot()}, "InvalidParameterCombination"),
    ({"TagSpecifications": [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a", "Value": "b"}]}]}, "InvalidParameterValue"),
    (spot(MaxPrice="0.0009"), "InvalidParameterValue"),
    (spot(SpotInstanceType="persistent", InstanceInterruptionBehavior="stop"), "UnsupportedOperation"),
    ({"InstanceInitiatedShutdownBehavior": "hide"}, "InvalidParameterValue"), ({"MaxCount": 0}, "InvalidParameterValue"),
    ({"LaunchTemplate": {"LaunchTemplateName": "no-such-template"}}, "InvalidLaunchTemplateName.NotFoundException")])
def test_what_ec2_refuses_by_the_market_is_refused(world: Any, more: dict[str, Any], code: str) -> None:
    with refused(code):
        run(world, **more)


def test_quotas_count_the_virtual_processors_that_run(world: Any) -> None:
    world.cloud.fault("quota", market="spot", vcpus=0)
    with refused("MaxSpotInstanceCountExceeded"):
        run(world, **spot())
    with refused("MaxSpotInstanceCountExceeded"):
        world.request_spot()
    world.cloud.clear_faults()
    before = len([1 for one in world.cloud.inventory()["instances"] if one["request"] is None])
    world.cloud.fault("quota", market="on-demand", vcpus=2 * before + 4)   # a t3.micro has two
    with refused("VcpuLimitExceeded"):
        run(world, 3, least=1)
    made = ids(run(world, 2))
    with refused("VcpuLimitExceeded"):
        run(world)
    world.ec2.terminate_instances(InstanceIds=made)


def test_a_token_makes_a_launch_happen_once_and_only_with_the_same_parameters(world: Any) -> None:
    token = str(uuid.uuid4())
    first, again = (ids(run(world, 2, ClientToken=token)) for _ in range(2))
    assert first == again
    with refused("IdempotentParameterMismatch"):
        run(world, 3, ClientToken=token)
    world.ec2.terminate_instances(InstanceIds=first)


def test_the_token_of_a_launch_that_failed_may_be_used_again(world: Any) -> None:
    token = str(uuid.uuid4())
    world.cloud.fault("capacity", type="t3.micro")
    with refused("InsufficientInstanceCapacity"):
        run(world, ClientToken=token)
    world.cloud.clear_faults()
    made = ids(run(world, ClientToken=token))
    world.ec2.terminate_instances(InstanceIds=made)


def test_everything_that_a_launch_makes_is_tagged_from_its_beginning(world: Any) -> None:
    kinds = ("instance", "volume", "network-interface", "spot-instances-request")
    tags = [{"ResourceType": kind, "Tags": [{"Key": "kind", "Value": kind}]} for kind in kinds]
    disks = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}]
    [made] = run(world, TagSpecifications=tags, BlockDeviceMappings=disks, **spot(MaxPrice="0.01"))
    seen = world.instance(made["InstanceId"])
    things = [made["InstanceId"], made["SpotInstanceRequestId"], seen["NetworkInterfaces"][0]["NetworkInterfaceId"],
              *(disk["Ebs"]["VolumeId"] for disk in seen["BlockDeviceMappings"])]
    found = world.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": things}])["Tags"]
    assert {tag["ResourceId"] for tag in found if tag["Key"] == "kind"} == set(things)
    assert len(things) == 5
    [request] = world.requests([made["SpotInstanceRequestId"]])
    assert (request["SpotPrice"], request["LaunchSpecification"]["InstanceType"]) == ("0.010000", "t3.micro")
    world.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def test_a_template_gives_what_the_call_does_not_say(world: Any) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    script = base64.b64encode(b"#!/bin/bash\necho from a template\nexec sleep 1000\n").decode()
    data = world.specification(UserData=script, InstanceInitiatedShutdownBehavior="terminate", InstanceType="t3.small", TagSpecifications=[
        {"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "template"}, {"Key": "b", "Value": "template"}]}],
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 11, "DeleteOnTermination": True}}])
    template = world.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)["LaunchTemplate"]["LaunchTemplateId"]
    answer = world.ec2.run_instances(
        MinCount=1, MaxCount=2, InstanceType="t3.micro", LaunchTemplate={"LaunchTemplateName": name},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "b", "Value": "call"}]}])
    first, second = ids(answer["Instances"])
    seen = world.in_state(second, "running")
    assert seen["InstanceType"] == "t3.micro"
    assert seen["IamInstanceProfile"]["Arn"].endswith(world.cloud.instance_profile)
    assert seen["SubnetId"] == world.cloud.subnets["private"]
    assert {tag["Key"]: tag["Value"] for tag in seen["Tags"]} == {
        "a": "template", "b": "call", "aws:ec2launchtemplate:id": template, "aws:ec2launchtemplate:version": "1"}
    volume = seen["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert world.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Size"] == 11
    behaviour = world.ec2.describe_instance_attribute(InstanceId=second, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    world.until(lambda: "from a template" in world.ec2.get_console_output(InstanceId=second).get("Output", ""))
    world.ec2.terminate_instances(InstanceIds=[first, second])
    world.ec2.delete_launch_template(LaunchTemplateName=name)


def test_protection_spares_all_of_its_zone_and_none_of_another(world: Any) -> None:
    def in_subnet(name: str, **more: Any) -> str:
        interface = {"DeviceIndex": 0, "SubnetId": world.cloud.subnets[name], "Groups": [world.cloud.groups["default"]]}
        return ids(run(world, NetworkInterfaces=[interface], **more))[0]
    free, neighbour, guarded = in_subnet("public-b"), in_subnet("public"), in_subnet("public", DisableApiTermination=True)
    with refused("OperationNotPermitted"):
        world.ec2.terminate_instances(InstanceIds=[free, neighbour, guarded])
    world.in_state(free, "terminated")
    assert {world.instance(one)["State"]["Name"] for one in (neighbour, guarded)} <= {"pending", "running"}
    world.ec2.modify_instance_attribute(InstanceId=guarded, DisableApiTermination={"Value": False})
    world.ec2.terminate_instances(InstanceIds=[neighbour, guarded])
    world.in_state(guarded, "terminated")


def test_protection_does_not_keep_a_machine_from_ending_itself(world: Any) -> None:
    [made] = ids(run(world, UserData="#!/bin/bash\nshutdown -h now\nexec sleep 1000\n", DisableApiTermination=True,
                     InstanceInitiatedShutdownBehavior="terminate"))
    world.in_state(made, "terminated")


def test_a_wrong_id_keeps_all_from_being_terminated(world: Any) -> None:
    [made] = ids(run(world))
    with refused("InvalidInstanceID.NotFound"):
        world.ec2.terminate_instances(InstanceIds=[made, "i-0123456789abcdef0"])
    assert world.instance(made)["State"]["Name"] in ("pending", "running")
    world.ec2.terminate_instances(InstanceIds=[made])


def test_a_disk_that_is_not_to_be_deleted_outlives_its_machine_and_is_in_the_inventory(world: Any) -> None:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "whose", "Value": "ours"}]}]
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9, "DeleteOnTermination": True}},
             {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}]
    [made] = ids(run(world, BlockDeviceMappings=disks, TagSpecifications=tags))
    attached = {disk["DeviceName"]: disk["Ebs"]["VolumeId"] for disk in world.instance(made)["BlockDeviceMappings"]}
    world.ec2.terminate_instances(InstanceIds=[made])
    world.in_state(made, "terminated")
    left = {volume["id"]: volume for volume in world.cloud.inventory()["volumes"]}
    assert attached["/dev/xvda"] not in left
    assert (left[attached["/dev/sdf"]]["state"], left[attached["/dev/sdf"]]["tags"]) == ("available", {"whose": "ours"})
    world.ec2.delete_volume(VolumeId=attached["/dev/sdf"])
    assert attached["/dev/sdf"] not in {volume["id"] for volume in world.cloud.inventory()["volumes"]}
