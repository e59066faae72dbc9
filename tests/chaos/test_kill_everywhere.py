"""SIGKILL at moments all over the life of a real process, on a real local cloud: another process ends what it left.

`make chaos` kills at all of them; here each test takes its share, from all over, and the same in every run.
"""

import killable
import pytest
from slaughter import AFTER, Butcher, place

from fleetctl import profiles
from fleetctl.oversight import abandoned, recovery

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

MOMENTS = (20, "after {}", 55)  # of about eighty


@pytest.fixture
def butcher(home, cloud):
    return Butcher(home, cloud)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("shape", killable.REQUESTS)
def test_what_a_killed_process_left_is_ended_by_the_next_and_nothing_is_launched_twice(butcher, shape, after):
    done = butcher.kill(shape, [one.format(shape) if isinstance(one, str) else one for one in MOMENTS], after=after)
    assert done.left == []
    assert done.doubles == []
    assert done.wrong == []
    assert len(done.killed) == len(MOMENTS)


def test_without_the_intent_in_the_ledger_a_death_leaves_machines_which_only_their_tags_betray(butcher, home):
    done = butcher.kill("run_instances", ["after run_instances"], forgetful=True)
    [session] = done.sessions
    assert done.killed
    assert any("i-" in one for one in done.left), "the oracle sees no machine although nothing has written it down"
    with place(home) as ours:
        cloud = profiles.load("local", home=ours)
        recovery.adopt(ours, cloud, [one for one in recovery.look(cloud) if one.session == session])
        receipt, _ = abandoned.down(ours)
    assert receipt.remaining == ()
    assert butcher.left(session) == []
