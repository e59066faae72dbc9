"""What a launch knows of a machine (`Slot`), what can happen to a launch (events), and what it wants done (commands). Data only."""

from __future__ import annotations

from dataclasses import dataclass

from . import reasons
from .messages import Report
from .states import MachineState


@dataclass(slots=True)
class Slot:
    """One machine of a launch: `key` is its spot request, or its instance where the launch call named no request. It never changes."""

    key: str
    instance: str | None = None
    state: MachineState = MachineState.PENDING
    report: Report | None = None
    was_ready: bool = False
    status: str = ""  # AWS's word for the request, or for the instance's end: price-too-low, Server.InternalError, …
    message: str = ""  # AWS's sentence beside it, where it tells of trouble
    dropped: bool = False  # nobody waits for it any more: its request is cancelled, its instance terminated
    request: str | None = None  # its spot request, once a listing has shown it; for slots that are known by their instance
    type: str = ""
    zone: str = ""
    on_demand: bool = False
    launched: float | None = None  # when it began to cost money, seconds since the epoch
    gone: float | None = None  # when it was seen to be gone

    @property
    def lost(self) -> bool:
        """Failed, gone or being taken back without ever having been ready, or never to be had."""
        if self.was_ready:
            return False
        return self.hopeless or self.state in (MachineState.INTERRUPTED, MachineState.FAILED, MachineState.GONE)

    @property
    def hopeless(self) -> bool:
        """Its request is open, but waiting gets it no instance. It has to be cancelled all the same."""
        return self.instance is None and self.state is MachineState.PENDING and reasons.hopeless(self.status)

    @property
    def alive(self) -> bool:
        """Has an instance that is not known to be gone: it costs money."""
        return self.instance is not None and self.state is not MachineState.GONE


# --- events -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """One machine as an answer or a listing shows it. `key` is its spot request, or its instance where the row is about that; `request`
    is then the spot request that it came from, if any. `over`: it will never have an instance, or its instance has ended.
    """

    key: str
    instance: str | None = None
    status: str = ""
    over: bool = False
    request: str | None = None
    type: str = ""
    zone: str = ""
    message: str = ""
    on_demand: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """AWS accepted the call and made `keys`: spot requests, or instances that have none. `seen` is what its answer tells of them.

    `owed` machines more may still come of further calls.
    """

    keys: tuple[str, ...]
    seen: tuple[Seen, ...] = ()
    owed: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """AWS refused the call for good."""

    why: str


@dataclass(frozen=True, slots=True)
class Listed:
    """The answer of a describe call."""

    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """A machine has spoken."""

    report: Report


@dataclass(frozen=True, slots=True)
class Proved:
    """A machine was seen to be ready from outside, whatever it says of itself."""

    instance: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """The launch's time is over."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The user gives the launch up."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A teardown has seen these instances gone; `all` when nothing of the launch is left."""

    instances: tuple[str, ...]
    all: bool = False


Event = Asked | Refused | Listed | Reported | Proved | Deadline | Cancel | Ended


# --- commands ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrived:
    """A machine became ready: tell whoever iterates."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Interrupted:
    """EC2 takes a machine back, and has said so for the first time."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Enough:
    """The minimum is up."""


@dataclass(frozen=True, slots=True)
class Describe:
    """A held report would decide the launch, or is of a machine that nobody waits for: list the requests now."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """The launch is up. Cancel `requests` and terminate `instances` first: they have not reported, and nobody waits for them."""

    requests: tuple[str, ...]
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The launch is over below its minimum: end everything of it, then fail the future because of `why`."""

    why: str  # "refused", "short", "failed", "deadline", "cancelled"


@dataclass(frozen=True, slots=True)
class Terminate:
    """A machine has turned up after its launch was given up."""

    instances: tuple[str, ...]


Command = Arrived | Interrupted | Enough | Describe | Resolve | GiveUp | Terminate
