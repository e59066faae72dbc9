"""The command line as people and scripts use it: real processes, their output, their exit status, and what they leave."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fleetctl import bring_up_one_spot, local

pytestmark = pytest.mark.cloud


@pytest.fixture
def place(environment):
    """A directory for all temporary files of a process; short, since there will be sockets in it."""
    place = Path(tempfile.mkdtemp(prefix="cli-"))
    environment["TMPDIR"] = str(place)
    yield place
    shutil.rmtree(place)


def processes(place):
    """Command lines of the living processes that have to do with a directory."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                told = [Path(entry.path, name).read_bytes() for name in ("cmdline", "environ")]
            except OSError:
                continue
            if any(str(place).encode() in one for one in told):
                found.append(told[0].replace(b"\0", b" ").decode())
    return found


def test_the_demo_prints_one_json_object_and_leaves_nothing(fleetctl, place):
    done = fleetctl("demo", "--json", "--workers", "2", "--jobs", "5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == ["machines", "ec2_calls", "jobs", "nodes", "log_lines", "cost", "receipt"]
    assert {name: report["machines"][name] for name in ("wanted", "up")} == {"wanted": 4, "up": 4}
    assert report["machines"]["from"] == "bundle" and len(report["machines"]["bundle"]) == 64
    boot = report["machines"]["boot"]
    assert set(boot) == {"bundle", "image"} and all(0 < one["median"] <= one["slowest"] for one in boot.values())
    assert set(report["ec2_calls"]) == {"server", "distributor", "workers"}
    waits = report["machines"]["seconds"] // 30
    assert all(0 < count <= 6 + waits for count in report["ec2_calls"].values()), report["ec2_calls"]
    jobs = report["jobs"]
    assert (jobs["asked"], jobs["done"], jobs["executed"], jobs["distinct"]) == (80, 5, 11, 11)
    assert jobs["seconds"] > 0
    assert jobs["ms_per_job"] == pytest.approx(1000 * jobs["seconds"] / 5, abs=0.2)
    assert jobs["ms_per_call"] == pytest.approx(1000 * jobs["seconds"] / 80, abs=0.2)
    assert sum(report["nodes"].values()) == 11
    assert len(report["nodes"]) <= 2
    assert report["log_lines"] > 0
    assert set(report["cost"]) == {"per_hour", "so_far", "machines", "unpriced", "budget", "leaves_out", "parts"}
    assert report["cost"]["machines"] == 0
    assert report["receipt"]["remaining"] == []
    found = [line["thing"] for line in report["receipt"]["found"]]
    assert {thing: found.count(thing) for thing in set(found)} == {
        "spot request": 6, "instance": 6, "topic": 1, "queue": 1, "subscription": 1, "parameter": 1, "bucket": 1
    }
    assert "Traceback" not in done.stderr
    assert list(place.iterdir()) == []
    assert processes(place) == []


def test_a_demo_that_is_kept_says_how_to_look_at_it_and_how_to_end_it(fleetctl, place):
    done = fleetctl("demo", "--keep", "--json", "--workers", "1", "--jobs", "2", "--reclevel", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["receipt"] is None
    assert report["cost"]["machines"] == 3
    home = re.search(r"export FLEETCTL_HOME=(\S+)", done.stderr)[1]
    look, end = done.stderr.partition("kept. To look at it:\n")[2].split("and to end it:\n")
    assert len(local.status(Path(home) / "local").inventory()["instances"]) == 3
    shell = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TMPDIR": str(place), "COLUMNS": "200"}

    def run(lines):
        return subprocess.run(["bash", "-euc", lines], env=shell, text=True, capture_output=True, timeout=120, check=False)

    looked = run(look)
    assert looked.returncode == 0, looked
    assert "UNOWNED" in looked.stdout
    ending, _, removal = end.rpartition(" && ")
    ended = run(f"export FLEETCTL_HOME={home}\n{ending}")
    assert ended.returncode == 0, ended
    assert "all seen gone" in ended.stdout
    assert "the local cloud has ended" in ended.stdout
    assert processes(place) == []
    assert {path.name for path in Path(home).iterdir()} <= {"bundles", "ledgers", "local"}
    assert list(Path(home, "local").iterdir()) == [], "a local cloud leaves no file"
    assert run(removal).returncode == 0
    assert not Path(home).exists(), "what it says leaves nothing"


def test_a_demo_that_is_interrupted_leaves_nothing(environment, place):
    process = subprocess.Popen([sys.executable, "-m", "fleetctl", "demo", "--workers", "3", "--json"], env=environment, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        for line in process.stderr:
            if "bringing up" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert list(place.iterdir()) == []
    assert processes(place) == []


def test_the_local_cloud_goes_up_once_tells_where_it_is_and_goes_down(fleetctl, wait_for, tmp_path):
    none = fleetctl("local", "status", at=tmp_path)
    assert (none.returncode, none.stderr) == (1, "")
    assert "fleetctl local up starts it" in none.stdout
    up = fleetctl("local", "up", at=tmp_path)
    try:
        assert up.returncode == 0, up.stderr
        pid = int(re.search(r"process (\d+)", up.stdout)[1])
        status = fleetctl("local", "status", at=tmp_path)
        assert status.returncode == 0
        assert f"process {pid}" in status.stdout
        assert "0 instances" in status.stdout
        assert "there was nothing to end" in fleetctl("down", at=tmp_path).stdout
    finally:
        down = fleetctl("local", "down", at=tmp_path)
    assert down.returncode == 0
    assert "has ended" in down.stdout
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    again = fleetctl("local", "down", at=tmp_path)
    assert (again.returncode, again.stdout.strip()) == (0, "the local cloud did not run")


def test_a_local_cloud_with_machines_is_not_ended_by_mistake(fleetctl, session, request_, living):
    machine = bring_up_one_spot(request_, "sleep 1000", session=session).result(60)
    refused = fleetctl("local", "down")
    assert refused.returncode == 1
    assert machine.instance_id in refused.stderr
    assert "to do:" in refused.stderr
    assert refused.stdout == ""
    assert machine.instance_id in living()


def test_looking_for_sessions_starts_no_cloud(fleetctl, tmp_path):
    shown, ended = fleetctl("ls", at=tmp_path), fleetctl("down", at=tmp_path)
    assert (shown.returncode, shown.stdout.strip()) == (0, "no session is alive, and none has left anything")
    assert (ended.returncode, ended.stdout.strip()) == (0, "there was nothing to end")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("local",),
        ("local", "sideways"),
        ("demo", "--workers", "0"),
        ("demo", "--workers", "many"),
        ("demo", "--jobs", "-1"),
        ("demo", "--reclevel", "9"),
        ("down", "--everything"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_on_stderr_with_status_two(arguments, capsys):
    from fleetctl.__main__ import main

    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ")
