"""SIGKILL at moments all over the life of a real process, on a real local cloud: another process ends what it left.

`make chaos` kills at all of them; here each test takes its share, from all over, and the same in every run.
"""

import killable
import pytest
from slaughter import Butcher

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

KILLS = 4


@pytest.fixture
def butcher(home, cloud):
    return Butcher(home, cloud)


@pytest.mark.parametrize("shape", killable.REQUESTS)
def test_what_a_killed_process_left_is_ended_by_the_next_and_nothing_is_launched_twice(butcher, shape):
    moments = butcher.moments(shape)
    assert moments > 60, "calls and writes are counted by themselves"
    done = butcher.kill(shape, range(moments // (2 * KILLS), moments, moments // KILLS))
    assert done.left == []
    assert done.doubles == []
    assert done.wrong == []
    assert len(done.killed) >= KILLS
