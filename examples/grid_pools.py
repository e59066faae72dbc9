"""Pools of pools: two pools of workers below one, in which work goes to whoever is idle. Here all of it is on this computer.

    python examples/grid_pools.py

On machines of a fleet the same command lines run on each, with `--host` and `--port` of the grid's server.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gridworker import Grid, node_id, requests
from gridworker.server import Server


def where(i: int) -> str:
    time.sleep(0.05)
    return node_id().rpartition(".")[0]


def places(n: int) -> list[str]:
    return requests([(where, i) for i in range(n)])


with Server() as server, tempfile.TemporaryDirectory() as directory:
    secret = Path(directory) / "secret"
    secret.write_text(f"{server.password} {os.urandom(32).hex()}\n")
    environment = os.environ | {"GRIDWORKER_SECRET_FILE": str(secret)}
    command = [sys.executable, "-m", "gridworker", "--port", str(server.address.port), "--helper", "50"]
    nodes = [subprocess.Popen([*command, "--worker", f"{name}.1,{name}.2", "--pool", name, "--distributor", name, "--link", f"{name}=all"],
                              env=environment, stdout=subprocess.DEVNULL) for name in ("left", "right")]
    key = secret.read_text().split()[1]
    with Grid(server.url, password=server.password, key=key, pool="all") as grid:
        print("at work for the pool above them:", sorted(set(grid.request(places, 40).result())))
        print("pools:", {name: pool["parent"] for name, pool in grid.status().pools.items()})
    for process in nodes:
        process.terminate()
        process.wait()
