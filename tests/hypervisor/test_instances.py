"""What a booted instance is: its environment, its user data, its power; with namespaces and without."""

from __future__ import annotations

import base64
import gzip
import os
import select
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest


def test_a_machine_runs_its_user_data_as_an_ordinary_user_at_home(lab: Any) -> None:
    mail = lab.mailbox()
    boot = lab.boot(f'echo "$(id -u) $EUID $HOME $PWD $(hostname)" > {mail.path}')
    user, effective, home, cwd, hostname = mail.hear().split()
    assert user == effective != "0"
    assert home == cwd == str(lab.home(boot))
    assert hostname == "ip-" + boot.ip.replace(".", "-")


def test_its_environment_is_clean_and_says_where_its_cloud_is(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "PYTHONPATH", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, "of the host")
    mail = lab.mailbox()
    boot = lab.boot(f"env -0 | base64 -w0 > {mail.path}; echo > {mail.path}")
    environment = dict(item.split("=", 1) for item in base64.b64decode(mail.hear()).decode().split("\0") if item)
    directory = lab.home(boot).parent
    assert "of the host" not in environment.values()
    assert environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] == f"http://{boot.ip}:1338"
    assert environment["AWS_ENDPOINT_URL"] == lab.mark
    assert environment["FLEETCTL_SSH_PORT"] == "2222"
    assert Path(environment["FLEETCTL_SSH_KEY_FILE"]).read_text().startswith("ssh-ed25519 ")
    assert Path(environment["FLEETCTL_STATE_DIR"]).parent == Path(environment["HOME"]), "/var/lib is this computer's"
    assert environment["FLEETCTL_LOGIN_USER"] == environment["USER"] == "ec2-user"
    assert environment["TMPDIR"] == str(directory / "tmp")
    assert set(environment) <= {"HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "PATH", "PWD", "SHLVL", "_", "AWS_ENDPOINT_URL",
                                "AWS_EC2_METADATA_SERVICE_ENDPOINT", "FLEETCTL_SSH_PORT", "FLEETCTL_SSH_KEY_FILE", "FLEETCTL_LOGIN_USER",
                                "FLEETCTL_STATE_DIR",
                                "FLEETCTL_BUNDLES"}  # what several machines have made of a bundle is made once on this computer


def test_it_sees_only_its_own_processes(lab: Any) -> None:
    mail = lab.mailbox()
    lab.boot("sleep 1000")
    lab.boot(f'echo "$$ $(ls -d /proc/[0-9]* | wc -l)" > {mail.path}')
    pid, visible = map(int, mail.hear().split())
    assert pid < 10
    assert visible < 10


def test_it_stays_up_when_its_user_data_has_ended(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    boot = either_lab.boot(f"echo over > {mail.path}")
    assert mail.hear() == "over"
    assert either_lab.run(boot, "echo still here") == "still here\n"
    assert boot.instance_id in either_lab.hypervisor.running()


def test_what_user_data_prints_is_on_the_console_also_after_its_end(lab: Any) -> None:
    mail = lab.mailbox()
    boot = lab.boot(f"echo out; echo err >&2; head -c 100000 /dev/zero | tr '\\0' x; echo last; echo > {mail.path}")
    mail.hear()
    assert lab.hypervisor.console(boot.instance_id).endswith(b"xxx" + b"last\n")
    assert len(lab.hypervisor.console(boot.instance_id)) == 65_536
    lab.hypervisor.terminate(boot.instance_id)
    lab.wait("gone", boot)
    assert lab.hypervisor.console(boot.instance_id).endswith(b"last\n")
    assert lab.hypervisor.console("i-unknown") == b""


def test_zipped_user_data_is_unzipped_as_cloud_init_does(lab: Any) -> None:
    mail = lab.mailbox()
    lab.boot(gzip.compress(f"#!/bin/sh\necho unzipped > {mail.path}\n".encode()))
    assert mail.hear() == "unzipped"


@pytest.mark.parametrize("data, says", [(b"#cloud-config\n", b"not a script"), (b"#!/no/such/interpreter\n", b"No such file"),
                                        (b"\x1f\x8bnot gzip", b"not a script")])
def test_user_data_that_cannot_run_is_named_on_the_console_and_the_machine_is_up(lab: Any, data: bytes, says: bytes) -> None:
    boot = lab.boot(data)
    lab.run(boot, f"until grep -q . {lab.home(boot).parent}/console.log; do sleep 0.01; done")
    assert says in lab.hypervisor.console(boot.instance_id)


def test_shutdown_ends_only_its_own_machine(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    other = either_lab.boot("sleep 1000")
    boot = either_lab.boot(f"sleep 1000 & read < {mail.path}; shutdown -h now; sleep 1000")
    mail.path.write_text("go\n")
    assert either_lab.wait("exit", boot) == "shutdown"
    assert list(either_lab.hypervisor.running()) == [other.instance_id]
    assert either_lab.home(boot).exists(), "its disk is kept until it is terminated"
    assert either_lab.run(other, "echo fine") == "fine\n"


def test_stopping_what_ended_by_itself_is_complete_at_once(lab: Any) -> None:
    boot = lab.boot("shutdown now")
    lab.wait("exit", boot)
    lab.hypervisor.stop(boot.instance_id)
    lab.wait("gone", boot)
    lab.hypervisor.start(boot.instance_id)
    lab.wait("running", boot)
    assert lab.run(boot, "echo again") == "again\n"


def test_power_commands_need_nothing_but_their_own_path(lab: Any) -> None:
    boot = lab.boot('exec env -i "$(command -v shutdown)" -P now')
    assert lab.wait("exit", boot) == "shutdown"


def test_a_planned_shutdown_comes_at_its_time_unless_cancelled(lab: Any) -> None:
    mail = lab.mailbox()
    doomed = lab.boot("shutdown -P +1; shutdown -c; echo 'poweroff 1' > ../initctl")       # the command counts in minutes
    saved = lab.boot(f"echo 'poweroff 1' > ../initctl; shutdown -c; echo ok > {mail.path}")
    before = time.monotonic()
    assert mail.hear() == "ok"
    assert lab.wait("exit", doomed) == "shutdown"
    assert time.monotonic() - before > 0.5
    assert lab.run(saved, "echo up") == "up\n"


def test_garbage_in_initctl_changes_nothing(lab: Any) -> None:
    mail = lab.mailbox()
    boot = lab.boot(f"head -c 20000 /dev/urandom > ../initctl; printf '\\npoweroff -1\\nreboot x\\n' > ../initctl; echo ok > {mail.path}")
    assert mail.hear() == "ok"
    assert lab.run(boot, "echo up") == "up\n"


def test_a_halted_machine_is_silent_but_not_off_as_on_ec2(either_lab: Any) -> None:
    boot = either_lab.boot("halt; sleep 1000")
    wait_until_dead(either_lab, "sleep")
    assert boot.instance_id in either_lab.hypervisor.running()
    either_lab.hypervisor.terminate(boot.instance_id)
    either_lab.wait("gone", boot)
    assert not either_lab.log, "it was never off by itself"


def wait_until_dead(lab: Any, name: str) -> None:
    for pid in lab.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                wait_for_end(pid)
        except FileNotFoundError:
            continue


def wait_for_end(pid: int) -> None:
    """Until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], 30)
        assert ready, f"process {pid} lives on"
    finally:
        os.close(fd)


def test_reboot_ends_what_ran_and_does_not_run_user_data_again(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    boot = either_lab.boot(f"echo ran >> ~/runs; echo ready > {mail.path}; sleep 1000")
    assert mail.hear() == "ready"
    old = either_lab.processes()
    either_lab.run(boot, "nohup reboot > /dev/null 2>&1 &")
    for pid in old:
        wait_for_end(pid)
    assert either_lab.run(boot, "cat ~/runs") == "ran\n"
    assert boot.instance_id in either_lab.hypervisor.running()


def test_stop_and_start_keep_the_disk_and_the_host_key(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    boot = either_lab.boot(f"echo ran >> ~/runs; echo ready > {mail.path}")
    mail.hear()
    key = (either_lab.home(boot).parent / "ssh_host_ed25519_key.pub").read_text()
    either_lab.hypervisor.stop(boot.instance_id)
    either_lab.wait("gone", boot)
    assert either_lab.hypervisor.running() == {}
    with pytest.raises(ConnectionRefusedError):
        either_lab.run(boot, "true")
    either_lab.hypervisor.start(boot.instance_id)
    either_lab.wait("running", boot)
    assert either_lab.run(boot, "cat ~/runs") == "ran\n"
    assert (either_lab.home(boot).parent / "ssh_host_ed25519_key.pub").read_text() == key


def test_a_boot_hook_runs_at_each_boot_and_a_router_s_commands_only_note_what_they_are_told(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    script = f"#!/bin/bash\niptables -t nat -C A x || iptables -t nat -A A x\necho booted > {mail.path}\n"
    boot = either_lab.boot(f"#cloud-boothook\n{script}".encode())
    assert mail.hear() == "booted"
    either_lab.hypervisor.stop(boot.instance_id)
    either_lab.wait("gone", boot)
    either_lab.hypervisor.start(boot.instance_id)
    assert mail.hear() == "booted"
    assert (either_lab.home(boot).parent / "router").read_text() == "iptables -t nat -A A x\n"


def test_a_restart_asked_for_in_one_breath_ends_up_running(lab: Any) -> None:
    boot = lab.boot("sleep 1000")
    first = lab.hypervisor.running()[boot.instance_id]
    lab.hypervisor.stop(boot.instance_id)
    lab.hypervisor.start(boot.instance_id)
    lab.wait("running", boot)
    assert lab.hypervisor.running()[boot.instance_id] != first
    assert not lab.log


def test_terminate_lets_processes_say_goodbye(either_lab: Any) -> None:
    mail, farewell = either_lab.mailbox(), either_lab.mailbox()
    boot = either_lab.boot(f"trap 'echo bye > {farewell.path}; exit' TERM; echo ready > {mail.path}; while :; do sleep 0.01; done")
    mail.hear()
    either_lab.hypervisor.terminate(boot.instance_id)
    assert farewell.hear() == "bye"
    either_lab.wait("gone", boot)
    assert not either_lab.home(boot).parent.exists()


def test_terminate_does_not_wait_for_those_who_will_not_go(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    boot = either_lab.boot(f"trap '' TERM HUP; echo ready > {mail.path}; while :; do sleep 0.01; done")
    mail.hear()
    either_lab.hypervisor.terminate(boot.instance_id)
    either_lab.wait("gone", boot)


def test_no_daemon_escapes(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nimport signal\n" \
             "for name in (signal.SIGTERM, signal.SIGHUP): signal.signal(name, signal.SIG_IGN)\n" \
             f"print('daemon', file=open('{mail.path}', 'w'), flush=True)\ntime.sleep(1000)\n"
    boot = either_lab.boot(f"ESCAPE=1 python3 -c {shlex.quote(daemon)}")
    assert mail.hear() == "daemon"
    assert either_lab.processes("ESCAPE=1")
    either_lab.hypervisor.terminate(boot.instance_id)
    either_lab.wait("gone", boot)
    assert either_lab.all_gone()


def test_a_machine_whose_first_process_is_killed_has_died_whole(either_lab: Any) -> None:
    mail = either_lab.mailbox()
    boot = either_lab.boot(f"(setsid sleep 1000 &) ; echo ready > {mail.path}; sleep 1000")
    mail.hear()
    os.kill(either_lab.hypervisor.running()[boot.instance_id], signal.SIGKILL)
    assert either_lab.wait("exit", boot).startswith("died: ")
    assert either_lab.all_gone()
    assert either_lab.hypervisor.running() == {}


def test_python_there_has_gridworker_and_the_redis_server_is_new_enough(lab: Any) -> None:
    boot = lab.boot()
    assert lab.run(boot, "python3 -c 'import gridworker, sys; print(sys.executable)'").strip()
    for server in ("valkey-server", "redis-server"):
        version = lab.run(boot, f"{server} --version").split("v=")[1]
        assert int(version.split(".")[0]) >= 7
