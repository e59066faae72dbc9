"""Machines come up because they say so themselves; whatever goes wrong is told at once, with the reason, and leaves nothing behind."""

import asyncio
import threading
import time

import pytest
from fake_aws import REQUESTS, FakeAws

from fleetctl import (
    LaunchFailed,
    NeverReported,
    Program,
    RequestInvalid,
    ScriptFailed,
    bring_up_one_spot,
    bring_up_spots,
    shapes,
    teardown,
    teardown_all,
)
from fleetctl.errors import LaunchCancelled, ProfileError, TooFewMachines
from fleetctl.lifecycle import LaunchState, MachineState

pytestmark = pytest.mark.cloud


@pytest.mark.parametrize("call", REQUESTS)
def test_user_data_of_ones_own_is_refused_for_it_would_be_lost(fake_session, call):
    session = fake_session(FakeAws())
    with pytest.raises(RequestInvalid, match="give its lines as the commands"):
        bring_up_spots(REQUESTS[call], 1, "true", session=session, udata="#!/bin/sh\ntouch /there\n")
    own = shapes.apply(REQUESTS[call], udata="#!/bin/sh\ntouch /there\n")
    for ready in ("reported", "ssh"):
        with pytest.raises(RequestInvalid, match="user data"):
            bring_up_spots(own, 1, "true", session=session, ready=ready)
    assert session.aws.calls == [] and session.launches == []


async def test_machines_are_up_when_they_have_said_so(session, oracle, request_):
    machines = await bring_up_spots(request_, 3, "sleep 1000", session=session)
    assert len(machines.succeeded) == 3
    assert not machines.failed
    assert set(machines) == {machine.request_id for machine in machines.values()}
    one = machines.succeeded[0]
    assert one.state is MachineState.READY
    assert one["ip"] == one.ip
    assert one.ip.startswith("127.")
    assert one.ssh_key.startswith("ssh-ed25519 ")
    assert one.price == 0.0031
    assert oracle.living() == {machine.instance_id for machine in machines.values()}


async def test_a_bring_up_and_a_teardown_stay_within_the_budget_of_calls(session, oracle, request_):
    began = time.monotonic()
    await bring_up_spots(request_, 20, "true", session=session)
    waits = int((time.monotonic() - began) // 30)
    assert sum(oracle.ec2_calls().values()) <= 6 + waits, oracle.ec2_calls()
    before = sum(oracle.ec2_calls().values())
    receipt = await teardown_all(session=session)
    assert receipt.remaining == ()
    assert sum(oracle.ec2_calls().values()) - before <= 6, oracle.ec2_calls()


async def test_instances_and_volumes_bear_the_tags_of_their_launch(session, request_):
    launch = bring_up_one_spot(request_, "true", session=session, tags={"project": "tide"})
    machine = await launch
    ec2 = session.boto3().client("ec2")
    [reservation] = ec2.describe_instances(InstanceIds=[machine.instance_id])["Reservations"]
    tags = {tag["Key"]: tag["Value"] for tag in reservation["Instances"][0]["Tags"]}
    assert tags["fleetctl:session"] == session.id
    assert tags["fleetctl:launch"] == str(launch.uuid)
    assert tags["fleetctl:expires"].endswith("Z")
    assert tags["project"] == "tide"


async def test_one_spot_is_the_machine_itself(session, request_):
    machine = await bring_up_one_spot(request_, ["cd /", "true"], session=session, itype="m3.medium", price="0.05", subnet="public")
    assert machine.type == "m3.medium"
    assert machine.public_ip == machine.ip, "in the public subnet of the local cloud"


async def test_a_failing_command_is_told_with_exit_code_and_the_end_of_its_log_long_before_the_deadline(session, oracle, request_):
    launch = bring_up_spots(request_, 2, ["echo first", "echo nonsense >&2; exit 7", "sleep 1000"], minutes=30, session=session)
    with pytest.raises(ScriptFailed) as caught:
        await launch
    assert caught.value.exit_code == 7
    assert "nonsense" in str(caught.value)
    assert caught.value.left == ()
    assert len(caught.value.machines) == 2
    await teardown_all(session=session)
    assert oracle.living() == set()


async def test_partial_failure_is_a_value_where_the_minimum_is_up(session, request_, tmp_path):
    once = f"mkdir {tmp_path}/taken 2>/dev/null && exit 3"
    machines = await bring_up_spots(request_, 3, [f"{once} || true; [[ $? == 0 ]]", "sleep 1000"], minimum=2, session=session)
    assert len(machines.succeeded) + len(machines.failed) == 3
    assert len(machines.succeeded) >= 2


async def test_at_the_deadline_below_the_minimum_everything_is_ended_and_the_error_says_what_was_silent(session, cloud, oracle, request_):
    cloud.fault("never-boots", type="t3.micro")
    with pytest.raises(NeverReported, match="2 ran but never reported") as caught:
        await bring_up_spots(request_, 2, "true", minutes=0.1, session=session)
    assert caught.value.left == ()
    await teardown_all(session=session)
    assert oracle.living() == set()


async def test_at_the_deadline_with_the_minimum_up_the_rest_is_cancelled(session, cloud, oracle, request_):
    cloud.fault("never-boots", type="t3.micro", times=1)
    launch = bring_up_spots(request_, 3, "sleep 1000", minimum=2, minutes=0.3, session=session)
    assert len((await launch.enough()).succeeded) >= 2
    machines = await launch
    assert len(machines.succeeded) == 2
    assert len(machines.failed) == 1
    await teardown(launch, session=session)
    assert oracle.living() == set()


async def test_without_capacity_the_error_names_the_status_of_the_requests(session, cloud, request_):
    cloud.fault("capacity", type="t3.micro")
    with pytest.raises(TooFewMachines, match="capacity-not-available"):
        await bring_up_spots(request_, 1, "true", minutes=0.1, session=session)


async def test_lost_duplicate_garbled_and_late_reports_change_nothing(session, cloud, request_):
    cloud.fault("message-lost", share=0.5, seed=1, times=3)
    cloud.fault("message-garbled", share=0.5, seed=3, times=3)
    cloud.fault("message-duplicated", share=0.5, seed=2)
    cloud.fault("message-late", share=0.3, seed=4, seconds=0.5)
    machines = await bring_up_spots(request_, 5, "sleep 1000", minutes=2, session=session)
    assert len(machines.succeeded) == 5


async def test_machines_arrive_one_by_one(session, request_):
    launch = bring_up_spots(request_, 3, "sleep 1000", session=session)
    seen = [machine.instance_id async for machine in launch]
    assert sorted(seen) == sorted(m.instance_id for m in (await launch).succeeded)
    assert [m async for m in launch], "an iteration that begins late sees them all"


async def test_a_waiter_that_gives_up_leaves_the_launch_running_and_says_so(session, cloud, request_, capsys):
    cloud.fault("fulfil-delay", seconds=1)
    launch = bring_up_spots(request_, 1, "true", session=session)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(launch, 0.05)
    assert "goes on" in capsys.readouterr().err
    assert not launch.done()
    assert len((await launch).succeeded) == 1


async def test_cancelling_ends_everything_of_the_launch(session, oracle, request_):
    launch = bring_up_spots(request_, 2, "sleep 1000", session=session)
    await launch.cancel()
    with pytest.raises(LaunchCancelled):
        await launch
    await teardown_all(session=session)
    assert oracle.living() == set()


def test_the_same_future_can_be_blocked_on_where_no_loop_runs(session, request_):
    launch = bring_up_spots(request_, 1, "true", session=session)
    assert len(launch.result(60).succeeded) == 1
    assert "1/1 × t3.micro up" in repr(launch)
    assert teardown_all(session=session).result(60).remaining == ()


def test_the_same_future_can_be_awaited_from_several_loops_at_once_uvloop_too(session, request_):
    uvloop = pytest.importorskip("uvloop")
    launch = bring_up_spots(request_, 1, "true", session=session)
    got = []

    async def wait():
        got.append(len((await launch).succeeded))

    threads = [threading.Thread(target=asyncio.run, args=(wait(),)), threading.Thread(target=uvloop.run, args=(wait(),))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [1, 1]


async def test_a_cell_that_computes_delays_nothing(session, request_):
    launch = bring_up_spots(request_, 1, "true", session=session)
    arrived = threading.Event()
    launch.add_done_callback(lambda _: arrived.set())
    assert arrived.wait(60), "the waiter's own loop was blocked all the time"
    assert launch.done()


async def test_two_sessions_at_once_never_disturb_each_other(connect, cloud, request_):
    one, other = connect(), connect()
    first, second = (bring_up_spots(request_, 2, "sleep 1000", session=each) for each in (one, other))
    await first
    await second
    assert one._belongings.channel.value.demultiplexer.counts["unknown"] == 0
    assert other._belongings.channel.value.demultiplexer.counts["unknown"] == 0
    await teardown_all(session=one)
    living = {i["id"] for i in cloud.inventory()["instances"]}
    assert {m.instance_id for m in (await second).values()} <= living
    again = await bring_up_one_spot(request_, "true", session=other)
    assert again.state is MachineState.READY


async def test_tearing_one_launch_down_leaves_the_others_alone(session, oracle, request_):
    kept, ended = (bring_up_spots(request_, 1, "sleep 1000", session=session) for _ in range(2))
    await kept
    await ended
    receipt = await teardown(ended, session=session)
    assert {line.thing for line in receipt.found} == {"spot request", "instance"}
    assert oracle.living() == {m.instance_id for m in (await kept).values()}
    assert ended.progress().state is LaunchState.ENDED


async def test_a_teardown_of_everything_touches_nothing_of_others(session, cloud, request_):
    ec2 = session.boto3().client("ec2")
    reservation = ec2.run_instances(ImageId=session.profile.image, MinCount=1, MaxCount=1, InstanceType="t3.micro")
    foreign = reservation["Instances"][0]["InstanceId"]
    await bring_up_one_spot(request_, "true", session=session)
    receipt = await teardown_all(session=session)
    assert foreign not in {line.id for line in receipt.found}
    assert foreign in {one["id"] for one in cloud.inventory()["instances"]}
    ec2.terminate_instances(InstanceIds=[foreign])


async def test_after_a_teardown_a_session_can_begin_anew(session, request_):
    secretive = Program(("true",), secret=True)
    await bring_up_one_spot(request_, secretive, session=session)
    first = await teardown_all(session=session)
    await bring_up_one_spot(request_, secretive, session=session)
    second = await teardown_all(session=session)
    assert [line.thing for line in second.found].count("parameter") == 1
    names = [one["Name"] for one in session.boto3().client("ssm").describe_parameters()["Parameters"]]
    assert not [name for name in names if session.id in name], "the oracle is what the cloud has, not the receipt"
    assert not {line.id for line in first.found if line.thing == "instance"} & {line.id for line in second.found}


async def test_a_teardown_while_a_launch_is_still_asking_ends_that_too(session, oracle, request_):
    launch = bring_up_spots(request_, 3, "sleep 1000", session=session)
    receipt = await teardown_all(session=session)
    assert receipt.remaining == ()
    assert isinstance(launch.exception(10), LaunchFailed)
    assert oracle.living() == set()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"itype": 3}, RequestInvalid, "itype"),
        ({"colour": "red"}, RequestInvalid, "colour"),
        ({"price": float("nan")}, RequestInvalid, "price"),
        ({"subnet": "nowhere"}, ProfileError, "nowhere"),
        ({"n": 0}, RequestInvalid, "n is the number"),
        ({"minimum": 9}, RequestInvalid, "minimum"),
        ({"minutes": 0}, RequestInvalid, "minutes"),
        ({"lifetime": "forever"}, RequestInvalid, "lifetime"),
        ({"cmds": []}, RequestInvalid, "commands"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(session, oracle, request_, change, error, words):
    given = {"n": 1, "cmds": "true", **change}
    with pytest.raises(error, match=words):
        bring_up_spots(request_, given.pop("n"), given.pop("cmds"), session=session, **given)
    assert oracle.ec2_calls() == {}


async def test_what_aws_refuses_is_the_error_and_leaves_nothing(session, request_):
    with pytest.raises(Exception, match=r"InvalidAMIID\.NotFound") as caught:
        await bring_up_spots(request_, 1, "true", image="ami-0123456789abcdef0", session=session)
    assert caught.value.left == ()
