"""A call on a grid is like a call here: values, errors, order, functions of any origin."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
import uvloop

from gridworker import (
    CallFailed,
    CodeMismatch,
    Grid,
    GridClosed,
    GridDenied,
    GridUnreachable,
    NotACall,
    NotOnWorker,
    NotSerializable,
    local,
    salted,
)
from gridworker import request as request_here
from gridworker.supervisor import BROKEN

if TYPE_CHECKING:
    from grid_lab import Lab


def test_a_function_is_evaluated_on_a_worker(grid: Grid) -> None:
    assert grid.request("pool", calls.inc, 5).result(20) == 6


def test_a_function_may_ask_for_further_calls(grid: Grid) -> None:
    assert grid.request("pool", calls.ratio, 5).result(20) == 1.25


def test_a_call_that_waits_for_one_of_its_own_worker_goes_on_without_a_way_to_the_server(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client()
    assert grid.request("pool", calls.inc, 1).result(20) == 2
    with closing(lab.connection()) as connection:
        connection.call("CONFIG", "RESETSTAT")
        assert grid.request("pool", calls.fib, 60).result(20) == 1548008755920
        scripts = re.findall(r"cmdstat_eval(?:sha)?:calls=(\d+)", connection.call("INFO", "commandstats").decode())
    assert sum(map(int, scripts)) < 60 + 15                       # one for each level on the way down, and none on the way up


def test_what_is_done_is_told_before_a_call_that_waited_for_it_goes_on_for_long(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "go on"
    long = grid.request("pool", calls.held_after, 41, str(path))
    try:
        assert grid.request("pool", calls.inc, 41).result(10) == 42
    finally:
        path.touch()
    assert long.result(20) == 42


def test_an_error_shows_the_call_the_traceback_and_the_caller(grid: Grid) -> None:
    with pytest.raises(CallFailed) as caught:
        grid.request("pool", calls.ratio, 1).result(20)
    text = str(caught.value)
    assert "divide(1, 0) raised ZeroDivisionError: division by zero" in text
    assert "called by ratio(1)" in text
    assert "return a / b" in text
    assert caught.value.chain == ("ratio(1)", "divide(1, 0)")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_is_also_the_one_that_was_raised(grid: Grid) -> None:
    with pytest.raises(ZeroDivisionError):
        grid.request("pool", calls.divide, 1, 0).result(20)
    assert grid.request("pool", calls.careful_ratio, 1).result(20) == "infinite"


def test_an_exception_that_cannot_travel_is_told_in_words(grid: Grid) -> None:
    with pytest.raises(CallFailed, match=r"odd\(\) raised Odd: 1 is not 2"):
        grid.request("pool", calls.odd).result(20)


def test_even_system_exit_is_only_the_calls_outcome(grid: Grid) -> None:
    with pytest.raises(CallFailed, match="SystemExit: this function wants out"):
        grid.request("pool", calls.leave).result(20)
    assert grid.request("pool", calls.inc, 1).result(20) == 2


def test_requests_keep_their_order(grid: Grid) -> None:
    assert grid.requests("pool", [(calls.inc, i) for i in range(2000)]).result(30) == list(range(1, 2001))


def test_no_requests_are_no_results(grid: Grid) -> None:
    assert grid.requests("pool", []).result(20) == []


def test_requests_give_values_and_errors_on_demand(grid: Grid) -> None:
    one, error, two = grid.requests("pool", [(calls.inc, 0), (calls.divide, 1, 0), (calls.inc, 1)], return_exceptions=True).result(20)
    assert (one, two) == (1, 2)
    assert isinstance(error, ZeroDivisionError)


def test_requests_raise_the_first_failure_while_the_others_finish(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.requests("pool", [(calls.wait_for, str(path), 1), (calls.divide, 1, 0)])
    with pytest.raises(ZeroDivisionError):
        answer.result(20)
    path.with_name("slow.go").touch()
    assert grid.request("pool", calls.wait_for, str(path), 1).result(20) == 1
    assert len(path.read_text().splitlines()) == 1        # it was the same run


def test_keyword_arguments_travel_and_make_other_calls(grid: Grid) -> None:
    assert grid.request("pool", calls.options, 1, b=2, c={"x": 1}).result(20) == (1, 2, {"x": 1})
    assert grid.request("pool", calls.options, 1).result(20) == (1, 0, None)


def test_lambdas_and_closures_go_by_value(grid: Grid) -> None:
    base = [10]
    assert grid.request("pool", lambda x: x + base[0], 5).result(20) == 15
    base[0] = 20                                          # what they refer to may change between two requests
    assert grid.request("pool", lambda x: x + base[0], 5).result(20) == 25


def test_a_function_by_value_may_ask_for_itself_and_be_sent_on(grid: Grid) -> None:
    from gridworker import request

    def countdown(n: int) -> Any:
        return 0 if n == 0 else 1 + request(countdown, n - 1)

    assert grid.request("pool", countdown, 5).result(20) == 5
    assert grid.request("pool", calls.recurse, countdown, 7).result(20) == 7


def test_results_of_unknown_kind_are_refused_where_they_are_made(grid: Grid) -> None:
    with pytest.raises(CallFailed, match="the result of unpicklable cannot be pickled"):
        grid.request("pool", calls.unpicklable).result(20)


def test_arguments_that_cannot_travel_are_refused_here(grid: Grid) -> None:
    with pytest.raises(NotSerializable, match="an argument cannot be pickled"):
        grid.request("pool", calls.inc, threading.Lock())  # type: ignore[call-overload]
    with pytest.raises(NotACall, match="not callable"):
        grid.request("pool", 5)  # type: ignore[call-overload]


def test_a_worker_with_other_code_says_so(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client()
    changed = calls.inc.__code__
    try:
        calls.inc.__code__ = (lambda x: x + 2).__code__
        for asked in ((calls.inc, 5), (partial(calls.inc, 5),), (lambda f, x: f(x), calls.inc, 5), (calls.options, [{"f": calls.inc}], 1)):
            with pytest.raises(CodeMismatch, match=r"another version of grid_calls\.inc than its caller: restart the workers"):
                grid.request("pool", *asked).result(20)
    finally:
        calls.inc.__code__ = changed
    assert grid.request("pool", partial(calls.inc, 5)).result(20) == 6
    assert grid.request("pool", lambda f, x: f(x), calls.inc, 5).result(20) == 6


def test_calls_go_to_the_pool_they_name(lab: Lab) -> None:
    lab.workers("left", "a")
    lab.workers("right", "b")
    grid = lab.client()
    assert grid.request("a", calls.where, 1).result(20) == "left"
    assert grid.request("b", calls.where, 2).result(20) == "right"
    assert grid.request("a", calls.elsewhere, "b", 5).result(20) == 6
    assert grid.status().executed == {"left": 2, "right": 2}


async def test_answers_can_be_awaited(grid: Grid) -> None:
    assert await grid.request("pool", calls.inc, 5) == 6
    assert await asyncio.gather(*[grid.request("pool", calls.inc, i) for i in range(100)]) == list(range(1, 101))
    with pytest.raises(ZeroDivisionError):
        await grid.request("pool", calls.divide, 1, 0)


def test_one_client_serves_several_loops_and_threads(grid: Grid) -> None:
    async def ask(n: int) -> Any:
        return await grid.requests("pool", [(calls.inc, n + i) for i in range(50)])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as other:
        assert other.run(ask(0)) == list(range(1, 51))
    results: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda k=k: results.update({k: asyncio.run(ask(100 * k))})) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [100 * k + i + 1 for i in range(50)] for k in range(4)}


async def test_a_waiter_that_gives_up_leaves_the_call_running(lab: Lab) -> None:
    lab.workers(1)
    path = lab.directory / "slow"
    async with lab.client() as grid:
        answer = grid.request("pool", calls.wait_for, str(path), 7)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(answer, 0.05)
        with pytest.raises(TimeoutError, match="they go on"):
            answer.result(0.01)
        path.with_name("slow.go").touch()
        assert await answer == 7
        assert answer.done()


def test_a_closed_client_fails_what_is_unanswered(lab: Lab) -> None:
    grid = lab.client()
    answer = grid.request("nobody", calls.inc, 5)
    grid.close()
    with pytest.raises(GridClosed):
        answer.result(5)
    with pytest.raises(GridClosed):
        grid.request("nobody", calls.inc, 5)


def test_a_wrong_password_is_refused(lab: Lab) -> None:
    with pytest.raises(GridDenied, match="refused the password"), Grid.connect(lab.server.url, password="wrong"):
        pass
    assert "wrong" not in repr(Grid.connect(lab.server.url, password="wrong"))


async def test_no_server_is_told_at_once(lab: Lab) -> None:
    with pytest.raises(GridUnreachable, match="no server at unix:"):
        await Grid.connect(f"unix://{lab.directory}/nobody")


def test_local_evaluation_needs_no_grid_and_has_to_be_asked_for() -> None:
    with pytest.raises(NotOnWorker, match=r"with gridworker\.local"):
        request_here(calls.ratio, 5)
    with local():
        assert request_here(calls.ratio, 5) == 1.25
        assert calls.fib(10) == 55


def test_a_salt_makes_another_call(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "noted"
    for function in (calls.noted, calls.noted, salted(calls.noted, "again"), salted(calls.noted, "again"), salted(calls.noted)):
        assert grid.request("pool", function, str(path), 1).result(20) == 1
    assert len(path.read_text().splitlines()) == 3


def test_a_process_that_a_call_has_started_hears_signals_and_is_no_worker(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client()
    assert grid.request("pool", calls.starts_and_ends_a_process).result(30) == -signal.SIGTERM
    assert grid.request("pool", calls.asks_in_a_process, 1).result(20) == "NotOnWorker"
    pid, status = grid.request("pool", calls.comes_back_twice).result(20)
    assert status == BROKEN
    assert [node["pid"] for node in grid.status().nodes.values()] == [pid]
    assert grid.requests("pool", [(calls.inc, i) for i in range(100)]).result(20) == list(range(1, 101))


def test_a_thread_that_a_call_has_started_cannot_ask(lab: Lab) -> None:
    lab.workers(1)
    with pytest.raises(CallFailed, match="in a thread that a function on the grid has started"):
        lab.client().request("pool", calls.ask_in_a_thread).result(20)
