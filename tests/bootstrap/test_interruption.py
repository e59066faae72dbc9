"""What a machine does when EC2 takes it back: it says so, and its commands get their time."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from fleetctl.bootstrap import Program
from fleetctl.messages import Phase

if TYPE_CHECKING:
    from .conftest import Cloud, Machine

direct = pytest.mark.parametrize("machine", ["direct"], indirect=True)
TAKEN, ADVISED = "2031-05-06T07:08:09Z", "2031-05-06T07:00:00Z"
QUICK = {"FLEETCTL_WATCH": "10"}
DUTIFUL = "trap 'echo told >>$FLEETCTL_RUN/told; exit 0' TERM; touch $FLEETCTL_RUN/begun; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; echo $BASHPID >$FLEETCTL_RUN/pid; while :; do sleep 0.05; done"


def interrupt(cloud: Cloud, time: str = TAKEN) -> None:
    cloud.metadata["spot/instance-action"] = f'{{"action": "terminate", "time": "{time}"}}'


def lives(machine: Machine, name: str) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((machine.run / name).read_text()), 0)
        return True
    return False


def test_a_notice_is_reported_with_its_time_and_the_commands_are_told_to_end(cloud: Cloud, machine: Machine) -> None:
    machine.boot(DUTIFUL, **QUICK)
    assert cloud.report(Phase.READY).taken_at == ""
    interrupt(cloud)
    assert cloud.report(Phase.INTERRUPTED).taken_at == TAKEN
    machine.wait((machine.run / "told").exists)
    last = cloud.wait(lambda: [report for report in cloud.reports if report.exit_code == 0])[0]
    assert (last.phase, last.taken_at) == (Phase.INTERRUPTED, TAKEN)  # that the commands end is no failure any more


def test_commands_that_do_not_end_are_killed_after_their_grace_and_not_before(cloud: Cloud, machine: Machine) -> None:
    machine.boot(DEAF, FLEETCTL_GRACE="250", **QUICK)
    cloud.report(Phase.READY)
    interrupt(cloud)
    cloud.report(Phase.INTERRUPTED)
    assert lives(machine, "pid")
    machine.wait(lambda: not lives(machine, "pid"))
    assert cloud.wait(lambda: [report for report in cloud.reports if report.exit_code is not None])[0].exit_code == 137


def test_what_the_commands_left_in_the_background_is_told_too(cloud: Cloud, machine: Machine) -> None:
    machine.boot([f"({DUTIFUL}) & echo $! >$FLEETCTL_RUN/pid", "until [[ -e $FLEETCTL_RUN/begun ]]; do sleep 0.05; done"], **QUICK)
    cloud.wait(lambda: [report for report in cloud.reports if report.exit_code == 0])
    interrupt(cloud)
    machine.wait((machine.run / "told").exists)
    machine.wait(lambda: not lives(machine, "pid"))


def test_what_lies_below_runuser_has_all_of_its_grace(cloud: Cloud, machine: Machine) -> None:
    slow = "trap 'sleep 3; touch $FLEETCTL_RUN/saved; exit 0' TERM; touch $FLEETCTL_RUN/begun; while :; do sleep 0.05; done"
    machine.boot(slow, **QUICK)
    machine.wait((machine.run / "begun").exists)
    interrupt(cloud)
    machine.wait((machine.run / "saved").exists)


@direct
def test_commands_that_wait_for_their_secret_do_not_begin_any_more(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["ssm"] = [(400, '{"__type": "AccessDeniedException"}')]
    interrupt(cloud)
    machine.boot(Program(("touch $FLEETCTL_RUN/begun",), secret=True), FLEETCTL_WATCH="1")
    cloud.report(Phase.INTERRUPTED)
    machine.wait(lambda: "00ff" in (machine.run / "secret").read_text())
    cloud.wait(lambda: cloud.reports[-1].phase is Phase.INTERRUPTED and cloud.reports[-1].seq > 2)
    assert not (machine.run / "begun").exists()


@direct
def test_a_recommendation_to_rebalance_is_reported_and_changes_nothing(cloud: Cloud, machine: Machine) -> None:
    machine.boot(DUTIFUL, **QUICK)
    cloud.report(Phase.READY)
    cloud.metadata["events/recommendations/rebalance"] = f'{{"noticeTime": "{ADVISED}"}}'
    advised = cloud.wait(lambda: [report for report in cloud.reports if report.rebalance])[0]
    assert (advised.phase, advised.rebalance, advised.taken_at) == (Phase.READY, ADVISED, "")
    seen = cloud.calls.count("imds GET /latest/meta-data/events/recommendations/rebalance")
    cloud.wait(lambda: cloud.calls[-5:].count("imds GET /latest/meta-data/spot/instance-action") == 5)
    assert cloud.calls.count("imds GET /latest/meta-data/events/recommendations/rebalance") == seen
    assert not (machine.run / "told").exists()


@direct
@pytest.mark.parametrize("time", ["soon", "2031-05-06T07:08:09+02:00", ""])
def test_a_notice_whose_time_is_none_is_a_notice(cloud: Cloud, machine: Machine, time: str) -> None:
    interrupt(cloud, time)
    machine.boot("exec sleep 1000", **QUICK)
    assert cloud.report(Phase.INTERRUPTED).taken_at == ""


@direct
def test_a_stale_token_is_replaced_before_the_next_look(cloud: Cloud, machine: Machine) -> None:
    machine.boot("exec sleep 1000", **QUICK)
    cloud.report(Phase.READY)
    with cloud.changed:
        cloud.tokens.clear()  # as after six hours
    cloud.wait(lambda: cloud.tokens)
    interrupt(cloud)
    cloud.report(Phase.INTERRUPTED)


@direct
@pytest.mark.parametrize("answer", [(500, "broken"), (403, "no")])
def test_metadata_that_break_for_a_while_are_no_notice_and_end_nothing(cloud: Cloud, machine: Machine, answer: tuple[int, str]) -> None:
    machine.boot("exec sleep 1000", FLEETCTL_RESEND="1 1 20", **QUICK)
    cloud.report(Phase.READY)
    with cloud.changed:
        cloud.faults["imds"] += [answer] * 5
    cloud.wait(lambda: not cloud.faults["imds"])
    assert all(report.present is not Phase.INTERRUPTED for report in cloud.reports)
    interrupt(cloud)
    cloud.report(Phase.INTERRUPTED)


@direct
def test_a_failed_machine_stays_failed_and_says_when_it_is_taken(cloud: Cloud, machine: Machine) -> None:
    machine.boot("exit 3", **QUICK)
    cloud.report(Phase.FAILED)
    interrupt(cloud)
    told = cloud.wait(lambda: [report for report in cloud.reports if report.taken_at])[0]
    assert (told.present, told.exit_code, told.taken_at) == (Phase.FAILED, 3, TAKEN)
