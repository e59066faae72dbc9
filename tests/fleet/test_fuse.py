"""What a living session does for its machines: it shows that it lives, moves their end, and warns before it."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime

import pytest
from fake_aws import REQUEST, REQUESTS, FakeAws, refusal
from hypothesis import given
from hypothesis import strategies as st

from fleetctl import bring_up_one_spot, bring_up_spots, display, extend
from fleetctl.ending import fuse
from fleetctl.errors import Denied, RequestInvalid
from fleetctl.launching.order import Order
from fleetctl.upkeep import keeper


def up(session, n=1, **options):
    launch = bring_up_spots(REQUEST, n, "true", session=session, **options)
    launch.result(10)
    return launch


def read(session):
    """The object as machines read it: the session's number, and the hard ends."""
    [(key, body)] = session.aws.buckets[session.place.name].items()
    assert key == "fuse"
    words = [line.split() for line in body.decode().splitlines()]
    return int(words[0][1]), {launch: int(end) for launch, end in words[1:]}


@given(st.integers(1, 10**11), st.dictionaries(st.uuids().map(str), st.floats(1, 9e10), max_size=5))
def test_the_object_is_lines_that_the_machine_accepts(number, ends):
    lines = fuse.text(number, ends).decode().splitlines()
    assert lines[0] == f"renewed {number}"
    assert [line.split()[0] for line in lines[1:]] == list(ends)
    assert all(line.split()[1].isdigit() and len(line.split()[1]) <= 12 for line in lines)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=5), st.integers(0, 10**6))
def test_a_session_writes_while_anything_of_it_is_to_live_longer_than_the_fuse(spans, later):
    must = fuse.must_write(spans)
    assert must == any(end - began > 7200 for began, end in spans)
    assert fuse.must_write([(began + later, end + later) for began, end in spans]) == must, "however late it is looked at"
    assert not must or fuse.must_write([(began, end + later) for began, end in spans]), "an extension never ends the writing"


def test_a_session_whose_machines_end_soon_makes_no_bucket(fake_session, tasks_of):
    session = fake_session(FakeAws())
    up(session)
    assert "fuse" in tasks_of(session)
    assert session.aws.buckets == {}


def test_machines_that_may_run_longer_than_the_fuse_are_shown_that_their_session_lives(fake_session, monkeypatch, wait_for):
    monkeypatch.setattr(fuse, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    session = fake_session(FakeAws())
    launch = up(session, hours=5)
    wait_for(lambda: session.aws.count("put_object") >= 1)
    first, ends = read(session)
    assert ends == {str(launch.uuid): round(launch._conductor.expires)}
    wait_for(lambda: read(session)[0] >= first + 2)
    ledger = [entry.operation for entry in session.ledger.entries()]
    assert ledger.count("put_object") == 1, "however often it is written"


def test_an_extension_is_written_for_the_machines_then_into_the_tags(fake_session):
    session = fake_session(FakeAws())
    one, other = up(session), up(session)
    before, unmoved = one._conductor.expires, other._conductor.expires
    end = one.extend(1.5).result(10)
    assert end.timestamp() == pytest.approx(before + 5400)
    assert read(session)[1] == {str(one.uuid): round(before + 5400), str(other.uuid): round(unmoved)}
    calls = session.aws.calls
    assert calls.index("put_object") < len(calls) - 1 - calls[::-1].index("create_tags")
    stamp = datetime.fromtimestamp(before + 5400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    [machine] = one.machines.succeeded
    for thing in (machine.instance_id, machine.request_id):
        assert session.aws.tags[thing][-1] == {"Key": "fleetctl:expires", "Value": stamp}
    [machine] = other.machines.succeeded
    assert session.aws.tags[machine.instance_id][-1]["Value"] != stamp
    assert extend(1, session=session).result(10).timestamp() == pytest.approx(unmoved + 3600)


def end_of(session, thing):
    return {tag["Key"]: tag["Value"] for tag in session.aws.tags[thing]}["fleetctl:expires"]


def test_an_extension_reaches_the_tags_of_requests_that_still_wait(fake_session, wait_for):
    session = fake_session(FakeAws(fill=1e6))
    launch = bring_up_spots(REQUEST, 2, "true", session=session)
    wait_for(lambda: len(launch.machines) == 2)
    before = end_of(session, next(iter(session.aws.requests)))
    end = launch.extend(4).result(10)
    assert {end_of(session, one) for one in session.aws.requests} == {Order.stamp(end.timestamp())} != {before}


@pytest.mark.parametrize("call", REQUESTS)
def test_an_extension_before_there_is_anything_reaches_the_tags_of_what_comes(fake_session, call, wait_for):
    session = fake_session(FakeAws())
    held, made = asyncio.Event(), ("request_spot_instances", "run_instances", "create_fleet")

    async def hold(service, operation, parameters):
        if operation in made:
            await held.wait()

    session.aws.before = hold
    launch = bring_up_spots(REQUESTS[call], 2, "true", session=session)
    wait_for(lambda: session.aws.calls[-1:] and session.aws.calls[-1] in made)
    end = Order.stamp(launch.extend(4).result(10).timestamp())
    session.loop.call_soon_threadsafe(held.set)
    assert [end_of(session, one.instance_id) for one in launch.result(10).succeeded] == [end, end]


def test_what_is_not_there_any_more_keeps_no_other_from_its_tags(fake_session):
    session = fake_session(FakeAws())
    first, *others = up(session, n=5).machines.succeeded
    del session.aws.instances[first.instance_id]  # long gone, and no listing has told of it
    end = extend(4, session=session).result(10)
    assert {end_of(session, one.instance_id) for one in others} == {Order.stamp(end.timestamp())}


def test_an_extension_whose_tags_are_refused_says_that_the_end_has_moved(fake_session):
    session = fake_session(FakeAws())
    launches = [up(session), up(session)]
    before = [one._conductor.expires for one in launches]

    async def denied(service, operation, parameters):
        if operation == "create_tags" and launches[0].machines.succeeded[0].instance_id in parameters["Resources"]:
            raise refusal(Denied, service, operation, "UnauthorizedOperation")

    session.aws.before = denied
    with pytest.raises(Denied, match="end has been moved, but"):
        extend(1, session=session).result(10)
    assert [one._conductor.expires - 3600 for one in launches] == before
    assert end_of(session, launches[1].machines.succeeded[0].instance_id) == Order.stamp(launches[1]._conductor.expires)


def test_an_extension_that_cannot_be_written_moves_nothing(fake_session):
    session = fake_session(FakeAws())
    launch = up(session)
    before = launch._conductor.expires

    async def denied(service, operation, parameters):
        if service == "s3":
            raise refusal(Denied, service, operation, "AccessDenied")

    session.aws.before = denied
    with pytest.raises(Denied):
        launch.extend(1).result(10)
    assert launch._conductor.expires == before
    assert session.aws.calls[-1] == "create_bucket"


@pytest.mark.parametrize("hours", [0, -1, True, "2", float("nan"), 9000])
def test_hours_are_hours(fake_session, hours):
    session = fake_session(FakeAws())
    with pytest.raises(RequestInvalid, match="hours"):
        bring_up_spots(REQUEST, 1, "true", session=session, hours=hours)
    up(session)
    with pytest.raises(RequestInvalid, match="hours"):
        extend(hours, session=session).result(10)


def test_there_is_nothing_to_extend_where_nothing_runs(fake_session):
    with pytest.raises(RequestInvalid, match="nothing to extend"):
        extend(1, session=fake_session(FakeAws())).result(10)


def test_a_teardown_ends_the_writing_before_the_bucket_goes(fake_session, tasks_of):
    session = fake_session(FakeAws())
    up(session, hours=5)
    session.teardown_all().result(30)
    assert "fuse" not in tasks_of(session)
    up(session)
    assert session.aws.count("put_object") <= 1


@pytest.mark.parametrize("late", [False, True])
def test_a_launch_that_is_begun_during_a_teardown_is_looked_after_when_that_is_over(fake_session, monkeypatch, wait_for, late):
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    session = fake_session(FakeAws())
    up(session, hours=5)
    reached, held = threading.Event(), asyncio.Event()

    async def hold():
        reached.set()
        await held.wait()

    async def terminating(service, operation, parameters):
        if operation == "terminate_instances":
            await hold()

    if late:
        session.aws.before = terminating
    else:
        session.before_end(hold)
    ending = session.teardown_all()
    assert reached.wait(20)
    launch = bring_up_spots(REQUEST, 1, "true", session=session, hours=5)
    session.loop.call_soon_threadsafe(held.set)
    assert ending.result(30).remaining == ()
    launch.result(10)
    wait_for(lambda: any(list(session.aws.buckets.values())), 20)  # the former one has been proved gone
    assert list(read(session)[1]) == [str(launch.uuid)]


def test_an_extension_during_a_teardown_comes_too_late_and_makes_nothing(fake_session, wait_for):
    session = fake_session(FakeAws())
    launch = up(session)
    held = asyncio.Event()

    async def hold(service, operation, parameters):
        if operation == "terminate_instances":
            await held.wait()

    session.aws.before = hold
    ending = session.teardown_all()
    wait_for(lambda: "terminate_instances" in session.aws.calls)
    extension = launch.extend(1)
    session.loop.call_soon_threadsafe(held.set)
    assert ending.result(30).remaining == ()
    with pytest.raises(RequestInvalid, match="nothing to extend"):
        extension.result(10)
    assert session.aws.buckets == {}


def test_every_display_warns_ten_minutes_before_the_end(fake_session, monkeypatch, wait_for):
    said = []
    monkeypatch.setattr(display, "say", said.append)
    monkeypatch.setattr(keeper.fuse, "RETRY_SECONDS", 0.01)
    session = fake_session(FakeAws())
    launch = up(session, hours=9.5 / 60)
    for shown in (str(launch.progress()), repr(launch), launch._repr_html_()):
        assert "ends in 9 min: extend() moves it" in shown
    wait_for(lambda: said)
    assert len(said) == 1 and str(launch.uuid) in said[0]
    launch.extend(1).result(10)
    assert "ends in" not in repr(launch)


def test_the_end_stands_in_the_tags_and_in_the_user_data(fake_session):
    session = fake_session(FakeAws())
    launch = up(session, hours=3)
    sent = session.aws.parameters[session.aws.calls.index("request_spot_instances")]
    tags = {tag["Key"]: tag["Value"] for tag in sent["TagSpecifications"][0]["Tags"]}
    assert tags["fleetctl:expires"] == datetime.fromtimestamp(launch._conductor.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert session.place.whole("fuse") == launch._conductor.order.fuse_object
    assert json.dumps(sent, default=str)


@pytest.mark.cloud
def test_a_machine_ends_by_itself_and_one_that_was_extended_does_not(session, request_, living, wait_for):
    began = time.time()
    hours = 25 / 3600
    short, long = (bring_up_one_spot(request_, "sleep 1000", session=session, hours=hours) for _ in range(2))
    ends, stays = short.result(60), long.result(60)
    if time.time() - began > 20:
        pytest.skip("this computer is too busy to bring two machines up in 20 s")
    long.extend(1).result(30)
    wait_for(lambda: ends.instance_id not in living(), 90)
    assert stays.instance_id in living()
    ec2 = session.boto3().client("ec2")
    [found] = ec2.describe_instances(InstanceIds=[stays.instance_id])["Reservations"][0]["Instances"]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags["fleetctl:expires"] > datetime.fromtimestamp(began + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
