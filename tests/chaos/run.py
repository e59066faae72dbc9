"""`make chaos`: bad days in memory and on a local cloud, and controllers killed at every moment of their lives, in every shape.

    python tests/chaos/run.py [--seeds 2000] [--first 0] [--days 40] [--jobs 2] [--memory-only]

In memory a controller is killed at each moment of a bring-up and a teardown; on the local cloud real processes are, with SIGKILL, and
another process ends what they left. What is left afterwards is asked of the clouds themselves. The last line is one JSON object:

    kill_points   moments at which a controller was killed
    seeds         bad days that were played
    leaks         things that were left
    doubles       machines beyond what a launch was for
    broken        other promises that were not kept: hanging futures, false receipts, swallowed errors, foreign things touched

Exit status 0 if nothing leaked, doubled or broke.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "fleet")]

import cloudy  # noqa: E402  (from this directory)
import killable  # noqa: E402
import killing  # noqa: E402
import play  # noqa: E402
import setups  # noqa: E402
from slaughter import AFTER, Butcher  # noqa: E402

from fleetctl import local  # noqa: E402

WAVE = 5  # days that share a local cloud at a time


@dataclass
class Sum:
    """What is printed at the end."""

    kill_points: int = 0
    seeds: int = 0
    leaks: int = 0
    doubles: int = 0
    broken: int = 0

    def add(self, text, wrong, *, leaks=0, doubles=0, kills=0, seeds=0):
        """Count, and print what went wrong."""
        self.kill_points += kills
        self.seeds += seeds
        self.leaks += leaks
        self.doubles += doubles
        self.broken += max(0, len(wrong) - bool(leaks) - doubles)
        if wrong:
            print(text, flush=True)


def played(seed):
    return play.play(seed)


def killed(shape_and_moment):
    return killing.live(*shape_and_moment)[0]


def in_memory(total, options):
    with ProcessPoolExecutor(options.jobs) as pool:
        for one in pool.map(played, range(options.first, options.first + options.seeds), chunksize=10):
            total.add(str(one), one.wrong, leaks=one.leaks, doubles=one.doubles, seeds=1)
        print(f"in memory: {total}", flush=True)
        moments = [(shape, at) for shape in play.SHAPES for at in range(killing.live(shape)[1])]
        for (shape, at), one in zip(moments, pool.map(killed, moments, chunksize=10), strict=True):
            total.add(f"{shape} killed at {at}: {one.wrong}", one.wrong, leaks=one.leaks, doubles=one.doubles, kills=1)
        print(f"killed in memory: {total}", flush=True)


def on_the_local_cloud(total, options):
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        home = Path(name)
        local.up(home / "local", idle=600)
        cloud = local.status(home / "local")
        try:
            for first in range(options.first, options.first + options.days, WAVE):
                wave = cloudy.play(range(first, first + WAVE), cloud, home)
                total.add(str(wave), wave.wrong, leaks=wave.leaks, seeds=WAVE)
            print(f"on a local cloud: {total}", flush=True)
            for shape in killable.REQUESTS:
                butcher = Butcher(home, cloud)
                moments = len(butcher.moments(shape))
                for after in AFTER:
                    done = butcher.kill(shape, range(moments), after=after, jobs=2 * options.jobs)
                    wrong = done.left + done.doubles + done.wrong
                    total.add(f"{shape}: {wrong}", wrong, leaks=len(done.left), doubles=len(done.doubles), kills=len(done.killed))
                    print(f"{shape}, processes killed at {len(done.killed)} of {moments} moments, then {after}: {total}", flush=True)
            set_ups(total, options, home, cloud)
        finally:
            cloud.clear_faults()
            local.down(home / "local", force=True)


def set_ups(total, options, home, cloud):
    """Each life is killed at a moment of `apply` and at one of `destroy`; the shorter of the two begins anew."""
    with setups.surveying(home, cloud) as surveyor:
        whole, moments = surveyor.whole("whole")
        counts = [len(moments[verb]) for verb in setups.VERBS]
        kills = {f"life-{at}": tuple(at % count for count in counts) for at in range(max(counts))}
        done = surveyor.kill(kills, whole, jobs=2 * options.jobs)
    wrong = done.left + done.doubles + done.wrong
    total.add(f"set-up: {wrong}", wrong, leaks=len(done.left), doubles=len(done.doubles), kills=len(done.killed))
    print(f"set-up, processes killed at {len(done.killed)} moments of apply and destroy: {total}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="bad days in memory")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--days", type=int, default=40, help="bad days on a local cloud")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory-only", action="store_true", help="no local cloud")
    options, total = parser.parse_args(), Sum()
    in_memory(total, options)
    if not options.memory_only:
        on_the_local_cloud(total, options)
    print(json.dumps(asdict(total)))
    return int(bool(total.leaks or total.doubles or total.broken))


if __name__ == "__main__":
    sys.exit(main())
