"""Commands that are too long for user data: the real boot script fetches them from the session's bucket, with its role."""

import pytest

from fleetctl.bootstrap import packed, program
from fleetctl.messages import Phase

BULK = "fleetctl-s1-0a0b0c0d/commands-1"
LONG = [f"echo {number:05} >>out  # {'-' * 100}" for number in range(3000)]  # 300 kB


def counted(machine):
    return (machine.root / "home" / "out").read_text().splitlines()


def test_commands_that_lie_in_the_bucket_are_run_as_if_they_were_in_the_user_data(cloud, machine):
    cloud.objects[f"/{BULK}"] = packed(program(LONG))
    machine.boot(LONG, bulk=BULK)
    assert cloud.report(Phase.READY).exit_code == 0
    assert counted(machine) == [f"{number:05}" for number in range(3000)]
    assert LONG[7] not in (machine.root / "user-data").read_text()
    assert (machine.run / "commands").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("first", ["not there", "another's", "not packed", "denied"])
def test_they_are_waited_for_and_nothing_else_is_run_in_their_place(cloud, machine, first):
    if first == "another's":
        cloud.objects[f"/{BULK}"] = packed(program("echo wrong >>out"))
    if first == "not packed":
        cloud.objects[f"/{BULK}"] = "echo wrong >>out"
    if first == "denied":
        cloud.faults["s3"] += [(403, "<Error><Code>AccessDenied</Code></Error>")] * 2
    machine.boot("echo right >>out", bulk=BULK)
    cloud.wait(lambda: cloud.calls.count(f"s3 GET /{BULK}") >= 2)
    cloud.objects[f"/{BULK}"] = packed(program("echo right >>out"))
    assert cloud.report(Phase.READY).exit_code == 0
    assert counted(machine) == ["right"]


def test_what_cannot_be_fetched_fails_the_machine_and_its_report_says_so(cloud, machine):
    machine.put("sleep", "exec /bin/sleep 0.01\n")  # two minutes of trying
    machine.boot("echo never >>out", bulk=BULK)
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == 1
    assert f"no commands {BULK}" in failed.tail
    assert "HTTP 404" in failed.tail
    assert not (machine.root / "home" / "out").exists()
