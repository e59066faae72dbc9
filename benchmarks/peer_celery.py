"""celery: a node with prefork children; chords for calls of calls, its documented way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bench_calls import addone, inc, rest, sleep50, spin
from bench_systems import BIN, System
from celery import Celery, chord, group

URL = os.environ["BENCH_REDIS"]
app = Celery("peer_celery", broker=URL, backend=URL)
app.conf.update(task_serializer="pickle", result_serializer="pickle", accept_content=["pickle", "json"], result_expires=600)
TASKS = {body.__name__: app.task(name=body.__name__)(body) for body in (inc, addone, rest, sleep50, spin)}


@app.task(name="one_plus_sum")
def one_plus_sum(values: list[int]) -> int:
    """The end of a chord."""
    return 1 + sum(values)


@app.task(name="tree", bind=True)
def tree(self: Any, level: int, tag: str) -> int:
    """W3: the task replaces itself by a chord."""
    if not level:
        return 1
    raise self.replace(chord([tree.s(level - 1, f"{tag}.{number}") for number in range(level)], one_plus_sum.s()))


TASKS["tree"] = tree


class Peer(System):
    """Pickle as the serializer, results kept 600 s."""

    nested = True
    levels = (3, 4)

    def start(self, workers: int) -> None:
        self.spawn(BIN / "celery", "-A", "peer_celery", "worker", "-P", "prefork", "-c", workers, "-l", "ERROR", "--without-gossip",
                   "--without-mingle", C_FORCE_ROOT="1")

    def call(self, function: str, *args: Any) -> Any:
        return TASKS[function].delay(*args).get()

    def map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(group(TASKS[function].s(*args) for args in calls)().get())
