"""CloudFormation on the local cloud: stacks come and go whole, and what is in them works: functions run, rules call them by the clock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fleetctl.local import blueprints
from fleetctl.local.book import Refused
from fleetctl.local.schedules import lets, period

CODE = "import os, boto3\n\n\ndef handler(event, context):\n    print('called by', event.get('source', 'hand'))\n    " \
       "return {'keys': boto3.client('sts').get_caller_identity()['Arn'], 'said': os.environ['WORD']}\n"
TRUST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}


def template(**changed: Any) -> dict[str, Any]:
    """A function, its role and log, and a rule that calls it. `changed`: resources instead of these; None leaves one out."""
    resources = {
        "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 7}},
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": TRUST}},
        "Function": {"Type": "AWS::Lambda::Function", "Properties": {
            "Runtime": "python3.12", "Handler": "index.handler", "Timeout": 30, "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "LoggingConfig": {"LogGroup": {"Ref": "Log"}}, "Environment": {"Variables": {"WORD": {"Ref": "Word"}}},
            "Code": {"ZipFile": CODE}}},
        "Rule": {"Type": "AWS::Events::Rule", "Properties": {
            "ScheduleExpression": "rate(5 minutes)", "Targets": [{"Id": "it", "Arn": {"Fn::GetAtt": ["Function", "Arn"]}}]}},
        "Permission": {"Type": "AWS::Lambda::Permission", "Properties": {
            "Action": "lambda:InvokeFunction", "FunctionName": {"Ref": "Function"}, "Principal": "events.amazonaws.com",
            "SourceArn": {"Fn::GetAtt": ["Rule", "Arn"]}}},
    }
    merged = {name: one for name, one in {**resources, **changed}.items() if one is not None}
    return {"Parameters": {"Word": {"Type": "String", "Default": "hello"}}, "Resources": merged}


class Stacks:
    """Stacks of one test, gone at its end."""

    def __init__(self, world: Any) -> None:
        self.world, self.made, self.calls = world, list[str](), world.client("cloudformation")

    def create(self, body: dict[str, Any], **more: Any) -> str:
        name = f"s-{uuid.uuid4().hex[:8]}"
        id: str = self.calls.create_stack(StackName=name, TemplateBody=json.dumps(body), Capabilities=["CAPABILITY_IAM"], **more)["StackId"]
        self.made.append(id)
        return id

    def status(self, id: str) -> str:
        return str(self.calls.describe_stacks(StackName=id)["Stacks"][0]["StackStatus"])

    def settled(self, id: str) -> str:
        """Its status once nothing is under way."""
        found: str = self.world.until(lambda: not (status := self.status(id)).endswith("_IN_PROGRESS") and status, 60)
        return found

    def resources(self, id: str) -> dict[str, str]:
        rows = self.calls.describe_stack_resources(StackName=id)["StackResources"]
        return {row["LogicalResourceId"]: row["PhysicalResourceId"] for row in rows}

    def delete(self, id: str) -> str:
        self.calls.delete_stack(StackName=id)
        return self.settled(id)


@pytest.fixture
def stacks(world: Any) -> Any:
    one = Stacks(world)
    yield one
    world.cloud.clear_faults()
    for id in one.made:
        one.settled(id)
        assert one.delete(id) == "DELETE_COMPLETE"
    assert there(world) == {"functions": [], "rules": [], "logs": [], "roles": ["fleetctl-machine"]}


def there(world: Any) -> dict[str, list[str]]:
    """What the services themselves list."""
    return {"functions": [one["FunctionName"] for one in world.client("lambda").list_functions()["Functions"]],
            "rules": [one["Name"] for one in world.client("events").list_rules()["Rules"]],
            "logs": [one["logGroupName"] for one in world.client("logs").describe_log_groups()["logGroups"]],
            "roles": sorted(one["RoleName"] for one in world.client("iam").list_roles()["Roles"])}


def said(world: Any, group: str) -> list[str]:
    """What stands in a log."""
    return [one["message"] for one in world.client("logs").filter_log_events(logGroupName=group)["events"]]


@pytest.mark.cloud
def test_a_stack_makes_what_its_template_says_each_after_what_it_needs_and_ends_all_of_it(stacks: Any, world: Any) -> None:
    id = stacks.create(template(), Tags=[{"Key": "whose", "Value": "mine"}])
    assert stacks.settled(id) == "CREATE_COMPLETE"
    made = stacks.resources(id)
    assert there(world) == {"functions": [made["Function"]], "rules": [made["Rule"]], "logs": [made["Log"]],
                            "roles": sorted(["fleetctl-machine", made["Role"]])}
    events = reversed(stacks.calls.describe_stack_events(StackName=id)["StackEvents"])
    order = [one["LogicalResourceId"] for one in events if one["ResourceStatus"] == "CREATE_COMPLETE"]
    assert order.index("Role") < order.index("Function") < order.index("Rule") < order.index("Permission")
    tags = world.client("iam").list_role_tags(RoleName=made["Role"])["Tags"]
    assert {"Key": "whose", "Value": "mine"} in tags, "as CloudFormation does, a stack's tags are its resources'"
    assert stacks.delete(id) == "DELETE_COMPLETE"
    assert stacks.status(id) == "DELETE_COMPLETE", "by its id it is shown after its end"
    with pytest.raises(ClientError, match=r"ValidationError.*does not exist"):
        stacks.calls.describe_stacks(StackName=id.split("/")[1])


@pytest.mark.cloud
def test_a_function_runs_with_its_role_its_variables_and_its_log(stacks: Any, world: Any) -> None:
    id = stacks.create(template(), Parameters=[{"ParameterKey": "Word", "ParameterValue": "so"}])
    assert stacks.settled(id) == "CREATE_COMPLETE"
    made = stacks.resources(id)
    answer = world.client("lambda").invoke(FunctionName=made["Function"], Payload=b"{}")
    value = json.loads(answer["Payload"].read())
    assert value["said"] == "so" and f"assumed-role/{made['Role']}/" in value["keys"]
    assert said(world, made["Log"]) == ["called by hand"]


@pytest.mark.cloud
@pytest.mark.parametrize(("code", "told"), [
    ("def handler(event, context):\n    raise ValueError('no luck')\n", {"errorType": "ValueError", "errorMessage": "no luck"}),
    ("import os\n\n\ndef handler(event, context):\n    os._exit(3)\n", {"errorType": "Runtime.ExitError"}),
    ("import time\n\n\ndef handler(event, context):\n    time.sleep(600)\n", {"errorMessage": "Task timed out after 1.00 seconds"}),
])
def test_a_function_that_fails_says_how(stacks: Any, world: Any, code: str, told: dict[str, str]) -> None:
    function = template()["Resources"]["Function"]
    short = {**function, "Properties": {**function["Properties"], "Code": {"ZipFile": code}, "Timeout": 1 if "sleep" in code else 30}}
    id = stacks.create(template(Function=short))
    assert stacks.settled(id) == "CREATE_COMPLETE"
    answer = world.client("lambda").invoke(FunctionName=stacks.resources(id)["Function"])
    assert answer["FunctionError"] == "Unhandled"
    assert told.items() <= json.loads(answer["Payload"].read()).items()


@pytest.mark.cloud
def test_a_rule_calls_its_function_by_the_clock_and_only_with_a_permission(stacks: Any, world: Any) -> None:
    world.cloud.fault("hasty-schedule", seconds=0.2)
    without, with_it = stacks.create(template(Permission=None)), stacks.create(template())
    assert (stacks.settled(without), stacks.settled(with_it)) == ("CREATE_COMPLETE", "CREATE_COMPLETE")
    logs = {id: stacks.resources(id)["Log"] for id in (without, with_it)}
    assert world.until(lambda: len(said(world, logs[with_it])) >= 3 and said(world, logs[with_it]), 60)[0] == "called by aws.events"
    assert said(world, logs[without]) == []
    world.cloud.clear_faults()


@pytest.mark.cloud
@pytest.mark.parametrize(("on_failure", "status"), [("DELETE", "DELETE_COMPLETE"), ("ROLLBACK", "ROLLBACK_COMPLETE"),
                                                    ("DO_NOTHING", "CREATE_FAILED")])
def test_a_resource_that_is_refused_takes_its_stack_with_it(stacks: Any, world: Any, on_failure: str, status: str) -> None:
    world.cloud.fault("denied", caller="daemon", operation="PutRule")
    id = stacks.create(template(), OnFailure=on_failure)
    assert stacks.settled(id) == status
    assert bool(there(world)["functions"]) == (on_failure == "DO_NOTHING")
    failed = [one for one in stacks.calls.describe_stack_events(StackName=id)["StackEvents"] if one["ResourceStatus"] == "CREATE_FAILED"]
    assert "AccessDenied" in failed[-1]["ResourceStatusReason"] and failed[-1]["LogicalResourceId"] == "Rule"


@pytest.mark.cloud
def test_an_update_changes_what_is_otherwise_and_one_that_fails_is_taken_back(stacks: Any, world: Any) -> None:
    id = stacks.create(template())
    assert stacks.settled(id) == "CREATE_COMPLETE"
    before = stacks.resources(id)
    agreed: dict[str, Any] = {"StackName": id, "Capabilities": ["CAPABILITY_IAM"]}
    with pytest.raises(ClientError, match="No updates are to be performed"):
        stacks.calls.update_stack(TemplateBody=json.dumps(template()), **agreed)
    word = [{"ParameterKey": "Word", "ParameterValue": "else"}]
    stacks.calls.update_stack(TemplateBody=json.dumps(template()), Parameters=word, **agreed)
    assert stacks.settled(id) == "UPDATE_COMPLETE"
    assert stacks.resources(id) == before, "changed where it is"
    answer = world.client("lambda").invoke(FunctionName=before["Function"], Payload=b"{}")
    assert json.loads(answer["Payload"].read())["said"] == "else"
    world.cloud.fault("denied", caller="daemon", operation="PutRule", times=1)
    rule = template()["Resources"]["Rule"]
    often = {**rule, "Properties": {**rule["Properties"], "ScheduleExpression": "rate(1 minute)"}}
    stacks.calls.update_stack(TemplateBody=json.dumps(template(Rule=often)), Parameters=word, **agreed)
    assert stacks.settled(id) == "UPDATE_ROLLBACK_COMPLETE"
    [shown] = world.client("events").list_rules()["Rules"]
    assert shown["ScheduleExpression"] == "rate(5 minutes)"
    stacks.calls.update_stack(TemplateBody=json.dumps(template(Rule=None, Permission=None)), **agreed)
    assert stacks.settled(id) == "UPDATE_COMPLETE"
    assert there(world)["rules"] == []


@pytest.mark.cloud
def test_a_name_is_taken_once_a_token_makes_once_and_rights_have_to_be_agreed_to(stacks: Any) -> None:
    id = stacks.create(template(), ClientRequestToken="once")
    name, body = id.split("/")[1], json.dumps(template())
    again = stacks.calls.create_stack(StackName=name, TemplateBody=body, Capabilities=["CAPABILITY_IAM"], ClientRequestToken="once")
    assert again["StackId"] == id
    with pytest.raises(ClientError, match="AlreadyExistsException"):
        stacks.calls.create_stack(StackName=name, TemplateBody=body, Capabilities=["CAPABILITY_IAM"])
    with pytest.raises(ClientError, match=r"InsufficientCapabilities.*CAPABILITY_IAM"):
        stacks.calls.create_stack(StackName="another", TemplateBody=body)


@pytest.mark.cloud
@pytest.mark.skipif(shutil.which("aws") is None, reason="the aws command line is not here")
def test_the_aws_command_line_sees_a_stack_and_what_it_is_made_of(stacks: Any, world: Any) -> None:
    id = stacks.create(template())
    assert stacks.settled(id) == "CREATE_COMPLETE"
    cloud = world.cloud
    keys = {"AWS_ACCESS_KEY_ID": cloud.access_key_id, "AWS_SECRET_ACCESS_KEY": cloud.secret_access_key}

    def aws(*words: str) -> Any:
        line = ["aws", *words, "--endpoint-url", cloud.endpoint_url, "--region", cloud.region, "--output", "json"]
        ran = subprocess.run(line, env={**os.environ, **keys}, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    [shown] = aws("cloudformation", "describe-stacks", "--stack-name", id)["Stacks"]
    assert shown["StackStatus"] == "CREATE_COMPLETE"
    assert {one["LogicalResourceId"] for one in aws("cloudformation", "describe-stack-resources", "--stack-name", id)["StackResources"]} \
        == set(template()["Resources"])
    [function] = aws("lambda", "list-functions")["Functions"]
    assert function["Handler"] == "index.handler"


@pytest.mark.parametrize(("body", "told"), [
    ({"Resources": {}}, "At least one Resources member"),
    (template(Log={"Type": "AWS::EC2::Instance"}), r"Unrecognized resource types: \[AWS::EC2::Instance\]"),
    (template(Role=None), r"Unresolved resource dependencies \[Role\]"),
    (template(Log={"Type": "AWS::Logs::LogGroup", "Properties": {"Retention": 7}}), r"extraneous key \[Retention\]"),
    (template(Role={"Type": "AWS::IAM::Role"}), r"required key \[AssumeRolePolicyDocument\]"),
    (template(Log={"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": {"Fn::Join": ["", []]}}}), "does not know Fn::Join"),
    (template(Log={"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": {"Fn::Sub": "${Function}-log"}}}), "Circular dependency"),
    ({**template(), "Conditions": {}}, r"Invalid template property or properties \[Conditions\]"),
])
def test_a_template_that_is_wrong_is_refused_whole(body: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        blueprints.read(json.dumps(body))


def test_references_are_filled_in_wherever_they_stand() -> None:
    def attribute(logical: str, name: str) -> str:
        return f"<{logical}{'.' if name else ''}{name}>"

    part = {"a": [{"Ref": "Word"}, {"Fn::GetAtt": ["Role", "Arn"]}], "b": {"Fn::Sub": "${Word}-${Role.Arn}-${Log}"}, "c": 3}
    assert blueprints.filled(part, {"Word": "hello"}, attribute) == {"a": ["hello", "<Role.Arn>"], "b": "hello-<Role.Arn>-<Log>", "c": 3}
    assert sorted(blueprints.references(part)) == ["Log", "Role", "Role", "Word", "Word"]


def test_parameters_have_their_values_their_defaults_or_are_asked_for() -> None:
    declared = {"Parameters": {"a": {"Type": "String"}, "b": {"Type": "String", "Default": "2"}}}
    assert blueprints.values(declared, {"a": "1"}) == {"a": "1", "b": "2"}
    with pytest.raises(Refused, match="must have values"):
        blueprints.values(declared, {})
    with pytest.raises(Refused, match="do not exist in the template"):
        blueprints.values(declared, {"a": "1", "c": "3"})


@pytest.mark.parametrize(("expression", "seconds"), [("rate(1 minute)", 60.0), ("rate(2 hours)", 7200.0), ("rate(1 day)", 86400.0),
                                                     ("cron(0 12 * * ? *)", None), (None, None)])
def test_a_rate_is_a_number_of_seconds(expression: str | None, seconds: float | None) -> None:
    assert period(expression) == seconds


@pytest.mark.parametrize(("changed", "may"), [
    ({}, True), ({"Condition": {}}, True), ({"Effect": "Deny"}, False), ({"Action": "lambda:GetFunction"}, False),
    ({"Principal": {"Service": "s3.amazonaws.com"}}, False), ({"Condition": {"ArnLike": {"AWS:SourceArn": "another"}}}, False),
])
def test_a_function_is_called_by_whom_its_policy_lets(changed: dict[str, Any], may: bool) -> None:
    statement = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "lambda:InvokeFunction",
                 "Condition": {"ArnLike": {"AWS:SourceArn": "rule"}}}
    assert lets([{**statement, **changed}], "rule") is may
