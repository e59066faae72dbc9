"""What `python -m gridworker` does as a client: a load of jobs, and cleaning up."""

from __future__ import annotations

import os
import time
from typing import Any

from .bogosity import bogosity
from .client import Grid
from .errors import GridInUse
from .keys import Keys, name_of
from .store import Address, Connection

ALIVE_SECONDS = 2.5         # a supervisor beats at least once in that time


def run_jobs(address: Address, password: str | None, namespace: str, *, pool: str, jobs: int, msecs: float, reclevel: int, numrecjobs: int,
             comment: str, timeout: float) -> dict[str, Any]:
    """Requests the jobs and waits for all of them: how many were asked, done, failed, the times, what each node executed meanwhile.

    Without a comment each run's jobs are calls of their own. A failure is counted, and the first one shown.
    """
    tag = comment or os.urandom(6).hex()
    with Grid.connect(address.url, password=password, namespace=namespace) as grid:
        before = grid.status().executed
        started = time.perf_counter()
        answer = grid.requests(pool, [(bogosity, msecs, job, reclevel, numrecjobs, tag) for job in range(jobs)], return_exceptions=True)
        results = answer.result(timeout)
        seconds = time.perf_counter() - started
        executed = {node: count - before.get(node, 0) for node, count in grid.status().executed.items() if count != before.get(node, 0)}
    failures = [str(result) for result in results if isinstance(result, Exception)]
    calls = sum(executed.values())
    output = {"asked": jobs, "done": jobs - len(failures), "failed": len(failures), "executed": calls, "nodes": executed, "tag": tag,
              "seconds": round(seconds, 6), "ms_per_job": round(1000 * seconds / jobs, 4),
              "ms_per_call": round(1000 * seconds / max(calls, 1), 4)}
    return {**output, "first_failure": failures[0]} if failures else output


def clean_up(address: Address, password: str | None, namespace: str, *, patience: float = ALIVE_SECONDS) -> dict[str, Any]:
    """Deletes the grid's keys and says how many. GridInUse if a node is alive: if its supervisor beats within the patience, in seconds."""
    keys = Keys(namespace)
    connection = Connection(address, password)
    connection.connect()
    try:
        if nodes := connection.call("HKEYS", keys.nodes):
            before = connection.call("HGETALL", keys.beats)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if connection.call("HGETALL", keys.beats) != before:
                    raise GridInUse([name_of(node.decode()) for node in nodes])
                time.sleep(0.05)
        deleted, cursor = 0, b"0"
        while True:
            cursor, found = connection.call("SCAN", cursor, "MATCH", keys.prefix + "*", "COUNT", 1000)
            if found:
                deleted += connection.call("UNLINK", *found)
            if cursor == b"0":
                return {"namespace": namespace, "deleted": deleted}
    finally:
        connection.close()
