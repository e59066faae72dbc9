"""What a machine does with the user's commands, and what it says of itself."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from fleetctl.bootstrap import Program
from fleetctl.messages import Phase, Report

if TYPE_CHECKING:
    from .conftest import Cloud, Machine

direct = pytest.mark.parametrize("machine", ["direct"], indirect=True)  # where the way to the login user makes no difference
as_root = pytest.mark.parametrize("machine", ["runuser"], indirect=True)


def test_a_machine_reports_that_it_has_booted_and_then_that_it_is_ready(cloud: Cloud, machine: Machine) -> None:
    machine.boot("echo hello")
    ready = cloud.report(Phase.READY)
    booted = cloud.reports[0]
    assert (booted.phase, booted.seq, booted.exit_code) == (Phase.BOOTED, 1, None)
    assert ready == Report(
        launch=machine.launch, instance="i-0123456789abcdef0", phase=Phase.READY, seq=2, exit_code=0, ip="10.0.1.5", public_ip="3.4.5.6",
        host="ec2-3-4-5-6.eu-west-1.compute.amazonaws.com", ssh_port=2222, ssh_key=machine.host_key, user=machine.user, type="t3.micro",
        zone="eu-west-1a")


def test_the_commands_run_as_the_login_user_in_its_home_with_what_they_need_to_know(cloud: Cloud, machine: Machine) -> None:
    machine.boot(["cd /", "here=set", 'cd; echo "$(id -un) $PWD $HOME ${here-lost}" >$FLEETCTL_RUN/who; umask >>$FLEETCTL_RUN/who',
                  'env | grep -E "^(FLEETCTL_(LAUNCH|SESSION|INSTANCE|IP|REGION|RUN)|GRIDWORKER_.*)=" | sort >$FLEETCTL_RUN/env'])
    cloud.report(Phase.READY)
    home = machine.root / "home"
    assert (machine.run / "who").read_text() == f"{machine.user} {home} {home} set\n0022\n"
    assert (machine.run / "env").read_text().splitlines() == [
        "FLEETCTL_INSTANCE=i-0123456789abcdef0", "FLEETCTL_IP=10.0.1.5", f"FLEETCTL_LAUNCH={machine.launch}", "FLEETCTL_REGION=eu-west-1",
        f"FLEETCTL_RUN={machine.run}", "FLEETCTL_SESSION=s1"]
    assert (machine.run / "who").owner() == machine.user


def test_a_failing_line_is_reported_at_once_and_the_lines_after_it_do_not_run(cloud: Cloud, machine: Machine) -> None:
    machine.boot(["echo before", "echo why >&2; (exit 7)", "touch $FLEETCTL_RUN/after"])
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == 7
    assert "before\nwhy\n" in failed.tail
    assert not (machine.run / "after").exists()
    assert [report.phase for report in cloud.reports] == [Phase.BOOTED, Phase.FAILED]


@direct
@pytest.mark.parametrize(("line", "code", "word"), [
    ("false | true", 1, ""), ("echo $nothing_of_this_name", 1, "nothing_of_this_name"), ("no-such-program", 127, "no-such-program"),
    ("echo 'unbalanced", 2, "unexpected EOF"), ("kill -9 $$", 137, ""),
])
def test_a_line_fails_as_under_bash_with_e_u_and_pipefail(cloud: Cloud, machine: Machine, line: str, code: int, word: str) -> None:
    machine.boot([line, "true"])
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == code
    assert word in failed.tail


def test_the_tail_is_the_end_of_the_log_whatever_bytes_it_has(cloud: Cloud, machine: Machine) -> None:
    machine.boot("head -c 9000 /dev/zero | tr '\\0' x; printf '\\377\\376 end'; exit 3")
    failed = cloud.report(Phase.FAILED)
    assert 2900 < len(failed.tail) <= 3072
    assert "xxx�� end" in failed.tail


def test_a_last_line_that_goes_on_is_ready_while_it_runs(cloud: Cloud, machine: Machine) -> None:
    machine.boot(["true", "echo $BASHPID >$FLEETCTL_RUN/pid; exec sleep 1000"])
    assert cloud.report(Phase.READY).exit_code is None
    os.kill(int((machine.run / "pid").read_text()), 0)


def test_a_last_line_that_has_not_begun_is_not_ready(cloud: Cloud, machine: Machine) -> None:
    machine.boot(["touch $FLEETCTL_RUN/begun; until [[ -e $FLEETCTL_RUN/go ]]; do sleep 0.05; done; sleep 1.5", "true"])
    machine.wait((machine.run / "begun").exists)
    (machine.run / "go").touch()
    assert cloud.report(Phase.READY).exit_code == 0  # by its exit, and not by a second that has passed
    assert [report.phase for report in cloud.reports] == [Phase.BOOTED, Phase.READY]


def test_a_failure_after_ready_is_reported_too(cloud: Cloud, machine: Machine) -> None:
    machine.boot("until [[ -e $FLEETCTL_RUN/go ]]; do sleep 0.05; done; echo too late; exit 5")
    assert cloud.report(Phase.READY).exit_code is None
    (machine.run / "go").touch()
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == 5
    assert "too late" in failed.tail


@direct
def test_what_the_commands_leave_in_the_background_lives_on(cloud: Cloud, machine: Machine) -> None:
    machine.boot(["sleep 1000 & echo $! >$FLEETCTL_RUN/pid", "true"])
    assert cloud.report(Phase.READY).exit_code == 0
    os.kill(int((machine.run / "pid").read_text()), 0)


@direct
def test_commands_that_end_early_with_success_are_ready(cloud: Cloud, machine: Machine) -> None:
    machine.boot(["exit 0", "false"])
    assert cloud.report(Phase.READY).exit_code == 0


def test_with_a_check_a_machine_is_ready_when_the_check_succeeds_and_not_before(cloud: Cloud, machine: Machine) -> None:
    check = "echo asked >>$FLEETCTL_RUN/asked; [[ -e $FLEETCTL_RUN/go && $(id -un) == $EXPECTED && $PWD == $HOME ]]"
    machine.boot(Program(("touch $FLEETCTL_RUN/ended",), check=check), EXPECTED=machine.user)
    machine.wait((machine.run / "ended").exists)
    machine.wait(lambda: (machine.run / "asked").exists() and (machine.run / "asked").read_text().count("asked") >= 3)
    assert [report.phase for report in cloud.reports] == [Phase.BOOTED]
    (machine.run / "go").touch()
    assert cloud.report(Phase.READY).exit_code == 0


@direct
def test_with_a_check_a_machine_is_ready_while_its_commands_run(cloud: Cloud, machine: Machine) -> None:
    machine.boot(Program(("touch $FLEETCTL_RUN/begun; exec sleep 1000",), check="[[ -e $FLEETCTL_RUN/begun ]]"))
    assert cloud.report(Phase.READY).exit_code is None


@direct
def test_with_a_check_commands_that_fail_are_failed(cloud: Cloud, machine: Machine) -> None:
    machine.boot(Program(("exit 4",), check="exit 1"))
    assert cloud.report(Phase.FAILED).exit_code == 4


@direct
def test_what_the_check_says_stays_out_of_the_log(cloud: Cloud, machine: Machine) -> None:
    machine.boot(Program(("true",), check="echo noise; [[ -e $FLEETCTL_RUN/go ]] || { touch $FLEETCTL_RUN/go; exit 1; }"))
    cloud.report(Phase.READY)
    assert "noise" not in machine.log


@direct
def test_text_of_any_script_reaches_the_commands_as_it_was_written(cloud: Cloud, machine: Machine) -> None:
    text = "naïve Ωμέγα 字 🚀 'single' \"double\" `tick` $HOME \\n & ;"
    machine.boot(["cat >$FLEETCTL_RUN/text <<'END'\n" + text + "\nEND", "# done 🚀"])
    cloud.report(Phase.READY)
    assert (machine.run / "text").read_text() == text + "\n"


@direct
def test_commands_too_long_for_user_data_arrive_packed(cloud: Cloud, machine: Machine) -> None:
    machine.boot([*(f"echo 'line {number} of many, many lines of one long program' >>$FLEETCTL_RUN/out" for number in range(500)), "true"])
    cloud.report(Phase.READY)
    assert len((machine.run / "out").read_text().splitlines()) == 500


def test_the_log_is_kept_on_the_machine_and_shown_on_its_console(cloud: Cloud, machine: Machine) -> None:
    machine.boot("echo something to see; echo something wrong >&2")
    cloud.report(Phase.READY)
    for line in ("something to see", "something wrong", "booted as i-0123456789abcdef0", "ready, exit 0"):
        assert line in machine.log
        machine.wait(lambda line=line: line in (machine.root / "console").read_text())
    assert (machine.run / "log").owner() == machine.user


@direct
def test_a_program_can_open_its_output_again(cloud: Cloud, machine: Machine) -> None:
    machine.boot("echo through the device >/dev/stdout")
    cloud.report(Phase.READY)
    assert "through the device" in machine.log


def test_the_fuse_is_set_for_the_minutes_that_were_asked_for(cloud: Cloud, machine: Machine) -> None:
    machine.boot("true")
    machine.wait(lambda: (machine.root / "shutdown").exists() and (machine.root / "shutdown").read_text() == "-P +90\n")


@direct
def test_a_machine_that_refuses_the_fuse_says_so_and_goes_on(cloud: Cloud, machine: Machine) -> None:
    machine.put("shutdown", "exit 1\n")
    machine.boot("true")
    cloud.report(Phase.READY)
    machine.wait(lambda: "no fuse" in (machine.root / "console").read_text())


def test_a_second_run_does_nothing(cloud: Cloud, machine: Machine) -> None:
    machine.boot("echo once >>$FLEETCTL_RUN/count")
    cloud.report(Phase.READY)
    before = len(cloud.calls)
    assert machine.boot("echo once >>$FLEETCTL_RUN/count").wait(10) == 0
    assert len(cloud.calls) == before
    assert (machine.run / "count").read_text() == "once\n"
    assert (machine.root / "shutdown").read_text() == "-P +90\n"


def test_a_bootstrap_that_is_ended_says_so_with_its_last_breath(cloud: Cloud, machine: Machine) -> None:
    process = machine.boot("exec sleep 1000")
    cloud.report(Phase.READY)
    process.send_signal(signal.SIGTERM)
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == 143
    assert "the bootstrap ends, exit 143" in failed.tail
    assert process.wait(10) == 143


@as_root
def test_a_login_user_that_is_not_there_fails_the_machine(cloud: Cloud, machine: Machine) -> None:
    machine.put("getent", "exit 2\n")
    machine.boot("true", FLEETCTL_LOGIN_USER="stranger")
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == 1
    assert "no user stranger" in failed.tail


@as_root
def test_where_the_login_user_is_root_the_commands_run_where_the_machine_says(cloud: Cloud, machine: Machine) -> None:
    machine.boot('echo "$(id -un) $PWD" >$FLEETCTL_RUN/who', FLEETCTL_LOGIN_USER="root", HOME=f"{machine.root}/home")
    assert cloud.report(Phase.READY).user == "root"
    assert (machine.run / "who").read_text() == f"root {machine.root}/home\n"
