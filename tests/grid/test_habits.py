"""Who comes from another tool types its words first: each is there, or its error says what to write."""

from __future__ import annotations

import concurrent.futures
import time
from typing import TYPE_CHECKING, Any

import pytest
from remote_calls import invert, square

from gridworker import Grid, as_completed

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_grid_maps_any_function(grid: Grid) -> None:
    assert grid.map(abs, [-1, 2]).result() == [1, 2]
    assert list(grid.map(pow, iter([2, 3]), [3, 2, 5], pool="pool")) == [8, 9]
    assert square.on(grid).map(x for x in range(3)).result() == [0, 1, 4], "an iterator is read once"
    failed, done = grid.map(lambda x: 1 / x, [0, 1], return_exceptions=True).result()
    assert (type(failed).__name__, done) == ("ZeroDivisionError", 1.0)


def test_an_answer_tells_its_exception(grid: Grid) -> None:
    assert isinstance(invert.on(grid).submit(0).exception(), ZeroDivisionError)
    assert grid.request(abs, -1).exception(20) is None
    assert isinstance(grid.map(lambda x: 1 / x, [1, 0]).exception(20), ZeroDivisionError)
    waits = grid.request(time.sleep, 600)
    with pytest.raises(TimeoutError, match="they go on"):
        waits.exception(0.01)
    waits.cancel(kill=True)


def test_a_call_that_has_raised_a_timeout_error_is_over_and_tells_it(grid: Grid) -> None:
    def late() -> None:
        raise TimeoutError("of its own")

    assert "of its own" in str(grid.request(late).exception(20))


@pytest.mark.parametrize(("attempt", "words"), [
    (lambda grid: grid.submit(abs, -1), r"'Grid' object has no attribute 'submit'; write grid\.request\(f, x\)"),
    (lambda grid: square.remote(3), r"'remote'; write f\.on\(grid\)\.submit\(x\)"),
    (lambda grid: grid.request(abs, -1).get(), r"'get'; await it, or call its \.result\(\)"),
    (lambda grid: concurrent.futures.wait([grid.request(abs, -1)]), r"gridworker\.as_completed\(answers\) does"),
    (lambda grid: list(concurrent.futures.as_completed([grid.request(abs, -1)])), r"gridworker\.as_completed\(answers\) does"),
    (lambda grid: grid.nonsense, r"'Grid' object has no attribute 'nonsense'$"),
])
def test_a_word_of_another_tool_says_what_it_is_called_here(grid: Grid, attempt: Callable[[Any], object], words: str) -> None:
    with pytest.raises(AttributeError, match=words):
        attempt(grid)


def test_what_the_hints_name_is_there(grid: Grid) -> None:
    done, waiting = concurrent.futures.wait([grid.executor().submit(abs, -1)], timeout=20)
    assert [future.result() for future in done] == [1]
    assert not waiting
    assert [answer.result() for answer in as_completed([grid.request(abs, -1)])] == [1]
    assert not hasattr(grid, "_repr_png_")
