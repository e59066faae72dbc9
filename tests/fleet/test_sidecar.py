"""When a session's process is killed, its sidecar applies the exit policy. Real processes and kernels, killed by SIGKILL.

What counts is the cloud's own inventory and the system's processes, never what the sidecar says.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fleetctl.ledger import sessions
from fleetctl.oversight import abandoned
from fleetctl.upkeep.guard import Guard

pytestmark = pytest.mark.cloud

BEGIN = """
    import os, sys, time
    from fleetctl import bring_up_spots, connect
    session = connect("local")
    request = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}}
    def up(n, **options):
        return bring_up_spots(request, n, "sleep 1000", **options).result(60)
    def show():
        print(session.id, session._guard.process.pid, os.getpid(), flush=True)
"""


@pytest.fixture
def guarded(environment, start):
    """Starts a script that has a sidecar; returns the process, and the session and the sidecar as soon as its machines are up."""
    del environment["FLEETCTL_SIDECAR"]

    def make(script):
        process = start(textwrap.dedent(BEGIN) + textwrap.dedent(script))
        session, sidecar, _ = process.stdout.readline().split()
        return process, session, int(sidecar)

    return make


@pytest.fixture
def ours(cloud):
    """The living instances of a session, by its tags."""
    return lambda session: {one["id"] for one in cloud.inventory()["instances"] if one["tags"].get("fleetctl:session") == session}


@pytest.fixture
def left(cloud, ours):
    """All that a session has in the cloud."""

    def look(session):
        inventory = cloud.inventory()
        named = [name for kind in ("queues", "topics") for name in inventory[kind] if session in str(name)]
        return {*ours(session), *named}

    return look


def ended(home, session):
    [record] = [one for one in sessions(home / "ledgers") if one.id == session]
    return record.ended is not None


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_scripts_session_is_torn_down(guarded, home, left, ours, wait_for):
    process, session, sidecar = guarded("up(2); show(); time.sleep(600)")
    assert len(ours(session)) == 2
    process.kill()
    wait_for(lambda: ended(home, session), 100)
    assert left(session) == set()
    wait_for(lambda: not runs(sidecar))
    assert "all seen gone" in (home / "sidecars" / f"{session}.log").read_text()


def test_what_could_not_be_ended_at_first_is_ended_later(guarded, home, left, ours, near, wait_for):
    process, session, sidecar = guarded("up(1); show(); time.sleep(600)")
    [machine], ec2 = ours(session), near.way.boto3().client("ec2")
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": True})
    process.kill()
    log = home / "sidecars" / f"{session}.log"
    wait_for(lambda: "NOT proved gone" in log.read_text(), 60)
    assert runs(sidecar)
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": False})
    wait_for(lambda: ended(home, session), 60)
    assert left(session) == set()
    wait_for(lambda: not runs(sidecar))


def test_a_launch_whose_lifetime_is_the_fuse_is_left_and_the_others_are_not(guarded, ours, home, wait_for):
    process, session, sidecar = guarded("""
        kept, other = up(1, lifetime="fuse"), up(1)
        show()
        print(*(one.instance_id for one in (*kept.succeeded, *other.succeeded)), flush=True)
        time.sleep(600)
    """)
    kept, other = process.stdout.readline().split()
    process.kill()
    wait_for(lambda: not runs(sidecar), 60)
    assert ours(session) == {kept}
    assert other not in ours(session)
    assert abandoned.down(home)[0].remaining == ()


def test_a_script_that_ends_leaves_what_its_lifetime_says_and_no_sidecar(guarded, ours, home, wait_for):
    process, session, sidecar = guarded('kept, _ = up(1, lifetime="fuse"), up(1); show(); print(kept.succeeded[0].instance_id, flush=True)')
    kept = process.stdout.readline().strip()
    assert process.wait(60) == 0
    assert ours(session) == {kept}
    assert not runs(sidecar)
    assert not (home / "sidecars" / f"{session}.log").exists(), "it had nothing to say"
    assert abandoned.down(home)[0].remaining == ()


def test_a_session_that_ends_well_dismisses_its_sidecar(guarded, left, home, wait_for):
    process, session, sidecar = guarded("up(1); show(); session.close(); print('closed', flush=True); time.sleep(600)")
    assert process.stdout.readline() == "closed\n"
    assert not runs(sidecar)
    assert ended(home, session)
    assert left(session) == set()
    assert list((home / "sidecars").glob(f"{session}*")) == []


def test_neither_the_terminals_hangup_nor_ctrl_c_reaches_the_sidecar(guarded, home, left, wait_for):
    process, session, sidecar = guarded("up(1); show(); time.sleep(600)")
    assert os.getsid(sidecar) == sidecar != os.getsid(process.pid)
    process.send_signal(signal.SIGHUP)  # its default: the process dies without a word
    wait_for(lambda: ended(home, session), 100)
    assert left(session) == set()


@pytest.mark.parametrize("how", ["os.fork()", "multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,)).start()"])
def test_a_forked_child_that_lives_on_keeps_neither_the_pipe_nor_the_ledger(guarded, home, left, wait_for, how):
    process, session, _ = guarded(f"""
        import multiprocessing
        up(1)
        parent = os.getpid()
        {how}
        if os.getpid() == parent:
            show()
            print(*(word for word in os.popen(f"ps -o pid= --ppid {{parent}}").read().split()), flush=True)
        time.sleep(600)
    """)
    children = [int(one) for one in process.stdout.readline().split()]
    try:
        process.kill()
        wait_for(lambda: ended(home, session), 60)
        assert left(session) == set(), (home / "sidecars" / f"{session}.log").read_text()
    finally:
        for child in children:
            if runs(child):
                os.kill(child, signal.SIGKILL)


def test_a_session_without_launches_starts_none(environment, start):
    del environment["FLEETCTL_SIDECAR"]
    process = start(textwrap.dedent(BEGIN) + "print(session._guard)")
    assert process.communicate(timeout=60)[0].strip() == "None"


def test_a_waiting_sidecar_is_a_bare_interpreter(tmp_path):
    guard = Guard.start("s", tmp_path)
    try:
        def mapped():
            return Path(f"/proc/{guard.process.pid}/maps").read_text()

        until = time.monotonic() + 20
        while "libpython" not in mapped() and "python" not in mapped():
            assert time.monotonic() < until
        assert "botocore" not in mapped() and "_sqlite3" not in mapped() and "_ssl" not in mapped()
        assert repr(guard) == f"<sidecar {guard.process.pid}, standing by>"
    finally:
        guard.dismiss()
    assert guard.process.poll() == 0
    assert list((tmp_path / "sidecars").iterdir()) == []


def test_where_no_process_can_be_started_the_session_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert Guard.start("s", tmp_path) is None
    assert "end by their fuses alone" in caplog.text


def test_a_killed_notebook_kernels_session_is_torn_down(environment, home, left, ours, wait_for, monkeypatch):
    manager_of = pytest.importorskip("jupyter_client").KernelManager
    del environment["FLEETCTL_SIDECAR"]
    manager = manager_of()
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    said = []
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(
            textwrap.dedent(BEGIN) + "up(2); show()", timeout=90,
            output_hook=lambda message: said.append(message["content"].get("text", "")) if message["msg_type"] == "stream" else None,
        )
        session, sidecar, _ = next(line for line in "".join(said).splitlines() if line.count(" ") == 2).split()
        assert len(ours(session)) == 2
        manager.shutdown_kernel(now=True)  # what "restart" and "shut down" in a notebook come to: SIGKILL to the kernel's group
        wait_for(lambda: ended(home, session), 60)
        assert left(session) == set(), (home / "sidecars" / f"{session}.log").read_text()
        wait_for(lambda: not runs(int(sidecar)))
    finally:
        client.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
