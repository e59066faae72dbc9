"""What can go wrong in the local cloud, on demand, and the same way each time.

A fault has a kind, conditions (which calls, types, messages it meets), parameters, and how often it strikes: `skip` (so many
that it would meet are let through first), `share` (a probability, drawn from the fault's own `seed`) and `times` (an upper
bound). To add a kind, add a line to KINDS
and ask `Faults.strikes(kind, …)` where it is to happen.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Kind:
    """`where`: names of conditions (compared as patterns; an absent one always holds). `settings`: parameters and their defaults."""

    says: str
    where: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


POOL = ("type", "zone", "market")                   # a capacity pool; the market is "spot" or "on-demand"
CALL = ("service", "operation", "caller", "region")

KINDS: dict[str, Kind] = {
    "capacity": Kind("the pool has `left` machines and no more: spot requests stay open with capacity-not-available, RunInstances fails "
                     "or launches fewer, CreateFleet turns to other pools", POOL, {"left": 0}),
    "price": Kind("the spot price of the pool is `price`, $ per hour", ("type", "zone"), {"price": 1000.0}),
    "quota": Kind("the account may have `vcpus` vCPUs in a market: MaxSpotInstanceCountExceeded, VcpuLimitExceeded", ("market",),
                  {"vcpus": 0}),
    "fulfil-delay": Kind("spot requests are fulfilled only after `seconds`", ("type", "zone"), {"seconds": 1.0}),
    "slow-boot": Kind("the instance is pending for `seconds`", POOL, {"seconds": 1.0}),
    "never-boots": Kind("the instance is running for EC2, but no process of it ever starts", POOL),
    "never-reports": Kind("the instance works, but SNS loses whatever it sends", POOL),
    "dies": Kind("the instance loses its power `seconds` after its launch, or after now if it is there already",
                 (*POOL, "instance"), {"seconds": 0.0}),
    "interruption": Kind("the spot instance gets an interruption notice and is taken after `seconds`", ("instance",),
                         {"seconds": 120.0, "action": "terminate"}),
    "rebalance": Kind("the spot instance gets a recommendation to rebalance, and nothing follows from it", ("instance",)),
    "invisible": Kind("what is made now is not seen for `seconds`, and not found by its id; `resource` is the id's beginning: i, sir, "
                      "vol, fleet, lt", ("resource",), {"seconds": 1.0}),
    "throttling": Kind("calls are refused with RequestLimitExceeded", CALL),
    "denied": Kind("calls are refused as IAM refuses them: UnauthorizedOperation, AccessDenied", CALL),
    "refused": Kind("calls are refused with the error `code`, such as that of a quota which is used up", CALL, {"code": "LimitExceeded"}),
    "token-buckets": Kind("EC2's documented token buckets, their sizes and refills times `scale`, are in force", CALL, {"scale": 1.0}),
    "server-error": Kind("calls are answered 500 InternalError; with `applied` true they have taken effect all the same", CALL,
                         {"applied": False}),
    "answer-lost": Kind("the connection is closed without an answer; with `applied` false the call has no effect either", CALL,
                        {"applied": True}),
    "delay": Kind("answers come `seconds` late", CALL, {"seconds": 1.0}),
    "hasty-schedule": Kind("an EventBridge rule with a rate is due after `seconds`, whatever its rate", ("rule", "region"),
                           {"seconds": 1.0}),
    "message-lost": Kind("SNS accepts a message and never delivers it", ("text",)),
    "message-duplicated": Kind("a message is delivered `copies` times", ("text",), {"copies": 2}),
    "message-garbled": Kind("a message arrives cut off and with a flipped character", ("text",)),
    "message-late": Kind("a message is delivered only after `seconds`", ("text",), {"seconds": 1.0}),
    "message-reordered": Kind("a message is held until the next one has been delivered", ("text",)),
}
COMMON = ("share", "times", "skip", "seed")


class FaultUnknown(ValueError):
    """A kind or a setting that does not exist."""


@dataclass
class Fault:
    """One fault in force. `where` are its conditions, `settings` its parameters; `hits` counts its strikes."""

    id: int
    kind: str
    where: dict[str, str]
    settings: dict[str, Any]
    share: float
    times: int | None
    seed: int
    skip: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def meets(self, facts: Mapping[str, str]) -> bool:
        """Whether every condition holds of `facts`, and skip, share and bound allow a strike; draws from the seed."""
        if self.times is not None and self.hits >= self.times:
            return False
        if not all(fnmatchcase(facts.get(name, ""), pattern) for name, pattern in self.where.items()):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        return self.share >= 1.0 or self.random.random() < self.share

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"id": self.id, "kind": self.kind, **self.where, **self.settings,
                "share": self.share, "times": self.times, "skip": self.skip, "seed": self.seed, "hits": self.hits}


def _like(default: Any, name: str, given: Any) -> Any:
    """A setting with the type of its default: the command line has words only. Raises FaultUnknown for what is no such thing."""
    if isinstance(default, bool):
        if str(given).lower() not in ("true", "false", "1", "0"):
            raise FaultUnknown(f"{name} is true or false, not {given!r}")
        return str(given).lower() in ("true", "1")
    try:
        return type(default)(given)
    except (TypeError, ValueError):
        raise FaultUnknown(f"{name} is of type {type(default).__name__}, not {given!r}") from None


class Faults:
    """The faults in force; thread-safe."""

    def __init__(self) -> None:
        self._faults: dict[str, list[Fault]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, kind: str, **given: Any) -> Fault:
        """Put a fault in force. Raises FaultUnknown for a kind or a setting that is not in KINDS."""
        if kind not in KINDS:
            raise FaultUnknown(f"there is no fault {kind!r}; there are {', '.join(KINDS)}")
        known = KINDS[kind]
        strange = set(given) - set(known.where) - set(known.settings) - set(COMMON)
        if strange:
            raise FaultUnknown(f"fault {kind!r} has no {', '.join(sorted(strange))}; "
                               f"it has {', '.join([*known.where, *known.settings, *COMMON])}")
        fault = Fault(next(self._ids), kind, {name: str(given[name]) for name in known.where if name in given},
                      {name: _like(default, name, given.get(name, default)) for name, default in known.settings.items()},
                      _like(1.0, "share", given.get("share", 1.0)),
                      None if given.get("times") is None else _like(0, "times", given["times"]),
                      _like(0, "seed", given.get("seed", 0)), _like(0, "skip", given.get("skip", 0)))
        with self._lock:
            self._faults.setdefault(kind, []).append(fault)
        return fault

    def strikes(self, kind: str, **facts: str) -> Fault | None:
        """The first fault of this kind that strikes now, counted as a hit; None (and cheap) if there is none."""
        if kind not in self._faults:
            return None
        with self._lock:
            for fault in self._faults.get(kind, ()):
                if fault.meets(facts):
                    fault.hits += 1
                    return fault
        return None

    def room(self, wanted: int, least: int, **pool: str) -> int:
        """How many of `wanted` machines a pool has to give; they are taken from it if they are `least` or more."""
        if "capacity" not in self._faults:
            return wanted
        with self._lock:
            met = [fault for fault in self._faults.get("capacity", ()) if fault.meets(pool)]
            granted = min([wanted, *(fault.settings["left"] for fault in met)])
            for fault in met:
                fault.hits += fault.settings["left"] < wanted
                fault.settings["left"] -= granted if granted >= least else 0
        return granted

    def clear(self) -> None:
        """Mend everything."""
        with self._lock:
            self._faults.clear()

    def describe(self) -> list[dict[str, Any]]:
        """All faults in force, oldest first."""
        with self._lock:
            return [fault.describe() for fault in sorted(itertools.chain(*self._faults.values()), key=lambda f: f.id)]

    def __repr__(self) -> str:
        return f"<Faults {', '.join(self._faults) or 'none'}>"
