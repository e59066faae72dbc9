"""Scripts, as people write them: whatever way they end, no machine of theirs goes on, and they say so."""

import signal
import textwrap

import pytest

pytestmark = pytest.mark.cloud

BEGIN = """
import asyncio, os, sys, threading, time
from fleetctl import bring_up_one_spot, bring_up_spots, connect, current, teardown_all
request = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}}
"""
UP = """
connect("local")
machine = bring_up_one_spot(request, "sleep 1000").result(60)
print(current().id, machine.instance_id, flush=True)
"""
COMPLAINTS = ("Warning", "unclosed", "Unclosed", "was destroyed", "never retrieved", "never awaited", "Exception ignored")


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def left_of(cloud, session):
    """What the cloud has of one session."""
    inventory = cloud.inventory()
    named = [*inventory["queues"], *inventory["topics"], *inventory["subscriptions"], *inventory["parameters"]]
    tagged = [one["id"] for one in inventory["instances"] if one["tags"].get("fleetctl:session") == session]
    return [*(name for name in named if session in name), *tagged]


def test_a_script_that_just_ends_ends_its_machines_and_says_so(start, cloud, living):
    status, out, err = finish(start(BEGIN + UP, "-X", "dev", "-W", "error"))
    session, instance = out.split()
    assert status == 0
    assert f"<session {session} on local" in err
    assert "ends with this process: tearing down" in err
    assert "all seen gone" in err
    assert instance not in living()
    assert left_of(cloud, session) == []
    assert [word for word in COMPLAINTS if word in err] == []


def test_a_script_that_fails_shows_its_error_and_ends_its_machines(start, cloud, living):
    status, out, err = finish(start(BEGIN + UP + "raise ValueError('of the script')"))
    session, instance = out.split()
    assert status == 1
    assert "ValueError: of the script" in err
    assert "all seen gone" in err
    assert instance not in living()
    assert left_of(cloud, session) == []


def test_a_script_that_tears_down_itself_hears_nothing_more_and_leaves_no_complaint(start, cloud):
    script = """
    async def main():
        connect("local")
        launch = bring_up_spots(request, 2, "sleep 1000")
        async for machine in launch:
            print(machine.instance_id)
        await launch
        print(current().id)
        receipt = await teardown_all()
        assert not receipt.remaining

    asyncio.run(main(), debug=False)
    """
    status, out, err = finish(start(BEGIN + textwrap.dedent(script), "-X", "dev", "-W", "error"))
    assert status == 0, err
    assert "tearing down" not in err
    assert [word for word in COMPLAINTS if word in err] == []
    assert left_of(cloud, out.split()[-1]) == []


@pytest.mark.parametrize("waiting", ["launch.result()", "asyncio.run(wait())"])
def test_ctrl_c_while_a_script_waits_ends_what_it_asked_for(start, cloud, living, waiting):
    cloud.fault("fulfil-delay", seconds=600, type="m3.medium")
    script = """
    session = connect("local")
    launch = bring_up_spots(request, 2, "true", itype="m3.medium", price=0.05)

    async def wait():
        await launch

    def tell():
        while launch.progress().state != "waiting":
            time.sleep(0.005)
        print(session.id, *launch.machines, flush=True)

    threading.Thread(target=tell).start()
    """
    process = start(BEGIN + textwrap.dedent(script) + waiting, "-X", "dev")
    session, *requests = process.stdout.readline().split()
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert ("cancelling <launch" if waiting == "launch.result()" else "goes on") in err
    assert "all seen gone" in err
    states = {one["id"]: one["state"] for one in cloud.inventory()["spot_requests"]}
    assert {states[one] for one in requests} == {"cancelled"}
    assert left_of(cloud, session) == []
    assert [word for word in COMPLAINTS if word in err] == []


def test_a_verb_without_a_session_says_how_to_get_one(start):
    status, _, err = finish(start(BEGIN + "bring_up_one_spot(request, 'true')"))
    assert status == 1
    assert err.rstrip().endswith('call connect("local"), connect("aws") or connect("name of a profile") first')
    assert "NotConnected: there is no session yet" in err


def test_a_forked_child_ends_nothing_of_its_parent(start, living):
    script = """
    if os.fork() == 0:
        sys.exit()
    os.wait()
    ec2 = current().boto3().client("ec2")
    [reservation] = ec2.describe_instances(InstanceIds=[machine.instance_id])["Reservations"]
    print(reservation["Instances"][0]["State"]["Name"])
    """
    status, out, err = finish(start(BEGIN + UP + textwrap.dedent(script)))
    assert status == 0, err
    assert out.split()[-1] == "running"
    assert out.split()[1] not in living()
