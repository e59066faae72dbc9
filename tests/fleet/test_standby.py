"""A free list on a real cloud: handed out at once, refilled behind, cleaned, replaced when lost, gone on with, ended."""

import asyncio
import threading

import pytest
from fake_aws import REQUEST, FakeAws, nothing, refusal

from fleetctl import Standby, attach, bring_up_one_spot, teardown_all
from fleetctl.errors import BadRequest, CommandFailed, FleetError, RequestInvalid
from fleetctl.launching import proving, readiness
from fleetctl.session import Session
from fleetctl.states import MachineState

pytestmark = pytest.mark.cloud


async def until(condition, what, seconds=60.0):
    """The first true value of the condition, looked at often: a list tells of no event what a test wants to see of it."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"waited {seconds} s for: {what}"
        await asyncio.sleep(0.02)
    return value


async def test_a_machine_is_handed_out_configured_and_another_comes_behind(session, oracle, request_):
    async with Standby(request_, 1, configure=["echo tuned > tuned", ("touch", "two words")], session=session) as standby:
        first = await standby.take()
        assert (await first.run("cat tuned; ls two*")).stdout == "tuned\ntwo words\n"
        second = await standby.take()
        assert second != first
        assert standby.taken == [first, second]
        assert "2 taken" in repr(standby)
        with pytest.raises(TimeoutError):
            await standby.take(timeout=0.001)
        assert len(oracle.living()) >= 2
    assert oracle.living() == set()
    with pytest.raises(FleetError, match="closed"):
        await standby.take()
    with pytest.raises(FleetError, match="closed"):
        await standby.full()


async def test_a_machine_that_is_given_back_is_cleaned_and_one_left_in_disorder_is_ended(session, oracle, request_):
    async with Standby(request_, 1, clean=["rm -f left"], most=2, session=session) as standby:
        async with standby.lend() as machine:
            await machine.run("touch left")
            other = await until(lambda: standby.free, "another comes")
        await until(lambda: machine.state is MachineState.GONE or other[0].state is MachineState.GONE, "one is enough")
        with pytest.raises(ZeroDivisionError):
            async with standby.lend() as machine:
                assert (await machine.run("ls")).stdout == ""
                raise ZeroDivisionError
        await until(lambda: machine.state is MachineState.GONE, "nobody gets what it has left")
        with pytest.raises(RequestInvalid, match=r"is (leaving|gone)"):
            standby.give_back(machine)


async def test_a_machine_that_has_died_is_not_handed_out(session, oracle, request_):
    async with Standby(request_, 1, session=session) as standby:
        await standby.full()
        [machine] = standby.free
        session.boto3().client("ec2").terminate_instances(InstanceIds=[machine.instance_id])
        await until(lambda: machine.instance_id not in oracle.living(), "its end")
        assert (await standby.take()) != machine


async def test_what_is_let_go_cannot_be_taken_any_more(session, request_):
    async with Standby(request_, 1, session=session) as standby:
        await standby.full()
        [machine] = standby.free

        async def let_go():  # and nothing else of this list runs in between
            standby._let_go([standby._members[machine.instance_id]])
            return standby.free

        assert await session.submit(let_go(), "letting go") == []
        assert (await standby.take()) != machine


async def test_what_makes_configuring_fail_is_told_to_who_waits_and_its_machine_is_ended(session, oracle, request_):
    async with Standby(request_, 1, configure=["echo no such licence >&2; exit 3"], session=session) as standby:
        with pytest.raises(CommandFailed, match="no such licence"):
            await standby.take()
        await until(lambda: not oracle.living(), "nothing is left of it")


async def test_an_unused_list_ends_its_machines_and_the_next_who_wants_one_gets_one(session, oracle, request_):
    async with Standby(request_, 1, idle_hours=1e-9, session=session) as standby:
        await asyncio.sleep(0)
        assert oracle.living() == set()
        standby.idle_hours = 1.0
        standby._used = 0.0  # as after a long while
        await standby.full()
        machine = await standby.take()
        await standby.give_back(machine)
        standby.idle_hours = 1e-9
        await until(lambda: machine.state is MachineState.GONE, "its end")


async def test_another_process_goes_on_with_the_list(cloud, home, request_, session):
    session.close()
    former = Session(session.profile)
    standby = Standby(request_, 1, session=former)
    taken = await standby.take()
    [free] = await until(lambda: standby.free, "another")
    launch = standby._launches[0].uuid
    former.leave()
    attached = attach(launch, home=former.profile.home)
    try:
        for one in attached.session.launches:
            await asyncio.wrap_future(one.future)
        again = Standby(request_, 1, session=attached.session)
        assert [one.instance_id for one in again.taken] == [taken.instance_id]
        assert [one.instance_id for one in again.free] == [free.instance_id]
        assert (await again.take()).instance_id == free.instance_id
        receipt = await again.close()
        assert receipt.remaining == ()
    finally:
        attached.session.close()


def test_a_wrong_list_is_refused_before_anything_costs(session, request_):
    for wrong, words in (({"size": 0}, "size"), ({"most": True}, "most"), ({"itype": 7}, "itype"), ({"configure": [b"x"]}, "command")):
        with pytest.raises(RequestInvalid, match=words):
            Standby(request_, session=session, **wrong)
    assert session.launches == []


async def test_a_name_is_used_once_in_a_session(session, request_):
    async with Standby(request_, 1, session=session, name="mine"):
        with pytest.raises(RequestInvalid, match="has a list 'mine' already"):
            Standby(request_, 1, session=session, name="mine")
    await teardown_all(session=session)


async def test_a_list_waits_for_its_machines_in_the_way_that_it_is_told(session, cloud, request_, monkeypatch):
    monkeypatch.setattr(readiness, "CONSOLES", (0.2,))
    monkeypatch.setattr(proving, "LOOKS", (0.2,))
    monkeypatch.setattr(proving, "WAIT_SECONDS", 0.1)
    door = await bring_up_one_spot(request_, "sleep 1000", session=session)
    cloud.fault("message-lost", share=1.0, seed=1)  # so that nothing but SSH can tell
    async with Standby(request_, 1, ready="test -d /tmp", via=door, session=session) as standby:
        machine = await standby.take()
        assert machine.via is door
        assert (await machine.run("echo here")).stdout == "here\n"
    await teardown_all(session=session)


def test_who_wants_a_machine_during_a_teardown_of_everything_gets_none_and_makes_none(fake_session, wait_for):
    session = fake_session(FakeAws(fill=1e6))
    reached, held = threading.Event(), asyncio.Event()

    async def refused(service, operation, parameters):
        if operation == "request_spot_instances":
            raise refusal(BadRequest, service, operation, "InvalidParameterValue")

    async def slow():
        reached.set()
        await held.wait()

    session.aws.before = refused
    standby = Standby(REQUEST, 1, session=session)
    wait_for(lambda: "InvalidParameterValue" in repr(standby))
    session.aws.before = nothing
    session.before_end(slow)
    ending = teardown_all(session=session)
    assert reached.wait(20)
    taking = standby.take()
    session.loop.call_soon_threadsafe(held.set)
    assert ending.result(30).remaining == ()
    with pytest.raises(FleetError, match="closed"):
        taking.result(20)
    assert len(session.launches) == 1
    assert session.aws.left() == set()
