"""The main job: a server, a distributor and workers on machines, a grid reached through SSH alone, and nothing left of it."""

import base64
import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path

import asyncssh
import pytest

import gridworker
from fleetctl import bring_up_one_spot, bring_up_spots, commands, connect_grid, teardown_all
from fleetctl.errors import MachineError, RequestInvalid
from gridworker.bogosity import bogosity, without_nodes

pytestmark = pytest.mark.cloud

connected = None  # where this process connects to, while a test listens


def _listen(event, arguments):
    if event == "socket.connect" and connected is not None:
        connected.add(arguments[1] if isinstance(arguments[1], str) else arguments[1][:2])


sys.addaudithook(_listen)  # there is no way to take one back


@pytest.fixture
def connections():
    """Addresses that this process connects to: (host, port), or the path of a Unix socket."""
    global connected
    connected = set()
    yield connected
    connected = None


def told_of_processes():
    """Command lines and environments of all processes of this computer."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    yield Path(entry.path, name).read_bytes()


async def test_the_session_of_the_readme(session, cloud, oracle, request_, connections, caplog):
    caplog.set_level(logging.DEBUG, logger="fleetctl")
    server = await bring_up_one_spot(request_, commands.server(), session=session, subnet="public", itype="m3.medium", price=0.05)
    cheap = {"session": session, "subnet": "private", "itype": "t3.micro", "price": 0.01}
    dist = bring_up_spots(request_, 1, commands.distributor("pool", server, helper=100, log="debug"), **cheap)
    work = bring_up_spots(request_, 3, commands.worker(1, "pool", server, log="debug"), minutes=10, minimum=2, **cheap)
    await dist
    machines = await work
    grid = await connect_grid(server)
    assert len(machines.succeeded) >= 2

    calls = [(bogosity, 1, number, 3, 5, "a tag") for number in range(20)]
    results = await grid.requests("pool", calls)
    with gridworker.local():
        assert [without_nodes(one) for one in results] == [without_nodes(bogosity(0, *call[2:])) for call in calls]
    assert sum(grid.status().executed.values()) == 20 + 6, "20 jobs, and of their 300 sub-calls 6 that differ"
    assert grid.logs("debug")

    allowed = {("127.0.0.1", int(cloud.endpoint_url.rpartition(":")[2]))}
    allowed |= {(machine["ip"], machine["ssh_port"]) for machine in (server, *machines.values())}
    sockets = {Path(where) for where in connections if isinstance(where, str)}
    assert connections - {str(path) for path in sockets} <= allowed, "AWS, SSH, and nothing else"
    assert sockets
    assert {(path.parent.stat().st_mode & 0o777, path.parent.stat().st_uid) for path in sockets} == {(0o700, os.getuid())}

    secrets = [word.encode() for word in session.secret.split()]
    assert [where for where in told_of_processes() if any(word in where for word in secrets)] == []
    for word in secrets:
        assert word not in session.ledger.path.read_bytes()
        assert word.decode() not in caplog.text + repr(session) + repr(vars(session)) + repr(session.call)
    asked = [entry.request for entry in session.ledger.entries() if entry.operation == "request_spot_instances"]
    sent = [base64.b64decode(request["LaunchSpecification"]["UserData"]) for request in asked]
    assert len(sent) == 3
    assert not any(word in data for data in sent for word in secrets)

    receipt = await teardown_all(session=session)
    assert receipt.remaining == ()
    assert oracle.living() == set()
    assert [path for path in sockets if path.parent.exists()] == []
    with pytest.raises(gridworker.GridError):
        await grid.request("pool", bogosity, 1, 0, 0, 5, "after the end")


async def test_a_machine_whose_host_key_is_not_the_reported_one_is_refused(session, request_):
    machine = await bring_up_one_spot(request_, "sleep 1000", session=session)
    forward = await machine.forward(22)
    assert forward.path.is_socket()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    slot, true = machine._slot, machine._slot.report
    for key, words in ((other, "HostKeyNotVerifiable"), ("", "no SSH host key")):
        slot.report = dataclasses.replace(true, ssh_key=key)
        with pytest.raises(MachineError, match=words):
            await machine.forward(22)
    slot.report = true
    await teardown_all(session=session)
    assert not forward.path.parent.exists()
    with pytest.raises(MachineError, match="no SSH to"):
        await machine.forward(22)


async def test_a_forward_that_fails_leaves_no_directory(session, request_, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    machine = await bring_up_one_spot(request_, "sleep 1000", session=session)
    session.key_file = tmp_path / "no-such-key"
    with pytest.raises(MachineError):
        await machine.forward(22)
    assert list(tmp_path.iterdir()) == []


def test_commands_need_a_server_that_is_there(session):
    with pytest.raises(RequestInvalid, match="await its launch first"):
        commands.worker(1, "pool", "10.0.0.1")
    with pytest.raises(RequestInvalid, match="helper"):
        commands.distributor("pool", "10.0.0.1", helper=0)
