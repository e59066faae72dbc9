"""Who counts as dead, and how soon who keeps dying is started again: pure, with the clock passed in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gridworker.distributor import Watch
from gridworker.supervisor import SLOWEST_RESTART, STEADY_SECONDS, Role


def test_a_counter_that_stands_still_is_a_death() -> None:
    watch = Watch(patience=3.0)
    assert watch.silent({"a": 1, "b": 1}, 0.0) == set()
    assert watch.silent({"a": 2, "b": 1}, 1.5) == set()
    assert watch.silent({"a": 3, "b": 1}, 3.0) == set()
    assert watch.silent({"a": 4, "b": 1}, 3.5) == {"b"}
    assert watch.silent({"a": 5, "b": 2}, 4.0) == set()          # it was only slow


def test_time_without_reading_is_nobodys_death() -> None:
    watch = Watch(patience=3.0, gap=2.0)
    watch.silent({"a": 1}, 0.0)
    assert watch.silent({"a": 1}, 100.0) == set()                # the server was away, not the node
    assert watch.silent({"a": 1}, 101.9) == set()
    assert watch.silent({"a": 1}, 103.1) == {"a"}


def test_who_leaves_is_forgotten() -> None:
    watch = Watch(patience=1.0)
    watch.silent({"a": 1}, 0.0)
    assert watch.silent({}, 1.9) == set()
    assert watch.silent({"a": 1}, 2.0) == set()


@given(st.lists(st.tuples(st.floats(0.01, 1.9), st.booleans()), min_size=1, max_size=60))
def test_who_beats_within_the_patience_is_never_called_dead(rounds: list[tuple[float, bool]]) -> None:
    watch, now, beats, since = Watch(patience=4.0), 0.0, 0, 0.0
    for step, beat in rounds:
        now += step
        if beat or now - since > 2.0:
            beats, since = beats + 1, now
        assert watch.silent({"a": beats}, now) == set()


@given(st.lists(st.floats(0, STEADY_SECONDS - 0.1), min_size=1, max_size=20))
def test_who_keeps_dying_waits_longer_and_longer_up_to_a_bound(lives: list[float]) -> None:
    role, pauses = Role("worker", "pool", "w"), []
    for life in lives:
        role.started_at = 100.0
        pauses.append(role.next_pause(100.0 + life))
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] <= pauses[-1] <= SLOWEST_RESTART
    assert role.next_pause(role.started_at + STEADY_SECONDS) == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_no_jump_of_any_clock_makes_who_beats_dead(readings: list[float]) -> None:
    watch = Watch(patience=4.0)
    for beats, now in enumerate(readings):
        assert watch.silent({"a": beats}, now) == set()
