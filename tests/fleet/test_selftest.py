"""The self-test of a set-up: two machines really come up in it, each way is tried, and nothing is left."""

import asyncio
import os
import socket
from types import SimpleNamespace

import pytest

from fleetctl.account import selftest
from fleetctl.launching.checks import Verdict
from fleetctl.machines import Machine
from fleetctl.money.prices import table

OK, FAIL, UNKNOWN = Verdict.OK, Verdict.FAIL, Verdict.UNKNOWN


@pytest.mark.cloud
def test_a_set_up_that_works_is_seen_to_work_and_nothing_is_left_of_the_look(home, cloud, living):
    before, said = living(), []
    found = selftest.run("local", home=home, say=said.append)
    assert {one.name: one.verdict for one in found.checks} == {
        "public machine": OK, "private machine": OK, "SSH to the public machine": OK, "SSH to the private machine": OK,
        "private address": OK, "machines among themselves": OK, "nothing but SSH from outside": UNKNOWN, "teardown": OK,
    }, repr(found)  # fmt: skip
    assert found.ok and "the set-up works (7 ok, 1 unknown)" in repr(found)
    assert "is no address of the internet" in found["nothing but SSH from outside"].found
    assert {line.thing for line in found.receipt.found} >= {"instance", "topic", "queue"} and found.receipt.remaining == ()
    assert living() == before
    assert [one.split()[0] for one in said] == ["bringing", "looking", "tearing"]


@pytest.mark.cloud
def test_where_a_machine_is_missing_its_ways_are_unknown_and_the_other_is_ended_all_the_same(home, cloud, living, one_round):
    before = living()
    cloud.fault("capacity", type=selftest.TYPE, left=1)
    found = selftest.run("local", home=home)
    machines = {found[f"{side} machine"].verdict for side in selftest.SIDES}
    assert machines == {OK, FAIL}
    assert {found[name].verdict for name in ("SSH to the private machine", "machines among themselves")} == {UNKNOWN}
    assert (found.ok, found["teardown"].verdict, living()) == (False, OK, before)
    [failed] = found.failed
    assert failed.todo


@pytest.fixture
def machine():
    """One that says of itself what it is given."""

    def make(**said):
        return Machine(SimpleNamespace(report=SimpleNamespace(**said), key="sir-1", instance="i-1"), None, lambda slot: None)

    return make


@pytest.mark.parametrize(
    ("address", "answering", "verdict", "words"),
    [
        ("8.8.8.8", True, FAIL, "port 8123 of 8.8.8.8 answers"),
        ("8.8.8.8", False, OK, "does not answer, and is listened on"),
        ("10.0.0.7", True, UNKNOWN, "is no address of the internet"),
        ("", True, UNKNOWN, "not tried"),
    ],
)
async def test_a_port_that_answers_from_outside_fails_and_nobody_inside_judges(monkeypatch, machine, address, answering, verdict, words):
    asked = []

    async def answers(*where):
        asked.append(where)
        return answering

    monkeypatch.setattr(selftest, "answers", answers)
    check = await selftest._outside(machine(public_ip=address))
    assert check.verdict is verdict and words in check.found
    assert asked == ([(address, 8123)] if verdict in (OK, FAIL) else [])
    assert ("setup plan" in check.todo) == (verdict is FAIL)


async def test_what_listens_answers_and_what_does_not_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await selftest.answers("127.0.0.1", port)
    assert not await selftest.answers("127.0.0.1", port)


async def test_what_neither_answers_nor_refuses_counts_as_silent(monkeypatch):
    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", never)
    monkeypatch.setattr(selftest, "OUTSIDE_SECONDS", 0.01)
    assert not await selftest.answers("127.0.0.1", 1)


@pytest.mark.parametrize(("address", "verdict"), [("", OK), ("203.0.113.9", FAIL)])
def test_a_private_machine_has_no_public_address(machine, address, verdict):
    assert selftest._hidden(machine(public_ip=address)).verdict is verdict


def test_the_cost_is_a_bound_for_both_machines_with_volumes_and_address():
    hourly, most = selftest.cost("us-east-1")
    assert hourly > 2 * table().on_demand(selftest.TYPE) + table().address
    assert most == hourly * selftest.HOURS
    assert selftest.cost("sa-east-1")[1] == 2 * most, "twice as much bounds every region"


@pytest.mark.cloud
def test_the_command_names_the_cost_and_launches_nothing_without_a_yes(fleetctl, cloud, living):
    before, mark = living(), cloud.calls()["mark"]
    done = fleetctl("setup", "status", "local", "--cloud", "local", "--self-test")
    assert (done.returncode, living()) == (1, before)
    assert "about $0.0" in done.stdout and "at most, as they end themselves after 30 minutes" in done.stdout
    assert "nothing was launched" in done.stdout
    assert not {"RunInstances", "CreateTopic"} & {*cloud.calls(mark)["calls"].get("controller", {}).get("ec2", {})}


def test_without_credentials_the_test_on_aws_says_so_and_asks_nothing(fleetctl, environment, tmp_path):
    for name in [one for one in environment if one.startswith("AWS_")]:
        del environment[name]
    nowhere = {name: str(tmp_path / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HOME", "XDG_CONFIG_HOME")}
    environment.update(nowhere, AWS_REGION="eu-west-1", AWS_EC2_METADATA_DISABLED="true")
    done = fleetctl("setup", "status", "--cloud", "aws", "--self-test", at=tmp_path)
    assert done.returncode == 1
    assert "aws configure" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) in ([], ["local"]), "nothing was begun"
