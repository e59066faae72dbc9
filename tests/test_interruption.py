"""What a launch does about machines that EC2 takes back: the decision, and the shell that carries it out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.errors import FleetError, RequestInvalid
from fleetctl.launching import replacing
from fleetctl.launching.interruption import Answer, answer, checked, words
from fleetctl.launching.replacing import Replacing
from fleetctl.states import LaunchState

MACHINE: Any = SimpleNamespace(instance_id="i-0123456789abcdef0", taken_at="2031-05-06T07:08:09Z")
RUNNING = [LaunchState.ASKING, LaunchState.WAITING, LaunchState.UP]


@pytest.mark.parametrize("policy", ["shrink", "replace", print])
def test_a_policy_is_one_of_two_words_or_a_function(policy: Any) -> None:
    assert checked(policy) is policy


@pytest.mark.parametrize("policy", ["grow", "", None, 3, ["replace"]])
def test_what_is_no_policy_is_refused_with_what_there_is(policy: Any) -> None:
    with pytest.raises(RequestInvalid, match='"shrink", "replace" or a function'):
        checked(policy)


@given(st.sampled_from(["shrink", "replace", print]), st.booleans(), st.sampled_from(LaunchState), st.booleans())
def test_something_is_done_only_for_machines_that_were_ready_of_launches_that_go_on(
    policy: Any, was_ready: bool, state: LaunchState, ending: bool
) -> None:
    goes_on = was_ready and not ending and state in RUNNING
    expected = {"shrink": Answer.NOTHING, "replace": Answer.REPLACE, print: Answer.CALL}[policy] if goes_on else Answer.NOTHING
    assert answer(policy, was_ready=was_ready, state=state, ending=ending) is expected


@pytest.mark.parametrize("answered", Answer)
def test_the_log_says_when_and_what_follows(answered: Answer) -> None:
    text = words(answered, "i-1", "2031-05-06T07:08:09Z")
    assert "takes i-1 back at 2031-05-06T07:08:09Z" in text
    assert "within two minutes" in words(answered, "i-1", "")


def interrupted(each: Replacing, **changes: Any) -> None:
    each.interrupted(MACHINE, **{"was_ready": True, "state": LaunchState.UP, **changes})


class Launches:
    """Stands for the launches that are begun; the next one fails with `error`, if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[int] = []
        self.begun = asyncio.Event()
        self.error = error

    def begin(self, count: int) -> Any:
        self.asked.append(count)
        self.begun.set()
        if self.error is not None:
            raise self.error
        return SimpleNamespace(future=concurrent.futures.Future())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "GATHER_SECONDS", 0.0)


async def test_machines_that_go_together_are_replaced_by_one_launch_and_later_ones_by_the_next(at_once: None) -> None:
    launches = Launches()
    each = Replacing("replace", launches.begin)
    for _ in range(3):
        interrupted(each)
    await launches.begun.wait()
    launches.begun.clear()
    interrupted(each)
    await launches.begun.wait()
    assert launches.asked == [3, 1]
    assert len(each.launches) == 2


async def test_what_is_being_ended_is_not_replaced_not_even_what_was_due(at_once: None) -> None:
    launches = Launches()
    each = Replacing("replace", launches.begin)
    interrupted(each)
    each.stop()
    interrupted(each)
    await asyncio.sleep(0.01)
    assert launches.asked == []


async def test_a_replacement_that_may_not_begin_is_told_and_breaks_nothing(at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    launches = Launches(FleetError("the budget is spent"))
    each = Replacing("replace", launches.begin)
    interrupted(each)
    await launches.begun.wait()
    assert each.launches == []
    assert "1 interrupted machine(s) are not replaced: the budget is spent" in caplog.text


async def test_a_replacement_that_fails_is_told(at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    launches = Launches()
    each = Replacing("replace", launches.begin)
    interrupted(each)
    await launches.begun.wait()
    each.launches[0].future.set_exception(FleetError("no capacity"))
    assert "1 interrupted machine(s) could not be replaced: no capacity" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_function_is_called_with_the_machine_away_from_the_session_s_loop(kind: str) -> None:
    called: concurrent.futures.Future[tuple[Any, threading.Thread]] = concurrent.futures.Future()

    def plain(machine: Any) -> None:
        called.set_result((machine, threading.current_thread()))

    async def later(machine: Any) -> None:
        await asyncio.sleep(0)
        plain(machine)

    interrupted(Replacing(plain if kind == "plain" else later))
    machine, thread = await asyncio.wrap_future(called)
    assert machine is MACHINE
    assert thread is not threading.current_thread()


async def test_a_function_that_fails_is_logged_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    before = set(threading.enumerate())

    def broken(machine: Any) -> None:
        raise ValueError("not my day")

    interrupted(Replacing(broken))
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "on_interruption failed" in record.message
    assert "not my day" in caplog.text
