"""RunInstances with InstanceMarketOptions: spot machines of one capacity pool, or a refusal, in the answer to the call.

User data is plain text here: botocore encodes it on the way (`base64_encode_user_data` in its handlers, for RunInstances alone).
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ..lenses import Lens, Transform
from .options import PRICE, count_of, launch_options, tagged_with, tags_option
from .rules import Fault, launch_faults, run_faults, tag_faults
from .shape import Option, Request, Shape, Terms, single_call

__all__ = ["RUN_INSTANCES"]

_TAGGED = ("instance", "volume", "network-interface", "spot-instances-request")   # "for the following resources only" (API reference)


def _one_enough(request: Request) -> Request:
    """Ready for `n`: EC2 may launch fewer, as a launch keeps its minimum by itself, over several calls and capacity pools."""
    return {**request, "MinCount": 1}


def _finish(request: Request, terms: Terms) -> Request:
    kept = {key: value for key, value in request.items() if key != "InstanceMarketOptions"}
    said: dict[str, Any] = {"ClientToken": terms.token, "InstanceInitiatedShutdownBehavior": "terminate"}
    if terms.on_demand:   # EC2 refuses tags for spot requests where none is made
        kinds = [kind for kind in _TAGGED if kind != "spot-instances-request"]
        specifications = [one for one in request.get("TagSpecifications", []) if one.get("ResourceType") in kinds]
        return tagged_with({**kept, "TagSpecifications": specifications}, terms.tags, kinds) | said
    old = request.get("InstanceMarketOptions", {}).get("SpotOptions", {})
    spot = {key: value for key, value in old.items() if key != "ValidUntil"}   # "For a one-time request, ValidUntil is not supported"
    spot |= {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
    said["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
    return tagged_with(request, terms.tags, _TAGGED) | said


def _rules(request: Request) -> Iterator[Fault]:
    yield from launch_faults(request, required=() if "LaunchTemplate" in request else ("ImageId", "InstanceType"), encoded=False)
    yield from tag_faults(request.get("TagSpecifications"), ("TagSpecifications",), _TAGGED)
    yield from run_faults(request)


RUN_INSTANCES = Shape(
    operation="RunInstances",
    method="run_instances",
    keys=("ImageId", "InstanceMarketOptions"),
    tagged=_TAGGED,
    options={
        **launch_options(Lens(), encoded=False),
        "price": Option(Lens("InstanceMarketOptions", "SpotOptions", "MaxPrice", PRICE), (Decimal, int, float, str)),
        "n": Option(Lens("MaxCount", Transform(count_of, count_of)), (int,), _one_enough),
        "tags": tags_option("instance"),
    },
    rules=_rules,
    finish=_finish,
    calls=single_call("run_instances"),
    filled={"MinCount": 1, "MaxCount": 1},
)
"""The call for machines of one type in one zone."""
