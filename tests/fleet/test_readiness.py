"""Machines that are ready when they were seen to be, not when they say so: on a real cloud, and what it costs in calls."""

import asyncio
import time
from uuid import uuid4

import pytest
from fake_aws import REQUESTS, FakeAws
from test_pace import Desk
from virtual import run

from fleetctl import bring_up_one_spot, bring_up_spots, shapes, teardown, teardown_all
from fleetctl.bootstrap import Program
from fleetctl.ending import fuse
from fleetctl.errors import NeverReported, RequestInvalid, ScriptFailed
from fleetctl.events import Deadline
from fleetctl.launching import launch, proving, readiness
from fleetctl.launching.order import Order
from fleetctl.states import MachineState


@pytest.fixture
def soon(monkeypatch):
    """Nothing is waited for that a real EC2 needs time for."""
    monkeypatch.setattr(readiness, "CONSOLES", (0.2,))
    monkeypatch.setattr(readiness, "TRIES", (0.0, 0.2))
    monkeypatch.setattr(proving, "LOOKS", (0.2,))
    monkeypatch.setattr(proving, "WAIT_SECONDS", 0.1)


@pytest.mark.cloud
async def test_a_machine_that_never_boots_is_ready_when_it_runs_if_that_is_enough(session, cloud, request_, soon):
    cloud.fault("never-boots", type="t3.micro")
    machines = await bring_up_spots(request_, 2, "true", ready="running", session=session)
    assert [one.state for one in machines.succeeded] == [MachineState.READY] * 2
    await teardown_all(session=session)


@pytest.mark.cloud
async def test_one_whose_reports_are_all_lost_is_reached_by_the_host_key_on_its_console(session, cloud, request_, soon):
    await session.submit(session.channel(), "channel")  # whose probe must arrive
    cloud.fault("message-lost", share=1.0, seed=1)
    machines = await bring_up_spots(request_, 2, "sleep 1000", ready="ssh", session=session)
    outcomes = await machines.run("echo here")
    assert [done.stdout for done in outcomes.succeeded.values()] == ["here\n"] * 2
    assert all(one.ssh_key and one.ip for one in machines.succeeded)
    await teardown_all(session=session)


@pytest.mark.cloud
async def test_a_command_decides_and_neither_the_report_nor_ssh_alone(session, request_, soon, tmp_path, wait_for):
    bringing = bring_up_spots(request_, 1, "true", ready=f"test -e {tmp_path}/go", session=session)
    await asyncio.to_thread(wait_for, lambda: any(case.tries for case in bringing._conductor.prover.cases.values()))
    assert not bringing.done()
    assert next(iter(bringing.machines.values())).state is MachineState.BOOTED
    (tmp_path / "go").touch()
    assert len((await bringing).succeeded) == 1
    await teardown(bringing, session=session)


@pytest.mark.cloud
async def test_a_command_that_fails_ends_the_launch_also_where_ssh_would_be_enough(session, request_, soon):
    with pytest.raises(ScriptFailed, match="exit code 7"):
        await bring_up_spots(request_, 1, "exit 7", ready="test -e /nonexistent", session=session)
    await teardown_all(session=session)


@pytest.mark.cloud
def test_if_reports_never_arrive_but_ssh_works_the_error_says_so_and_shows_the_log(session, cloud, oracle, request_, wait_for):
    session.submit(session.channel(), "channel").result()
    cloud.fault("message-lost", share=1.0, seed=1)
    going = bring_up_spots(request_, 1, ["echo tide is high", "sleep 1000"], minutes=10, session=session)
    ec2 = session.boto3().client("ec2")

    def said():
        ids = oracle.living()
        return ids and "tide is high" in ec2.get_console_output(InstanceId=next(iter(ids))).get("Output", "")

    wait_for(said)
    session.loop.call_soon_threadsafe(going._conductor.feed, Deadline())
    error = going.exception(60)
    assert isinstance(error, NeverReported)
    assert "its reports do not arrive, but SSH answers (its host key stands on its console" in str(error)
    assert "tide is high" in str(error)
    assert "publish to the session's topic" in error.todo
    assert error.left == ()
    teardown_all(session=session).result()


@pytest.mark.cloud
async def test_one_that_is_never_ready_is_told_with_the_reason(session, request_, soon, wait_for):
    going = bring_up_spots(request_, 1, "true", ready="echo no licence >&2; false", session=session)
    await asyncio.to_thread(wait_for, lambda: any(case.tries and "exits 1" in case.why for case in going._conductor.prover.cases.values()))
    session.loop.call_soon_threadsafe(going._conductor.feed, Deadline())
    error = await asyncio.to_thread(going.exception, 60)
    assert "exits 0 over SSH" in str(error)
    assert "no licence" in str(error)
    assert "state running" in str(error)
    await teardown_all(session=session)


@pytest.mark.parametrize("call", REQUESTS)
@pytest.mark.parametrize("phase", [None, "booted"])
def test_looking_at_states_costs_three_calls_and_one_for_each_half_minute_however_many_machines(call, phase):
    async def main():
        cloud = FakeAws(fill=4.0, boot=25.0, phase=phase)
        request, desk, now = shapes.apply(REQUESTS[call], price=0.01), Desk(cloud), time.time()
        order = Order(uuid4(), desk.id, request, Program(("true",)), 100, now, now + 600, 60, fuse_object=desk.place.whole(fuse.KEY))
        conductor = launch.Conductor(desk, order, minimum=100, ready=readiness.readiness("running"))
        began = asyncio.get_running_loop().time()
        conductor.start()
        await conductor.settled.wait()
        seconds = asyncio.get_running_loop().time() - began
        assert len(conductor.future.result()) == 100
        assert seconds < 20
        assert sum(cloud.ec2_calls().values()) <= 6 + 3 + 2 * (seconds // 30), cloud.ec2_calls()
        assert cloud.count("get_console_output") == 0

    run(main())


def test_a_launch_that_is_never_proved_asks_four_times_a_minute_and_leaves_no_task():
    async def main():
        cloud = FakeAws(phase=None)
        desk, now = Desk(cloud), time.time()
        desk.profile = cloud
        cloud.login_user, cloud.key_file = "ec2-user", None
        order = Order(uuid4(), desk.id, shapes.apply(REQUESTS["RunInstances"], price=0.01), Program(("true",)), 10, now, now + 300, 60)
        conductor = launch.Conductor(desk, order, minimum=10, ready=readiness.readiness("ssh"))
        conductor.start()
        await conductor.settled.wait()
        assert "nothing of its console" in str(conductor.future.exception())
        assert cloud.ec2_calls()["describe_instances"] <= 4 + 2 * 300 // 30
        assert cloud.count("get_console_output") <= 10 * 8 + 2
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("proof")]

    run(main())


@pytest.mark.cloud
async def test_a_machine_behind_another_is_ready_when_it_answers_through_that_one(session, cloud, request_, soon):
    door = await bring_up_one_spot(request_, "sleep 1000", session=session)
    await door.run("true")
    cloud.fault("message-lost", share=1.0, seed=1)  # so that nothing but SSH can tell
    behind = await bring_up_spots(request_, 2, "sleep 1000", ready="ssh", via=door, session=session)
    for machine in behind.succeeded:
        assert machine.via is door
        assert machine._where().host == machine.ip
        assert machine.link()._at[1] is door.link()
    await teardown_all(session=session)


@pytest.mark.cloud
async def test_what_stands_in_for_a_machine_behind_another_is_reached_the_same_way(session, cloud, request_, soon, wait_for):
    door = await bring_up_one_spot(request_, "sleep 1000", session=session)
    launch = bring_up_spots(request_, 1, "sleep 1000", ready="ssh", via=door, on_interruption="replace", session=session)
    first = (await launch).succeeded[0]
    cloud.fault("interruption", instance=first.instance_id, seconds=120)
    await asyncio.to_thread(wait_for, lambda: launch.replacements and launch.replacements[0].done())
    [second] = (await launch.replacements[0]).succeeded
    assert second.via is door
    await teardown_all(session=session)


def test_a_way_that_leads_through_no_machine_of_this_session_is_refused_before_anything_costs(fake_session):
    cloud = FakeAws()
    one, other = fake_session(cloud), fake_session(FakeAws())
    machine = bring_up_one_spot(REQUESTS["RequestSpotInstances"], "true", session=other).result(10)
    for wrong in (machine, "door", 7):
        with pytest.raises(RequestInvalid, match="via is a machine of this session"):
            bring_up_spots(REQUESTS["RequestSpotInstances"], 1, "true", via=wrong, session=one)
    assert not cloud.instances
