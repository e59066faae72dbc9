"""The policies of a set-up: no call that the code makes is missing in them, and none stands there that it does not make."""

import ast
import json
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

import fleetctl
from fleetctl.account import access, rights
from fleetctl.standby import homes

SOURCES = Path(fleetctl.__file__).parent
SERVICES = ("ec2", "sns", "sqs", "ssm", "s3", "sts", "iam", "service-quotas", "cloudwatch", "budgets", "cloudformation", "ce",
            "bcm-data-exports")  # fmt: skip
WHERE = ("us-east-1", "123456789012", "the-bucket")


@pytest.fixture(scope="module")
def operations():
    """botocore's names of every operation, by service."""
    session = botocore.session.Session()
    return {service: {xform_name(one): one for one in session.get_service_model(service).operation_names} for service in SERVICES}


def said(paths, operations):
    """The calls that stand in the sources: every text that is an operation's name, with each service that has one of that name."""
    texts = {node.value for path in paths for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    return {(service, text) for service, known in operations.items() for text in texts if text in known}


def listed(table):
    return {(service, operation) for service, calls in table.items() for operation in calls}


def ours(which):
    """Our modules: those of the set-up, or all others that ask AWS for something but the checklist, which is no session's work."""
    account = sorted((SOURCES / "account").glob("*.py"))
    apart = {*account, SOURCES / "oversight" / "expenses.py"}
    others = [path for path in SOURCES.rglob("*.py") if "local" not in path.parts[len(SOURCES.parts) :] and path not in apart]
    return [path for path in account if path.name != "rights.py"] if which == "account" else others


@pytest.mark.parametrize(("which", "table"), [("sessions", rights.CALLS), ("account", rights.SETUP_CALLS)])
def test_the_tables_of_calls_are_what_the_code_can_make(which, table, operations):
    found, told = said(ours(which), operations), listed(table)
    names = {operation for _, operation in told}
    assert {pair for pair in found if pair[1] not in names} == NOT_CALLED[which], "calls that no table has"
    assert told - found == SHARED[which], "calls that nothing makes"


SHARED = {"sessions": set(), "account": {("s3", one) for one in (
    "delete_objects", "list_object_versions", "list_multipart_uploads", "abort_multipart_upload")}}  # by `bucket.empty`
NOT_CALLED = {  # the kinds of a teardown name what makes them, and the journal how reading calls begin
    "sessions": {("ec2", "allocate_address"), ("ec2", "create_nat_gateway"), ("sqs", "delete_message")},
    "account": set(),
}


@pytest.mark.parametrize("table", [rights.CALLS, rights.SETUP_CALLS])
def test_every_call_is_one_that_its_service_has_and_its_action_bears_the_name_that_aws_gave_it(table, operations):
    for service, operation in listed(table):
        assert operation in operations[service], f"{service} has no {operation}"
        if f"{service}:{operation}" not in rights.OTHERWISE:
            assert rights.actions(service, operation) == (f"{rights.PREFIXES.get(service, service)}:{operations[service][operation]}",)


def test_the_controller_is_allowed_each_of_its_calls_and_nothing_by_a_star():
    document = rights.controller("aws", *WHERE, "the-role")
    allowed = {one for statement in document["Statement"] for one in statement["Action"]}
    assert {one for pair in listed(rights.CALLS) for one in rights.actions(*pair)} <= allowed
    assert not any("*" in one for one in allowed)
    assert len(rights.encode(document)) <= 6144  # of a managed policy, without spaces (IAM User Guide, "IAM and AWS STS quotas")


def test_machines_are_ended_by_tag_or_profile_only_and_no_other_role_is_passed():
    document = rights.controller("aws", *WHERE, "the-role")
    ending = [one for one in document["Statement"] if "ec2:TerminateInstances" in one["Action"]]
    assert [sorted(one["Condition"]) for one in ending] == [["StringLike"], ["ArnEquals"]]
    (passing,) = [one for one in document["Statement"] if "iam:PassRole" in one["Action"]]
    assert passing["Resource"] == ["arn:aws:iam::123456789012:role/the-role"]


def test_a_machine_may_report_read_what_is_laid_out_for_it_write_its_log_keep_homes_and_nothing_else():
    statements = rights.machine("aws", *WHERE)["Statement"]
    assert {one for statement in statements for one in statement["Action"]} == {
        "sns:Publish", "ssm:GetParameter", "s3:GetObject", "s3:PutObject", *homes.RIGHTS
    }  # fmt: skip
    for statement in statements:
        assert all("fleetctl" in where or where.endswith(("the-bucket/logs/*", "the-bucket/homes/*")) for where in statement["Resource"])
    [keeping] = [one for one in statements if set(one["Action"]) == set(homes.RIGHTS)]
    assert keeping["Resource"] == ["arn:aws:s3:::the-bucket/homes/*"]


def test_another_partition_has_other_names():
    bucket = rights.bucket_policy("aws-cn", "123456789012", "b", reports="costs/")
    text = json.dumps([rights.machine("aws-cn", *WHERE), rights.controller("aws-cn", *WHERE, "r"), bucket])
    assert "arn:aws:" not in text


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ("all from its members", {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}),
        ("tcp 22 from 203.0.113.7/32", {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}),
        ("udp 1..9 from ::/0", {"IpProtocol": "udp", "FromPort": 1, "ToPort": 9, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}),
        ("tcp 443 from pl-1", {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "PrefixListIds": [{"PrefixListId": "pl-1"}]}),
        ("all from sg-2", {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-2"}]}),
    ],
)
def test_a_group_s_rules_are_said_in_words_and_made_from_them(rule, made):
    assert access.permission(rule, "sg-1") == made
    assert access.rules([made], "sg-1") == (rule,)
