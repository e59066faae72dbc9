"""A remote function is called here, there, and on many arguments, from wherever it is called."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING

import grid_calls as calls
import pytest
import remote_calls as remote_functions
from grid_lab import until
from remote_calls import Counter, add, elsewhere, inverses, invert, later_square, later_sum, modules, square, sum_of_squares

from gridworker import Grid, NotOnWorker, as_completed, local, remote
from gridworker.progress import Bar

if TYPE_CHECKING:
    from grid_lab import Lab


def test_a_plain_call_runs_here() -> None:
    assert square(5) == 25
    assert (square.__name__, square.__doc__) == ("square", "The square of x.")
    assert asyncio.run(later_square(3)) == 9
    assert Counter(5).next(1) == 6


def test_a_call_on_a_grid_gives_the_value(grid: Grid) -> None:
    assert square.on(grid, "pool")(5) == 25
    assert add.on(grid)(1, y=2) == 3
    assert list(map(square.on(grid), range(4))) == [0, 1, 4, 9]        # it goes wherever a function goes
    with pytest.raises(ZeroDivisionError):
        invert.on(grid)(0)


async def test_a_call_of_a_coroutine_function_is_awaited(grid: Grid) -> None:
    assert await later_square.on(grid)(5) == 25
    assert await asyncio.gather(*[later_square.on(grid)(i) for i in range(5)]) == [0, 1, 4, 9, 16]


async def test_submit_goes_on_and_its_answer_is_awaited_or_blocked_on(grid: Grid) -> None:
    assert await square.on(grid).submit(6) == 36
    assert square.on(grid).submit(7).result() == 49


def test_a_function_belongs_to_the_pool_it_was_given(lab: Lab) -> None:
    lab.workers("here")
    lab.workers("there", "other")
    grid = lab.client()
    assert elsewhere.on(grid)(1) == "there"
    assert elsewhere.on(grid, "pool")(2) == "here"


def test_within_a_grid_nothing_needs_to_be_named(grid: Grid) -> None:
    with pytest.raises(NotOnWorker, match=r"f\.on\(grid\)"):
        square.map([1])
    with grid:
        assert square.map(range(5)).result() == [0, 1, 4, 9, 16]
        assert square.submit(3).result() == 9
    with pytest.raises(NotOnWorker):
        square.submit(1)


def test_on_the_grid_a_function_maps_and_submits_too(grid: Grid) -> None:
    assert sum_of_squares.on(grid)(10) == 285
    assert asyncio.run(later_sum.on(grid)(10)) == 285 + 9 + 4
    assert inverses.on(grid)([2, 0])[0] == "0.5" and "division by zero" in inverses.on(grid)([2, 0])[1]


def test_locally_the_same_code_runs_without_a_grid() -> None:
    with local():
        assert sum_of_squares(10) == 285
        assert square.map([1, 2]).result() == [1, 4]
        with pytest.raises(ZeroDivisionError):
            invert.submit(0).result()


def test_a_remote_function_of_a_notebook_goes_by_value(grid: Grid) -> None:
    @remote
    def cube(x: int) -> int:
        return x**3

    assert cube.on(grid).map(range(4)).result() == [0, 1, 8, 27]


def test_map_keeps_order_and_takes_several_iterables(grid: Grid) -> None:
    assert square.on(grid).map(range(1000)).result(60) == [i * i for i in range(1000)]
    assert add.on(grid).map([1, 2, 3], [10, 20, 30]).result() == [11, 22, 33]
    assert square.on(grid).map([]).result() == []
    many = square.on(grid).map([3, 1, 3, 2])
    assert list(many) == [9, 1, 9, 4]
    assert sorted(many.completed()) == [(0, 9), (1, 1), (2, 9), (3, 4)]


async def test_map_in_a_coroutine(grid: Grid) -> None:
    assert await square.on(grid).map(range(50)) == [i * i for i in range(50)]
    assert [value async for value in square.on(grid).map(range(5))] == [0, 1, 4, 9, 16]
    assert dict([pair async for pair in square.on(grid).map(range(5)).completed()]) == {i: i * i for i in range(5)}


def test_the_first_failure_of_a_map_is_raised_or_all_are_returned(grid: Grid) -> None:
    with pytest.raises(ZeroDivisionError):
        invert.on(grid).map([1, 0, 2]).result()
    one, error, two = invert.on(grid).map([1, 0, 2], return_exceptions=True)
    assert (one, two) == (1, 0.5)
    assert isinstance(error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        dict(invert.on(grid).map([0.1, 0]).completed())


def test_values_are_there_before_all_are(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "slow"
    held = remote(calls.wait_for).on(grid).map([str(path)] * 2, [1, 2])
    with pytest.raises(TimeoutError, match=r"2 of 2 call\(s\) are not done"):
        held.result(0.05)
    assert not held.done()
    mixed = grid._ask("pool", [(calls.inc, (1,), {}), (calls.wait_for, (str(path), 1), {})], type(held))
    (tmp := path.with_name("slow.go")).touch()
    assert held.result(20) == [1, 2]
    assert list(mixed) == [2, 1]
    assert tmp.exists()


def test_answers_as_they_come(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "slow"
    slow = grid.request(calls.wait_for, str(path), "slow")
    quick = grid.request(calls.inc, 1)
    failing = grid.request(calls.divide, 1, 0)
    arriving = iter(as_completed([slow, quick, failing], timeout=30))
    assert {next(arriving), next(arriving)} == {quick, failing}
    with pytest.raises(TimeoutError, match=r"1 of 1 answer\(s\) are not there"):
        list(as_completed([slow], timeout=0.01))
    path.with_name("slow.go").touch()
    assert [answer.result() for answer in arriving] == ["slow"]


async def test_answers_as_they_come_in_a_coroutine(grid: Grid, tmp_path: Path) -> None:
    answers = [square.on(grid).submit(i) for i in range(20)]
    assert sorted([await answer async for answer in as_completed(answers)]) == [i * i for i in range(20)]
    with pytest.raises(TimeoutError):
        async for _ in as_completed([grid.request(calls.wait_for, str(tmp_path / "never"), 1, 0.5)], timeout=0.01):
            raise AssertionError("it was not there")


def test_a_map_can_be_taken_back(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    many = remote(calls.wait_for).on(grid).map([str(path)] * 3, [1, 2, 3], return_exceptions=True)
    until(path.exists, "the first to begin")
    assert many.cancel() and many.done()
    assert [type(error).__name__ for error in many] == ["CallCancelled"] * 3
    assert len(list(many.completed())) == 3 and not many.cancel()
    path.with_name("slow.go").touch()
    assert grid.request(calls.inc, 1).result(20) == 2


class Terminal(io.StringIO):
    """A stderr that somebody looks at."""

    def isatty(self) -> bool:
        return True


def test_a_long_wait_shows_a_bar_in_a_terminal_and_nowhere_else(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert square.on(grid).map(range(30), progress=True).result() == [i * i for i in range(30)]
    assert "30/30" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", quiet := Terminal())
    assert square.on(grid).map(range(30)).result() == [i * i for i in range(30)]        # over before anybody could look
    assert square.on(grid).map(range(30), progress=False).result() == [i * i for i in range(30)]
    assert quiet.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    bar = Bar(10, None)
    bar._from = time.monotonic() - 10
    bar.show(5, 1)
    assert file.getvalue() == "" and bar.pause(None) is None


@pytest.mark.parametrize("columns", [30, 80, 120])
def test_the_bar_is_one_line_that_is_drawn_by_who_waits_alone(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    before = threading.enumerate()
    with Bar(40, True) as bar:
        bar.show(10, 1)
        bar._shown_at = 0.0
        bar.show(20, 1)
        assert threading.enumerate() == before              # nobody who could go on when the wait has been dropped
    assert not re.search("\x1b(?!\\[K)", terminal.getvalue())   # the cursor is not hidden, nothing is moved
    *drawn, end = terminal.getvalue().split("\n")
    _, first, second = "".join(drawn).split("\r")
    assert (end, len(drawn)) == ("", 1)
    assert all(len(line.removesuffix("\x1b[K")) < columns for line in (first, second))
    assert "20/40, 1 failed, 0.0 s" in second


def test_a_bar_that_ipython_has_dropped_does_not_draw_into_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(execution_count=1)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = Bar(40, True)
    bar.show(10, 0)
    drawn = terminal.getvalue()
    shell.execution_count = 2
    bar._shown_at = 0.0
    bar.show(20, 0)
    bar.close()
    assert "10/40" in drawn
    assert terminal.getvalue() == drawn


def test_the_bar_is_imported_when_it_is_shown() -> None:
    script = ("import sys, gridworker; from gridworker import Grid, remote\n"
              "with Grid(workers=1) as grid: remote(abs).on(grid).map([1, -2]).result()\n"
              "print(sorted(name for name in ('rich', 'IPython', 'numpy', 'joblib') if name in sys.modules))")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_worker_does_not_import_what_remote_functions_need_elsewhere(lab: Lab) -> None:
    lab.workers(1)
    loaded = modules.on(lab.client())()
    assert "gridworker.remotes" in loaded
    assert loaded.isdisjoint({"rich", "IPython", "gridworker.client", "gridworker.many"})


def test_reprs_are_short(grid: Grid) -> None:
    assert repr(square) == "<remote square>"
    assert repr(remote_functions.elsewhere.on(grid)).startswith("<elsewhere on grid t") and repr(square.on()).endswith("its usual pool>")
    many = square.on(grid).map([1, 2])
    until(many.done, "both values")
    assert repr(many) == "<Many 2 of 2 here, 0 failed>"
