"""Processes with many open files: `select` takes descriptors below 1,024 only, and a notebook may have more."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import grid_calls as calls
import pytest
from grid_lab import Lab, until

from gridworker import Grid, salted
from gridworker.distributor import Distributor
from gridworker.node import Node
from gridworker.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

BELOW = 1100


@pytest.fixture
def crowded() -> Iterator[None]:
    """All low descriptors of this process are taken, and processes that it starts may have as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * BELOW:
        pytest.skip(f"a process may have {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * BELOW), hard))
    taken = calls.take_descriptors(BELOW)
    try:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("crowded")
def test_a_client_finds_its_server_again(tmp_path: Path) -> None:
    with Server(unix=True, directory=tmp_path / "server") as server:
        lab = Lab(server, tmp_path)
        try:
            grid = lab.client()
            grid.status()
            assert grid._bell.fileno() > 1024
            server.stop()
            until(lambda: not grid._open, "the client to notice")
            answer = grid.request("pool", calls.inc, 1)
            server.start()
            lab.workers(1)
            assert answer.result(30) == 2
        finally:
            lab.close()


@pytest.mark.usefixtures("crowded")
def test_a_grid_of_this_machine_starts_and_ends() -> None:
    with Grid(workers=1) as grid:
        assert grid.request(pow, 2, 3).result(20) == 8


@pytest.mark.usefixtures("crowded")
def test_coroutines_hear_of_more_work(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), str(lab.directory / "slow")
    first = grid.request("pool", calls.keep_descriptors, BELOW).result(20)
    slow = grid.request("pool", calls.aio_returns, path, 5)
    until(lambda: Path(path).exists(), "the coroutine to wait")
    assert grid.request("pool", calls.inc, 1).result(20) == 2         # heard by the bell that coroutines have
    Path(path + ".go").touch()
    assert slow.result(20) == 5
    assert grid.request("pool", salted(os.getpid)).result(20) == first      # the same process, which has not ended over this


@pytest.mark.usefixtures("crowded")
def test_a_distributor_makes_its_rounds(lab: Lab) -> None:
    rounds: list[float] = []

    class Counted(Distributor):
        def round(self, now: float) -> None:
            rounds.append(now)

    with closing(lab.connection()) as connection:
        distributor = Counted(Node(lab.keys, "pool", "d", kind="distributor", supervisor="s"), connection, period=0.01)
        broken: list[Exception] = []
        running = threading.Thread(target=caught, args=(distributor.run, broken))
        running.start()
        until(lambda: len(rounds) > 3 or broken, "a few rounds")
        distributor.stop()
        running.join(20)
    assert broken == [] and not running.is_alive()


def caught(action: Callable[[], None], broken: list[Exception]) -> None:
    try:
        action()
    except Exception as error:
        broken.append(error)
