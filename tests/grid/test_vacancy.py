"""Calls that are sent to a pool in which nobody works wait, and whoever waits for them is told so."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import grid_calls as calls
import pytest
from grid_lab import until

from gridworker import CallTimeout
from gridworker.vacancy import AGAIN_SECONDS, START_SECONDS, WARN_SECONDS, Vacancies, staffed, vacancy

if TYPE_CHECKING:
    from grid_lab import Lab


@pytest.fixture(autouse=True)
def however_busy_the_computer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridworker.looking.LOOK_SECONDS", 20.0)


def test_a_time_limit_names_the_pool_that_nobody_works_in(lab: Lab) -> None:
    lab.start("--distributor", "pol")
    lab.workers(1)
    grid = lab.client()
    said = r"pool 'pol' has no workers; there are some in: pool"
    answer = grid.request("pol", calls.inc, 1)
    with pytest.raises(TimeoutError, match=rf"1 of 1 call\(s\) are not done after 0.1 s; they go on; {said}"):
        answer.result(0.1)
    with pytest.raises(CallTimeout, match=rf"not done within 0.3 s and are cancelled; {said}"):
        grid.request("pol", calls.inc, 2, timeout=0.3).result(20)
    lab.workers(1, "pol")
    assert answer.result(20) == 2
    slow = grid.request("pol", calls.aio_sleeps, str(lab.directory / "notes"))
    with pytest.raises(TimeoutError) as caught:
        slow.result(0.1)
    assert "no workers" not in str(caught.value)


def test_a_grid_without_any_workers_says_so(lab: Lab) -> None:
    with pytest.raises(TimeoutError, match="pool 'pool' has no workers, nor has any other"):
        lab.client().request(calls.inc, 1).result(0.1)


def test_whoever_waits_is_warned_once_and_the_call_is_run_when_somebody_comes(
        lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridworker.vacancy.WARN_SECONDS", 0.1)
    monkeypatch.setattr("gridworker.vacancy.AGAIN_SECONDS", 0.05)
    grid = lab.client()
    with caplog.at_level(logging.WARNING, "gridworker.client"):
        answers = [grid.request("pol", calls.inc, i) for i in range(3)]
        until(lambda: caplog.messages, "the warning")
        lab.workers(1, "pol")
        assert [answer.result(20) for answer in answers] == [1, 2, 3]
    assert caplog.messages == ["pool 'pol' has no workers, nor has any other. Its calls wait until it has"]


def worker(pool: str, kind: str = "worker") -> dict[bytes, bytes]:
    return {f"{pool}/{kind}~0".encode(): json.dumps({"kind": kind, "pool": pool}).encode()}


def test_linked_pools_lend_their_workers_and_distributors_are_none() -> None:
    links = {b"left": b"all", b"all": b"top", b"right": b"all"}
    assert staffed(worker("left") | worker("lone", "distributor"), links) == {"left", "all", "top"}
    assert staffed({}, links) == set()


def test_a_pool_is_looked_at_soon_then_rarely_and_not_once_it_has_workers() -> None:
    some = Vacancies()
    assert some.asked("a", 100.0) and not some.asked("a", 101.0) and not some.asked("b", 101.0)
    assert some.seconds(60.0, 101.0) == WARN_SECONDS - 1
    assert some.asked("b", 101.0, within=2.0)                   # who gives up sooner wants to know sooner
    assert not some.due(101.9) and some.due(102.0) and not some.due(102.1)
    assert some.seconds(60.0, 102.0) == AGAIN_SECONDS
    assert some.learn({"b"}, ["a", "b"], 102.0) == [vacancy("a", {"b"})]
    assert some.learn({"b"}, ["a", "b"], 102.0) == []           # said once
    assert some.why(["a", "b"]) == f"; {vacancy('a', {'b'})}" and "b" in some.known
    assert some.learn({"a", "b"}, ["a"], 103.0) == [] and len(some) == 0 and some.why(["a"]) == ""
    some.doubt(["a"], 200.0)
    assert some.due(200.0) and some.learn(set(), ["a"], 200.0) == [vacancy("a", set())]


def test_of_a_pool_whose_workers_are_being_started_nothing_is_said_for_a_minute() -> None:
    some = Vacancies(starting="a")
    some.asked("b", 10.0)
    assert some.learn(set(), ["b"], 20.0) == [vacancy("b", set())]
    some.asked("a", 100.0)
    assert some.learn(set(), ["a", "b"], 105.0) == [] and some.why(["a"]) == ""
    assert some.learn(set(), ["a"], 100.0 + START_SECONDS) == [vacancy("a", set())]


def test_a_pool_that_has_been_started_is_one_like_others() -> None:
    some = Vacancies(starting="a")
    some.asked("a", 100.0)
    assert some.learn({"a"}, ["a"], 101.0) == []
    some.doubt(["a"], 102.0)
    assert some.learn(set(), ["a"], 102.0) == [vacancy("a", set())]
