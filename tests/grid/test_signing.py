"""What travels is signed with the grid's key for its call, and checked, with its size, before anything is unpickled."""

from __future__ import annotations

import operator
import os
import pickle
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import lines, until
from hypothesis import given
from hypothesis import strategies as st

from gridworker import GridDenied, NotTrusted, TooBig, salted
from gridworker.messages import Failure, item, opened
from gridworker.signing import Seal, key_from
from gridworker.waits import Wait, values

if TYPE_CHECKING:
    from pathlib import Path

    from grid_lab import Lab

KEY, CALL, OTHER = b"k" * 32, b"a" * 32, b"b" * 32


class Trap:
    """Its pickle makes a directory where it is loaded: whether something was unpickled can be seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@given(st.sampled_from([b"W", b"R", b"E", b"F"]), st.binary(), st.sampled_from([None, KEY]))
def test_what_is_sealed_opens_with_the_same_key(kind: bytes, body: bytes, key: bytes | None) -> None:
    assert Seal(key).open(kind, CALL, Seal(key).close(kind, CALL, body)) == body


@given(st.binary(), st.data())
def test_nothing_opens_once_a_byte_of_it_is_changed(body: bytes, data: st.DataObject) -> None:
    sealed = bytearray(Seal(KEY).close(b"R", CALL, body))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NotTrusted):
        Seal(KEY).open(b"R", CALL, bytes(sealed))


def test_an_item_that_comes_back_is_trusted_only_as_this_process_has_sent_it() -> None:
    asked = item(CALL.decode(), "f" * 8, "m:f@", b"args", 3, Seal(KEY))
    forged = asked[:-4] + b"argx"
    died_once = asked[:40] + b"1" + asked[41:]
    assert opened(asked, Seal(KEY), asked) == opened(died_once, Seal(KEY), asked) == opened(asked, Seal(KEY)) == b"m:f@\0args"
    with pytest.raises(NotTrusted):
        opened(forged, Seal(KEY), asked)


@pytest.mark.parametrize(("kind", "call", "seal"), [(b"W", CALL, Seal(KEY)), (b"R", OTHER, Seal(KEY)), (b"R", CALL, Seal(b"x" * 32)),
                                                    (b"R", CALL, Seal())], ids=["kind", "call", "key", "no key"])
def test_a_signature_holds_for_one_kind_one_call_and_one_key(kind: bytes, call: bytes, seal: Seal) -> None:
    with pytest.raises(NotTrusted):
        seal.open(kind, call, Seal(KEY).close(b"R", CALL, b"body"))


def test_what_is_not_signed_is_refused_by_whoever_has_a_key() -> None:
    with pytest.raises(NotTrusted, match="does not have this grid's key"):
        Seal(KEY).open(b"R", CALL, Seal().close(b"R", CALL, b"body"))


def test_sizes_are_checked_on_both_sides_before_the_signature() -> None:
    with pytest.raises(TooBig, match="11 bytes pickled; a grid carries 10"):
        Seal(KEY, limit=10).close(b"R", CALL, b"x" * 11)
    with pytest.raises(TooBig, match="a grid carries 10"):
        Seal(KEY, limit=10).open(b"R", CALL, b"+" + b"x" * 100)


@pytest.mark.parametrize(("text", "why"), [("xyz", "hex"), ("00" * 15, "15 bytes"), ("00" * 65, "65 bytes")])
def test_a_key_that_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(GridDenied, match=why):
        key_from(text)


def test_a_key_is_in_no_repr(lab: Lab) -> None:
    grid = lab.client()
    assert lab.key not in repr(grid) + repr(grid.seal) + repr(grid.__dict__)


def test_a_forged_result_is_not_unpickled_and_the_caller_is_told(lab: Lab) -> None:
    grid, trap = lab.client(), lab.directory / "trapped"
    answer = grid.request("pool", calls.inc, 1)
    forged = b"R" + answer.calls[0].encode() + b"-" + pickle.dumps(Trap(trap))
    with closing(lab.connection()) as connection:
        connection.call("RPUSH", lab.keys.inbox(grid.name), forged)
    with pytest.raises(NotTrusted, match=r"the result of \w+ is not signed"):
        answer.result(20)
    assert not trap.exists()


def test_forged_work_is_not_unpickled_and_the_worker_lives_on(lab: Lab) -> None:
    lab.workers(1)
    grid, trap = lab.client(), lab.directory / "trapped"
    stranger = lab.client(key="ff" * 32)
    for bad in (stranger.request("pool", calls.note, str(trap), 1), stranger.request("pool", salted(calls.inc), 1)):
        with pytest.raises(NotTrusted):
            bad.result(20)
    assert lines(trap) == []
    assert grid.request("pool", calls.inc, 5).result(20) == 6
    entries = until(lambda: grid.status().executed, "the count of executions")
    assert sum(entries.values()) == 3


def test_a_client_without_the_key_learns_that_it_needs_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDWORKER_SECRET_FILE", raising=False)
    lab.workers(1)
    with pytest.raises(NotTrusted, match="this process has no key"):
        lab.client(key=None).request("pool", calls.inc, 1).result(20)


def test_a_function_by_value_that_was_replaced_is_not_loaded(lab: Lab) -> None:
    lab.workers(1)
    grid, trap = lab.client(), lab.directory / "trapped"
    secret = 7

    def add(x: int) -> int:
        return x + secret

    assert grid.request("pool", add, 1).result(20) == 8
    lab.workers(1, pool="other")
    with closing(lab.connection()) as connection:
        [key] = connection.call("KEYS", lab.keys.code("*"))
        connection.call("SET", key, b"-" + pickle.dumps(Trap(trap)))
    with pytest.raises(NotTrusted, match="the code of function"):
        grid.request("other", add, 2).result(20)
    assert not trap.exists()


def test_results_over_the_limit_fail_at_the_caller_and_the_worker_lives_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDWORKER_PAYLOAD_MOST", "10000")
    lab.workers(1)
    grid = lab.client()
    with pytest.raises(TooBig, match="the result of"):
        grid.request("pool", operator.mul, "x", 50_000).result(20)
    assert grid.request("pool", calls.inc, 1).result(20) == 2


def test_arguments_over_the_limit_fail_where_they_are_made(lab: Lab) -> None:
    grid = lab.client()
    grid.seal.limit = 1000
    with pytest.raises(TooBig, match="the arguments of"):
        grid.request("pool", calls.inc, "x" * 2000)


def test_a_failure_of_the_grid_s_own_making_is_text_and_needs_no_key() -> None:
    failure = Failure("lost", "NodeLost", "the nodes died", node="w1")
    wait = Wait([CALL.decode()], False, lambda wait: None)
    wait.arrive(CALL.decode(), b"E" + CALL + failure.plain())
    with pytest.raises(Exception, match="the nodes died") as caught:
        values(wait, True, Seal(KEY))
    assert caught.value.failure == failure
