"""What holds for every option of every launch call: the lens laws, a place in botocore's model, and no crash whatever stands there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl.errors import RequestInvalid
from fleetctl.shapes import SHAPES, Call, Request, Shape, apply, callmodel, calls, finish, validate, view

DEADLINE = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)
SPOT, RUN, FLEET = SHAPES
NETWORK: Request = {"ImageId": "ami-1", "SecurityGroupIds": ["sg-1"], "BlockDeviceMappings": [{"DeviceName": "/dev/sda1"}]}
BASES: dict[str, Request] = {
    SPOT.operation: {"LaunchSpecification": {**NETWORK, "InstanceType": "t3.micro", "SubnetId": "subnet-9"}},
    RUN.operation: {**NETWORK, "InstanceType": "t3.micro", "SubnetId": "subnet-9", "UserData": "echo"},
    FLEET.operation: {
        "LaunchTemplateData": {**NETWORK, "InstanceType": "t3.micro", "Placement": {"Tenancy": "default"}},
        "LaunchTemplateConfigs": [{"Overrides": [{"InstanceType": kind, "SubnetId": place} for kind in ("t3.micro", "c7g.large")
                                                 for place in ("subnet-1", "subnet-2")]}]},
}

WORD = st.text(max_size=8)
SEVERAL = WORD | st.lists(WORD, min_size=2, max_size=4, unique=True)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("zone", "itype", "subnet", "group", "key", "udata", "image"), WORD),
    "profile": WORD | st.just("arn:aws:iam::123456789012:instance-profile/worker"),
    "groups": st.lists(WORD, max_size=3),
    "public": st.booleans(),
    "price": st.decimals(min_value="0.0001", max_value=100, places=4),
    "n": st.integers(1, 1000),
    "disk": st.integers(1, 1000),
    "tags": st.dictionaries(WORD, WORD, max_size=3),
}
GIBIBYTES = st.integers(1, 10**6).map(lambda mebibytes: mebibytes / 1024)


def pair(amounts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(0) | amounts, amounts).map(lambda both: tuple(sorted(both)))


FLEET_VALUES = {**VALUES, "itype": SEVERAL, "subnet": SEVERAL, "zone": SEVERAL,
                "vcpus": st.integers(1, 999) | pair(st.integers(1, 999)), "memory": GIBIBYTES | pair(GIBIBYTES)}
EVERY = [(shape, alias) for shape in SHAPES for alias in sorted(FLEET_VALUES if shape is FLEET else VALUES)]
GOOD: dict[str, Any] = {
    "zone": "eu-west-1a", "itype": "c7g.large", "subnet": "subnet-3", "group": "sg-2", "groups": ["sg-2", "sg-3"], "key": "me",
    "udata": "#!/bin/sh\necho ä", "image": "ami-2", "profile": "worker", "public": True, "price": 0.05, "n": 3, "disk": 20,
    "tags": {"a": "b"}, "vcpus": (2, 8), "memory": 16,
}


def named(case: Any) -> str | None:
    return case.operation if isinstance(case, Shape) else None


@pytest.mark.parametrize(("shape", "alias"), EVERY, ids=named)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_each_option_keeps_the_lens_laws_in_each_call(shape: Shape, alias: str, data: st.DataObject) -> None:
    values = (FLEET_VALUES if shape is FLEET else VALUES)[alias]
    base, first, second = BASES[shape.operation], data.draw(values), data.draw(values)
    before = copy.deepcopy(base)
    once = apply(base, **{alias: first})
    assert view(once, alias) == {alias: first}
    assert view(once)[{"group": "groups"}.get(alias, alias)] == ([first] if alias == "group" else first)
    assert apply(once, **{alias: view(once, alias)[alias]}) == once
    assert apply(once, **{alias: second}) == apply(base, **{alias: second})
    assert base == before


def test_every_option_of_every_call_is_covered_by_the_laws() -> None:
    assert {(shape.operation, alias) for shape, alias in EVERY} == {(shape.operation, alias) for shape in SHAPES for alias in shape.options}


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_every_option_leads_to_a_place_that_its_operation_has(shape: Shape) -> None:
    assert list(shape.table_faults()) == []


def test_a_table_that_leads_nowhere_is_found_out() -> None:
    places: list[tuple[str | int, ...]] = [
        ("LaunchSpecification", "NetworkInterfaces", 0, "Groups", 1), ("LaunchSpecification", "ImageID"),
        ("LaunchSpecification", "Groups", "x"), ("SpotPrice", 0)]
    assert [fault.why for fault in callmodel.table_faults("RequestSpotInstances", places)] == [
        "RequestSpotInstances has no LaunchSpecification.ImageID", "RequestSpotInstances has no LaunchSpecification.Groups",
        "RequestSpotInstances has no SpotPrice[0]"]


EC2 = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")


def botocore_takes(call: Call) -> None:
    operation = next(name for name in EC2.operation_names if name.lower() == call.method.replace("_", ""))
    errors = ParamValidator().validate(call.parameters, EC2.operation_model(operation).input_shape)
    assert not errors.has_errors(), errors.generate_report()


def put_together(sent: Sequence[Call]) -> Request:
    """A launch request again, from the calls that it was sent by."""
    *before, launch = [call.parameters for call in sent]
    return {**launch, "LaunchTemplateData": before[0]["LaunchTemplateData"]} if before else launch


@pytest.mark.parametrize(("shape", "alias"), EVERY, ids=named)
def test_what_an_option_puts_into_a_request_botocore_takes_and_it_is_read_from_the_calls_again(shape: Shape, alias: str) -> None:
    asked = apply(BASES[shape.operation], **{"subnet": "subnet-1", alias: GOOD[alias]})
    sent = calls(finish(asked, n=GOOD["n"], token="b4f1", valid_until=DEADLINE, tags={}))
    for call in sent:
        botocore_takes(call)
    assert view(put_together(sent), alias) == view(asked, alias)


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_a_finished_request_is_finished_again_to_the_same(shape: Shape) -> None:
    base = apply(BASES[shape.operation], tags={"mine": "1"})
    before = copy.deepcopy(base)
    first = finish(base, n=3, token="b4f1", valid_until=DEADLINE, tags={"ours": "2"})
    assert finish(first, n=3, token="b4f1", valid_until=DEADLINE, tags={"ours": "2"}) == first
    assert base == before


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_all_that_a_call_can_tag_bears_the_launch_s_tags(shape: Shape) -> None:
    done = finish(BASES[shape.operation], n=3, token="b4f1", valid_until=DEADLINE, tags={"ours": "2"})
    specifications = [*done["TagSpecifications"], *done.get("LaunchTemplateData", {}).get("TagSpecifications", [])]
    assert {one["ResourceType"] for one in specifications} == set(shape.tagged)
    assert all(one["Tags"] == [{"Key": "ours", "Value": "2"}] for one in specifications)


NAMES = st.sampled_from(["DeviceIndex", "Ebs", "Key", "Tags", "Overrides", "InstanceType", "SubnetId", "MaxPrice", "InstanceRequirements",
                         "SpotOptions", "x"])
JUNK = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner), max_leaves=6)
INSTANCE = ["NetworkInterfaces", "BlockDeviceMappings", "UserData", "IamInstanceProfile", "Placement", "SubnetId", "InstanceRequirements",
            "InstanceMarketOptions", "HibernationOptions", "TagSpecifications", "ImageId", "InstanceType"]
REST = ["TagSpecifications", "InstanceMarketOptions", "MinCount", "MaxCount", "ClientToken", "SpotOptions", "TargetCapacitySpecification",
        "ValidUntil", "SpotPrice", "InstanceCount", "Type"]


def requests(shape: Shape) -> st.SearchStrategy[Request]:
    launch, rest = st.dictionaries(st.sampled_from(INSTANCE), JUNK), st.dictionaries(st.sampled_from(REST), JUNK)
    if shape is SPOT:
        rest = st.dictionaries(st.sampled_from([key for key in REST if key != "InstanceMarketOptions"]), JUNK)
        return st.builds(lambda launch, rest: {**rest, "LaunchSpecification": launch}, launch | JUNK, rest)
    if shape is RUN:
        return st.builds(lambda launch, rest: {"ImageId": "ami-1", **launch, **rest}, launch, rest)
    rest = st.dictionaries(st.sampled_from([key for key in REST if key != "InstanceMarketOptions"]), JUNK)
    config = st.fixed_dictionaries({"Overrides": st.lists(st.dictionaries(NAMES, JUNK), max_size=3) | JUNK})
    return st.builds(lambda data, configs, rest: {**rest, "LaunchTemplateData": data, "LaunchTemplateConfigs": configs},
                     launch | JUNK, st.lists(config, max_size=2) | JUNK, rest)


def set_everything(bad: Request) -> Request:
    return apply(bad, subnet="s", group="g", disk=1, tags={}, zone="z", itype="t", profile="p", udata="u", n=1, price=1)


def send(bad: Request) -> tuple[Call, ...]:
    return calls(finish(bad, n=1, token="b4f1", valid_until=DEADLINE, tags={"a": "b"}))


@pytest.mark.parametrize("shape", SHAPES, ids=named)
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_no_malformed_request_gets_another_answer_than_a_refusal(shape: Shape, data: st.DataObject) -> None:
    malformed = data.draw(requests(shape))
    for action in (validate, view, set_everything, send):
        try:
            action(malformed)
        except RequestInvalid as error:
            assert str(error)
