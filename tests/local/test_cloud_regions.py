"""Several regions in one cloud, each with its own things; and S3, which all of them and their machines share."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from fleetctl import local
from fleetctl.errors import LocalCloudError
from fleetctl.local import LocalCloud

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def europe(cloud: LocalCloud) -> LocalCloud:
    """The module's cloud, grown by a region while it runs, and seen from there."""
    return local.up(cloud.directory, regions=("eu-west-1",))


@pytest.fixture
def ec2(europe: LocalCloud) -> Iterator[Any]:
    client = boto3.Session().client("ec2", **europe.client(), config=Config(retries={"total_max_attempts": 1}))
    yield client
    client.close()


def specification(cloud: LocalCloud) -> dict[str, Any]:
    interface = {"DeviceIndex": 0, "SubnetId": cloud.subnets["public"], "Groups": [cloud.groups["default"]]}
    return {"ImageId": cloud.image, "InstanceType": "t3.micro", "KeyName": cloud.key, "NetworkInterfaces": [interface],
            "IamInstanceProfile": {"Name": cloud.instance_profile}}


def test_a_region_comes_to_a_cloud_that_runs_and_is_furnished(world: Any, europe: LocalCloud, ec2: Any) -> None:
    assert europe.region == "eu-west-1"
    assert europe.pid == world.cloud.pid
    assert list(europe.regions) == ["us-east-1", "eu-west-1"]
    assert {region["RegionName"] for region in ec2.describe_regions()["Regions"]} == {"us-east-1", "eu-west-1"}
    assert [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]] == [f"eu-west-1{zone}" for zone in "abc"]
    assert ec2.describe_key_pairs(KeyNames=[europe.key])["KeyPairs"]
    assert europe.image != world.cloud.image
    assert local.up(world.cloud.directory) == local.status(world.cloud.directory)
    with pytest.raises(LocalCloudError, match="us-east-1, eu-west-1 only, not mars-1"):
        europe.in_region("mars-1")
    with pytest.raises(LocalCloudError, match="there is no region 'mars-1'"):
        local.up(world.cloud.directory, regions=("mars-1",))


def test_machines_of_each_region_are_its_own(world: Any, europe: LocalCloud, ec2: Any) -> None:
    request = ec2.request_spot_instances(SpotPrice="0.01", LaunchSpecification=specification(europe))["SpotInstanceRequests"][0]
    id = request["SpotInstanceRequestId"]

    def instance() -> str:
        found: str = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[id])["SpotInstanceRequests"][0].get("InstanceId", "")
        return found
    far = world.until(instance)
    [near] = world.fulfilled(world.request_spot())
    world.until(lambda: far in world.cloud.inventory()["processes"])
    assert ec2.describe_instances(InstanceIds=[far])["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"] == "eu-west-1a"
    with pytest.raises(ClientError, match="InvalidInstanceID"):
        world.instance(far)
    assert [one["id"] for one in world.cloud.inventory("eu-west-1")["instances"]] == [far]
    assert {(one["id"], one["region"]) for one in world.cloud.inventory()["instances"]} >= {(far, "eu-west-1"), (near, "us-east-1")}
    ec2.terminate_instances(InstanceIds=[far])
    world.ec2.terminate_instances(InstanceIds=[near])
    for client, made in ((ec2, id), (world.ec2, world.instance(near)["SpotInstanceRequestId"])):
        [ended] = client.describe_spot_instance_requests(SpotInstanceRequestIds=[made])["SpotInstanceRequests"]
        assert (ended["State"], ended["Status"]["Code"]) == ("closed", "instance-terminated-by-user")


def test_an_image_of_another_region_is_unknown_here(world: Any, europe: LocalCloud, ec2: Any) -> None:
    with pytest.raises(ClientError, match="InvalidAMIID"):
        ec2.run_instances(MinCount=1, MaxCount=1, **{**specification(europe), "ImageId": world.cloud.image})


def test_faults_may_be_of_one_region(world: Any, europe: LocalCloud, ec2: Any) -> None:
    world.cloud.fault("throttling", region="eu-*", operation="DescribeVpcs")
    world.ec2.describe_vpcs()
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        ec2.describe_vpcs()
    world.cloud.fault("capacity", zone="eu-west-1?")
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        ec2.run_instances(MinCount=1, MaxCount=1, **specification(europe))
    world.cloud.clear_faults()
    made = ec2.run_instances(MinCount=1, MaxCount=1, **specification(europe))["Instances"][0]["InstanceId"]
    world.cloud.fault("dies", instance=made)
    world.until(lambda: made not in [one["id"] for one in world.cloud.inventory()["instances"]])


def test_a_topic_of_one_region_reaches_a_queue_of_its_own_region(world: Any, europe: LocalCloud) -> None:
    sns, sqs = (boto3.Session().client(service, **europe.client()) for service in ("sns", "sqs"))
    topic = sns.create_topic(Name="far")["TopicArn"]
    queue = topic.replace(":sns:", ":sqs:")
    allow = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": queue}
    url = sqs.create_queue(QueueName="far", Attributes={"Policy": str({"Statement": [allow]}).replace("'", '"')})["QueueUrl"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
    sns.publish(TopicArn=topic, Message="hello")
    assert "hello" in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2)["Messages"][0]["Body"]
    assert topic in world.cloud.inventory("eu-west-1")["topics"]
    assert topic not in world.cloud.inventory("us-east-1")["topics"]
    sns.close()
    sqs.close()


def test_a_cloud_may_begin_with_several_regions(tmp_path: Path) -> None:
    cloud = local.up(tmp_path / "cloud", regions=("us-west-2", "eu-central-1"))
    try:
        assert (cloud.region, list(cloud.regions)) == ("us-west-2", ["us-west-2", "eu-central-1"])
        far = cloud.in_region("eu-central-1")
        assert far.subnets != cloud.subnets
        ec2 = boto3.Session().client("ec2", **far.client())
        assert ec2.describe_subnets(SubnetIds=[far.subnets["private"]])["Subnets"][0]["AvailabilityZone"] == "eu-central-1a"
        ec2.close()
    finally:
        local.down(cloud.directory, force=True)


FETCH = r"""#!/bin/bash
imds="$AWS_EC2_METADATA_SERVICE_ENDPOINT"
token=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$imds/latest/api/token")
role=$(curl -sf -H "X-aws-ec2-metadata-token: $token" "$imds/latest/meta-data/iam/security-credentials/")
said=$(curl -sf -H "X-aws-ec2-metadata-token: $token" "$imds/latest/meta-data/iam/security-credentials/$role")
of() { sed -n 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p' <<< "$said"; }
get() { curl -s -w ' %{http_code}' --aws-sigv4 "aws:amz:us-east-1:s3" --user "$(of AccessKeyId):$(of SecretAccessKey)" \
  -H "x-amz-security-token: $(of Token)" "$AWS_ENDPOINT_URL/BUCKET/$1"; }
echo "there: $(get fuse/one)"
echo "missing: $(get fuse/two)"
curl -s -o /dev/null -w 'unsigned: %{http_code}\n' "$AWS_ENDPOINT_URL/BUCKET/fuse/one"
exec sleep 1000
"""


def test_a_machine_fetches_an_object_with_its_role(world: Any) -> None:
    bucket, s3 = f"fuses-{uuid.uuid4().hex[:8]}", world.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="fuse/one", Body=b"lit until noon")
    script = base64.b64encode(FETCH.replace("BUCKET", bucket).encode()).decode()
    mark = world.cloud.calls()["mark"]
    [made] = world.fulfilled(world.request_spot(spec=world.specification(UserData=script)))

    def output() -> str:
        found: str = world.ec2.get_console_output(InstanceId=made).get("Output", "")
        return found if "unsigned:" in found else ""
    said = world.until(output, 20)
    assert "there: lit until noon 200" in said
    assert "NoSuchKey" in said
    assert "unsigned: 403" in said
    assert world.cloud.calls(mark)["calls"]["machine"]["s3"] == {"GetObject": 2}
    assert {"name": bucket, "region": "us-east-1", "objects": ["fuse/one"]} in world.cloud.inventory()["buckets"]
    s3.delete_object(Bucket=bucket, Key="fuse/one")
    s3.delete_bucket(Bucket=bucket)
    assert bucket not in [one["name"] for one in world.cloud.inventory()["buckets"]]
    world.ec2.terminate_instances(InstanceIds=[made])
