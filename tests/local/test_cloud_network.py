"""What of a network can be deleted, and what is held by what uses it."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud


def refused(do: Any, **parameters: Any) -> str:
    """The code with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        do(**parameters)
    return str(caught.value.response["Error"]["Code"])


def test_a_network_is_held_by_its_groups_gateways_and_endpoints(world: Any) -> None:
    ec2 = world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    assert refused(ec2.delete_vpc, VpcId=vpc) == "DependencyViolation"
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    group = ec2.create_security_group(GroupName="theirs", Description="theirs", VpcId=vpc)["GroupId"]
    assert refused(ec2.delete_vpc, VpcId=vpc) == "DependencyViolation"
    ec2.delete_security_group(GroupId=group)
    made = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName="com.amazonaws.us-east-1.s3", VpcEndpointType="Gateway")
    assert refused(ec2.delete_vpc, VpcId=vpc) == "DependencyViolation"
    ec2.delete_vpc_endpoints(VpcEndpointIds=[made["VpcEndpoint"]["VpcEndpointId"]])
    ec2.delete_vpc(VpcId=vpc)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)


def test_a_machine_holds_its_subnet_its_group_and_with_its_address_the_gateway(world: Any) -> None:
    ec2 = world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/20")["Subnet"]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    group = ec2.create_security_group(GroupName="ours", Description="ours", VpcId=vpc)["GroupId"]
    spec = {**world.specification(), "SubnetId": subnet, "SecurityGroupIds": [group]}
    del spec["NetworkInterfaces"]
    [machine] = ec2.run_instances(MinCount=1, MaxCount=1, **spec)["Instances"]
    held = {
        ec2.delete_subnet: {"SubnetId": subnet},
        ec2.delete_security_group: {"GroupId": group},
        ec2.detach_internet_gateway: {"InternetGatewayId": gateway, "VpcId": vpc},
    }
    assert [refused(do, **parameters) for do, parameters in held.items()] == ["DependencyViolation"] * 3
    ec2.terminate_instances(InstanceIds=[machine["InstanceId"]])
    world.in_state(machine["InstanceId"], "terminated")
    for do, parameters in held.items():
        do(**parameters)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    ec2.delete_vpc(VpcId=vpc)


def test_a_group_that_another_one_names_is_held(world: Any) -> None:
    ec2 = world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    named, other = (ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"] for name in ("named", "other"))
    for group in (named, other):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": named}]}])
    assert refused(ec2.delete_security_group, GroupId=named) == "DependencyViolation"
    ec2.delete_security_group(GroupId=other)
    ec2.delete_security_group(GroupId=named)
    ec2.delete_vpc(VpcId=vpc)


def test_a_nat_gateway_s_end_frees_its_subnet_and_its_address(world: Any) -> None:
    ec2 = world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/20")["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
    assert refused(ec2.delete_subnet, SubnetId=subnet) == "DependencyViolation"
    ec2.delete_nat_gateway(NatGatewayId=nat)
    assert "AssociationId" not in ec2.describe_addresses(AllocationIds=[address])["Addresses"][0]
    ec2.release_address(AllocationId=address)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)
    assert refused(ec2.delete_nat_gateway, NatGatewayId="nat-0123456789abcdef0") == "NatGatewayNotFound"


def test_a_bucket_made_again_has_nothing_of_the_old_one(world: Any) -> None:
    s3 = world.client("s3")
    s3.create_bucket(Bucket="fleetctl-again")
    s3.put_bucket_tagging(Bucket="fleetctl-again", Tagging={"TagSet": [{"Key": "whose", "Value": "theirs"}]})
    s3.delete_bucket(Bucket="fleetctl-again")
    s3.create_bucket(Bucket="fleetctl-again")
    assert refused(s3.get_bucket_tagging, Bucket="fleetctl-again") == "NoSuchTagSet"
    s3.delete_bucket(Bucket="fleetctl-again")


def test_nat_gateways_are_listed_by_their_tags(world: Any) -> None:
    ec2 = world.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/20")["Subnet"]["SubnetId"]

    def gateway(setup: str) -> str:
        tags = [{"ResourceType": "natgateway", "Tags": [{"Key": "setup", "Value": setup}]}]
        made = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private", TagSpecifications=tags)
        return str(made["NatGateway"]["NatGatewayId"])

    def listed(name: str, *values: str) -> set[str]:
        return {row["NatGatewayId"] for row in ec2.describe_nat_gateways(Filter=[{"Name": name, "Values": list(values)}])["NatGateways"]}

    ours, theirs = gateway("ours"), gateway("theirs")
    assert listed("tag:setup", "ours") == {ours}
    assert listed("tag:setup", "ours", "theirs") == {ours, theirs}
    assert listed("tag:setup", "nobody's") == listed("tag-key", "fleet") == set()
    for one in (ours, theirs):
        ec2.delete_nat_gateway(NatGatewayId=one)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)


def test_a_route_through_a_machine_ends_nowhere_while_that_is_stopped(world: Any) -> None:
    ec2, state = world.ec2, world.cloud
    vpc = ec2.describe_subnets(SubnetIds=[state.subnets["public"]])["Subnets"][0]["VpcId"]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    made = ec2.run_instances(ImageId=state.image, MinCount=1, MaxCount=1, SubnetId=state.subnets["public"])["Instances"][0]["InstanceId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", InstanceId=made)

    def way() -> str:
        rows = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        return str(next(one["State"] for one in rows if one.get("InstanceId") == made))

    world.until(lambda: way() == "active")
    ec2.stop_instances(InstanceIds=[made])
    assert way() == "blackhole"
    ec2.delete_route_table(RouteTableId=table)
    ec2.terminate_instances(InstanceIds=[made])


def test_the_newest_amazon_linux_is_the_region_s_own_image(world: Any) -> None:
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
    assert world.client("ssm").get_parameter(Name=name)["Parameter"]["Value"] == world.cloud.image
