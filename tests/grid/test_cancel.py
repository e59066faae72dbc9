"""Cancellation and timeouts by the caller: of what waits in a queue, of what runs, of what that has asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from big_calls import ones_when_told
from grid_lab import lines, until

from gridworker import CallCancelled, CallTimeout, request

if TYPE_CHECKING:
    from grid_lab import Lab

    from gridworker.store import Connection


def idle(grid: Any) -> Callable[[], bool]:
    """Whether nothing is owned or queued anywhere."""

    def nothing() -> bool:
        status = grid.status()
        return all(node["owned"] == node["queued"] == 0 for node in status.nodes.values() if node["kind"] == "worker") and all(
            pool["queued"] == pool["up"] == 0 for pool in status.pools.values())

    return nothing


def test_a_call_that_waits_in_the_queue_vanishes(lab: Lab) -> None:
    lab.workers(1)
    grid, path, noted = lab.client(), lab.directory / "slow", lab.directory / "noted"
    first = grid.request("pool", calls.wait_for, str(path), 1)
    until(lambda: lines(path), "the worker to be busy")
    queued = grid.requests("pool", [(calls.noted, str(noted), i) for i in range(2500)])
    kept = grid.request("pool", calls.noted, str(noted), 7)
    until(lambda: grid.status().pools["pool"]["queued"] == 2500, "the calls to be queued")
    assert queued.cancel()
    with pytest.raises(CallCancelled):
        queued.result(5)
    until(lambda: grid.status().pools["pool"]["queued"] == 1, "the queue to be empty, but for the call that is still wanted")
    path.with_name("slow.go").touch()
    assert first.result(20) == 1
    assert kept.result(20) == 7
    assert lines(noted) == ["7"]
    assert not kept.cancel()


def test_a_parked_call_is_told_where_it_waits_and_what_it_asked_for_goes_with_it(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "notes"
    answer = grid.request("pool", calls.parent_notes_its_end, str(path))
    until(lambda: "child" in lines(path), "the call's call to run")
    assert answer.cancel()
    until(lambda: "CallCancelled" in lines(path), "the parent to hear of it")
    until(lambda: "child CancelledError" in lines(path), "the child to hear of it")
    until(idle(grid), "nothing to be left")
    assert "end" not in lines(path)
    assert grid.requests("pool", [(calls.inc, i) for i in range(10)]).result(20) == list(range(1, 11))


def test_a_result_that_nobody_waits_for_any_more_is_kept_no_longer_than_one_that_was_heard(lab: Lab, connection: Connection) -> None:
    """Its call was computing when it was cancelled. Its big parts go with it."""
    lab.workers(1)
    grid, path, keys = lab.client(), lab.directory / "slow", lab.keys
    answer = grid.request("pool", ones_when_told, str(path), 100_000)
    until(lambda: lines(path), "the call to run")
    assert answer.cancel()
    until(lambda: not connection.call("EXISTS", keys.call(answer.calls[0])), "nobody to wait")
    path.with_name("slow.go").touch()
    call = answer.calls[0].encode()
    until(lambda: any(call in batch for batch in connection.call("LRANGE", keys.kept, 0, -1)), "its time to begin")
    until(lambda: [part[:32] for part in connection.call("ZRANGE", keys.parts, 0, -1)] == [call], "that of its parts to begin")
    assert connection.call("GETRANGE", keys.call(answer.calls[0]), 0, 0) == b"R"


def test_an_async_call_is_cancelled_as_a_task(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "notes"
    answer = grid.request("pool", calls.aio_sleeps, str(path))
    until(lambda: lines(path) == ["child"], "the call to run")
    assert answer.cancel()
    until(lambda: lines(path) == ["child", "child CancelledError"], "the task to be cancelled")
    until(idle(grid), "nothing to be left")


def test_a_coroutines_time_limit_is_kept_however_long_its_worker_waits_for_its_bell(lab: Lab) -> None:
    lab.workers(1)
    assert lab.client().request("pool", calls.aio_is_impatient_late).result(30) == "too late"


def test_a_call_that_somebody_else_wants_goes_on(lab: Lab) -> None:
    lab.workers(1)
    one, two, path = lab.client(), lab.client(), lab.directory / "slow"
    answers = [grid.request("pool", calls.wait_for, str(path), 1) for grid in (one, two, one)]
    until(lambda: lines(path), "the call to run")
    assert answers[0].cancel()
    assert answers[1].cancel()
    path.with_name("slow.go").touch()
    assert answers[2].result(20) == 1
    assert len(lines(path)) == 1


def test_a_cancelled_call_can_be_asked_for_again(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    for _ in range(3):
        answer = grid.request("pool", calls.parent_of_wait, str(path), 1)
        answer.cancel()
    again = grid.request("pool", calls.parent_of_wait, str(path), 1)
    path.with_name("slow.go").touch()
    assert again.result(20) == 1


def test_kill_ends_a_call_that_does_not_listen_and_no_other(lab: Lab) -> None:
    lab.workers("ann")
    grid, deaf, path = lab.client(), lab.directory / "deaf", lab.directory / "slow"
    parked = grid.request("pool", calls.parent_of_wait, str(path), 1)
    until(lambda: lines(path), "a call to be parked")
    path.with_name("slow.go").touch()
    assert parked.result(20) == 1
    before = grid.status().nodes["ann"]["pid"]
    answer = grid.request("pool", calls.wait_for, str(deaf), 1)
    until(lambda: lines(deaf), "the call to run")
    behind = grid.request("pool", calls.inc, 1)
    assert answer.cancel(kill=True)
    assert behind.result(20) == 2
    assert grid.status().nodes["ann"]["pid"] != before
    assert len(lines(deaf)) == 1


def test_kill_spares_a_worker_whose_call_has_ended(lab: Lab) -> None:
    lab.workers("ann")
    grid, path = lab.client(), lab.directory / "notes"
    before = grid.status().nodes["ann"]["pid"]
    answer = grid.request("pool", calls.aio_sleeps, str(path))
    until(lambda: lines(path), "the call to run")
    assert answer.cancel(kill=True)
    until(lambda: lines(path) == ["child", "child CancelledError"], "the task to be cancelled")
    connection = lab.connection()
    supervisor = grid.status().nodes["ann"]["supervisor"]
    until(lambda: connection.call("EXISTS", lab.keys.kill(supervisor)) == 0, "its supervisor to have seen that it ended")
    connection.close()
    assert grid.status().nodes["ann"]["pid"] == before


def test_a_request_may_have_a_time_limit(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    with pytest.raises(CallTimeout, match=r"1 of 1 call\(s\) were not done within 0.1 s"):
        grid.request("pool", calls.parent_of_wait, str(path), 1, timeout=0.1).result(20)
    path.with_name("slow.go").touch()
    until(idle(grid), "nothing to be left")
    done, late = grid.requests("pool", [(calls.inc, 1), (calls.aio_sleeps, str(path))], return_exceptions=True, timeout=0.5).result(20)
    assert done == 2
    assert isinstance(late, TimeoutError)


async def test_a_time_limit_can_be_awaited(lab: Lab) -> None:
    lab.workers(1)
    with pytest.raises(CallTimeout):
        await lab.client().request("pool", calls.aio_sleeps, str(lab.directory / "notes"), timeout=0.05)


@pytest.mark.parametrize("function", [calls.impatient, calls.aio_impatient, calls.aio_waits_for])
def test_a_call_may_limit_the_time_of_its_calls(lab: Lab, function: Any) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "notes"
    assert grid.request("pool", function, str(path)).result(20) == "too late"
    until(lambda: lines(path) == ["child", "child CancelledError"], "the late call to be cancelled")
    until(idle(grid), "nothing to be left")


def test_an_option_is_never_taken_from_a_function_that_has_a_parameter_of_that_name(lab: Lab) -> None:
    grid = lab.client()
    with pytest.raises(TypeError, match="takes_timeout has a parameter of that name"):
        grid.request("pool", calls.takes_timeout, timeout=3)
    with pytest.raises(TypeError, match="takes_timeout has a parameter of that name"):
        request(calls.takes_timeout, timeout=3)


async def test_cancelling_wakes_whoever_waits(lab: Lab) -> None:
    answer = lab.client().request("pool", calls.inc, 1)           # nobody works here

    async def waits() -> Any:
        return await answer

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    answer.cancel()
    with pytest.raises(CallCancelled):
        await task


def test_a_cancellation_reaches_a_server_that_was_away(lab: Lab) -> None:
    grid, connection = lab.client(), lab.connection()
    answer = grid.requests("pool", [(calls.inc, i) for i in range(5)])
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")) == 5, "the calls to be queued")
    for line in connection.call("CLIENT", "LIST").decode().splitlines():
        if f":{grid.name} " in line:
            connection.call("CLIENT", "KILL", "ID", line.split()[0].partition("=")[2])
    answer.cancel()
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")) == 0, "the calls to be gone")
    connection.close()
