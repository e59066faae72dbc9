"""A bring-up and a teardown whose controller dies at one moment of its life, and a recovery by another: in memory.

The moments are counted by the world and by the ledger's database, not by hand: before each call to AWS is sent, with each answer on its
way, before and after each write to the ledger.
"""

import tempfile
from pathlib import Path
from unittest import mock

from play import SHAPES, Play, fast
from weather import Weather

from fleetctl import bring_up_spots, commands, teardown_all
from fleetctl.cloud.journal import Journal

N = 3


class Life(Play):
    """One launch in fine weather, up and down; `kill` is the moment of death, None for a life to the end."""

    def __init__(self, shape, home, kill):
        super().__init__(f"{shape} {kill}", home, Weather(kill=kill))
        self.shape = shape

    async def _main(self):
        request = SHAPES[self.shape](self.draw)
        launch = bring_up_spots(request, N, commands.server(), minutes=3, session=self.session)
        self.launches.append((launch, 180.0))
        await launch
        await teardown_all(session=self.session)


class Forgetful(Journal):
    """Writes into the ledger only when the answer is there. For showing what the intent is for."""

    async def __call__(self, service, operation, /, *, launch=None, **parameters):
        written = []
        with mock.patch.object(self._ledger, "intent", lambda *a, **k: written.append((a, k)) or 0), \
             mock.patch.object(self._ledger, "result", lambda *a: None), mock.patch.object(self._ledger, "error", lambda *a: None):
            answer = await super().__call__(service, operation, launch=launch, **parameters)
        for given, named in written:
            self._ledger.result(self._ledger.intent(*given, **named), {k: v for k, v in answer.items() if k != "ResponseMetadata"})
        return answer


def live(shape, kill=None):
    """One life; returns what came of it, and how many moments it had."""
    with tempfile.TemporaryDirectory(prefix="kill-", dir=fast()) as home:
        life = Life(shape, Path(home), kill)
        return life.run(), life.points
