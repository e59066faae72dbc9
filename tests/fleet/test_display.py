"""Who waits at a terminal sees how it goes, and gets the terminal back however the waiting ends."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from fake_aws import REQUEST, FakeAws, Held

from fleetctl import LaunchFailed, bring_up_spots, display
from fleetctl.errors import MachineError
from fleetctl.reach.hands import Many, Work

HIDE = "\x1b[?25l"  # the cursor, which an interrupted wait would not bring back


class Screen:
    """All that was written to stderr so far."""

    def __init__(self, capsys):
        self._capsys, self._seen = capsys, ""

    def getvalue(self):
        self._seen += self._capsys.readouterr().err
        return self._seen


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What a person at a terminal gets to see."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(display, "_tick", display._Terminal)
    return Screen(capsys)


def test_blocking_shows_how_it_goes_and_leaves_the_last_line(fake_session, terminal):
    launch = bring_up_spots(REQUEST, 3, "true", session=fake_session(FakeAws(boot=lambda number: 0.3 * number)))
    launch.result(10)
    shown = terminal.getvalue()
    assert "0/3 × t3.micro up" in shown
    assert "1/3 × t3.micro up" in shown, "not only the beginning and the end"
    assert shown.endswith("\n")
    assert shown.rstrip().rsplit("\r", 1)[-1].startswith("3/3 × t3.micro up · 0 pending · 0 failed")
    assert HIDE not in shown


async def test_two_who_wait_at_once_both_see_the_end(fake_session, terminal):
    session = fake_session(FakeAws(boot=0.3))
    first, second = (bring_up_spots(REQUEST, n, "true", session=session) for n in (1, 2))
    await asyncio.gather(first._wait(), second._wait())
    for said in ("1/1 × t3.micro up", "2/2 × t3.micro up"):
        assert said in terminal.getvalue()
    assert HIDE not in terminal.getvalue()


@pytest.mark.parametrize("end", ["timeout", "cancel", "fail"])
def test_the_terminal_is_given_back_however_the_waiting_ends(fake_session, terminal, end):
    cloud = FakeAws()
    held, session = Held(cloud, 0), fake_session(cloud)
    launch = bring_up_spots(REQUEST, 1, "true", session=session)
    if end == "timeout":
        with pytest.raises(TimeoutError, match="goes on"):
            launch.result(0.05)
    elif end == "cancel":
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(launch._wait(), 0.05))
        assert "goes on" in terminal.getvalue()
    else:
        launch.cancel()
        with pytest.raises(LaunchFailed):
            launch.result(10)
    assert HIDE not in terminal.getvalue()
    session.loop.call_soon_threadsafe(held.release)


def test_where_nobody_looks_nothing_is_shown(fake_session, capsys):
    bring_up_spots(REQUEST, 1, "true", session=fake_session(FakeAws())).result(10)
    assert capsys.readouterr() == ("", "")


class Some(Many):
    """Four machines that can be worked on, as far as anybody here looks."""

    def __init__(self, home):
        self.home = home

    def _reached(self):
        return [SimpleNamespace(called=f"m{number}", home=self.home) for number in range(4)]


async def in_turn(machine):
    """The second takes a while, the third fails."""
    if machine.called == "m1":
        await asyncio.sleep(0.5)
    if machine.called == "m2":
        raise MachineError("m2 is gone")


async def test_work_on_many_machines_that_lasts_shows_how_far_it_is(fake_session, terminal, monkeypatch):
    monkeypatch.setattr(Work, "patience", 0.05)
    outcomes = await Some(fake_session(FakeAws()))._each("tuning", in_turn, False, 10)
    assert len(outcomes.failed) == 1
    shown = terminal.getvalue()
    assert "tuning: 2/4 done · 1 at it · 1 failed" in shown
    assert shown.rstrip().rsplit("\r", 1)[-1].startswith("tuning: 3/4 done · 0 at it · 1 failed")


def test_work_that_is_done_at_once_shows_nothing(fake_session, terminal):
    async def nothing(machine):
        return machine.called

    assert len(Some(fake_session(FakeAws()))._each("nothing", nothing, True, 10).result(10).succeeded) == 4
    assert terminal.getvalue() == ""


def test_an_interrupted_wait_stops_the_work(fake_session, terminal, monkeypatch):
    stopped = threading.Event()

    async def endless(machine):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    work = Some(fake_session(FakeAws()))._each("endless", endless, False, 10)

    def interrupted(futures, timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("concurrent.futures.wait", interrupted)
        work.result()
    assert stopped.wait(10)
