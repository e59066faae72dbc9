"""The benchmark runs, here with a few calls of each workload, and its JSON has every system's rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gridworker

BENCHMARK = Path(gridworker.__file__).parents[1] / "benchmarks" / "grid.py"


def test_the_benchmark_measures_every_workload_and_the_floors(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = subprocess.run([sys.executable, str(BENCHMARK), "--json", str(file), "--rounds", "1", "--scale", "0.02", "--w", "W1,W2,W3,W4,W6",
                           "--only", "gridworker,gridworker-bare,limits"], capture_output=True, text=True, timeout=100, check=True)
    results = json.loads(file.read_text())
    assert set(results) == {"gridworker", "gridworker-bare", "limits"}
    for name in ("gridworker", "gridworker-bare"):
        assert set(results[name]) == {"W1", "W2", "W3", "W4", "W6"}
        assert not [row for rows in results[name].values() for row in rows if "fail" in row]
        assert results[name]["W4"][0]["executions"] == 26
    floors = results["limits"]["limits"][0]
    assert 0 < floors["queue_ping_pong_us"] <= floors["queue_ping_pong_p99_us"]
    assert "| W2 per_s | gridworker |" in done.stdout


def test_an_unknown_workload_is_refused_with_its_name() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK), "--w", "W9"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "W9" in done.stderr
