"""The pure parts: the spot request table, the book, message queues, policies, rules, counts, faults."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fleetctl.local import rules
from fleetctl.local.book import Refused, SpotBook
from fleetctl.local.calls import CallLog
from fleetctl.local.faults import Faults, FaultUnknown
from fleetctl.local.policy import allows
from fleetctl.local.queues import MessageQueue, ReceiptInvalid
from fleetctl.local.spot import MESSAGES, TRANSITIONS, Event, IllegalEvent, Order, SpotRequest, State, evaluate, step

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = {"InstanceType": "t3.micro", "ImageId": "ami-1", "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-1"}]}


def fresh(**order: Any) -> SpotRequest:
    return SpotRequest("sir-1", Order(SPEC, **order), created=NOW, updated=NOW, zone="us-east-1a")


# -- the table


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_whatever_happens_a_request_obeys_the_table(events: list[Event]) -> None:
    request = fresh()
    for event in events:
        before = request
        try:
            request = step(request, event, NOW, instance="i-1" if event is Event.FULFILLED else "")
        except IllegalEvent as illegal:
            assert (illegal.request, illegal.event) == (before, event)
            continue
        assert request.state is TRANSITIONS[before.state][event][0]
        assert (request.instance != "") >= (request.state is State.ACTIVE)
        if before.state is not State.OPEN:
            assert request.state is not State.OPEN
        if before.state in (State.CANCELLED, State.CLOSED, State.FAILED):
            assert request.state is before.state


def test_every_status_of_the_table_has_its_message() -> None:
    statuses = {status for row in TRANSITIONS.values() for _, status in row.values() if status}
    assert statuses | {"pending-evaluation"} == set(MESSAGES)


def test_a_cancelled_request_without_instance_has_no_instance_to_end() -> None:
    cancelled = step(fresh(), Event.CANCEL, NOW)
    with pytest.raises(IllegalEvent, match=r"sir-1 is cancelled \(canceled-before-fulfillment\): 'terminated by user' cannot happen"):
        step(cancelled, Event.USER_TERMINATED, NOW)


class FixedMarket:
    def __init__(self, price: str, free: bool) -> None:
        self._price, self._free = Decimal(price), free

    def price(self, type: str, zone: str) -> Decimal:
        return self._price

    def capacity(self, type: str, zone: str) -> bool:
        return self._free


@pytest.mark.parametrize(("order", "price", "free", "event"), [
    ({}, "0.01", True, Event.MATCHED),
    ({"price": Decimal("0.01")}, "0.01", True, Event.MATCHED),
    ({"price": Decimal("0.0099")}, "0.01", True, Event.PRICE_LOW),
    ({}, "0.01", False, Event.NO_CAPACITY),
    ({"valid_until": NOW}, "0.01", True, Event.EXPIRE),
    ({"valid_from": NOW + timedelta(seconds=1)}, "0.01", True, Event.NOT_YET),
])
def test_the_market_judges_a_request(order: dict[str, Any], price: str, free: bool, event: Event) -> None:
    assert evaluate(fresh(**order), FixedMarket(price, free), NOW) is event


def test_the_book_finds_by_filters_with_wildcards_and_knows_tokens() -> None:
    tags = {"sir-1": {"launch": "a"}}
    book = SpotBook(lambda id: tags.get(id, {}))
    order = Order(SPEC, token="t", fingerprint="f")
    placed = book.place(order, ["sir-1", "sir-2"], "us-east-1a", NOW)
    assert book.repeated(order) == placed
    with pytest.raises(Refused, match="IdempotentParameterMismatch"):
        book.repeated(Order(SPEC, token="t", fingerprint="g"))
    assert book.repeated(Order(SPEC, token="u")) is None
    assert [r.id for r in book.find(filters={"tag:launch": ["?"]})[0]] == ["sir-1"]
    assert [r.id for r in book.find(filters={"tag-key": ["launch"]})[0]] == ["sir-1"]
    assert [r.id for r in book.find(filters={"launch.instance-type": ["t3.*"], "state": ["open"]})[0]] == ["sir-1", "sir-2"]
    assert book.find(filters={"network-interface.subnet-id": ["subnet-2"]})[0] == []
    with pytest.raises(Refused, match="maxResults"):
        book.find(limit=4)
    with pytest.raises(Refused, match="pagination token"):
        book.find(token="!")
    book.apply("sir-2", Event.MATCHED, NOW)
    book.apply("sir-2", Event.FULFILLED, NOW, instance="i-2")
    found = book.of_instance("i-2")
    assert found is not None
    assert repr(found) == "<sir-2 active fulfilled i-2>"


# -- queues


class QueueMachine(RuleBasedStateMachine):
    """A message queue against a list: nothing is lost, doubled or seen while it is hidden."""

    receipts: Bundle[tuple[str, int]] = Bundle("receipts")

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.now, self.sent = MessageQueue(), 0.0, 0
        self.visible_at: dict[int, float] = {}   # message -> when it can be received; what is deleted is not here
        self.given: dict[int, int] = {}

    @rule(delay=st.sampled_from([0, 0, 0, 5]))
    def send(self, delay: int) -> None:
        self.queue.send(self.sent, self.now, delay)
        self.visible_at[self.sent] = self.now + delay
        self.sent += 1

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.sent)
    @rule(target=receipts, visibility=st.sampled_from([0, 3, 10]))
    def receive_one(self, visibility: int) -> tuple[str, int]:
        taken = self.queue.receive(1, visibility, self.now)
        visible = [n for n, at in self.visible_at.items() if at <= self.now]
        assert bool(taken) == bool(visible)
        if not taken:
            return "", -1
        [(receipt, held)] = taken
        assert held.content in visible
        self.given[held.content] = self.given.get(held.content, 0) + 1
        assert held.received == self.given[held.content]
        self.visible_at[held.content] = self.now + visibility
        return receipt, held.content

    @rule(taken=consumes(receipts))
    def delete(self, taken: tuple[str, int]) -> None:
        receipt, number = taken
        if not receipt:
            with pytest.raises(ReceiptInvalid):
                self.queue.delete(receipt)
            return
        self.queue.delete(receipt)
        self.queue.delete(receipt)   # again is fine
        self.visible_at.pop(number, None)

    @rule(taken=receipts, visibility=st.sampled_from([0, 4]))
    def hide(self, taken: tuple[str, int], visibility: int) -> None:
        receipt, number = taken
        if number not in self.visible_at:
            with pytest.raises(ReceiptInvalid):
                self.queue.hide(receipt, visibility, self.now)
            return
        if self.queue.hide(receipt, visibility, self.now).place == "in flight" or self.visible_at[number] > self.now:
            self.visible_at[number] = self.now + visibility

    @invariant()
    def counts_add_up(self) -> None:
        counts = self.queue.counts(self.now)
        assert sum(counts.values()) == len(self.visible_at)
        assert counts["ready"] == sum(at <= self.now for at in self.visible_at.values())


TestQueueMachine = QueueMachine.TestCase


def test_messages_come_in_the_order_of_their_sending_and_old_ones_are_dropped() -> None:
    queue = MessageQueue(retention=100)
    for number in range(5):
        queue.send(number, now=number * 10)
    assert [held.content for _, held in queue.receive(10, 30, now=115)] == [2, 3, 4]
    assert queue.next_due() == 145
    queue.purge()
    assert (queue.counts(200), queue.retention) == ({"ready": 0, "delayed": 0, "in flight": 0}, 100)


# -- policies

QUEUE, TOPIC = "arn:aws:sqs:us-east-1:123456789012:q", "arn:aws:sns:us-east-1:123456789012:t"


def may(statements: Any) -> bool:
    return allows({"Statement": statements}, action="sqs:SendMessage", resource=QUEUE, principal="sns.amazonaws.com",
                  context={"aws:sourcearn": TOPIC})


ALLOW = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": QUEUE}


@pytest.mark.parametrize(("changes", "allowed"), [
    ({}, True),
    ({"Principal": "*"}, True),
    ({"Principal": {"AWS": "*"}}, True),
    ({"Principal": {"Service": ["sns.amazonaws.com", "s3.amazonaws.com"]}}, True),
    ({"Principal": {"Service": "s3.amazonaws.com"}}, False),
    ({"Principal": {"AWS": "123456789012"}}, False),
    ({"Action": "SQS:*"}, True),
    ({"Action": ["sqs:ReceiveMessage"]}, False),
    ({"Resource": "arn:aws:sqs:*:*:q"}, True),
    ({"Resource": "arn:aws:sqs:us-east-1:123456789012:other"}, False),
    ({"Condition": {"ArnEquals": {"aws:SourceArn": TOPIC}}}, True),
    ({"Condition": {"ArnLike": {"AWS:SourceArn": "arn:aws:sns:*:*:t"}}}, True),
    ({"Condition": {"StringEquals": {"aws:SourceArn": [TOPIC, "x"]}}}, True),
    ({"Condition": {"ArnEquals": {"aws:SourceArn": "arn:aws:sns:us-east-1:123456789012:other"}}}, False),
    ({"Condition": {"StringEquals": {"aws:SourceAccount": "1"}}}, False),
    ({"Condition": {"StringEqualsIfExists": {"aws:SourceAccount": "1"}}}, True),
    ({"Condition": {"NumericLessThan": {"aws:SourceArn": 1}}}, False),
    ({"Condition": {"StringNotEquals": {"aws:SourceArn": [TOPIC, "x"]}}}, False),
])
def test_a_statement_allows_what_it_says(changes: dict[str, Any], allowed: bool) -> None:
    assert may([{**ALLOW, **changes}]) is allowed


def test_a_deny_wins_and_nothing_is_allowed_by_default() -> None:
    assert may([ALLOW, {**ALLOW, "Effect": "Deny"}]) is False
    assert may({**ALLOW, "Effect": "Deny", "Condition": {"NumericLessThan": {"aws:SourceArn": 1}}}) is False
    assert may([]) is False
    assert allows(None, action="a", resource="r", principal="p", context={}) is False


# -- rules


class Nothing:
    """A region with one subnet, and everything else."""

    def image(self, id: str) -> bool:
        return True

    def type(self, name: str) -> bool:
        return True

    def subnet_zone(self, id: str) -> str | None:
        return "us-east-1a" if id == "subnet-1" else None

    def group(self, id: str) -> bool:
        return True

    def group_name(self, name: str) -> bool:
        return name == "default"

    def key(self, name: str) -> bool:
        return True

    def profile(self, name: str | None, arn: str | None) -> bool:
        return True

    def zones(self) -> list[str]:
        return ["us-east-1a", "us-east-1b"]


GOOD = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.micro"}


@pytest.mark.parametrize(("change", "says"), [
    ({"ImageId": ""}, "MissingParameter: The request must contain the parameter ImageId"),
    ({"NetworkInterfaces": [{"DeviceIndex": 0}, {"DeviceIndex": 0}]}, "unique device index"),
    ({"NetworkInterfaces": [{"DeviceIndex": 0, "AssociatePublicIpAddress": True}, {"DeviceIndex": 1}]}, "multiple network interfaces"),
    ({"SubnetId": "subnet-1", "Placement": {"AvailabilityZone": "us-east-1b"}}, "differ"),
    ({"Placement": {"AvailabilityZone": "us-east-1q"}}, "Invalid availability zone"),
    ({"SecurityGroups": ["web"]}, "InvalidGroup.NotFound"),
    ({"IamInstanceProfile": {"Name": "a", "Arn": "b"}}, "InvalidParameterCombination"),
    ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdb"}]}, "the parameter ebs"),
    ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdb", "Ebs": {"VolumeType": "gp3"}}]}, "size or snapshotId"),
])
def test_broken_specifications_are_refused(change: dict[str, Any], says: str) -> None:
    rules.check(GOOD, Nothing())
    with pytest.raises(Refused, match=says):
        rules.check({**GOOD, **change}, Nothing())


def test_user_data_may_have_16384_bytes_before_base64() -> None:
    rules.check({**GOOD, "UserData": base64.b64encode(b"x" * 16_384).decode()}, Nothing())
    with pytest.raises(Refused, match="limited to 16384 bytes"):
        rules.check({**GOOD, "UserData": base64.b64encode(b"x" * 16_385).decode()}, Nothing())


@pytest.mark.parametrize(("text", "value"), [("0.05", Decimal("0.05")), (None, None), ("0", Refused), ("-1", Refused), ("NaN", Refused),
                                             ("one", Refused), ("Infinity", Refused)])
def test_a_price_is_a_number_above_zero(text: str | None, value: Any) -> None:
    if value is Refused:
        with pytest.raises(Refused, match="InvalidParameterValue"):
            rules.price(text)
    else:
        assert rules.price(text) == value


@pytest.mark.parametrize(("tags", "says"), [
    ([{"Key": "aws:x", "Value": ""}], "reserved"),
    ([{"Key": "a", "Value": ""}, {"Key": "a", "Value": "b"}], "Duplicate tag key"),
    ([{"Key": "k" * 128, "Value": ""}], "127"),
    ([{"Value": "x"}], "MissingParameter"),
    ([{"Key": str(n), "Value": ""} for n in range(51)], "TagLimitExceeded"),
    ([], "at least one tag"),
])
def test_broken_tags_are_refused(tags: list[dict[str, str]], says: str) -> None:
    with pytest.raises(Refused, match=says):
        rules.tags([{"ResourceType": "instance", "Tags": tags}], ["instance"])


# -- counts and faults


def test_calls_are_counted_since_a_mark() -> None:
    calls = CallLog()
    calls.add("controller", "ec2", "DescribeInstances")
    mark = calls.since()["mark"]
    calls.add("machine", "sns", "Publish")
    calls.add("machine", "sns", "Publish")
    assert calls.since(mark)["calls"] == {"machine": {"sns": {"Publish": 2}}}
    assert (repr(calls), calls.since(mark)["mark"]) == ("<CallLog 3 calls>", 3)
    calls.forget()
    assert (calls.since()["mark"], calls.since()["calls"]) == (0, {})


def test_a_fault_strikes_where_its_conditions_hold_and_as_often_as_it_may() -> None:
    faults = Faults()
    faults.add("capacity", type="t3.*", times=2)
    struck = [faults.strikes("capacity", type=type, zone="a") is not None for type in ("m5.large", "t3.micro", "t3.nano", "t3.micro")]
    assert struck == [False, True, True, False]
    assert faults.strikes("never-boots", type="t3.micro") is None
    assert [(fault["kind"], fault["hits"]) for fault in faults.describe()] == [("capacity", 2)]
    assert json.dumps(faults.describe())
    faults.clear()
    assert (faults.describe(), repr(faults)) == ([], "<Faults none>")


@given(st.integers(), st.floats(0, 0.99))
def test_the_same_seed_strikes_the_same(seed: int, share: float) -> None:
    def strikes() -> list[bool]:
        faults = Faults()
        faults.add("message-lost", share=share, seed=seed)
        return [faults.strikes("message-lost", text="x") is not None for _ in range(20)]
    assert strikes() == strikes()


def test_a_fault_says_what_it_does_not_know() -> None:
    with pytest.raises(FaultUnknown, match="there is no fault 'rain'"):
        Faults().add("rain")
