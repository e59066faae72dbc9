"""A grid under fire: random parts are killed for a bounded time, and each of the calls must have exactly one result, the right one.

    python benchmarks/soak.py --seconds 60 --seed 1
    python benchmarks/soak.py --seconds 10 --seed 1 --no-recovery     # the control: without recovery some must be lost

What dies: workers, whole hosts (a supervisor with its workers), the distributor, the server (restarted from its append-only file), all
connections; workers stand still for a moment; and workers die by themselves at failpoints: before a script is sent, on its way, before
its reply is used. Prints one JSON object. Executions are counted in a file, outside the grid.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import soak_calls  # noqa: E402  (from this directory, here and on the workers)

from gridworker import Grid, GridError  # noqa: E402
from gridworker.answers import Answer  # noqa: E402
from gridworker.keys import Keys  # noqa: E402
from gridworker.server import Server  # noqa: E402

HOSTS, WORKERS = 2, 2
OUTSTANDING = 60            # root calls that are waited for at a time
PATIENCE = 90.0             # seconds for the last results, after the last kill
KINDS = {"worker": 8, "connections": 3, "stand still": 3, "host": 2, "distributor": 2, "server": 1}     # with their weights


class Soak:
    """One run. `recovery=False` is the control: nothing is given back, and only workers are killed."""

    def __init__(self, directory: Path, seconds: float, seed: int, recovery: bool) -> None:
        self.directory, self.seconds, self.seed, self.recovery = directory, seconds, seed, recovery
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.on_owned = 0
        self.keys = Keys("soak")
        self.server = Server(unix=True, directory=directory / "server", durable=True)
        self.secret = directory / "secret"
        self.noted, self.deaths = directory / "executed", directory / "deaths"
        self.hosts: list[subprocess.Popen[bytes]] = []
        self.distributor: subprocess.Popen[bytes] | None = None
        self.stopped: list[int] = []

    def __repr__(self) -> str:
        return f"<Soak seed={self.seed} kills={sum(self.kills.values())}>"

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "SOAK_SEED": str(self.seed),
                       "GRIDWORKER_SECRET_FILE": str(self.secret), "GRIDWORKER_DEAD_MS": "2500", "SOAK_NOTES": str(self.deaths),
                       "SOAK_FAILPOINTS": "0.0005", "SOAK_RECOVERY": "1" if self.recovery else "0"}
        command = [sys.executable, "-m", "soak_node", "--unix", self.server.address.path, "--namespace", "soak", *options]
        with open(self.directory / "nodes.log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _start_host(self) -> None:
        self.hosts.append(self._start("--worker", str(WORKERS)))

    def run(self) -> dict[str, Any]:
        """The figures of the run."""
        key = os.urandom(32).hex()
        self.secret.touch(mode=0o600)
        with self.server as server:
            self.secret.write_text(f"{server.password} {key}\n")
            for _ in range(HOSTS):
                self._start_host()
            self.distributor = self._start("--distributor", "pool", "--helper", "100")
            try:
                with Grid.connect(server.url, password=server.password, key=key, namespace="soak") as grid:
                    return self._count(*self._fire(grid))
            finally:
                for pid in self.stopped:
                    _signal(pid, signal.SIGCONT)
                for process in [*self.hosts, self.distributor]:
                    process.kill()
                    process.wait()

    def _fire(self, grid: Grid) -> tuple[dict[str, tuple[int, Answer[Any]]], float]:
        """Asks and kills until the time is over, then waits for what is not done. Returns the root calls: number -> (level, answer)."""
        began = time.monotonic()
        asked: dict[str, tuple[int, Answer[Any]]] = {}
        open_calls: list[str] = []
        next_kill = began + 0.5
        while time.monotonic() < began + self.seconds:
            open_calls = [number for number in open_calls if not asked[number][1].done()]
            while len(open_calls) < OUTSTANDING:
                number, level = f"{self.seed}:{len(asked)}", self.dice.choice([0, 0, 1, 2, 3])
                asked[number] = level, grid.request("pool", soak_calls.work, str(self.noted), number, level, self.dice.choice([0.1, 1, 4]))
                open_calls.append(number)
            if time.monotonic() >= next_kill:
                self._kill()
                next_kill = time.monotonic() + self.dice.uniform(0.05, 0.5)
            time.sleep(0.01)                # the pace of the soak, not a wait for anything
        for pid in self.stopped:
            _signal(pid, signal.SIGCONT)
        deadline = time.monotonic() + (PATIENCE if self.recovery else 8.0)
        for number in open_calls:
            try:
                asked[number][1].result(max(0.01, deadline - time.monotonic()))
            except (TimeoutError, GridError):
                continue
        return asked, time.monotonic() - began

    def _kill(self) -> None:
        kind = self.dice.choices(list(KINDS), list(KINDS.values()))[0] if self.recovery else "worker"
        connection = self.server.connection()
        try:
            nodes = connection.call("HGETALL", self.keys.nodes)
            known = dict(zip(nodes[::2], map(json.loads, nodes[1::2]), strict=True))
            owned = {node: connection.call("HLEN", self.keys.owned(node.decode())) for node in known}
            workers = {node: about for node, about in known.items() if about["kind"] == "worker"}
            if not workers:
                return
            victim = self.dice.choice(sorted(workers))
            if kind == "worker":
                hit = owned[victim]
                _signal(workers[victim]["pid"], signal.SIGKILL)
            elif kind == "stand still":
                hit = 0
                self._stand_still(workers[victim]["pid"])
            elif kind == "connections":
                hit = sum(owned.values())
                connection.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
            elif kind == "server":
                hit = sum(owned.values())
                pid = int(connection.call("INFO", "server").decode().split("process_id:")[1].split()[0])
                _signal(pid, signal.SIGKILL)
            else:
                hit = self._kill_process(kind, workers, owned)
        finally:
            connection.close()
        if kind == "server":
            self.server.stop()
            self.server.start()
        self.kills[kind] += 1
        self.on_owned += bool(hit)

    def _stand_still(self, pid: int) -> None:
        for stopped in self.stopped:
            _signal(stopped, signal.SIGCONT)
        self.stopped = [pid]
        _signal(pid, signal.SIGSTOP)

    def _kill_process(self, kind: str, workers: dict[bytes, Any], owned: dict[bytes, int]) -> int:
        process = self.distributor if kind == "distributor" else self.dice.choice(self.hosts)
        assert process is not None
        children = set(_children(process.pid))
        hit = sum(owned[node] for node, about in workers.items() if about["pid"] in children)
        process.kill()
        process.wait()
        if kind == "distributor":
            self.distributor = self._start("--distributor", "pool", "--helper", "100")
        else:
            self.hosts.remove(process)
            self._start_host()
        return hit

    def _count(self, asked: dict[str, tuple[int, Answer[Any]]], seconds: float) -> dict[str, Any]:
        lost = wrong = failed = 0
        for number, (level, answer) in asked.items():
            if not answer.done():
                lost += 1
                continue
            try:
                wrong += answer.result() != soak_calls.value(number, level)
            except GridError as error:
                print(f"{number}: {error}", file=sys.stderr)
                failed += 1
        executed = Counter(self.noted.read_text().split())
        deaths = [line.split() for line in self.deaths.read_text().splitlines()] if self.deaths.exists() else []
        points = Counter(f"{words[0]} {words[1]}" for words in deaths)
        return {"seed": self.seed, "recovery": self.recovery, "seconds": round(seconds, 1), "kills": sum(self.kills.values()) + len(deaths),
                "kills that hit owned work": self.on_owned + sum(words[2] != "0" for words in deaths), "calls": len(executed),
                "asked by the client": len(asked), "lost": lost, "wrong": wrong, "failed": failed,
                "run twice": sum(executed.values()) - len(executed),
                "run twice in %": round(100 * (sum(executed.values()) / max(1, len(executed)) - 1), 2),
                "killed": dict(self.kills), "failpoints": dict(points)}


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:      # it has died by itself meanwhile
        return


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> int:
    """Exit status 0 if nothing was lost, wrong or failed (in the control: if something was lost)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-recovery", dest="recovery", action="store_false")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        figures = Soak(Path(directory), options.seconds, options.seed, options.recovery).run()
    print(json.dumps(figures))
    return int(bool(figures["lost"] + figures["wrong"] + figures["failed"]) == options.recovery)


if __name__ == "__main__":
    sys.exit(main())
