"""Whoever stops waiting stops nothing else; whoever cancels a launch, at whatever moment, leaves nothing behind."""

import asyncio
import itertools
import threading

import pytest
from fake_aws import REQUEST, FakeAws, Held, nothing

from fleetctl import LaunchFailed, bring_up_spots, commands, display, teardown, teardown_all
from fleetctl.ending.teardown import Estate, end
from fleetctl.errors import LaunchCancelled
from fleetctl.ledger import sessions
from fleetctl.lifecycle import Deadline, LaunchState


class CancelledAt:
    """Awaits something, and is cancelled when that suspends for the k-th time (from 0)."""

    def __init__(self, what, k):
        self.what, self.k = what, k

    def __await__(self):
        steps = self.what.__await__()
        for _ in range(self.k):
            yield next(steps)
        next(steps)
        steps.throw(asyncio.CancelledError())


class Ticking(display.Tick):
    """Wakes often, as where somebody looks."""

    seconds = 0.001


@pytest.fixture
def looked_at(monkeypatch):
    monkeypatch.setattr(display, "_tick", lambda what: Ticking())


@pytest.mark.parametrize("k", range(4))
async def test_a_waiter_cancelled_at_any_await_leaves_the_launch_running_and_no_task(fake_session, looked_at, capsys, k):
    cloud = FakeAws()
    held = Held(cloud, 0)
    launch = bring_up_spots(REQUEST, 2, "true", session=fake_session(cloud))
    with pytest.raises(asyncio.CancelledError):
        await CancelledAt(launch, k)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert "goes on" in capsys.readouterr().err
    launch.session.loop.call_soon_threadsafe(held.release)
    assert len((await launch).succeeded) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_waits_or_breaks_holds_nothing_up(fake_session):
    session, done = fake_session(FakeAws()), threading.Event()
    launch = bring_up_spots(REQUEST, 1, "true", session=session)

    def waits(future):
        session.teardown_all().result(30)
        done.set()

    def leaves(future):
        raise SystemExit

    launch.add_done_callback(leaves)
    launch.add_done_callback(waits)
    assert done.wait(20)
    assert session.aws.left() == set()


async def test_of_several_waiters_each_is_cancelled_alone(fake_session):
    cloud = FakeAws()
    held = Held(cloud, 0)
    launch = bring_up_spots(REQUEST, 1, "true", session=fake_session(cloud))
    first, second, third = (asyncio.create_task(_wait(launch)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    third.cancel()
    await asyncio.wait([first, third])
    launch.session.loop.call_soon_threadsafe(held.release)
    assert len((await second).succeeded) == 1
    assert first.cancelled()
    assert third.cancelled()


async def _wait(launch):
    return await launch


def test_a_waiter_whose_loop_ended_disturbs_nobody(fake_session, caplog):
    cloud = FakeAws()
    held = Held(cloud, 0)
    launch = bring_up_spots(REQUEST, 1, "true", session=fake_session(cloud))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(_wait(launch), 0.01))
    launch.session.loop.call_soon_threadsafe(held.release)
    assert len(launch.result(10).succeeded) == 1
    assert caplog.records == []


def test_an_iteration_that_is_abandoned_with_its_loop_disturbs_nobody(fake_session, caplog):
    cloud = FakeAws()
    held = Held(cloud, 0)
    launch = bring_up_spots(REQUEST, 2, "true", session=fake_session(cloud))
    loop = asyncio.new_event_loop()
    arrivals = launch.__aiter__()
    task = loop.create_task(anext(arrivals))
    loop.run_until_complete(asyncio.sleep(0.01))  # it waits for an arrival
    loop.stop()
    task._log_destroy_pending = False
    loop.close()  # without cancelling anything, as a crashed kernel would
    launch.session.loop.call_soon_threadsafe(held.release)
    assert len(launch.result(10).succeeded) == 2
    assert caplog.records == []


async def test_an_iteration_that_is_broken_off_is_not_told_any_more(fake_session):
    launch = bring_up_spots(REQUEST, 3, "true", session=fake_session(FakeAws()))
    arrivals = aiter(launch)
    assert (await anext(arrivals)).state == "ready"
    await arrivals.aclose()
    assert launch._conductor.watchers == []
    assert len((await launch).succeeded) == 3


async def test_an_iteration_raises_what_the_launch_raises(fake_session):
    launch = bring_up_spots(REQUEST, 1, "true", session=fake_session(FakeAws(phase=None)))
    arrivals = aiter(launch)
    asking = asyncio.ensure_future(anext(arrivals))
    await launch.cancel()
    with pytest.raises(LaunchCancelled):
        await asking
    assert launch._conductor.watchers == []


def bring_up(session):
    return bring_up_spots(REQUEST, 2, commands.server(), session=session)


def held_at_each_call(fake_session, *, applied=False):
    """Launches that stand at their first, second, … call to AWS, until one comes up before it has made so many."""
    for k in itertools.count():
        cloud = FakeAws()
        held, session = Held(cloud, k, applied=applied), fake_session(cloud)
        launch = bring_up(session)
        if not held.reached(launch):
            assert k > 8
            return
        yield cloud, session, launch, held
        session.leave()


@pytest.mark.parametrize("applied", [False, True], ids=["before it is applied", "while its answer is on its way"])
def test_a_launch_cancelled_at_any_call_to_aws_leaves_nothing(fake_session, tasks_of, caplog, applied):
    held_at = set()
    for cloud, session, launch, held in held_at_each_call(fake_session, applied=applied):
        held_at.add(held.at)
        cancelling = launch.cancel()
        tasks_of(session)  # by now the cancel has been heard
        session.loop.call_soon_threadsafe(held.release)
        cancelling.result(10)
        error = launch.exception(10)
        assert isinstance(error, LaunchCancelled) or launch.progress().state is LaunchState.UP, held.at
        assert launch.enough().done()
        if error is not None:
            assert error.left == ()
            assert cloud.alive() == set(), held.at
        assert teardown_all(session=session).result(10).remaining == ()
        assert cloud.left() == set(), held.at
        assert tasks_of(session) == [], held.at
    assert {"create_topic", "create_queue", "subscribe", "publish", "put_parameter", "request_spot_instances"} <= held_at
    assert "broke" not in caplog.text


@pytest.mark.parametrize("way", ["teardown", "teardown_all", "deadline"])
def test_a_launch_that_is_ended_in_any_way_at_any_call_leaves_nothing(fake_session, tasks_of, way):
    for cloud, session, launch, held in held_at_each_call(fake_session):
        if way == "deadline":
            session.loop.call_soon_threadsafe(launch._conductor.feed, Deadline())
        else:
            ending = teardown(launch) if way == "teardown" else teardown_all(session=session)
        tasks_of(session)
        session.loop.call_soon_threadsafe(held.release)
        if way != "deadline":
            assert ending.result(10).remaining == (), held.at
            assert cloud.alive() == set(), held.at
        assert launch.exception(10) is None or isinstance(launch.exception(10), LaunchFailed)
        assert teardown_all(session=session).result(10).remaining == (), held.at
        assert cloud.left() == set(), held.at
        assert tasks_of(session) == [], held.at


def test_a_session_that_is_left_at_any_call_leaves_no_task_and_no_waiter_and_what_it_made_can_be_ended(fake_session, quick):
    for cloud, session, launch, held in held_at_each_call(fake_session):
        session.leave()
        assert launch.done(), held.at
        assert launch.enough().done(), held.at
        if launch.progress().state is not LaunchState.UP:
            assert "fleetctl down" in str(launch.exception()), held.at
        cloud.before = nothing
        [record] = [one for one in sessions(session.ledger.path.parent) if one.id == session.id]
        receipt = asyncio.run(end(cloud.call, Estate.read(session.id, "us-east-1", record.entries), cost=lambda row: 0.0))
        assert cloud.left() == set(), held.at
        assert {line.thing for line in receipt.remaining} <= {"launch call"}, held.at


def test_a_launch_cancelled_before_it_has_begun_asks_aws_for_nothing(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)

    async def both():  # on the session's own loop, so that the launch's first step comes after the cancel
        launch = bring_up(session)
        launch._conductor.cancel()
        return launch

    launch = session.submit(both(), "both").result(10)
    with pytest.raises(LaunchCancelled):
        launch.result(10)
    assert cloud.calls == []


def test_a_cancel_does_not_wait_for_a_channel_that_is_silent(fake_session):
    cloud = FakeAws()
    cloud._publish = lambda parameters: None
    session = fake_session(cloud)
    launches = [bring_up(session) for _ in range(3)]
    launches[0].cancel().result(5)
    assert isinstance(launches[0].exception(5), LaunchCancelled)
    assert not launches[1].done()
    teardown_all(session=session).result(10)
    assert cloud.left() == set()
    assert cloud.count("create_topic") == 1, "all launches shared one attempt"
