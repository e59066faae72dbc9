"""CreateFleet: types and places spread over capacity pools, the two calls that it becomes, and what EC2 refuses in it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from fleetctl import templates
from fleetctl.errors import RequestInvalid
from fleetctl.shapes import (
    Launched,
    Request,
    Shortfall,
    apply,
    calls,
    finish,
    launched,
    shape_of,
    shortfalls,
    template_name,
    validate,
    view,
)

DEADLINE = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)


def fleet(*overrides: dict[str, Any], data: dict[str, Any] | None = None, **more: Any) -> Request:
    """A small request that is valid with at least one override."""
    configs = [{"Overrides": list(overrides)}] if overrides else []
    return {"LaunchTemplateConfigs": configs, "LaunchTemplateData": {"ImageId": "ami-1", **(data or {})}, **more}


def pools(request: Request) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request["LaunchTemplateConfigs"][0]["Overrides"]
    return found


def finished(base: Request, **more: Any) -> Request:
    return finish(base, n=3, token="b4f1", valid_until=DEADLINE, tags={"ours": "2"}, **more)


MICRO, LARGE = {"InstanceType": "t3.micro"}, {"InstanceType": "c7g.large"}
NEEDS = {"VCpuCount": {"Min": 2}, "MemoryMiB": {"Min": 0}}


# -- options

def test_a_request_with_template_data_or_configs_is_for_create_fleet() -> None:
    assert shape_of({"LaunchTemplateData": {}}).method == shape_of({"LaunchTemplateConfigs": []}).method == "create_fleet"


def test_every_option_reaches_its_place() -> None:
    full = apply({"LaunchTemplateData": {}}, itype=["t3.micro", "c7g.large"], subnet=["subnet-1", "subnet-2"], groups=["sg-1"], public=True,
                 price=0.05, n=3, key="mine", udata="echo", profile="worker", image="ami-1", disk=20, tags={"a": "1"})
    assert full == {
        "LaunchTemplateData": {
            "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["sg-1"], "AssociatePublicIpAddress": True}],
            "KeyName": "mine",
            "UserData": "ZWNobw==",
            "IamInstanceProfile": {"Name": "worker"},
            "ImageId": "ami-1",
            "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20}}],
        },
        "LaunchTemplateConfigs": [{"Overrides": [
            {**kind, "SubnetId": place, "MaxPrice": "0.05"} for kind in (MICRO, LARGE) for place in ("subnet-1", "subnet-2")]}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 3},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}]}],
    }
    validate(full)
    assert view(full, "itype", "subnet", "price", "n") == {
        "itype": ["t3.micro", "c7g.large"], "subnet": ["subnet-1", "subnet-2"], "price": Decimal("0.05"), "n": 3}


def test_pools_are_listed_by_type_then_place_in_whatever_order_they_were_said() -> None:
    types, places = ["c7g.large", "t3.micro"], ["subnet-1", "subnet-2"]
    assert pools(apply(fleet(), itype=types, subnet=places)) == pools(apply(fleet(), subnet=places, itype=types)) == [
        {"InstanceType": kind, "SubnetId": place} for kind in types for place in places]


def test_one_value_of_a_list_is_seen_as_it_is() -> None:
    assert view(apply(fleet(), itype=["t3.micro"]), "itype") == {"itype": "t3.micro"}


def test_what_the_template_says_of_type_and_place_moves_to_the_overrides_that_do_not_say_it() -> None:
    data = {"InstanceType": "t3.micro", "Placement": {"AvailabilityZone": "a", "Tenancy": "default"},
            "NetworkInterfaces": [{"DeviceIndex": 1}, {"DeviceIndex": 0, "SubnetId": "subnet-1", "Groups": ["sg-1"]}]}
    changed = apply(fleet({"MaxPrice": "0.05"}, {"InstanceType": "c7g.large", "SubnetId": "subnet-2", "AvailabilityZone": "b"}, data=data),
                    price=0.04)
    assert pools(changed) == [{"MaxPrice": "0.04", "InstanceType": "t3.micro", "SubnetId": "subnet-1", "AvailabilityZone": "a"},
                              {"InstanceType": "c7g.large", "SubnetId": "subnet-2", "AvailabilityZone": "b", "MaxPrice": "0.04"}]
    assert changed["LaunchTemplateData"] == {
        "ImageId": "ami-1", "Placement": {"Tenancy": "default"},
        "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["sg-1"]}, {"DeviceIndex": 1}]}
    assert view(fleet(data=data), "itype", "subnet", "zone") == {"itype": "t3.micro", "subnet": "subnet-1", "zone": "a"}


def test_types_and_attributes_take_each_other_s_place() -> None:
    asked = apply(fleet(), itype=["t3.micro", "c7g.large"], subnet="subnet-1", vcpus=(2, 8), memory=0.5)
    needs = {"VCpuCount": {"Min": 2, "Max": 8}, "MemoryMiB": {"Min": 512}}
    assert pools(asked) == [{"SubnetId": "subnet-1", "InstanceRequirements": needs}]
    assert view(asked) == {"subnet": "subnet-1", "image": "ami-1", "vcpus": (2, 8), "memory": 0.5}
    assert pools(apply(asked, itype="t3.micro")) == [{"SubnetId": "subnet-1", **MICRO}]


def test_the_price_shown_is_the_highest_and_none_where_a_pool_has_none() -> None:
    assert view(fleet({**MICRO, "MaxPrice": "0.01"}, {**LARGE, "MaxPrice": "0.1"}), "price") == {"price": Decimal("0.1")}
    assert "price" not in view(fleet({**MICRO, "MaxPrice": "0.01"}, LARGE))


@pytest.mark.parametrize(("base", "options", "words"), [
    (fleet(), {"itype": []}, "alias 'itype' (LaunchTemplateConfigs[0].Overrides[0].InstanceType): a text, or a list of them; found []"),
    (fleet(), {"subnet": ["a", 1]}, "alias 'subnet' (LaunchTemplateConfigs[0].Overrides[0].SubnetId): a text, or a list of them"),
    (fleet(), {"zone": ["a", "a"]}, "each is named once"),
    (fleet({**MICRO, "MaxPrice": "1"}, {**LARGE, "MaxPrice": "2"}), {"itype": "m7g.large"}, "differ in more than type and place"),
    (fleet(), {"vcpus": 0}, "alias 'vcpus' (LaunchTemplateConfigs[0].Overrides[0].InstanceRequirements.VCpuCount): a number above 0"),
    (fleet(), {"vcpus": (8, 2)}, "a number above 0, or a pair (from, to)"),
    (fleet(), {"vcpus": (1, 2, 3)}, "a number above 0, or a pair (from, to)"),
    (fleet(), {"vcpus": 2.5}, "expected int or tuple, found 2.5 (float)"),
    (fleet(), {"memory": 0.0001}, "not a whole number of 1/1024, 0 or more; found 0.0001 (float)"),
    (fleet(), {"price": 0}, "alias 'price' (LaunchTemplateConfigs[0].Overrides[0].MaxPrice): a price is a finite number above 0"),
    ({"LaunchTemplateData": []}, {"itype": "a"}, "LaunchTemplateData: expected dict, found [] (list)"),
    ({"LaunchTemplateConfigs": {}}, {"itype": "a"}, "LaunchTemplateConfigs: expected list of dicts, found {} (dict)"),
    ({"LaunchTemplateConfigs": [{"Overrides": "x"}]}, {"itype": "a"}, "LaunchTemplateConfigs[0].Overrides: expected list of dicts"),
])
def test_a_wrong_option_is_refused_with_alias_path_and_finding(base: Request, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        apply(base, **options)
    assert words in str(caught.value)


# -- the finished request and its calls

def test_a_finished_request_becomes_a_template_and_an_instant_fleet() -> None:
    template, made = calls(finished(apply(fleet(MICRO), tags={"mine": "1"})))
    ours, both = [{"Key": "ours", "Value": "2"}], [{"Key": "mine", "Value": "1"}, {"Key": "ours", "Value": "2"}]
    assert template.method == "create_launch_template"
    assert template.parameters == {
        "LaunchTemplateName": "fleetctl-b4f1", "ClientToken": "fleetctl-b4f1",
        "LaunchTemplateData": {"ImageId": "ami-1", "InstanceInitiatedShutdownBehavior": "terminate",
                               "TagSpecifications": [{"ResourceType": "spot-instances-request", "Tags": ours}]},
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": ours}],
    }
    assert made.method == "create_fleet"
    assert made.parameters == {
        "Type": "instant", "ClientToken": "b4f1",
        "TargetCapacitySpecification": {"TotalTargetCapacity": 3, "DefaultTargetCapacityType": "spot"},
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
        "LaunchTemplateConfigs": [{"Overrides": [MICRO],
                                   "LaunchTemplateSpecification": {"LaunchTemplateName": template_name("b4f1"), "Version": "1"}}],
        "TagSpecifications": [{"ResourceType": "fleet", "Tags": ours}, {"ResourceType": "instance", "Tags": both},
                              {"ResourceType": "volume", "Tags": ours}, {"ResourceType": "network-interface", "Tags": ours}],
    }


def test_a_fleet_of_one_type_in_its_template_has_one_config_without_overrides() -> None:
    _, made = calls(finished({"LaunchTemplateData": {"ImageId": "ami-1", **MICRO}}))
    assert made.parameters["LaunchTemplateConfigs"] == [
        {"LaunchTemplateSpecification": {"LaunchTemplateName": "fleetctl-b4f1", "Version": "1"}}]


def test_a_strategy_that_the_request_names_stays_and_its_type_becomes_instant() -> None:
    done = finished(fleet(MICRO, Type="maintain", SpotOptions={"AllocationStrategy": "lowest-price", "InstancePoolsToUseCount": 2}))
    assert (done["Type"], done["SpotOptions"]["AllocationStrategy"]) == ("instant", "lowest-price")


def test_finished_for_on_demand_it_tags_no_spot_request() -> None:
    tags = [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": "b"}]} for kind in ("spot-instances-request", "volume")]
    done = finished(fleet(MICRO, data={"TagSpecifications": tags}), on_demand=True)
    assert done["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "on-demand"
    assert done["LaunchTemplateData"]["TagSpecifications"] == tags[1:]
    assert "TagSpecifications" not in finished(fleet(MICRO, data={"TagSpecifications": tags[:1]}), on_demand=True)["LaunchTemplateData"]


def test_without_tags_no_specification_is_empty_where_ec2_wants_one() -> None:
    done = finish(fleet(MICRO), n=1, token="b4f1", valid_until=DEADLINE, tags={})
    assert "TagSpecifications" not in calls(done)[0].parameters


# -- answers

def test_the_machines_of_every_call_s_answer() -> None:
    assert launched({"SpotInstanceRequests": [
        {"SpotInstanceRequestId": "sir-1", "LaunchSpecification": {"InstanceType": "t3.micro", "Placement": {"AvailabilityZone": "a"}}},
        {"SpotInstanceRequestId": "sir-2", "InstanceId": "i-2"}]}) == (
            Launched("sir-1", None, "t3.micro", "a"), Launched("sir-2", "i-2", "", ""))
    assert launched({"ReservationId": "r-1", "Instances": [{"InstanceId": "i-1"}]}) == (Launched(None, "i-1", "", ""),)
    where = {"Overrides": {"InstanceType": "t3.micro", "SubnetId": "subnet-1", "AvailabilityZone": "a"}}
    answer = {"FleetId": "fleet-1",
              "Instances": [{"InstanceIds": ["i-1", "i-2"], "InstanceType": "t3.micro", "LaunchTemplateAndOverrides": where}],
              "Errors": [{"ErrorCode": "InsufficientInstanceCapacity", "ErrorMessage": "none", "LaunchTemplateAndOverrides": where},
                         {"ErrorCode": "X", "LaunchTemplateAndOverrides": {"Overrides": {"AvailabilityZone": "b"}}}]}
    assert launched(answer) == (Launched(None, "i-1", "t3.micro", "a"), Launched(None, "i-2", "t3.micro", "a"))
    assert shortfalls(answer) == (Shortfall("InsufficientInstanceCapacity", "none", "t3.micro", "subnet-1"), Shortfall("X", "", "", "b"))


def test_an_answer_without_machines_has_none() -> None:
    assert launched({"FleetId": "fleet-1"}) == launched({"ReservationId": "r-1"}) == ()
    assert shortfalls({"FleetId": "fleet-1"}) == shortfalls({"ReservationId": "r-1"}) == ()


# -- rules

PLACE = ("LaunchTemplateConfigs", 0, "Overrides")
DATA = "LaunchTemplateData"


@pytest.mark.parametrize(("bad", "path", "words"), [
    ({"LaunchTemplateConfigs": [{"Overrides": [MICRO]}]}, (DATA,), "required, but nothing is there; it says what the machines are"),
    (fleet(MICRO, data={"ImageId": ""}), (DATA, "ImageId"), "alias 'image' (LaunchTemplateData.ImageId): required"),
    (fleet(MICRO, data={"Keyname": "x"}), (DATA, "Keyname"), "there is no such key (did you mean 'KeyName'?)"),
    (fleet({"InstanceTyp": "x", **MICRO}), (*PLACE, 0, "InstanceTyp"), "there is no such key (did you mean 'InstanceType'?)"),
    (fleet(MICRO, {"InstanceType": "c7g.larg"}), (*PLACE, 1, "InstanceType"), "alias 'itype' (LaunchTemplateConfigs[0].Overrides[1]."),
    (fleet(MICRO, data={"UserData": "#!"}), (DATA, "UserData"), "alias 'udata' (LaunchTemplateData.UserData): not base64"),
    (fleet(MICRO, data={"DisableApiTermination": True}), (DATA, "DisableApiTermination"), "cannot be protected"),
    (fleet(MICRO, data={"InstanceMarketOptions": {"MarketType": "spot"}}), (DATA, "InstanceMarketOptions"), "the fleet says what it buys"),
    (fleet(), (*PLACE, 0, "InstanceType"), "required (or InstanceRequirements), but nothing is there"),
    (fleet({"SubnetId": "subnet-1"}), (*PLACE, 0, "InstanceType"), "required (or InstanceRequirements)"),
    (fleet({**MICRO, "InstanceRequirements": NEEDS}), (*PLACE, 0, "InstanceRequirements"), "not allowed beside InstanceType"),
    (fleet(data={**MICRO, "InstanceRequirements": NEEDS}), (DATA, "InstanceRequirements"), "not allowed beside InstanceType"),
    (fleet({"InstanceRequirements": {"VCpuCount": {"Min": 1}}}), (*PLACE, 0, "InstanceRequirements", "MemoryMiB"), "alias 'memory'"),
    (fleet({"InstanceRequirements": {**NEEDS, "VCpuCount": {"Min": 4, "Max": 2}}}), (*PLACE, 0, "InstanceRequirements", "VCpuCount"),
     "alias 'vcpus' (LaunchTemplateConfigs[0].Overrides[0].InstanceRequirements.VCpuCount): from 4 to 2 there is nothing"),
    (fleet({"InstanceRequirements": {**NEEDS, "AllowedInstanceTypes": ["c*"], "ExcludedInstanceTypes": ["t*"]}}),
     (*PLACE, 0, "InstanceRequirements", "ExcludedInstanceTypes"), "not allowed beside AllowedInstanceTypes"),
    (fleet({**MICRO, "SubnetId": "subnet-1,subnet-2"}), (*PLACE, 0, "SubnetId"), "alias 'subnet'"),
    (fleet({**MICRO, "AvailabilityZone": "a", "AvailabilityZoneId": "b"}), (*PLACE, 0, "AvailabilityZoneId"), "not allowed beside"),
    (fleet({**MICRO, "SubnetId": "s"}, data={"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "t"}]}), (*PLACE, 0, "SubnetId"),
     "the template's interface names a subnet too"),
    (fleet(MICRO, MICRO), (*PLACE, 1), "a duplicate capacity pool"),
    (fleet({**MICRO, "AvailabilityZone": "a"}, {**LARGE, "AvailabilityZone": "a"}, {**MICRO, "AvailabilityZone": "a", "Priority": 1.0}),
     (*PLACE, 2), "a duplicate capacity pool"),
    (fleet({**MICRO, "SubnetId": "s", "AvailabilityZone": "a"}, {**LARGE, "SubnetId": "s", "AvailabilityZone": "b"}),
     (*PLACE, 1, "AvailabilityZone"), "a subnet lies in one zone, and another override has this one in 'a'"),
    (fleet({**MICRO, "SubnetId": "s", "AvailabilityZone": "a"}, {**LARGE, "SubnetId": "t", "AvailabilityZone": "a"}),
     (*PLACE, 1, "SubnetId"), "a fleet cannot span two subnets of one zone, and another override has 's'"),
    (fleet({**MICRO, "MaxPrice": "0.0001"}), (*PLACE, 0, "MaxPrice"), "alias 'price'"),
    (fleet({**MICRO, "WeightedCapacity": 2.0}), (*PLACE, 0, "WeightedCapacity"), "machines are counted, so each weighs 1"),
    ({**fleet(MICRO), "LaunchTemplateConfigs": [{"Overrides": [MICRO]}, {}]}, ("LaunchTemplateConfigs", 1), "one launch template"),
    ({**fleet(MICRO), "LaunchTemplateConfigs": [{"Overrides": [MICRO], "LaunchTemplateSpecification": {"LaunchTemplateId": "lt-1"}}]},
     ("LaunchTemplateConfigs", 0, "LaunchTemplateSpecification"), "LaunchTemplateData is in its place"),
    (fleet(MICRO, ClientToken="x" * 65), ("ClientToken",), "1 to 64 ASCII characters"),
    (fleet(MICRO, DryRun=True), ("DryRun",), "a dry run launches nothing"),
    (fleet(MICRO, ValidUntil=DEADLINE), ("ValidUntil",), "an instant fleet is tried once, at once"),
    (fleet(MICRO, ReplaceUnhealthyInstances=True), ("ReplaceUnhealthyInstances",), "only for fleets of type maintain"),
    (fleet(MICRO, SpotOptions={"InstanceInterruptionBehavior": "stop"}), ("SpotOptions", "InstanceInterruptionBehavior"), "terminates"),
    (fleet(MICRO, SpotOptions={"MinTargetCapacity": 1}), ("SpotOptions", "MinTargetCapacity"), "the launch keeps its minimum itself"),
    (fleet(MICRO, SpotOptions={"MaintenanceStrategies": {}}), ("SpotOptions", "MaintenanceStrategies"), "only for fleets of type maintain"),
    (fleet(MICRO, SpotOptions={"InstancePoolsToUseCount": 1}), ("SpotOptions", "InstancePoolsToUseCount"), "only with the Allocation"),
    (fleet(MICRO, SpotOptions={"MaxTotalPrice": "x"}), ("SpotOptions", "MaxTotalPrice"), "not a number"),
    (fleet(MICRO, TargetCapacitySpecification={"TotalTargetCapacity": 0}),
     ("TargetCapacitySpecification", "TotalTargetCapacity"), "alias 'n'"),
    (fleet(MICRO, TargetCapacitySpecification={"TotalTargetCapacity": 1, "TargetCapacityUnitType": "vcpu"}),
     ("TargetCapacitySpecification", "TargetCapacityUnitType"), "machines are counted"),
    (fleet(MICRO, TargetCapacitySpecification={"TotalTargetCapacity": 1, "OnDemandTargetCapacity": 1}),
     ("TargetCapacitySpecification", "OnDemandTargetCapacity"), "all of it is of one market"),
    (fleet(MICRO, TagSpecifications=[{"ResourceType": "spot-instances-request"}]), ("TagSpecifications", 0, "ResourceType"),
     "not tagged by this call; it takes fleet, instance, volume, network-interface"),
    (fleet(MICRO, data={"TagSpecifications": [{"ResourceType": "fleet"}]}), (DATA, "TagSpecifications", 0, "ResourceType"),
     "it takes instance, volume, network-interface, spot-instances-request"),
])
def test_what_ec2_would_refuse_is_refused_with_its_path(bad: Request, path: tuple[str | int, ...], words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        validate(bad)
    assert caught.value.path == path
    assert words in str(caught.value)


def test_the_same_fault_in_many_pools_is_said_once() -> None:
    with pytest.raises(RequestInvalid) as caught:
        validate(apply(fleet(), itype=["t3.micro", "c7g.larg"], subnet=["subnet-1", "subnet-2", "subnet-3"]))
    assert str(caught.value) == ("alias 'itype' (LaunchTemplateConfigs[0].Overrides[3].InstanceType): 'c7g.larg' is none of the values it "
                                 "can have (did you mean 'c7g.large'?) (and in 2 more)")


@pytest.mark.parametrize("good", [
    fleet(MICRO, LARGE),
    fleet({"InstanceRequirements": NEEDS, "SubnetId": "subnet-1"}, {"InstanceRequirements": NEEDS, "SubnetId": "subnet-2"}),
    fleet({**MICRO, "ImageId": "ami-2"}, data={"ImageId": ""}),
    fleet({**MICRO, "SubnetId": "s", "AvailabilityZone": "a"}, {**LARGE, "SubnetId": "s", "AvailabilityZone": "a"}),
    fleet({"SubnetId": "s"}, data={"InstanceType": "t3.micro"}),
    fleet({**MICRO, "WeightedCapacity": 1.0}, SpotOptions={"SingleInstanceType": True}),
])
def test_a_valid_request_is_accepted(good: Request) -> None:
    validate(good)


# -- the template

def test_the_template_needs_an_image_and_pools_and_nothing_more() -> None:
    with pytest.raises(RequestInvalid) as caught:
        validate(templates.fleet())
    assert str(caught.value).splitlines() == [
        "2 things are wrong:",
        "  alias 'image' (LaunchTemplateData.ImageId): required, but nothing is there",
        "  alias 'itype' (LaunchTemplateConfigs[0].Overrides[0].InstanceType): required (or InstanceRequirements), but nothing is there"]
    validate(templates.fleet(vcpus=4, image="ami-1"))
    validate(templates.fleet(types=("t3.micro", "c7g.large"), subnets=("subnet-1", "subnet-2"), image="ami-1"))


def test_the_template_takes_either_types_or_attributes() -> None:
    with pytest.raises(RequestInvalid, match="types and attributes exclude each other"):
        templates.fleet(types=["t3.micro"], vcpus=2)


def test_the_template_requires_session_tokens_and_leaves_no_volume() -> None:
    data = templates.fleet(memory=16)["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["BlockDeviceMappings"] == [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "DeleteOnTermination": True}}]
