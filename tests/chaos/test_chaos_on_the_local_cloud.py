"""Bad days on a real local cloud, with machines that boot: the same promises as in memory."""

import cloudy
import pytest

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]

SEEDS = 20
WAVE = 5


@pytest.mark.parametrize("first", range(0, SEEDS, WAVE))
def test_nothing_leaks_and_nothing_foreign_is_touched_on_bad_days(cloud, home, first):
    with cloudy.foreign(cloud) as things:
        wave = cloudy.play(range(first, first + WAVE), cloud, home)
        assert things <= cloudy.there(cloud)
    assert wave.wrong == [], str(wave)
    assert len(wave.outcomes) == WAVE
