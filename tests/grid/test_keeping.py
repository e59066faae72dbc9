"""How long things are kept: results from when they were heard, functions while they are used, errors not at all; and memory stays flat."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import grid_calls as calls
import pytest
from grid_lab import Lab, lines, until

from gridworker import CallFailed, CodeMismatch, Grid, NotDurable
from gridworker.messages import item
from gridworker.server import Server
from gridworker.store import Connection, Script
from gridworker.waits import Wait, Waits, batches

HOUR_MS = 3_600_000


def acknowledge(lab: Lab, connection: Connection, *ids: str, keep_ms: int = HOUR_MS, most: int = 100, letter: str = "R") -> int:
    keys = (lab.keys.kept, lab.keys.unheard, lab.keys.nodes)
    gone: int = connection.run(Script("acknowledge"), keys, [lab.keys.prefix, keep_ms, most, "c.1",
                                                                  *batches([f"{letter}{call}".encode() for call in ids])])
    return gone


def kept(lab: Lab, connection: Connection) -> list[str]:
    """The calls whose results were acknowledged and are kept, oldest first."""
    held = b"".join(entry[28:] for entry in connection.call("LRANGE", lab.keys.kept, 0, -1)).decode()
    return [held[at + 1:at + 33] for at in range(0, len(held), 33)]


def ids(n: int) -> list[str]:
    return [f"{i:032x}" for i in range(n)]


def test_acknowledged_results_go_when_they_are_too_many_oldest_first(lab: Lab, connection: Connection) -> None:
    for call in ids(30):
        connection.call("SET", lab.keys.call(call), "Rvalue")
        acknowledge(lab, connection, call, most=10)
    assert [call for call in ids(30) if connection.call("EXISTS", lab.keys.call(call))] == ids(30)[20:]
    assert kept(lab, connection) == ids(30)[20:]


def test_acknowledged_results_go_when_their_time_is_over(lab: Lab, connection: Connection) -> None:
    for call in ids(5000):
        connection.call("SET", lab.keys.call(call), "Rvalue")
    assert acknowledge(lab, connection, *ids(5000), most=10_000) == 0
    until(lambda: acknowledge(lab, connection, keep_ms=1, most=10_000) + 1, "any")
    until(lambda: acknowledge(lab, connection, keep_ms=1, most=10_000) == 0, "all of them to be old")
    assert not kept(lab, connection)
    assert not any(connection.call("EXISTS", lab.keys.call(call)) for call in ids(5000))


@pytest.mark.parametrize("letter", ["R", "L"], ids=["short", "long"])
def test_a_call_that_is_pending_again_is_never_let_go(lab: Lab, connection: Connection, letter: str) -> None:
    pending, done = ids(2)
    connection.call("MSET", lab.keys.call(pending), "P<c.1,>", lab.keys.call(done), "Rvalue")
    assert acknowledge(lab, connection, pending, done, most=0, letter=letter) == 1
    assert connection.call("MGET", lab.keys.call(pending), lab.keys.call(done)) == [b"P<c.1,>", None]


def test_what_is_long_is_not_read_to_be_let_go() -> None:
    waits = Waits()
    for call, length in zip(ids(2), (10, 100_000), strict=True):
        waits.add(Wait([call], False, lambda wait: None), [(call, ("pool", "", item(call, "12345678", "m:f@", b"")))])
        waits.arrive(b"R" + call.encode() + bytes(length))
    assert batches(waits.heard) == [f"R{ids(2)[0]}L{ids(2)[1]}".encode()] and not waits.heard


def test_a_result_that_nobody_has_acknowledged_outlives_those_that_were(lab: Lab, connection: Connection) -> None:
    lab.workers(1)
    grid = lab.client(name="sleeper")
    answer = grid.request("pool", calls.inc, 1)
    assert answer.result(20) == 2
    heard = answer.calls[0]
    assert 600_000 < connection.call("PTTL", lab.keys.call(heard)) <= HOUR_MS
    assert not kept(lab, connection)
    grid.close()                                          # tells what it has heard
    assert kept(lab, connection) == [heard]


def test_a_result_that_two_clients_wait_for_is_kept_until_both_have_acknowledged_it(lab: Lab, connection: Connection) -> None:
    first, second = lab.client(name="first"), lab.client(name="second")
    answers = [grid.request("pool", calls.inc, 1) for grid in (first, second)]
    until(lambda: (connection.call("GET", lab.keys.call(answers[0].calls[0])) or b"").count(b"<") == 2, "both to wait for it")
    lab.workers(1)
    assert [answer.result(20) for answer in answers] == [2, 2]
    heard = answers[0].calls[0]
    first.close()
    until(lambda: connection.call("HGET", lab.keys.unheard, heard) == b"<c.second>", "the server to know who has heard")
    assert not kept(lab, connection)
    second.close()
    until(lambda: kept(lab, connection) == [heard], "its time to start")
    assert not connection.call("EXISTS", lab.keys.unheard)


def test_workers_acknowledge_what_their_calls_have_heard(lab: Lab, connection: Connection) -> None:
    lab.workers(1)
    grid = lab.client()
    assert grid.request("pool", calls.tree, 5, "t").result(30) == 326
    until(lambda: len(kept(lab, connection)) >= 200, "the calls of calls to be acknowledged")


def test_a_client_that_closes_has_acknowledged_all_that_it_has_heard(lab: Lab, connection: Connection) -> None:
    grid = lab.client()
    grid.status()
    pid = int(connection.call("INFO", "server").decode().partition("process_id:")[2].split()[0])
    os.kill(pid, signal.SIGSTOP)                          # a server that is slow
    threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
    for part in range(2):
        grid._waits.heard += [f"R{part}{i:031x}".encode() for i in range(190)]
        with grid._lock:
            grid._send_heard()
    grid.close()
    until(lambda: len(kept(lab, connection)) == 380, "all that was heard to be acknowledged", 5.0)


def test_the_keys_of_a_grid_are_bounded_however_many_calls_it_runs(lab: Lab, connection: Connection) -> None:
    lab.workers(2, environment={"GRIDWORKER_KEPT_MOST": "500"})
    lab.start("--distributor", "pool", "--helper", "50", environment={"GRIDWORKER_KEPT_MOST": "500"})
    grid = lab.client()
    for part in range(10):
        assert len(grid.requests("pool", [(calls.options, part, i) for i in range(500)], return_exceptions=True).result(30)) == 500
        assert len(grid.requests("pool", [(calls.inc, 1000 * part + i) for i in range(500)]).result(30)) == 500
    grid.close()
    assert connection.call("DBSIZE") > 0
    until(lambda: len(keys(connection, lab.keys.prefix + "c:*", b"R")) <= 500, "all but the last results to go")


def keys(connection: Connection, pattern: str, kind: bytes) -> list[bytes]:
    """Calls in a state of that kind."""
    names = connection.call("KEYS", pattern)              # a server that the tests have started
    return [name for name in names if (connection.call("GET", name) or b"").startswith(kind)]


def test_errors_are_remembered_only_for_who_asks_for_that(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "tried"
    for options, tries in (({}, 1), ({}, 2), ({"memo_errors": True}, 2), ({}, 3)):
        with pytest.raises(LookupError):
            grid.request("pool", calls.noted_failure, str(path), **options).result(20)
        assert len(lines(path)) == tries


def test_code_lives_while_it_is_used(lab: Lab, connection: Connection) -> None:
    first = lab.workers(1)
    grid, add = lab.client(), lambda x: x + 1
    assert grid.request("pool", add, 1).result(20) == 2
    code, = connection.call("KEYS", lab.keys.prefix + "code:*")
    assert HOUR_MS < connection.call("PTTL", code) <= 24 * HOUR_MS
    first.terminate()
    assert first.wait(20) == 0
    connection.call("PEXPIRE", code, 10_000)
    lab.workers(1)                                        # this process has to fetch it; the client has stored it already
    assert grid.request("pool", add, 2).result(20) == 3
    assert connection.call("PTTL", code) > HOUR_MS


def test_results_of_a_dead_process_are_collected_under_its_name(lab: Lab) -> None:
    from subprocess import PIPE, Popen
    from sys import executable

    script = (f"import grid_calls as calls\nfrom gridworker import Grid\n"
              f"grid = Grid.connect({lab.server.url!r}, password={lab.server.password!r}, namespace={lab.keys.namespace!r}, name='me')\n"
              f"answers = [grid.request('pool', calls.inc, i) for i in range(5)]\n"
              f"print(' '.join(answer.calls[0] for answer in answers), flush=True)\ninput()\n")
    first = Popen([executable, "-c", script], env=lab.environment(), stdin=PIPE, stdout=PIPE, text=True)
    assert first.stdout is not None
    asked = first.stdout.readline().split()
    connection = lab.connection()
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")) == 5, "the calls to be accepted")
    first.kill()
    first.communicate()
    lab.workers(1)
    until(lambda: connection.call("LLEN", lab.keys.inbox("c.me")) == 5, "the results to lie there")
    connection.close()
    again = lab.client(name="me")
    got = again.collect()
    assert [got[call].result(10) for call in asked] == list(range(1, 6))
    assert again.collect() == {}
    assert [answer.result(10) for answer in lab.client().collect(asked).values()] == list(range(1, 6))     # by id, from anywhere


def test_all_that_has_arrived_under_a_name_is_collected_at_once(lab: Lab, connection: Connection) -> None:
    for call in ids(2500):
        connection.call("RPUSH", lab.keys.inbox("c.me"), f"R{call}value")
    grid = lab.client(name="me")
    assert set(grid.collect()) == set(ids(2500))
    assert grid.collect() == {}


def test_calls_are_collected_by_id_whatever_has_become_of_them(lab: Lab, connection: Connection) -> None:
    grid = lab.client()
    answer = grid.request("pool", calls.inc, 1)
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")), "the call to be accepted")
    collected = lab.client().collect([*answer.calls, "0" * 32])
    with pytest.raises(CallFailed, match="the grid knows nothing of this call"):
        collected["0" * 32].result(10)
    lab.workers(1)
    assert collected[answer.calls[0]].result(20) == answer.result(20) == 2


def test_a_durable_request_needs_a_server_with_a_disk(lab: Lab, connection: Connection) -> None:
    grid = lab.client()
    with pytest.raises(NotDurable, match="appendonly yes"):
        grid.request("pool", calls.inc, 1, durable=True)
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")) == 0, "the call to be taken back")


def test_a_durable_request_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    with Server(unix=True, directory=tmp_path / "server", options={"appendonly": "yes", "appendfsync": "always"}) as server:
        lab = Lab(server, tmp_path)
        try:
            grid, connection = lab.client(), lab.connection()
            if "waitaof" not in str(connection.call("COMMAND", "LIST")):
                pytest.skip("this server has no WAITAOF")
            waits = "cmdstat_waitaof:calls=1"
            answers = grid.requests("pool", [(calls.inc, i) for i in range(10)], durable=True)
            assert waits in connection.call("INFO", "commandstats").decode()
            connection.close()
            lab.workers(1)
            assert answers.result(20) == list(range(1, 11))
        finally:
            lab.close()


def test_a_wait_for_a_call_known_by_its_id_only_is_told_apart() -> None:
    waits = Waits()
    waits.add(Wait(["0" * 32], False, lambda wait: None), [])
    waits.add(Wait(["1" * 32], False, lambda wait: None), [("1" * 32, ("pool", "", item("1" * 32, "f" * 8, "m:f@", b"")))])
    assert waits.known_by_id() == ["0" * 32]


def test_code_that_is_not_there_any_more_is_named(lab: Lab, connection: Connection) -> None:
    grid: Grid = lab.client()
    answer = grid.request("pool", lambda: 1)
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")), "the call to be accepted")
    connection.call("UNLINK", *connection.call("KEYS", lab.keys.prefix + "code:*"))
    lab.workers(1)
    with pytest.raises(CodeMismatch, match="not stored on this grid any more"):
        answer.result(20)
