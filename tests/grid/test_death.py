"""Nodes die safely: what they owned is run elsewhere, and nothing that was accepted is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import Lab, ended, lines, until

from gridworker import NodeLost
from gridworker.server import Server

if TYPE_CHECKING:
    from gridworker import Grid


def pids(grid: Grid, kind: str = "worker") -> dict[str, int]:
    return {name: node["pid"] for name, node in grid.status().nodes.items() if node["kind"] == kind}


def test_calls_of_a_killed_worker_are_run_again(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.requests("pool", [(calls.wait_for, str(path), i) for i in range(20)])
    started = until(lambda: len(lines(path)) >= 2 and lines(path), "both workers to be in a call")
    os.kill(int(started[0].split()[1]), signal.SIGKILL)
    until(lambda: len(lines(path)) >= 3, "the call to be started again")
    path.with_name("slow.go").touch()
    assert answer.result(30) == list(range(20))
    assert len(lines(path)) == 21                         # only the killed call ran twice


def test_parked_calls_of_a_killed_worker_are_run_again(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.requests("pool", [(calls.parent_of_wait, str(path), i) for i in range(5)])
    started = until(lambda: lines(path), "the inner call to start")
    os.kill(int(started[0].split()[1]), signal.SIGKILL)
    until(lambda: len(lines(path)) >= 2, "the inner call to be started again")
    path.with_name("slow.go").touch()
    assert answer.result(30) == list(range(5))


def test_a_call_that_kills_its_workers_is_given_up(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "victims"
    with pytest.raises(NodeLost, match=r"^die\('.+\) failed: NodeLost: the nodes that held it died 5 times, .+ last, by SIGKILL, as when"):
        grid.request("pool", calls.die, str(path)).result(60)
    assert len(lines(path)) == 5
    assert grid.request("pool", calls.inc, 1).result(30) == 2


def test_workers_die_with_their_supervisor_and_a_distributor_reaps_them(lab: Lab) -> None:
    lab.start("--distributor", "pool", "--helper", "100")
    doomed = lab.workers(2)
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.requests("pool", [(calls.wait_for, str(path), i) for i in range(4)])
    until(lambda: len(lines(path)) == 2, "both workers to be in a call")
    workers = list(pids(grid).values())
    doomed.kill()
    until(lambda: all(map(ended, workers)), "the workers to die with their supervisor")
    lab.workers(1)
    path.with_name("slow.go").touch()
    assert answer.result(60) == [0, 1, 2, 3]
    until(lambda: len(pids(grid)) == 1, "the dead nodes to be gone from the grid")


def test_a_supervisor_that_leaves_gives_back_what_its_workers_have_not_done(lab: Lab) -> None:
    first = lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.requests("pool", [(calls.parent_of_wait, str(path), i) for i in range(3)])
    until(lambda: lines(path), "a call to start")
    first.send_signal(signal.SIGTERM)
    path.with_name("slow.go").touch()                     # the running call may finish within the grace
    assert first.wait(20) == 0
    assert pids(grid) == {}
    lab.workers(1)
    assert answer.result(30) == [0, 1, 2]


def terminal(lab: Lab, verb: str, *options: str) -> list[str]:
    python, *rest = lab.command()
    return [python, *rest[:2], verb, *rest[2:], *options]


def test_a_host_that_a_client_drains_finishes_what_runs_and_loses_nothing(lab: Lab) -> None:
    going = lab.workers("ann,bob")
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.requests("pool", [(calls.parent_of_wait, str(path), i) for i in range(6)])
    until(lambda: len(lines(path)) >= 2, "both workers to be in a call")
    lab.workers("cat")
    left = grid.drain(["ann"], timeout=0.0)
    assert left == ["ann", "bob"], "they are still in their calls"
    path.with_name("slow.go").touch()
    assert going.wait(20) == 0
    assert answer.result(30) == list(range(6))
    assert list(pids(grid)) == ["cat"]
    assert grid.request("pool", calls.inc, 1).result(20) == 2


def test_draining_a_node_that_is_not_there_says_so_and_is_said_to_nobody(lab: Lab) -> None:
    process = lab.workers("ann")
    grid = lab.client()
    with pytest.raises(LookupError, match=r"no node bob on this grid; it has ann"):
        grid.drain(["ann", "bob"])
    command = terminal(lab, "drain", "ann", "--timeout", "20")
    run = subprocess.run(command, env=lab.environment(), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert process.wait(5) == 0


def test_an_idle_worker_leaves_at_once_and_its_supervisor_with_it(lab: Lab) -> None:
    process = lab.workers(2)
    grid = lab.client()
    until(lambda: grid.status().pools["pool"]["idle"] == 2, "both workers to be idle")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert grid.status().nodes == {}


def test_further_signals_end_a_worker_that_does_not_leave(lab: Lab) -> None:
    process = lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.request("pool", calls.wait_for, str(path), 1)
    until(lambda: lines(path), "the call to start")
    process.send_signal(signal.SIGTERM)

    def told_again() -> bool:
        process.send_signal(signal.SIGTERM)
        return process.poll() is not None

    until(told_again, "the supervisor to lose patience", 8.0)
    lab.workers(1)
    path.with_name("slow.go").touch()
    assert answer.result(30) == 1


def test_a_dead_worker_is_replaced_under_the_same_name(lab: Lab) -> None:
    lab.workers("ann,bob")
    grid = lab.client()
    before = pids(grid)
    os.kill(before["ann"], signal.SIGKILL)
    until(lambda: pids(grid).get("ann", before["ann"]) != before["ann"], "ann to be replaced")
    assert pids(grid)["bob"] == before["bob"]
    assert grid.request("pool", calls.inc, 1).result(20) == 2


def test_a_dead_client_disturbs_nobody(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    script = (f"import grid_calls as calls\nfrom gridworker import Grid\n"
              f"grid = Grid.connect({lab.server.url!r}, password={lab.server.password!r}, "
              f"namespace={lab.keys.namespace!r})\ngrid.request('pool', calls.wait_for, {str(path)!r}, 1).result(60)\n")
    other = subprocess.Popen([sys.executable, "-c", script], env=lab.environment())
    until(lambda: lines(path), "the other client's call to start")
    answer = grid.request("pool", calls.wait_for, str(path), 1)
    other.kill()
    other.wait()
    path.with_name("slow.go").touch()
    assert answer.result(20) == 1
    assert len(lines(path)) == 1


def test_broken_connections_of_workers_and_clients_lose_nothing(lab: Lab) -> None:
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "noted"
    connection = lab.connection()
    answer = grid.requests("pool", [(calls.noted, str(path), i) for i in range(3000)])
    nested = grid.requests("pool", [(calls.tree, 4, str(i)) for i in range(5)])
    for _ in range(5):
        mine = [line for line in connection.call("CLIENT", "LIST").decode().splitlines() if lab_connection(line, grid, lab)]
        for line in mine:
            connection.call("CLIENT", "KILL", "ID", line.split()[0].partition("=")[2])
    connection.close()
    assert answer.result(60) == list(range(3000))
    assert nested.result(60) == [65] * 5
    assert sorted(set(map(int, lines(path)))) == list(range(3000))


def lab_connection(line: str, grid: Grid, lab: Lab) -> bool:
    """Whether a line of CLIENT LIST is about a connection of this test's grid."""
    names = [f":{grid.name}", *(f":{name}" for name in grid.status().nodes)]
    return any(f"{name} " in line for name in names)


def test_a_worker_that_was_given_up_while_it_lived_starts_a_new_life(lab: Lab) -> None:
    from gridworker.node import lost, reap
    from gridworker.store import Script

    lab.workers("ann")
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.request("pool", calls.wait_for, str(path), 1)
    until(lambda: lines(path), "the call to start")
    incarnation: Any = grid.status().nodes["ann"]["incarnation"]
    connection = lab.connection()
    assert reap(connection, Script("reap"), lab.keys, incarnation, dead=True, tries=5, why=lost(incarnation)) == (1, 0)
    connection.close()
    path.with_name("slow.go").touch()
    assert answer.result(20) == 1                         # its late success counts, or the second run's
    until(lambda: grid.status().nodes.get("ann", {}).get("incarnation", incarnation) != incarnation, "ann's new life")
    assert grid.request("pool", calls.inc, 1).result(20) == 2


def test_a_server_that_forgets_everything_is_told_again(tmp_path: Path) -> None:
    with Server(unix=True, directory=tmp_path / "server") as server:
        lab = Lab(server, tmp_path)
        try:
            lab.workers(2)
            grid, path = lab.client(), tmp_path / "slow"
            answer = grid.requests("pool", [(calls.parent_of_wait, str(path), i) for i in range(6)])
            by_value = grid.request("pool", lambda x: x + 1, 5)
            until(lambda: len(lines(path)) == 2, "both workers to be in a call")
            server.stop()
            server.start()                                # without persistence: an empty server at the same place
            path.with_name("slow.go").touch()
            assert answer.result(60) == list(range(6))
            assert by_value.result(60) == 6
        finally:
            lab.close()
