"""Five hundred bad days: whatever goes wrong, every launch gets its outcome, nothing of it stays, and nobody else's things are touched.

A day that fails says how it can be had again. More of them: `make chaos SEEDS=5000`.
"""

from collections import Counter

import pytest
from play import play

SEEDS = 500
EACH = 25


@pytest.mark.parametrize("first", range(0, SEEDS, EACH))
def test_no_day_is_so_bad_that_anything_leaks_hangs_lies_or_is_swallowed(first):
    played = [play(seed) for seed in range(first, first + EACH)]
    assert [str(one) for one in played if one.wrong] == []
    assert len({kind for one in played for kind in one.outcomes}) > 2, "days on which everything ends alike show little"


def test_the_days_are_bad_in_every_way():
    days = [play(seed) for seed in range(60)]
    outcomes = Counter(kind for one in days for kind in one.outcomes)
    assert {"up", "killed", "attached", "up again", "NeverReported", "ScriptFailed", "LaunchCancelled"} <= {*outcomes}


def test_a_day_can_be_had_again():
    first, again = play(9), play(9)
    assert (first.calls, first.outcomes) == (again.calls, again.outcomes)
