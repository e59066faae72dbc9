"""CreateFleet of type `instant`: spot machines of many capacity pools, chosen by EC2, in the answer to the call.

A fleet takes what it launches from a launch template, which has to be made first. A request here has the template's data inline, under
`LaunchTemplateData` as CreateLaunchTemplate takes them, beside what CreateFleet takes:

    {"LaunchTemplateData": {"ImageId": "ami-1", "KeyName": "me"},
     "LaunchTemplateConfigs": [{"Overrides": [{"InstanceType": "c7g.large", "SubnetId": "subnet-1"}, …]}]}

and `calls` makes both calls of it. So a launch is one dictionary in each shape, nothing of it lies elsewhere under a name that
somebody may have changed, and the template, which bears the launch's token in its name, is found again whatever happens between the two.

A minimum is not given to EC2: `MinTargetCapacity` needs `SingleInstanceType` or `SingleAvailabilityZone` (API reference), so it would
cost the many pools that a fleet is for.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..lenses import Lens, Transform
from .fleet_rules import fleet_faults, template_faults
from .options import count_of, launch_options, tagged_with, tags_option
from .pools import DATA, pool_options
from .rules import Fault, tag_faults
from .shape import Call, Option, Request, Shape, Terms

__all__ = ["CREATE_FLEET", "template_name"]

_TAGGED = ("fleet", "instance", "volume", "network-interface")   # what an instant fleet may tag (API reference)
_TEMPLATE_TAGGED = ("spot-instances-request",)                   # what only the template may have tagged


def template_name(token: str) -> str:
    """The name of the launch template of the launch with this client token: what DeleteLaunchTemplate takes once the fleet is there."""
    return f"fleetctl-{token}"


def _finish(request: Request, terms: Terms) -> Request:
    capacity = {**request.get("TargetCapacitySpecification", {}), "TotalTargetCapacity": terms.n,
                "DefaultTargetCapacityType": "on-demand" if terms.on_demand else "spot"}
    data = request["LaunchTemplateData"]
    if terms.on_demand:   # EC2 refuses tags for spot requests where none is made
        specifications = [one for one in data.get("TagSpecifications", []) if one.get("ResourceType") not in _TEMPLATE_TAGGED]
        data = {key: value for key, value in data.items() if key != "TagSpecifications"}
        data |= {"TagSpecifications": specifications} if specifications else {}
    else:
        data = tagged_with(data, terms.tags, _TEMPLATE_TAGGED)
    return tagged_with(request, terms.tags, _TAGGED) | {
        "Type": "instant",
        "ClientToken": terms.token,
        "TargetCapacitySpecification": capacity,
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized", **request.get("SpotOptions", {})},
        "LaunchTemplateData": {**data, "InstanceInitiatedShutdownBehavior": "terminate"},
    }


def _calls(request: Request) -> tuple[Call, ...]:
    """CreateLaunchTemplate, then CreateFleet. All of both follows from the finished request."""
    name = template_name(request["ClientToken"])
    tags = next(one["Tags"] for one in request["TagSpecifications"] if one["ResourceType"] == "fleet")
    template = {
        "LaunchTemplateName": name,
        "ClientToken": name,   # a token of its own: one token is for one request
        "LaunchTemplateData": request["LaunchTemplateData"],
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tags}],
    }
    if not tags:
        del template["TagSpecifications"]
    made = {"LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "1"}}
    config = {**next(iter(request.get("LaunchTemplateConfigs", ())), {}), **made}
    fleet = {key: value for key, value in request.items() if key != "LaunchTemplateData"} | {"LaunchTemplateConfigs": [config]}
    return Call("create_launch_template", template), Call("create_fleet", fleet)


def _rules(request: Request) -> Iterator[Fault]:
    yield from template_faults(request)
    data = request.get("LaunchTemplateData")
    if isinstance(data, dict):   # by CreateLaunchTemplate it could tag more, but an instant fleet tags these itself
        yield from tag_faults(data.get("TagSpecifications"), ("LaunchTemplateData", "TagSpecifications"), (*_TAGGED[1:], *_TEMPLATE_TAGGED))
    yield from tag_faults(request.get("TagSpecifications"), ("TagSpecifications",), _TAGGED)
    yield from fleet_faults(request)


CREATE_FLEET = Shape(
    operation="CreateFleet",
    method="create_fleet",
    keys=("LaunchTemplateConfigs", "LaunchTemplateData"),
    tagged=(*_TAGGED, *_TEMPLATE_TAGGED),
    options={
        **launch_options(DATA),
        **pool_options(),
        "n": Option(Lens("TargetCapacitySpecification", "TotalTargetCapacity", Transform(count_of, count_of)), (int,)),
        "tags": tags_option("instance"),
    },
    rules=_rules,
    finish=_finish,
    calls=_calls,
    beside={"LaunchTemplateData": "CreateLaunchTemplate"},
    filled={"LaunchTemplateConfigs": [], "TargetCapacitySpecification": {"TotalTargetCapacity": 1}},
)
"""The call for machines of many types in many zones."""
