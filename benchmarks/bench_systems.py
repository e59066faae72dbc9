"""What is measured: each system starts its workers, calls, maps and names the processes of its worker side. One system a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent


class System:
    """A system with its settings. `nested`: calls may make calls; `memo`: equal calls run once; `survives`: a killed worker is an event."""

    nested = memo = survives = False
    levels: tuple[int, ...] = (3, 4, 5)

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int) -> None:
        """Starts the worker side and connects."""
        raise NotImplementedError

    def start_nested(self, workers: int) -> None:
        """The same, set up for calls that wait for calls."""
        self.start(workers)

    def call(self, function: str, *args: Any) -> Any:
        """One call, to its value."""
        raise NotImplementedError

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Many calls, to their values in order."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends every process."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def spawn(self, *words: Any, **environment: str) -> subprocess.Popen[bytes]:
        """A process of the worker side, in a group of its own."""
        path = os.pathsep.join(filter(None, (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", ""))))
        process = subprocess.Popen([str(word) for word in words], env={**os.environ, "PYTHONPATH": path, **environment},
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.processes.append(process)
        return process

    def worker_side(self) -> list[int]:
        """Process ids: what was spawned and its children."""
        found = [process.pid for process in self.processes]
        return found + [child for parent in found for child in children(parent)]

    def victim(self) -> int:
        """The worker process that W7 kills."""
        return children(self.processes[-1].pid)[-1]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def children(pid: int) -> list[int]:
    """All processes below one, from /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


class Gridworker(System):
    """What `Grid()` starts: password, signing, leases, a unix socket."""

    nested = memo = survives = True
    password: str | None = None
    secret = unix = True

    def start(self, workers: int) -> None:
        import bench_calls
        import bench_nested

        from gridworker import Grid
        from gridworker.server import Server

        self._functions = {name: getattr(bench_calls, name, None) or getattr(bench_nested, name)
                           for name in ("inc", "addone", "sleep50", "spin", "rest", "tree", "fib")}
        self.server = Server(password=self.password, unix=self.unix, shelf=self.unix).start()
        where = ["--unix", self.server.address.path] if self.unix else ["--port", self.server.address.port]
        environment: dict[str, str] = {}
        options: dict[str, Any] = {}
        if self.secret:
            key = os.urandom(32).hex()
            file = self.server.directory / "secret"
            file.touch(0o600)
            file.write_text(f"{self.server.password} {key}\n")
            environment, options = {"GRIDWORKER_SECRET_FILE": str(file)}, {"password": self.server.password, "key": key}
        self.spawn(sys.executable, "-m", "gridworker", "--worker", workers, *where, **environment)
        self.grid = Grid.connect(self.server.url, **options)

    def call(self, function: str, *args: Any) -> Any:
        return self.grid.request("pool", self._functions[function], *args).result()

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        body = self._functions[function]
        values: list[Any] = self.grid.requests("pool", [(body, *args) for args in calls]).result()
        return values

    def stop(self) -> None:
        if hasattr(self, "grid"):
            self.grid.close()
        super().stop()
        if hasattr(self, "server"):
            self.server.stop()


class OverTcp(Gridworker):
    """The same over TCP, as between machines."""

    unix = False


class Bare(Gridworker):
    """Without password and signing."""

    password, secret = "", False


class Pool(System):
    """concurrent.futures.ProcessPoolExecutor, one call at a time or in chunks of 50. No network, no calls of calls."""

    chunk = 1

    def start(self, workers: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        import bench_calls

        self._bodies = bench_calls
        self.executor: Any = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def call(self, function: str, *args: Any) -> Any:
        return self.executor.submit(getattr(self._bodies, function), *args).result()

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(self.executor.map(getattr(self._bodies, function), *zip(*calls, strict=True), chunksize=self.chunk))

    def stop(self) -> None:
        if hasattr(self, "executor"):
            self.executor.shutdown(wait=True)

    def worker_side(self) -> list[int]:
        return children(os.getpid())

    def victim(self) -> int:
        return int(next(iter(self.executor._processes)))        # neither pool tells in another way which of its processes compute


class ChunkedPool(Pool):
    """In chunks of 50: whoever makes such chunks himself."""

    chunk = 50


class Loky(Pool):
    """loky, which joblib uses."""

    def start(self, workers: int) -> None:
        import bench_calls
        from loky import ProcessPoolExecutor

        self._bodies = bench_calls
        self.executor = ProcessPoolExecutor(workers)


def system(name: str) -> System:
    """A new system by its name in the table."""
    ours: dict[str, type[System]] = {"gridworker": Gridworker, "gridworker-bare": Bare, "gridworker-tcp": OverTcp, "ppe": Pool,
                                     "ppe-chunk50": ChunkedPool, "loky": Loky}
    if name in ours:
        return ours[name]()
    made: System = import_module(f"peer_{name.partition('-')[0]}").Peer()
    return made
