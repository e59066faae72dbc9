"""Whoever blocks reads for himself; the rest, awaited or not, is read in the background; nobody is left without a reader."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import until

from gridworker import GridClosed
from gridworker.interrupts import Held
from gridworker.waits import Wait, Waits

if TYPE_CHECKING:
    from grid_lab import Lab

    from gridworker import Grid


def led_by_callers(grid: Grid) -> None:
    """Blocks until the background thread has left the reading to those who wait."""
    def rests() -> bool:
        assert grid.request("pool", calls.inc, 0).result(20) == 1
        return "by callers" in repr(grid._reading)

    until(rests, "the background thread to rest")


def test_a_caller_that_blocks_reads_for_himself(grid: Grid) -> None:
    def led() -> bool:
        led_by_callers(grid)
        before = grid._reading._led
        assert grid.request("pool", calls.inc, 1).result(20) == 2
        return grid._reading._led == before + 1

    until(led, "a call in which this thread is not kept from its turn for so long that the background thread takes it")


def test_an_answer_that_nobody_waits_for_arrives_too(grid: Grid) -> None:
    led_by_callers(grid)
    answer = grid.request("pool", calls.inc, 2)
    until(answer.done, "an answer that nobody reads for")
    assert answer.result() == 3


def test_a_look_at_the_grid_finds_a_reader_however_long_the_client_was_idle(grid: Grid) -> None:
    for _ in range(3):
        led_by_callers(grid)
        until(lambda: grid._reading._deep, "the background thread to sleep for good")
        assert grid._command("PING", timeout=20.0) == b"PONG"


async def test_awaiting_works_after_blocking_and_the_other_way_round(grid: Grid) -> None:
    for number in range(3):
        led_by_callers(grid)
        assert await grid.request("pool", calls.inc, 100 + number) == 101 + number


def test_threads_that_block_at_the_same_time_each_get_their_answer(grid: Grid) -> None:
    led_by_callers(grid)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: grid.request("pool", calls.inc, number).result(20), range(1000, 1400)))
    assert found == list(range(1001, 1401))


def test_a_reader_who_leaves_is_replaced(lab: Lab) -> None:
    lab.workers(1)
    grid, path = lab.client(), lab.directory / "slow"
    led_by_callers(grid)
    slow = grid.request("pool", calls.wait_for, str(path), 5)
    with pytest.raises(TimeoutError):
        slow.result(0.05)                                   # reads, and leaves without its answer
    late: list[int] = []
    waiting = threading.Thread(target=lambda: late.append(slow.result(20)))
    waiting.start()
    path.with_name("slow.go").touch()
    waiting.join(20)
    assert late == [5]


def test_many_single_requests_are_sent_without_anybody_waiting(grid: Grid) -> None:
    led_by_callers(grid)
    answers = [grid.request("pool", calls.inc, number) for number in range(5000, 8000)]
    until(lambda: all(answer.done() for answer in answers), "all the answers")
    assert [answer.result() for answer in answers] == list(range(5001, 8001))


def test_closing_ends_a_caller_who_reads(lab: Lab) -> None:
    grid = lab.client()
    stuck = grid.request("pool", calls.inc, 1)              # nobody works here
    found: list[GridClosed] = []

    def block() -> None:
        try:
            stuck.result(20)
        except GridClosed as error:
            found.append(error)

    waiting = threading.Thread(target=block)
    waiting.start()
    grid.close()
    waiting.join(20)
    assert len(found) == 1


def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def test_ctrl_c_between_taking_an_answer_and_giving_it_loses_none(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive, struck = Waits.arrive, []

    def interrupted(waits: Waits, message: bytes) -> bool:
        if in_main_thread() and not struck:
            struck.append(message)
            signal.raise_signal(signal.SIGINT)
        return arrive(waits, message)

    assert in_main_thread()
    led_by_callers(grid)
    monkeypatch.setattr(Waits, "arrive", interrupted)
    asked = []

    def stopped() -> bool:
        asked.append(grid.requests("pool", [(calls.inc, 1000 * len(asked) + i) for i in range(100)]))
        try:
            asked[-1].result(20)
        except KeyboardInterrupt:
            return True
        return False

    until(stopped, "this thread to be interrupted while it reads")
    for number, answer in enumerate(asked):
        assert answer.result(9) == [1000 * number + i + 1 for i in range(100)]     # nothing is asked again before 15 s have gone


def test_ctrl_c_in_the_midst_of_asking_leaves_nothing_half_done(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    send, struck = grid._send, []

    def interrupted(batch: list[Any], *, again: bool) -> None:
        if in_main_thread() and not struck:
            struck.append(len(batch))
            signal.raise_signal(signal.SIGINT)
        send(batch, again=again)

    grid._ready()
    monkeypatch.setattr(grid, "_send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid.request("pool", calls.inc, 1)
    assert struck == [1]
    assert grid.request("pool", calls.inc, 1).result(9) == 2


def test_a_signals_handler_that_raises_while_answers_are_read_loses_none(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    hear, struck = grid._hear, []

    def interrupted() -> None:
        if in_main_thread() and not struck:
            struck.append(True)
            grid._bell.feed()
            while grid._bell.ready() is not False:      # what a handler of SIGALRM would cost that raises just then
                pass
            raise TimeoutError("by a signal")
        hear()

    led_by_callers(grid)
    monkeypatch.setitem(grid._reading._handlers, grid._bell.fileno(), interrupted)
    asked: list[Any] = []

    def stopped() -> bool:
        asked.append(grid.request("pool", calls.inc, len(asked)))
        try:
            asked[-1].result(20)
        except TimeoutError as error:
            return "by a signal" in str(error)
        return False

    until(stopped, "this thread to be interrupted while it reads")
    assert [answer.result(9) for answer in asked] == list(range(1, len(asked) + 1))


def test_an_arrival_that_was_broken_off_can_be_repeated() -> None:
    woken: list[Wait] = []
    message = b"R" + b"0" * 32 + b"value"
    for broken in ("discard", "wake"):
        wait = Wait(["0" * 32], False, woken.append)
        waits = Waits()
        waits.add(wait, [("0" * 32, ("pool", "", b"item"))])
        if broken == "discard":             # right after it
            wait.outcomes["0" * 32] = message
            wait.missing.clear()
        else:

            def struck(wait: Wait) -> None:
                raise KeyboardInterrupt

            other = Wait(["0" * 32], False, struck)
            waits.add(other, [("0" * 32, ("pool", "", b"item"))])
            waits._waits["0" * 32].reverse()
            with pytest.raises(KeyboardInterrupt):
                waits.arrive(message)
        assert waits.asked() == [("pool", "", b"item")]
        assert waits.arrive(message)
        assert woken.pop() is wait
        assert (len(waits), waits.heard) == (0, [b"R" + b"0" * 32])


def test_a_thread_that_sleeps_hears_ctrl_c_at_once(grid: Grid) -> None:
    answer = grid.request("nobody", calls.inc, 1)
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
        answer.result(60)
    answer.cancel()


def test_what_is_held_is_heard_by_the_handler_that_was_there() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        handler = signal.getsignal(signal.SIGINT)
        with Held() as held:
            signal.raise_signal(signal.SIGINT)
            assert heard == []
            held.open()
            assert len(heard) == 1
            signal.raise_signal(signal.SIGINT)
            assert len(heard) == 2
            held.shut()
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)      # who insists is heard
            assert len(heard) == 3
            signal.raise_signal(signal.SIGINT)
            assert len(heard) == 3
        assert len(heard) == 4
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
