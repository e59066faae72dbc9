"""The seven workloads. Each takes a system with two workers and returns what it measured; a wrong value is an error, not a row.

Arguments are fresh each time (numbers from a place of their own, tags): nothing is answered from what an earlier run has left.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from bench_calls import counted, fibonacci, tree_size
from bench_systems import System, system

Row = dict[str, Any]


class Scale:
    """How much of each workload: 1.0 is all of it; tests take little."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def of(self, count: int, least: int = 1) -> int:
        """A number of calls at this scale."""
        return max(least, int(count * self.factor))


class limit:
    """Raises TimeoutError in the main thread after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def ring(number: int, frame: FrameType | None) -> None:
            raise TimeoutError(f"not done after {self.seconds:g} s")

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fresh() -> itertools.count[int]:
    """Numbers that no run has used."""
    return itertools.count(random.SystemRandom().randrange(1 << 50))


def expect(found: Any, wanted: Any) -> None:
    """Stops the measurement if the grid computes something else than this process."""
    if found != wanted:
        raise AssertionError(f"computed {str(found)[:200]}, expected {str(wanted)[:200]}")


def w1(under_test: System, scale: Scale) -> Row:
    """One call after the other."""
    numbers, times = fresh(), []
    for number in itertools.islice(numbers, 30):
        under_test.call("inc", number)
    until = time.perf_counter() + 8
    for number in itertools.islice(numbers, scale.of(2000, 100)):
        began = time.perf_counter()
        value = under_test.call("inc", number)
        times.append(time.perf_counter() - began)
        expect(value, number + 1)
        if began > until:
            break
    times.sort()
    return {"p50_ms": 1e3 * statistics.median(times), "p99_ms": 1e3 * times[int(0.99 * len(times))], "n": len(times)}


def w2(under_test: System, scale: Scale) -> Row:
    """Distinct small calls, results back."""
    numbers = fresh()
    under_test.map("inc", [(number,) for number in itertools.islice(numbers, 200)])
    calls = [(number,) for number in itertools.islice(numbers, scale.of(10_000))]
    began = time.perf_counter()
    values = under_test.map("inc", calls)
    seconds = time.perf_counter() - began
    expect(values, [number + 1 for number, in calls])
    return {"per_s": len(calls) / seconds, "n": len(calls)}


def w3(under_test: System, scale: Scale) -> Row:
    """Trees of calls that make calls: 10 at once, nothing shared."""
    if not under_test.nested:
        return {"note": "no calls of calls"}
    row: Row = {}
    expect(under_test.map("tree", [(1, f"{next(fresh()):x}.{number}") for number in range(20)]), [tree_size(1)] * 20)
    for level in under_test.levels[:scale.of(3)]:
        tag = f"{next(fresh()):x}"
        try:
            with limit(30):
                began = time.perf_counter()
                values = under_test.map("tree", [(level, f"{tag}.{number}") for number in range(10)])
                seconds = time.perf_counter() - began
        except TimeoutError as error:
            return {**row, f"L{level}_fail": str(error)}
        expect(values, [tree_size(level)] * 10)
        row[f"L{level}_per_s"] = 10 * tree_size(level) / seconds
    return row


def w3s(under_test: System, scale: Scale) -> Row:
    """One tree on one worker that can do one thing at a time: does it starve?"""
    if not under_test.nested:
        return {"note": "no calls of calls"}
    try:
        with limit(15):
            return {"starves": False, "ok": under_test.call("tree", 3, f"{next(fresh()):x}") == tree_size(3)}
    except TimeoutError:
        return {"starves": True}


def w4(under_test: System, scale: Scale) -> Row:
    """fib(25) as calls of calls: 26 distinct ones."""
    if not under_test.memo:
        return {"note": "no memo"}
    times, executions = [], []
    for tag in itertools.islice(fresh(), 5):
        before = counted()
        with limit(60):
            began = time.perf_counter()
            value = under_test.call("fib", 25, f"{tag:x}")
            times.append(time.perf_counter() - began)
        expect(value, fibonacci(25))
        executions.append(counted() - before)
    return {"ms": 1e3 * statistics.median(times), "executions": max(executions)}


def w5(under_test: System, scale: Scale) -> Row:
    """A 1 MiB array in and out."""
    import numpy

    array = numpy.random.default_rng().random(131_072)
    for count in range(20):                 # until all workers have imported numpy
        array[0] = -count
        under_test.call("addone", array)
    count, began = 0, time.perf_counter()
    while count < scale.of(200, 5) and time.perf_counter() - began < 8:
        array[0] = count
        value = under_test.call("addone", array)
        count += 1
        if count % 20 == 1:
            expect((value - array == 1).all() or numpy.allclose(value, array + 1), True)
        expect((value[0], value.nbytes), (array[0] + 1, array.nbytes))
    seconds = time.perf_counter() - began
    return {"MB_per_s_in_plus_out": 2 * count * array.nbytes / 1e6 / seconds, "ms_per_call": 1e3 * seconds / count, "n": count}


def w6(under_test: System, scale: Scale, started: float) -> Row:
    """Start to first result, and what the worker side's processes then weigh."""
    expect(under_test.call("inc", number := next(fresh())), number + 1)
    row: Row = {"start_to_first_result_s": time.perf_counter() - started}
    time.sleep(1.0 * scale.factor)          # let them come to rest: this is about idle memory
    weights = [weight for pid in under_test.worker_side() if (weight := weigh(pid))]
    return {**row, "procs_rss_pss_MB": weights, "sum_pss_MB": round(sum(pss for _, pss in weights), 1)}


def weigh(pid: int) -> tuple[float, float] | None:
    """Resident and proportional size of a process in MB; None if it has none (a zombie) or is gone."""
    with suppress(OSError):
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]}
        return round(sizes["Rss"] / 1000, 1), round(sizes["Pss"] / 1000, 1)
    return None


def w7(under_test: System, scale: Scale) -> Row:
    """Calls of 50 ms; one of two workers is killed at 1.5 s."""
    count = scale.of(200, 60)
    under_test.map("inc", [(number,) for number in itertools.islice(fresh(), 20)])
    victim, before, calls = under_test.victim(), counted(), list(itertools.islice(fresh(), count))
    timer = threading.Timer(1.5 * count / 200, os.kill, (victim, signal.SIGKILL))
    began = time.perf_counter()
    timer.start()
    try:
        with limit(25):
            values = under_test.map("sleep50", [(number,) for number in calls])
        row: Row = {"s": time.perf_counter() - began, "ok": values == calls}
    except Exception as error:
        row = {"incomplete_after_s": time.perf_counter() - began, "why": f"{type(error).__name__}: {error}"[:100]}
    timer.cancel()
    return {**row, "executions": counted() - before, "n": count}


WORKLOADS: dict[str, Callable[[System, Scale], Row]] = {"W1": w1, "W2": w2, "W3": w3, "W4": w4, "W5": w5, "W7": w7}


def measure(name: str, which: list[str], scale: Scale) -> dict[str, Row]:
    """The workloads for one system; what it cannot do is a row that says so."""
    rows: dict[str, Row] = {}
    for group in (["W6", "W1", "W2", "W5"], ["W3", "W4"], ["W3s"], ["W7"]):
        wanted = [workload for workload in group if workload in which]
        if not wanted:
            continue
        under_test, started = system(name), time.perf_counter()
        try:
            with limit(60):
                (under_test.start_nested if group[0].startswith("W3") else under_test.start)(1 if group == ["W3s"] else 2)
                first = w6(under_test, scale, started) if "W6" in wanted or not group[0].startswith("W3") else {}
            for workload in wanted:
                rows[workload] = first if workload == "W6" else _one(workload, under_test, scale)
        finally:
            with suppress(Exception):
                under_test.stop()
    return rows


def _one(workload: str, under_test: System, scale: Scale) -> Row:
    try:
        return {**WORKLOADS, "W3s": w3s}[workload](under_test, scale)
    except Exception as error:
        return {"fail": f"{type(error).__name__}: {error}"[:200]}
