"""Data Exports and cost-allocation tags on the local cloud."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud

FILES = {"OutputType": "CUSTOM", "Format": "TEXT_OR_CSV", "Compression": "GZIP", "Overwrite": "OVERWRITE_REPORT"}


def export(name: str, bucket: str = "costs-of-one") -> dict[str, Any]:
    where = {"S3Bucket": bucket, "S3Prefix": "all", "S3Region": "us-east-1", "S3OutputConfigurations": FILES}
    return {"Name": name, "DataQuery": {"QueryStatement": "SELECT resource_tags FROM COST_AND_USAGE_REPORT"},
            "DestinationConfigurations": {"S3Destination": where}, "RefreshCadence": {"Frequency": "SYNCHRONOUS"}}  # fmt: skip


@pytest.fixture
def bucket(world: Any) -> Iterator[Callable[[list[str]], Any]]:
    s3 = world.client("s3")
    s3.create_bucket(Bucket="costs-of-one")
    yield lambda action: s3.put_bucket_policy(Bucket="costs-of-one", Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "bcm-data-exports.amazonaws.com"}, "Action": action,
         "Resource": ["arn:aws:s3:::costs-of-one", "arn:aws:s3:::costs-of-one/*"]}]}))  # fmt: skip
    for row in world.client("bcm-data-exports").list_exports()["Exports"]:
        world.client("bcm-data-exports").delete_export(ExportArn=row["ExportArn"])
    s3.delete_bucket(Bucket="costs-of-one")


def test_an_export_is_made_only_where_the_bucket_s_policy_lets_aws_write_and_look(world: Any, bucket: Callable[[list[str]], Any]) -> None:
    exports = world.client("bcm-data-exports")
    with pytest.raises(ClientError, match="There is no bucket nowhere"):
        exports.create_export(Export=export("one", "nowhere"))
    bucket(["s3:PutObject"])
    with pytest.raises(ClientError, match="does not allow s3:GetBucketPolicy"):
        exports.create_export(Export=export("one"))
    bucket(["s3:PutObject", "s3:GetBucketPolicy"])
    arn = exports.create_export(Export=export("one"), ResourceTags=[{"Key": "a", "Value": "b"}])["ExportArn"]
    assert exports.list_tags_for_resource(ResourceArn=arn)["ResourceTags"] == [{"Key": "a", "Value": "b"}]
    with pytest.raises(ClientError, match="exists already"):
        exports.create_export(Export=export("one"))
    with pytest.raises(ClientError, match="name of an export cannot be changed"):
        exports.update_export(ExportArn=arn, Export=export("two"))
    exports.delete_export(ExportArn=arn)
    with pytest.raises(exports.exceptions.ResourceNotFoundException):
        exports.get_export(ExportArn=arn)


def test_exports_are_listed_in_pages(world: Any, bucket: Callable[[list[str]], Any]) -> None:
    bucket(["s3:PutObject", "s3:GetBucketPolicy"])
    exports = world.client("bcm-data-exports")
    for name in "abc":
        exports.create_export(Export=export(name))
    pages = list(exports.get_paginator("list_exports").paginate(PaginationConfig={"PageSize": 2}))
    assert [[row["ExportName"] for row in page["Exports"]] for page in pages] == [["a", "b"], ["c"]]


def test_what_the_model_of_a_call_refuses_is_refused_by_the_server_too(cloud: Any, world: Any) -> None:
    """A client that does not look at the model sends anything."""
    unchecked = boto3.client("bcm-data-exports", **cloud.client(), config=Config(parameter_validation=False))
    with pytest.raises(ClientError) as caught:
        unchecked.create_export(Export={"Name": "one"})
    unchecked.close()
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert "Missing required parameter" in str(caught.value) and "DataQuery" in str(caught.value)
    with pytest.raises(ClientError, match="does not have ce GetCostAndUsage"):
        world.client("ce").get_cost_and_usage(TimePeriod={"Start": "2026-01-01", "End": "2026-01-02"}, Granularity="DAILY", Metrics=["x"])


def test_a_tag_is_known_once_something_bears_it_and_activated_by_itself_alone(world: Any) -> None:
    ce, ec2 = world.client("ce"), world.client("ec2")
    asked = [{"TagKey": "colour", "Status": "Active"}, {"TagKey": "never borne", "Status": "Active"}]
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    ec2.create_tags(Resources=[volume], Tags=[{"Key": "colour", "Value": "red"}])
    (error,) = ce.update_cost_allocation_tags_status(CostAllocationTagsStatus=asked)["Errors"]
    assert error["TagKey"] == "never borne"
    ec2.delete_volume(VolumeId=volume)
    (row,) = ce.list_cost_allocation_tags(Status="Active")["CostAllocationTags"]
    assert (row["TagKey"], row["Type"], row["Status"]) == ("colour", "UserDefined", "Active")
