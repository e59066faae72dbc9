"""Bad days on a real local cloud, with machines that boot: the same promises as in memory."""

import cloudy
import pytest

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]

SEEDS = 20
EACH = 5


@pytest.mark.parametrize("first", range(0, SEEDS, EACH))
def test_nothing_leaks_and_nothing_foreign_is_touched_on_a_bad_day(cloud, home, first):
    machine = cloudy.foreign(cloud)
    played = [cloudy.play(seed, cloud, home) for seed in range(first, first + EACH)]
    assert [str(day) for day in played if day.wrong] == []
    assert machine in {one["id"] for one in cloud.inventory()["instances"]}
