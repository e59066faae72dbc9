"""The lines that start gridworker's processes: run by a real bash, with a real server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleetctl import RequestInvalid, commands
from gridworker.server import find


@pytest.fixture
def machine(tmp_path):
    """What the boot script gives to the commands of a machine, at an address that nothing else uses."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(find())
    (tmp_path / "secret").write_text(f"5ec2e7 {'4e' * 16}\n")
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "FLEETCTL_IP": "127.0.0.1",
        "FLEETCTL_RUN": str(tmp_path),
        "GRIDWORKER_SECRET_FILE": str(tmp_path / "secret"),
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def bash(script, machine):
    return subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], env=machine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def serve(program, machine):
    """The server's process once it accepts connections; its log says when."""
    server = bash(program.lines[0], machine)
    for line in server.stdout:
        if b"Ready to accept connections" in line:
            return server
    raise AssertionError("the server ended")


@pytest.mark.parametrize("durable", [False, True])
def test_a_server_answers_the_check_and_appends_to_a_file_only_if_durable(machine, tmp_path, durable):
    program = commands.server(port=free_port(), durable=durable)
    server = serve(program, machine)
    try:
        check = bash(program.check, machine)
        assert check.wait(30) == 0, check.stdout.read()
        assert (tmp_path / "appendonlydir").exists() is durable
        assert b"5ec2e7" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert (tmp_path / "server.conf").stat().st_mode & 0o077 == 0
        check.stdout.close()
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()


def test_the_check_fails_where_the_password_is_wrong_or_nothing_listens(machine, tmp_path):
    program = commands.server(port=free_port())
    nothing = bash(program.check, machine)
    assert nothing.wait(30) != 0
    nothing.stdout.close()
    server = serve(program, machine)
    try:
        (tmp_path / "secret").write_text("bad 4e1\n")
        wrong = bash(program.check, machine)
        assert wrong.wait(30) != 0
        wrong.stdout.close()
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: commands.server(port=0), "port"),
        (lambda: commands.worker(1, "pool", "10.0.0.1"), "await its launch first"),
        (lambda: commands.distributor("pool", None, helper=0), "helper"),
        (lambda: commands.worker(True, "pool", None), "n is a whole number"),
    ],
)
def test_wrong_arguments_are_refused_in_words(make, words):
    with pytest.raises(RequestInvalid, match=words):
        make()


@pytest.fixture
def head(machine, tmp_path):
    """A server with a distributor beside it, both up; every process of it ends with the test."""
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    program = commands.server(port=free_port(), distributor="pool,other")
    script = ["bash", "-euo", "pipefail", "-c", program.lines[0]]
    env = {**machine, "PYTHONPATH": str(Path(__file__).parents[1])}
    head = subprocess.Popen(script, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while True:
            check = bash(program.check, machine)
            said = check.communicate(timeout=30)
            if not check.returncode:
                break
            assert head.poll() is None, said
        yield head
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait(30)


def beside(head, word):
    """The process of the head's own whose command line has that word; None once it has ended."""
    for pid in Path(f"/proc/{head.pid}/task/{head.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return None


def test_a_distributor_beside_the_server_may_leave_it(head):
    os.kill(beside(head, b"--distributor"), signal.SIGTERM)
    while beside(head, b"--distributor"):
        assert head.poll() is None
    assert head.poll() is None
    os.kill(beside(head, b"-server"), signal.SIGTERM)
    assert head.wait(30) == 0


@pytest.mark.parametrize("which", [b"--distributor", b"-server"])
def test_where_the_server_or_its_distributor_breaks_the_commands_fail(head, which):
    os.kill(beside(head, which), signal.SIGKILL)
    assert head.wait(30) == 128 + signal.SIGKILL
