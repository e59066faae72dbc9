"""No accepted call is lost: whatever dies, is cut off, is full, or comes back late."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import Lab, lines, until
from proxy import Proxy

from gridworker import GridFull
from gridworker.messages import ID, TOKEN
from gridworker.server import Server

if TYPE_CHECKING:
    from gridworker.store import Connection


def pid_of(connection: Connection) -> int:
    """The server's process."""
    return int(connection.call("INFO", "server").decode().split("process_id:")[1].split()[0])


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lab]:
    """A lab with a server of its own, which it may fill, kill and start again: what it has acknowledged is in an append-only file."""
    with Server(unix=True, directory=tmp_path / "server", durable=True) as server:
        lab = Lab(server, tmp_path)
        try:
            yield lab
        finally:
            lab.close()


def test_a_server_that_is_killed_and_restarted_has_all_that_it_accepted(own: Lab) -> None:
    grid, path, connection = own.client(name="me"), own.directory / "slow", own.connection()
    before = grid.requests("pool", [(calls.inc, i) for i in range(500)])
    until(lambda: connection.call("LLEN", own.keys.queue("pool")) == 500, "the calls to be accepted")
    kept = before.calls
    grid.close()                                          # nobody is there who could ask for them again
    own.workers("ann", pool="other")
    busy = own.client().request("other", calls.parent_of_wait, str(path), 1)
    until(lambda: lines(path), "a call to be owned")
    os.kill(pid_of(connection), signal.SIGKILL)
    connection.close()
    own.server.stop()
    own.server.start()
    own.workers(2)
    path.with_name("slow.go").touch()
    assert busy.result(30) == 1
    assert [answer.result(30) for answer in own.client(name="me").collect(kept).values()] == list(range(1, 501))


def test_nodes_do_not_look_for_ever_for_a_server_that_is_gone(own: Lab) -> None:
    kept = own.start("--worker", "ann", "--distributor", "pool", "--helper", "50", environment={"GRIDWORKER_DEAD_MS": "2000"})
    left = own.workers("bob,eve", environment={"GRIDWORKER_ALONE_MS": "1500"})         # by default that takes minutes
    connection = own.connection()
    nodes = [json.loads(known) for known in connection.call("HVALS", own.keys.nodes)]
    pids = [node["pid"] for node in nodes if node["name"] in ("bob", "eve")]
    server = pid_of(connection)
    connection.close()
    os.kill(server, signal.SIGKILL)
    output, _ = left.communicate(timeout=60)
    said = json.loads(output)["exception"]
    assert left.returncode == 1 and said["class"] == "GridUnreachable"
    assert "for 2 s: the nodes of this host have left (GRIDWORKER_ALONE_MS allows more)" in said["message"]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "every process to be gone")
    assert len(pids) == 2 and kept.poll() is None
    own.server.stop()
    own.server.start()
    assert own.client().request(calls.inc, 1).result(30) == 2       # whoever stayed goes on


def test_a_distributor_that_is_killed_is_missed_by_no_call(lab: Lab) -> None:
    distributor = lab.start("--distributor", "pool", "--helper", "20")
    lab.workers(2)
    grid, path = lab.client(), lab.directory / "noted"
    answer = grid.requests("pool", [(calls.noted_bogosity, str(path), i, 3, "t") for i in range(20)])
    until(lambda: lines(path), "work to begin")
    distributor.kill()
    distributor.wait()
    assert len(answer.result(30)) == 20


@pytest.mark.parametrize("how", ["hold", "cut"])
def test_a_connection_that_is_cut_for_a_while_loses_nothing(lab: Lab, tmp_path: Path, how: str) -> None:
    with Proxy(lab.server.address) as proxy:
        direct, lab.address = lab.address, proxy.address
        lab.workers(2)
        grid, path = lab.client(), tmp_path / "noted"
        lab.address = direct
        answer = grid.requests("pool", [(calls.noted, str(path), i) for i in range(2000)])
        nested = grid.requests("pool", [(calls.tree, 4, str(i)) for i in range(10)])
        until(lambda: lines(path), "work to begin")
        getattr(proxy, how)()
        meanwhile = grid.request("pool", calls.inc, 1)
        if how == "cut":
            until(lambda: proxy.refused > 5, "client and workers to have tried in vain")
        else:
            until(lambda: proxy.waiting() >= 2, "bytes to wait on the wire")
        proxy.mend()
        assert meanwhile.result(60) == 2
        assert answer.result(60) == list(range(2000))
        assert nested.result(60) == [65] * 10
        assert len(set(lines(path))) == 2000


def test_a_full_server_refuses_calls_whole_and_lets_work_end(own: Lab) -> None:
    own.workers("ann,bob")
    grid, path, connection = own.client(), own.directory / "slow", own.connection()
    pids = {name: node["pid"] for name, node in grid.status().nodes.items()}
    running = grid.requests("pool", [(calls.wait_for, str(path), 1), (calls.asks_when_told, str(path), 2)])
    until(lambda: len(lines(path)) == 2, "both calls to run")      # before the others are sent: two connections keep no order
    queued = grid.requests("pool", [(calls.inc, i) for i in range(100)])
    until(lambda: connection.call("LLEN", own.keys.queue("pool")) == 100, "the others to be queued")
    connection.call("CONFIG", "SET", "maxmemory", "1")
    refused = grid.requests("pool", [(calls.divide, i, 1) for i in range(300)])
    with pytest.raises(GridFull, match="the server is at its memory limit and took nothing of this"):
        refused.result(20)
    assert not any(connection.call("EXISTS", own.keys.call(call)) for call in refused.calls)
    assert connection.call("LLEN", own.keys.queue("pool")) == 100
    path.with_name("slow.go").touch()
    assert running.result(20) == [1, "full"]
    assert queued.result(20) == list(range(1, 101))
    connection.call("CONFIG", "SET", "maxmemory", "0")
    assert grid.requests("pool", [(calls.divide, i, 1) for i in range(300)]).result(20) == list(range(300))
    assert {name: node["pid"] for name, node in grid.status().nodes.items()} == pids
    connection.close()


def test_nodes_of_a_full_server_are_not_taken_for_dead(own: Lab) -> None:
    own.start("--distributor", "pool", "--helper", "50", environment={"GRIDWORKER_DEAD_MS": "1500"})
    own.workers("ann")
    grid, path, connection = own.client(), own.directory / "slow", own.connection()
    answer = grid.request("pool", calls.wait_for, str(path), 1)
    until(lambda: lines(path), "the call to run")
    connection.call("CONFIG", "SET", "maxmemory", "1")
    supervisor = grid.status().nodes["ann"]["supervisor"]
    beats = int(connection.call("HGET", own.keys.beats, supervisor))
    until(lambda: int(connection.call("HGET", own.keys.beats, supervisor)) >= beats + 3, "beats to go on")
    path.with_name("slow.go").touch()
    assert answer.result(20) == 1
    assert len(lines(path)) == 1
    connection.close()


def test_a_slow_worker_that_comes_back_after_its_lease_was_given_away_changes_nothing(lab: Lab) -> None:
    lab.start("--distributor", "pool", "--helper", "50", environment={"GRIDWORKER_DEAD_MS": "1500"})
    slow = lab.workers("slow")
    grid, path = lab.client(), lab.directory / "slow"
    answer = grid.request("pool", calls.wait_for, str(path), 7)
    started = until(lambda: lines(path), "the call to run")
    worker = int(started[0].split()[1])
    for pid in (slow.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    lab.workers("swift")
    until(lambda: len(lines(path)) == 2, "the call to be given to another")
    path.with_name("slow.go").touch()
    assert answer.result(20) == 7
    again = grid.request("pool", calls.wait_for, str(path), 7)
    for pid in (worker, slow.pid):
        os.kill(pid, signal.SIGCONT)
    assert again.result(20) == 7                          # the kept result
    until(lambda: "slow" in grid.status().nodes and grid.status().nodes["slow"]["pid"] != worker, "the slow one's new life")
    assert grid.requests("pool", [(calls.inc, i) for i in range(50)]).result(20) == list(range(1, 51))
    assert len(lines(path)) == 2


def test_calls_that_wait_on_a_worker_do_not_pay_for_one_that_kills_it(lab: Lab) -> None:
    lab.workers("ann")
    grid, path, connection = lab.client(), lab.directory / "slow", lab.connection()
    innocent = grid.requests("pool", [(calls.elsewhere, "later", i) for i in range(5)])
    until(lambda: connection.call("LLEN", lab.keys.up("later")) == 5, "the innocent to be parked")
    killer = grid.request("pool", calls.wait_for, str(path), 7)
    started = until(lambda: lines(path), "the call to run that is to blame")
    os.kill(int(started[0].split()[1]), signal.SIGKILL)

    def owned() -> dict[bytes, bytes]:
        node = grid.status().nodes.get("ann")
        pairs = connection.call("HGETALL", lab.keys.owned(node["incarnation"])) if node else []
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

    until(lambda: len(lines(path)) == 2, "it to be run again")
    path.with_name("slow.go").touch()
    assert killer.result(20) == 7
    parked = until(lambda: len(owned()) == 5 and owned(), "the others to be parked again")
    tries = {call.decode(): item[ID + TOKEN:ID + TOKEN + 1] for call, item in parked.items()}
    assert tries == dict.fromkeys(innocent.calls, b"0")
    lab.workers(1, pool="later")
    assert innocent.result(30) == list(range(1, 6))
    connection.close()


def test_a_worker_told_to_leave_finishes_what_it_can_and_gives_back_what_it_cannot(lab: Lab) -> None:
    leaving = lab.start("--worker", "ann", "--pool", "pool", "--grace", "0.5")
    grid, path, connection = lab.client(), lab.directory / "slow", lab.connection()
    parked: Any = grid.requests("pool", [(calls.elsewhere, "later", i) for i in range(3)])
    until(lambda: connection.call("LLEN", lab.keys.up("later")) == 3, "calls to be parked")
    sleeping = grid.request("pool", calls.aio_returns, str(path) + ".aio", 5)
    until(lambda: lines(Path(str(path) + ".aio")), "a coroutine to run")
    endless = grid.request("pool", calls.wait_for, str(path), 1)
    until(lambda: lines(path), "the call to run that is longer than the grace")
    leaving.send_signal(signal.SIGTERM)
    assert leaving.wait(20) == 0
    assert grid.status().nodes == {}
    path.with_name("slow.go").touch()
    Path(str(path) + ".aio.go").touch()
    lab.workers(1)
    lab.workers(1, pool="later")
    assert parked.result(30) == [1, 2, 3]
    assert sleeping.result(30) == 5
    assert endless.result(30) == 1
    assert len(lines(path)) == 2                          # what was longer than the grace was run twice, as the docs say
    connection.close()
