"""The channel is proved before anything is launched, and goes on listening whatever SQS does."""

import asyncio
import dataclasses
import json
from uuid import uuid4

import pytest
from fake_aws import FakeAws, nothing, refusal

from fleetctl import bring_up_one_spot, bring_up_spots, notify, profiles, teardown_all
from fleetctl.errors import AwsError, ChannelSilent, Network, Throttled
from fleetctl.messages import Phase, Report
from fleetctl.notify import Channel
from fleetctl.session import Session

INSTANCE = "i-0123456789abcdef0"


# --- on the local cloud -----------------------------------------------------------------------------------------------------


@pytest.mark.cloud
async def test_the_queue_is_made_with_its_policy_and_the_subscription_without_a_filter(session):
    channel = await session.submit(session.channel(), "channel")
    made = {entry.operation: entry for entry in session.ledger.entries()}
    assert list(made) == ["create_topic", "create_queue", "subscribe"]
    wire, attributes = channel.wire, made["create_queue"].request["Attributes"]
    [statement] = json.loads(attributes["Policy"])["Statement"]
    assert statement["Effect"] == "Allow"
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == wire.queue_arn
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": wire.topic_arn}}
    assert "FilterPolicy" not in made["subscribe"].request["Attributes"]
    assert all(session.id in entry.request.get("Name", entry.request.get("QueueName", session.id)) for entry in made.values())


@pytest.mark.cloud
async def test_while_no_message_comes_through_nothing_is_launched(home, cloud, request_):
    cloud.fault("message-lost")
    mark = cloud.calls()["mark"]
    session = Session(profiles.load("local", home=home), probe_seconds=1.5)
    try:
        with pytest.raises(ChannelSilent, match="nothing was launched"):
            await bring_up_spots(request_, 3, "true", session=session)
        called = cloud.calls(mark)["calls"]["controller"]
        assert called["sns"]["Publish"] > 1, "one probe may be lost"
        assert "ec2" not in called
        cloud.clear_faults()
        assert await bring_up_one_spot(request_, "true", session=session), "the next launch tries again"
    finally:
        session.close()


@pytest.mark.cloud
async def test_the_listener_outlives_throttling_and_errors_of_sqs_and_the_queue_ends_up_empty(session, cloud, request_):
    channel = await session.submit(session.channel(), "channel")
    cloud.fault("throttling", service="sqs", operation="ReceiveMessage", caller="controller", times=1)
    cloud.fault("server-error", service="sqs", operation="ReceiveMessage", caller="controller", times=1)
    cloud.fault("throttling", service="sqs", operation="DeleteMessageBatch", caller="controller", times=1)
    mark = cloud.calls()["mark"]
    machines = await bring_up_spots(request_, 6, "sleep 1000", session=session)
    assert len(machines.succeeded) == 6
    sqs = session.boto3().client("sqs")
    counted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    for _ in range(100):  # what was received a moment ago is being deleted
        left = sqs.get_queue_attributes(QueueUrl=channel.wire.queue_url, AttributeNames=counted)["Attributes"]
        if {*left.values()} == {"0"}:
            break
        await asyncio.sleep(0.05)
    assert {*left.values()} == {"0"}
    called = cloud.calls(mark)["calls"]["controller"]["sqs"]
    assert "DeleteMessage" not in called
    assert called["DeleteMessageBatch"] <= called["ReceiveMessage"] + 2


@pytest.mark.cloud
async def test_a_shared_topic_stays_and_its_other_sessions_reports_are_ignored(home, session, cloud, request_):
    topic = session.boto3().client("sns").create_topic(Name="shared")["TopicArn"]
    two = [Session(dataclasses.replace(session.profile, topic=topic)) for _ in range(2)]
    try:
        launches = [bring_up_one_spot(request_, "sleep 1000", session=one) for one in two]
        assert len({(await one).instance_id for one in launches}) == 2
        for one in two:
            channel = await one.submit(one.channel(), "channel")
            assert channel.demultiplexer.counts["unknown"] > 0, "the other's reports came here too"
            receipt = await teardown_all(session=one)
            assert "topic" not in {line.thing for line in receipt.found}
        assert topic in cloud.inventory()["topics"]
    finally:
        for one in two:
            one.close()
        session.boto3().client("sns").delete_topic(TopicArn=topic)


# --- whatever SQS says --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def channel(monkeypatch):
    monkeypatch.setattr(notify, "TROUBLE_GAPS", (0.001,))
    monkeypatch.setattr(notify, "GATHER_SECONDS", 0.0)
    cloud = FakeAws()
    channel = Channel(cloud.call, "0123456789ab", name="fleetctl-test")
    channel.cloud = cloud
    await channel.open()
    yield channel
    await channel.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Heard(list):
    """A handler of reports that can be waited for."""

    def __init__(self, channel, launch):
        channel.demultiplexer.handlers[launch] = self
        self.news = asyncio.Event()

    def __call__(self, report):
        self.append(report.seq)
        self.news.set()

    async def until(self, count):
        async with asyncio.timeout(10):
            while len(self) < count:
                self.news.clear()
                await self.news.wait()


def say(channel, launch, *numbers):
    for number in numbers:
        channel.cloud._publish({"Message": Report(launch, INSTANCE, Phase.BOOTED, seq=number).encode()})


@pytest.mark.parametrize("trouble", [Throttled, Network, AwsError, KeyError, RuntimeError])
async def test_no_error_of_a_read_ends_the_listener(channel, trouble):
    launch, times = uuid4(), iter(range(5))

    async def broken(service, operation, parameters):
        if operation == "receive_message" and next(times, None) is not None:
            raise refusal(trouble, service, operation, "Broken") if issubclass(trouble, AwsError) else trouble("broken")

    heard = Heard(channel, launch)
    channel.cloud.before = broken
    say(channel, launch, 1)  # wakes the read that waits
    await heard.until(1)
    say(channel, launch, 2)
    await heard.until(2)
    assert next(times, None) is None, "all of it has happened"


async def test_a_message_that_is_no_message_ends_nothing(channel):
    launch = uuid4()
    heard = Heard(channel, launch)
    channel.cloud.queues[channel.wire.queue_url].append({"ReceiptHandle": "0"})  # no body at all
    say(channel, launch, 1)
    channel.cloud.queues[channel.wire.queue_url].append({"Body": "{", "ReceiptHandle": "1"})
    say(channel, launch, 2)
    await heard.until(2)
    assert channel.demultiplexer.counts["malformed"] == 2


async def test_troubles_without_end_never_overflow_the_pause(channel):
    times = iter(range(2000))  # 2 ** 2000 is no float

    async def broken(service, operation, parameters):
        if operation == "receive_message" and next(times, None) is not None:
            raise refusal(Network, service, operation, "Broken")

    launch = uuid4()
    heard = Heard(channel, launch)
    channel.cloud.before = broken
    say(channel, launch, 1)  # wakes the read that waits
    await heard.until(1)
    say(channel, launch, 2)
    await heard.until(2)
    assert next(times, None) is None, "all of it has happened"


async def test_messages_are_deleted_in_the_batches_in_which_they_came(channel):
    launch = uuid4()
    heard = Heard(channel, launch)
    say(channel, launch, *range(35))
    await heard.until(35)
    await channel.close()
    called = zip(channel.cloud.calls, channel.cloud.parameters, strict=True)
    sizes = [len(parameters["Entries"]) for name, parameters in called if name == "delete_message_batch"]
    assert sum(sizes) == 36, "the probe's too"
    assert max(sizes) == 10


async def test_what_could_not_be_deleted_is_counted(channel):
    async def part(service, operation, parameters):
        if operation == "delete_message_batch":
            raise refusal(Throttled, service, operation, "Broken")

    launch = uuid4()
    heard = Heard(channel, launch)
    channel.cloud.before = part
    say(channel, launch, 1, 2)
    await heard.until(2)
    await channel.close()
    assert channel.demultiplexer.counts["undeleted"] == 2
    channel.cloud.before = nothing
    channel.cloud._delete_message_batch = lambda p: {"Failed": p["Entries"][:1], "Successful": p["Entries"][1:]}
    await channel._delete(channel.wire.queue_url, [{"ReceiptHandle": "1"}, {"ReceiptHandle": "2"}])
    assert channel.demultiplexer.counts["undeleted"] == 3


async def test_a_probe_that_is_lost_is_sent_again_soon(monkeypatch):
    monkeypatch.setattr(notify, "PROBE_GAPS", (0.001,))
    cloud, lost = FakeAws(), iter(range(3))
    publish = cloud._publish
    cloud._publish = lambda p: publish(p) if next(lost, None) is None else None
    channel = Channel(cloud.call, "0123456789ab", name="fleetctl-test")
    await channel.open()
    assert cloud.count("publish") == 4
    await channel.close()


async def test_a_channel_that_fails_to_open_leaves_no_listener():
    cloud = FakeAws()
    cloud._publish = lambda p: None
    channel = Channel(cloud.call, "0123456789ab", name="fleetctl-test")
    with pytest.raises(ChannelSilent):
        await channel.open(probe_seconds=0.01)
    await channel.close()
    assert channel.demultiplexer.probes == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}
