"""dramatiq: worker processes of one thread; of 200 for calls of calls, which wait in their threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import dramatiq
from bench_calls import addone, inc, rest, sleep50, spin
from bench_systems import BIN, System
from dramatiq import group
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

dramatiq.set_encoder(PickleEncoder())
broker = RedisBroker(url=os.environ["BENCH_REDIS"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_REDIS"], encoder=PickleEncoder()), store_results=True,
                              result_ttl=600_000))
dramatiq.set_broker(broker)
TASKS = {body.__name__: dramatiq.actor(body, actor_name=body.__name__) for body in (inc, addone, rest, sleep50, spin)}


@dramatiq.actor(actor_name="tree", max_retries=0)
def tree(level: int, tag: str) -> int:
    """W3."""
    if not level:
        return 1
    waiting = group([tree.message(level - 1, f"{tag}.{number}") for number in range(level)]).run()
    return 1 + int(sum(waiting.get_results(block=True, timeout=55_000)))


TASKS["tree"] = tree


class Peer(System):
    """Results in Redis, kept 600 s."""

    nested = True
    levels = (3, 4)
    threads = 1

    def start(self, workers: int) -> None:
        self.spawn(BIN / "dramatiq", "peer_dramatiq", "--processes", workers, "--threads", self.threads)

    def start_nested(self, workers: int) -> None:
        self.threads = 400
        self.start(workers)

    def call(self, function: str, *args: Any) -> Any:
        return TASKS[function].send(*args).get_result(block=True, timeout=60_000)

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(group([TASKS[function].message(*args) for args in calls]).run().get_results(block=True, timeout=60_000))

    def victim(self) -> int:
        return self.worker_side()[1]
