"""RunInstances: its options at their places, its finished form, and what EC2 refuses in it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from aiobotocore.session import AioSession

from fleetctl import templates
from fleetctl.errors import RequestInvalid, UserDataTooLarge
from fleetctl.shapes import Call, Request, apply, calls, finish, shape_of, validate, view

DEADLINE = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)


def request(**launch: Any) -> Request:
    """A small request that is valid, with more in it."""
    return {"ImageId": "ami-1", "InstanceType": "t3.micro", **launch}


def spot(**options: Any) -> Request:
    return request(InstanceMarketOptions={"MarketType": "spot", "SpotOptions": options})


def finished(base: Request, **more: Any) -> Request:
    return finish(base, n=3, token="b4f1", valid_until=DEADLINE, tags={"ours": "2"}, **more)


def test_a_request_with_an_image_or_a_market_at_its_top_is_for_run_instances() -> None:
    assert shape_of(request()).method == shape_of({"InstanceMarketOptions": {}}).method == "run_instances"


def test_every_option_reaches_its_place() -> None:
    full = apply(request(), zone="eu-west-1a", itype="m3.medium", subnet="subnet-1", groups=["sg-1", "sg-2"], public=True, price=0.05, n=3,
                 key="mine", udata="#!/bin/sh\necho ä", profile="worker", image="ami-2", disk=20, tags={"a": "1"})
    assert full == {
        "Placement": {"AvailabilityZone": "eu-west-1a"},
        "InstanceType": "m3.medium",
        "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-1", "Groups": ["sg-1", "sg-2"], "AssociatePublicIpAddress": True}],
        "KeyName": "mine",
        "UserData": "#!/bin/sh\necho ä",
        "IamInstanceProfile": {"Name": "worker"},
        "ImageId": "ami-2",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20}}],
        "InstanceMarketOptions": {"SpotOptions": {"MaxPrice": "0.05"}},
        "MinCount": 1,
        "MaxCount": 3,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}]}],
    }
    validate(full)
    assert view(full, "price", "n") == {"price": Decimal("0.05"), "n": 3}


async def bodies(call: Call) -> list[dict[str, Any]]:
    """What the two clients, boto3's and the session's own, would post for the call."""
    posted: list[dict[str, Any]] = []

    def answer_instead(params: dict[str, Any], **_: Any) -> tuple[SimpleNamespace, dict[str, Any]]:
        posted.append(params["body"])
        return SimpleNamespace(status_code=200), {}

    keys = {"region_name": "eu-west-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    client = boto3.client("ec2", **keys)
    client.meta.events.register("before-call.ec2", answer_instead)
    getattr(client, call.method)(**call.parameters)
    async with AioSession().create_client("ec2", **keys) as waiting:
        waiting.meta.events.register("before-call.ec2", answer_instead)
        await getattr(waiting, call.method)(**call.parameters)
    return posted


@pytest.mark.parametrize(("base", "key"), [
    (request(), "UserData"),
    ({"LaunchSpecification": request()}, "LaunchSpecification.UserData"),
    ({"LaunchTemplateData": request()}, "LaunchTemplateData.UserData"),
])
async def test_user_data_is_encoded_exactly_once_on_the_way_in_each_call(base: Request, key: str) -> None:
    script = "#!/bin/sh\necho ä"
    for body in await bodies(calls(finished(apply(base, udata=script)))[0]):
        assert base64.b64decode(body[key], validate=True).decode() == script


def test_user_data_of_16384_bytes_fits_and_one_more_does_not() -> None:
    validate(apply(request(), udata="x" * 16_384))
    with pytest.raises(UserDataTooLarge, match="16,385 bytes"):
        validate(apply(request(), udata="x" * 16_383 + "ä"))


def test_a_finished_request_is_for_one_time_spot_machines_that_terminate_and_all_are_tagged() -> None:
    done = finished(apply(spot(MaxPrice="0.05"), tags={"mine": "1"}))
    ours = [{"Key": "ours", "Value": "2"}]
    assert done == {
        "ImageId": "ami-1", "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 3, "ClientToken": "b4f1",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {
            "MaxPrice": "0.05", "SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "mine", "Value": "1"}, *ours]},
            *({"ResourceType": kind, "Tags": ours} for kind in ("volume", "network-interface", "spot-instances-request"))],
    }
    assert [(call.method, call.parameters) for call in calls(done)] == [("run_instances", done)]


def test_a_persistent_request_is_finished_as_one_time_without_its_end() -> None:
    done = finished(spot(SpotInstanceType="persistent", InstanceInterruptionBehavior="stop", ValidUntil=DEADLINE))
    assert done["InstanceMarketOptions"]["SpotOptions"] == {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}


def test_the_least_that_the_request_says_gives_way_to_the_launch_s_own_minimum() -> None:
    assert finished(request(MinCount=5, MaxCount=5))["MinCount"] == 1


def test_finished_for_on_demand_it_names_no_market_and_tags_no_spot_request() -> None:
    base = apply(spot(MaxPrice="0.05"), tags={"mine": "1"})
    base["TagSpecifications"].append({"ResourceType": "spot-instances-request", "Tags": []})
    done = finished(base, on_demand=True)
    assert "InstanceMarketOptions" not in done
    assert {one["ResourceType"] for one in done["TagSpecifications"]} == {"instance", "volume", "network-interface"}
    assert done["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_request_spot_instances_is_not_finished_for_on_demand() -> None:
    with pytest.raises(RequestInvalid, match="launches no on-demand instances"):
        finished({"LaunchSpecification": request()}, on_demand=True)


MARKET, OPTIONS = "InstanceMarketOptions", ("InstanceMarketOptions", "SpotOptions")


@pytest.mark.parametrize(("bad", "path", "words"), [
    (request(ImageIdd="x"), ("ImageIdd",), "there is no such key (did you mean 'ImageId'?)"),
    ({"InstanceMarketOptions": {}, "InstanceType": "t3.micro"}, ("ImageId",), "alias 'image' (ImageId): required"),
    ({"ImageId": "ami-1"}, ("InstanceType",), "alias 'itype' (InstanceType): required"),
    (request(SubnetId="s", NetworkInterfaces=[{"DeviceIndex": 0}]), ("SubnetId",), "not allowed beside NetworkInterfaces"),
    (request(PrivateIpAddress="10.0.0.1", NetworkInterfaces=[{"DeviceIndex": 0}]), ("PrivateIpAddress",), "not allowed beside"),
    (request(PrivateIpAddress="10.0.0.1", MaxCount=2), ("PrivateIpAddress",), "only allowed when one machine is launched"),
    (request(Ipv6AddressCount=1, NetworkInterfaces=[{"DeviceIndex": 0}]), ("Ipv6AddressCount",), "not allowed beside"),
    (request(NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": "eni-1", "AssociatePublicIpAddress": True}]),
     ("NetworkInterfaces", 0, "AssociatePublicIpAddress"), "alias 'public' (NetworkInterfaces[0].AssociatePublicIpAddress): only"),
    (request(MinCount=0), ("MinCount",), "at least 1"),
    (request(MaxCount=0), ("MaxCount",), "alias 'n' (MaxCount): at least 1"),
    (request(MinCount=3, MaxCount=2), ("MinCount",), "more than MaxCount, which is 2"),
    (request(ClientToken="x" * 65), ("ClientToken",), "1 to 64 ASCII characters"),
    (request(UserData="\ud800"), ("UserData",), "alias 'udata' (UserData): not a text that UTF-8 can say"),
    (request(DisableApiTermination=True), ("DisableApiTermination",), "a spot instance cannot be protected from termination"),
    (request(InstanceInitiatedShutdownBehavior="stop"), ("InstanceInitiatedShutdownBehavior",), "terminates at a shutdown from inside"),
    (request(HibernationOptions={"Configured": True}), ("HibernationOptions", "Configured"), "does not end when it is interrupted"),
    (request(InstanceMarketOptions={"MarketType": "capacity-block"}), (MARKET, "MarketType"), "of the market spot or on-demand"),
    (spot(SpotInstanceType="persistent"), (*OPTIONS, "InstanceInterruptionBehavior"), "a persistent request needs stop or hibernate"),
    (spot(InstanceInterruptionBehavior="stop"), (*OPTIONS, "InstanceInterruptionBehavior"), "only allowed for a persistent request"),
    (spot(ValidUntil=DEADLINE), (*OPTIONS, "ValidUntil"), "only allowed for a persistent request"),
    (spot(MaxPrice="0"), (*OPTIONS, "MaxPrice"), "alias 'price' (InstanceMarketOptions.SpotOptions.MaxPrice): a price is a finite number"),
    (spot(MaxPrice="0.0009"), (*OPTIONS, "MaxPrice"), "EC2 takes no cap below 0.001"),
    (request(TagSpecifications=[{"ResourceType": "fleet"}]), ("TagSpecifications", 0, "ResourceType"),
     "not tagged by this call; it takes instance, volume, network-interface, spot-instances-request"),
])
def test_what_ec2_would_refuse_is_refused_with_its_path(bad: Request, path: tuple[str | int, ...], words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        validate(bad)
    assert caught.value.path == path
    assert words in str(caught.value)


def test_what_a_launch_template_says_need_not_be_said_again() -> None:
    validate({"InstanceMarketOptions": {"MarketType": "spot"}, "LaunchTemplate": {"LaunchTemplateId": "lt-1"}})


def test_the_least_cap_of_ec2_is_taken() -> None:
    validate(spot(MaxPrice="0.001"))


def test_the_template_needs_an_image_and_a_type_and_nothing_more() -> None:
    with pytest.raises(RequestInvalid) as caught:
        validate(templates.spot())
    assert str(caught.value).splitlines() == [
        "2 things are wrong:",
        "  alias 'image' (ImageId): required, but nothing is there",
        "  alias 'itype' (InstanceType): required, but nothing is there"]
    validate(templates.spot(image="ami-1", itype="t3.micro"))


def test_the_template_requires_session_tokens_and_leaves_no_volume() -> None:
    done = finished(templates.spot(image="ami-1", itype="t3.micro", root="/dev/sda1", disk=9))
    assert done["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
    assert done["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeType": "gp3", "DeleteOnTermination": True, "VolumeSize": 9}}]
