"""What the gateway refuses, counts and wraps."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from fleetctl.errors import LocalCloudError

pytestmark = pytest.mark.cloud


def client(world: Any, service: str, **more: Any) -> Any:
    return boto3.Session().client(service, config=Config(retries={"total_max_attempts": 1}), **{**world.cloud.client(), **more})


@pytest.mark.parametrize("service", ["ec2", "sqs", "sns", "ssm", "sts", "iam", "dynamodb", "s3"])
def test_an_unknown_access_key_is_refused_in_every_protocol(world: Any, service: str) -> None:
    calls = {"ec2": "describe_instances", "sqs": "list_queues", "sns": "list_topics", "ssm": "describe_parameters",
             "sts": "get_caller_identity", "iam": "list_roles", "dynamodb": "list_tables", "s3": "list_buckets"}
    stranger = client(world, service, aws_access_key_id="AKIA0000000000000000")
    with pytest.raises(ClientError) as refusal:
        getattr(stranger, calls[service])()
    assert refusal.value.response["Error"]["Code"] == "InvalidClientTokenId"
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    getattr(world.client(service), calls[service])()


def test_keys_that_this_cloud_made_are_accepted(world: Any) -> None:
    iam = world.client("iam")
    name = f"u-{uuid.uuid4().hex[:8]}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    mark = world.cloud.calls()["mark"]
    client(world, "sqs", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]).list_queues()
    assert world.cloud.calls(mark)["calls"] == {"other": {"sqs": {"ListQueues": 1}}}


def test_another_region_is_refused_in_words(world: Any) -> None:
    with pytest.raises(ClientError, match="has the region us-east-1 only, not eu-west-1"):
        client(world, "ec2", region_name="eu-west-1").describe_instances()


def test_an_unknown_service_and_a_missing_operation_are_errors_of_aws_form(world: Any) -> None:
    with pytest.raises(ClientError, match="InvalidAction"):
        client(world, "autoscaling").describe_auto_scaling_groups()
    with pytest.raises(ClientError, match="InvalidAction"):
        world.ec2.describe_spot_datafeed_subscription()


def test_an_error_inside_moto_is_an_error_document(world: Any) -> None:
    with pytest.raises(ClientError) as broken:
        world.ec2.describe_instances(NextToken="nonsense")   # moto looks it up in a list
    assert broken.value.response["Error"]["Code"] == "InternalFailure"
    assert broken.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_a_request_without_signature_is_refused(world: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"{world.cloud.endpoint_url}/?Action=DescribeInstances")
    with refusal.value as answer:
        assert (answer.code, b"MissingAuthenticationToken" in answer.read()) == (403, True)


def test_calls_are_counted_by_operation_since_a_mark(world: Any) -> None:
    mark = world.cloud.calls()["mark"]
    world.ec2.describe_instances()
    world.ec2.describe_instances()
    world.sns.list_topics()
    after = world.cloud.calls(mark)
    assert after["calls"] == {"controller": {"ec2": {"DescribeInstances": 2}, "sns": {"ListTopics": 1}}}
    assert world.cloud.calls(after["mark"])["calls"] == {}


def test_calls_are_counted_by_the_launch_that_the_user_agent_names(world: Any) -> None:
    launch = str(uuid.uuid4())
    config = Config(user_agent_extra=f"launch/{launch}")
    boto3.Session().client("ec2", config=config, **world.cloud.client()).describe_instances()
    assert world.cloud.calls()["launches"] == {launch: {"ec2": {"DescribeInstances": 1}}}


def test_s3_works_and_is_counted(world: Any) -> None:
    s3 = world.client("s3")
    mark = world.cloud.calls()["mark"]
    s3.create_bucket(Bucket="fuses")
    s3.put_object(Bucket="fuses", Key="a/b", Body=b"lit")
    assert s3.get_object(Bucket="fuses", Key="a/b")["Body"].read() == b"lit"
    assert world.cloud.calls(mark)["calls"] == {"controller": {"s3": {"CreateBucket": 1, "GetObject": 1, "PutObject": 1}}}


def test_a_secure_parameter_is_kept(world: Any) -> None:
    ssm = world.client("ssm")
    ssm.put_parameter(Name="/fleetctl/x", Value="s3cret", Type="SecureString")
    assert ssm.get_parameter(Name="/fleetctl/x", WithDecryption=True)["Parameter"]["Value"] == "s3cret"
    assert world.cloud.inventory()["parameters"] == ["/fleetctl/x"]
    ssm.delete_parameter(Name="/fleetctl/x")
    assert world.cloud.inventory()["parameters"] == []


def test_questions_to_the_daemon_need_the_token(world: Any) -> None:
    with pytest.raises(LocalCloudError, match="token of the state file"):
        replace(world.cloud, token="guess").inventory()
    with pytest.raises(LocalCloudError, match="there is no GET /_fleetctl/secrets"):
        world.cloud._ask("GET", "/_fleetctl/secrets")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"{world.cloud.endpoint_url}/_fleetctl/inventory")
    with refusal.value as answer:
        assert "error" in json.loads(answer.read())
