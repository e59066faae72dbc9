"""A free list's decisions: where a machine may go, how many are asked for, what a ledger tells of it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.ledger import Entry
from fleetctl.standby.standing import NOTE, STEPS, Step, Where, missing, note, noted, surplus

PLACES = st.lists(st.sampled_from(Where), max_size=12)


def entry(request, operation=NOTE):
    return Entry(1, 0.0, None, "fleetctl", operation, "", None, request, {}, None)


def test_every_place_is_left_for_good_and_gone_is_never_left():
    assert set(STEPS) == set(Where)
    assert set(STEPS[Where.GONE].values()) == {Where.GONE}
    assert all(row[Step.LOSE] is Where.GONE for row in STEPS.values())
    assert all(row[Step.RETIRE] in (Where.LEAVING, Where.GONE) for row in STEPS.values())


@pytest.mark.parametrize("where", [Where.CONFIGURING, Where.TAKEN, Where.LEAVING, Where.GONE])
def test_only_a_free_machine_is_handed_out(where):
    assert Step.TAKE not in STEPS[where]


@given(st.integers(0, 6), PLACES, st.integers(0, 6), st.none() | st.integers(1, 12))
def test_what_is_asked_for_fills_the_list_and_never_more(size, there, coming, most):
    counts = Counter(there)
    asked = missing(size, there, coming, most)
    ready_soon = counts[Where.FREE] + counts[Where.CONFIGURING] + coming
    assert asked >= 0
    assert asked == 0 or ready_soon + asked <= size
    alive = counts.total() - counts[Where.GONE] + coming
    if most is None:
        assert ready_soon + asked >= size
    else:
        assert asked == 0 or alive + asked <= most
        assert ready_soon + asked >= size or alive + asked >= most


@given(st.integers(0, 6), PLACES)
def test_only_free_machines_are_too_many_and_then_none_is_asked_for(size, there):
    extra = surplus(size, there)
    assert extra == max(0, there.count(Where.FREE) - size)
    assert not (extra and missing(size, there, 0))


def test_a_ledger_tells_each_machine_s_last_place_and_home_by_list():
    lines = [
        entry(note("ours", launch="L1")),
        entry(note("ours", instance="i-1", where=Where.FREE)),
        entry(note("theirs", instance="i-2", where=Where.FREE)),
        entry(note("ours", instance="i-1", where=Where.TAKEN, home="s3://lab/ada")),
        entry(note("ours", instance="i-3", where=Where.TAKEN, home="s3://lab/ada")),
        entry(note("ours", instance="i-3", where=Where.CONFIGURING)),
        entry(["i-9"], operation="seen_gone"),
    ]
    assert noted(lines, "ours") == (
        {"L1"}, {"i-1": (Where.TAKEN, "s3://lab/ada"), "i-3": (Where.CONFIGURING, "")}
    )  # fmt: skip
    assert noted(lines, "nobody's") == (set(), {})
