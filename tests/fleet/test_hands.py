"""Hands on machines: commands, files and forwards over one SSH connection each, on one machine and on many."""

import asyncio
import dataclasses

import pytest

from fleetctl import bring_up_one_spot, bring_up_spots, teardown_all
from fleetctl.errors import CommandFailed, MachineError, RequestInvalid
from fleetctl.reach import link, ssh
from fleetctl.reach.command import Command, command

pytestmark = pytest.mark.cloud


@pytest.fixture
async def machine(session, request_):
    return await bring_up_one_spot(request_, "sleep 1000", session=session)


async def test_a_command_gives_what_it_wrote_and_its_exit_code(machine):
    done = await machine.run("echo out; echo error >&2")
    assert (done.stdout, done.stderr, done.exit_status, done.ok) == ("out\n", "error\n", 0, True)
    assert done.machine == machine.instance_id
    assert (await machine.run(["echo", "two words", "$HOME", "; exit 3"])).stdout == "two words $HOME ; exit 3\n"
    assert (await machine.run("cat", stdin="three\nlines\n\n")).stdout == "three\nlines\n\n"
    assert (await machine.run("echo a; echo b >&2; echo c", combine=True)).stdout == "a\nb\nc\n"
    assert (await machine.run("printf '\\377'")).stdout == "\ufffd"


async def test_a_command_runs_where_and_with_what_it_is_told(machine):
    await machine.run("mkdir 'a place'")
    done = await machine.run("pwd && echo $LEVEL", cwd="a place", env={"LEVEL": "3 '$m'"})
    where, level = done.stdout.splitlines()
    assert where.endswith("/a place")
    assert level == "3 '$m'"
    missing = await machine.run("false; echo ran", cwd="nowhere", check=False)
    assert (missing.ok, missing.stdout) == (False, ""), "nothing of it may run in another directory"


async def test_a_command_that_fails_is_an_error_with_the_end_of_what_it_wrote_unless_it_is_wanted_as_a_value(machine):
    with pytest.raises(CommandFailed, match=f"exit code 7 on {machine.instance_id}: nonsense") as caught:
        await machine.run("echo nonsense >&2; exit 7")
    assert caught.value.exit_status == 7
    assert caught.value.left == (f"{machine.instance_id} runs on",)
    assert (await machine.run("exit 7", check=False)).exit_status == 7
    assert (await machine.run("kill -9 $$", check=False)).exit_status == -9


async def test_a_command_that_takes_too_long_is_killed_on_the_machine(machine):
    with pytest.raises(MachineError, match=r"was not done within 0\.3 s"):
        await machine.run("echo $$ > pid; exec sleep 1000", timeout=0.3)
    await machine.run("while kill -0 $(cat pid) 2>/dev/null; do sleep 0.05; done", timeout=20)


async def test_files_and_trees_go_there_and_back(machine, tmp_path):
    tree = tmp_path / "model"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "data").write_bytes(bytes(range(256)) * 1000)
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    await machine.put(tree)
    assert (await machine.run("model/run.sh")).stdout == "ran\n"
    await machine.get("model", to=tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "data").read_bytes() == (tree / "deep" / "data").read_bytes()
    with pytest.raises(MachineError, match=r"could not copy .*nothing"):
        await machine.get("nothing", to=tmp_path)
    assert machine.get("zone") == machine.zone, "as of any mapping"
    with pytest.raises(MachineError, match=r"could not copy .*absent"):
        await machine.put(tmp_path / "absent")


async def test_everything_to_a_machine_goes_over_one_connection_which_is_made_again_when_it_has_broken(machine, session, monkeypatch):
    made = []
    connect = ssh.connect

    async def counted(*args, **options):
        made.append(await connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(ssh, "connect", counted)
    both = await asyncio.gather(*(machine.run(f"echo {number}") for number in range(5)))
    assert [one.stdout for one in both] == [f"{number}\n" for number in range(5)]
    await machine.forward(22)
    assert len(made) == 1
    assert repr(machine.link()) == "<link open>"

    async def break_it():
        made[0].abort()
        await made[0].wait_closed()

    await session.submit(break_it(), "a broken wire")
    assert repr(machine.link()) == "<link closed>"
    again = await asyncio.gather(*(machine.run("echo again") for _ in range(5)))
    assert {one.stdout for one in again} == {"again\n"}
    assert len(made) == 2, "whoever finds it broken shares the next"


async def test_a_machine_is_reached_through_another_one(session, request_):
    machines = await bring_up_spots(request_, 2, "sleep 1000", session=session)
    door, inner = machines.succeeded
    assert (await inner.run("true")).ok
    inner.via = door
    assert (await inner.run("true")).ok
    assert repr(door.link()) == "<link open>", "the way leads through it, also where another had been taken before"
    assert (await inner.run("hostname")).stdout != (await door.run("hostname")).stdout


async def test_on_many_machines_failures_are_values_and_a_dead_one_hides_no_other(session, request_, monkeypatch):
    monkeypatch.setattr(link, "SECONDS", 1.0)
    machines = await bring_up_spots(request_, 4, "sleep 1000", session=session)
    first, second, *_ = machines.succeeded
    await first.run("touch broken")
    second._slot.report = dataclasses.replace(second._slot.report, ssh_port=1)  # where nobody listens
    outcomes = await machines.run("[ ! -e broken ] || { echo trouble >&2; exit 5; }; echo fine")
    assert set(outcomes) == {one.instance_id for one in machines.values()}
    assert set(outcomes.failed) == {first.instance_id, second.instance_id}
    assert {one.stdout for one in outcomes.succeeded.values()} == {"fine\n"}
    *bad, good = outcomes.groups()
    assert ("exit 5\ntrouble\n", False, (first.instance_id,)) in bad
    assert any("no SSH to" in group.text and group.machines == (second.instance_id,) for group in bad)
    assert (good.text, len(good.machines)) == ("fine\n", 2)
    assert "── 2 × ok" in str(outcomes)
    assert "trouble" in outcomes._repr_html_()
    with pytest.raises(MachineError, match="failed on 2 of 4 machines") as caught:
        await machines.run("[ ! -e broken ]", check=True)
    assert caught.value.fields["machines"] == sorted(outcomes.failed)


async def test_files_go_to_many_machines_and_from_each_into_a_directory_of_its_own(session, request_, tmp_path):
    machines = await bring_up_spots(request_, 3, "sleep 1000", session=session)
    (tmp_path / "data").write_text("numbers\n")
    assert len((await machines.put(tmp_path / "data")).succeeded) == 3
    await machines.run("hostname >> data", check=True)
    outcomes = await machines.get("data", to=tmp_path / "all", check=True)
    texts = {name: (directory / "data").read_text() for name, directory in outcomes.succeeded.items()}
    assert len(set(texts.values())) == 3
    assert {path.name for path in (tmp_path / "all").iterdir()} == {one.instance_id for one in machines.values()}


async def test_after_the_teardown_there_is_no_way_to_a_machine(machine, session):
    await machine.run("true")
    await teardown_all(session=session)
    with pytest.raises(MachineError, match=r"no SSH to .*torn down"):
        await machine.run("true")


@pytest.mark.parametrize(
    ("what", "options"),
    [("", {}), ([], {}), (b"true", {}), ("a\0b", {}), ("true", {"env": {"A B": "1"}}), ("true", {"timeout": 0}),
     (Command("true"), {"cwd": "/"})],
)
def test_what_no_machine_could_run_is_refused_before_anything_is_sent(what, options):
    with pytest.raises(RequestInvalid):
        command(what, **options)
