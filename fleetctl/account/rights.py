"""Who may do what: the policy documents of a set-up. Pure.

The machines' role can do what the boot script and a grid's worker do, and nothing else. The controlling user's policy is made from
`CALLS`, which is every call that the code can make; a test reads them out of the source, so that none is missing and none is too much.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["CALLS", "SETUP_CALLS", "TRUST", "action", "actions", "allowing", "bucket_policy", "controller", "encode", "machine"]

Document = dict[str, Any]

VERSION = "2012-10-17"
EXPORTS_REGION = "us-east-1"  # where exports of costs are kept, wherever they are written to
TRUST: Document = {
    "Version": VERSION,
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}

# every call that sessions, teardowns and the commands over orphans make; by service, as botocore names them
CALLS: Mapping[str, tuple[str, ...]] = {
    "ec2": (
        "cancel_spot_instance_requests", "create_fleet", "create_image", "create_launch_template", "create_tags", "delete_fleets",
        "delete_launch_template", "delete_nat_gateway", "delete_snapshot", "delete_tags", "delete_volume", "deregister_image",
        "describe_addresses", "describe_fleets", "describe_images", "describe_instance_status", "describe_instance_types",
        "describe_instances", "describe_launch_templates", "describe_nat_gateways", "describe_regions", "describe_route_tables",
        "describe_snapshots", "describe_spot_instance_requests", "describe_spot_price_history", "describe_subnets", "describe_tags",
        "describe_volumes", "describe_vpc_endpoints", "get_console_output", "release_address", "request_spot_instances", "run_instances",
        "start_instances", "stop_instances", "terminate_instances",
    ),
    "sns": (
        "create_topic", "delete_topic", "get_subscription_attributes", "get_topic_attributes", "list_subscriptions",
        "list_subscriptions_by_topic", "list_tags_for_resource", "list_topics", "publish", "subscribe", "unsubscribe",
    ),
    "sqs": (
        "create_queue", "delete_message_batch", "delete_queue", "get_queue_attributes", "list_queue_tags", "list_queues",
        "receive_message",
    ),
    "ssm": ("delete_parameter", "describe_parameters", "get_parameter", "put_parameter"),
    "s3": (
        "abort_multipart_upload", "complete_multipart_upload", "create_bucket", "create_multipart_upload", "delete_bucket", "delete_object",
        "delete_objects", "get_bucket_location", "get_bucket_tagging", "head_object", "list_buckets", "list_multipart_uploads",
        "list_object_versions", "list_objects_v2", "put_bucket_tagging", "put_object", "put_public_access_block", "upload_part",
    ),
    "sts": ("decode_authorization_message", "get_caller_identity"),
    "service-quotas": ("get_service_quota",),
}  # fmt: skip

# what the set-up itself calls besides: an administrator's business, and so not in the controller's policy
SETUP_CALLS: Mapping[str, tuple[str, ...]] = {
    "ec2": (
        "allocate_address", "associate_route_table", "attach_internet_gateway", "authorize_security_group_ingress",
        "create_internet_gateway", "create_nat_gateway", "create_route", "create_route_table", "create_security_group", "create_subnet",
        "create_tags", "create_vpc", "create_vpc_endpoint", "delete_internet_gateway", "delete_key_pair", "delete_nat_gateway",
        "delete_route", "delete_route_table", "delete_security_group", "delete_subnet", "delete_vpc", "delete_vpc_endpoints",
        "describe_addresses", "describe_availability_zones", "describe_images", "describe_instance_attribute", "describe_instances",
        "describe_internet_gateways", "describe_key_pairs", "describe_nat_gateways", "describe_network_interfaces",
        "describe_route_tables", "describe_security_groups", "describe_subnets", "describe_vpc_attribute", "describe_vpc_endpoints",
        "describe_vpcs", "detach_internet_gateway", "disassociate_route_table", "import_key_pair", "modify_instance_attribute",
        "modify_subnet_attribute", "modify_vpc_attribute", "modify_vpc_endpoint", "release_address", "replace_route",
        "revoke_security_group_ingress", "run_instances", "terminate_instances",
    ),
    "iam": (
        "add_role_to_instance_profile", "create_instance_profile", "create_policy", "create_policy_version", "create_role",
        "delete_instance_profile", "delete_policy", "delete_policy_version", "delete_role", "delete_role_policy",
        "detach_group_policy", "detach_role_policy", "detach_user_policy", "get_instance_profile", "get_policy", "get_policy_version",
        "get_role", "get_role_policy", "list_attached_role_policies", "list_entities_for_policy", "list_policy_versions",
        "list_role_policies", "put_role_policy", "remove_role_from_instance_profile", "tag_instance_profile", "tag_policy", "tag_role",
        "update_assume_role_policy",
    ),
    "s3": (
        "abort_multipart_upload", "create_bucket", "delete_bucket", "delete_objects", "get_bucket_encryption",
        "get_bucket_lifecycle_configuration", "get_bucket_policy", "get_bucket_tagging", "get_public_access_block", "head_bucket",
        "list_buckets", "list_multipart_uploads", "list_object_versions", "put_bucket_encryption", "put_bucket_lifecycle_configuration",
        "put_bucket_policy", "put_bucket_tagging", "put_public_access_block",
    ),
    "ssm": ("get_parameter",),
    "sts": ("get_caller_identity",),
    "sns": (
        "create_topic", "delete_topic", "get_topic_attributes", "list_subscriptions_by_topic", "list_tags_for_resource", "subscribe",
        "tag_resource", "unsubscribe",
    ),
    "cloudwatch": ("delete_alarms", "describe_alarms", "list_tags_for_resource", "put_metric_alarm", "tag_resource"),
    "budgets": (
        "create_budget", "delete_budget", "describe_budget", "describe_notifications_for_budget",
        "describe_subscribers_for_notification", "list_tags_for_resource",
    ),
    "ce": ("list_cost_allocation_tags", "update_cost_allocation_tags_status"),
    "bcm-data-exports": ("create_export", "delete_export", "get_export", "list_exports", "list_tags_for_resource", "update_export"),
    "cloudformation": ("create_stack", "delete_stack", "describe_stack_events", "describe_stacks", "get_template", "update_stack"),
}  # fmt: skip

# what the resources of the reaper's stack need (the resource types' schemas, "handlers", "permissions")
REAPER = (
    "events:DeleteRule", "events:DescribeRule", "events:ListTargetsByRule", "events:PutRule", "events:PutTargets", "events:RemoveTargets",
    "events:TagResource", "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy", "iam:PassRole",
    "iam:PutRolePolicy", "iam:TagRole", "lambda:AddPermission", "lambda:CreateFunction", "lambda:DeleteFunction", "lambda:GetFunction",
    "lambda:GetFunctionConfiguration", "lambda:GetPolicy", "lambda:RemovePermission", "lambda:TagResource", "lambda:UpdateFunctionCode",
    "lambda:UpdateFunctionConfiguration", "logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:DescribeLogGroups", "logs:PutRetentionPolicy",
    "logs:TagResource",
)  # fmt: skip
# where an action is not the call's own name (Service Authorization Reference, "Actions defined by Amazon S3", "… by Amazon SQS")
OTHERWISE: Mapping[str, tuple[str, ...]] = {
    "s3:delete_objects": ("s3:DeleteObject", "s3:DeleteObjectVersion"),
    "s3:get_bucket_encryption": ("s3:GetEncryptionConfiguration",),
    "s3:get_bucket_lifecycle_configuration": ("s3:GetLifecycleConfiguration",),
    "s3:get_public_access_block": ("s3:GetBucketPublicAccessBlock",),
    "s3:head_bucket": ("s3:ListBucket",),
    "s3:head_object": ("s3:GetObject",),
    "s3:list_buckets": ("s3:ListAllMyBuckets",),
    "s3:list_object_versions": ("s3:ListBucketVersions",),
    "s3:list_objects_v2": ("s3:ListBucket",),
    "s3:complete_multipart_upload": ("s3:PutObject",),
    "s3:create_multipart_upload": ("s3:PutObject",),
    "s3:upload_part": ("s3:PutObject",),
    "s3:list_multipart_uploads": ("s3:ListBucketMultipartUploads",),
    "s3:put_bucket_encryption": ("s3:PutEncryptionConfiguration",),
    "s3:put_bucket_lifecycle_configuration": ("s3:PutLifecycleConfiguration",),
    "s3:put_public_access_block": ("s3:PutBucketPublicAccessBlock",),
    "sqs:create_queue": ("sqs:CreateQueue", "sqs:TagQueue"),  # each with the tags that it bears from the first moment
    "sqs:delete_message_batch": ("sqs:DeleteMessage",),
    "sns:create_topic": ("sns:CreateTopic", "sns:TagResource"),
    "ssm:put_parameter": ("ssm:PutParameter", "ssm:AddTagsToResource"),
    "iam:create_role": ("iam:CreateRole", "iam:TagRole"),
    "iam:create_policy": ("iam:CreatePolicy", "iam:TagPolicy"),
    "iam:create_instance_profile": ("iam:CreateInstanceProfile", "iam:TagInstanceProfile"),
    "iam:add_role_to_instance_profile": ("iam:AddRoleToInstanceProfile", "iam:PassRole"),
    "cloudwatch:put_metric_alarm": ("cloudwatch:PutMetricAlarm", "cloudwatch:TagResource"),
    # (Service Authorization Reference, "… by AWS Budgets Service")
    "budgets:create_budget": ("budgets:ModifyBudget", "budgets:TagResource"),
    "budgets:delete_budget": ("budgets:ModifyBudget",),
    "budgets:describe_budget": ("budgets:ViewBudget",),
    "budgets:describe_notifications_for_budget": ("budgets:ViewBudget",),
    "budgets:describe_subscribers_for_notification": ("budgets:ViewBudget",),
    # exports of costs are asked for by the older service's rights, too, as administrators who grant them report
    "bcm-data-exports:create_export": ("bcm-data-exports:CreateExport", "bcm-data-exports:TagResource", "cur:PutReportDefinition"),
    "bcm-data-exports:update_export": ("bcm-data-exports:UpdateExport", "cur:PutReportDefinition"),
    "bcm-data-exports:delete_export": ("bcm-data-exports:DeleteExport", "cur:DeleteReportDefinition"),
    # CloudFormation makes and ends what a template says with the rights of whoever asks (its User Guide, "Control access with IAM")
    "cloudformation:create_stack": ("cloudformation:CreateStack", "cloudformation:TagResource", *REAPER),
    "cloudformation:update_stack": ("cloudformation:UpdateStack", "cloudformation:TagResource", *REAPER),
    "cloudformation:delete_stack": ("cloudformation:DeleteStack", *REAPER),
    "sts:get_caller_identity": (),  # needs no right
}
# where the actions of a service begin otherwise than botocore names it
PREFIXES: Mapping[str, str] = {"elb": "elasticloadbalancing", "elbv2": "elasticloadbalancing", "efs": "elasticfilesystem",
                               "service-quotas": "servicequotas"}  # fmt: skip
# what AWS lets nobody narrow down to a resource, besides whatever only looks
EVERYWHERE = frozenset({"sns:unsubscribe", "sns:list_topics", "sns:list_subscriptions", "sns:get_subscription_attributes",
                        "sqs:list_queues", "ssm:describe_parameters", "s3:list_buckets", "sts:decode_authorization_message",
                        "service-quotas:get_service_quota"})  # fmt: skip
ENDS_MACHINES = "ec2:terminate_instances"
OF_THE_NAT_INSTANCE = ("ec2:delete_tags", "ec2:start_instances", "ec2:stop_instances")  # of a set-up, by whose tag it is known


def action(service: str, operation: str) -> str:
    """The action of a call, where it has a name of its own.

    >>> action("ec2", "describe_nat_gateways")
    'ec2:DescribeNatGateways'
    """
    return f"{PREFIXES.get(service, service)}:{''.join(part.capitalize() for part in operation.split('_'))}"


def actions(service: str, operation: str) -> tuple[str, ...]:
    """The actions that a call needs.

    >>> actions("s3", "list_objects_v2")
    ('s3:ListBucket',)
    """
    return OTHERWISE.get(f"{service}:{operation}", (action(service, operation),))


def encode(document: Document) -> str:
    """As text, the same for equal documents, so that two can be compared."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def machine(partition: str, region: str, account: str, bucket: str) -> Document:
    """What machines may do: report, read what is laid out for them, write their logs, fetch and save users' homes.

    A SecureString under SSM's own key needs no right to that key: its policy lets in whoever SSM lets in.
    """
    buckets = [f"arn:{partition}:s3:::{bucket}/fleetctl/*", f"arn:{partition}:s3:::fleetctl-*/*"]  # and those that sessions make
    return _document(
        _allow(["sns:Publish"], [f"arn:{partition}:sns:{region}:{account}:fleetctl-*"]),
        _allow(["ssm:GetParameter"], [f"arn:{partition}:ssm:{region}:{account}:parameter/fleetctl/*"]),
        _allow(["s3:GetObject"], buckets, {"StringEquals": {"aws:ResourceAccount": account}}),
        _allow(["s3:PutObject"], [f"arn:{partition}:s3:::{bucket}/logs/*"]),
        _allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], [f"arn:{partition}:s3:::{bucket}/homes/*"]),
    )


def controller(partition: str, region: str, account: str, bucket: str, role: str) -> Document:
    """What the controlling user may do: `CALLS`, on names that begin with fleetctl's and machines that bear its tag or role."""

    def of(service: str) -> list[str]:
        apart = EVERYWHERE | {ENDS_MACHINES, *OF_THE_NAT_INSTANCE}
        return _actions((service, one) for one in CALLS[service] if f"{service}:{one}" not in apart)

    profile = f"arn:{partition}:iam::{account}:instance-profile/{role}"
    machines = [f"arn:{partition}:ec2:{region}:{account}:instance/*"]
    end, ours = list(actions("ec2", "terminate_instances")), {"ec2:ResourceTag/fleetctl:session": "*"}
    places = [f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*",
              f"arn:{partition}:s3:::fleetctl-*", f"arn:{partition}:s3:::fleetctl-*/*"]  # fmt: skip
    return _document(
        _allow([*of("ec2"), *_actions(tuple(one.split(":")) for one in sorted(EVERYWHERE))], ["*"]),
        _allow(end, machines, {"StringLike": ours}),
        # RequestSpotInstances' machines are tagged after they are there: until then their profile says whose they are
        _allow(end, machines, {"ArnEquals": {"ec2:InstanceProfile": profile}}),
        _allow(_actions(tuple(one.split(":")) for one in OF_THE_NAT_INSTANCE), machines,
               {"StringLike": {"ec2:ResourceTag/fleetctl:setup": "*"}}),
        _allow(of("sns"), [f"arn:{partition}:sns:{region}:{account}:fleetctl-*"]),
        _allow(of("sqs"), [f"arn:{partition}:sqs:{region}:{account}:fleetctl-*"]),
        _allow(of("ssm"), [f"arn:{partition}:ssm:{region}:{account}:parameter/fleetctl/*"]),
        _allow(["ssm:GetParameter"], [f"arn:{partition}:ssm:{region}::parameter/aws/service/*"]),  # the newest images of others
        _allow(of("s3"), places),
        _allow(["iam:PassRole"], [f"arn:{partition}:iam::{account}:role/{role}"],
               {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}),
        # the first spot request of an account makes this role (EC2 User Guide, "Service-linked role for Spot Instance requests")
        _allow(["iam:CreateServiceLinkedRole"], [f"arn:{partition}:iam::{account}:role/aws-service-role/spot.amazonaws.com/*"]),
    )  # fmt: skip


def bucket_policy(partition: str, account: str, bucket: str, *, reports: str = "") -> Document:
    """Whoever comes without TLS is refused; and below `reports` AWS may write what this account has spent.

    The second part is what AWS asks for, narrowed to that prefix (Data Exports User Guide, "Setting up an Amazon S3 bucket").
    """
    whole, inside = f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*"
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    refuse = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [whole, inside], "Condition": insecure}
    if not reports:
        return _document(refuse)
    sources = [f"arn:{partition}:bcm-data-exports:{EXPORTS_REGION}:{account}:export/*",
               f"arn:{partition}:cur:{EXPORTS_REGION}:{account}:definition/*"]  # fmt: skip
    ours = {"StringLike": {"aws:SourceArn": sources, "aws:SourceAccount": account}}
    write = _allow(["s3:PutObject"], [f"{whole}/{reports}*"], ours)
    check = _allow(["s3:GetBucketPolicy"], [whole], ours)
    writers = {"Principal": {"Service": ["bcm-data-exports.amazonaws.com", "billingreports.amazonaws.com"]}}
    return _document(refuse, {**write, **writers}, {**check, **writers})


def allowing(calls: Iterable[tuple[str, str]]) -> Document:
    """A policy that would have allowed these calls, on anything: what to show to who may grant it."""
    return _document(_allow(_actions(calls), ["*"]))


def _actions(calls: Iterable[tuple[str, ...]]) -> list[str]:
    return sorted({one for service, operation in calls for one in actions(service, operation)})


def _allow(what: list[str], where: list[str], when: Mapping[str, Any] | None = None) -> Document:
    return {"Effect": "Allow", "Action": what, "Resource": where, **({"Condition": dict(when)} if when else {})}


def _document(*statements: Document) -> Document:
    return {"Version": VERSION, "Statement": list(statements)}
