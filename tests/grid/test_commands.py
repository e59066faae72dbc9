"""The command line, the distributor, logs and status, as those who start nodes on machines use them."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import Lab, ended, lines, until

import gridworker
from gridworker.keys import Keys
from gridworker.logs import RedisHandler, level_number
from gridworker.node import Node
from gridworker.server import Server, find, version_of
from gridworker.store import Script

if TYPE_CHECKING:
    from gridworker import Grid


def test_jobs_report_counts_and_times(lab: Lab) -> None:
    lab.workers(2)
    run = lab.run("--jobs", "50", "--jobmsecs", "0", "--reclevel", "3", "--numrecjobs", "5", "--cmt", "tag", "--jobtimeout", "60")
    result = json.loads(run.stdout)["result"]
    assert run.returncode == 0
    assert {key: result[key] for key in ("asked", "done", "failed", "executed")} == {"asked": 50, "done": 50, "failed": 0, "executed": 56}
    assert sum(result["nodes"].values()) == 56
    assert result["ms_per_job"] > result["ms_per_call"] * 1.1 > 0


def test_jobs_that_nobody_does_end_with_the_timeout(lab: Lab) -> None:
    run = lab.run("--jobs", "2", "--jobtimeout", "0.1")
    assert run.returncode == 1
    assert json.loads(run.stdout)["exception"]["class"] == "TimeoutError"


def test_clean_up_deletes_this_grid_only_and_refuses_while_nodes_live(lab: Lab) -> None:
    process = lab.workers(1)
    grid, connection = lab.client(), lab.connection()
    assert grid.request("pool", calls.inc, 1).result(20) == 2
    refused = json.loads(lab.run("--cleanup").stdout)
    assert refused["exception"]["class"] == "GridInUse"
    grid.close()                                                  # an open one may yet acknowledge what it has heard
    process.kill()                                                # now there are stale keys, of a node that no distributor has reaped
    process.wait()
    neighbour = f"{lab.keys.namespace}x:nodes"
    connection.call("SET", neighbour, "someone else's")
    result = json.loads(lab.run("--cleanup").stdout)["result"]
    assert result["deleted"] > 0
    assert connection.call("SCAN", 0, "MATCH", lab.keys.prefix + "*", "COUNT", 100000)[1] == []
    assert connection.call("DEL", neighbour) == 1
    connection.close()


@pytest.mark.parametrize("options", [[], ["--jobs", "1", "--cleanup"], ["--worker", "1", "--jobs", "3"]])
def test_one_thing_at_a_time(lab: Lab, options: list[str]) -> None:
    run = lab.run(*options)
    assert run.returncode == 2
    assert json.loads(run.stdout)["exception"]["class"] == "UsageError"


@pytest.mark.parametrize("options", [["--worker", "0"], ["--worker", "ann,ann"]])
def test_workers_are_some_and_have_names_of_their_own(lab: Lab, options: list[str]) -> None:
    run = lab.run(*options)
    assert run.returncode == 2
    assert json.loads(run.stdout)["exception"]["class"] == "UsageError"


def test_a_wrong_password_ends_the_nodes_with_a_word(lab: Lab) -> None:
    lab.secret.write_text("wrong 00\n")
    run = lab.run("--worker", "2")
    assert json.loads(run.stdout)["exception"]["class"] == "GridDenied"
    assert "wrong" not in run.stdout.replace("WRONGPASS", "").replace("the wrong", "").split("traceback")[0]


def test_ready_means_registered(lab: Lab) -> None:
    lab.workers("ann,bob")
    assert (lab.directory / "ready0").read_text() == "ann\nbob\n"
    assert sorted(lab.client().status().nodes) == ["ann", "bob"]


def test_a_distributor_for_each_pool_hoists_and_reports(lab: Lab) -> None:
    lab.start("--distributor", "a,b", "--helper", "20")
    grid, connection = lab.client(), lab.connection()
    assert sorted(grid.status().nodes) == ["a.distributor", "b.distributor"]
    busy = Node(lab.keys, "a", "busy", kind="worker", supervisor=next(iter(grid.status().nodes.values()))["supervisor"])
    busy.register(connection, Script("register"))
    connection.pipeline([("RPUSH", lab.keys.mine(busy.incarnation), *[f"{n:041d}m:f@\0" for n in range(4)]),
                         ("SADD", lab.keys.busy("a"), busy.incarnation)])
    until(lambda: connection.call("LLEN", lab.keys.up("a")) == 3, "the calls to be hoisted")
    report = until(lambda: (found := connection.call("GET", lab.keys.report("a"))) and json.loads(found)["up"] == 3 and found, "the report")
    assert json.loads(report)["distributor"] == "a.distributor"
    connection.close()


def test_status_shows_pools_nodes_and_what_was_executed(lab: Lab) -> None:
    lab.workers("ann,bob")
    grid = lab.client()
    grid.requests("pool", [(calls.inc, i) for i in range(100)]).result(20)
    grid.request("empty", calls.inc, 1)
    until(lambda: grid.status().pools["pool"]["idle"] == 2, "the workers to be idle")
    status = grid.status()
    assert {key: status.pools["pool"][key] for key in ("queued", "up", "idle", "nodes")} == {"queued": 0, "up": 0, "idle": 2, "nodes": 2}
    assert sum(status.executed.values()) == 100
    assert {name: (node["pool"], node["kind"], node["owned"]) for name, node in status.nodes.items()} == {
        "ann": ("pool", "worker", 0), "bob": ("pool", "worker", 0)}
    assert repr(status) == "<Status 2 nodes, 1 pool, 0 calls queued, 100 executed>"
    assert json.loads(json.dumps(status.as_dict())) == status.as_dict()


def test_what_nodes_log_is_read_back_by_level_and_node(server: Server, tmp_path: Path) -> None:
    with Server() as tcp:                                         # --log takes a host and a port
        lab = Lab(tcp, tmp_path)
        where = f"127.0.0.1:{tcp.address.port}"
        try:
            lab.start("--worker", "ann,bob", "--log", f"debug:{where}")
            grid = lab.client()
            assert grid.request("pool", calls.logged, "hello").result(20) == "hello"
            with pytest.raises(ZeroDivisionError):
                grid.request("pool", calls.divide, 1, 0).result(20)
            entries = until(lambda: (found := grid.logs("debug")) and any("failed" in e.text for e in found) and found, "the log")
            assert any("start" in entry.text and "logged('hello')" in entry.text and entry.level == "debug" for entry in entries)
            assert [entry.text for entry in grid.logs("warning")] == ["it says hello"]
            names = {entry.node for entry in entries}
            assert names <= {"ann", "bob"}
            for name in names:
                assert {entry.node for entry in grid.logs("debug", node=name)} == {name}
            assert "it says hello" in grid.logs("warning")._repr_html_()
            assert "warning it says hello" in repr(grid.logs("warning"))
            assert repr(grid.logs(node="nobody")) == "no log entries"
        finally:
            lab.close()


def test_logging_survives_a_server_that_is_away() -> None:
    import logging

    with Server() as server:
        handler = RedisHandler(server.address, server.password, Keys("t"), "ann")
        record = logging.LogRecord("x", logging.INFO, "", 0, "text", (), None)
        handler.emit(record)
        connection = server.connection()
        until(lambda: connection.call("XLEN", "t:log") == 1, "the entry")
        connection.close()

    def dropped() -> int:
        handler.emit(record)
        return handler.dropped

    until(dropped, "the handler to notice")
    handler.close()
    assert level_number("Warning") == 30
    with pytest.raises(ValueError, match="no log level"):
        level_number("loud")


def test_a_worker_starts_without_what_it_does_not_need(lab: Lab) -> None:
    """Its imports are most of its start, and a hundred of them start on one machine in the demo."""
    heavy = {"asyncio", "cloudpickle", "redis", "dataclasses", "inspect", "hashlib", "ssl", "urllib.parse", "gridworker.client", "rich",
             "ctypes"}
    code = ("import sys, gridworker.__main__, gridworker.serve, gridworker.supervisor, gridworker.worker, gridworker.distributor; "
            f"print(sorted({heavy!r} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_everything_public_is_there_and_documented() -> None:
    for name in gridworker.__all__:
        assert getattr(gridworker, name).__doc__, name
    assert dir(gridworker) == sorted(gridworker.__all__)
    with pytest.raises(AttributeError):
        _ = gridworker.nothing


def test_the_server_is_new_enough_and_ends_with_its_starter(tmp_path: Path) -> None:
    version = version_of(find())
    assert version is not None
    assert version >= (7, 0, 0)
    script = ("from gridworker.server import Server; import sys, time\n"
              f"server = Server(directory={str(tmp_path)!r}, unix=True).start()\n"
              "information = server.connection().call('INFO', 'server').decode()\n"
              "print(information.split('process_id:')[1].split()[0], flush=True)\nsys.stdin.read()\n")
    starter = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    os.kill(pid, 0)
    starter.kill()
    starter.communicate()

    until(lambda: ended(pid), "the server to end")


def test_a_server_keeps_its_password_to_itself(tmp_path: Path) -> None:
    with Server(directory=tmp_path, unix=True) as server:
        assert server.password not in repr(server)
        assert server.password not in server.url
        assert server.password not in repr(server.connection())
        assert (tmp_path / "server.conf").stat().st_mode & 0o077 == 0
    assert (tmp_path / "server.conf").exists()                    # a directory that was given is kept


def test_the_grid_runs_on_without_its_distributor(lab: Lab) -> None:
    distributor = lab.start("--distributor", "pool", "--helper", "50")
    lab.workers(2)
    grid: Grid = lab.client()
    distributor.kill()
    distributor.wait()
    path: Any = lab.directory / "noted"
    assert grid.requests("pool", [(calls.noted, str(path), i) for i in range(100)]).result(20) == list(range(100))
    assert len(lines(path)) == 100


@pytest.mark.parametrize("module", ["bogosity", "keys", "logs", "messages", "node", "progress", "serialize", "status", "store", "__main__"])
def test_the_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"gridworker.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
