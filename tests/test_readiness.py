"""When a machine counts as ready: what the words mean, what is looked at next, and which host key is believed."""

from uuid import UUID

import pytest

from fleetctl.errors import RequestInvalid
from fleetctl.launching.readiness import CONSOLES, Case, Ready, Step, found_out, readiness
from fleetctl.messages import Phase, Report
from fleetctl.reach.command import Command

LAUNCH = UUID(int=1)
KEY, OTHER = "ssh-ed25519 " + "A" * 60, "ssh-ed25519 " + "B" * 60
ROW = {"InstanceId": "i-00000001", "PrivateIpAddress": "10.0.0.7", "PublicIpAddress": "192.0.2.7", "InstanceType": "t3.micro"}


def block(*keys):
    """As cloud-init 23.4 prints it on a console."""
    lines = "\n".join(f"{key} root@ip-10-0-0-7" for key in ("ecdsa-sha2-nistp256 " + "C" * 90, *keys))
    return f"[   9.1] cloud-init[1500]: ...\n-----BEGIN SSH HOST KEY KEYS-----\n{lines}\n-----END SSH HOST KEY KEYS-----\n"


def line(launch=LAUNCH, key=KEY, phase=Phase.BOOTED):
    """As our boot script writes it there, behind whatever the system puts before a line."""
    report = Report(launch, "i-00000001", phase, ip="10.0.0.7", ssh_port=2222, ssh_key=key, user="me")
    return "[   12.3] cloud-init[1500]: " + report.encode()


def known(console):
    return found_out(console, ROW, launch=LAUNCH, user="ubuntu")


def test_a_word_is_a_word_and_all_else_is_a_command():
    assert readiness("reported") == Ready()
    assert readiness("running").proof is None
    assert readiness("curl -f localhost") == readiness(Command("curl -f localhost")) == Ready("command", Command("curl -f localhost"))


@pytest.mark.parametrize("said", ["", " ", None, 3, ["true"]])
def test_what_is_neither_is_refused(said):
    with pytest.raises(RequestInvalid, match="ready is one of reported, ssh, running, or a command"):
        readiness(said)


def test_the_key_that_cloud_init_prints_is_known_with_the_address_that_ec2_tells():
    report = known(block(KEY)).report
    assert (report.ssh_key, report.public_ip, report.user, report.ssh_port) == (KEY, "192.0.2.7", "ubuntu", 22)
    assert "cloud-init" in known(block(KEY)).source


def test_what_our_own_boot_script_has_written_there_counts_before_it_as_it_names_the_launch():
    report = known(block(OTHER) + line()).report
    assert (report.ssh_key, report.user, report.ssh_port, report.phase) == (KEY, "me", 2222, Phase.BOOTED)
    assert known(line() + "\n" + line(phase=Phase.READY)).report.phase is Phase.READY


def test_a_line_that_names_another_launch_is_not_believed():
    assert known(line(UUID(int=2))).report is None


@pytest.mark.parametrize("console", [block(KEY, OTHER), block(KEY) + block(OTHER), line() + "\n" + line(key=OTHER)])
def test_of_keys_that_disagree_none_is_believed(console):
    assert known(console).report is None
    assert "2 different host keys" in known(console).source


@pytest.mark.parametrize("console", ["", "login:", '{"fleetctl":1,', "-----BEGIN SSH HOST KEY KEYS-----\n" + KEY])
def test_a_console_without_a_key_says_nothing(console):
    assert known(console).report is None


def test_a_silent_machine_is_waited_for_until_it_runs_then_its_console_is_looked_at_then_it_is_tried():
    case, ssh = Case(), readiness("ssh")
    assert case.next(ssh, reported=False, keyed=False, now=5.0)[0] is Step.WAIT
    case.running = 7.0
    assert case.next(ssh, reported=False, keyed=False, now=8.0) == (Step.CONSOLE, 7.0 + CONSOLES[0])
    case.consoles, case.last = 1, 27.0
    assert case.next(ssh, reported=False, keyed=False, now=28.0) == (Step.CONSOLE, 27.0 + CONSOLES[1])
    assert case.next(ssh, reported=True, keyed=True, now=30.0) == (Step.TRY, 27.0)
    case.tries, case.last = 1, 31.0
    assert case.next(ssh, reported=True, keyed=True, now=31.0) == (Step.TRY, 32.0)


def test_one_that_has_reported_runs_whatever_ec2_has_said():
    assert Case().next(readiness("running"), reported=True, keyed=False, now=1.0)[0] is Step.PROVED
    assert Case().next(readiness("ssh"), reported=True, keyed=True, now=1.0)[0] is Step.TRY
