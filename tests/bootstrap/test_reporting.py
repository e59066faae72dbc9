"""How a machine's reports and its secret travel: signed, retried, repeated, and nothing shown on the way."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from fleetctl.bootstrap import Program
from fleetctl.messages import Phase, Report, decode

if TYPE_CHECKING:
    from .conftest import Cloud, Machine

direct = pytest.mark.parametrize("machine", ["direct"], indirect=True)
FORBIDDEN = (403, "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>")
BUSY = (503, "<ErrorResponse><Error><Code>ServiceUnavailable</Code></Error></ErrorResponse>")
NO_SIGV4 = '[[ "$*" != *--aws-sigv4* ]] || {{ echo "curl: option --aws-sigv4: is unknown" >&2; exit 2; }}\nexec {curl} "$@"\n'
AWS = 'echo "$*" >>{root}/aws-argv\ncase "$*" in *sns*) (cat; echo) >>{root}/aws-out;; *) echo "{secret}";; esac\n'


def phases(cloud: Cloud) -> list[str]:
    return [report.phase if report.state is None else f"beat {report.state}" for report in cloud.reports]


def test_every_state_is_sent_again_and_then_repeated_as_a_beat(cloud: Cloud, machine: Machine) -> None:
    machine.boot("true", FLEETCTL_RESEND="1 1 1")
    cloud.wait(lambda: len([report for report in cloud.reports if report.state is Phase.READY]) >= 2)
    assert phases(cloud)[:6] == ["booted", "ready", "ready", "ready", "beat ready", "beat ready"]
    numbers = [report.seq for report in cloud.reports]
    assert numbers == sorted(set(numbers))


@direct
def test_a_failure_is_repeated_with_its_exit_code_and_tail(cloud: Cloud, machine: Machine) -> None:
    machine.boot("echo broken; exit 9", FLEETCTL_RESEND="1 1")
    beat = cloud.report(Phase.BEAT)
    assert (beat.state, beat.exit_code, "broken" in beat.tail) == (Phase.FAILED, 9, True)


def test_a_report_that_is_refused_is_tried_again(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["sns"] = [BUSY, BUSY, BUSY]
    machine.boot("true")
    assert cloud.report(Phase.READY).seq == 4
    assert cloud.calls.count("sns POST /") == 4
    assert "HTTP 503" in machine.log


@direct
def test_commands_do_not_wait_for_reports_that_do_not_get_through(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["sns"] = [BUSY] * 1000
    machine.boot("touch $FLEETCTL_RUN/done")
    machine.wait((machine.run / "done").exists)
    assert cloud.reports == []


@direct
def test_a_machine_without_metadata_waits_for_them(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["imds"] = [BUSY, BUSY]
    machine.boot("true")
    cloud.report(Phase.READY)


@direct
def test_a_private_machine_has_no_public_address_and_no_name(cloud: Cloud, machine: Machine) -> None:
    del cloud.metadata["public-ipv4"]
    cloud.metadata["public-hostname"] = ""
    machine.boot("true")
    ready = cloud.report(Phase.READY)
    assert (ready.ip, ready.public_ip, ready.host, ready.zone) == ("10.0.1.5", "", "", "eu-west-1a")


@direct
def test_a_machine_without_a_host_key_reports_none(cloud: Cloud, machine: Machine) -> None:
    machine.boot("true", FLEETCTL_SSH_KEY_FILE="/nonexistent")
    assert cloud.report(Phase.READY).ssh_key == ""


@direct
def test_a_role_that_comes_late_is_waited_for(cloud: Cloud, machine: Machine) -> None:
    role = cloud.metadata.pop("iam/security-credentials/")
    machine.boot("true")
    cloud.wait(lambda: cloud.calls.count("imds GET /latest/meta-data/iam/security-credentials/") >= 2)
    cloud.metadata["iam/security-credentials/"] = role
    cloud.report(Phase.READY)


@direct
def test_credentials_are_fetched_once_while_they_last(cloud: Cloud, machine: Machine) -> None:
    machine.boot("true", FLEETCTL_RESEND="0 0 0 1")
    cloud.report(Phase.BEAT)
    assert cloud.calls.count("imds GET /latest/meta-data/iam/security-credentials/fleet-role") == 1
    assert cloud.calls.count("imds PUT /latest/api/token") == 1


@direct
def test_credentials_near_their_end_are_renewed_with_a_new_token_if_need_be(cloud: Cloud, machine: Machine) -> None:
    cloud.lifetime = 500
    machine.boot("touch $FLEETCTL_RUN/begun; until [[ -e $FLEETCTL_RUN/go ]]; do sleep 0.05; done; exit 1")
    machine.wait((machine.run / "begun").exists)
    cloud.wait(lambda: cloud.reports)
    cloud.tokens.clear()  # as after six hours
    (machine.run / "go").touch()
    cloud.report(Phase.FAILED)
    assert cloud.calls.count("imds GET /latest/meta-data/iam/security-credentials/fleet-role") >= 3  # one was refused
    assert cloud.calls.count("imds PUT /latest/api/token") == 2


@direct
def test_credentials_that_are_refused_are_fetched_anew(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["sns"] = [(403, "<ErrorResponse><Error><Code>ExpiredToken</Code></Error></ErrorResponse>")]
    machine.boot("true")
    cloud.report(Phase.READY)
    assert cloud.calls.count("imds GET /latest/meta-data/iam/security-credentials/fleet-role") == 2


def test_the_secret_is_there_before_the_commands_and_nobody_else_can_read_it(cloud: Cloud, machine: Machine) -> None:
    machine.boot(Program(('cp --preserve=mode $GRIDWORKER_SECRET_FILE $FLEETCTL_RUN/copy',), secret=True))
    cloud.report(Phase.READY)
    file = machine.run / "secret"
    assert (machine.run / "copy").read_text() == file.read_text() == "00ff" * 16 + " " + "ab12" * 16 + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.owner() == machine.user
    assert "00ff" not in machine.log


@direct
def test_a_secret_that_cannot_be_read_yet_is_waited_for(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["ssm"] = [(400, '{"__type": "AccessDeniedException"}')]
    machine.boot(Program(("test -s $GRIDWORKER_SECRET_FILE",), secret=True))
    assert cloud.report(Phase.READY).exit_code == 0
    assert "HTTP 400" in machine.log


@direct
def test_a_value_that_is_no_secret_is_not_taken_for_one(cloud: Cloud, machine: Machine) -> None:
    cloud.faults["ssm"] = [(200, '{"Parameter": {"Value": "$(reboot)"}}')]
    machine.boot(Program(("test -s $GRIDWORKER_SECRET_FILE",), secret=True))
    cloud.report(Phase.READY)
    assert cloud.calls.count("ssm POST /") == 2


@direct
def test_a_program_that_asks_for_no_secret_gets_none(cloud: Cloud, machine: Machine) -> None:
    machine.boot("[[ ! -v GRIDWORKER_SECRET_FILE ]]")
    cloud.report(Phase.READY)
    assert "ssm POST /" not in cloud.calls


@direct
@pytest.mark.parametrize("reason", ["no option", "refused"])
def test_where_curl_cannot_sign_the_aws_program_does_it(cloud: Cloud, machine: Machine, reason: str) -> None:
    if reason == "no option":
        machine.put("curl", NO_SIGV4.format(curl=shutil.which("curl")))
    else:
        cloud.faults |= {"sns": [FORBIDDEN] * 1000, "ssm": [FORBIDDEN] * 1000}
    machine.put("aws", AWS.format(root=machine.root, secret="0a " + "1b" * 8))
    machine.boot(Program(("[[ $(<$GRIDWORKER_SECRET_FILE) == 0a\\ 1b1b* ]]",), secret=True))
    out = machine.root / "aws-out"
    machine.wait(lambda: out.exists() and '"ready"' in out.read_text())
    first = decode(out.read_text().splitlines()[0])
    assert isinstance(first, Report)
    assert first.phase is Phase.BOOTED
    argv = (machine.root / "aws-argv").read_text().splitlines()
    topic = "arn:aws:sns:eu-west-1:123456789012:fleetctl-test"
    assert f"--region eu-west-1 sns publish --topic-arn {topic} --message file:///dev/stdin" in argv
    assert "--region eu-west-1 ssm get-parameter --name /fleetctl/s1/secret --with-decryption --query Parameter.Value --output text" in argv
    assert cloud.reports == []


@pytest.mark.skipif(not shutil.which("aws"), reason="there is no aws program")
@pytest.mark.skipif(os.getuid() != 0 and not os.access(shutil.which("aws") or "", os.X_OK), reason="the aws program can't be run")
@pytest.mark.parametrize("machine", ["runuser" if os.getuid() == 0 else "direct"], indirect=True)
def test_the_real_aws_program_delivers_the_same_report(cloud: Cloud, machine: Machine) -> None:
    cloud.signed_by_curl = False
    machine.put("curl", NO_SIGV4.format(curl=shutil.which("curl")))
    machine.put("aws", f'exec {shutil.which("aws")} "$@"\n')
    machine.boot(Program(("test -s $GRIDWORKER_SECRET_FILE",), secret=True), PYENV_VERSION="")
    ready = cloud.report(Phase.READY)
    assert (ready.instance, ready.exit_code) == ("i-0123456789abcdef0", 0)
    assert (machine.run / "secret").read_text() == "00ff" * 16 + " " + "ab12" * 16 + "\n"
