"""The launch calls: what tells them apart, the same short options for each, and a check of the whole request before it is sent.

>>> request = {"LaunchSpecification": {"ImageId": "ami-1", "SubnetId": "subnet-9"}}
>>> request = apply(request, itype="t3.micro", price=0.01, public=True, udata="#!/bin/bash\\necho hello")
>>> request["LaunchSpecification"]["NetworkInterfaces"]
[{'DeviceIndex': 0, 'SubnetId': 'subnet-9', 'AssociatePublicIpAddress': True}]
>>> view(request, "itype", where="subnet")
{'itype': 't3.micro', 'where': 'subnet-9'}
>>> deadline = datetime(2030, 1, 1, tzinfo=UTC)
>>> request = finish(request, n=3, token="b4f1", valid_until=deadline, tags={"fleetctl:launch": "b4f1"})
>>> [call.method for call in calls(request)]   # so: client.request_spot_instances(**call.parameters)
['request_spot_instances']

| shape | told by | written by | several |
|---|---|---|---|
| RequestSpotInstances | `LaunchSpecification` | older programs | |
| RunInstances | `ImageId` or `InstanceMarketOptions` | `templates.spot` | |
| CreateFleet | `LaunchTemplateConfigs` or `LaunchTemplateData` | `templates.fleet` | `itype`, `subnet` and `zone` may be lists |

An option is a lens, with what it takes and how a request is made ready for it: `subnet`, `group`, `groups` and `public` first move what
stands beside the network interfaces into the first interface, as EC2 refuses the two side by side. A further launch call is a further
`Shape` in `SHAPES`: its keys, its options, its rules.

`price` is a cap in USD an hour, never what is paid: that is the spot price of the pool. AWS advises against it ("can lead to increased
interruptions", API reference of every one of these calls), so it is usually left out; without one the cap is the on-demand price.

Everything here is pure, but that the first `validate` of a process reads botocore's model of EC2 (0.2 s).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..errors import RequestInvalid, UserDataTooLarge
from ..lenses import describe, misfit
from .answers import Launched, Shortfall, launched, shortfalls
from .fleet import CREATE_FLEET, template_name
from .request_spot import REQUEST_SPOT_INSTANCES
from .rules import Fault
from .run import RUN_INSTANCES
from .shape import Call, Option, Request, Shape, Terms

__all__ = [
    # a request
    "Request", "apply", "finish", "validate", "view",
    # the way to EC2 and back
    "Call", "Launched", "Shortfall", "calls", "launched", "shortfalls", "template_name",
    # the launch calls
    "SHAPES", "Option", "Shape", "shape_of",
]

SHAPES: tuple[Shape, ...] = (REQUEST_SPOT_INSTANCES, RUN_INSTANCES, CREATE_FLEET)
"""Every launch call that a request can be for."""


def shape_of(request: Request) -> Shape:
    """The launch call that a request is for, told by its keys. Raises RequestInvalid when they tell none, or several."""
    if not isinstance(request, dict):
        raise RequestInvalid(f"a launch request is a dict, found {describe(request)}", found=request)
    fitting = [shape for shape in SHAPES if any(key in request for key in shape.keys)]
    if len(fitting) == 1:
        return fitting[0]
    telling = ", ".join(f"{' or '.join(shape.keys)} ({shape.operation})" for shape in SHAPES)
    raise RequestInvalid(f"{'no' if not fitting else 'more than one'} launch call takes this request; its keys are {list(request)}",
                         found=request, todo=f"tell the call by the keys of exactly one: {telling}")


def apply(request: Request, /, **aliases: Any) -> Request:
    """A copy of the request with options set, each at the place where its call wants it. The request itself stays as it is.

    Raises RequestInvalid for an unknown alias, a wrong type, or a value that does not convert; the error names alias and path, and the
    calls that would take it where another does.
    """
    shape = shape_of(request)
    if {"group", "groups"} <= aliases.keys():
        raise RequestInvalid("the aliases 'group' and 'groups' say the same thing; give one of them", alias="group")
    for name, value in aliases.items():
        _refuse_misplaced(shape, name, value)
        request = shape.put(request, name, value)
    return request


def _refuse_misplaced(shape: Shape, name: str, value: Any) -> None:
    """Raise for an option that only other calls have, or that only other calls take this kind of value for."""
    def takes(other: Shape) -> bool:
        return name in other.options and (name not in shape.options or isinstance(value, other.options[name].takes))

    if name in shape.options and isinstance(value, shape.options[name].takes):
        return
    if elsewhere := [f"{other.operation} ({other.keys[0]})" for other in SHAPES if other is not shape and takes(other)]:
        place = shape.options[name].place if name in shape.options else ()
        one_only = misfit(f"{shape.operation} takes one, found {describe(value)}", alias=name, path=place, found=value).what
        what = one_only if place else f"the alias {name!r} has no place in {shape.operation}"
        raise RequestInvalid(what, alias=name, path=place, found=value, todo=f"write the request for {' or '.join(elsewhere)}")


def view(request: Request, /, *aliases: str, **renamed: str) -> dict[str, Any]:
    """What the request says for these aliases; `renamed` are new name = alias. Without any: all that it says (`groups` for `group`).

    Raises RequestInvalid for an unknown alias, and for one asked for that the request says nothing about.
    """
    shape = shape_of(request)
    if aliases or renamed:
        return {new: shape.get(request, name) for new, name in {**{name: name for name in aliases}, **renamed}.items()}
    all_said = {name: shape.get(request, name, None) for name in shape.options if name != "group"}
    return {name: said for name, said in all_said.items() if said is not None}


def validate(request: Request) -> None:
    """Raise RequestInvalid for whatever botocore's model of the call, or EC2's documented rules beyond it, refuse in the request.

    What `finish` says in any case, such as the count, may be missing. All that is wrong is in the one error; its `alias`, `path` and
    `found` are those of the first fault. UserDataTooLarge (a kind of RequestInvalid) is raised when the user data is too large, whatever
    else is wrong.
    """
    shape = shape_of(request)
    faults = list(shape.faults(request))
    if not faults:
        return
    faults.sort(key=lambda fault: fault.error is not UserDataTooLarge)
    alike: dict[tuple[Any, ...], list[Fault]] = {}   # the same in several entries of a list is one thing to put right
    for fault in faults:
        alike.setdefault((fault.why, *(key for key in fault.path if isinstance(key, str))), []).append(fault)
    lines = [_line(shape, *group) for group in alike.values()]
    what = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} things are wrong:", *lines])
    first = faults[0]
    raise first.error(what, alias=shape.alias_at(first.path), path=first.path, found=first.found)


def _line(shape: Shape, fault: Fault, *more: Fault) -> str:
    text = misfit(fault.why, alias=shape.alias_at(fault.path), path=fault.path, found=fault.found).what
    return f"{text} (and in {len(more)} more)" if more else text


def finish(
    request: Request, *, n: int, token: str, valid_until: datetime, tags: Mapping[str, str], on_demand: bool = False
) -> Request:
    """The request as it is launched: count, client token, one-time, terminating at the end, and `tags` added to its own on all that the
    call tags. `on_demand`: of that market instead of spot.

    The end of validity stands in RequestSpotInstances alone: the other two are answered at once, and take none for one-time requests.
    It has been validated: raises RequestInvalid as `validate` does, for a time without a zone, and for a market that the call has not.
    """
    if not isinstance(valid_until, datetime) or valid_until.tzinfo is None:
        raise misfit("expected a datetime with a time zone", path=["ValidUntil"], found=valid_until)
    shape = shape_of(request)
    request = shape.put(request, "n", n)
    validate(request)
    request = shape.finish(request, Terms(n, token, valid_until.astimezone(UTC).replace(microsecond=0), tags, on_demand))
    validate(request)
    return request


def calls(finished: Request) -> tuple[Call, ...]:
    """The calls that a finished request is sent by, in order; the last is the one that launches. All in them follows from the request."""
    return shape_of(finished).calls(finished)
