"""Each example runs as its reader would run it: as a process of its own, and it leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fleetctl import local

EXAMPLES = Path(__file__).parents[1] / "examples"

SAYS = {  # what must stand in the output, in this order
    "as_they_arrive": [
        r"[456] are up, enough to begin",
        *[r"up: i-\w+ 127\."] * 6,
        r"all are there: <machines: 6 up, 0 failed",
        r"all seen gone",
    ],
    "existing_machines": [
        r"<hosts: lab-\d, lab-\d>",
        r"── 2 × ok: lab-\d, lab-\d\nLinux\n",
        r"diagnosis of lab-0: ",
        r"GiB free",
        r"all seen gone",
    ],
    "following_a_log": [r"step 1\nstep 2\nstep 3\n", r"21 \* 2 = 42, computed by ", r"all seen gone"],
    "failing_command": [
        r"exit code: 1",
        r"preparing",
        r"cat: no-such-file: No such file",
        r"known after \d\.\d s of 600 s",
        r"all seen gone",
    ],
    "grid": [
        r"fib\(20\) = 6765 by 21 calls",
        r"inverses: \[1\.0, 0\.5, 0\.25\]",
        r"inverse\(0\) raised ZeroDivisionError",
        r"called by inverses\(\[1, 0\]\)",
        r"all seen gone",
    ],
    "one_line_grid": [
        r"below 10,000: 261 steps, by 3 machines",
        r"below 20,000: 278 steps, by 1 machine",
        r"all seen gone|nothing was found",
    ],
    "hands": [
        r"Linux on t3\.micro|Darwin on t3\.micro",
        r"── 3 × ok: i-\w+, i-\w+, i-\w+\n12\n",
        r"not there",
        r"3 files here",
        r"all seen gone",
    ],
    "home": [r"one machine at a time: held", r"Bob finds: \[\]", r"Ada finds: depth 40 m", r"all seen gone"],
    "kernel": [r"computed in \w+", r"product: 3360", r"error: .*IndexError", r"all seen gone"],
    "ways_and_marks": [
        r"there answers: SSH",
        r"one at a time: True",
        r"it says of itself: \{'deployed': 'version 3'\} ready",
        r"looks well: (True|False)",
        r"all seen gone",
    ],
    "script": [*[r"i-\w+ ready 127\.\S+ \$0\.\d{4} an hour"] * 3, r"all seen gone", r"instance +i-\w+ .* terminated"],
    "standby": [r"handed out at once: 1 2 3", r"<standby standby: \d free of 2, 0 taken", r"all seen gone"],
    "two_launches": [
        r"up: t3\.micro at .*, m3\.medium at ",
        r"together \$0\.\d{4} an hour",
        r"all seen gone",
        r"still <launch \w+ up: 1/1 × m3.medium up",
        r"all seen gone",
    ],
}

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """State of the examples' own; their local cloud ends with the tests."""
    home = tmp_path_factory.mktemp("examples")
    yield home
    local.down(home / "local", force=True)


def test_every_example_is_known_here():
    of_the_grid = {path.stem for path in EXAMPLES.glob("grid_*.py")}  # need no machines; tests/grid runs them
    assert sorted(SAYS) == sorted({path.stem for path in EXAMPLES.glob("*.py")} - of_the_grid)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_does_what_it_says(name, home):
    ran = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        env={**os.environ, "FLEETCTL_HOME": str(home), "PYTHONWARNINGS": "error::ResourceWarning"},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    at = 0
    for pattern in SAYS[name]:
        found = re.compile(pattern).search(ran.stdout, at)
        assert found, f"{pattern!r} is not there, or not after what comes before it:\n{ran.stdout}"
        at = found.end()
    assert local.status(home / "local").inventory()["instances"] == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path):
    lines = path.read_text().splitlines()
    assert 20 <= len(lines) <= 60
    assert f"    python examples/{path.name}" in lines
