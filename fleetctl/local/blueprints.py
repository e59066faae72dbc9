"""CloudFormation's templates: what is wrong with one, the order of its resources, and its references filled in. Pure.

Known are `Ref`, `Fn::GetAtt` and `Fn::Sub`, and the resource types of TYPES with the properties that stand there: whatever else a
template has is refused, so that nothing is ever left out in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fleetctl.local.book import Refused

TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {   # required properties, and others
    "AWS::IAM::Role": (("AssumeRolePolicyDocument",), ("Policies", "ManagedPolicyArns")),
    "AWS::Lambda::Function": (("Code", "Role"), ("Runtime", "Handler", "Timeout", "Environment", "LoggingConfig", "MemorySize")),
    "AWS::Lambda::Permission": (("Action", "FunctionName", "Principal"), ("SourceArn",)),
    "AWS::Events::Rule": ((), ("ScheduleExpression", "Targets", "State", "Description")),
    "AWS::Logs::LogGroup": ((), ("RetentionInDays", "LogGroupName")),
}
ROLES = ("AWS::IAM::Role",)   # what may give rights, and so has to be agreed to by CAPABILITY_IAM
SECTIONS = ("AWSTemplateFormatVersion", "Description", "Parameters", "Resources")
BODY_BYTES = 51_200   # of TemplateBody: model, CreateStack
PSEUDO = ("AWS::Partition", "AWS::Region", "AWS::AccountId", "AWS::StackName", "AWS::StackId")
SUBSTITUTED = re.compile(r"\$\{([\w:.]+)\}")

Template = dict[str, Any]
Attribute = Callable[[str, str], str]   # of a resource's name and an attribute's; '' for what `Ref` gives


def invalid(message: str) -> Refused:
    """CloudFormation's one code for whatever it does not take."""
    return Refused("ValidationError", message)


def read(body: str) -> Template:
    """A template's text as data, checked. Raises Refused."""
    if len(body.encode()) > BODY_BYTES:
        raise invalid(f"1 validation error detected: Value at 'templateBody' must have length less than or equal to {BODY_BYTES}")
    try:
        template = json.loads(body)
    except ValueError:
        raise invalid("Template format error: JSON not well-formed. (YAML is not known to the local cloud.)") from None
    if not isinstance(template, dict) or not template.get("Resources"):
        raise invalid("Template format error: At least one Resources member must be defined.")
    if strange := sorted(set(template) - set(SECTIONS)):
        raise invalid(f"Invalid template property or properties [{', '.join(strange)}]")
    resources = template["Resources"]
    if unknown := sorted({one.get("Type", "") for one in resources.values()} - set(TYPES)):
        raise invalid(f"Template format error: Unrecognized resource types: [{', '.join(unknown)}]")
    for name, resource in resources.items():
        _check(name, resource)
    known = {*resources, *template.get("Parameters", {}), *PSEUDO}
    if unresolved := sorted(set(references(resources)) - known):
        raise invalid(f"Template format error: Unresolved resource dependencies [{', '.join(unresolved)}] in the Resources block of the "
                      "template")
    order(template)
    return dict(template)


def _check(name: str, resource: Mapping[str, Any]) -> None:
    required, others = TYPES[resource["Type"]]
    given = set(resource.get("Properties", {}))
    if missing := sorted(set(required) - given):
        raise invalid(f"Resource {name}: required key [{missing[0]}] not found")
    if strange := sorted(given - {*required, *others}):
        raise invalid(f"Resource {name}: extraneous key [{strange[0]}] is not permitted")
    if strange := sorted(set(resource) - {"Type", "Properties"}):
        raise invalid(f"Resource {name}: the local cloud does not know {', '.join(strange)}")


def references(part: Any) -> Iterator[str]:
    """The names that a part of a template refers to."""
    if isinstance(part, list):
        for one in part:
            yield from references(one)
    elif isinstance(part, dict):
        if set(part) == {"Ref"}:
            yield part["Ref"]
        elif set(part) == {"Fn::GetAtt"}:
            yield part["Fn::GetAtt"][0]
        elif set(part) == {"Fn::Sub"}:
            yield from (one.partition(".")[0] for one in SUBSTITUTED.findall(part["Fn::Sub"]))
        elif strange := [key for key in part if key.startswith("Fn::")]:
            raise invalid(f"Template error: the local cloud does not know {strange[0]}")
        else:
            for one in part.values():
                yield from references(one)


def order(template: Template) -> list[str]:
    """The names of the resources, each after those that it refers to. Raises Refused for a circle."""
    resources, found = template["Resources"], list[str]()
    waiting = {name: {*references(resource.get("Properties", {}))} & set(resources) for name, resource in resources.items()}
    while waiting:
        free = sorted(name for name, needs in waiting.items() if needs <= set(found))
        if not free:
            raise invalid(f"Circular dependency between resources: [{', '.join(sorted(waiting))}]")
        found += free
        for name in free:
            del waiting[name]
    return found


def values(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    """The parameters' values, their defaults where none is given. Raises Refused."""
    declared = template.get("Parameters", {})
    if strange := sorted(set(given) - set(declared)):
        raise invalid(f"Parameters: [{', '.join(strange)}] do not exist in the template")
    if missing := sorted(name for name, one in declared.items() if name not in given and "Default" not in one):
        raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
    return {name: given.get(name, one.get("Default")) for name, one in declared.items()}


def filled(part: Any, known: Mapping[str, str], attribute: Attribute) -> Any:
    """A part of a template with every reference in its place. `known` are parameters and pseudo parameters."""
    def ref(name: str) -> str:
        return known[name] if name in known else attribute(name, "")

    if isinstance(part, list):
        return [filled(one, known, attribute) for one in part]
    if not isinstance(part, dict):
        return part
    if set(part) == {"Ref"}:
        return ref(part["Ref"])
    if set(part) == {"Fn::GetAtt"}:
        return attribute(*part["Fn::GetAtt"])
    if set(part) == {"Fn::Sub"}:
        return SUBSTITUTED.sub(lambda found: attribute(*found[1].split(".", 1)) if "." in found[1] else ref(found[1]), part["Fn::Sub"])
    return {key: filled(one, known, attribute) for key, one in part.items()}
