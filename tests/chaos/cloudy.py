"""Bad days on a real local cloud: small launches whose machines really boot, several at a time, under the cloud's own faults.

Sessions that share a cloud share its faults: those of all seeds of a wave are in force together.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import boto3
import killable
from slaughter import place

from fleetctl import bring_up_spots, profiles
from fleetctl.ending import teardown as ending
from fleetctl.errors import FleetError, StillBilling
from fleetctl.oversight import abandoned
from fleetctl.session import Session

PATIENCE = 60.0  # seconds in which teardowns in fine weather must have ended everything
SECONDS = 2.0  # of most delays: nothing here takes as long as in AWS
FAULTS = {  # kind -> its settings
    "capacity": lambda draw: {"left": draw.randrange(3), "type": draw.choice(("t3.micro", "t3.small"))},
    "price": lambda draw: {"price": 1000.0, "type": draw.choice(("t3.micro", "t3.small"))},
    "quota": lambda draw: {"vcpus": draw.choice((2, 8))},
    "fulfil-delay": lambda draw: {"seconds": draw.uniform(0, SECONDS)},
    "slow-boot": lambda draw: {"seconds": draw.uniform(0, SECONDS)},
    "never-boots": lambda draw: {"times": 1},
    "never-reports": lambda draw: {"times": 1},
    "dies": lambda draw: {"seconds": draw.uniform(0, SECONDS), "times": 1, "type": "t3.micro"},
    "invisible": lambda draw: {"seconds": draw.uniform(0, SECONDS)},
    "throttling": lambda draw: {"share": 0.2, "times": 20},
    "token-buckets": lambda draw: {"scale": 0.1},
    "server-error": lambda draw: {"share": 0.2, "applied": draw.choice((True, False)), "times": 6},
    "answer-lost": lambda draw: {"share": 0.2, "applied": draw.choice((True, False)), "times": 6},
    "delay": lambda draw: {"seconds": draw.uniform(0, 0.5), "share": 0.2},
    "message-lost": lambda draw: {"share": 0.3},
    "message-duplicated": lambda draw: {"share": 0.5},
    "message-garbled": lambda draw: {"share": 0.3},
    "message-late": lambda draw: {"seconds": draw.uniform(0, SECONDS), "share": 0.5},
    "message-reordered": lambda draw: {"share": 0.5},
}
KINDS = ("instances", "volumes", "fleets", "launch_templates", "addresses", "queues", "topics", "subscriptions", "parameters")


@dataclass
class Wave:
    """What came of the days of some seeds."""

    seeds: range
    faults: list[dict] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    leaks: int = 0

    def __str__(self):
        return "\n  ".join([f"seeds {self.seeds} on the local cloud, faults {self.faults}: {self.outcomes}", *self.wrong])


def there(cloud):
    """Everything in the cloud that must be ended some time."""
    found = cloud.inventory()
    things = {one["id"] if isinstance(one, dict) else str(one) for kind in KINDS for one in found[kind]}
    open_ = {one["id"] for one in found["spot_requests"] if one["state"] in ("open", "active")}
    return things | open_ | {f"process {pid} of {one}" for one, pid in found["processes"].items()}


@contextmanager
def foreign(cloud):
    """A machine and a volume that are somebody else's, as their ids; they must outlive the days."""
    ec2 = boto3.client("ec2", **cloud.client())
    image = ec2.describe_images()["Images"][0]["ImageId"]
    [one] = ec2.run_instances(ImageId=image, InstanceType="t3.small", MinCount=1, MaxCount=1)["Instances"]
    volume = ec2.create_volume(AvailabilityZone=one["Placement"]["AvailabilityZone"], Size=1)["VolumeId"]
    yield {one["InstanceId"], volume}
    ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    ec2.delete_volume(VolumeId=volume)


def play(seeds, cloud, home):
    """Plays the seeds together on the cloud that runs in `home`."""
    wave = Wave(seeds)
    with ExitStack() as stack:
        # nothing stays unseen here for longer than a few seconds
        stack.enter_context(mock.patch.object(ending, "VISIBLE_SECONDS", 3 * SECONDS))
        stack.enter_context(mock.patch.object(ending, "LOOKS", (0.3, 1.0)))
        days = [Day(seed, wave, Path(stack.enter_context(place(home)))) for seed in seeds]
        before = there(cloud)
        for day in days:
            for kind, settings in day.faults.items():
                cloud.fault(kind, seed=day.seed, **settings)
        try:
            with ThreadPoolExecutor(len(days)) as pool:
                [*pool.map(Day.live, days)]
                [*pool.map(Day.end, days)]
                cloud.clear_faults()
                [*pool.map(Day.end_for_good, days)]
        finally:
            for day in days:
                day.session.leave()
    _look_over(wave, cloud, before)
    return wave


def _look_over(wave, cloud, before):
    there_now = there(cloud)
    left = {one for one in there_now - before if one.rpartition(" ")[2] not in before}  # others' machines may still be booting
    if left:
        wave.leaks = len(left)
        wave.wrong.append(f"LEAKED {sorted(left)}")
    if gone := {one for one in before if not one.startswith("process")} - there_now:
        wave.wrong.append(f"touched what is not ours: {sorted(gone)}")


class Day:
    """One seed: a launch, which may be left alone, and its end."""

    def __init__(self, seed, wave, home):
        self.draw = draw = random.Random(f"cloudy {seed}")
        self.seed, self.wave, self.home = seed, wave, home
        self.faults = {kind: FAULTS[kind](draw) for kind in draw.sample(sorted(FAULTS), draw.choice((0, 0, 1, 1, 2)))}
        self.left = draw.random() < 0.3
        self.session = Session(profiles.load("local", home=home))
        wave.faults.append(self.faults)

    def live(self):
        """A launch until its outcome, or until its process is as good as dead."""
        draw = self.draw
        n, shape = draw.choice((1, 1, 2)), draw.choice(sorted(killable.REQUESTS))
        launch = bring_up_spots(killable.REQUESTS[shape], n, "sleep 1000", minimum=draw.randint(1, n), minutes=draw.choice((0.06, 0.1)),
                                session=self.session)
        if self.left:
            time.sleep(draw.uniform(0, 2.5))
            self.session.leave()
        self.wave.outcomes.append("left" if self.left else self._outcome(launch))

    def _outcome(self, launch):
        try:
            launch.result(60)
        except FleetError as error:
            return type(error).__name__
        except Exception as error:
            self.wave.wrong.append(f"seed {self.seed}: {launch!r} ended with {error!r}")
            return type(error).__name__
        return "up"

    def end(self):
        """A teardown. True if it says that everything has ended."""
        try:
            receipt = abandoned.down(self.home)[0] if self.left else self.session.teardown_all().result(300)
        except StillBilling:
            return False
        except FleetError as error:
            self.wave.wrong.append(f"seed {self.seed}: a teardown failed with {error!r}")
            return False
        return not receipt.remaining

    def end_for_good(self):
        """In fine weather, as often as a user would."""
        until = time.monotonic() + PATIENCE
        while not self.end():
            if time.monotonic() >= until:
                self.wave.wrong.append(f"seed {self.seed}: what was left could not be proved to be gone in fine weather")
                return
