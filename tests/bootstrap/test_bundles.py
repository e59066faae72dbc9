"""Bundles, files and variables on a machine: the real boot script fetches them with its role, checks them, and makes a Python of them."""

import os
import sys

import pytest

from fleetctl import bundle
from fleetctl.bootstrap import program
from fleetctl.bundle import distributions
from fleetctl.bundle.cargo import loaded
from fleetctl.cloud.bucket import Bucket
from fleetctl.messages import Phase


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A project with a file that is a program's data."""
    place = tmp_path_factory.mktemp("bundles")
    (place / "mine").mkdir()
    (place / "mine" / "mine.py").write_text("import gridworker, sys\nprint('mine', sys.prefix)\n")
    return bundle.build(place / "mine", home=place)


@pytest.fixture
def load(cloud, machine):
    """Puts a launch's cargo where its machine looks for it; returns the program that fetches it."""
    place = Bucket(None, None, "s1", "eu-west-1", name="fleetctl-s1-0a0b0c0d")
    plain = machine.root / "bin" / f"python{distributions.HERE}"
    machine.put(plain.name, "exit 1\n")
    plain.unlink()
    plain.symlink_to(os.path.realpath(sys._base_executable))

    def put(cmds, *, made=None, files=(), env=None, check=None):
        cargo = loaded(made, files, env or {})
        if made:
            cloud.objects[f"/{place.common(made.key)}"] = made.read(0, made.size)
        if cargo.body:
            cloud.objects[f"/{place.whole(f'files-{machine.launch}')}"] = cargo.body
        what = program(cmds)
        return cargo.program(type(what)(what.lines, check), place, machine.launch)

    return put


def fetched(cloud, what):
    return [call for call in cloud.calls if call.startswith("s3 GET") and what in call]


def test_the_commands_python_is_the_bundles_and_the_check_sees_it_too(cloud, machine, load, built):
    machine.boot(load(["python3 -c 'import mine' >out", "exec python -c 'import time; time.sleep(60)'"], made=built,
                      check='[[ $VIRTUAL_ENV == */"' + built.name + '" ]] && python3 -c "import mine"'))  # fmt: skip
    assert cloud.report(Phase.READY).exit_code is None
    said = (machine.root / "home" / "out").read_text().split()
    assert (said[0], said[1].rpartition("/")[2]) == ("mine", built.name)
    assert f"bundle {built.name[:12]} is active after" in machine.log
    assert len(fetched(cloud, built.name)) == 1


def test_files_and_variables_are_there_and_in_no_user_data(cloud, machine, load, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.csv").write_text("1,2\n")
    (tmp_path / "tool").write_text("#!/bin/sh\necho \"$WORD\"\n")
    (tmp_path / "tool").chmod(0o755)
    machine.boot(load(["./bin/say >out", "cat data/in.csv >>out"], files={"data": tmp_path / "data", "bin/say": tmp_path / "tool"},
                      env={"WORD": "hush 'hush\" $HOME"}))  # fmt: skip
    assert cloud.report(Phase.READY).exit_code == 0
    assert (machine.root / "home" / "out").read_text() == "hush 'hush\" $HOME\n1,2\n"
    assert "hush" not in (machine.root / "user-data").read_text() + machine.log
    assert (machine.run / "activate").stat().st_mode & 0o777 == 0o600
    assert not list(machine.run.glob("files*"))


def test_a_bundle_that_is_there_is_not_fetched_again(cloud, machine, load, built):
    first = load("true", made=built)
    machine.boot(first)
    assert cloud.report(Phase.READY).exit_code == 0
    again = type(first)((*first.lines, first.lines[0], "python3 -c 'import mine'"))
    machine.launch = type(machine.launch)(int=1)
    machine.boot(again)
    cloud.wait(lambda: [one for one in cloud.reports if one.launch == machine.launch and one.phase is Phase.READY])
    assert len(fetched(cloud, built.name)) == 1


def test_what_is_not_the_bundle_is_not_run(cloud, machine, load, built):
    what = load("echo never >out", made=built)
    cloud.objects = {key: (built.read(0, built.size - 9) if built.name in key else body) for key, body in cloud.objects.items()}
    machine.put("sleep", "exec /bin/sleep 0.01\n")  # two minutes of trying
    machine.boot(what)
    assert "could not be fetched" in cloud.report(Phase.FAILED).tail
    assert not (machine.root / "home" / "out").exists()


@pytest.mark.parametrize(
    ("there", "words"),
    [("echo 3.9", "has 3.9 on"), ("exit 1", "has a Python that does not start on"), (None, "has no Python at all on")],
)
def test_another_python_is_an_error_that_names_both_sides(cloud, machine, load, built, there, words):
    what = load("echo never >out", made=built)
    (machine.root / "bin" / f"python{distributions.HERE}").unlink()
    for name in ("python3", "python"):
        if there:
            machine.put(name, f"{there}\n")
    machine.boot(what, PATH=f"{machine.root}/bin:{only(machine)}")
    failed = cloud.report(Phase.FAILED)
    assert failed.exit_code == 86
    assert f"is for Python {distributions.HERE} on {distributions.machine()}, and this machine {words}" in failed.tail


def only(machine):
    """A directory with the system's commands, but none of its Pythons."""
    place = machine.root / "system"
    place.mkdir(mode=0o755)
    for source in ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for name in os.listdir(source):
            if not name.startswith("python") and not (place / name).is_symlink():
                (place / name).symlink_to(os.path.join(source, name))
    return place


def test_another_processor_is_an_error_that_names_both_sides(cloud, machine, load, built):
    import dataclasses

    other = dataclasses.replace(built, machine="riscv64")
    machine.boot(load("true", made=other))
    assert f"on riscv64, and this machine has {distributions.HERE} on {distributions.machine()}" in cloud.report(Phase.FAILED).tail
