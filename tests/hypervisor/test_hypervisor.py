"""The hypervisor itself: many instances at once, and nothing left however it ends."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from fleetctl.local.hypervisor import Boot, Hypervisor

HOST = """
import sys, threading, uuid
from pathlib import Path
from fleetctl.local.hypervisor import Boot, Hypervisor
root, mark, contain, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "contained", 3
up = threading.Semaphore(0)
hypervisor = Hypervisor(root, mark, on_exit=lambda *_: None, credentials=lambda role: {}, contain=contain,
                        on_running=lambda _: up.release())
fifo = root / "ready"
for n in range(count):
    script = f"#!/bin/bash\\n(trap '' HUP TERM; setsid sleep 1000 &)\\nnohup sleep 1000 &\\necho up > {fifo}{n}\\nexec sleep 1000\\n"
    import os; os.mkfifo(f"{fifo}{n}")
    hypervisor.boot(Boot(f"i-{n}", hypervisor.address(), "t3.micro", "z", "r", "ami", script.encode(), (), None))
for n in range(count):
    up.acquire()
    open(f"{fifo}{n}").read()
print(*hypervisor.running().values(), flush=True)
threading.Event().wait()
"""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def all_end(fds: list[int], within: float) -> bool:
    """Whether every process behind these pidfds ends in time."""
    deadline = time.monotonic() + within
    waiting = set(fds)
    while waiting and time.monotonic() < deadline:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        waiting -= set(ready)
    return not waiting


@pytest.mark.parametrize("how", ["contained", "weaker"])
@pytest.mark.parametrize("victim", ["daemon", "daemon and nursery"])
def test_killing_the_daemon_leaves_no_process(how: str, victim: str, tmp_path: Path) -> None:
    mark = f"http://127.0.0.1:9/killed-{os.getpid()}-{tmp_path.name}"
    with subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path), mark, how], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        firsts = [int(word) for word in daemon.stdout.readline().split()]
        assert len(firsts) == 3
        keepers = [parent(pid) for pid in firsts]
        (nursery,) = {parent(pid) for pid in keepers}
        inside, until = marked(mark) - {daemon.pid}, time.monotonic() + 20
        while len(inside) != 9 and time.monotonic() < until:     # what is just executing another program shows no environment
            time.sleep(0.02)
            inside = marked(mark) - {daemon.pid}
        if len(inside) != 9:
            daemon.kill()
        assert len(inside) == 9, "three sleeps in each instance"
        fds = [os.pidfd_open(pid) for pid in (nursery, *keepers, *firsts, *inside)]
        daemon.send_signal(signal.SIGKILL)
        if victim != "daemon":
            signal.pidfd_send_signal(fds[0], signal.SIGKILL)
        ended = all_end(fds, within=15)
        for fd in fds:
            os.close(fd)
        assert ended


def marked(mark: str) -> set[int]:
    return {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and marks(entry.path, mark)}


def marks(directory: str, mark: str) -> bool:
    try:
        return f"AWS_ENDPOINT_URL={mark}".encode() in Path(directory, "environ").read_bytes()
    except OSError:
        return False


def test_instances_die_with_the_nursery_and_that_is_told(lab: Any) -> None:
    boots = [lab.boot("sleep 1000") for _ in range(2)]
    first = next(iter(lab.hypervisor.running().values()))
    os.kill(parent(parent(first)), signal.SIGKILL)
    for boot in boots:
        assert "died: " in lab.wait("exit", boot)
    late = lab.boot("sleep 1000", wait=False)
    assert "died: " in lab.wait("exit", late)


def test_forty_machines_boot_at_once_and_never_more_than_four_are_busy_booting(lab: Any) -> None:
    log = lab.root / "log"
    log.touch()
    boots = [lab.boot(f"echo + >> {log}; sleep 0.02; echo - >> {log}", wait=False) for _ in range(40)]
    for boot in boots:
        lab.wait("running", boot)
    assert len(lab.hypervisor.running()) == 40
    lab.run(boots[-1], f"until [ $(wc -l < {log}) = 80 ]; do sleep 0.01; done")
    busy = most = 0
    for step in log.read_text().split():
        busy += 1 if step == "+" else -1
        most = max(most, busy)
    assert most <= 4
    for boot in boots:
        lab.hypervisor.terminate(boot.instance_id)
    for boot in boots:
        lab.wait("gone", boot)
    assert list((lab.root / "cloud" / "instances").iterdir()) == []


def test_the_gate_opens_when_told_that_a_boot_has_settled(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetctl.local.hypervisor._HEAVY", 1000.0)  # nothing but the word opens it
    lab = make_lab(gate=1)
    slow = lab.boot("sleep 1000")
    lab.hypervisor.settled(slow.instance_id)
    lab.boot("sleep 1000")


def test_a_machine_terminated_before_its_turn_never_boots(make_lab: Any) -> None:
    lab = make_lab(gate=1)
    mail = lab.mailbox()
    first = lab.boot("sleep 1000")
    second = lab.boot(f"echo booted > {mail.path}", wait=False)
    lab.hypervisor.terminate(second.instance_id)
    lab.wait("gone", second)
    assert not lab.hypervisor.console(second.instance_id)
    assert list(lab.hypervisor.running()) == [first.instance_id]
    third = lab.boot(f"echo third > {mail.path}")
    assert mail.hear() == "third"
    assert lab.run(third, "true") == ""


def test_orders_for_unknown_machines_are_ignored(lab: Any) -> None:
    for order in (lab.hypervisor.stop, lab.hypervisor.start, lab.hypervisor.terminate, lab.hypervisor.settled):
        order("i-unknown")
    lab.hypervisor.interrupt("i-unknown", "stop", "2030-01-01T00:00:00Z")
    boot = lab.boot()
    lab.hypervisor.start(boot.instance_id)
    assert lab.run(boot, "echo same") == "same\n"


def test_closing_ends_everything_and_a_second_time_nothing(lab: Any) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    boots = [lab.boot("trap '' TERM HUP; while :; do sleep 0.01; done") for _ in range(5)]
    queued = [lab.boot("sleep 1000", wait=False) for _ in range(10)]
    pids = [os.pidfd_open(pid) for pid in lab.hypervisor.running().values()]
    lab.hypervisor.close()  # the power is cut, nobody is asked
    assert all_end(pids, within=10)
    for fd in pids:
        os.close(fd)
    lab.hypervisor.close()
    lab.hypervisor.terminate(boots[0].instance_id)
    assert lab.hypervisor.running() == {}
    assert not (lab.root / "cloud" / "instances").exists()
    assert {"hypervisor", "hypervisor-events"} <= threads
    assert not {"hypervisor", "hypervisor-events"} & {thread.name for thread in threading.enumerate()}
    assert queued


def test_the_log_stays_empty_while_all_is_well(either_lab: Any) -> None:
    boot = either_lab.boot("true")
    either_lab.run(boot, "echo hello")
    either_lab.hypervisor.terminate(boot.instance_id)
    either_lab.wait("gone", boot)
    assert (either_lab.root / "cloud" / "hypervisor.log").read_text() == ""


def test_a_callback_that_fails_or_hangs_stops_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    up: list[str] = []
    both = threading.Event()

    def running(instance_id: str) -> None:
        up.append(instance_id)
        if len(up) == 2:
            both.set()
        raise RuntimeError("from the API side")

    hypervisor = Hypervisor(tmp_path, "http://127.0.0.1:9", on_exit=lambda *_: None, credentials=lambda role: {}, on_running=running)
    try:
        for name in ("i-1", "i-2"):
            hypervisor.boot(Boot(name, hypervisor.address(), "t", "z", "r", "a", b"", (), None))
        assert both.wait(30)
    finally:
        hypervisor.close()
    assert "from the API side" in caplog.text


def test_a_service_port_that_is_taken_is_the_machines_death_not_the_clouds(lab: Any) -> None:
    ip = lab.hypervisor.address()
    with socket.create_server((ip, 2222)):
        doomed = Boot("i-doomed", ip, "t", "z", "r", "a", b"", (), None)
        lab.hypervisor.boot(doomed)
        assert re.match("died: .*in use", lab.wait("exit", doomed))
    assert lab.run(lab.boot(), "echo fine") == "fine\n"


def test_it_says_what_is_weaker(make_lab: Any) -> None:
    assert make_lab().hypervisor.weaker is None, "this host has user namespaces"
    weaker = make_lab(contain=False).hypervisor
    assert "not namespaces" in weaker.weaker
    assert "weaker" in repr(weaker)


REFUSED = """
import sys
from pathlib import Path
from fleetctl.local.hypervisor import Hypervisor
hypervisor = Hypervisor(Path(sys.argv[1]), "http://127.0.0.1:9", on_exit=print, credentials=dict)
print(hypervisor.weaker, "/", hypervisor.login_user)
hypervisor.close()
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare on this host")
def test_a_host_that_refuses_namespaces_is_found_out(tmp_path: Path) -> None:
    """Where scripts see themselves as root, the login user must be one that the host has."""
    refuse = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", refuse, "-",
                           sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no more user namespaces are allowed" in done.stdout
    assert done.stdout.endswith(" / root\n")


def test_repr_counts_instances(lab: Any) -> None:
    lab.boot()
    assert re.fullmatch(r"<Hypervisor <Block 127\.\d+, 1 taken>, 1 of 1 instances up>", repr(lab.hypervisor))


def test_where_only_one_address_exists_machines_differ_by_port(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetctl.local.addresses._take_block", lambda ports: (None, True))
    lab = make_lab()
    mail = lab.mailbox()
    ports = []
    for _ in range(2):
        boot = lab.boot(f'curl -s -o /dev/null -w "%{{http_code}} " $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/ > {mail.path};'
                        f'echo $FLEETCTL_SSH_PORT > {mail.path}')
        assert boot.ip == "127.0.0.1"
        status, port = mail.hear().split()
        assert status == "401"
        ports.append(int(port))

        key = (lab.home(boot).parent / "ssh_host_ed25519_key.pub").read_text()
        known = asyncssh.import_known_hosts(f"[127.0.0.1]:{port} {key}")
        assert lab.run(boot, "pwd", port=int(port), known_hosts=known) == f"{lab.home(boot)}\n"
    assert len(set(ports)) == 2
