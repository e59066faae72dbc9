"""Calls that cannot be run end in an error that says why, and the worker lives on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
import versioned
from grid_lab import Lab

from gridworker import (
    CallFailed,
    CodeMismatch,
    CycleFound,
    GridError,
    NotACall,
    NotSerializable,
    TooBig,
    TooDeep,
    local,
    request,
    requests,
    versions,
    wire,
)
from gridworker import __version__ as VERSION
from gridworker.keys import WIRE
from gridworker.messages import CHAIN_MOST
from gridworker.node import Node
from gridworker.store import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridworker import Grid
    from gridworker.store import Connection


@pytest.fixture
def living(lab: Lab) -> Iterator[Grid]:
    """A grid whose one worker must be the same process afterwards."""
    lab.workers("ann", environment={"GRIDWORKER_DEPTH_MOST": "60", "GRIDWORKER_PAYLOAD_MOST": "100000"})
    grid = lab.client()
    before = grid.status().nodes["ann"]["pid"]
    yield grid
    assert grid.request("pool", calls.inc, 1).result(20) == 2
    assert grid.status().nodes["ann"]["pid"] == before


@pytest.mark.parametrize(("wrong", "said"), [
    (("pool", [calls.inc, 3]), r"call 0 is inc, where requests\(\) expects \(f, \*args\); a single call is request\(f, \*args\)"),
    (("pool", [(calls.inc, 3), ()]), r"call 1 is \(\), where"),
    (([(calls.inc, 3), 4],), "call 1 is 4, where"),
    (("pool", calls.inc), r"takes a list of calls, \[\(f, \*args\), …\], not inc"),
    (("pool",), "takes a list of calls, .*, not 'pool'"),
    ((3, [(calls.inc, 3)]), r"requests\(\"pool\", \[\(f, \*args\), …\]\), or without the pool; not requests\(3, "),
    ((), r"not requests\(\)"),
    (("a", "b", []), r"not requests\('a', 'b', \[\]\)"),
])
def test_calls_in_another_shape_are_refused_with_the_right_one(grid: Grid, wrong: Any, said: str) -> None:
    with pytest.raises(NotACall, match=said):
        grid.requests(*wrong)
    with local(), pytest.raises(NotACall, match=said):
        requests(*wrong)


def test_a_request_without_a_function_is_refused(grid: Grid) -> None:
    with pytest.raises(NotACall, match=r'request\("pool"\) names no function: request\("pool", f, \*args\)'):
        grid.request("pool")  # type: ignore[call-overload]
    with local(), pytest.raises(NotACall, match="names no function"):
        request()
    assert issubclass(NotACall, GridError) and issubclass(NotACall, TypeError)


def test_what_breaks_while_calls_are_made_is_not_mistaken_for_their_shape(grid: Grid) -> None:
    with pytest.raises(ZeroDivisionError):
        grid.requests("pool", ((calls.inc, 1 // i) for i in (1, 0)))
    assert grid.requests("pool", ([calls.inc, i] for i in (1, 2))).result(20) == [2, 3]


def test_recursion_without_end_is_stopped(living: Grid) -> None:
    with pytest.raises(TooDeep, match=r"at the end of 60 calls of calls: is this recursion without end\?") as caught:
        living.request("pool", calls.endless, 0).result(20)
    chain: Any = caught.value.chain  # type: ignore[attr-defined]
    assert len(chain) == CHAIN_MOST
    assert chain[0] == "endless(0)"
    assert chain[-1] == "endless(60)"


def test_a_result_that_is_too_big_is_refused_where_it_was_made(living: Grid) -> None:
    with pytest.raises(TooBig, match="a grid carries 100,000"):
        living.request("pool", calls.big, 200_000).result(20)
    assert len(living.request("pool", calls.big, 50_000).result(20)) == 50_000


def test_arguments_that_are_too_big_for_the_worker_are_refused(living: Grid) -> None:
    with pytest.raises(TooBig):
        living.request("pool", calls.length, b"x" * 200_000).result(20)


def test_a_result_that_cannot_travel_is_refused(living: Grid) -> None:
    with pytest.raises(NotSerializable, match="the result of unpicklable cannot be pickled"):
        living.request("pool", calls.unpicklable).result(20)


@pytest.mark.parametrize(("error", "argument", "said"), [
    (calls.Mute, 1, r"raised Mute: \(its text cannot be had: RuntimeError\)"),
    (calls.Leaving, "in a pickle", "raised Leaving: in a pickle"),
    (ValueError, calls.Unspeakable(), r"defiant\(.*<Unspeakable: repr failed: GeneratorExit>\) raised ValueError: "),
    (FileNotFoundError, "/data/\udcff", "raised FileNotFoundError: /data/\udcff"),       # a name that is no text, as systems give it
], ids=["mute", "leaving", "unspeakable", "no text"])
def test_an_exception_that_resists_being_told_is_told_as_far_as_it_goes(living: Grid, error: Any, argument: Any, said: str) -> None:
    with pytest.raises(CallFailed, match=said):
        living.request("pool", calls.defiant, error, argument).result(20)


def test_arguments_that_cannot_be_read_there_are_named(living: Grid) -> None:
    with pytest.raises(NotSerializable, match=r"the arguments of length cannot be read on this worker: RuntimeError: not here"):
        living.request("pool", calls.length, calls.Unreadable()).result(20)


def test_a_cycle_is_shown(living: Grid) -> None:
    with pytest.raises(CycleFound) as caught:
        living.request("pool", calls.cycle, 0).result(20)
    text = str(caught.value)
    assert text.startswith("cycle(0) failed: CycleFound: it would wait for itself: cycle(0) > cycle(1) > cycle(2) > cycle(0)\n")
    assert "called by cycle(2)" in text and "call " not in text


def test_a_cycle_of_functions_that_go_by_value_is_shown_too(living: Grid) -> None:
    def ring(x: int) -> Any:
        return request(ring, (x + 1) % 2)

    with pytest.raises(CycleFound, match=r"would wait for itself: .*ring\(0\) > .*ring\(1\) > .*ring\(0\)\n"):
        living.request("pool", ring, 0).result(20)


@pytest.mark.parametrize("function", [calls.inc, lambda x: x + 1])
def test_another_python_is_named_before_anything_of_it_is_run(living: Grid, monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.setattr(versions, "PYTHON", "3.99")
    with pytest.raises(CodeMismatch, match=r"comes from Python 3.99, and this worker runs Python 3.\d+"):
        living.request("pool", function, 1).result(20)
    monkeypatch.undo()
    living._functions._references.clear()                 # what was made under the false name


@pytest.mark.parametrize("function", [calls.names_a_package, lambda: versioned.VALUE])
def test_another_version_of_a_package_is_named(living: Grid, monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    assert living.request("pool", function).result(20) == versioned.VALUE
    monkeypatch.setattr(versioned, "__version__", "3.1.4")
    living._functions._references.clear()
    with pytest.raises(CodeMismatch, match=r"comes from versioned 3\.1, and this worker has 2\.7: install the same version"):
        living.request("pool", function).result(20)


@pytest.mark.parametrize(("told", "theirs"), [('"wire": 99', 99), ('"python": "3.11"', 0)])
def test_nodes_of_another_wire_format_are_named_when_connecting(lab: Lab, told: str, theirs: int) -> None:
    connection = lab.connection()
    connection.call("HSET", lab.keys.nodes, "pool/ann~00000000", f'{{"name": "ann", "version": "0.0.1", {told}}}')
    connection.close()
    both = rf"the node ann speaks wire format {theirs} .gridworker 0\.0\.1., this client speaks {WIRE} \(gridworker {re.escape(VERSION)}\)"
    with pytest.raises(CodeMismatch, match=both):
        lab.client().__enter__()


def test_hosts_and_clients_that_speak_another_wire_format_than_who_came_first_are_refused(lab: Lab, connection: Connection) -> None:
    connection.call("SET", lab.keys.wire, "99 9.9.9")
    said = rf"the grid {lab.keys.namespace} speaks wire format 99 \(gridworker 9.9.9\), this %s speaks {WIRE} .*--cleanup --namespace"
    with pytest.raises(CodeMismatch, match=said % "client"):
        lab.client().__enter__()
    host = lab.run("--worker", "1")
    assert host.returncode == 1
    assert re.search(said % "host", host.stdout), host.stdout
    assert {key.rpartition(b":")[2] for key in connection.call("KEYS", lab.keys.prefix + "*")} <= {b"wire", b"refused", b"log"}


def test_a_client_hears_that_workers_of_another_wire_format_were_refused(
        lab: Lab, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridworker.looking.LOOK_SECONDS", 20.0)
    answer = lab.client().request(calls.inc, 1)
    with pytest.raises(TimeoutError, match=r"has no workers, nor has any other$"):
        answer.result(0.1)
    with monkeypatch.context() as theirs:
        theirs.setattr(wire, "WIRE", 99)
        with pytest.raises(CodeMismatch, match=rf"speaks wire format {WIRE} .* this node speaks 99"):
            Node(lab.keys, "pool", "new", kind="worker", supervisor="s").register(connection, Script("register"))
    assert connection.call("HLEN", lab.keys.nodes) == 0
    with pytest.raises(TimeoutError, match=rf"came and were refused: they speak wire format 99, this grid {WIRE}"):
        answer.result(0.1)


def test_a_client_that_comes_back_to_a_grid_of_another_wire_format_ends(lab: Lab, connection: Connection) -> None:
    with lab.client() as grid:
        answer = grid.request(calls.inc, 1)
        grid.status()
        connection.call("SET", lab.keys.wire, "99 9.9.9")       # the server was emptied, and others came first
        mine = [one for one in connection.call("CLIENT", "LIST").split(b"\n") if grid.name.encode() in one]
        for one in mine:
            connection.call("CLIENT", "KILL", "ID", one.split()[0].removeprefix(b"id="))
        with pytest.raises(CodeMismatch, match="speaks wire format 99"):
            answer.result(20)


def test_releases_that_speak_the_same_wire_format_work_together(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.workers(1)
    monkeypatch.setattr("gridworker.wire.__version__", "0.9.9")
    assert lab.client().request("pool", calls.inc, 1).result(20) == 2


def test_what_a_client_cannot_import_on_the_worker_is_named(living: Grid, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "known_to_the_client.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import known_to_the_client  # type: ignore[import-not-found]

    for function in (known_to_the_client.f, lambda x: known_to_the_client.f(x)):
        with pytest.raises(CodeMismatch, match=r"cannot import known_to_the_client: .* start the workers with its directory in PYTHONPATH"):
            living.request("pool", function, 1).result(20)


def test_nodes_tell_their_versions(living: Grid) -> None:
    node = living.status().nodes["ann"]
    assert node["python"] == versions.PYTHON
    assert node["version"] == VERSION and node["wire"] == WIRE
