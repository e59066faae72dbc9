"""`Grid()`: a grid of this machine's own, from one line, that leaves nothing behind however its process ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from grid_lab import until

from gridworker import Grid, GridError, GridUnreachable, request, requests
from gridworker.embedded import cores
from gridworker.store import Connection, parse_url


def processes_of(directory: str | Path) -> list[int]:
    """Pids of processes that have the directory in their command line: the grid's server, its guard, its supervisor, its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:             # it has just ended
                continue
            if os.fsencode(str(directory)) in command:
                found.append(int(entry.name))
    return found


def script(text: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)


def test_one_line_is_a_grid_with_a_worker_for_each_core() -> None:
    with Grid() as grid:
        assert grid.request(pow, 2, 10).result(20) == 1024
        until(lambda: len(grid.status().nodes) == cores(), "the workers to be there")
        directory = Path(parse_url(grid.address.url)[0].path).parent
        assert processes_of(directory)
    assert not directory.exists()
    assert processes_of(directory) == []


def test_functions_of_a_script_go_by_value_and_may_ask_for_more() -> None:
    def fib(n: int) -> Any:
        return n if n < 2 else sum(requests([(fib, n - 1), (fib, n - 2)]))

    with Grid(workers=1) as grid:
        assert grid.request(fib, 20).result(20) == 6765
        assert grid.requests([(fib, 5), (pow, 2, 3)]).result(20) == [5, 8]
        assert list(grid.status().pools) == ["pool"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_functions_print_comes_out_in_whole_lines(unbuffered: str) -> None:
    process = script("""
        from gridworker import Grid
        def tell(i):
            for n in range(20):
                print("call", i, "says", n)
            print("and more", end="")
        with Grid(workers=4) as grid:
            grid.requests([(tell, i) for i in range(20)]).result()
    """, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), err
    told = [line.removeprefix("and more") for line in err.splitlines()]
    assert sorted(line for line in told if line.startswith("call")) == sorted(f"call {i} says {n}" for i in range(20) for n in range(20))
    assert err.count("and more") == 20, "also what ends in the middle of a line"


def test_a_number_in_the_place_of_an_address_is_told_how_workers_are_counted() -> None:
    with pytest.raises(TypeError, match=r"a text, not 4; .* Grid\(workers=4\)"):
        Grid(4)     # type: ignore[arg-type]


async def test_it_is_there_for_asyncio_too() -> None:
    async with Grid(workers=1, pool="mine") as grid:
        assert await grid.request(pow, 2, 3) == 8
        assert await grid.request("mine", pow, 2, 4) == 16


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_process_however_that_dies(number: signal.Signals) -> None:
    process = script("""
        from gridworker import Grid
        import time
        grid = Grid(workers=2)
        grid.request(abs, -1).result()
        running = grid.request(time.sleep, 600)
        print(grid.address.path, flush=True)
        time.sleep(600)
    """)
    assert process.stdout is not None
    directory = Path(process.stdout.readline().strip()).parent
    assert len(processes_of(directory)) >= 4
    process.send_signal(number)
    process.communicate()
    until(lambda: not processes_of(directory) and not directory.exists(), "all of it to be gone")


def test_a_script_needs_no_main_guard_and_no_close() -> None:
    process = script("""
        from gridworker import Grid
        square = lambda x: x * x
        grid = Grid(workers=1)
        print(grid.address.path, grid.request(square, 7).result(), flush=True)
    """)
    out, errors = process.communicate(timeout=30)
    path, answer = out.split()
    assert (process.returncode, answer, errors) == (0, "49", "")
    until(lambda: not Path(path).parent.exists() and not processes_of(Path(path).parent), "all of it to be gone")


def test_a_forked_copy_keeps_nothing_alive_and_ends_nothing() -> None:
    process = script("""
        from gridworker import Grid
        import os, time
        grid = Grid(workers=1)
        grid.request(abs, -1).result()
        if os.fork() == 0:
            grid._embedded.stop()           # what a copy does with its copy ends nothing
            os.close(1); os.close(2)
            time.sleep(60)
            os._exit(0)
        print(grid.address.path, grid.request(abs, -2).result(), flush=True)
        os._exit(0)
    """, start_new_session=True)
    assert process.stdout is not None
    try:
        path, answer = process.stdout.readline().split()
        assert answer == "2"
        process.wait(20)
        until(lambda: not processes_of(Path(path).parent), "the grid to be gone although a copy of its process lives")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_forked_copy_finds_its_client_closed_and_takes_no_answers() -> None:
    process = script("""
        from gridworker import Grid, GridClosed
        import os, sys, time
        with Grid(workers=1) as grid:
            pending, many = grid.request(time.sleep, 0.5), grid.requests([(abs, -i) for i in range(1000)])
            copy = os.fork()
            if copy == 0:
                tries = [pending.result, lambda: grid.request(abs, -1), grid.status, many.result, lambda: grid.collect([])]
                closed = 0
                for each in tries:
                    try:
                        each()
                    except GridClosed as error:
                        closed += "fork" in str(error)
                with Grid(workers=1) as own:
                    closed += own.request(abs, -1).result()
                grid.close()
                os._exit(closed)
            assert sum(many.result(20)) == 499500 and pending.result(20) is None
            for i in range(100):
                assert grid.request(abs, -i).result(20) == i
            print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
    """, start_new_session=True)
    try:
        out, errors = process.communicate(timeout=60)
        assert (out.strip(), errors) == ("6", "")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_processes_that_cannot_be_started_are_an_error_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(GridError, match="cannot be started"), Grid(workers=1):
        pass


def test_a_client_that_breaks_tells_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with Grid(workers=1) as grid:
        assert grid.request(abs, -1).result(20) == 1
        running = grid.request(time.sleep, 60)
        monkeypatch.setattr(grid._reading, "_after", lambda: [][0])      # a mistake of ours, in the thread that reads
        grid._reading.wake()
        many = grid.request("nobody", abs, -3)
        gate = threading.Event()
        running._when_over(gate.set)
        assert gate.wait(20)
        for answer in (running, many):
            with pytest.raises(GridError, match="IndexError"):
                answer.result(20)
        with pytest.raises(GridError, match="IndexError"):
            grid.request(abs, -4)


def test_workers_import_what_their_client_can_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    with Grid(workers=1) as grid:
        assert grid.request(only_here.double, 4).result(20) == 8


def test_workers_that_are_slow_to_start_are_not_said_to_be_missing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("gridworker.looking.LOOK_SECONDS", 20.0)
    go = tmp_path / "go"
    (tmp_path / "sitecustomize.py").write_text(f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with caplog.at_level(logging.WARNING, "gridworker.client"), Grid(workers=1) as grid:
        answer = grid.request(abs, -3)
        try:
            with pytest.raises(TimeoutError) as caught:
                answer.result(0.1)
        finally:
            go.touch()
        assert answer.result(20) == 3
    assert "no workers" not in str(caught.value) and caplog.messages == []


def test_when_its_workers_end_by_themselves_whoever_waits_is_told() -> None:
    with Grid(workers=1) as grid:
        waiting = grid.request(request, pow, 2, 2)
        assert waiting.result(20) == 4
        stuck = grid.request("nobody", abs, 1)
        assert grid._embedded is not None and grid._embedded._process is not None
        os.kill(grid._embedded._process.pid, signal.SIGKILL)
        with pytest.raises(GridUnreachable, match="the workers of this grid have ended, by SIGKILL"):
            stuck.result(20)


def test_a_grid_that_is_somewhere_is_named_by_its_url() -> None:
    with Grid(workers=1) as grid:
        assert grid._embedded is not None
        password = grid._embedded.server.password
        with Grid(grid.address.url, password=password, key=grid._embedded.key) as other:
            assert other.request(abs, -5).result(20) == 5
        connection = Connection(grid.address, password)
        connection.connect()
        connection.close()
    with pytest.raises(ValueError, match="start those of a grid that is somewhere"):
        Grid("redis://127.0.0.1:1/0", workers=2)
    with pytest.raises(ValueError, match="at least one worker"):
        Grid(workers=0)
