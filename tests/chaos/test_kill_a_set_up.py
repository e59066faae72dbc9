"""SIGKILL at moments of `setup apply` and `setup destroy`: the same command, called again, completes each.

`make chaos` takes all moments.
"""

import pytest
import setups

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]


def test_a_set_up_that_was_killed_while_it_was_made_and_while_it_was_removed_leaves_nothing_and_makes_nothing_twice(home, cloud):
    with setups.surveying(home, cloud) as surveyor:
        whole, moments = surveyor.whole("whole")
        assert len(whole) >= 12 and len(moments["apply"]) > 150 and len(moments["destroy"]) > 100
        kills = {f"life-{share}": tuple(len(moments[verb]) * share // 3 for verb in setups.VERBS) for share in (1, 2)}
        done = surveyor.kill(kills, whole)
    assert done.wrong == []
    assert done.doubles == []
    assert done.left == []
    assert len(done.killed) == 2 * len(kills)
