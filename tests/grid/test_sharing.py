"""Calls are values: the same call runs once while it is running or its result is kept, whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grid_calls as calls
import pytest
from grid_lab import lines, until

from gridworker import CallFailed, Grid, local
from gridworker.bogosity import bogosity, without_nodes

if TYPE_CHECKING:
    from grid_lab import Lab


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_fifty_jobs_of_level_three_ask_800_calls_and_execute_56(lab: Lab, workers: int) -> None:
    lab.workers(workers)
    grid, path = lab.client(), lab.directory / "noted"
    results = grid.requests("pool", [(calls.noted_bogosity, str(path), i, 3, "tag") for i in range(50)]).result(60)
    executed = lines(path)
    assert len(executed) == len(set(executed)) == 56
    assert sum(text.count("(") for text in results) == 800
    assert sum(grid.status().executed.values()) == 56


def test_bogosity_is_what_it_is_locally_but_for_the_names_of_nodes(lab: Lab) -> None:
    lab.workers("left,right")
    results = lab.client().requests("pool", [(bogosity, 1, i, 3, 5, "tag") for i in range(10)]).result(60)
    with local():
        assert [without_nodes(text) for text in results] == [without_nodes(bogosity(0, i, 3, 5, "tag")) for i in range(10)]
    assert any("@left" in text or "@right" in text for text in results)


def test_a_running_call_is_joined_by_other_clients(lab: Lab) -> None:
    lab.workers(2)
    path = lab.directory / "slow"
    answers = [lab.client().request("pool", calls.wait_for, str(path), 1) for _ in range(3)]
    until(lambda: lines(path), "the call to start")
    answers.append(lab.client().request("pool", calls.parent_of_wait, str(path), 1))
    path.with_name("slow.go").touch()
    assert [answer.result(20) for answer in answers] == [1, 1, 1, 1]
    assert len(lines(path)) == 1


def test_a_kept_result_answers_without_a_worker(lab: Lab) -> None:
    process = lab.workers(1)
    assert lab.client().request("pool", calls.inc, 5).result(20) == 6
    process.terminate()
    process.wait(20)
    assert lab.client().request("pool", calls.inc, 5).result(20) == 6


def test_errors_are_not_remembered(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "noted"
    for _ in range(2):
        with pytest.raises(LookupError, match="nothing there"):
            grid.request("pool", calls.noted_failure, str(path)).result(20)
    assert lines(path) == ["tried", "tried"]


def test_the_same_call_twice_in_one_request_runs_once(lab: Lab) -> None:
    lab.workers(2)
    path = lab.directory / "noted"
    assert lab.client().requests("pool", [(calls.noted, str(path), 1)] * 3).result(20) == [1, 1, 1]
    assert lines(path) == ["1"]


def test_fib_makes_each_call_once(lab: Lab) -> None:
    lab.workers(2)
    grid = lab.client()
    assert grid.request("pool", calls.fib, 25).result(30) == 75025
    assert sum(grid.status().executed.values()) == 26


def test_values_are_copies_for_each_who_asks(grid: Grid) -> None:
    first = grid.request("pool", calls.options, 1, c={"x": 1}).result(20)
    first[2]["x"] = 2
    assert grid.request("pool", calls.options, 1, c={"x": 1}).result(20)[2] == {"x": 1}


def test_a_call_that_would_wait_for_itself_fails(grid: Grid) -> None:
    with pytest.raises(CallFailed, match="would wait for itself"):
        grid.request("pool", calls.self_cycle).result(20)
    with pytest.raises(CallFailed, match=r"would wait for itself: cycle\(0\) > cycle\(1\) > cycle\(2\) > cycle\(0\)") as caught:
        grid.request("pool", calls.cycle, 0).result(20)
    assert {"cycle(0)", "cycle(1)", "cycle(2)"} <= set(caught.value.chain)
