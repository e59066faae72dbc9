"""A machine's state stands on the machine: who has missed its reports looks there, also after its controller was killed."""

import os
import signal

import pytest

from fleetctl import bring_up_one_spot, teardown_all
from fleetctl.errors import MachineError
from fleetctl.launching import proving, readiness
from fleetctl.oversight.resuming import attach
from fleetctl.states import MachineState

pytestmark = pytest.mark.cloud
REPORTS = '*"phase"*'  # and not the probes


async def test_who_has_missed_a_report_looks_at_the_machine_and_its_launch_follows(session, cloud, request_, tmp_path, monkeypatch):
    machine = await bring_up_one_spot(request_, f"until test -e {tmp_path}/go; do sleep 0.1; done; exit 3", session=session)
    assert await machine.look() is MachineState.READY
    cloud.fault("message-lost", text=REPORTS)
    (tmp_path / "go").touch()
    while await machine.look() is not MachineState.FAILED:
        pass
    assert (machine.state, machine.exit_code) == (MachineState.FAILED, 3)
    with pytest.raises(MachineError, match="stands no report of launch"):
        await machine.run("rm ${FLEETCTL_STATE_DIR:-~/.fleetctl}/*/report")
        await machine.look()
    await teardown_all(session=session)


def test_a_killed_controller_s_machines_tell_another_one_where_they_are_although_no_report_comes(start, cloud, home, monkeypatch, tmp_path):
    process = start(f"""
        from fleetctl import bring_up_spots, connect
        session = connect("local")
        once = "mkdir {tmp_path}/first 2>/dev/null && until test -e {tmp_path}/go; do sleep 0.1; done && exit 3"
        request = {{"SpotPrice": "0.01", "LaunchSpecification": {{"InstanceType": "t3.micro"}}}}
        launch = bring_up_spots(request, 2, [once + " || sleep 1000"], session=session)
        launch.result()
        print(launch.uuid, flush=True)
        import time; time.sleep(1000)
    """)
    launch = process.stdout.readline().strip()
    assert launch, process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cloud.fault("message-lost", text=REPORTS)
    (tmp_path / "go").touch()
    monkeypatch.setattr(proving, "LOOKS", (0.2,))
    monkeypatch.setattr(readiness, "FORMER_CONSOLES", (0.0, 0.5))
    monkeypatch.setattr(readiness, "TRIES", (0.0, 0.5))
    attached = attach(launch, home=home, lifetime="session")
    try:
        machines = attached.result(60)
        assert len(machines) == 2
        while {one.look().result(20) for one in machines.values()} != {MachineState.READY, MachineState.FAILED}:
            pass
        [up] = machines.up
        assert up.run("echo here").result().stdout == "here\n"
    finally:
        cloud.clear_faults()
        attached.session.close()
