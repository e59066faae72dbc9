"""Functions that go by value: stored once, there for as long as a call needs them, and bounded however many there are and whatever they
enclose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grid_calls as calls
import pytest
from grid_lab import Lab, lines, until

from gridworker import blobs, codes, request, serialize
from gridworker.parts import BIG
from gridworker.serialize import Functions

MIB = 1 << 20


def enclosing(number: int, size: int = MIB) -> Callable[[int], int]:
    """What a cell makes in a loop: the same code, other data each time."""
    data = number.to_bytes(4, "little") * (size // 4)
    return lambda x: x + len(data) + data[0]


def command(lab: Lab, *words: Any) -> Any:
    with closing(lab.connection()) as connection:
        return connection.call(*words)


def memory(lab: Lab) -> int:
    return int(command(lab, "INFO", "memory").decode().split("used_memory:")[1].split()[0])


def stored_how_often(lab: Lab) -> int:
    said = command(lab, "INFO", "commandstats").decode()
    return int(said.partition("cmdstat_set:calls=")[2].partition(",")[0] or 0)


def test_a_loop_over_closures_leaves_a_bounded_lot_on_the_server(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PARTS_MOST", 4 * MIB)
    own.workers(1)
    grid, used = own.client(), []
    for number in range(40):
        assert grid.request("pool", enclosing(number), 1).result(20) == 1 + MIB + number
        used.append(memory(own))
    assert max(used[20:]) - max(used[:20]) < 2 * MIB        # 40 MiB went in
    assert max(used) - used[0] < 10 * MIB


def test_a_function_over_something_big_is_stored_once(lab: Lab) -> None:
    lab.workers(1)
    grid, function = lab.client(), enclosing(7)
    for part in range(3):
        asked = [(function, 10 * part + i) for i in range(10)]
        assert grid.requests("pool", asked).result(20) == [x + MIB + 7 for _, x in asked]
    assert len(command(lab, "KEYS", lab.keys.part("*"))) == 1
    assert command(lab, "KEYS", lab.keys.code("*")) == []


def test_calls_of_calls_may_be_of_functions_over_something_big(lab: Lab) -> None:
    lab.workers(2)

    def caller(x: int) -> int:
        data = bytes(2 * BIG)
        return int(request(lambda y: y + len(data), x))

    assert lab.client().requests("pool", [(caller, i) for i in range(5)]).result(20) == [2 * BIG + i for i in range(5)]


def test_a_pending_call_keeps_its_code_however_much_goes(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PARTS_MOST", MIB)
    monkeypatch.setattr(codes, "CODES_MOST", 5)
    grid, big, small = own.client(), enclosing(99), lambda x: x + 1
    pending = grid.requests("later", [(big, 1), (small, 1)])
    own.workers(1)
    for number in range(20):
        def light(number: int = number) -> int:
            return number

        assert grid.requests("pool", [(enclosing(number), 1), (light,)]).result(20)[1] == number
    assert len(grid._codes) <= 11                           # only those of pending calls are held, and what came since the last look
    own.server.stop()                                       # it forgets everything
    own.server.start()
    own.workers(1, pool="later")
    assert pending.result(60) == [1 + MIB + 99, 2]


def test_each_of_many_functions_is_stored_once(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "CODES_MOST", 100)
    grid = own.client()
    grid.status()
    before = stored_how_often(own)
    answers = [grid.request("pool", lambda i=i: i) for i in range(400)]
    until(lambda: command(own, "LLEN", own.keys.queue("pool")) == 400, "all of them to be accepted")
    assert stored_how_often(own) - before <= 2 * 400        # its code, and its state
    own.workers(1)
    assert [answer.result(30) for answer in answers] == list(range(400))


def test_what_a_worker_has_at_hand_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "CODES_BYTES", 4 * MIB)
    caller, fetched = Functions(), []
    references = {reference.text: reference for reference in (caller.reference(enclosing(number)) for number in range(10))}

    def fetch(where: str) -> bytes | memoryview | None:
        fetched.append(where)
        part = references["=" + where].part
        assert part is not None
        return part.data

    worker = Functions(fetch)       # type: ignore[arg-type]
    for number, text in enumerate(references):
        assert worker.load(text.encode())(1) == 1 + MIB + number
    assert len(worker._loaded) == 3                         # each is a little more than a MiB
    *_, last = references
    worker.load(last.encode())
    assert len(fetched) == 10                               # the newest is at hand
    first = next(iter(references))
    assert worker.load(first.encode())(1) == 1 + MIB
    assert len(fetched) == 11 and len(worker._loaded) == 3


def test_a_function_larger_than_all_that_is_kept_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "CODES_BYTES", BIG)
    reference = Functions().reference(enclosing(3))
    assert reference.part is not None
    data = reference.part.data
    worker = Functions(lambda where: data)  # type: ignore[arg-type, return-value]
    for _ in range(2):
        assert worker.load(reference.text.encode())(1) == 1 + MIB + 3
    assert len(worker._loaded) == 1


def test_a_big_function_that_is_gone_is_named(lab: Lab) -> None:
    grid = lab.client()
    answer = grid.request("pool", enclosing(1))
    until(lambda: command(lab, "LLEN", lab.keys.queue("pool")), "the call to be accepted")
    command(lab, "UNLINK", *command(lab, "KEYS", lab.keys.part("*")))
    lab.workers(1)
    with pytest.raises(serialize.CodeMismatch, match="not stored on this grid any more"):
        answer.result(20)


def test_a_big_function_that_somebody_has_replaced_is_not_used(lab: Lab) -> None:
    grid = lab.client()
    answer = grid.request("pool", enclosing(1), 1)
    until(lambda: command(lab, "LLEN", lab.keys.queue("pool")), "the call to be accepted")
    key, = command(lab, "KEYS", lab.keys.part("*"))
    length = command(lab, "STRLEN", key)
    command(lab, "SET", key, b"x" * length)
    lab.workers(1)
    with pytest.raises(blobs.NotTrusted, match="not the one that was signed"):
        answer.result(20)


def test_a_call_over_something_big_survives_its_worker(lab: Lab) -> None:
    lab.workers(1)
    path, data = str(lab.directory / "died"), bytes(MIB)

    def dies_once() -> int:
        import os
        import signal

        calls.note(path, "here")
        if len(lines(Path(path))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(data)

    assert lab.client().request("pool", dies_once).result(30) == MIB
    assert len(lines(Path(path))) == 2
