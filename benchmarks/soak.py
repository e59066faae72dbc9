"""A grid under fire: random parts are killed for a bounded time, and each of the calls must have exactly one result, the right one.

    python benchmarks/soak.py --seconds 60 --seed 1
    python benchmarks/soak.py --seconds 60 --seed 1 --one-machine     # big values in shared memory; the server, which has no disk, lives on
    python benchmarks/soak.py --seconds 10 --seed 1 --no-recovery     # the control: without recovery some must be lost

What dies: workers, whole hosts (a supervisor with its workers), the distributor, the server (restarted from its append-only file), all
connections; workers stand still for a moment; workers die by themselves at failpoints: before a script is sent, on its way, before its
reply is used; and a second client dies in the midst of its maps, and its next life goes on under its name (soak_client.py). Prints one
JSON object. Executions are counted in a file, outside the grid.
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
import soak_client  # noqa: E402

from gridworker import Grid, GridError  # noqa: E402
from gridworker.answers import Answer  # noqa: E402
from gridworker.keys import Keys  # noqa: E402
from gridworker.server import Server  # noqa: E402

HOSTS, WORKERS = 2, 2
OUTSTANDING = 60            # root calls that are waited for at a time
PATIENCE = 90.0             # seconds for the last results, after the last kill
KINDS = {"worker": 8, "connections": 3, "stand still": 3, "client": 3, "host": 2, "distributor": 2, "server": 1}     # with their weights


class Soak:
    """One run. `recovery=False` is the control: nothing is given back, and only workers are killed. `one_machine`: as `Grid()` does it."""

    def __init__(self, directory: Path, seconds: float, seed: int, recovery: bool, one_machine: bool = False) -> None:
        self.directory, self.seconds, self.seed, self.recovery = directory, seconds, seed, recovery
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.on_owned = 0
        self.keys = Keys("soak")
        self.kinds = {kind: weight for kind, weight in KINDS.items() if not (one_machine and kind == "server")}
        self.server = Server(unix=True, directory=directory / "server", durable=not one_machine, shelf=one_machine)
        self.secret = directory / "secret"
        self.noted, self.deaths = directory / "executed", directory / "deaths"
        self.hosts: list[subprocess.Popen[bytes]] = []
        self.distributor: subprocess.Popen[bytes] | None = None
        self.stopped: list[int] = []
        self.client: subprocess.Popen[bytes] | None = None         # the one that is killed
        self.broken = 0                     # lives of its that ended by themselves, with an error
        self.journal, self.stop = directory / "journal", directory / "stop"

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

    def _start_client(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "GRIDWORKER_SECRET_FILE": str(self.secret),
                       "SOAK_JOURNAL": str(self.journal), "SOAK_NOTES": str(self.noted), "SOAK_STOP": str(self.stop),
                       "SOAK_SOCKET": self.server.address.path}
        self.client = subprocess.Popen([sys.executable, str(HERE / "soak_client.py")], env=environment)

    def run(self) -> dict[str, Any]:
        """The figures of the run."""
        key = os.urandom(32).hex()
        self.secret.touch(mode=0o600)
        with self.server as server:
            self.secret.write_text(f"{server.password} {key}\n")
            for _ in range(HOSTS):
                self._start_host()
            self.distributor = self._start("--distributor", "pool", "--helper", "100")
            if self.recovery:
                self._start_client()
            try:
                with Grid.connect(server.url, password=server.password, key=key, namespace="soak") as grid:
                    return self._count(*self._fire(grid))
            finally:
                for pid in self.stopped:
                    _signal(pid, signal.SIGCONT)
                for process in [*self.hosts, self.distributor, *([self.client] if self.client else [])]:
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
        if self.client is not None:
            self.stop.touch()
            try:
                self.broken += self.client.wait(max(0.01, deadline - time.monotonic())) != 0
            except subprocess.TimeoutExpired:       # what is missing in its journal counts as lost
                print("the client that was killed is not done", file=sys.stderr)
        return asked, time.monotonic() - began

    def _kill(self) -> None:
        kind = self.dice.choices(list(self.kinds), list(self.kinds.values()))[0] if self.recovery else "worker"
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
        process = {"distributor": self.distributor, "client": self.client}.get(kind) or self.dice.choice(self.hosts)
        if kind == "client":
            self.broken += process.poll() is not None
            process.kill()
            process.wait()
            hit = len(soak_client.Journal(self.journal).open())
            self._start_client()
            return hit
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
        lost, wrong, failed = 0, 0, self.broken
        for number, (level, answer) in asked.items():
            if not answer.done():
                lost += 1
                continue
            try:
                wrong += answer.result() != soak_calls.value(number, level)
            except GridError as error:
                print(f"{number}: {error}", file=sys.stderr)
                failed += 1
        journal = soak_client.Journal(self.journal)
        for number in journal.asked:
            calls, values = soak_client.calls_of(number), journal.values.get(number)
            lost += len(calls) if values is None else 0
            wrong += values is not None and values != [soak_calls.value(*call) for call in calls]
        executed = Counter(self.noted.read_text().split())
        deaths = [line.split() for line in self.deaths.read_text().splitlines()] if self.deaths.exists() else []
        points = Counter(f"{words[0]} {words[1]}" for words in deaths)
        return {"seed": self.seed, "recovery": self.recovery, "seconds": round(seconds, 1), "kills": sum(self.kills.values()) + len(deaths),
                "kills that hit owned work": self.on_owned + sum(words[2] != "0" for words in deaths), "calls": len(executed),
                "asked by the client": len(asked), "asked by the killed client": soak_client.CALLS * len(journal.asked),
                "of these delivered to its next life": journal.taken, "lost": lost, "wrong": wrong, "failed": failed,
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
    parser.add_argument("--one-machine", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        figures = Soak(Path(directory), options.seconds, options.seed, options.recovery, options.one_machine).run()
    print(json.dumps(figures))
    return int(bool(figures["lost"] + figures["wrong"] + figures["failed"]) == options.recovery)


if __name__ == "__main__":
    sys.exit(main())
