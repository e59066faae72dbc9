"""SNS and SQS as the local cloud runs them: moto's calls over queues of our own, and deliveries that policies decide and faults disturb.

    LocalQueue         a moto queue whose messages are in a `MessageQueue`, with one lock and one condition: a long poll sleeps until
                       a message arrives or becomes visible (moto looks once a second, and at every message each time)
    LocalSQS           the region's queues. FIFO queues are refused: nothing of fleetctl uses them
    LocalSubscription  delivers to a queue if the queue's policy lets the topic (moto: always), without moto's RSA signatures
    LocalTopic         keeps no record of what it sent

A queue that is gone swallows what is published to it, as SNS does.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Set
from typing import Any

from moto.core.utils import iso_8601_datetime_with_milliseconds
from moto.sns.models import Subscription, Topic
from moto.sqs.exceptions import InvalidAttributeValue, InvalidParameterValue, ReceiptHandleIsInvalid
from moto.sqs.models import DEFAULT_SENDER_ID, Message, Queue, SQSBackend, _filter_message_attributes, sqs_backends

from fleetctl.local.faults import Faults
from fleetctl.local.policy import allows
from fleetctl.local.queues import Held, MessageQueue, ReceiptInvalid
from fleetctl.local.timers import Timers

INSTANCE_ID = re.compile(r"\bi-[0-9a-f]{17}\b")


class LocalQueue(Queue):
    """A standard queue."""

    def __init__(self, name: str, region: str, account_id: str, **kwargs: Any) -> None:
        if name.endswith(".fifo") or str(kwargs.get("FifoQueue", "")).lower() == "true":
            raise InvalidParameterValue("The local cloud has standard queues only.")
        self.held, self.gone = MessageQueue(), False
        super().__init__(name, region, account_id, **kwargs)

    def _set_attributes(self, attributes: dict[str, Any], now: float | None = None) -> None:
        """moto drops the policy whenever another attribute is set, and fails on one that is not JSON."""
        kept = getattr(self, "_policy_json", None)
        try:
            super()._set_attributes(attributes, now)
        except json.JSONDecodeError:
            raise InvalidAttributeValue("Policy") from None
        if "Policy" not in attributes and kept:
            self._policy_json = kept

    def put(self, message: Message, delay: float) -> None:
        """Take a message in, and wake who waits for it."""
        with self._messages_lock:
            self.held.send(message, time.time(), delay)
            self._messages_lock.notify()

    def get(self, most: int, wait: float, visibility: float) -> list[tuple[str, Held]]:
        """Up to `most` messages; waits up to `wait` seconds for the first."""
        end = time.monotonic() + wait
        with self._messages_lock:
            self.held.retention = float(self.message_retention_period)
            while True:
                taken = self._without_dead(self.held.receive(most, visibility, time.time()))
                left = end - time.monotonic()
                if taken or left <= 0 or self.gone:
                    return taken
                due = self.held.next_due()
                self._messages_lock.wait(left if due is None else min(left, max(0.0, due - time.time())))

    def close(self) -> None:
        """The queue is deleted: end the polls that wait at it."""
        with self._messages_lock:
            self.gone = True
            self._messages_lock.notify_all()

    def _without_dead(self, taken: list[tuple[str, Held]]) -> list[tuple[str, Held]]:
        limit = self.redrive_policy["maxReceiveCount"] if self.dead_letter_queue is not None else None
        if limit is None:
            return taken
        for _, held in taken:
            if held.received > limit:
                self.held.take(held)
                self.dead_letter_queue.put(held.content, 0)
        return [(receipt, held) for receipt, held in taken if held.received <= limit]

    @property
    def approximate_number_of_messages(self) -> int:
        """Ready ones."""
        return self._count("ready")

    @property
    def approximate_number_of_messages_delayed(self) -> int:
        """Those not ready yet."""
        return self._count("delayed")

    @property
    def approximate_number_of_messages_not_visible(self) -> int:
        """Those in flight."""
        return self._count("in flight")

    def _count(self, place: str) -> int:
        with self._messages_lock:
            return self.held.counts(time.time())[place]


class LocalSQS(SQSBackend):
    """One region's queues."""

    def send_message(self, queue_name: str, message_body: str, message_attributes: dict[str, Any] | None = None,
                     delay_seconds: int | None = None, deduplication_id: str | None = None, group_id: str | None = None,
                     system_attributes: dict[str, Any] | None = None, validate_group_id: bool = True) -> Message:
        """Put a message into a queue."""
        queue = self.get_queue(queue_name)
        delay = int(queue.delay_seconds if delay_seconds is None else delay_seconds)
        self._validate_message(queue, message_body=message_body, delay_seconds=delay, validate_group_id=validate_group_id)
        if not 0 <= delay <= 900:
            raise InvalidParameterValue(f"Value {delay} for parameter DelaySeconds is invalid. "
                                        "Reason: DelaySeconds must be >= 0 and <= 900.")
        message = Message(str(uuid.uuid4()), message_body, system_attributes)
        message.message_attributes = message_attributes or {}
        message.mark_sent()
        queue.put(message, delay)
        return message

    def receive_message(self, queue_name: str, count: int, wait_seconds_timeout: int, visibility_timeout: int,
                        message_attribute_names: list[str] | None = None) -> list[Message]:
        """Copies of the messages, with their receipts."""
        taken = self.get_queue(queue_name).get(count, wait_seconds_timeout, visibility_timeout)
        return [_received(receipt, held, message_attribute_names or []) for receipt, held in taken]

    def delete_message(self, queue_name: str, receipt_handle: str) -> None:
        """Delete one; a receipt that was used already is fine."""
        self._with_receipt(queue_name, lambda held: held.delete(receipt_handle))

    def change_message_visibility(self, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
        """Make a message visible again at another time."""
        self._with_receipt(queue_name, lambda held: held.hide(receipt_handle, int(visibility_timeout), time.time()))

    def purge_queue(self, queue_name: str) -> None:
        """Forget all messages."""
        self._with_receipt(queue_name, lambda held: held.purge())

    def delete_queue(self, queue_name: str) -> None:
        """Delete a queue, with its messages."""
        queue = self.get_queue(queue_name)
        super().delete_queue(queue_name)
        queue.close()

    def _with_receipt(self, queue_name: str, do: Callable[[MessageQueue], Any]) -> None:
        queue = self.get_queue(queue_name)
        with queue._messages_lock:
            try:
                do(queue.held)
            except ReceiptInvalid:
                raise ReceiptHandleIsInvalid() from None
            queue._messages_lock.notify()


def _received(receipt: str, held: Held, names: list[str]) -> Message:
    message: Message = held.content
    copy = Message(message.id, message.body, message.system_attributes)
    copy.message_attributes = dict(message.message_attributes)
    copy.sender_id, copy.sent_timestamp, copy.receipt_handle = DEFAULT_SENDER_ID, message.sent_timestamp, receipt
    copy.approximate_receive_count = held.received
    copy.approximate_first_receive_timestamp = int(held.first_received * 1000)
    _filter_message_attributes(copy, names)
    return copy


class LocalTopic(Topic):
    """A topic without a memory, that tells whose reports pass through it.

    `settled` and `mute`, the instances of which nothing is heard, are set by `fleetctl.local.patches`.
    """

    settled: Callable[[str], None]
    mute: Set[str]

    def __init__(self, name: str, sns_backend: Any) -> None:
        super().__init__(name, sns_backend)
        self.sent_notifications: deque[Any] = deque(maxlen=0)

    def publish(self, message: str, *args: Any, **kwargs: Any) -> str:
        """Deliver to every subscription. An instance whose id a machine reports has booted, and the next one may."""
        named = INSTANCE_ID.findall(message)
        for instance_id in named:
            type(self).settled(instance_id)
        if self.mute and not self.mute.isdisjoint(named or INSTANCE_ID.findall(_plain(message))):
            return str(uuid.uuid4())
        return str(super().publish(message, *args, **kwargs))


class LocalSubscription(Subscription):
    """A subscription of a queue, or of anything else, which is moto's.

    `faults`, `timers` and `held_back` are set by `fleetctl.local.patches`.
    """

    faults: Faults
    timers: Timers
    held_back: deque[Callable[[], None]]   # by "message-reordered"

    def publish(self, message: str, message_id: str, subject: str | None = None, message_attributes: dict[str, Any] | None = None,
                group_id: str | None = None, deduplication_id: str | None = None, message_structure: str | None = None) -> None:
        """Deliver one message, or what a fault makes of it."""
        if self.protocol != "sqs":
            super().publish(message, message_id, subject, message_attributes, group_id, deduplication_id, message_structure)
            return
        if self._filter_policy_matcher is not None and not self._filter_policy_matcher.matches(message_attributes, message):
            return
        if message_structure == "json":
            message = self._parse_message_structure(message, self.protocol)
        if self.faults.strikes("message-lost", text=message):
            return
        if self.faults.strikes("message-garbled", text=message):
            message = garble(message)
        duplicated = self.faults.strikes("message-duplicated", text=message)
        late = self.faults.strikes("message-late", text=message)

        def deliver() -> None:
            for _ in range(int(duplicated.settings["copies"]) if duplicated else 1):
                self._deliver(message, message_id, subject, message_attributes or {})

        if self.faults.strikes("message-reordered", text=message):
            self.held_back.append(deliver)
        elif late:
            self.timers.after(float(late.settings["seconds"]), deliver)
        else:
            deliver()
            while self.held_back:
                self.held_back.popleft()()

    def _deliver(self, message: str, message_id: str, subject: str | None, attributes: dict[str, Any]) -> None:
        _, _, _, region, account, name = self.endpoint.split(":", 5)
        backend: SQSBackend = sqs_backends[account][region]
        queue = backend.queues.get(name)
        context = {"aws:sourcearn": self.topic.arn, "aws:sourceaccount": self.account_id}
        if queue is None or not allows(queue._policy_json, action="sqs:SendMessage", resource=queue.queue_arn,
                                       principal="sns.amazonaws.com", context=context):
            return
        if str(self.attributes.get("RawMessageDelivery")).lower() == "true":
            backend.send_message(name, message, message_attributes={key: _raw(value) for key, value in attributes.items()})
        else:
            backend.send_message(name, self._envelope(message, message_id, subject, attributes))

    def _envelope(self, message: str, message_id: str, subject: str | None, attributes: dict[str, Any]) -> str:
        """SNS's JSON around a message. Its signature is not one: nothing here could check it."""
        region = self.topic.sns_backend.region_name
        envelope: dict[str, Any] = {"Type": "Notification", "MessageId": message_id, "TopicArn": self.topic.arn, "Message": message,
                    "Timestamp": iso_8601_datetime_with_milliseconds(), "SignatureVersion": "1", "Signature": "bm90IHNpZ25lZA==",
                    "SigningCertURL": f"https://sns.{region}.amazonaws.com/SimpleNotificationService-local.pem",
                    "UnsubscribeURL": f"https://sns.{region}.amazonaws.com/?Action=Unsubscribe&SubscriptionArn={self.arn}"}
        if subject:
            envelope["Subject"] = subject
        if attributes:
            envelope["MessageAttributes"] = attributes
        return json.dumps(envelope, indent=2)


def _plain(message: str) -> str:
    """The text in a message of the older form, which is base64; '' where it is not."""
    try:
        return base64.b64decode(message, validate=True).decode()
    except ValueError:
        return ""


def garble(message: str) -> str:
    """A message cut to three quarters, with a character in the middle replaced."""
    cut = message[:max(1, len(message) * 3 // 4)]
    middle = len(cut) // 2
    return cut[:middle] + "\ufffd" + cut[middle + 1:]


def _raw(value: dict[str, Any]) -> dict[str, Any]:
    kind = "BinaryValue" if value["Type"].startswith("Binary") else "StringValue"
    return {"DataType": value["Type"], kind: str(value["Value"]) if kind == "StringValue" else value["Value"]}
