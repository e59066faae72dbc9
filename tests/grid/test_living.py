"""A grid that nobody refers to any more ends, with its server and workers; one that somebody waits for does not."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import ended, lines, until

from gridworker import Grid

if TYPE_CHECKING:
    from grid_lab import Lab


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing goes but by the count of its references: what a notebook sees, which may do little for long."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def processes(grid: Grid) -> list[int]:
    """The server's and the workers'."""
    grid.status()
    embedded = grid._embedded
    assert embedded is not None and embedded._process is not None and embedded.server._process is not None
    return [embedded._process.pid, embedded.server._process.pid, *(node["pid"] for node in grid.status().nodes.values())]


def gone(pids: list[int]) -> bool:
    return all(map(ended, pids))


@pytest.mark.usefixtures("uncollected")
def test_a_grid_that_is_made_anew_is_the_only_one() -> None:
    grid = Grid(workers=1)
    assert grid.request(calls.inc, 1).result(20) == 2
    first = processes(grid)
    grid = Grid(workers=1)                                  # as when a notebook's cell is run again
    until(lambda: gone(first), "the first one to end")
    assert grid.request(calls.inc, 2).result(20) == 3
    grid.close()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("use", ["nothing", "awaits", "maps", "asks for many", "fails", "looks", "cancels"])
def test_whatever_it_was_used_for(use: str) -> None:
    grid = Grid(workers=1)
    asyncio.run(used(grid, use))
    pids = processes(grid)
    del grid
    until(lambda: gone(pids), "it to end")


async def used(grid: Grid, use: str) -> None:
    if use == "awaits":
        assert await (await grid).request(calls.inc, 1) == 2
        assert await asyncio.gather(*[grid.request(calls.inc, i) for i in range(5)]) == [1, 2, 3, 4, 5]
    elif use == "maps":
        with grid.executor() as executor:
            assert list(executor.map(calls.inc, [1, 2])) == [2, 3]
    elif use == "asks for many":
        assert len(await grid.requests([(calls.inc, i) for i in range(3000)])) == 3000
        assert await grid.requests([]) == []
    elif use == "fails":
        try:
            grid.request(calls.divide, 1, 0).result(20)
        except ZeroDivisionError as error:
            assert error.__cause__
    elif use == "looks":
        answer = grid.request(calls.inc, 5, trace=True)
        assert answer.result(20) == 6
        assert len(grid.graph(answer).calls) == len(grid.status().nodes) == 1
        assert grid.logs() is not None
    elif use == "cancels":
        assert grid.request(calls.wait_for, "/nowhere/at/all", 1).cancel()


@pytest.mark.usefixtures("uncollected")
def test_an_answer_that_is_there_does_not_hold_its_grid_and_one_that_is_not_does(tmp_path: Path) -> None:
    grid, path = Grid(workers=1), str(tmp_path / "slow")
    pids = processes(grid)
    there = grid.request(calls.inc, 1)
    assert there.result(20) == 2
    coming = grid.request(calls.wait_for, path, 5)
    until(lambda: lines(Path(path)), "the other to run")
    del grid
    gc.collect()
    Path(path + ".go").touch()
    assert coming.result(20) == 5
    until(lambda: gone(pids), "it to end")
    assert (there.result(), coming.result()) == (2, 5)


def test_a_task_that_waits_is_not_forgotten_with_its_grid(tmp_path: Path) -> None:
    path, done, pids = tmp_path / "slow", tmp_path / "done", list[int]()

    async def waits() -> None:
        grid = Grid(workers=1)
        pids.extend(processes(await grid))
        calls.note(str(done), str(await grid.request(calls.wait_for, str(path), 5)))

    async def main() -> None:
        asyncio.get_running_loop().create_task(waits())
        await asyncio.to_thread(until, lambda: lines(path), "it to wait")
        gc.collect()
        path.with_name("slow.go").touch()
        await asyncio.to_thread(until, lambda: lines(done), "it to have its answer")

    asyncio.run(main())
    assert lines(done) == ["5"]
    until(lambda: gone(pids), "its grid to end")


def test_answers_that_nobody_waits_for_hold_nothing(tmp_path: Path) -> None:
    grid, path = Grid(workers=1), tmp_path / "slow"
    pids = processes(grid)
    answers = [grid.request(calls.wait_for, str(path), i) for i in range(20)]
    until(lambda: lines(path), "one of them to run")
    del grid, answers
    gc.collect()                                            # calls that are not answered are a circle
    until(lambda: gone(pids), "it to end")


@pytest.mark.usefixtures("uncollected")
def test_a_client_that_nobody_refers_to_hangs_up(lab: Lab) -> None:
    lab.workers(1)
    grid = Grid.connect(lab.server.url, password=lab.server.password, key=lab.key, namespace=lab.keys.namespace)
    assert grid.request("pool", calls.inc, 1).result(20) == 2
    name, heard, connection = grid.name.encode(), grid.keys.kept, lab.connection()
    assert name in connection.call("CLIENT", "LIST")
    del grid
    until(lambda: name not in connection.call("CLIENT", "LIST"), "its connections to be closed")
    assert connection.call("LLEN", heard) == 1              # it has acknowledged what it had heard
    connection.close()


def test_a_grid_whose_workers_have_died_leaves_no_server() -> None:
    grid = Grid(workers=1)
    pids = processes(grid)
    os.kill(pids[0], signal.SIGKILL)
    grid._thread.join(20)
    assert not grid._thread.is_alive() and not ended(pids[1])
    del grid
    gc.collect()
    until(lambda: gone(pids), "the server to end")


def test_a_grid_that_could_not_be_made_says_why_and_nothing_else(recwarn: pytest.WarningsRecorder) -> None:
    for wrong in ({"workers": 0}, {"pool": "no name!"}, {"url": "http://x", "namespace": "t"}):
        options: dict[str, Any] = wrong
        with pytest.raises(Exception, match=r"worker|name|address"):
            Grid(**options)
    gc.collect()
    assert not recwarn.list
