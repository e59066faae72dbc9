"""Pools of pools: help comes down to a pool from those below it, work goes up from a full one, what belongs together stays together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import Lab, lines, until

from gridworker import Grid, node_id, requests
from gridworker.errors import GridError
from gridworker.links import link
from gridworker.server import Server

if TYPE_CHECKING:
    from gridworker import Answer

HELPER = ("--helper", "20")


def pool(lab: Lab, name: str, parent: str = "", workers: int = 1) -> None:
    """A pool with workers `<name>1…` and a distributor, linked to a parent."""
    if workers:
        lab.start("--worker", ",".join(f"{name}{i}" for i in range(1, workers + 1)), "--pool", name)
    lab.start("--distributor", name, *HELPER, *(("--link", f"{name}={parent}") if parent else ()))


class Busy:
    """Workers of a pool that hold a call until `go()`."""

    def __init__(self, lab: Lab, grid: Grid, pool: str, workers: int = 1) -> None:
        self.path = lab.directory / f"busy-{pool}"
        self.answers: list[Answer[Any]] = [grid.request(pool, calls.wait_for, str(self.path), f"{pool}.{i}") for i in range(workers)]
        until(lambda: len(lines(self.path)) == workers, f"the workers of {pool} to be busy")

    def go(self) -> None:
        self.path.with_name(self.path.name + ".go").touch()
        for answer in self.answers:
            answer.result(20)


def spread(n: int, tag: str) -> Any:
    """Where n calls of this call ran."""
    return [node_id(), *requests([(calls.where, f"{tag}{i}") for i in range(n)])]


def test_work_at_the_parent_goes_down_to_whoever_volunteers(lab: Lab) -> None:
    pool(lab, "low", "high")
    grid = lab.client()
    until(lambda: grid.status().pools["low"]["idle"] == 1, "the worker to volunteer")
    assert grid.request("high", calls.where, 1).result(20) == "low1"
    assert grid.requests("high", [(calls.inc, i) for i in range(500)]).result(20) == list(range(1, 501))
    assert grid.status().pools["low"]["parent"] == "high"


def test_work_comes_down_two_levels(lab: Lab) -> None:
    pool(lab, "middle", "top", workers=0)
    pool(lab, "low", "middle")
    assert lab.client().request("top", calls.where, 1).result(20) == "low1"


def test_work_of_a_full_pool_goes_up_and_down_to_another(lab: Lab) -> None:
    for name in ("left", "right"):
        pool(lab, name, "root")
    grid = lab.client()
    busy = Busy(lab, grid, "left")
    assert set(grid.requests("left", [(calls.where, i) for i in range(5)]).result(20)) == {"right1"}
    busy.go()


def test_over_two_levels_too(lab: Lab) -> None:
    pool(lab, "near", "middle")
    pool(lab, "middle", "root", workers=0)
    pool(lab, "far", "root")
    grid = lab.client()
    busy = Busy(lab, grid, "near")
    assert set(grid.requests("near", [(calls.where, i) for i in range(5)]).result(20)) == {"far1"}
    busy.go()


def test_calls_of_calls_stay_at_home_while_nobody_is_idle(lab: Lab) -> None:
    for name in ("left", "right"):
        pool(lab, name, "root")
    grid = lab.client()
    busy = Busy(lab, grid, "right")
    assert set(grid.request("left", spread, 200, "a").result(20)) == {"left1"}
    busy.go()


def test_a_pool_with_room_sends_nothing_away(lab: Lab) -> None:
    pool(lab, "left", "root", workers=2)
    pool(lab, "right", "root")
    grid = lab.client()
    busy = Busy(lab, grid, "left")                                  # one of its two workers is free
    other = next(f"left{i}" for i in (1, 2) if f"left{i}" != owner(grid, "left"))
    assert [grid.request("left", calls.where, i).result(20) for i in range(5)] == [other] * 5
    busy.go()


def owner(grid: Grid, pool: str) -> str:
    return next(name for name, node in grid.status().nodes.items() if node["pool"] == pool and node["owned"])


def test_free_help_elsewhere_takes_calls_of_calls_that_wait(lab: Lab) -> None:
    for name in ("left", "right"):
        pool(lab, name, "root")
    grid = lab.client()
    path = lab.directory / "slow"
    answer = grid.request("left", slow_family, str(path), 4)
    until(lambda: len({line.split()[-1] for line in lines(path)}) == 2, "calls to run in two processes")
    path.with_name("slow.go").touch()
    assert answer.result(20) == [0, 1, 2, 3]


def slow_family(path: str, n: int) -> Any:
    return requests([(calls.wait_for, path, i) for i in range(n)])


def test_workers_hear_of_links_that_are_made_later(lab: Lab) -> None:
    lab.workers("early", "low")
    grid = lab.client()
    assert grid.request("low", calls.where, 0).result(20) == "early"
    waiting = grid.request("high", calls.where, 1)
    connection = lab.connection()
    try:
        assert link(connection, lab.keys, "low", "high")
        assert not link(connection, lab.keys, "low", "high")
        assert waiting.result(20) == "early"
        with pytest.raises(GridError, match="pool high would stand above itself"):
            link(connection, lab.keys, "high", "low")
    finally:
        connection.close()


def test_what_a_worker_took_from_above_is_not_lost_with_it(lab: Lab) -> None:
    pool(lab, "low", "high")
    grid, path = lab.client(), lab.directory / "held"
    held = grid.request("high", calls.wait_for, str(path), 1)
    until(lambda: lines(path), "the call to begin")
    os.kill(int(lines(path)[0].split()[-1]), signal.SIGKILL)
    path.with_name("held.go").touch()
    assert held.result(20) == 1
    assert len(lines(path)) == 2
    assert grid.requests("high", [(calls.inc, i) for i in range(50)]).result(20) == list(range(1, 51))


def test_a_call_that_went_up_can_be_cancelled(lab: Lab) -> None:
    pool(lab, "low", "high")
    grid = lab.client()
    busy = Busy(lab, grid, "low")
    waiting = grid.request("high", calls.noted, str(lab.directory / "noted"), 1)
    assert waiting.cancel()
    busy.go()
    grid.request("low", calls.inc, 1).result(20)
    assert lines(lab.directory / "noted") == []


@pytest.mark.parametrize(("options", "says"), [
    (("--distributor", "a", "--link", "a"), "'a' is no link: pool=parent"),
    (("--distributor", "a", "--link", "b=c"), "it needs --distributor b"),
    (("--distributor", "a", "--link", "a=b,a=c"), "linked twice"),
])
def test_the_command_line_says_what_is_no_link(lab: Lab, options: tuple[str, ...], says: str) -> None:
    ran = lab.run(*options)
    assert ran.returncode == 2 and says in ran.stderr


# hosts of their own: each pool in a network namespace, joined to the server's by a bridge


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(params=["namespaces", "loopback"])
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The server's address, and what to put in front of a command so that it runs on the host of that name."""
    if request.param == "loopback":
        yield "127.0.0.1", {"left": [], "right": []}
        return
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    number = os.getpid() % 60_000
    bridge, net = f"gw{number}", f"10.{200 + number % 50}.{number // 250 % 250}"
    made: list[tuple[str, ...]] = []
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no bridge can be made here: {error.stderr.decode().strip()}")
        made.append(("link", "del", bridge))
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for at, host in enumerate(("left", "right"), start=2):
            space, here, there = f"gw{number}{host}", f"v{number}{host[0]}", f"w{number}{host[0]}"
            _ip("netns", "add", space)
            made.append(("netns", "del", space))
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
            _ip("link", "set", here, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{net}.{at}/24", "dev", there)
            _ip("-n", space, "link", "set", there, "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield f"{net}.1", {host: ["ip", "netns", "exec", f"gw{number}{host}"] for host in ("left", "right")}
    finally:
        for words in reversed(made):
            _ip(*words)


class Hosts(Lab):
    """A lab whose nodes run on hosts of their own."""

    prefix: tuple[str, ...] = ()

    def command(self, *options: str) -> list[str]:
        return [*self.prefix, *super().command("--host", self.server.address.host, *options)]


def test_pools_on_hosts_of_their_own_share_their_work(hosts: tuple[str, dict[str, list[str]]], tmp_path: Path) -> None:
    address, prefixes = hosts
    with Server(host=address) as server:
        lab = Hosts(server, tmp_path)
        try:
            for name, prefix in prefixes.items():
                lab.prefix = tuple(prefix)
                pool(lab, name, "root", workers=2)
            grid = lab.client()
            assert grid.requests("root", [(calls.fib, 18), (calls.tree, 4, "x")]).result(30) == [2584, 65]
            busy = Busy(lab, grid, "left", workers=2)
            assert set(grid.requests("left", [(calls.where, i) for i in range(20)]).result(20)) <= {"right1", "right2"}
            busy.go()
            executed = grid.status().executed
            assert executed["right1"] + executed["right2"] >= 20
        finally:
            lab.close()
