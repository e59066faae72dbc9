"""The session's channel: machines publish to a topic, one listener reads the queue behind it, an id says whose report it is.

    machine ─▶ SNS topic ─▶ SQS queue ─▶ listener ─▶ demultiplexer ─▶ launch with that UUID

The topic and the queue are the session's own, so two sessions never see each other's reports. The queue's policy is given in
CreateQueue (a policy set later takes up to 60 s to work, says the SQS guide) and the subscription is unfiltered (filter policies take
up to 15 minutes, says the SNS guide). Before anything is launched, a probe must come back the whole way.

Messages are trusted only as far as their channel: what does not decode, or names a launch that this session does not know, is
counted, logged, deleted and otherwise ignored. Deletion follows handling; delivery is at least once, so handling must bear repetition.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from .errors import AwsError, ChannelSilent
from .messages import BadMessage, Probe, Report, decode

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
PROBE_GAPS = (1.0, 2.0, 5.0)  # seconds between probes, since one may be lost; the last repeats
TROUBLE_GAPS = (0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)  # seconds until a queue that could not be read is read again

Call = Callable[..., Awaitable[dict[str, Any]]]  # journalled: (service, operation, **parameters) -> answer
Handler = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Wire:
    """What AWS knows of a channel."""

    topic_arn: str
    queue_url: str
    queue_arn: str
    subscription_arn: str
    own_topic: bool


class Demultiplexer:
    """Hands each message body to whoever waits for its id. Pure: no I/O."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.handlers: dict[UUID, Handler] = {}
        self.probes: dict[str, asyncio.Event] = {}
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()))
        return f"<demultiplexer of {len(self.handlers)} launches: {counts or 'nothing yet'}>"

    def feed(self, body: str) -> None:
        """Deliver one message body, or count and log why not."""
        try:
            message = decode(body)
        except BadMessage as error:
            self.counts["malformed"] += 1
            log.warning("a message that is not a report was dropped: %s", error)
            return
        if isinstance(message, Probe):
            event = self.probes.get(message.nonce) if message.session == self.session else None
            self.counts["probes" if event else "foreign"] += 1
            if event is not None:
                event.set()
            return
        handler = self.handlers.get(message.launch)
        if handler is None:
            self.counts["unknown"] += 1
            log.info("a report of launch %s, which is not ours, was dropped", message.launch)
            return
        self.counts["reports"] += 1
        try:
            handler(message)
        except Exception:  # one launch's trouble must not stop the listener that serves them all
            self.counts["broken"] += 1
            log.exception("launch %s could not take a report of %s", message.launch, message.instance)


class Channel:
    """A topic, a queue, their subscription, and the task that listens. `open` it before use, `close` it when nothing is left to report.

    With a `wire`, which an earlier process has made, nothing is made.
    """

    def __init__(self, call: Call, session: str, *, name: str, topic_arn: str | None = None, wire: Wire | None = None) -> None:
        self.session, self.name = session, name  # a name is used once: SQS refuses one that was deleted in the last 60 s
        self.demultiplexer = Demultiplexer(session)
        self.wire = wire
        self._call, self._shared_topic = call, topic_arn
        self._listener: asyncio.Task[None] | None = None
        self._deleting: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<channel of session {self.session} {'open' if self._listener else 'closed'}: {self.demultiplexer!r}>"

    @property
    def topic_arn(self) -> str:
        """The topic that machines publish to. Only an open channel has one."""
        assert self.wire is not None, "the channel is not open"
        return self.wire.topic_arn

    async def open(self, *, probe_seconds: float = 60) -> None:
        """Make topic, queue and subscription, listen, and send the probe. Raises ChannelSilent when it does not come back in time."""
        self.wire = self.wire or await self._make()
        self._listener = asyncio.create_task(self._listen(self.wire.queue_url), name=f"listener of session {self.session}")
        await self.probe(probe_seconds)

    async def _make(self) -> Wire:
        name, tags = self.name, {"fleetctl:session": self.session}
        own = self._shared_topic is None
        topic = (
            self._shared_topic
            or (await self._call("sns", "create_topic", Name=name, Tags=[{"Key": k, "Value": v} for k, v in tags.items()]))["TopicArn"]
        )
        queue_arn = ":".join([*topic.replace(":sns:", ":sqs:", 1).split(":")[:5], name])
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": queue_arn,
                    "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
                }
            ],
        }
        queue = (
            await self._call(
                "sqs",
                "create_queue",
                QueueName=name,
                tags=tags,
                Attributes={"Policy": json.dumps(policy), "ReceiveMessageWaitTimeSeconds": "20", "VisibilityTimeout": "30"},
            )
        )["QueueUrl"]
        subscription = (
            await self._call(
                "sns",
                "subscribe",
                TopicArn=topic,
                Protocol="sqs",
                Endpoint=queue_arn,
                ReturnSubscriptionArn=True,
                Attributes={"RawMessageDelivery": "true"},
            )
        )["SubscriptionArn"]
        return Wire(topic, queue, queue_arn, subscription, own)

    async def probe(self, seconds: float) -> None:
        """Publish a probe until it comes back. Raises ChannelSilent after `seconds`."""
        nonce, came = uuid4().hex, asyncio.Event()
        self.demultiplexer.probes[nonce] = came
        try:
            async with asyncio.timeout(seconds):
                for gap in itertools.chain(PROBE_GAPS, itertools.repeat(PROBE_GAPS[-1])):
                    await self._call("sns", "publish", TopicArn=self.topic_arn, Message=Probe(self.session, nonce).encode())
                    try:
                        await asyncio.wait_for(came.wait(), gap)
                    except TimeoutError:
                        log.info("the probe has not come back yet")
                    else:
                        return
        except TimeoutError:
            raise ChannelSilent(
                f"a probe published to {self.topic_arn} did not reach the session's queue within {seconds:g} s; nothing was launched",
                todo="check the queue's policy and the topic's subscriptions",
            ) from None
        finally:
            del self.demultiplexer.probes[nonce]

    async def close(self) -> None:
        """Stop listening. What AWS keeps of the channel is ended by the teardown, which proves it."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, *self._deleting, return_exceptions=True)
            self._listener = None

    async def _listen(self, queue: str) -> None:
        """Until it is cancelled. Nothing else may end it, for then the session would be deaf."""
        trouble = 0
        while True:
            try:
                answer = await self._call("sqs", "receive_message", QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
                messages = answer.get("Messages", [])
                for message in messages:
                    self.demultiplexer.feed(message.get("Body", ""))
            except Exception as error:
                expected = isinstance(error, AwsError)
                log.warning("the queue could not be read (try %d): %s", trouble + 1, error, exc_info=not expected)
                await asyncio.sleep(TROUBLE_GAPS[min(trouble, len(TROUBLE_GAPS) - 1)])
                trouble += 1
                continue
            trouble = 0
            if messages:
                task = asyncio.create_task(self._delete(queue, messages))
                self._deleting.add(task)
                task.add_done_callback(self._deleting.discard)
            if 0 < len(messages) < 10:  # machines that boot together report together: let the next batch fill
                await asyncio.sleep(GATHER_SECONDS)

    async def _delete(self, queue: str, messages: list[dict[str, Any]]) -> None:
        """Delete what was handled. A message that stays comes again, and is then a duplicate."""
        entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
        try:
            answer = await self._call("sqs", "delete_message_batch", QueueUrl=queue, Entries=entries)
            failed, why = len(answer.get("Failed", [])), "refused one by one"
        except AwsError as error:
            failed, why = len(entries), error.what
        if failed:
            self.demultiplexer.counts["undeleted"] += failed
            log.warning("%d handled messages could not be deleted and will come again: %s", failed, why)
