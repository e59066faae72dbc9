"""A pool is a `concurrent.futures.Executor`: what the standard library's own executors promise, and what joblib and asyncio make of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import lines, until

from gridworker import CallFailed, GridExecutor, NotSerializable

if TYPE_CHECKING:
    from grid_lab import Lab

    from gridworker import Grid


@pytest.fixture
def executor(grid: Grid) -> Iterator[GridExecutor]:
    with grid.executor() as executor:
        yield executor


class Held:
    """Calls that stay on their worker until `go()`."""

    def __init__(self, lab: Lab, executor: Executor) -> None:
        self.path, self.executor = lab.directory / "held", executor

    def begin(self, x: Any) -> Future[Any]:
        future = self.executor.submit(calls.wait_for, str(self.path), x)
        until(lambda: any(line.startswith(f"{x} ") for line in lines(self.path)), "the call to begin")
        return future

    def go(self) -> None:
        self.path.with_name("held.go").touch()


@pytest.fixture
def one(lab: Lab) -> Iterator[GridExecutor]:
    """On one worker, so that a second call has to wait."""
    lab.workers(1)
    with lab.client().executor() as executor:
        yield executor


def test_submit_gives_a_future(executor: GridExecutor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(executor, Executor) and isinstance(future, Future)
    assert future.result(20) == 256
    assert (future.done(), future.running(), future.cancelled(), future.exception()) == (True, False, False, None)


def test_keyword_arguments_are_the_functions(executor: GridExecutor) -> None:
    assert executor.submit(calls.options, 1, b=2, c={"fn": 3}).result(20) == (1, 2, {"fn": 3})
    assert executor.submit(dict, fn=1, self=2).result(20) == {"fn": 1, "self": 2}


def test_equal_submits_run_each(executor: GridExecutor, lab: Lab) -> None:
    path = lab.directory / "noted"
    futures = [executor.submit(calls.noted, str(path), 1) for _ in range(5)]
    assert [future.result(20) for future in futures] == [1] * 5
    assert len(lines(path)) == 5
    assert list(executor.map(calls.noted, [str(path)] * 3, [1] * 3)) == [1] * 3
    assert len(lines(path)) == 8


def test_a_failure_is_the_futures_exception(executor: GridExecutor) -> None:
    future = executor.submit(calls.divide, 1, 0)
    with pytest.raises(ZeroDivisionError):
        future.result(20)
    assert isinstance(future.exception(), CallFailed) and "divide(1, 0)" in str(future.exception())


def test_callbacks_are_called_once_with_the_future_also_when_added_late(executor: GridExecutor) -> None:
    seen: list[Any] = []
    future = executor.submit(calls.inc, 1)
    future.add_done_callback(seen.append)
    assert future.result(20) == 2
    until(lambda: seen, "the callback")
    future.add_done_callback(seen.append)
    assert seen == [future, future]


def test_a_callback_may_submit_and_one_that_fails_harms_nobody(executor: GridExecutor, caplog: pytest.LogCaptureFixture) -> None:
    chained: list[Future[int]] = []
    future = executor.submit(calls.inc, 1)
    future.add_done_callback(lambda future: 1 / 0)
    future.add_done_callback(lambda future: chained.append(executor.submit(calls.inc, future.result())))
    until(lambda: chained, "the second submit")
    assert chained[0].result(20) == 3
    assert "exception calling callback" in caplog.text


def test_map_keeps_order_and_stops_at_the_shortest(executor: GridExecutor) -> None:
    assert list(executor.map(pow, range(10), range(10))) == [i**i for i in range(10)]
    assert list(executor.map(lambda x: x + 1, range(200), chunksize=10)) == list(range(1, 201))
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(calls.inc, [1], chunksize=0)


def test_map_raises_where_the_failure_stands(executor: GridExecutor) -> None:
    values = executor.map(calls.divide, [1, 1, 1], [1, 0, 1])
    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)


def test_map_gives_up_after_its_timeout(one: GridExecutor, lab: Lab) -> None:
    held = Held(lab, one)
    held.begin("first")
    with pytest.raises(TimeoutError):
        list(one.map(calls.inc, [1, 2], timeout=0.05))
    held.go()
    assert one.submit(calls.inc, 5).result(20) == 6


def test_a_call_that_waits_can_be_cancelled_and_one_that_runs_cannot(one: GridExecutor, lab: Lab) -> None:
    held = Held(lab, one)
    running = held.begin("running")
    waiting = one.submit(calls.noted, str(lab.directory / "noted"), 1)
    assert running.running() and not waiting.running()
    assert not running.cancel()
    assert waiting.cancel() and waiting.cancelled() and waiting.done() and waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result()
    held.go()
    assert running.result(20) == "running"


def test_futures_work_with_the_standard_library(executor: GridExecutor) -> None:
    futures = [executor.submit(calls.inc, i) for i in range(20)]
    assert {future.result() for future in concurrent.futures.as_completed(futures, timeout=20)} == set(range(1, 21))
    done, pending = concurrent.futures.wait(futures, timeout=20)
    assert (len(done), len(pending)) == (20, 0)


def test_after_shutdown_nothing_is_taken_and_what_was_taken_is_done(lab: Lab) -> None:
    lab.workers(1)
    executor = lab.client().executor()
    held = Held(lab, executor)
    future = held.begin("last")
    executor.shutdown(wait=False)
    executor.shutdown(wait=False)                       # twice is fine
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(calls.inc, 1)
    held.go()
    executor.shutdown()
    assert future.done() and future.result() == "last"
    executor._thread.join(20)
    assert not executor._thread.is_alive()


def test_shutdown_can_cancel_what_waits(one: GridExecutor, lab: Lab) -> None:
    held = Held(lab, one)
    running = held.begin("running")
    waiting = [one.submit(calls.noted, str(lab.directory / "noted"), i) for i in range(5)]
    ended = threading.Thread(target=one.shutdown, kwargs={"cancel_futures": True})
    ended.start()
    until(lambda: all(future.cancelled() for future in waiting), "the waiting ones to be cancelled")
    assert ended.is_alive()                             # it waits for the one that runs
    held.go()
    ended.join(20)
    assert running.result() == "running" and not ended.is_alive()


def test_what_cannot_travel_is_refused_at_submit(executor: GridExecutor) -> None:
    with pytest.raises(NotSerializable):
        executor.submit(calls.inc, threading.Lock())  # type: ignore[arg-type]
    assert executor.submit(calls.inc, 1).result(20) == 2


def test_submits_from_many_threads(executor: GridExecutor) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        values = list(threads.map(lambda i: executor.submit(calls.inc, i).result(30), range(200)))
    assert values == list(range(1, 201))


async def test_asyncio_runs_functions_in_it(executor: GridExecutor) -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(executor, calls.inc, 41) == 42
    assert await asyncio.gather(*[loop.run_in_executor(executor, calls.inc, i) for i in range(50)]) == list(range(1, 51))
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(executor, calls.divide, 1, 0)


def test_an_executor_is_shown_shortly(executor: GridExecutor) -> None:
    executor.submit(calls.inc, 1).result(20)
    until(lambda: repr(executor) == "<GridExecutor on pool, 0 pending>", "nothing to be pending")
