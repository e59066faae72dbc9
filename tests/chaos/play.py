"""One seed: launches under its weather, their end, and whether all of it was as it must be.

    python tests/chaos/play.py SEED      says what happens
"""

import asyncio
import contextlib
import logging
import os
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "fleet")]

from virtual import Clock, lived
from weather import Weather, forecast
from world import World, profile

from fleetctl import bring_up_spots, teardown, teardown_all, templates
from fleetctl.errors import FleetError, StillBilling
from fleetctl.oversight import abandoned, resuming
from fleetctl.session import Session

OVERTIME = 1500.0  # seconds after its deadline within which a launch has ended what it made, or said that it could not
SETTLING = 900.0  # of fine weather, before the last teardown
IMAGE = "ami-0123456789abcdef0"
TYPES = ("t3.micro", "m5.large", "c7g.large")
SHAPES = {  # a launch request by each launch call
    "request_spot_instances": lambda draw: {"LaunchSpecification": {"ImageId": IMAGE, "InstanceType": draw.choice(TYPES)}},
    "run_instances": lambda draw: templates.spot(image=IMAGE, itype=draw.choice(TYPES)),
    "create_fleet": lambda draw: templates.fleet(types=draw.sample(TYPES, 2), image=IMAGE),
}


@dataclass
class Played:
    """What came of a seed. `wrong` is empty where all was well."""

    seed: int
    weather: Weather
    wrong: list[str] = field(default_factory=list)
    leaks: int = 0
    doubles: int = 0
    outcomes: list[str] = field(default_factory=list)
    calls: int = 0

    def __str__(self):
        repeat = f"python tests/chaos/play.py {self.seed}"
        return "\n  ".join([f"seed {self.seed} ({repeat}), weather: {self.weather}", *self.wrong])


class Errors(logging.Handler):
    """Collects what nobody was told: unexpected errors in any log."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.found = []

    @contextlib.contextmanager
    def heard(self):
        """Nobody else hears of it meanwhile, but where a single day is played."""
        logs, loud = [logging.getLogger(name) for name in ("fleetctl", "asyncio")], logging.getLogger().isEnabledFor(logging.INFO)
        for one in logs:
            one.addHandler(self)
            one.propagate = loud
        try:
            yield
        finally:
            for one in logs:
                one.removeHandler(self)
                one.propagate = True

    def emit(self, record):
        expected = isinstance(record.args, tuple) and any(isinstance(one, StillBilling) for one in record.args)
        if (record.levelno >= logging.ERROR or record.exc_info) and not expected:
            error = record.exc_info[1] if record.exc_info else None
            self.found.append(f"{record.name}: {record.getMessage()}{f': {error!r}' if error else ''}")


class Disk:
    """A ledger's database whose disk refuses some writes, and in whose writes the controller may die."""

    def __init__(self, db, world, point):
        self._db, self._world, self._point, self._draw = db, world, point, random.Random(1)

    def execute(self, statement, *values):
        if statement.startswith("SELECT"):
            return self._db.execute(statement, *values)
        self._point()
        if self._draw.random() < self._world.weather.disk:
            raise sqlite3.OperationalError("database or disk is full")
        done = self._db.execute(statement, *values)
        self._point()
        return done

    def close(self):
        self._db.close()


class Play:
    """The session and its world while a seed is played."""

    def __init__(self, seed, home, weather):
        self.played = Played(seed, weather)
        self.clock, self.draw, self.home = Clock(), random.Random(f"play {seed}"), home
        self.world = World(seed, self.clock, weather)
        self.profile = profile(self.world, home)
        self.launches, self.killed, self.points = [], None, 0

    def wrong(self, what):
        self.played.wrong.append(f"at {self.clock.now:.1f} s: {what}")

    def run(self):
        errors = Errors()
        try:
            with errors.heard(), lived(self.clock, self.played.seed), mock.patch.object(abandoned, "load", lambda *_, **__: self.profile), \
                    mock.patch.dict(os.environ, FLEETCTL_SIDECAR="off"):
                self._session()
                if self.killed.is_set():
                    self._recovery()
        finally:
            self.clock.stopped = True
        self.played.wrong += errors.found
        self._check_end()
        self.played.calls = len(self.world.calls)
        return self.played

    # --- with a living controller -----------------------------------------------------------------------------------------------------

    def _session(self):
        self.session = session = Session(self.profile)
        self.killed = asyncio.Event()
        session.ledger._db = Disk(session.ledger._db, self.world, self._point)
        self.world.point = self._point
        driving = session.submit(self._drive(), "the play")
        try:
            driving.result(60)
        finally:
            session.leave()

    def _point(self):
        """The controller dies at this moment, if it is the one: nothing of it reaches AWS or its disk afterwards."""
        self.points += 1
        if self.points - 1 == self.played.weather.kill and not self.killed.is_set():
            for one in self.profile.ports:
                one.dead = True
            self.session.ledger.close()
            self.killed.set()

    async def _drive(self):
        try:
            main, dead = asyncio.ensure_future(self._main()), asyncio.ensure_future(self.killed.wait())
            await asyncio.wait({main, dead}, return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            if not self.killed.is_set():
                await main
            main.cancel()
        finally:
            self.clock.stopped = True

    async def _main(self):
        draw = self.draw
        for _ in range(draw.choice((1, 1, 2, 3))):
            self._launch()
            await asyncio.sleep(draw.choice((0, 0, draw.uniform(0, 60), draw.uniform(0, 400))))
            if draw.random() < 0.1:
                await self._end(teardown_all(session=self.session), all=True)
        for launch, seconds in self.launches:
            await self._outcome(launch, seconds)
        await asyncio.sleep(draw.choice((0, 0, draw.uniform(0, 600))))
        for launch, _ in self.launches:
            if draw.random() < 0.2:
                await self._end(teardown(launch), of=launch)
        for _ in range(draw.choice((0, 1, 1, 2, 4))):
            if await self._end(teardown_all(session=self.session), all=True):
                break
            await asyncio.sleep(draw.uniform(0, 300))
        self.world.clear()
        await asyncio.sleep(SETTLING)
        if not await self._end(teardown_all(session=self.session), all=True):
            self.wrong("a teardown in fine weather could not end everything")
        for launch, _ in self.launches:
            if not launch.done() or not launch.enough().done():
                self.wrong(f"{launch!r} was never resolved")

    def _launch(self):
        draw = self.draw
        n, minutes = draw.choice((1, 2, 3, 5, 12)), draw.choice((1, 3, 10))
        minimum = draw.choice((n, n, max(1, n // 2), 1))
        request = SHAPES[draw.choice(sorted(SHAPES))](draw)
        disk = {"disk": {"VolumeSize": 20}} if draw.random() < 0.2 else {}
        launch = bring_up_spots(request, n, "work", minimum=minimum, minutes=minutes, session=self.session, **disk)
        self.launches.append((launch, 60.0 * minutes))
        if draw.random() < 0.15:
            asyncio.get_running_loop().call_later(draw.uniform(0, 90 * minutes), launch.cancel)

    async def _outcome(self, launch, seconds):
        """What a launch resolves to, and whether it is true."""
        try:
            async with asyncio.timeout(seconds + OVERTIME):
                machines = await launch
        except TimeoutError:
            return self.wrong(f"{launch!r} hangs")
        except FleetError as error:
            self.played.outcomes.append(type(error).__name__)
            alive = self.world.alive_of(str(launch.uuid))
            if alive and not error.left:
                self.wrong(f"{launch!r} failed with {type(error).__name__} and says that nothing is left, but {sorted(alive)} live")
            return None
        except Exception as error:
            return self.wrong(f"{launch!r} failed with {error!r}")
        self.played.outcomes.append("up")
        ids = [one.instance_id for one in machines.succeeded]
        if len(ids) < launch.progress().minimum or len({*ids}) < len(ids):
            self.wrong(f"{launch!r} resolved with {ids}")
        if lies := [one for one in ids if one not in self.world.spoke or one not in self.world.made[str(launch.uuid)]]:
            self.wrong(f"{launch!r} has {lies}, which never said that they were ready for it")
        return None

    async def _end(self, ending, *, all=False, of=None):
        """A teardown. True if it says that it has ended everything, which must then be so."""
        try:
            async with asyncio.timeout(3600):
                await ending
        except TimeoutError:
            self.wrong("a teardown hangs")
            return False
        except StillBilling as error:
            if not error.receipt.remaining:
                self.wrong("a teardown complains of nothing")
            return False
        except Exception as error:
            self.wrong(f"a teardown failed with {error!r}")
            return False
        left = self.world.ours() if all else self.world.alive_of(str(of.uuid))
        if left:
            self.wrong(f"a receipt says that all is gone, but there is {sorted(left)}")
        return True

    # --- without it -------------------------------------------------------------------------------------------------------------------

    def _recovery(self):
        """Another process comes, in the same weather perhaps, and works from the ledger."""
        self.clock.stopped = False
        self.played.outcomes.append("killed")
        if self.draw.random() < 0.5:
            self._attach()
        elif self.draw.random() < 0.5:
            self._down()
        self.world.clear()
        self.clock.wait(SETTLING)
        if remaining := self._down():
            self.wrong(f"down in fine weather could not end {remaining}")

    def _attach(self):
        """It goes on with what there is, makes and ends nothing for that, hears what still speaks, and then ends it all."""
        self.clock.stopped = True  # nothing of it passes before somebody looks
        minutes, [record] = self.draw.choice((1, 10)), abandoned.listing(self.home) or [None]
        try:
            if record is None:
                raise FleetError("it has ended all that it made")
            launches = resuming.take(record, self.home, minutes=minutes, lifetime="session")
        except FleetError:  # there is nothing to go on with
            self.clock.stopped = False
            return self._down()
        self.played.outcomes.append("attached")
        session = launches[0].session
        try:
            session.submit(self._resumed(launches, 60.0 * minutes), "the play after it").result(60)
        finally:
            session.leave()
            self.clock.stopped = False
        return None

    async def _resumed(self, launches, seconds):
        self.clock.stopped = False
        before = len(self.world.calls)
        try:
            for launch in launches:
                await self._told(launch, seconds)
            if made := [one for one in self.world.calls[before:] if one in SHAPES]:
                self.wrong(f"going on with what there is has asked for more: {made}")
            for _ in range(self.draw.choice((0, 1, 2))):
                if await self._end(teardown_all(session=launches[0].session), all=True):
                    break
        finally:
            self.clock.stopped = True

    async def _told(self, launch, seconds):
        """What a launch that another process began resolves to, and whether it is true."""
        try:
            async with asyncio.timeout(seconds + OVERTIME):
                machines = await launch
        except TimeoutError:
            return self.wrong(f"{launch!r} hangs after another process went on with it")
        except FleetError as error:
            return self.played.outcomes.append(f"attached: {type(error).__name__}")
        self.played.outcomes.append("up again")
        ids = [one.instance_id for one in machines.succeeded]
        if lies := [one for one in ids if one not in self.world.spoke or one not in self.world.made[str(launch.uuid)]]:
            self.wrong(f"{launch!r}, gone on with, has {lies}, which never said that they were ready for it")
        return None

    def _down(self):
        try:
            receipt, spared = abandoned.down(self.home)
        except FleetError as error:
            return [repr(error)]
        if spared:
            self.wrong("a dead session is taken for a living one")
        if not receipt.remaining and self.world.ours():
            self.wrong(f"down says that all is gone, but there is {sorted(self.world.ours())}")
        return [*receipt.remaining]

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def _check_end(self):
        if left := self.world.ours():
            self.played.leaks = len(left)
            self.wrong(f"LEAKED {sorted(left)}")
        if harmed := self.world.harmed():
            self.wrong(f"touched what is not ours: {harmed}")
        wanted = {str(launch.uuid): launch.progress().wanted for launch, _ in self.launches}
        for launch, made in self.world.made.items():
            if len(made) > wanted[launch]:
                self.played.doubles += len(made) - wanted[launch]
                self.wrong(f"launch {launch} of {wanted[launch]} made {len(made)} machines")


def play(seed, weather=None):
    """Plays a seed and returns what came of it."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=fast()) as home:
        return Play(seed, Path(home), weather or forecast(seed)).run()


def fast():
    """A directory in memory, where there is one: a ledger waits for its disk at each line."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    with contextlib.suppress(BrokenPipeError):
        one = play(int(sys.argv[1]))
        print(one, Counter(one.outcomes), f"{one.calls} calls", sep="\n")
