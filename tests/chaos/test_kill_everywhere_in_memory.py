"""Whatever the moment at which the controlling process dies, what it made is found and ended, and nothing is launched twice."""

from unittest import mock

import pytest
from killing import Forgetful, live
from play import SHAPES

from fleetctl import session


@pytest.mark.parametrize("shape", SHAPES)
def test_a_controller_that_dies_at_any_moment_leaves_nothing_that_another_does_not_end(shape):
    whole, points = live(shape)
    assert whole.wrong == []
    assert whole.outcomes == []
    assert points > 60, "calls and writes are counted by themselves"
    lives = [live(shape, kill)[0] for kill in range(points)]
    assert [str(one) for one in lives if one.wrong] == []
    assert {one.outcomes[0] for one in lives} == {"killed"}
    assert {tuple(one.outcomes[1:]) for one in lives} >= {(), ("attached", "up again")}, "what is left is ended, or gone on with"


@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_intent_in_the_ledger_such_deaths_would_leave_machines(shape):
    with mock.patch.object(session, "Journal", Forgetful):
        _, points = live(shape)
        lives = [live(shape, kill)[0] for kill in range(points)]
    leaks = [one for one in lives if one.leaks]
    assert any("i-" in what for one in leaks for what in one.wrong), "the oracle sees no machine although nothing has written it down"
