"""How a stack's resources are made, changed and ended: by the calls of their own services, as CloudFormation does it."""

from __future__ import annotations

import io
import json
import secrets
import string
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Tags = Mapping[str, str]
Clients = Callable[[str], Any]   # of a service's name; a boto3 client of the stack's region
Properties = Mapping[str, Any]

ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Builder:
    """`make` gives the id and the attributes that `Fn::GetAtt` may ask for; `change` is None for what can only be replaced."""

    make: Callable[[Clients, str, Properties, Tags], tuple[str, dict[str, str]]]
    end: Callable[[Clients, str, Properties], None]
    change: Callable[[Clients, str, Properties, Properties], None] | None = None


def name(stack: str, logical: str) -> str:
    """A name for what the template gives none: stack, logical name and twelve random characters."""
    return f"{stack[:24]}-{logical[:24]}-{''.join(secrets.choice(ALPHABET) for _ in range(12))}"


def _listed(tags: Tags) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


# --- roles -------------------------------------------------------------------------------------------------------------------------------


def _make_role(clients: Clients, id: str, properties: Properties, tags: Tags) -> tuple[str, dict[str, str]]:
    iam = clients("iam")
    trust = json.dumps(properties["AssumeRolePolicyDocument"])
    arn = iam.create_role(RoleName=id, AssumeRolePolicyDocument=trust, Tags=_listed(tags))["Role"]["Arn"]
    _change_role(clients, id, {}, properties)
    return id, {"Arn": arn}


def _change_role(clients: Clients, id: str, old: Properties, new: Properties) -> None:
    iam = clients("iam")
    named = {one["PolicyName"]: one["PolicyDocument"] for one in new.get("Policies", ())}
    for gone in {one["PolicyName"] for one in old.get("Policies", ())} - set(named):
        iam.delete_role_policy(RoleName=id, PolicyName=gone)
    for policy, document in named.items():
        iam.put_role_policy(RoleName=id, PolicyName=policy, PolicyDocument=json.dumps(document))
    before, after = set(old.get("ManagedPolicyArns", ())), set(new.get("ManagedPolicyArns", ()))
    for arn in before - after:
        iam.detach_role_policy(RoleName=id, PolicyArn=arn)
    for arn in after - before:
        iam.attach_role_policy(RoleName=id, PolicyArn=arn)
    if old and old["AssumeRolePolicyDocument"] != new["AssumeRolePolicyDocument"]:
        iam.update_assume_role_policy(RoleName=id, PolicyDocument=json.dumps(new["AssumeRolePolicyDocument"]))


def _end_role(clients: Clients, id: str, properties: Properties) -> None:
    _change_role(clients, id, properties, {"AssumeRolePolicyDocument": properties["AssumeRolePolicyDocument"]})
    clients("iam").delete_role(RoleName=id)


# --- functions ---------------------------------------------------------------------------------------------------------------------------


def _zipped(source: str) -> bytes:
    """What stands inline in a template is a file `index` with the runtime's ending."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.py", source)
    return packed.getvalue()


def _make_function(clients: Clients, id: str, properties: Properties, tags: Tags) -> tuple[str, dict[str, str]]:
    rest = {key: value for key, value in properties.items() if key != "Code"}
    made = clients("lambda").create_function(FunctionName=id, Code={"ZipFile": _zipped(properties["Code"]["ZipFile"])}, Tags=dict(tags),
                                             **rest)
    return id, {"Arn": made["FunctionArn"]}


def _change_function(clients: Clients, id: str, old: Properties, new: Properties) -> None:
    rest = {key: value for key, value in new.items() if key != "Code"}
    clients("lambda").update_function_configuration(FunctionName=id, **rest)
    clients("lambda").update_function_code(FunctionName=id, ZipFile=_zipped(new["Code"]["ZipFile"]))


def _end_function(clients: Clients, id: str, properties: Properties) -> None:
    clients("lambda").delete_function(FunctionName=id)


def _make_permission(clients: Clients, id: str, properties: Properties, tags: Tags) -> tuple[str, dict[str, str]]:
    clients("lambda").add_permission(StatementId=id, **properties)
    return id, {}


def _end_permission(clients: Clients, id: str, properties: Properties) -> None:
    clients("lambda").remove_permission(FunctionName=properties["FunctionName"], StatementId=id)


# --- rules and logs ----------------------------------------------------------------------------------------------------------------------


def _make_rule(clients: Clients, id: str, properties: Properties, tags: Tags) -> tuple[str, dict[str, str]]:
    rest = {key: value for key, value in properties.items() if key != "Targets"}
    arn = clients("events").put_rule(Name=id, Tags=_listed(tags), **rest)["RuleArn"]
    if properties.get("Targets"):
        clients("events").put_targets(Rule=id, Targets=properties["Targets"])
    return id, {"Arn": arn}


def _change_rule(clients: Clients, id: str, old: Properties, new: Properties) -> None:
    events = clients("events")
    events.put_rule(Name=id, **{key: value for key, value in new.items() if key != "Targets"})
    if gone := [one["Id"] for one in old.get("Targets", ()) if one["Id"] not in {it["Id"] for it in new.get("Targets", ())}]:
        events.remove_targets(Rule=id, Ids=gone)
    if new.get("Targets"):
        events.put_targets(Rule=id, Targets=new["Targets"])


def _end_rule(clients: Clients, id: str, properties: Properties) -> None:
    if targets := [one["Id"] for one in properties.get("Targets", ())]:
        clients("events").remove_targets(Rule=id, Ids=targets)
    clients("events").delete_rule(Name=id)


def _make_log(clients: Clients, id: str, properties: Properties, tags: Tags) -> tuple[str, dict[str, str]]:
    logs, group = clients("logs"), properties.get("LogGroupName", id)
    logs.create_log_group(logGroupName=group, tags=dict(tags))
    _change_log(clients, group, {}, properties)
    [row] = [one for one in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"] if one["logGroupName"] == group]
    return group, {"Arn": f"{row['arn'].removesuffix(':*')}:*"}


def _change_log(clients: Clients, id: str, old: Properties, new: Properties) -> None:
    if "RetentionInDays" in new:
        clients("logs").put_retention_policy(logGroupName=id, retentionInDays=new["RetentionInDays"])


def _end_log(clients: Clients, id: str, properties: Properties) -> None:
    clients("logs").delete_log_group(logGroupName=id)


BUILDERS = {
    "AWS::IAM::Role": Builder(_make_role, _end_role, _change_role),
    "AWS::Lambda::Function": Builder(_make_function, _end_function, _change_function),
    "AWS::Lambda::Permission": Builder(_make_permission, _end_permission),
    "AWS::Events::Rule": Builder(_make_rule, _end_rule, _change_rule),
    "AWS::Logs::LogGroup": Builder(_make_log, _end_log, _change_log),
}
