"""One bad day on a real local cloud: a small launch whose machines really boot, under a few of the cloud's own faults."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import boto3
import killable

from fleetctl import abandoned, bring_up_spots, ending, profiles
from fleetctl.errors import FleetError, StillBilling
from fleetctl.session import Session

PATIENCE = 60.0  # seconds in which a teardown in fine weather must have ended everything
FAULTS = {  # kind -> its settings
    "capacity": lambda draw: {"left": draw.randrange(3)},
    "price": lambda draw: {"price": 1000.0},
    "quota": lambda draw: {"vcpus": draw.choice((0, 2))},
    "fulfil-delay": lambda draw: {"seconds": draw.uniform(0, 4)},
    "slow-boot": lambda draw: {"seconds": draw.uniform(0, 4)},
    "never-boots": lambda draw: {"times": 1},
    "never-reports": lambda draw: {"times": 1},
    "dies": lambda draw: {"seconds": draw.uniform(0, 4), "times": 1, "type": "t3.micro"},
    "invisible": lambda draw: {"seconds": draw.uniform(0, 4)},
    "throttling": lambda draw: {"share": 0.3},
    "token-buckets": lambda draw: {"scale": 0.05},
    "server-error": lambda draw: {"share": 0.2, "applied": draw.choice((True, False)), "times": 6},
    "answer-lost": lambda draw: {"share": 0.2, "applied": draw.choice((True, False)), "times": 4},
    "delay": lambda draw: {"seconds": draw.uniform(0, 1), "share": 0.3},
    "message-lost": lambda draw: {"share": 0.5},
    "message-duplicated": lambda draw: {"share": 0.5},
    "message-garbled": lambda draw: {"share": 0.3},
    "message-late": lambda draw: {"seconds": draw.uniform(0, 3), "share": 0.5},
    "message-reordered": lambda draw: {"share": 0.5},
}
KINDS = ("instances", "volumes", "fleets", "launch_templates", "addresses", "queues", "topics", "subscriptions", "parameters")


@dataclass
class Day:
    """What came of it."""

    seed: int
    faults: dict
    outcome: str = ""
    wrong: list[str] = field(default_factory=list)
    leaks: int = 0

    def __str__(self):
        return "\n  ".join([f"seed {self.seed} on the local cloud, faults {self.faults}: {self.outcome}", *self.wrong])


def there(cloud):
    """Everything in the cloud that must be ended some time."""
    found = cloud.inventory()
    things = {one["id"] if isinstance(one, dict) else str(one) for kind in KINDS for one in found[kind]}
    open_ = {one["id"] for one in found["spot_requests"] if one["state"] in ("open", "active")}
    return things | open_ | {f"process {pid} of {one}" for one, pid in found["processes"].items()}


def foreign(cloud):
    """A machine with a volume that is somebody else's; it must outlive all days."""
    ec2 = boto3.client("ec2", **cloud.client())
    image = ec2.describe_images()["Images"][0]["ImageId"]
    [one] = ec2.run_instances(ImageId=image, InstanceType="t3.small", MinCount=1, MaxCount=1)["Instances"]
    ec2.create_volume(AvailabilityZone=one["Placement"]["AvailabilityZone"], Size=1)
    return one["InstanceId"]


def play(seed, cloud, home):
    """Plays a seed on the cloud that runs in `home`, where nothing stays unseen for longer than a few seconds."""
    with mock.patch.object(ending, "VISIBLE_SECONDS", 6.0), mock.patch.object(ending, "LOOKS", (0.3, 1.0)):
        return _play(seed, cloud, home)


def _play(seed, cloud, home):
    draw = random.Random(f"cloudy {seed}")
    chosen = draw.sample(sorted(FAULTS), draw.choice((0, 1, 1, 2, 3)))
    day = Day(seed, {kind: FAULTS[kind](draw) for kind in chosen})
    before = there(cloud)
    n, shape, killed = draw.choice((1, 1, 2)), draw.choice(sorted(killable.REQUESTS)), draw.random() < 0.3
    session = Session(profiles.load("local", home=Path(home)))
    try:
        for kind, settings in day.faults.items():
            cloud.fault(kind, seed=seed, **settings)
        launch = bring_up_spots(killable.REQUESTS[shape], n, "sleep 1000", minimum=draw.randint(1, n), minutes=draw.choice((0.08, 0.15)),
                                session=session)
        if killed:
            time.sleep(draw.uniform(0, 2.5))
        else:
            day.outcome = _outcome(launch, day)
    finally:
        if killed:
            session.leave()
            day.outcome = "left"
    def end():
        return abandoned.down(Path(home))[0] if killed else session.submit(session.teardown_all(), "teardown").result(300)

    _end(day, cloud, end)
    session.leave()
    left = {one for one in there(cloud) - before if one.rpartition(" ")[2] not in before}  # others' machines may still be booting
    if left:
        day.leaks = len(left)
        day.wrong.append(f"LEAKED {sorted(left)}")
    if gone := {one for one in before if not one.startswith("process")} - there(cloud):
        day.wrong.append(f"touched what is not ours: {sorted(gone)}")
    return day


def _outcome(launch, day):
    try:
        launch.result(60)
    except FleetError as error:
        return type(error).__name__
    except Exception as error:
        day.wrong.append(f"{launch!r} ended with {error!r}")
        return type(error).__name__
    return "up"


def _end(day, cloud, end):
    """Tear down under the faults, then without them until nothing is left, as a user would."""
    remaining, until = True, time.monotonic() + PATIENCE
    while remaining and time.monotonic() < until:
        try:
            remaining = bool(end().remaining)
        except StillBilling:
            remaining = True
        except FleetError as error:
            day.wrong.append(f"a teardown failed with {error!r}")
        cloud.clear_faults()
    if remaining:
        day.wrong.append("what was left could not be proved to be gone in fine weather")
