"""What is in a new local cloud: a VPC with a public and a private subnet and public ones in two more zones, their ways out, a group, a
key pair, an image and a role for machines.

All but the role and the key is each region's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Client = Callable[[str, str], Any]

HOME = "us-east-1"
IMAGE = "ami-0f1ee7c0de10ca100"
KEY = "fleetctl-local"
PROFILE = "fleetctl-machine"
NETWORK = "127.64.0.0/16"   # what describes say; the hypervisor's addresses are anywhere in 127.0.0.0/8
BLOCKS = ("127.64.0.0/18", "127.64.64.0/18", "127.64.128.0/18", "127.64.192.0/18")
TRUST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
POLICY = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["sns:Publish", "ssm:GetParameter", "s3:GetObject"], "Resource": "*"}]}


def write_images(path: Path) -> None:
    """The image file that moto reads at its start: one image, with the root device of Amazon Linux 2023."""
    path.write_text(json.dumps([{
        "ami_id": IMAGE, "name": "fleetctl-local-x86_64", "description": "processes of this machine", "owner_id": "123456789012",
        "public": True, "virtualization_type": "hvm", "architecture": "x86_64", "state": "available", "image_type": "machine",
        "image_location": "local/fleetctl", "hypervisor": "xen", "root_device_type": "ebs", "root_device_name": "/dev/xvda",
        "sriov": "simple", "creation_date": "2026-01-01T00:00:00.000Z"}]))


def image(region: str) -> str:
    """The id of the image in a region: as on AWS, each has its own."""
    return IMAGE if region == HOME else f"ami-{hashlib.sha256(region.encode()).hexdigest()[:17]}"


def account(client: Client) -> None:
    """What all regions share: the role of the machines and its profile. `client(service, region)` is a boto3 client."""
    iam = client("iam", HOME)
    iam.create_role(RoleName=PROFILE, AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName=PROFILE, PolicyName="machine", PolicyDocument=json.dumps(POLICY))
    iam.create_instance_profile(InstanceProfileName=PROFILE)
    iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)


def furnish(client: Client, region: str, public_key: str) -> dict[str, Any]:
    """What a region has; returns the part of the state file that says so."""
    ec2 = client("ec2", region)
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]]
    vpc = ec2.create_vpc(CidrBlock=NETWORK)["Vpc"]["VpcId"]
    subnets: dict[str, str] = {}
    for (name, zone), block in zip([("public", zones[0]), ("private", zones[0]), *((f"public-{zone[-1]}", zone) for zone in zones[1:])],
                                   BLOCKS, strict=False):
        subnets[name] = ec2.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone=zone)["Subnet"]["SubnetId"]
        if name != "private":
            ec2.modify_subnet_attribute(SubnetId=subnets[name], MapPublicIpOnLaunch={"Value": True})
    _ways_out(ec2, region, vpc, subnets)
    group = ec2.create_security_group(GroupName="fleetctl", Description="SSH from outside, everything among members", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}])
    ec2.create_tags(Resources=[vpc, *subnets.values(), group], Tags=[{"Key": "Name", "Value": "fleetctl-local"}])
    if KEY not in [pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]]:
        ec2.import_key_pair(KeyName=KEY, PublicKeyMaterial=public_key.encode())
    return {"subnets": subnets, "groups": {"default": group}, "image": image(region),
            "instance_profile": PROFILE}


def _ways_out(ec2: Any, region: str, vpc: str, subnets: dict[str, str]) -> None:
    """An internet gateway for the public subnets; for the private one endpoints of what machines report to and read from."""
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    for name, subnet in subnets.items():
        if name != "private":
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    for service in ("sns", "ssm"):
        ec2.create_vpc_endpoint(VpcId=vpc, VpcEndpointType="Interface", SubnetIds=[subnets["private"]], PrivateDnsEnabled=True,
                                ServiceName=f"com.amazonaws.{region}.{service}")
    ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=f"com.amazonaws.{region}.s3")


def key(client: Client, region: str, key_file: Path) -> str:
    """The cloud's key pair: its private half in `key_file`, its public half returned for the other regions."""
    ec2 = client("ec2", region)
    material = ec2.create_key_pair(KeyName=KEY, KeyType="ed25519")["KeyMaterial"]
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(material)
    [pair] = ec2.describe_key_pairs(KeyNames=[KEY], IncludePublicKey=True)["KeyPairs"]
    return str(pair["PublicKey"])
