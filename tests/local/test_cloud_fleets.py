"""CreateFleet of type instant, its launch templates, and what becomes of both."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=rf"\({code}\)")


@pytest.fixture
def template(world: Any) -> Iterator[str]:
    """The id of a launch template with every part that moto would drop."""
    script = base64.b64encode(b"#!/bin/bash\necho of a fleet\nexec sleep 1000\n").decode()
    data = world.specification(
        UserData=script, BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 12, "DeleteOnTermination": True}}],
        TagSpecifications=[{"ResourceType": kind, "Tags": [{"Key": "from", "Value": "template"}]} for kind in ("instance", "volume")])
    made = world.ec2.create_launch_template(LaunchTemplateName=f"t-{uuid.uuid4().hex[:8]}", LaunchTemplateData=data,
                                            TagSpecifications=[{"ResourceType": "launch-template", "Tags": [{"Key": "is", "Value": "t"}]}])
    id: str = made["LaunchTemplate"]["LaunchTemplateId"]
    yield id
    world.ec2.delete_launch_template(LaunchTemplateId=id)


def fleet(world: Any, template: str, overrides: list[dict[str, Any]], units: int, kind: str = "spot", **more: Any) -> dict[str, Any]:
    configuration = {"LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "$Latest"}, "Overrides": overrides}
    capacity = {"TotalTargetCapacity": units, "DefaultTargetCapacityType": kind}
    answer: dict[str, Any] = world.ec2.create_fleet(**{"Type": "instant", "LaunchTemplateConfigs": [configuration],
                                                       "TargetCapacitySpecification": capacity, **more})
    return answer


def by_pool(answer: dict[str, Any]) -> dict[tuple[str, str], int]:
    """How many machines of each type are in each subnet's share."""
    return {(share["InstanceType"], share["LaunchTemplateAndOverrides"]["Overrides"].get("SubnetId", "")): len(share["InstanceIds"])
            for share in answer["Instances"]}


def made(answer: dict[str, Any]) -> list[str]:
    return [id for share in answer["Instances"] for id in share["InstanceIds"]]


def delete(world: Any, *answers: dict[str, Any]) -> None:
    deleted = world.ec2.delete_fleets(FleetIds=[answer["FleetId"] for answer in answers], TerminateInstances=True)
    assert deleted["UnsuccessfulFleetDeletions"] == []


def pool(world: Any, type: str, subnet: str, **more: Any) -> dict[str, Any]:
    return {"InstanceType": type, "SubnetId": world.cloud.subnets[subnet], **more}


def test_the_machines_of_a_fleet_are_what_the_template_says(world: Any, template: str) -> None:
    tags = [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": kind}]} for kind in ("fleet", "instance")]
    answer = fleet(world, template, [pool(world, "t3.small", "public-b")], 1, TagSpecifications=tags)
    [id] = made(answer)
    seen = world.in_state(id, "running")
    assert (seen["InstanceType"], seen["SubnetId"], seen["Placement"]["AvailabilityZone"], seen["InstanceLifecycle"]) == (
        "t3.small", world.cloud.subnets["public-b"], "us-east-1b", "spot")
    assert seen["IamInstanceProfile"]["Arn"].endswith(world.cloud.instance_profile)
    assert [group["GroupId"] for group in seen["SecurityGroups"]] == [world.cloud.groups["default"]]
    assert {tag["Key"]: tag["Value"] for tag in seen["Tags"]} == {
        "from": "template", "of": "instance", "aws:ec2:fleet-id": answer["FleetId"],
        "aws:ec2launchtemplate:id": template, "aws:ec2launchtemplate:version": "1"}
    [volume] = world.ec2.describe_volumes(VolumeIds=[seen["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Size"], volume["Tags"]) == (12, [{"Key": "from", "Value": "template"}])
    assert world.requests([seen["SpotInstanceRequestId"]])[0]["InstanceId"] == id
    world.until(lambda: "of a fleet" in world.ec2.get_console_output(InstanceId=id).get("Output", ""))
    [shown] = world.ec2.describe_fleets(FleetIds=[answer["FleetId"]])["Fleets"]
    assert (shown["FleetState"], shown["Type"], shown["FulfilledCapacity"], shown["Tags"]) == (
        "active", "instant", 1.0, [{"Key": "of", "Value": "fleet"}])
    assert [share["InstanceIds"] for share in shown["Instances"]] == [[id]]
    delete(world, answer)
    assert world.in_state(id, "terminated")
    assert world.ec2.describe_fleets(FleetIds=[answer["FleetId"]])["Fleets"][0]["FleetState"] == "deleted"
    assert answer["FleetId"] not in [fleet["id"] for fleet in world.cloud.inventory()["fleets"]]


@pytest.mark.parametrize("strategy", ["lowest-price", "price-capacity-optimized"])
def test_the_cheapest_pool_that_has_capacity_is_chosen(world: Any, template: str, strategy: str) -> None:
    overrides = [pool(world, type, subnet) for type in ("t3.small", "t3.micro") for subnet in ("public-b", "public")]
    answer = fleet(world, template, overrides, 2, SpotOptions={"AllocationStrategy": strategy})
    assert by_pool(answer) == {("t3.micro", world.cloud.subnets["public"]): 2}
    assert answer["Errors"] == []
    delete(world, answer)


def test_what_one_pool_has_not_comes_from_the_next_and_the_answer_says_so(world: Any, template: str) -> None:
    world.cloud.fault("capacity", type="t3.micro", zone="us-east-1a", left=1)
    world.cloud.fault("price", type="t3.micro", zone="us-east-1b", price=0.9)
    overrides = [pool(world, "t3.micro", "public", MaxPrice="0.02"), pool(world, "t3.micro", "public-b", MaxPrice="0.02"),
                 pool(world, "t3.small", "public", MaxPrice="0.02")]
    answer = fleet(world, template, overrides, 4)
    assert by_pool(answer) == {("t3.micro", world.cloud.subnets["public"]): 1, ("t3.small", world.cloud.subnets["public"]): 3}
    assert {(error["ErrorCode"], error["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"], error["Lifecycle"])
            for error in answer["Errors"]} == {("SpotMaxPriceTooLow", world.cloud.subnets["public-b"], "spot"),
                                               ("InsufficientInstanceCapacity", world.cloud.subnets["public"], "spot")}
    delete(world, answer)


def test_a_fleet_that_gets_nothing_is_a_fleet_with_errors_only(world: Any, template: str) -> None:
    world.cloud.fault("capacity")
    answer = fleet(world, template, [pool(world, "t3.micro", "public"), pool(world, "t3.micro", "public-b")], 3)
    assert answer["Instances"] == []
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InsufficientInstanceCapacity"] * 2
    delete(world, answer)


def test_a_minimum_is_kept_by_launching_nothing(world: Any, template: str) -> None:
    world.cloud.fault("capacity", type="t3.micro", left=2)
    with refused("InvalidParameterCombination"):
        fleet(world, template, [pool(world, "t3.micro", "public")], 4, SpotOptions={"MinTargetCapacity": 3})
    options = {"MinTargetCapacity": 3, "SingleInstanceType": True}
    answer = fleet(world, template, [pool(world, "t3.micro", "public")], 4, SpotOptions=options)
    assert answer["Instances"] == []
    other = fleet(world, template, [pool(world, "t3.micro", "public"), pool(world, "t3.small", "public")], 4, SpotOptions=options)
    assert by_pool(other) == {("t3.small", world.cloud.subnets["public"]): 4}
    delete(world, answer, other)


def test_spot_and_on_demand_machines_come_in_the_numbers_that_were_asked_for(world: Any, template: str) -> None:
    capacity = {"TotalTargetCapacity": 3, "OnDemandTargetCapacity": 1, "DefaultTargetCapacityType": "spot"}
    answer = fleet(world, template, [pool(world, "t3.micro", "public")], 3, TargetCapacitySpecification=capacity)
    assert sorted((share["Lifecycle"], len(share["InstanceIds"])) for share in answer["Instances"]) == [("on-demand", 1), ("spot", 2)]
    delete(world, answer)


def test_a_token_makes_a_fleet_once(world: Any, template: str) -> None:
    token = str(uuid.uuid4())
    first, again = (fleet(world, template, [pool(world, "t3.micro", "public")], 1, ClientToken=token) for _ in range(2))
    assert (first["FleetId"], made(first)) == (again["FleetId"], made(again))
    with refused("IdempotentParameterMismatch"):
        fleet(world, template, [pool(world, "t3.micro", "public")], 2, ClientToken=token)
    delete(world, first)


def test_a_pool_that_ec2_would_not_launch_in_is_an_error_of_that_pool(world: Any, template: str) -> None:
    overrides = [{"InstanceType": "t3.micro", "SubnetId": "subnet-0123456789abcdef0"}, pool(world, "t3.micro", "public")]
    answer = fleet(world, template, overrides, 1)
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InvalidSubnetID.NotFound"]
    assert len(made(answer)) == 1
    delete(world, answer)


def test_a_pool_may_be_named_once_only_by_whatever_subnet(world: Any, template: str) -> None:
    for subnets in (("public", "public"), ("public", "private")):   # the same zone
        with refused("InvalidFleetConfig"):
            fleet(world, template, [pool(world, "t3.micro", subnet) for subnet in subnets], 1)


def test_a_template_that_tags_spot_requests_can_launch_no_on_demand_machine(world: Any) -> None:
    tags = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a", "Value": "b"}]}]
    data = world.specification(TagSpecifications=tags)
    made_ = world.ec2.create_launch_template(LaunchTemplateName=f"t-{uuid.uuid4().hex[:8]}", LaunchTemplateData=data)["LaunchTemplate"]
    refusal = fleet(world, made_["LaunchTemplateId"], [pool(world, "t3.micro", "public")], 1, kind="on-demand")
    assert [error["ErrorCode"] for error in refusal["Errors"]] == ["InvalidParameterValue"]
    answer = fleet(world, made_["LaunchTemplateId"], [pool(world, "t3.micro", "public")], 1)
    request = world.instance(made(answer)[0])["SpotInstanceRequestId"]
    assert world.requests([request])[0]["Tags"] == tags[0]["Tags"]
    delete(world, refusal, answer)
    world.ec2.delete_launch_template(LaunchTemplateId=made_["LaunchTemplateId"])


def test_twenty_five_instant_fleets_are_deleted_in_a_call_and_each_has_its_own_answer(world: Any, template: str) -> None:
    world.cloud.fault("capacity")
    ids = [fleet(world, template, [pool(world, "t3.micro", "public")], 1)["FleetId"] for _ in range(26)]
    with refused("InvalidParameterValue"):
        world.ec2.delete_fleets(FleetIds=ids, TerminateInstances=True)
    with refused("InvalidParameterValue"):
        world.ec2.delete_fleets(FleetIds=ids[:1], TerminateInstances=False)
    strange = [f"fleet-{uuid.uuid4()}", "fleet-1"]
    answer = world.ec2.delete_fleets(FleetIds=ids[:23] + strange, TerminateInstances=True)
    assert len(answer["SuccessfulFleetDeletions"]) == 23
    assert [one["Error"]["Code"] for one in answer["UnsuccessfulFleetDeletions"]] == ["fleetIdDoesNotExist", "fleetIdMalformed"]
    again = world.ec2.delete_fleets(FleetIds=[ids[0], *ids[23:]], TerminateInstances=True)
    assert [one["Error"]["Code"] for one in again["UnsuccessfulFleetDeletions"]] == ["fleetNotInDeletableState"]


def test_the_instances_of_an_instant_fleet_are_told_by_the_fleet_only(world: Any, template: str) -> None:
    answer = fleet(world, template, [pool(world, "t3.micro", "public")], 1)
    with refused("Unsupported"):
        world.ec2.describe_fleet_instances(FleetId=answer["FleetId"])
    assert world.ec2.describe_fleets()["Fleets"] == []   # instant ones are shown by id only
    with refused("InvalidFleetId.NotFound"):
        world.ec2.describe_fleets(FleetIds=[f"fleet-{uuid.uuid4()}"])
    delete(world, answer)


def test_a_template_is_made_once_by_its_token_and_found_by_id_name_and_tag(world: Any, template: str) -> None:
    name, token = f"t-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    data = {"ImageId": world.cloud.image, "InstanceType": "t3.micro"}
    first, again = (world.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data, ClientToken=token)["LaunchTemplate"]
                    for _ in range(2))
    assert first == again
    with refused("IdempotentParameterMismatch"):
        world.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "t3.nano"}, ClientToken=token)
    with refused("InvalidLaunchTemplateName.AlreadyExistsException"):
        world.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    describe = world.ec2.describe_launch_templates
    assert [one["LaunchTemplateName"] for one in describe(LaunchTemplateIds=[first["LaunchTemplateId"]])["LaunchTemplates"]] == [name]
    found = describe(Filters=[{"Name": "tag:is", "Values": ["t"]}])["LaunchTemplates"]
    assert [(one["LaunchTemplateId"], one["Tags"]) for one in found] == [(template, [{"Key": "is", "Value": "t"}])]
    world.ec2.create_launch_template_version(LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.nano"})
    versions = world.ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
    assert [(one["VersionNumber"], one["DefaultVersion"], one["LaunchTemplateData"]["InstanceType"]) for one in versions] == [
        (1, True, "t3.micro"), (2, False, "t3.nano")]
    assert versions[1]["LaunchTemplateData"]["ImageId"] == world.cloud.image
    world.ec2.modify_launch_template(LaunchTemplateName=name, DefaultVersion="2")
    assert name in [one["name"] for one in world.cloud.inventory()["launch_templates"]]
    assert world.ec2.delete_launch_template(LaunchTemplateName=name)["LaunchTemplate"]["DefaultVersionNumber"] == 2
    with refused("InvalidLaunchTemplateName.NotFoundException"):
        describe(LaunchTemplateNames=[name])
    with refused("InvalidLaunchTemplateId.NotFound"):
        world.ec2.delete_launch_template(LaunchTemplateId=first["LaunchTemplateId"])
