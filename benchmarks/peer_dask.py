"""dask.distributed: a scheduler, and worker processes of one thread each; worker_client for calls of calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bench_calls import addone, count, inc, rest, sleep50, spin
from bench_systems import BIN, System, free_port
from distributed import Client, worker_client


def tree(level: int, tag: str) -> int:
    """W3."""
    if not level:
        return 1
    with worker_client() as client:
        tags = [f"{tag}.{number}" for number in range(level)]
        return 1 + int(sum(client.gather(client.map(tree, [level - 1] * level, tags, pure=True))))


def fib(n: int, tag: str) -> int:
    """W4."""
    count()
    if n < 2:
        return n
    with worker_client() as client:
        return int(sum(client.gather([client.submit(fib, n - 1, tag, pure=True), client.submit(fib, n - 2, tag, pure=True)])))


class Peer(System):
    """BENCH_SATURATION=inf: the scheduler sends every task to a worker at once."""

    nested = memo = survives = True

    def start(self, workers: int) -> None:
        self._bodies = {body.__name__: body for body in (inc, addone, rest, sleep50, spin, tree, fib)}
        address = f"tcp://127.0.0.1:{(port := free_port())}"
        self.spawn(BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show",
                   DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION=os.environ.get("BENCH_SATURATION", "1.1"))
        for _ in range(workers):
            self.spawn(BIN / "dask", "worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        self.client = Client(address, timeout=30)

    def call(self, function: str, *args: Any) -> Any:
        return self.client.submit(self._bodies[function], *args, pure=False).result()

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(self.client.gather(self.client.map(self._bodies[function], *zip(*calls, strict=True), pure=False)))

    def victim(self) -> int:
        return self.processes[-1].pid

    def stop(self) -> None:
        if hasattr(self, "client"):
            self.client.close(timeout=1)
        super().stop()
