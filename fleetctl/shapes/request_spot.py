"""RequestSpotInstances: one spot request a machine, each open until it is fulfilled, cancelled or past its end.

AWS calls it legacy. It is the only one of the three whose requests wait for capacity.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from ..errors import RequestInvalid
from ..lenses import Lens, Transform
from .options import PRICE, count_of, launch_options, tagged_with, tags_option
from .rules import Fault, launch_faults, spot_faults, tag_faults
from .shape import Option, Request, Shape, Terms, single_call

__all__ = ["REQUEST_SPOT_INSTANCES"]

_TAGGED = ("spot-instances-request",)   # any other type makes the call fail (API reference)


def _finish(request: Request, terms: Terms) -> Request:
    if terms.on_demand:
        raise RequestInvalid("RequestSpotInstances launches no on-demand instances", todo="use RunInstances (ImageId at the top level)")
    said = {"ClientToken": terms.token, "ValidUntil": terms.valid_until, "Type": "one-time"}
    return tagged_with(request, terms.tags, _TAGGED) | said


def _rules(request: Request) -> Iterator[Fault]:
    yield from launch_faults(request.get("LaunchSpecification"), ("LaunchSpecification",))
    yield from tag_faults(request.get("TagSpecifications"), ("TagSpecifications",), _TAGGED)
    yield from spot_faults(request)


REQUEST_SPOT_INSTANCES = Shape(
    operation="RequestSpotInstances",
    method="request_spot_instances",
    keys=("LaunchSpecification",),
    tagged=_TAGGED,
    options={
        **launch_options(Lens("LaunchSpecification")),
        "price": Option(Lens("SpotPrice", PRICE), (Decimal, int, float, str)),
        "n": Option(Lens("InstanceCount", Transform(count_of, count_of)), (int,)),
        "tags": tags_option(*_TAGGED),
    },
    rules=_rules,
    finish=_finish,
    calls=single_call("request_spot_instances"),
    waits=True,
)
"""The call that the launch requests of older programs are for."""
