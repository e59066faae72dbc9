"""What one sees of a grid at work: status, top, the graph of calls, logs as they are written."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import until
from rich.console import Console

from gridworker import Grid, node_id, request, requests
from gridworker.status import Status
from gridworker.top import headline, pool_rows, view, watch

if TYPE_CHECKING:
    from grid_lab import Lab


def family(n: int) -> Any:
    """Two generations: makes n calls, of which each makes one."""
    return sum(requests([(parent, i) for i in range(n)]))


def parent(i: int) -> Any:
    return request(calls.inc, i)


def fails_below() -> Any:
    return request(calls.divide, 1, 0)


# status and top


def test_status_counts_what_the_nodes_have_done(lab: Lab) -> None:
    lab.workers("solo")
    grid = lab.client()
    assert grid.request(calls.tree, 3, "a").result(20) == 16
    with pytest.raises(ZeroDivisionError):
        grid.request(calls.divide, 1, 0).result(20)
    node = until(lambda: (node := grid.status().nodes["solo"])["executed"] == 17 and node, "the beat after the calls")
    assert (node["failed"], node["asked"], node["local"], node["parked"]) == (1, 15, 15, 0)
    assert node["busy"] > 0 and node["oldest"] == 0
    status = grid.status()
    assert status.local_share == 1.0
    assert {key: status.pools["pool"][key] for key in ("nodes", "idle", "queued", "up", "executed", "failed", "parent")} == {
        "nodes": 1, "idle": 1, "queued": 0, "up": 0, "executed": 17, "failed": 1, "parent": ""}
    assert json.loads(json.dumps(status.as_dict()))["local_share"] == 1.0


def test_the_oldest_call_is_that_which_runs_or_waits_longest(lab: Lab) -> None:
    lab.workers("solo")
    grid, path = lab.client(), lab.directory / "held"
    held = grid.request(calls.parent_of_wait, str(path), 1)
    status = until(lambda: (status := grid.status()).nodes["solo"]["parked"] == 1 and status.nodes["solo"]["oldest"] > 0.5 and status,
                   "a beat that tells of the parent, which stands waiting, and began before its child")
    assert status.pools["pool"]["oldest"] >= status.nodes["solo"]["oldest"]
    path.with_name("held.go").touch()
    assert held.result(20) == 1
    until(lambda: grid.status().pools["pool"]["oldest"] == 0, "nothing to be old any more")
    grid.request("nobody", calls.inc, 1)
    until(lambda: grid.status().pools.get("nobody", {"oldest": 1})["oldest"] >= 1, "the queue of a pool without nodes to age")


def test_dead_nodes_leave_the_count(lab: Lab) -> None:
    process = lab.workers("solo")
    grid = lab.client()
    grid.request(calls.inc, 1).result(20)
    until(lambda: grid.status().nodes["solo"]["executed"] == 1, "a beat")
    process.terminate()
    process.wait(20)
    with contextlib.closing(lab.connection()) as connection:
        assert connection.call("HLEN", lab.keys.tallies) == 0
    assert grid.status().executed == {"solo": 1}


def _node(**numbers: Any) -> dict[str, Any]:
    return {"pool": "pool", "kind": "worker", "host": "host", "pid": 1, "incarnation": "pool/a~0", "owned": 0, "queued": 0, "executed": 0,
            "failed": 0, "asked": 0, "local": 0, "parked": 0, "busy": 0.0, "oldest": 0.0, "rate": 0.0, **numbers}


def _pool(**numbers: Any) -> dict[str, Any]:
    return {"queued": 0, "up": 0, "idle": 0, "nodes": 1, "parent": "", "oldest": 0.0, "executed": 0, "failed": 0, "asked": 0, "local": 0,
            "parked": 0, "rate": 0.0, **numbers}


BUSY = Status({"a": _node(owned=2, rate=1234.0, executed=50_000, failed=3, asked=100, local=90, oldest=75.0), "b": _node(host="other")},
              {"a": 50_000},
              {"pool": _pool(queued=7, up=2, rate=1234.0, asked=100, local=90, failed=3, oldest=75.0, nodes=2, parent="root"),
               "root": _pool(nodes=0)})


@pytest.mark.parametrize("width", [80, 120])
def test_top_fits_its_terminal_and_shows_what_matters(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(view(BUSY, "grid", width, 30))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "2 nodes · 9 calls waiting · 1,234 calls/s · 50,000 executed · 3 failed · oldest 1:15 min · 90 % of calls' calls" in " ".join(
        text.split())
    assert re.search(r"^a\b.*1,234 +50,000 +3 +1:15 min", text, re.M)
    assert ("parked" in text) == (width == 120)


@pytest.mark.parametrize("width", [80, 120])
def test_headings_are_whole_however_long_the_names_are(width: int) -> None:
    long = "machines-in-the-basement-of-the-other-building"
    nodes = {f"{long}.{name}": {**node, "pool": long} for name, node in BUSY.nodes.items()}
    status = Status(nodes, BUSY.executed, {**BUSY.pools, long: BUSY.pools["root"]})
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(view(status, "grid", width, 30))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    headings = [line for line in lines if line.startswith(("pool ", "node "))]
    assert len(headings) == 2 and not any("…" in line for line in headings)
    assert any("machines-i" in line and "…" in line for line in lines)


def test_linked_pools_stand_below_their_parents() -> None:
    assert [row[0] for row in pool_rows(BUSY)] == ["root", "  pool"]


def test_long_lists_of_nodes_are_cut_to_the_screen() -> None:
    many = Status({f"w{i:03d}": _node(rate=float(i)) for i in range(100)}, {}, {"pool": _pool(nodes=100)})
    console = Console(file=io.StringIO(), width=80)
    console.print(view(many, "grid", 80, 24))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("w099") < text.index("w098") and "w001" not in text
    assert len(text.splitlines()) <= 24 and "and 86 more" in text


def test_a_notebook_shows_the_status_as_tables() -> None:
    shown = BUSY._repr_html_()
    assert shown.count("<table>") == 2 and "1,234 calls/s" in shown and headline(BUSY) in shown.replace("&#x27;", "'")


def test_where_nobody_looks_on_top_writes_one_picture(grid: Grid) -> None:
    console = Console(file=io.StringIO(), width=100)
    assert set(watch(grid, console=console).nodes) == set(grid.status().nodes)
    assert "2 nodes" in console.file.getvalue()  # type: ignore[attr-defined]


def test_top_draws_again_and_again_in_a_terminal(grid: Grid) -> None:
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True, color_system=None)
    watch(grid, every=0.01, rounds=3, console=console)
    assert console.file.getvalue().count("Ctrl-C ends") >= 2  # type: ignore[attr-defined]


def look(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of `gridworker`, to its end."""
    where = ["--unix", lab.address.path, "--namespace", lab.keys.namespace]
    return subprocess.run([sys.executable, "-m", "gridworker", words[0], *where, *words[1:]], env=lab.environment(), capture_output=True,
                          text=True, timeout=60, check=False)


def test_the_command_line_shows_the_grid(lab: Lab) -> None:
    lab.workers("one,two")
    assert "2 nodes · 0 calls waiting" in look(lab, "top").stderr
    shown = look(lab, "status")
    assert shown.returncode == 0 and "2 nodes · 0 calls waiting" in shown.stdout and "one" in shown.stdout
    assert set(json.loads(look(lab, "status", "--json").stdout)["nodes"]) == {"one", "two"}


def test_the_command_line_reads_the_log(lab: Lab) -> None:
    lab.workers("one")
    grid = lab.client()
    grid.requests([(calls.logged, "hello"), (calls.logged, "again")]).result(20)
    until(lambda: len(grid.logs("warning")) == 2, "the entries")
    shown = look(lab, "logs", "warning")
    assert shown.returncode == 0 and re.search(r"^\d\d:\d\d:\d\d\.\d{3} one warning it says hello$", shown.stdout, re.M)
    first, second = map(json.loads, look(lab, "logs", "warning", "--node", "one", "--json").stdout.splitlines())
    assert {first["text"], second["text"]} == {"it says hello", "it says again"} and abs(first["time"] - time.time()) < 60
    assert look(lab, "logs", "--node", "nobody").stdout == ""
    wrong = look(lab, "logs", "loud")
    assert wrong.returncode == 2 and "'loud' is no log level" in wrong.stderr


def test_the_command_line_follows_the_log_until_its_reader_has_enough(lab: Lab) -> None:
    lab.workers("one")
    where = ["--unix", lab.address.path, "--namespace", lab.keys.namespace]
    words = [sys.executable, "-m", "gridworker", "logs", *where, "warning", "--follow"]
    with subprocess.Popen(words, env=lab.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None and reader.stderr is not None
        lab.client().request(calls.logged, "hello").result(20)
        assert reader.stdout.readline().endswith("one warning it says hello\n")
        reader.send_signal(signal.SIGINT)
        assert reader.wait(20) == 130
        assert reader.stderr.read() == ""


def test_the_command_line_shows_what_a_call_became(lab: Lab) -> None:
    lab.workers("one")
    answer = lab.client().request(family, 2, trace=True)
    assert answer.result(20) == 3
    shown = look(lab, "graph", answer.calls[0], "--svg", str(lab.directory / "calls.svg"))
    assert shown.returncode == 0, shown.stderr
    names = [re.sub(r" on one: .*", "", line) for line in shown.stdout.splitlines()[1:]]
    assert names == ["family(2)", "  parent(0)", "    inc(0)", "  parent(1)", "    inc(1)"]
    assert (lab.directory / "calls.svg").read_text().startswith("<svg")
    assert look(lab, "graph", answer.calls[0], "--dot").stdout.startswith("digraph")
    assert json.loads(look(lab, "graph", answer.calls[0], "--json").stdout)["root"] == answer.calls[0]
    unknown = look(lab, "graph", "f" * 32)
    assert unknown.returncode == 1 and "was not requested with trace=True" in unknown.stderr and "Traceback" not in unknown.stderr


def test_a_look_at_a_server_that_is_not_there_says_so(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "gridworker", "status", "--unix", str(tmp_path / "none")], capture_output=True, text=True,
                         timeout=60, check=False)
    assert ran.returncode == 1 and ran.stderr.startswith("gridworker status: no server at unix://") and "Traceback" not in ran.stderr
    ran = subprocess.run([sys.executable, "-m", "gridworker", "watch"], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2 and "invalid choice: 'watch'" in ran.stderr


# the graph


def test_a_traced_request_leaves_the_graph_of_its_calls(grid: Grid) -> None:
    answer = grid.request(family, 3, trace=True)
    assert answer.result(20) == 6
    graph = grid.graph(answer)
    assert graph.root.id == answer.calls[0] and graph.root.name == "family(3)"
    assert sorted(call.name for call in graph.calls.values()) == sorted(
        ["family(3)", *[f"parent({i})" for i in range(3)], *[f"inc({i})" for i in range(3)]])
    for call in graph.calls.values():
        assert 0 <= call.computed <= call.ended - call.begun + 0.001
        for made, asked in call.calls:
            assert call.begun - 0.001 <= asked <= graph.calls[made].begun + 0.001
            assert graph.calls[made].ended <= call.ended + 0.001
    assert set(graph.nodes) <= set(grid.status().nodes)
    assert json.loads(json.dumps(graph.as_dict()))["root"] == graph.root.id


def test_a_call_that_was_made_twice_stands_there_once(grid: Grid) -> None:
    answer = grid.request(calls.fib, 12, trace=True)
    assert answer.result(20) == 144
    graph = grid.graph(answer)
    assert len(graph.calls) == 13 and not graph.kept
    again = grid.request(calls.fib, 13, trace=True)
    assert again.result(20) == 233
    assert len(grid.graph(again).calls) == 14           # those of before are still on record


def test_calls_of_coroutines_are_in_the_graph(grid: Grid) -> None:
    answer = grid.request(calls.aio_sum, 3, trace=True)
    assert answer.result(20) == 7
    names = sorted(call.name for call in grid.graph(answer).calls.values())
    assert names == ["aio_inc(0)", "aio_inc(1)", "aio_inc(2)", "aio_sum(3)", "inc(0)"]


def test_failures_stand_in_the_graph(grid: Grid) -> None:
    answer = grid.request(fails_below, trace=True)
    with pytest.raises(ZeroDivisionError):
        answer.result(20)
    graph = grid.graph(answer)
    assert [call.error for call in graph.calls.values()] == ["ZeroDivisionError: division by zero"] * 2
    assert 'fill="#b00"' in graph.svg()


def test_what_was_not_traced_has_no_graph(grid: Grid) -> None:
    answer = grid.request(calls.inc, 1)
    answer.result(20)
    with pytest.raises(LookupError, match="not requested with trace=True"):
        grid.graph(answer)


def test_results_that_were_there_already_are_marked(grid: Grid) -> None:
    grid.request(calls.inc, 0).result(20)
    answer = grid.request(parent, 0, trace=True)
    assert answer.result(20) == 1
    graph = grid.graph(answer)
    assert len(graph.calls) == 1 and len(graph.kept) == 1


def test_a_grid_can_trace_everything(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client(trace=True)
    answer = grid.requests([(calls.ratio, 5)])
    answer.result(20)
    assert [call.name for call in grid.graph(answer.calls[0]).calls.values()] == ["ratio(5)", "divide(5, 4)"]


def test_the_picture_is_well_formed_and_has_a_row_for_each_call(grid: Grid) -> None:
    answer = grid.request(family, 4, trace=True)
    answer.result(20)
    graph = grid.graph(answer)
    root = ET.fromstring(graph._repr_svg_())
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 9 and titles[0].startswith("family(4) on ")
    assert [title.split("(")[0] for title in titles[1:3]] == ["parent", "inc"]          # a call stands below the one that made it
    assert "and 6 more" in graph.svg(most=3)
    dot = graph.dot()
    assert dot.startswith("digraph") and dot.count(" -> ") == 8
    assert repr(graph).startswith("<Graph of family(4): 9 calls on ")


# logs


def log_here(text: str) -> str:
    import logging

    logging.getLogger("mine").info("it says %s", text)
    return node_id()


async def log_there(text: str) -> str:
    import logging

    logging.getLogger("mine").warning("coroutine says %s", text)
    return node_id()


def test_what_functions_log_arrives_with_node_and_call(grid: Grid) -> None:
    answer = grid.request(log_here, "hello")
    node = answer.result(20)
    entry = until(lambda: [entry for entry in grid.logs() if entry.text == "it says hello"], "the entry")[0]
    assert (entry.node, entry.call, entry.logger, entry.level) == (node, answer.calls[0], "mine", "info")
    answer = grid.request(log_there, "hello")
    node = answer.result(20)
    entry = until(lambda: [entry for entry in grid.logs("warning") if "coroutine" in entry.text], "the entry")[0]
    assert (entry.node, entry.call) == (node, answer.calls[0])
    assert not grid.logs("error") and not grid.logs(node="nobody")


def test_a_node_can_be_told_to_log_nothing(lab: Lab) -> None:
    lab.start("--worker", "1", "--logs", "off")
    grid = lab.client()
    grid.request(log_here, "quiet").result(20)
    grid.request(calls.inc, 1).result(20)
    assert not [entry for entry in grid.logs() if "quiet" in entry.text]
    assert lab.run("--worker", "1", "--logs", "loud").returncode == 2


def test_following_gives_what_was_and_then_what_comes(grid: Grid) -> None:
    grid.request(log_here, "first").result(20)
    until(lambda: [entry for entry in grid.logs() if "first" in entry.text], "the first entry")
    following = grid.logs(follow=True)
    texts = (entry.text for entry in following if entry.logger == "mine")
    assert next(texts) == "it says first"
    for number in range(3):
        grid.request(log_here, str(number))
    assert sorted(next(texts) for _ in range(3)) == ["it says 0", "it says 1", "it says 2"]
    following.close()
    assert list(following) == []


async def test_following_in_a_coroutine_of_one_node_and_level(lab: Lab) -> None:
    lab.workers("left")
    grid = lab.client()
    following = grid.logs("warning", "left", follow=True)

    async def first() -> Any:
        return await anext(following)

    waiting = asyncio.ensure_future(first())
    await grid.request(log_here, "too low")
    await grid.request(log_there, "heard")
    assert (await asyncio.wait_for(waiting, 20)).text == "coroutine says heard"
    following.close()


def test_following_ends_with_its_grid(lab: Lab) -> None:
    grid = lab.client()
    following = grid.logs(follow=True)
    grid.close()
    assert list(following) == []
