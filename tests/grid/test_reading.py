"""Whoever blocks reads for himself; the rest, awaited or not, is read in the background; nobody is left without a reader."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grid_calls as calls
import pytest
from grid_lab import until

from gridworker import GridClosed

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

