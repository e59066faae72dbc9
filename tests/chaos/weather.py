"""What goes wrong, and how often: drawn from a seed, so that a bad day can be had again."""

import random
from dataclasses import dataclass, fields

CALM = 0.12  # of the days nothing at all goes wrong


@dataclass
class Weather:
    """Shares are of calls, messages or machines; times are seconds. The zero of each is fine weather."""

    throttled: float = 0.0  # calls refused with RequestLimitExceeded
    buckets: float = 0.0  # calls a second that EC2 takes, 0 for any number
    unanswered: float = 0.0  # calls that never arrive, and whose sender hears nothing
    answer_lost: float = 0.0  # calls that are applied, and whose sender hears nothing
    applied_late: float = 0.0  # the same, but they are applied only seconds later
    broken: float = 0.0  # calls answered 500, applied or not
    slow: float = 0.0  # seconds that an answer may take
    lag: float = 0.0  # seconds until what was made is seen
    pages: int = 1000  # rows in an answer at most
    fill: float = 0.0  # seconds until a spot request is fulfilled
    room: float = 1.0  # share of what is asked for that a capacity pool has
    dear: float = 0.0  # share of the pools whose price is above the cap
    bad: float = 0.0  # spot requests that fail for good
    boot: float = 20.0  # seconds until a machine reports, at most
    silent: float = 0.0  # machines that never report
    failing: float = 0.0  # machines whose commands fail
    dying: float = 0.0  # machines that end by themselves
    interrupted: float = 0.0  # machines that AWS takes back
    end: float = 0.0  # seconds until a terminated machine is gone
    lost: float = 0.0  # messages, and so on
    doubled: float = 0.0
    garbled: float = 0.0
    late: float = 0.0
    reordered: float = 0.0
    disk: float = 0.0  # writes that the ledger's disk refuses
    kill: int | None = None  # the moment when the controller dies: before a call, with its answer on the way, before and after a write

    def __str__(self):
        fine = Weather()
        bad = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != getattr(fine, one.name)}
        return ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in bad.items()) or "fine"


RANGES = {  # how bad it may be, where it is
    "throttled": (0.02, 0.3), "buckets": (0.3, 2.0), "unanswered": (0.02, 0.3), "answer_lost": (0.02, 0.3), "applied_late": (0.02, 0.2),
    "broken": (0.02, 0.3), "slow": (0.5, 20.0), "lag": (1.0, 100.0), "fill": (2.0, 300.0), "room": (0.0, 0.9), "dear": (0.3, 1.0),
    "bad": (0.1, 0.8), "boot": (1.0, 400.0), "silent": (0.1, 1.0), "failing": (0.1, 1.0), "dying": (0.1, 0.8), "interrupted": (0.1, 0.8),
    "end": (1.0, 120.0), "lost": (0.05, 0.7), "doubled": (0.05, 0.7), "garbled": (0.05, 0.5), "late": (0.05, 0.7), "reordered": (0.05, 0.7),
    "disk": (0.02, 0.5),
}


def forecast(seed):
    """The weather of a seed: each fault with a share of its own, some days many, on others few."""
    draw = random.Random(f"weather {seed}")
    if draw.random() < CALM:
        weather = Weather()
    else:
        often = draw.choice((0.08, 0.2, 0.4))
        weather = Weather(**{name: draw.uniform(*bounds) for name, bounds in RANGES.items() if draw.random() < often},
                          pages=draw.choice((1000, 1000, 5, 1)))
    if draw.random() < 0.35:
        weather.kill = draw.randrange(0, 180)
    return weather
