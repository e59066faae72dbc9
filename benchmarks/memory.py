"""Does a long-lived grid stay flat? Memory of server, workers and client after 200,000 calls and after 1,000,000, at default settings.

    python benchmarks/memory.py [--first 200000] [--last 1000000]

Prints one JSON object: MB at both points, and bytes for each call in between. Every call is distinct, so that nothing is shared, and the
results are dropped as they come. The server's figure is its `used_memory`, those of processes their proportional share (PSS).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import memory_calls  # noqa: E402  (from this directory, here and on the workers)

from gridworker import Grid  # noqa: E402
from gridworker.server import Server  # noqa: E402

BATCH = 5000


def pss(pid: int) -> int:
    """Bytes of a process, its share of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(grid: Grid, server: Server) -> dict[str, int]:
    """Bytes of each part, and how many keys the server has."""
    connection = server.connection()
    used = int(connection.call("INFO", "memory").decode().split("used_memory:")[1].split()[0])
    keys = connection.call("DBSIZE")
    connection.close()
    workers = sum(pss(node["pid"]) for node in grid.status().nodes.values() if node["kind"] == "worker")
    return {"server": used, "workers": workers, "client": pss(os.getpid()), "keys": keys}


def run(first: int, last: int, workers: int = 2) -> dict[str, Any]:
    """The figures between `first` and `last` calls."""
    with tempfile.TemporaryDirectory(prefix="memory-") as name, Server(unix=True, directory=Path(name) / "server") as server:
        secret, key, ready = Path(name) / "secret", os.urandom(32).hex(), Path(name) / "ready"
        secret.touch(mode=0o600)
        secret.write_text(f"{server.password} {key}\n")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "GRIDWORKER_SECRET_FILE": str(secret)}
        command = [sys.executable, "-m", "gridworker", "--unix", server.address.path, "--worker", str(workers), "--ready-file", str(ready)]
        nodes = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            while not ready.exists():
                time.sleep(0.01)
            with Grid.connect(server.url, password=server.password, key=key) as grid:
                before: dict[str, int] = {}
                began = time.monotonic()
                for done in range(0, last, BATCH):
                    if done >= first and not before:
                        before = measure(grid, server)
                    calls = range(done, min(done + BATCH, last))
                    assert grid.requests("pool", [(memory_calls.double, i) for i in calls]).result(120) == [2 * i for i in calls]
                after = measure(grid, server)
                seconds = time.monotonic() - began
        finally:
            nodes.terminate()
            nodes.wait()
    slope = {part: round((after[part] - before[part]) / (last - first), 2) for part in ("server", "workers", "client")}
    return {"calls": [first, last], "seconds": round(seconds, 1), "MB before": _mb(before), "MB after": _mb(after),
            "keys": [before["keys"], after["keys"]], "bytes for each call": slope}


def _mb(figures: dict[str, int]) -> dict[str, float]:
    return {part: round(figures[part] / 1e6, 1) for part in ("server", "workers", "client")}


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=200_000)
    parser.add_argument("--last", type=int, default=1_000_000)
    options = parser.parse_args()
    print(json.dumps(run(options.first, options.last)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
