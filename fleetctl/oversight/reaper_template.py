"""The CloudFormation template that lets AWS itself run the reaper on a schedule. Nothing installs it but whoever wants it:

    fleetctl setup apply --reaper

or, without a set-up:

    fleetctl reap --template > reaper.json
    aws cloudformation deploy --template-file reaper.json --stack-name fleetctl-reaper --capabilities CAPABILITY_IAM

It may end only what bears a session's tag: the role says so, not the code alone.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

SCHEDULE = "rate(15 minutes)"
LOG_DAYS = 14
CODE_BYTES = 4096  # of a function's code within a template: the older limit; newer ones are wider (CloudFormation, AWS::Lambda::Function)
OURS = {"Null": {"aws:ResourceTag/fleetctl:session": "false"}}
ENDS = ["ec2:TerminateInstances", "ec2:CancelSpotInstanceRequests", "ec2:DeleteFleets", "ec2:DeleteVolume"]
LOOKS = ["ec2:DescribeTags", "ec2:DescribeSpotInstanceRequests"]
WRITES = ["logs:CreateLogStream", "logs:PutLogEvents"]  # and no CreateLogGroup: a log that was deleted with its stack stays so


def code() -> str:
    """The reaper's source as it stands."""
    return resources.files(__package__).joinpath("reaper.py").read_text(encoding="utf-8")


def template() -> dict[str, Any]:
    """The template, for json.dumps."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Ends whatever of fleetctl has outlived its expires tag.",
        "Parameters": {
            "Schedule": {"Type": "String", "Default": SCHEDULE, "Description": "an EventBridge schedule expression"},
            "Regions": {"Type": "String", "Default": "", "Description": "regions with spaces between; empty: this stack's own"},
        },
        "Resources": {
            "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": LOG_DAYS}},
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": _policy({"Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}),
                    "Policies": [
                        {
                            "PolicyName": "reap",
                            "PolicyDocument": _policy(
                                {"Action": LOOKS, "Resource": "*"},
                                {"Action": ENDS, "Resource": "*", "Condition": OURS},
                                {"Action": WRITES, "Resource": {"Fn::GetAtt": ["Log", "Arn"]}},
                            ),
                        }
                    ],
                },
            },
            "Reaper": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Runtime": "python3.12",
                    "Handler": "index.handler",
                    "Timeout": 300,
                    "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                    "Environment": {"Variables": {"REGIONS": {"Ref": "Regions"}}},
                    "LoggingConfig": {"LogGroup": {"Ref": "Log"}},
                    "Code": {"ZipFile": code()},
                },
            },
            "Rule": {
                "Type": "AWS::Events::Rule",
                "Properties": {
                    "ScheduleExpression": {"Ref": "Schedule"},
                    "Targets": [{"Id": "reaper", "Arn": {"Fn::GetAtt": ["Reaper", "Arn"]}}],
                },
            },
            "Permission": {
                "Type": "AWS::Lambda::Permission",
                "Properties": {
                    "Action": "lambda:InvokeFunction",
                    "FunctionName": {"Ref": "Reaper"},
                    "Principal": "events.amazonaws.com",
                    "SourceArn": {"Fn::GetAtt": ["Rule", "Arn"]},
                },
            },
        },
    }


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **one} for one in statements]}
