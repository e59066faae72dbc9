"""What EC2 would refuse is refused here first: with alias, path, what stands there, and everything wrong in one error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl.errors import RequestInvalid, UserDataTooLarge
from fleetctl.shapes import Request, apply, validate, view

DEADLINE = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)


def request(**launch: Any) -> Request:
    """A small request that is valid, with more in its launch specification."""
    return {"SpotPrice": "0.05", "LaunchSpecification": {"ImageId": "ami-1", "InstanceType": "t3.micro", **launch}}


def refusal(bad: Any) -> RequestInvalid:
    with pytest.raises(RequestInvalid) as caught:
        validate(bad)
    return caught.value


def test_a_valid_request_is_accepted() -> None:
    validate(request())
    validate(request(SubnetId="subnet-1", SecurityGroupIds=["sg-1"]))
    validate({**request(), "DryRun": False, "ValidUntil": "2030-01-01T00:00:00Z", "ValidFrom": DEADLINE})
    validate(request(NetworkInterfaces=({"DeviceIndex": 0}, {"DeviceIndex": 1}, {"DeviceIndex": 1, "NetworkCardIndex": 1})))


SPEC = "LaunchSpecification"
INTERFACES, MAPPINGS, TAGS = (SPEC, "NetworkInterfaces"), (SPEC, "BlockDeviceMappings"), ("TagSpecifications", 0)


@pytest.mark.parametrize(("bad", "path", "words"), [
    (request(ImageIdd="x"), (SPEC, "ImageIdd"), "LaunchSpecification.ImageIdd: there is no such key (did you mean 'ImageId'?)"),
    ({**request(), "Foo": 1}, ("Foo",), "Foo: there is no such key; they are LaunchSpecification, TagSpecifications"),
    (request(KeyName=["a"]), (SPEC, "KeyName"), "alias 'key' (LaunchSpecification.KeyName): expected str, found ['a'] (list)"),
    (request(EbsOptimized="no"), (SPEC, "EbsOptimized"), "expected bool, found 'no' (str)"),
    ({**request(), "InstanceCount": True}, ("InstanceCount",), "alias 'n' (InstanceCount): expected int, found True (bool)"),
    ({**request(), "InstanceCount": 0}, ("InstanceCount",), "at least 1"),
    ({**request(), "ValidUntil": "soon"}, ("ValidUntil",), "expected datetime, found 'soon' (str)"),
    ({**request(), "Type": "once"}, ("Type",), "'once' is none of the values it can have; they are one-time, persistent"),
    (request(InstanceType="m3.mediun"), (SPEC, "InstanceType"), "'m3.mediun' is none of the values it can have (did you mean 'm3.medi"),
    (request(Monitoring={}), (SPEC, "Monitoring", "Enabled"), "required, but nothing is there"),
    ({"LaunchSpecification": []}, (SPEC,), "expected dict, found [] (list)"),
    ({"LaunchSpecification": {"InstanceType": "t3.micro"}}, (SPEC, "ImageId"), "alias 'image' (LaunchSpecification.ImageId): required"),
    ({"LaunchSpecification": {"ImageId": "ami-1"}}, (SPEC, "InstanceType"), "alias 'itype' (LaunchSpecification.InstanceType): required"),
    (request(BlockDeviceMappings=[{"Ebs": {"VolumeSize": 8}}]), (*MAPPINGS, 0, "DeviceName"), "required in a block device mapping"),
    (request(BlockDeviceMappings=[{"DeviceName": "/dev/sdb"}] * 2), (*MAPPINGS, 1, "DeviceName"), "used by two mappings"),
    (apply(request(), disk=0), (*MAPPINGS, 0, "Ebs", "VolumeSize"), "alias 'disk'"),
    (apply(request(), disk={"Size": 8}), (*MAPPINGS, 0, "Ebs", "Size"), "there is no such key"),
    (request(SubnetId="s", NetworkInterfaces=[{"DeviceIndex": 0}]), (SPEC, "SubnetId"), "not allowed beside NetworkInterfaces"),
    (request(SecurityGroupIds=["g"], NetworkInterfaces=[{"DeviceIndex": 0}]), (SPEC, "SecurityGroupIds"), "not allowed beside"),
    (request(NetworkInterfaces=[{"SubnetId": "s"}]), (*INTERFACES, 0, "DeviceIndex"), "required in an interface"),
    (request(NetworkInterfaces=[{"DeviceIndex": 0}] * 2), (*INTERFACES, 1, "DeviceIndex"), "used by two interfaces"),
    (apply(request(NetworkInterfaces=[{"DeviceIndex": 1}]), public=True), (*INTERFACES, 0, "AssociatePublicIpAddress"), "single interface"),
    (request(UserData="#!/bin/sh"), (SPEC, "UserData"), "alias 'udata' (LaunchSpecification.UserData): not base64"),
    (request(UserData="ä"), (SPEC, "UserData"), "not base64"),
    (request(IamInstanceProfile={}), (SPEC, "IamInstanceProfile"), "needs either Name or Arn"),
    (request(IamInstanceProfile={"Name": "a", "Arn": "b"}), (SPEC, "IamInstanceProfile"), "needs either Name or Arn"),
    ({**request(), "TagSpecifications": [{"Tags": []}]}, (*TAGS, "ResourceType"), "required in a tag specification"),
    ({**request(), "TagSpecifications": [{"ResourceType": "instance"}]}, (*TAGS, "ResourceType"), "not tagged by this call"),
    (apply(request(), tags={"aws:x": "1"}), (*TAGS, "Tags", 0, "Key"), "does not begin with aws:"),
    (apply(request(), tags={"": "1"}), (*TAGS, "Tags", 0, "Key"), "1 to 128 characters"),
    (apply(request(), tags={"x": "1" * 257}), (*TAGS, "Tags", 0, "Value"), "at most 256 characters"),
    (apply(request(), tags={str(i): "" for i in range(51)}), (*TAGS, "Tags"), "51 tags"),
    ({**request(), "TagSpecifications": [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a"}, {"Key": "a"}]}]},
     (*TAGS, "Tags", 1, "Key"), "used by two tags"),
    ({**request(), "SpotPrice": "0"}, ("SpotPrice",), "alias 'price' (SpotPrice): a price is a finite number above 0"),
    ({**request(), "ClientToken": "x" * 65}, ("ClientToken",), "1 to 64 ASCII characters"),
    ({**request(), "DryRun": True}, ("DryRun",), "a dry run launches nothing; leave it out, and ask with `await preflight("),
    ({"ImageId": "ami-1", "InstanceType": "t3.micro", "DryRun": True}, ("DryRun",), "a dry run launches nothing"),
    ({**request(), "InstanceInterruptionBehavior": "stop"}, ("InstanceInterruptionBehavior",), "only allowed when Type is persistent"),
])
def test_what_aws_would_refuse_is_refused_with_its_path(bad: Request, path: tuple[str | int, ...], words: str) -> None:
    error = refusal(bad)
    assert error.path == path
    assert words in str(error)


def test_user_data_of_16384_bytes_fits_and_one_more_does_not() -> None:
    validate(apply(request(), udata="x" * 16_384))
    with pytest.raises(UserDataTooLarge) as caught:
        validate(apply(request(Typo=1), udata="x" * 16_383 + "ä"))
    assert (caught.value.alias, caught.value.path) == ("udata", ("LaunchSpecification", "UserData"))
    assert "16,385 bytes, where EC2 takes at most 16,384" in str(caught.value)
    assert "LaunchSpecification.Typo: there is no such key" in str(caught.value)


def test_an_instance_type_newer_than_botocore_is_left_to_aws() -> None:
    validate(request(InstanceType="z99q-flex.2xlarge"))


def test_everything_that_is_wrong_is_in_the_one_error() -> None:
    error = refusal({"LaunchSpecification": {"ImageId": 7, "KeyNam": "x", "NetworkInterfaces": [{}]}, "SpotPrice": "-1"})
    assert str(error).splitlines() == [
        "5 things are wrong:",
        "  alias 'image' (LaunchSpecification.ImageId): expected str, found 7 (int)",
        "  LaunchSpecification.KeyNam: there is no such key (did you mean 'KeyName'?)",
        "  alias 'itype' (LaunchSpecification.InstanceType): required, but nothing is there",
        "  LaunchSpecification.NetworkInterfaces[0].DeviceIndex: required in an interface, but nothing is there",
        "  alias 'price' (SpotPrice): a price is a finite number above 0",
    ]
    assert (error.alias, error.path, error.found) == ("image", ("LaunchSpecification", "ImageId"), 7)


NAMES = st.sampled_from(["DeviceIndex", "Ebs", "Key", "Tags", "x"])
JUNK = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner), max_leaves=5)
LAUNCH = st.sampled_from(["NetworkInterfaces", "BlockDeviceMappings", "UserData", "IamInstanceProfile", "ImageId", "SubnetId"])
REST = st.sampled_from(["TagSpecifications", "SpotPrice", "InstanceCount", "ClientToken", "Type", "ValidUntil"])


def set_everything(bad: Request) -> Request:
    return apply(bad, subnet="s", group="g", disk=1, tags={}, zone="z", profile="p", udata="u", n=1, price=1)


@given(st.dictionaries(LAUNCH, JUNK), st.dictionaries(REST, JUNK))
@settings(max_examples=200, deadline=None)
def test_no_malformed_request_gets_another_answer_than_a_refusal(launch: dict[str, Any], rest: dict[str, Any]) -> None:
    malformed = {**rest, "LaunchSpecification": launch}
    for action in (validate, view, set_everything):
        try:
            action(malformed)
        except RequestInvalid as error:
            assert str(error)
