"""huey: process workers; its results are polled, here every 2 ms (its default backs off to 10 s)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bench_calls import addone, inc, rest, sleep50, spin
from bench_systems import BIN, System
from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"])
TASKS = {body.__name__: huey.task(name=body.__name__)(body) for body in (inc, addone, rest, sleep50, spin)}


class Peer(System):
    """Calls of calls would wait in the worker and starve: left out."""

    def start(self, workers: int) -> None:
        self.spawn(BIN / "huey_consumer", "peer_huey.huey", "-k", "process", "-w", workers, "-q")

    def call(self, function: str, *args: Any) -> Any:
        return TASKS[function](*args).get(blocking=True, timeout=60, max_delay=0.002, backoff=1.0)

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        results = [TASKS[function](*args) for args in calls]
        return [result.get(blocking=True, timeout=60, max_delay=0.002, backoff=1.0) for result in results]
