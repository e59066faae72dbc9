"""Waiting holds no thread: any depth, any number of workers, plain and async functions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import lines

from gridworker import NotSerializable, remote, salted
from gridworker.messages import WORK
from gridworker.waits import Wait, Waits

if TYPE_CHECKING:
    from grid_lab import Lab


@pytest.mark.parametrize("workers", [1, 3])
def test_depth_of_nesting_starves_nobody(lab: Lab, workers: int) -> None:
    lab.workers(workers)
    grid = lab.client()
    assert grid.request("pool", calls.depth, 1500).result(60) == 1500


def test_one_worker_computes_nested_trees(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client()
    assert grid.requests("pool", [(calls.tree, 5, str(i)) for i in range(5)]).result(60) == [326] * 5
    assert sum(grid.status().executed.values()) == 5 * 326


def test_two_pools_may_wait_for_each_other(lab: Lab) -> None:
    lab.workers(1, "a")
    lab.workers(1, "b")
    assert lab.client().requests("a", [(calls.elsewhere, "b", i) for i in range(200)]).result(30) == list(range(1, 201))


def test_users_may_run_a_loop_of_their_own_in_plain_functions(lab: Lab) -> None:
    lab.workers(1)
    assert lab.client().requests("pool", [(calls.with_own_loop, i) for i in range(20)]).result(30) == list(range(1, 21))


@pytest.mark.parametrize("workers", [1, 2])
def test_async_functions_await_their_requests(lab: Lab, workers: int) -> None:
    lab.workers(workers)
    grid = lab.client()
    assert grid.request("pool", calls.aio_sum, 30).result(30) == sum(range(1, 31)) + 1
    assert grid.request("pool", calls.sum_of_aio, 5).result(30) == (15 + 1) + (21 + 1)
    with pytest.raises(ZeroDivisionError) as caught:
        grid.request("pool", calls.aio_fails).result(30)
    assert "called by aio_fails()" in str(caught.value)


@pytest.mark.parametrize(("function", "value"), [
    (partial(calls.aio_inc, 1), 2), (lambda: calls.aio_inc(2), 3), (partial(calls.AioAdder(10), 3), 14),
    (partial(salted(calls.aio_inc), 4), 5), (remote(partial(calls.aio_inc, 5)), 6), (partial(calls.aio_after_a_wait, 6), 8),
], ids=["a partial", "a lambda", "an object", "salted", "remote", "after a wait"])
def test_whatever_gives_a_coroutine_is_run_as_one(lab: Lab, function: Any, value: int) -> None:
    lab.workers(1)
    assert lab.client().request("pool", function).result(20) == value


def test_a_coroutine_that_fails_shows_the_call_that_gave_it(lab: Lab) -> None:
    lab.workers(1)
    with pytest.raises(ZeroDivisionError, match=r"divide\(1, 0\) raised"):
        lab.client().request("pool", partial(calls.aio_fails)).result(20)


@pytest.mark.parametrize(("function", "said"), [
    (calls.unpicklable, r"cannot pickle 'generator' object. A generator stays where it was made; let its items travel, `list\(…\)`"),
    (calls.aio_generates, r"cannot pickle 'async_generator' object. .*; let its items travel, `\[item async for item in …\]`"),
])
def test_what_is_made_bit_by_bit_is_refused_with_what_to_do(lab: Lab, function: Any, said: str) -> None:
    lab.workers(1)
    with pytest.raises(NotSerializable, match=said):
        lab.client().request("pool", function).result(20)


def test_plain_and_async_functions_share_a_worker(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "noted"
    mixed = [(calls.aio_inc, 1), (calls.noted, str(path), 2), (calls.sum_of_aio, 3), (calls.with_own_loop, 4), (calls.depth, 5)]
    assert grid.requests("pool", mixed).result(30) == [2, 2, (6 + 1) + (10 + 1), 5, 5]
    assert lines(path) == ["2"]


def outcome(kind: bytes, call: str) -> bytes:
    return kind + call.encode() + b"body"


def test_a_wait_is_over_with_its_last_call_or_its_first_failure() -> None:
    one, two = "1" * 32, "2" * 32
    for patient, messages, over in [
        (False, [outcome(b"R", one)], False),
        (False, [outcome(b"R", one), outcome(b"R", two)], True),
        (False, [outcome(b"E", one)], True),
        (True, [outcome(b"E", one)], False),
        (True, [outcome(b"E", one), outcome(b"C", two)], True),
    ]:
        woken: list[Wait] = []
        waits, wait = Waits(), Wait([one, two, one], patient, woken.append)
        asks = waits.add(wait, [(one, ("", "p", b"item1")), (two, ("", "p", b"item2")), (one, ("", "p", b"item1"))])
        assert asks == [("", "p", b"item1"), ("", "p", b"item2")]
        for message in messages:
            assert waits.arrive(message)
            assert not waits.arrive(message)              # a repeated answer finds nobody
        assert (wait.over, woken) == (over, [wait] if over else [])


def test_a_call_is_asked_for_once_for_each_parent() -> None:
    waits, call = Waits(), "1" * 32
    first, second = ("", "p", b"item"), ("", "q", b"item")
    assert waits.add(Wait([call], False, lambda wait: None), [(call, first)]) == [first]
    assert waits.add(Wait([call], False, lambda wait: None), [(call, first)]) == []
    assert waits.add(Wait([call], False, lambda wait: None), [(call, second)]) == [second]
    assert waits.asked() == [first, second]
    waits.arrive(outcome(b"R", call))
    assert (len(waits), waits.asked()) == (0, [])
    assert bytes([WORK]) == b"W"
