"""Options reach their places in a launch request by the lens laws, and a finished request says what it must."""

from __future__ import annotations

import base64
import copy
import doctest
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fleetctl import shapes, templates
from fleetctl.errors import RequestInvalid
from fleetctl.shapes import Request, apply, finish, rules, shape_of, validate, view

DEADLINE = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)


def request(**launch: Any) -> Request:
    """A small request that is valid, with more in its launch specification."""
    return {"SpotPrice": "0.05", "LaunchSpecification": {"ImageId": "ami-1", "InstanceType": "t3.micro", **launch}}


def launch_of(changed: Request) -> dict[str, Any]:
    launch: dict[str, Any] = changed["LaunchSpecification"]
    return launch


def refusal(bad: Any) -> RequestInvalid:
    with pytest.raises(RequestInvalid) as caught:
        validate(bad)
    return caught.value


# -- which call

def test_a_request_with_a_launch_specification_is_for_request_spot_instances() -> None:
    shape = shape_of(request())
    assert (shape.operation, shape.method, shape.tagged) == ("RequestSpotInstances", "request_spot_instances", ("spot-instances-request",))
    assert repr(shape).startswith("<Shape RequestSpotInstances: zone itype subnet")


@pytest.mark.parametrize(("bad", "words"), [
    ({"InstanceType": "t3.micro"}, "no launch call takes this request; its keys are ['InstanceType']"),
    ({}, "its keys are []"),
    ([1], "a launch request is a dict, found [1] (list)"),
])
def test_a_request_that_no_call_takes_is_refused_with_what_would_tell(bad: Any, words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        shape_of(bad)
    assert words in str(caught.value)
    if isinstance(bad, dict):
        assert "LaunchSpecification (RequestSpotInstances)" in caught.value.todo


def test_a_request_for_two_calls_at_once_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="more than one launch call") as caught:
        shape_of({**request(), "ImageId": "ami-1"})
    assert caught.value.todo == (
        "tell the call by the keys of exactly one: LaunchSpecification (RequestSpotInstances), "
        "ImageId or InstanceMarketOptions (RunInstances), LaunchTemplateConfigs or LaunchTemplateData (CreateFleet)")


def test_an_option_that_only_another_call_has_is_refused_with_that_call() -> None:
    for words, options in (("the alias 'vcpus' has no place in RequestSpotInstances", {"vcpus": 4}),
                           ("alias 'itype' (LaunchSpecification.InstanceType): RequestSpotInstances takes one, found ['a', 'b'] (list)",
                            {"itype": ["a", "b"]})):
        with pytest.raises(RequestInvalid) as caught:
            apply(request(), **options)
        assert (caught.value.what, caught.value.todo) == (words, "write the request for CreateFleet (LaunchTemplateConfigs)")


# -- options

def test_every_option_reaches_its_place() -> None:
    full = apply({"LaunchSpecification": {}}, zone="eu-west-1a", itype="m3.medium", subnet="subnet-1", groups=["sg-1", "sg-2"], public=True,
                 price=0.05, n=3, key="mine", udata="#!/bin/sh\necho ä", profile="worker", image="ami-1", disk=20, tags={"a": "1", "b": ""})
    assert full == {
        "LaunchSpecification": {
            "Placement": {"AvailabilityZone": "eu-west-1a"},
            "InstanceType": "m3.medium",
            "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-1", "Groups": ["sg-1", "sg-2"], "AssociatePublicIpAddress": True}],
            "KeyName": "mine",
            "UserData": base64.b64encode("#!/bin/sh\necho ä".encode()).decode(),
            "IamInstanceProfile": {"Name": "worker"},
            "ImageId": "ami-1",
            "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20}}],
        },
        "SpotPrice": "0.05",
        "InstanceCount": 3,
        "TagSpecifications": [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]}],
    }
    validate(full)
    assert view(full) == {
        "zone": "eu-west-1a", "itype": "m3.medium", "subnet": "subnet-1", "groups": ["sg-1", "sg-2"], "public": True,
        "price": Decimal("0.05"), "n": 3, "key": "mine",
        "udata": "#!/bin/sh\necho ä", "profile": "worker", "image": "ami-1", "disk": 20, "tags": {"a": "1", "b": ""},
    }


def test_the_base_request_is_never_changed() -> None:
    base = request(SubnetId="subnet-1", SecurityGroupIds=["sg-1"], NetworkInterfaces=[{"DeviceIndex": 1}],
                   BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}])
    before = copy.deepcopy(base)
    apply(base, subnet="subnet-2", group="sg-2", public=True, disk=9, tags={"a": "b"}, zone="z", profile="p")
    view(base)
    assert base == before


@pytest.mark.parametrize(("options", "words"), [
    ({"itype": 3}, "alias 'itype' (LaunchSpecification.InstanceType): expected str, found 3 (int)"),
    ({"zone": None}, "alias 'zone' (LaunchSpecification.Placement.AvailabilityZone): expected str, found None (NoneType)"),
    ({"public": "yes"}, "alias 'public' (LaunchSpecification.NetworkInterfaces[0].AssociatePublicIpAddress): "
                        "expected bool, found 'yes' (str)"),
    ({"groups": "sg-1"}, "alias 'groups' (LaunchSpecification.NetworkInterfaces[0].Groups): expected list or tuple, found 'sg-1' (str)"),
    ({"n": True}, "alias 'n' (InstanceCount): expected int, found True (bool)"),
    ({"n": 0}, "alias 'n' (InstanceCount): at least 1; found 0 (int)"),
    ({"price": True}, "alias 'price' (SpotPrice): expected Decimal or int or float or str, found True (bool)"),
    ({"price": 0}, "alias 'price' (SpotPrice): a price is a finite number above 0; found 0 (int)"),
    ({"price": -0.01}, "alias 'price' (SpotPrice): a price is a finite number above 0; found -0.01 (float)"),
    ({"price": float("nan")}, "alias 'price' (SpotPrice): a price is a finite number above 0; found nan (float)"),
    ({"price": Decimal("Infinity")}, "alias 'price' (SpotPrice): a price is a finite number above 0; found Decimal('Infinity') (Decimal)"),
    ({"price": "cheap"}, "alias 'price' (SpotPrice): not a number; found 'cheap' (str)"),
    ({"tags": {"n": 3}}, "alias 'tags' (TagSpecifications[0].Tags): the tag 'n': 3 is not str: str; found {'n': 3} (dict)"),
    ({"zoen": "a"}, "there is no alias 'zoen' (did you mean 'zone'?)\nto do: the aliases are zone, itype, subnet, groups, group, "
                    "public, key, udata, profile, image, disk, price, n, tags"),
    ({"group": "a", "groups": ["b"]}, "the aliases 'group' and 'groups' say the same thing; give one of them"),
])
def test_a_wrong_option_is_refused_with_alias_path_and_finding(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        apply(request(), **options)
    assert str(caught.value) == words
    assert caught.value.alias in options


@pytest.mark.parametrize(("base", "words"), [
    ({"LaunchSpecification": "x"}, "at LaunchSpecification stands 'x' (str), not a dict"),
    ({"LaunchSpecification": {"Placement": []}}, "at LaunchSpecification.Placement stands [] (list), not a dict"),
    (request(NetworkInterfaces={}), "LaunchSpecification.NetworkInterfaces: expected list of dicts, found {} (dict)"),
    (request(NetworkInterfaces=["eni"]), "LaunchSpecification.NetworkInterfaces: expected list of dicts, found ['eni'] (list)"),
])
def test_a_base_request_that_does_not_fit_is_refused_with_what_stands_there(base: Request, words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        apply(base, zone="a", subnet="subnet-1")
    assert words in str(caught.value)


@pytest.mark.parametrize(("price", "sent"), [(0.05, "0.05"), ("0.050", "0.050"), (1e-05, "0.00001"), (Decimal("1E+1"), "10"), (2, "2")])
def test_a_price_becomes_plain_digits(price: Any, sent: str) -> None:
    assert apply(request(), price=price)["SpotPrice"] == sent


def test_a_profile_is_named_by_name_or_by_arn() -> None:
    arn = "arn:aws:iam::123456789012:instance-profile/worker"
    assert launch_of(apply(request(), profile="worker"))["IamInstanceProfile"] == {"Name": "worker"}
    assert launch_of(apply(request(IamInstanceProfile={"Name": "old"}), profile=arn))["IamInstanceProfile"] == {"Arn": arn}
    assert view(request(IamInstanceProfile={"Arn": arn}), "profile") == {"profile": arn}


def test_user_data_with_line_breaks_in_its_base64_is_read() -> None:
    script = "echo " + "x" * 100
    assert view(request(UserData=base64.encodebytes(script.encode()).decode()), "udata") == {"udata": script}


# -- network

def test_what_stands_beside_the_interfaces_moves_into_the_first() -> None:
    base = request(SubnetId="subnet-1", SecurityGroupIds=["sg-1"])
    assert launch_of(apply(base, public=False)) == {"ImageId": "ami-1", "InstanceType": "t3.micro", "NetworkInterfaces": [
        {"DeviceIndex": 0, "SubnetId": "subnet-1", "Groups": ["sg-1"], "AssociatePublicIpAddress": False}]}
    moved = launch_of(apply(base, subnet="subnet-2"))["NetworkInterfaces"]
    assert moved == [{"DeviceIndex": 0, "SubnetId": "subnet-2", "Groups": ["sg-1"]}]
    moved = launch_of(apply(base, group="sg-2"))["NetworkInterfaces"]
    assert moved == [{"DeviceIndex": 0, "SubnetId": "subnet-1", "Groups": ["sg-2"]}]
    assert view(base, "subnet", "group") == {"subnet": "subnet-1", "group": "sg-1"}
    assert launch_of(apply(base, zone="a"))["SubnetId"] == "subnet-1"


def test_an_existing_interface_keeps_what_it_says_and_gets_its_device_index() -> None:
    base = request(NetworkInterfaces=[{"Description": "main", "Groups": ["sg-1"]}])
    assert launch_of(apply(base, subnet="subnet-1"))["NetworkInterfaces"] == [
        {"DeviceIndex": 0, "Description": "main", "Groups": ["sg-1"], "SubnetId": "subnet-1"}]


def test_the_interface_with_device_index_0_is_meant_wherever_it_stands() -> None:
    second, primary = {"DeviceIndex": 1, "SubnetId": "subnet-1"}, {"DeviceIndex": 0, "SubnetId": "subnet-0"}
    assert view(request(NetworkInterfaces=[second, primary]), "subnet") == {"subnet": "subnet-0"}
    assert launch_of(apply(request(NetworkInterfaces=[second, primary]), subnet="subnet-2"))["NetworkInterfaces"] == [
        {"DeviceIndex": 0, "SubnetId": "subnet-2"}, second]
    assert launch_of(apply(request(NetworkInterfaces=[second]), subnet="subnet-2"))["NetworkInterfaces"] == [
        {"DeviceIndex": 0, "SubnetId": "subnet-2"}, second]


def test_groups_by_name_are_seen_and_replaced_but_never_lost_for_another_options_sake() -> None:
    base = request(SecurityGroups=["default"])
    assert view(base, "groups") == {"groups": ["default"]}
    assert launch_of(apply(base, groups=["sg-1"]))["NetworkInterfaces"] == [{"DeviceIndex": 0, "Groups": ["sg-1"]}]
    error = refusal(apply(base, subnet="subnet-1"))
    assert error.path == ("LaunchSpecification", "SecurityGroups")


def test_two_different_subnets_are_left_for_validate_to_refuse() -> None:
    base = request(SubnetId="subnet-1", NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": "subnet-2"}])
    assert refusal(apply(base, public=True)).path == ("LaunchSpecification", "SubnetId")


def test_group_shows_one_group_and_refuses_to_show_one_of_several() -> None:
    with pytest.raises(RequestInvalid, match="expected one entry, found 2"):
        view(apply(request(), groups=["sg-1", "sg-2"]), "group")


# -- disk and tags

def test_disk_is_for_the_root_device_under_the_name_the_request_gives_it() -> None:
    data = {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 500}}
    root = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8, "Encrypted": True}}
    assert launch_of(apply(request(BlockDeviceMappings=[data, root]), disk=30))["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 30, "Encrypted": True}}, data]
    assert launch_of(apply(request(BlockDeviceMappings=[data]), disk=30))["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 30}}, data]


def test_disk_takes_the_fields_of_the_volume_too() -> None:
    changed = apply(apply(request(), disk=8), disk={"VolumeType": "gp3", "Throughput": 250})
    assert launch_of(changed)["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "VolumeType": "gp3", "Throughput": 250}}]
    assert view(changed, "disk") == {"disk": {"VolumeSize": 8, "VolumeType": "gp3", "Throughput": 250}}
    assert view(apply(changed, disk=9), "disk") == {"disk": {"VolumeSize": 9, "VolumeType": "gp3", "Throughput": 250}}


def test_view_shows_under_new_names_and_refuses_what_is_not_there() -> None:
    assert view(request(), "image", cap="price") == {"image": "ami-1", "cap": Decimal("0.05")}
    with pytest.raises(RequestInvalid, match=r"alias 'zone' .*: LaunchSpecification.Placement: nothing is there; at LaunchSpecification"):
        view(request(), "zone")


# -- the finished request

def test_a_finished_request_says_count_token_end_and_type_and_carries_both_sets_of_tags() -> None:
    base = apply(request(), tags={"mine": "1", "both": "old"}, n=7)
    done = finish(base, n=3, token="t-1", valid_until=DEADLINE.astimezone(timezone(timedelta(hours=2))), tags={"ours": "2", "both": "new"})
    assert {key: value for key, value in done.items() if key != "LaunchSpecification"} == {
        "SpotPrice": "0.05", "InstanceCount": 3, "ClientToken": "t-1", "Type": "one-time",
        "ValidUntil": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        "TagSpecifications": [{"ResourceType": "spot-instances-request", "Tags": [
            {"Key": "mine", "Value": "1"}, {"Key": "both", "Value": "new"}, {"Key": "ours", "Value": "2"}]}],
    }
    assert done["ValidUntil"].utcoffset() == timedelta(0)
    assert "ClientToken" not in base


def test_a_persistent_request_is_finished_as_one_time() -> None:
    assert finish({**request(), "Type": "persistent"}, n=1, token="t", valid_until=DEADLINE, tags={})["Type"] == "one-time"


def test_a_request_that_ec2_would_refuse_is_never_finished() -> None:
    with pytest.raises(RequestInvalid, match="ClientToken: 1 to 64 ASCII characters"):
        finish(request(), n=1, token="", valid_until=DEADLINE, tags={})


@pytest.mark.parametrize("end", [datetime(2030, 1, 1), "2030-01-01", 5])
def test_a_finish_without_a_time_zone_is_refused(end: Any) -> None:
    with pytest.raises(RequestInvalid, match="ValidUntil: expected a datetime with a time zone"):
        finish(request(), n=1, token="t", valid_until=end, tags={})


def test_botocore_takes_the_finished_request() -> None:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator
    done = finish(apply(request(), subnet="subnet-1", group="sg-1", disk=8), n=1, token="t", valid_until=DEADLINE, tags={"a": "b"})
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2").operation_model("RequestSpotInstances")
    assert not ParamValidator().validate(done, model.input_shape).has_errors()


def test_botocore_is_not_imported_before_something_is_validated() -> None:
    # `fleetctl/__init__` imports much, so the module is reached beside it.
    code = """if True:
        import sys, types
        sys.modules["fleetctl"] = types.ModuleType("fleetctl")
        sys.modules["fleetctl"].__path__ = [sys.argv[1]]
        import fleetctl.shapes
        fleetctl.shapes.apply({"LaunchSpecification": {}}, zone="a")
        assert "botocore" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, str(Path(shapes.__file__).parent.parent)], check=True, timeout=30)


@pytest.mark.parametrize("module", [shapes, shapes.answers, rules, templates])
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
