"""Whatever breaks under a launch, its futures get an outcome that says what happened, and nothing of it stays behind unsaid."""

import asyncio
import logging
import random

import pytest
from fake_aws import REQUEST, FakeAws, Held, nothing, refusal

import fleetctl
from fleetctl import bring_up_one_spot, bring_up_spots, teardown, teardown_all
from fleetctl.ending import teardown as ending
from fleetctl.errors import (
    AwsError,
    ChannelSilent,
    FleetError,
    LaunchCancelled,
    LaunchFailed,
    LedgerError,
    Network,
    RequestInvalid,
    StillBilling,
    Throttled,
)
from fleetctl.launching import listing
from fleetctl.lifecycle import Core, LaunchState, MachineState
from fleetctl.messages import Phase


def failing(cloud, operation, kind, *, times=10**6, applied=False, code="Broken"):
    """Let the first `times` calls of an operation fail, after they were applied or without being."""
    left = [times]

    async def hook(service, name, parameters):
        if name == operation and left[0]:
            left[0] -= 1
            raise refusal(kind, service, name, code)

    setattr(cloud, "after" if applied else "before", hook)


@pytest.fixture
def impatient(monkeypatch):
    """Pauses before another try take no time."""
    monkeypatch.setattr(fleetctl.cloud.ec2, "PAUSES", (0.001,) * 5)
    monkeypatch.setattr(listing, "PATIENCE", (0.0, 0.001))


def until(session, holds):
    """Let the session's loop go round until something holds."""
    while not holds():
        session.submit(asyncio.sleep(0), "a round of the loop").result(10)


def down(session):
    return teardown_all(session=session).result(10)


# --- the launch call -------------------------------------------------------------------------------------------------------------


def test_a_launch_call_whose_answer_is_lost_is_asked_again_and_launches_once(fake_session, impatient):
    cloud = FakeAws()
    failing(cloud, "request_spot_instances", Network, times=2, applied=True)
    session = fake_session(cloud)
    assert len(bring_up_spots(REQUEST, 2, "true", session=session).result(10)) == 2
    assert cloud.count("request_spot_instances") == 3
    assert len(cloud.requests) == 2
    down(session)
    assert cloud.left() == set()


@pytest.mark.parametrize("kind", [Network, Throttled])
def test_what_a_launch_call_made_whose_answers_were_all_lost_is_found_by_its_tag_and_ended(fake_session, impatient, kind):
    cloud = FakeAws()
    failing(cloud, "request_spot_instances", kind, applied=True)
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 2, "true", session=session)
    with pytest.raises(kind) as caught:
        going.result(10)
    assert caught.value.left == ()
    assert cloud.alive() == set()
    assert len(cloud.instances) == 2
    assert down(session).remaining == ()


def test_where_nothing_is_to_be_seen_of_a_lost_launch_call_nothing_is_claimed_to_be_proved(fake_session, impatient, monkeypatch):
    cloud = FakeAws()
    failing(cloud, "request_spot_instances", Network)
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 2, "true", session=session)
    with pytest.raises(Network) as caught:
        going.result(10)
    assert str(going.uuid) in caught.value.left[0]
    with pytest.raises(StillBilling) as still:
        down(session)
    assert [(line.thing, line.id) for line in still.value.receipt.remaining] == [("launch call", str(going.uuid))]
    monkeypatch.setattr(ending, "VISIBLE_SECONDS", 0.0)  # by then AWS shows what there is
    assert [line.thing for line in down(session).found] == ["launch call"]
    assert down(session).found == ()


def test_what_aws_refuses_for_good_needs_no_looking_for(fake_session):
    cloud = FakeAws()
    failing(cloud, "request_spot_instances", AwsError, code="InvalidParameterValue")
    session = fake_session(cloud)
    with pytest.raises(AwsError, match="InvalidParameterValue"):
        bring_up_spots(REQUEST, 1, "true", session=session).result(10)
    assert {line.thing for line in down(session).found} == {"topic", "queue", "subscription"}
    assert cloud.ec2_calls() == {"request_spot_instances": 1, "describe_tags": 1}


def test_the_request_is_sent_as_it_was_when_it_was_asked_for(fake_session):
    cloud = FakeAws()
    held, session = Held(cloud, 0), fake_session(cloud)
    request = {**REQUEST, "LaunchSpecification": {**REQUEST["LaunchSpecification"], "SecurityGroupIds": ["sg-0123456789abcdef0"]}}
    going = bring_up_spots(request, 1, "true", session=session)
    request["LaunchSpecification"]["SecurityGroupIds"].append("sg-0123456789abcdef1")
    session.loop.call_soon_threadsafe(held.release)
    going.result(10)
    [sent] = [p for name, p in zip(cloud.calls, cloud.parameters, strict=True) if name == "request_spot_instances"]
    assert sent["LaunchSpecification"]["SecurityGroupIds"] == ["sg-0123456789abcdef0"]


# --- the channel, the prices, the listing ----------------------------------------------------------------------------------------


def test_a_channel_that_cannot_be_opened_fails_all_launches_that_wait_for_it_and_the_next_tries_again(fake_session):
    cloud = FakeAws()
    held, session = Held(cloud, 1), fake_session(cloud)
    three = [bring_up_spots(REQUEST, 1, "true", session=session) for _ in range(3)]
    held.reached(three[0])
    failing(cloud, "create_queue", AwsError, times=1, applied=True)
    session.loop.call_soon_threadsafe(held._gate.set)
    assert {str(one.exception(10)) for one in three} == {"sqs create_queue was refused with Broken"}
    assert cloud.count("create_topic") == 1
    assert bring_up_spots(REQUEST, 1, "true", session=session).result(10)
    assert cloud.count("create_topic") == 2
    assert down(session).remaining == ()
    assert cloud.topics == set()


def test_a_silent_channel_is_told_and_nothing_is_launched(fake_session):
    cloud = FakeAws()
    cloud._publish = lambda parameters: None
    session = fake_session(cloud, probe_seconds=0.05)
    with pytest.raises(ChannelSilent, match="nothing was launched"):
        bring_up_spots(REQUEST, 1, "true", session=session).result(10)
    assert cloud.ec2_calls() == {}
    down(session)
    assert cloud.left() == set()


@pytest.mark.parametrize("kind", [AwsError, KeyError])
def test_unknown_prices_stop_no_launch_and_the_cap_is_shown(fake_session, kind):
    cloud = FakeAws()

    async def broken(service, operation, parameters):
        if operation == "describe_spot_price_history":
            raise refusal(kind, service, operation, "Broken") if kind is AwsError else KeyError("SpotPrice")

    cloud.before = broken
    machine = bring_up_one_spot(REQUEST, "true", session=fake_session(cloud)).result(10)
    assert machine.price == 0.01


def test_a_listing_that_aws_refuses_is_asked_for_again(fake_session, impatient):
    cloud = FakeAws()
    failing(cloud, "describe_spot_instance_requests", Throttled, times=3)
    assert bring_up_spots(REQUEST, 2, "true", session=fake_session(cloud)).result(10)


def test_machines_that_report_before_aws_has_answered_the_launch_call_are_not_forgotten(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)

    async def slow(service, operation, parameters):
        if operation == "request_spot_instances":
            await asyncio.sleep(0.1)  # the machines, which take no time, have long reported

    cloud.after = slow
    assert len(bring_up_spots(REQUEST, 2, "true", session=session).result(5)) == 2


def test_a_machine_that_no_listing_showed_is_ended_when_it_reports_after_its_launch_was_given_up(fake_session, impatient):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    until(session, lambda: cloud.instances)
    cloud.hidden.update(cloud.requests)
    going.cancel().result(10)
    assert len(cloud.alive()) == 1
    cloud.hidden.clear()
    cloud.phase = Phase.BOOTED
    [instance] = cloud.instances
    gone = asyncio.run_coroutine_threadsafe(_reports_and_ends(cloud, instance, str(going.uuid)), session.loop)
    assert gone.result(10)


def test_a_launch_that_is_given_up_while_aws_does_not_show_its_requests_says_that_they_may_have_machines(fake_session, impatient):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    until(session, lambda: cloud.instances)
    shown, cloud._describe_spot_instance_requests = cloud._describe_spot_instance_requests, lambda p: {"SpotInstanceRequests": []}
    going.cancel().result(10)
    [request], error = cloud.requests, going.exception(1)
    assert len(cloud.alive()) == 1
    assert error.left == (f"the instance of {request}",)
    cloud._describe_spot_instance_requests = shown
    assert down(session).remaining == ()


async def _reports_and_ends(cloud, instance, uuid):
    ended = asyncio.Event()

    async def watch(service, operation, parameters):
        if operation == "terminate_instances":
            ended.set()

    cloud.after = watch
    cloud.report(instance, uuid)
    await ended.wait()
    return "ended" in cloud.instances[instance]


# --- this program and its disk ---------------------------------------------------------------------------------------------------


def test_a_fault_of_this_program_ends_the_launch_and_is_its_error(fake_session, monkeypatch, caplog):
    cloud = FakeAws()
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 2, "true", session=session)
    monkeypatch.setattr(type(going._conductor.core), "_reported", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        going.result(10)
    assert going.enough().done()
    assert cloud.alive() == set()
    assert "broke" in caplog.text


def test_a_fault_in_a_timer_ends_the_launch_too(fake_session, monkeypatch):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    monkeypatch.setattr(Core, "_deadline", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bring_up_spots(REQUEST, 1, "true", minutes=0.002, session=session).result(10)
    assert cloud.alive() == set()


def test_a_fault_that_repeats_itself_still_resolves_everything(fake_session, monkeypatch):
    session = fake_session(FakeAws(phase=None))
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    monkeypatch.setattr(going._conductor.core.__class__, "step", lambda *_: 1 / 0)
    session.loop.call_soon_threadsafe(going._conductor.cancel)
    with pytest.raises(ZeroDivisionError):
        going.result(10)
    assert isinstance(going.enough().exception(10), ZeroDivisionError)


def test_a_disk_that_refuses_the_intent_keeps_anything_from_being_made(fake_session, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    monkeypatch.setattr(session.ledger, "intent", _full)
    with pytest.raises(LedgerError, match="nothing was asked"):
        bring_up_spots(REQUEST, 1, "true", session=session).result(10)
    assert cloud.calls == []


def test_a_disk_that_refuses_an_outcome_loses_no_machine(fake_session, monkeypatch, caplog):
    cloud = FakeAws()
    session = fake_session(cloud)
    monkeypatch.setattr(session.ledger, "result", _full)
    assert len(bring_up_spots(REQUEST, 2, "true", session=session).result(10).succeeded) == 2
    assert "an outcome is missing" in caplog.text
    assert down(session).remaining == ()
    assert cloud.left() == set(), "what the ledger does not name is found by tags and names"


def test_a_disk_that_fills_up_keeps_no_machine_running(fake_session, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    bring_up_spots(REQUEST, 2, "true", session=session).result(10)
    for name in ("intent", "result", "error", "mark_ended"):
        monkeypatch.setattr(session.ledger, name, _full)
    assert down(session).remaining == ()
    assert cloud.left() == set()


def _full(*_, **__):
    raise LedgerError("the ledger could not be written: disk full", todo="nothing was asked of AWS")


# --- several at once -------------------------------------------------------------------------------------------------------------


def test_two_teardowns_at_once_both_end_and_the_second_finds_nothing(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    bring_up_spots(REQUEST, 2, "true", session=session).result(10)
    first, second = teardown_all(session=session), teardown_all(session=session)
    assert len(first.result(10).found) == 7
    assert second.result(10).found == ()
    assert cloud.count("terminate_instances") == 1


def test_a_launch_that_begins_during_a_teardown_of_everything_comes_up_after_it(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    bring_up_spots(REQUEST, 1, "true", session=session).result(10)
    held = Held(cloud, 0)  # the teardown's first call
    first = teardown_all(session=session)
    begun = bring_up_spots(REQUEST, 2, "true", session=session)
    held.reached(begun)
    session.loop.call_soon_threadsafe(held.release)
    assert first.result(10).remaining == ()
    assert len(begun.result(10).succeeded) == 2
    assert len(cloud.alive()) == 2
    down(session)
    assert cloud.left() == set()


def test_a_launch_is_torn_down_by_the_session_that_began_it(fake_session, monkeypatch):
    cloud, other = FakeAws(), FakeAws()
    session = fake_session(cloud)
    monkeypatch.setattr("fleetctl.session._default", fake_session(other))
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    going.result(10)
    assert {line.thing for line in teardown(going).result(10).found} == {"spot request", "instance"}
    assert cloud.alive() == set()
    assert other.calls == []


def test_the_same_launch_can_be_torn_down_twice_at_once(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    going.result(10)
    both = [teardown(going), teardown(going)]
    assert [one.result(10).remaining for one in both] == [(), ()]
    assert going.progress().state is LaunchState.ENDED
    assert going.machines.succeeded[0].state is MachineState.GONE


# --- the end of a session --------------------------------------------------------------------------------------------------------


def test_a_session_can_be_closed_and_left_again_and_again_from_any_thread(fake_session):
    session = fake_session(FakeAws())
    bring_up_spots(REQUEST, 1, "true", session=session).result(10)

    async def from_other_threads():
        await asyncio.gather(*(asyncio.to_thread(session.leave) for _ in range(4)))

    asyncio.run(from_other_threads())
    assert session.close().found == ()
    session.leave()
    assert not session._background.thread.is_alive()


def test_a_session_refuses_to_end_on_its_own_thread(fake_session):
    session = fake_session(FakeAws())

    async def leave():
        session.leave()

    with pytest.raises(RuntimeError, match="own thread"):
        session.submit(leave(), "leaving").result(10)
    assert not session.closed


@pytest.mark.parametrize("verb", ["bring up", "teardown", "cancel", "submit"])
def test_what_is_asked_of_a_session_that_has_ended_is_refused_with_a_reason(fake_session, recwarn, verb):
    session = fake_session(FakeAws())
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    going.result(10)
    session.leave()
    with pytest.raises(FleetError, match="ended"):
        match verb:
            case "bring up":
                bring_up_spots(REQUEST, 1, "true", session=session)
            case "teardown":
                teardown_all(session=session)
            case "cancel":
                going.cancel()
            case "submit":
                session.submit(asyncio.sleep(0), "nothing")
    assert [str(warning.message) for warning in recwarn] == []


def test_leaving_a_session_tells_whoever_waits_what_goes_on(fake_session):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    session.leave()
    with pytest.raises(LaunchFailed, match="fleetctl down") as caught:
        going.result(10)
    assert caught.value.left == (f"launch {going.uuid}",)


def test_a_teardown_that_nobody_waits_for_is_heard_of_when_something_may_still_cost(fake_session, caplog):
    cloud = FakeAws()
    session = fake_session(cloud)
    bring_up_one_spot(REQUEST, "true", session=session).result(10)
    cloud.protected.update(cloud.instances)
    teardown_all(session=session).exception(10)
    assert [record.levelno for record in caplog.records if "not proved to be gone" in record.message] == [logging.ERROR]


def test_a_way_that_hangs_while_it_closes_holds_no_teardown_up(fake_session, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    bring_up_one_spot(REQUEST, "true", session=session).result(10)
    monkeypatch.setattr("fleetctl.background.CLOSE_SECONDS", 0.05)
    session.keep(asyncio.Event().wait)
    assert down(session).remaining == ()
    monkeypatch.setattr("fleetctl.background.CLOSE_SECONDS", 10.0)


def test_commands_that_are_too_long_even_for_a_bucket_are_refused_before_anything_is_made(fake_session, monkeypatch):
    monkeypatch.setattr("fleetctl.bootstrap.BULK_BYTES", 30_000)
    cloud = FakeAws()
    session = fake_session(cloud)
    noise = random.Random(1).randbytes(40_000).hex()
    with pytest.raises(RequestInvalid, match="30,000 at most"):
        bring_up_spots(REQUEST, 1, f": {noise}", session=session).result(10)
    assert (cloud.ec2_calls(), cloud.buckets) == ({}, {})


def test_errors_of_a_cancelled_launch_are_launch_cancelled_even_while_it_tries_again(fake_session):
    cloud = FakeAws()
    failing(cloud, "request_spot_instances", Network)
    session = fake_session(cloud)
    going = bring_up_spots(REQUEST, 1, "true", session=session)
    until(session, lambda: cloud.count("request_spot_instances"))
    going.cancel().result(0.5)  # not after the pause before the next try
    assert isinstance(going.exception(1), LaunchCancelled)
    cloud.before = nothing
