"""SNS to SQS: deliveries, policies, long polls, faults."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud


def messages(world: Any, url: str, wait: int = 2) -> list[str]:
    """What the queue's envelopes hold."""
    return [json.loads(body)["Message"] for body in world.receive(url, wait)]


def test_a_message_arrives_in_its_envelope(world: Any) -> None:
    topic, url = world.channel()
    world.sns.publish(TopicArn=topic, Message="héllo", Subject="s")
    [body] = world.receive(url)
    envelope = json.loads(body)
    assert (envelope["Type"], envelope["TopicArn"], envelope["Message"], envelope["Subject"]) == ("Notification", topic, "héllo", "s")


def test_raw_delivery_has_no_envelope(world: Any) -> None:
    topic, url = world.channel(raw=True)
    world.sns.publish(TopicArn=topic, Message="plain")
    assert world.receive(url) == ["plain"]


def test_a_long_poll_wakes_when_the_message_comes(world: Any) -> None:
    topic, url = world.channel()
    client = world.client("sqs")
    answered: dict[str, float] = {}

    def poll() -> None:
        found = client.receive_message(QueueUrl=url, WaitTimeSeconds=20)
        answered["at"] = time.monotonic()
        answered["messages"] = len(found["Messages"])

    polling = threading.Thread(target=poll)
    polling.start()
    world.until(lambda: world.cloud.calls()["calls"]["controller"]["sqs"].get("ReceiveMessage", 0))
    published = time.monotonic()
    world.sns.publish(TopicArn=topic, Message="now")
    polling.join(timeout=5)
    assert answered["messages"] == 1
    assert answered["at"] - published < 0.5


def test_a_poll_of_a_deleted_queue_ends(world: Any) -> None:
    _, url = world.channel()
    polling = threading.Thread(target=lambda: world.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20))
    mark = world.cloud.calls()["mark"]
    polling.start()
    world.until(lambda: world.cloud.calls(mark)["calls"])
    world.client("sqs").delete_queue(QueueUrl=url)
    polling.join(timeout=5)
    assert not polling.is_alive()


def test_without_a_policy_nothing_is_delivered(world: Any) -> None:
    topic, url = world.channel(policy=False)
    world.sns.publish(TopicArn=topic, Message="lost")
    assert world.receive(url, wait=0) == []


def test_a_policy_names_the_topic_that_may_deliver(world: Any) -> None:
    topic, url = world.channel()
    stranger = world.sns.create_topic(Name=f"x-{uuid.uuid4().hex[:8]}")["TopicArn"]
    world.sns.subscribe(TopicArn=stranger, Protocol="sqs", Endpoint=topic.replace(":sns:", ":sqs:"))
    world.sns.publish(TopicArn=stranger, Message="from a stranger")
    world.sns.publish(TopicArn=topic, Message="from a friend")
    assert messages(world, url) == ["from a friend"]


def test_a_policy_outlives_the_change_of_another_attribute(world: Any) -> None:
    topic, url = world.channel()
    world.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "5"})
    world.sns.publish(TopicArn=topic, Message="still")
    assert messages(world, url) == ["still"]


def test_a_policy_that_is_not_json_is_refused(world: Any) -> None:
    with pytest.raises(ClientError, match="InvalidAttributeValue"):
        world.sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}", Attributes={"Policy": "{"})


def test_publishing_to_a_deleted_queue_is_fine(world: Any) -> None:
    topic, url = world.channel()
    world.sqs.delete_queue(QueueUrl=url)
    assert world.sns.publish(TopicArn=topic, Message="into the void")["MessageId"]


def test_a_message_comes_back_after_its_visibility_and_is_gone_once_deleted(world: Any) -> None:
    _, url = world.channel()
    world.sqs.send_message(QueueUrl=url, MessageBody="again")
    [first] = world.sqs.receive_message(QueueUrl=url, VisibilityTimeout=1)["Messages"]
    assert "Messages" not in world.sqs.receive_message(QueueUrl=url)
    [second] = world.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5, AttributeNames=["ApproximateReceiveCount"])["Messages"]
    assert (second["MessageId"], second["Attributes"]["ApproximateReceiveCount"]) == (first["MessageId"], "2")
    gone = world.sqs.delete_message_batch(QueueUrl=url, Entries=[{"Id": "a", "ReceiptHandle": first["ReceiptHandle"]},
                                                                 {"Id": "b", "ReceiptHandle": "nonsense"}])
    assert [entry["Id"] for entry in gone["Successful"]] == ["a"]
    assert gone["Failed"][0]["Code"] == "ReceiptHandleIsInvalid"
    counts = world.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (counts["ApproximateNumberOfMessages"], counts["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")


def test_lost_messages_are_those_that_the_fault_names(world: Any) -> None:
    topic, url = world.channel()
    world.cloud.fault("message-lost", text="*unlucky*")
    for message in ("lucky 1", "unlucky", "lucky 2"):
        world.sns.publish(TopicArn=topic, Message=message.replace("lucky 1", "fine").replace("lucky 2", "well"))
    assert messages(world, url) == ["fine", "well"]
    assert [fault["hits"] for fault in world.cloud.faults()] == [1]


def test_a_share_of_messages_is_lost_the_same_way_for_the_same_seed(world: Any) -> None:
    def arrived() -> list[str]:
        world.cloud.clear_faults()
        world.cloud.fault("message-lost", share=0.5, seed=7)
        topic, url = world.channel()
        for number in range(10):
            world.sns.publish(TopicArn=topic, Message=str(number))
        return sorted(messages(world, url))

    first = arrived()
    assert 0 < len(first) < 10
    assert arrived() == first


def test_duplicated_garbled_late_and_reordered_messages(world: Any) -> None:
    topic, url = world.channel()
    world.cloud.fault("message-duplicated", text="twice", copies=3)
    world.sns.publish(TopicArn=topic, Message="twice")
    assert messages(world, url) == ["twice"] * 3

    world.cloud.fault("message-garbled", text="intact*")
    world.sns.publish(TopicArn=topic, Message="intact and whole")
    [garbled] = messages(world, url)
    assert garbled not in ("intact and whole", "")
    assert len(garbled) < len("intact and whole")

    world.cloud.fault("message-late", text="late", seconds=0.3)
    sent = time.monotonic()
    world.sns.publish(TopicArn=topic, Message="late")
    assert messages(world, url, wait=5) == ["late"]
    assert time.monotonic() - sent >= 0.3

    world.cloud.fault("message-reordered", text="first")
    for message in ("first", "second"):
        world.sns.publish(TopicArn=topic, Message=message)
    assert messages(world, url) == ["second", "first"]
