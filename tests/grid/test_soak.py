"""The soak and the memory run, short: the figures that the docs show are made by the same scripts, run for longer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def figures(script: str, *options: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    result = subprocess.run([sys.executable, str(BENCHMARKS / script), *options], capture_output=True, text=True, timeout=110, check=False,
                            env={**os.environ, **(environment or {})})
    assert result.stdout, result.stderr[-2000:]
    return dict(json.loads(result.stdout.splitlines()[-1]), status=result.returncode)


@pytest.mark.timeout(120)
def test_under_fire_each_call_has_exactly_one_result_and_it_is_right() -> None:
    seed = random.randrange(10_000)
    run = figures("soak.py", "--seconds", "5", "--seed", str(seed), *(["--one-machine"] if seed % 2 else []))
    assert run["lost"] == run["wrong"] == run["failed"] == run["status"] == 0, run
    assert run["kills that hit owned work"] > 0
    assert run["asked by the killed client"] > 0
    assert run["calls"] > 100


def test_without_recovery_the_soak_sees_losses() -> None:
    run = figures("soak.py", "--seconds", "3", "--seed", "1", "--no-recovery")
    assert run["lost"] > 0, run
    assert run["wrong"] == run["status"] == 0


def test_memory_stays_flat() -> None:
    run = figures("memory.py", "--first", "15000", "--last", "45000", environment={"GRIDWORKER_KEPT_MOST": "5000"})
    assert run["bytes for each call"]["server"] < 30, run          # a kept result takes 200
    assert run["bytes for each call"]["workers"] < 60, run
    assert run["keys"][1] < 12_000
