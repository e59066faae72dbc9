"""Faults on demand, each as its user meets it."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError, ConnectionClosedError

from fleetctl.errors import LocalCloudError

pytestmark = pytest.mark.cloud


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:      # not there, or gone between opening and reading
        return True


def status(world: Any, id: str) -> str:
    code: str = world.requests([id])[0]["Status"]["Code"]
    return code


def test_without_capacity_a_request_waits_until_there_is_some(world: Any) -> None:
    world.cloud.fault("capacity", type="t3.micro")
    [id] = world.request_spot()
    world.until(lambda: status(world, id) == "capacity-not-available")
    assert world.requests([id])[0]["State"] == "open"
    world.cloud.clear_faults()
    [made] = world.fulfilled([id])
    world.ec2.terminate_instances(InstanceIds=[made])


def test_capacity_can_run_out(world: Any) -> None:
    world.cloud.fault("capacity", type="t3.micro", times=3)
    ids = world.request_spot(5)
    world.until(lambda: sorted(status(world, id) for id in ids) == ["capacity-not-available"] * 3 + ["fulfilled"] * 2)
    world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    world.ec2.terminate_instances(InstanceIds=[r["InstanceId"] for r in world.requests(ids) if "InstanceId" in r])


def test_fulfilment_can_be_slow(world: Any) -> None:
    world.cloud.fault("fulfil-delay", seconds=0.5)
    asked = time.monotonic()
    ids = world.request_spot()
    assert status(world, ids[0]) == "pending-evaluation"
    [made] = world.fulfilled(ids)
    assert time.monotonic() - asked >= 0.5
    world.ec2.terminate_instances(InstanceIds=[made])


def test_a_machine_may_never_boot_though_ec2_says_that_it_runs(world: Any) -> None:
    world.cloud.fault("never-boots", times=1)
    [ghost, real] = world.fulfilled(world.request_spot(2))
    world.in_state(ghost, "running")
    world.in_state(real, "running")
    processes = world.cloud.inventory()["processes"]
    assert (real in processes, ghost in processes) == (True, False)
    world.ec2.terminate_instances(InstanceIds=[ghost, real])
    world.in_state(ghost, "terminated")
    world.in_state(real, "terminated")


def test_an_interruption_is_announced_and_carried_out(world: Any) -> None:
    [id] = world.request_spot()
    [made] = world.fulfilled([id])
    world.in_state(made, "running")
    world.cloud.fault("interruption", instance=made, seconds=0.5)
    assert status(world, id) == "marked-for-termination"
    assert world.in_state(made, "terminated")["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert (world.requests([id])[0]["State"], status(world, id)) == ("closed", "instance-terminated-no-capacity")


def test_a_recommendation_to_rebalance_takes_nothing(world: Any) -> None:
    [id] = world.request_spot()
    [made] = world.fulfilled([id])
    world.cloud.fault("rebalance", instance=made)
    assert status(world, id) == "fulfilled"
    with pytest.raises(LocalCloudError, match="not a living spot instance"):
        world.cloud.fault("rebalance", instance="i-0123456789abcdef0")
    world.ec2.terminate_instances(InstanceIds=[made])
    world.in_state(made, "terminated")


def test_calls_are_throttled_by_service_and_operation(world: Any) -> None:
    world.cloud.fault("throttling", service="ec2", operation="Describe*", times=1)
    world.sqs.list_queues()
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        world.ec2.describe_instances()
    world.ec2.describe_instances()


def test_a_server_error_may_have_taken_effect(world: Any) -> None:
    world.cloud.fault("server-error", service="sqs", operation="CreateQueue", applied=True, times=1)
    with pytest.raises(ClientError, match="InternalError"):
        world.sqs.create_queue(QueueName="made-all-the-same")
    assert "made-all-the-same" in world.cloud.inventory()["queues"]


def test_answers_can_be_late(world: Any) -> None:
    world.cloud.fault("delay", service="ssm", seconds=0.3)
    asked = time.monotonic()
    world.client("ssm").describe_parameters()
    assert time.monotonic() - asked >= 0.3


def test_unknown_faults_and_settings_are_refused_with_what_there_is(world: Any) -> None:
    with pytest.raises(LocalCloudError, match="there is no fault 'rain'; there are capacity"):
        world.cloud.fault("rain")
    with pytest.raises(LocalCloudError, match="has no colour; it has type, zone"):
        world.cloud.fault("capacity", colour="red")
    with pytest.raises(LocalCloudError, match="not a living spot instance"):
        world.cloud.fault("interruption", instance="i-0123456789abcdef0")


def test_calls_of_a_kind_empty_their_token_bucket_and_the_answer_is_503(world: Any) -> None:
    world.cloud.fault("token-buckets", operation="DescribeVpcs", scale=0.04)   # two unfiltered ones, or four with a filter
    for _ in range(2):
        world.ec2.describe_vpcs()
    with pytest.raises(ClientError, match="RequestLimitExceeded") as throttled:
        world.ec2.describe_vpcs()
    assert throttled.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    world.ec2.describe_subnets()
    world.until(lambda: throttling(world.ec2.describe_vpcs) is None)   # it fills again


def test_instances_have_a_bucket_of_their_own(world: Any) -> None:
    world.cloud.fault("token-buckets", operation="RunInstances", scale=0.3)   # one call at a time, and 300 instances
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        world.ec2.run_instances(MinCount=1, MaxCount=301, **world.specification())
    with pytest.raises(ClientError, match="InvalidAMIID"):   # not throttled: what was refused took no token
        world.ec2.run_instances(MinCount=1, MaxCount=300, **world.specification(ImageId="ami-0123456789abcdef0"))


def throttling(call: Any) -> str | None:
    try:
        call()
    except ClientError as error:
        code: str = error.response["Error"]["Code"]
        return code
    return None


def test_what_is_new_is_not_seen_for_a_while(world: Any) -> None:
    world.cloud.fault("invisible", resource="i", seconds=1.0)
    made = world.ec2.run_instances(MinCount=1, MaxCount=1, **world.specification())["Instances"][0]["InstanceId"]
    for call in (lambda: world.instance(made), lambda: world.ec2.terminate_instances(InstanceIds=[made]),
                 lambda: world.ec2.create_tags(Resources=[made], Tags=[{"Key": "a", "Value": "b"}]),
                 lambda: world.ec2.describe_instance_status(InstanceIds=[made])):
        assert throttling(call) == "InvalidInstanceID.NotFound"
    seen = [instance["InstanceId"] for part in world.ec2.describe_instances()["Reservations"] for instance in part["Instances"]]
    assert made not in seen
    assert made in [instance["id"] for instance in world.cloud.inventory()["instances"]]   # the oracle is never blind
    world.until(lambda: throttling(lambda: world.instance(made)) is None)
    world.ec2.terminate_instances(InstanceIds=[made])


def test_spot_requests_volumes_templates_and_fleets_may_be_unseen_too(world: Any) -> None:
    world.cloud.fault("invisible", seconds=30)
    [request] = world.request_spot(SpotPrice="0.0001")
    assert throttling(lambda: world.requests([request])) == "InvalidSpotInstanceRequestID.NotFound"
    assert throttling(lambda: world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])) is not None
    assert request not in [r["SpotInstanceRequestId"] for r in world.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]]
    made = world.ec2.create_launch_template(LaunchTemplateName="unseen", LaunchTemplateData=world.specification())["LaunchTemplate"]
    template = made["LaunchTemplateId"]
    assert throttling(lambda: world.ec2.describe_launch_templates(LaunchTemplateIds=[template])) == "InvalidLaunchTemplateId.NotFound"
    assert world.ec2.describe_launch_templates()["LaunchTemplates"] == []
    world.cloud.clear_faults()                                       # mends what is there already, too
    assert world.requests([request])[0]["State"] == "open"
    world.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    world.ec2.delete_launch_template(LaunchTemplateId=template)


def test_the_answer_of_a_call_that_was_applied_can_be_lost(world: Any) -> None:
    world.cloud.fault("answer-lost", service="sqs", operation="CreateQueue", times=1)
    with pytest.raises(ConnectionClosedError):
        world.sqs.create_queue(QueueName="made-without-a-word")
    assert "made-without-a-word" in world.cloud.inventory()["queues"]
    world.cloud.fault("answer-lost", service="sqs", operation="CreateQueue", applied=False)
    with pytest.raises(ConnectionClosedError):
        world.sqs.create_queue(QueueName="never-made")
    assert "never-made" not in world.cloud.inventory()["queues"]


def test_a_lost_answer_of_a_launch_is_found_again_by_its_token(world: Any) -> None:
    world.cloud.fault("answer-lost", operation="RunInstances", times=1)
    order = {"MinCount": 2, "MaxCount": 2, "ClientToken": "a-token-of-this-test", **world.specification()}
    with pytest.raises(ConnectionClosedError):
        world.ec2.run_instances(**order)
    made = [instance["InstanceId"] for instance in world.ec2.run_instances(**order)["Instances"]]
    there = world.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [order["ClientToken"]]}])["Reservations"]
    assert sorted(one["InstanceId"] for part in there for one in part["Instances"]) == sorted(made)
    world.ec2.terminate_instances(InstanceIds=made)


def test_a_fault_can_let_the_first_calls_pass(world: Any) -> None:
    world.cloud.fault("throttling", operation="DescribeVpcs", skip=2, times=1)
    assert [throttling(world.ec2.describe_vpcs) for _ in range(4)] == [None, None, "RequestLimitExceeded", None]


def test_a_machine_can_die_at_any_time_and_ec2_says_why(world: Any) -> None:
    [victim, other] = world.fulfilled(world.request_spot(2))
    world.in_state(victim, "running")
    world.in_state(other, "running")
    pid = world.cloud.inventory()["processes"][victim]
    world.cloud.fault("dies", instance=victim)
    assert world.in_state(victim, "terminated")["StateReason"]["Code"] == "Server.InternalError"
    world.until(lambda: gone(pid))
    assert world.instance(other)["State"]["Name"] == "running"
    world.cloud.fault("dies", instance=other, market="spot", seconds=0.2)
    world.in_state(other, "terminated")


def test_a_machine_can_die_soon_after_its_launch(world: Any) -> None:
    world.cloud.fault("dies", type="t3.micro", seconds=0.3, times=1)
    [made] = world.fulfilled(world.request_spot())
    assert world.in_state(made, "terminated")["StateReason"]["Code"] == "Server.InternalError"


def test_a_machine_can_boot_slowly_and_be_ended_before_it_has(world: Any) -> None:
    world.cloud.fault("slow-boot", seconds=0.5)
    began = time.monotonic()
    first, second = world.fulfilled(world.request_spot(2))
    assert world.instance(second)["State"]["Name"] == "pending"
    world.ec2.terminate_instances(InstanceIds=[second])
    world.in_state(second, "terminated")
    world.in_state(first, "running")
    assert time.monotonic() - began >= 0.5
    assert second not in world.cloud.inventory()["processes"]
    world.ec2.terminate_instances(InstanceIds=[first])


def test_a_machine_can_work_and_never_be_heard(world: Any) -> None:
    topic, queue = world.channel(raw=True)
    world.cloud.fault("never-reports", type="t3.micro", times=1)
    mute, heard = world.fulfilled(world.request_spot(2))
    assert len({mute, heard}) == 2
    for id in (mute, heard):
        world.sns.publish(TopicArn=topic, Message=f'{{"instance": "{id}"}}')
        world.sns.publish(TopicArn=topic, Message=base64.b64encode(f"instance-id: {id}".encode()).decode())
    received = [body for _ in range(2) for body in world.receive(queue, wait=1)]
    assert len(received) == 2
    assert f'{{"instance": "{heard}"}}' in received
    world.ec2.terminate_instances(InstanceIds=[mute, heard])


def test_settings_come_as_words_too_and_nonsense_is_refused(world: Any) -> None:
    world.cloud.fault("server-error", service="ssm", applied="false", times="1", share="1.0")
    assert world.cloud.faults()[-1]["applied"] is False
    with pytest.raises(LocalCloudError, match="left is of type int, not 'many'"):
        world.cloud.fault("capacity", left="many")
    with pytest.raises(LocalCloudError, match="applied is true or false"):
        world.cloud.fault("answer-lost", applied="perhaps")


def test_a_share_strikes_the_same_way_for_the_same_seed(world: Any) -> None:
    def strikes(seed: int) -> list[str | None]:
        world.cloud.clear_faults()
        world.cloud.fault("throttling", operation="DescribeVpcs", share=0.5, seed=seed)
        return [throttling(world.ec2.describe_vpcs) for _ in range(20)]
    assert strikes(7) == strikes(7)
    assert strikes(7) != strikes(8)


@pytest.mark.parametrize(("service", "operation", "code"), [("ec2", "DescribeVpcs", "UnauthorizedOperation"),
                                                            ("iam", "ListRoles", "AccessDenied"),
                                                            ("ssm", "DescribeParameters", "AccessDeniedException")])
def test_a_call_is_denied_as_its_service_denies(world: Any, service: str, operation: str, code: str) -> None:
    world.cloud.fault("denied", service=service, operation=operation)
    assert throttling(getattr(world.client(service), xform_name(operation))) == code
    world.cloud.clear_faults()
    assert throttling(getattr(world.client(service), xform_name(operation))) is None
