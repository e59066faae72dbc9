"""The benchmark of SSH runs, here on few machines, and its JSON has what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "ssh.py"


@pytest.mark.cloud
def test_the_benchmark_measures_each_tool_on_the_same_machines(tmp_path):
    file = tmp_path / "results.json"
    ran = subprocess.run(
        [sys.executable, BENCHMARK, "--json", file, "--machines", "3", "--rounds", "1", "--only", "fleetctl,asyncssh"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    results = json.loads(file.read_text())
    assert set(results) == {"fleetctl", "asyncssh"}
    for row in results.values():
        assert set(row) == {"warm_s", "cold_s", "ok"}
        assert row["ok"] is True and row["warm_s"] > 0 and row["cold_s"] > 0


def test_an_unknown_tool_is_refused_with_its_name():
    ran = subprocess.run([sys.executable, BENCHMARK, "--only", "telnet"], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "telnet" in ran.stderr
