"""What a test of the grid works with: real nodes in processes of their own, clients, and waiting for what must come."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gridworker import Grid
from gridworker.keys import Keys
from gridworker.server import Server
from gridworker.store import Connection

HERE = Path(__file__).parent


def ended(pid: int) -> bool:
    """Whether a process is no more (or only a zombie of somebody else's)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of the condition; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def lines(path: Path) -> list[str]:
    """What calls have noted in a file, so far."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


class Lab:
    """A grid of a test: its server, its namespace, the node processes that the test starts, its clients."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.address = server.address                     # a test may put a proxy in its place
        self.keys = Keys(f"t{uuid.uuid4().hex[:8]}")
        self.processes: list[subprocess.Popen[str]] = []
        self.grids: list[Grid] = []
        self.secret = directory / "secret"
        self.key = os.urandom(32).hex()
        self.secret.write_text(f"{server.password} {self.key}\n")

    def command(self, *options: str) -> list[str]:
        address = self.address
        where = ["--unix", address.path] if address.path else ["--port", str(address.port)]
        if address.user or address.tls is not None:
            where = ["--url", address.url]
        return [sys.executable, "-m", "gridworker", *where, "--namespace", self.keys.namespace, *options]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent.parent}", "GRIDWORKER_SECRET_FILE": str(self.secret)}

    def start(self, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Node processes under a supervisor; returns when they are registered."""
        ready = self.directory / f"ready{len(self.processes)}"
        process = subprocess.Popen(self.command("--ready-file", str(ready), *options), env={**self.environment(), **(environment or {})},
                                   stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        until(lambda: ready.exists() or process.poll() is not None, "the nodes to be ready")
        assert process.poll() is None, f"the supervisor ended: {process.stdout.read() if process.stdout else ''}"
        return process

    def workers(self, which: str | int = 1, pool: str = "pool", environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return self.start("--worker", str(which), "--pool", pool, environment=environment)

    def client(self, **options: Any) -> Grid:
        known = {"password": self.server.password, "key": self.key, "namespace": self.keys.namespace}
        grid = Grid.connect(self.address.url, **{**known, **options})
        self.grids.append(grid)
        return grid

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """The command line, to its end."""
        return subprocess.run(self.command(*options), env=self.environment(), capture_output=True, text=True, timeout=60, check=False)

    def connection(self) -> Connection:
        return self.server.connection()

    def close(self) -> None:
        for grid in self.grids:
            grid.close()
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
