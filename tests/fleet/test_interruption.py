"""Machines that EC2 takes back: what the launch shows, and what comes in their place. On the in-memory AWS and on the local cloud."""

import asyncio
import concurrent.futures
from uuid import UUID

import pytest
from fake_aws import REQUEST, FakeAws

from fleetctl import bring_up_spots, teardown, teardown_all
from fleetctl.errors import RequestInvalid
from fleetctl.launching import replacing
from fleetctl.lifecycle import MachineState
from fleetctl.messages import Phase, Report

TAKEN = "2031-05-06T07:08:09Z"


def until(session, holds):
    """Let the session's loop go round until something holds."""
    while not holds():
        session.submit(asyncio.sleep(0), "a round of the loop").result(10)


def say(cloud, session, launch, machine, **facts):
    """The machine reports something."""

    async def publish():
        cloud._publish({"Message": Report(UUID(str(launch)), machine.instance_id, **{"seq": 9, "ip": "10.0.0.1", **facts}).encode()})

    session.submit(publish(), "a report").result(10)


def interrupt(cloud, session, launch, *machines):
    """EC2 gives these machines their notice, and they say so."""
    for machine in machines:
        say(cloud, session, launch.uuid, machine, phase=Phase.INTERRUPTED, taken_at=TAKEN)
    until(session, lambda: all(machine.state is MachineState.INTERRUPTED for machine in machines))


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(replacing, "GATHER_SECONDS", 0.01)


def test_a_launch_shrinks_unless_told_otherwise_and_shows_it(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 3, "true", session=session)
    machines = launch.result(10)
    [first, *others] = machines.succeeded
    interrupt(cloud, session, launch, first)
    assert [one.state for one in others] == [MachineState.READY] * 2
    assert (machines.interrupted, machines.up) == ([first], others)
    assert (first.taken_at, f"until {TAKEN}" in repr(first), "1 interrupted" in repr(machines)) == (TAKEN, True, True)
    assert "2/3 × t3.micro up · 0 pending · 0 failed · 1 interrupted" in str(launch.progress())
    assert (launch.replacements, cloud.count("request_spot_instances")) == ([], 1)


def test_interrupted_machines_are_replaced_under_a_new_token_by_a_launch_like_the_first(fake_session, at_once):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 3, "echo hello", on_interruption="replace", minutes=7, session=session)
    taken = launch.result(10).succeeded[:2]
    interrupt(cloud, session, launch, *taken)
    until(session, lambda: sum(one.wanted for one in (each.progress() for each in launch.replacements)) == 2)
    for each in launch.replacements:
        each.result(10)
    sent = [p for name, p in zip(cloud.calls, cloud.parameters, strict=True) if name == "request_spot_instances"]
    assert sum(one["InstanceCount"] for one in sent) == 5
    assert len({one["ClientToken"] for one in sent}) == len(sent)
    assert {one["LaunchSpecification"]["InstanceType"] for one in sent} == {"t3.micro"}
    assert len(launch.machines) == 5
    assert len(launch.machines.up) == 3
    assert "3/3 × t3.micro up · 0 pending · 0 failed · 2 interrupted" in str(launch.progress())
    entries = [entry for entry in session.ledger.entries() if entry.operation == "request_spot_instances"]
    assert {entry.launch for entry in entries} == {str(launch.uuid), *(str(one.uuid) for one in launch.replacements)}


def test_a_replacement_that_is_interrupted_is_replaced_in_its_turn(fake_session, at_once):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 1, "true", on_interruption="replace", session=session)
    interrupt(cloud, session, launch, launch.result(10).succeeded[0])
    until(session, lambda: launch.replacements)
    second = launch.replacements[0]
    interrupt(cloud, session, second, second.result(10).succeeded[0])
    until(session, lambda: len(launch.replacements) == 2)
    launch.replacements[1].result(10)
    assert [one.state for one in launch.machines.values()] == [MachineState.INTERRUPTED, MachineState.INTERRUPTED, MachineState.READY]


@pytest.mark.parametrize("everything", [True, False])
def test_a_teardown_ends_replacements_too_and_begins_none(fake_session, at_once, monkeypatch, everything):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 2, "true", on_interruption="replace", session=session)
    first, second = launch.result(10).succeeded
    interrupt(cloud, session, launch, first)
    until(session, lambda: launch.replacements)
    monkeypatch.setattr(replacing, "GATHER_SECONDS", 30.0)  # the teardown comes before the next
    interrupt(cloud, session, launch, second)
    (teardown_all(session=session) if everything else teardown(launch)).result(10)
    until(session, lambda: launch._conductor.replacing._timer.cancelled())
    assert cloud.alive() == set()
    assert cloud.count("request_spot_instances") == 2


def test_a_function_is_told_of_the_machine_once_and_may_use_the_session(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    called, told = [], concurrent.futures.Future()

    def tell(machine):
        called.append(machine)
        told.set_result(bring_up_spots(REQUEST, 1, "true", session=session).result(10))
        raise ValueError("and then it breaks")

    launch = bring_up_spots(REQUEST, 2, "true", on_interruption=tell, session=session)
    first, second = launch.result(10).succeeded
    interrupt(cloud, session, launch, first)
    say(cloud, session, launch.uuid, first, phase=Phase.BEAT, state=Phase.INTERRUPTED, seq=10, taken_at=TAKEN)
    assert len(told.result(10).up) == 1
    assert called == [first]
    assert second.state is MachineState.READY


def test_a_recommendation_to_rebalance_is_shown_and_nothing_is_done(fake_session, at_once):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 1, "true", on_interruption="replace", session=session)
    [machine] = launch.result(10).succeeded
    say(cloud, session, launch.uuid, machine, phase=Phase.READY, rebalance=TAKEN)
    until(session, lambda: machine.rebalance)
    assert "rebalance recommended" in repr(machine)
    assert (machine.state, launch.replacements) == (MachineState.READY, [])


def test_a_policy_that_is_none_is_refused_before_anything_is_sent(fake_session):
    cloud = FakeAws()
    with pytest.raises(RequestInvalid, match="on_interruption"):
        bring_up_spots(REQUEST, 1, "true", on_interruption="panic", session=fake_session(cloud))
    assert cloud.calls == []


@pytest.mark.cloud
def test_a_machine_that_the_cloud_takes_back_saves_its_work_and_is_replaced(session, cloud, request_, wait_for, tmp_path):
    saved = tmp_path / "saved"
    line = f"trap 'echo $FLEETCTL_INSTANCE >>{saved}; exit 0' TERM; while :; do sleep 0.1; done"
    launch = bring_up_spots(request_, 1, line, on_interruption="replace", session=session)
    [first] = launch.result(60).succeeded
    cloud.fault("interruption", instance=first.instance_id, seconds=25)
    wait_for(lambda: launch.replacements)
    [second] = launch.replacements[0].result(60).succeeded
    assert first.state in (MachineState.INTERRUPTED, MachineState.GONE)
    assert second.instance_id != first.instance_id
    wait_for(saved.exists)
    assert saved.read_text() == f"{first.instance_id}\n"
    teardown_all(session=session).result(60)
    assert not {first.instance_id, second.instance_id} & {one["id"] for one in cloud.inventory()["instances"]}
