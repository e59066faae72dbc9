"""The life of a launch and of its machines: states, events, transitions, decisions. No I/O, no clock of its own.

Rules
  * A machine moves along MACHINE, a launch along LAUNCH. A pair that a table lacks is illegal: it raises and changes nothing.
  * Reports are snapshots that come late, twice, in any order: for machines every (state, event) pair is legal, and what a late
    report may not undo maps a state to itself. `gone` and `ended` are never left.
  * A report of an instance that no listing has shown yet is held, and applied when a listing shows the instance.
  * `Core.step` takes one event and returns the commands that the shell must carry out, in order. It decides; `launch.py` acts.
  * A machine counts as lost when it failed, or is gone, before it was ever ready. What happens after it was ready changes the
    machine and never the outcome.

`python -m fleetctl.lifecycle` prints both tables as Mermaid diagrams; the architecture page holds its output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .messages import Phase, Report


class MachineState(StrEnum):
    """Where a machine is, as far as its reports and AWS's listings have said."""

    PENDING = "pending"  # asked for, no instance yet
    LAUNCHED = "launched"  # an instance is listed, it has not reported
    BOOTED = "booted"  # its boot script runs
    READY = "ready"  # its commands are up
    INTERRUPTED = "interrupted"  # AWS has said that it will take it back
    FAILED = "failed"  # a command ended with a non-zero exit
    GONE = "gone"  # seen terminated, or its request ended without an instance


class LaunchState(StrEnum):
    """Where a launch is. `up`, `failed` and `cancelled` are outcomes; `ended` is an outcome whose machines are all gone."""

    ASKING = "asking"
    WAITING = "waiting"
    UP = "up"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ENDED = "ended"


class Happening(StrEnum):
    """What can happen to a machine."""

    LISTED = "listed"
    BOOTED = "booted"
    READY = "ready"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


class Turn(StrEnum):
    """What can happen to a launch as a whole."""

    ASKED = "asked"  # AWS has accepted the request
    REFUSED = "refused"  # AWS has refused it, for good
    ENOUGH = "enough"  # all that can come has come, and it is at least the minimum
    SHORT = "short"  # the minimum cannot be reached any more, or the deadline came first
    CANCEL = "cancel"  # the user cancels, or tears down
    ENDED = "ended"  # everything is seen to be gone


def _machine_table() -> dict[MachineState, dict[Happening, MachineState]]:
    """Reports only ever move a machine forward in this order; the one way back to an earlier row does not exist."""
    M, H = MachineState, Happening
    target = {H.LISTED: M.LAUNCHED, H.BOOTED: M.BOOTED, H.READY: M.READY, H.INTERRUPTED: M.INTERRUPTED, H.FAILED: M.FAILED, H.ENDED: M.GONE}
    order = list(M)
    return {state: {event: max(state, to, key=order.index) for event, to in target.items()} for state in M}


MACHINE: Mapping[MachineState, Mapping[Happening, MachineState]] = _machine_table()

LAUNCH: Mapping[LaunchState, Mapping[Turn, LaunchState]] = {
    LaunchState.ASKING: {
        Turn.ASKED: LaunchState.WAITING,
        Turn.REFUSED: LaunchState.FAILED,
        Turn.SHORT: LaunchState.FAILED,
        Turn.CANCEL: LaunchState.CANCELLED,
    },
    LaunchState.WAITING: {Turn.ENOUGH: LaunchState.UP, Turn.SHORT: LaunchState.FAILED, Turn.CANCEL: LaunchState.CANCELLED},
    LaunchState.UP: {Turn.CANCEL: LaunchState.UP, Turn.ENDED: LaunchState.ENDED},
    # the answer to the asking call may come after the launch was given up: what it names is then ended
    LaunchState.FAILED: {
        Turn.ASKED: LaunchState.FAILED,
        Turn.REFUSED: LaunchState.FAILED,
        Turn.CANCEL: LaunchState.FAILED,
        Turn.ENDED: LaunchState.ENDED,
    },
    LaunchState.CANCELLED: {
        Turn.ASKED: LaunchState.CANCELLED,
        Turn.REFUSED: LaunchState.CANCELLED,
        Turn.CANCEL: LaunchState.CANCELLED,
        Turn.ENDED: LaunchState.ENDED,
    },
    LaunchState.ENDED: {Turn.CANCEL: LaunchState.ENDED, Turn.ENDED: LaunchState.ENDED},
}

HAPPENING = {
    Phase.BOOTED: Happening.BOOTED,
    Phase.READY: Happening.READY,
    Phase.FAILED: Happening.FAILED,
    Phase.INTERRUPTED: Happening.INTERRUPTED,
}
HELD_BEYOND = 64  # reports held beyond twice the wanted count: room for strays, and a bound

GIVEN_UP = frozenset({LaunchState.FAILED, LaunchState.CANCELLED, LaunchState.ENDED})
SETTLED = GIVEN_UP | {LaunchState.UP}


class IllegalTransition(RuntimeError):
    """An event that the launch's state does not allow: an error of this program, never of AWS or of a machine. Nothing was changed."""


@dataclass(slots=True)
class Slot:
    """One machine of a launch: `key` is its spot request (its instance id where there is none)."""

    key: str
    instance: str | None = None
    state: MachineState = MachineState.PENDING
    report: Report | None = None
    was_ready: bool = False
    status: str = ""  # AWS's word for the request: pending-evaluation, price-too-low, …
    dropped: bool = False  # nobody waits for it any more: its request is cancelled, its instance terminated
    launched: float | None = None  # when it began to cost money, seconds since the epoch
    gone: float | None = None  # when it was seen to be gone

    @property
    def lost(self) -> bool:
        """Failed, gone or being taken back without ever having been ready."""
        return not self.was_ready and self.state in (MachineState.INTERRUPTED, MachineState.FAILED, MachineState.GONE)

    @property
    def alive(self) -> bool:
        """Has an instance that is not known to be gone: it costs money."""
        return self.instance is not None and self.state is not MachineState.GONE


# --- events -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """AWS accepted the call; `keys` are the spot requests it made."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """AWS refused the call for good."""

    why: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One spot request as a listing shows it. `over`: it will never have an instance, or its instance has ended."""

    key: str
    instance: str | None = None
    status: str = ""
    over: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """The answer of a describe call."""

    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """A machine has spoken."""

    report: Report


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


Event = Asked | Refused | Listed | Reported | Deadline | Cancel | Ended


# --- commands ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrived:
    """A machine became ready: tell whoever iterates."""

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

    why: str  # "refused", "failed", "deadline", "cancelled"


@dataclass(frozen=True, slots=True)
class Terminate:
    """A machine has turned up after its launch was given up."""

    instances: tuple[str, ...]


Command = Arrived | Enough | Describe | Resolve | GiveUp | Terminate


@dataclass(slots=True)
class Core:
    """The launch as pure data with one method that changes it. Feed events to `step`, carry out what it returns."""

    wanted: int
    minimum: int
    state: LaunchState = LaunchState.ASKING
    slots: dict[str, Slot] = field(default_factory=dict)
    held: dict[str, Report] = field(default_factory=dict)
    by_instance: dict[str, Slot] = field(default_factory=dict)
    ready: int = 0  # slots that were ready at some time
    lost: int = 0  # slots that will never be
    said_enough: bool = False

    def __repr__(self) -> str:
        numbers = f"{self.ready} ready, {self.lost} lost of {self.wanted} (minimum {self.minimum}), {len(self.held)} held"
        return f"<launch core {self.state}: {numbers}>"

    def step(self, event: Event, now: float) -> list[Command]:
        """Apply one event at time `now` (seconds since the epoch); returns what must be done.

        Raises IllegalTransition, changing nothing.
        """
        match event:
            case Asked(keys):
                return self._asked(keys)
            case Refused():
                before = self.state
                self._turn(Turn.REFUSED)
                return [GiveUp("refused")] if before not in SETTLED else []
            case Listed(seen):
                return self._listed(seen, now)
            case Reported(report):
                return self._reported(report, now)
            case Deadline():
                return self._deadline()
            case Cancel():
                before = self.state
                self._turn(Turn.CANCEL)
                return [GiveUp("cancelled")] if before not in SETTLED else []
            case Ended(instances, everything):
                return self._ended(instances, everything, now)

    def all(self) -> list[Slot]:
        """The slots as they are now. From any thread: a list is made at one stroke, while a dict that is iterated must not grow."""
        return list(self.slots.values())

    def counts(self) -> dict[MachineState, int]:
        """How many machines are in each state."""
        table = dict.fromkeys(MachineState, 0)
        for slot in self.all():
            table[slot.state] += 1
        return table

    # --- one event each -----------------------------------------------------------------------------------------------------

    def _turn(self, turn: Turn) -> None:
        allowed = LAUNCH[self.state]
        if turn not in allowed:
            raise IllegalTransition(f"launch in state {self.state} cannot take {turn}; it can take {', '.join(allowed)}")
        self.state = allowed[turn]

    def _asked(self, keys: Iterable[str]) -> list[Command]:
        self._turn(Turn.ASKED)
        for key in keys:
            self.slots.setdefault(key, Slot(key))
        return self._decide() or ([Describe()] if self.held else [])  # machines may be quicker than AWS's answer

    def _listed(self, seen: Iterable[Seen], now: float) -> list[Command]:
        commands: list[Command] = []
        late: list[str] = []
        for one in seen:
            slot = self.slots.get(one.key)
            if slot is None:
                continue  # a listing may be wider than the launch
            slot.status = one.status or slot.status
            if one.instance and slot.instance is None:
                slot.instance, slot.launched = one.instance, now
                self.by_instance[one.instance] = slot
                self._move(slot, Happening.LISTED, now)
                if self.state in GIVEN_UP or slot.dropped:
                    late.append(one.instance)
                report = self.held.pop(one.instance, None)
                if report is not None:
                    commands += self._apply(slot, report, now)
            if one.over:
                self._move(slot, Happening.ENDED, now)
        if late:
            commands.append(Terminate(tuple(late)))
        return commands + self._decide()

    def _reported(self, report: Report, now: float) -> list[Command]:
        slot = self.by_instance.get(report.instance)
        if slot is None:
            known = self.held.get(report.instance)
            if known is None and len(self.held) >= 2 * self.wanted + HELD_BEYOND:
                return []  # more instances than this launch can have: somebody makes them up
            if known is None or known.seq <= report.seq:
                self.held[report.instance] = report
            return [Describe()] if self._listing_due() else []
        return self._apply(slot, report, now) + self._decide()

    def _deadline(self) -> list[Command]:
        if self.state in SETTLED:
            return []
        if self.state is LaunchState.WAITING and self.ready >= self.minimum:
            return self._resolve()
        self._turn(Turn.SHORT)
        return [GiveUp("deadline")]

    def _ended(self, instances: Iterable[str], everything: bool, now: float) -> list[Command]:
        if everything and Turn.ENDED not in LAUNCH[self.state]:
            raise IllegalTransition(f"launch in state {self.state} cannot be ended before it has an outcome")
        for instance in instances:
            slot = self.by_instance.get(instance)
            if slot is not None:
                self._move(slot, Happening.ENDED, now)
        if everything:
            for slot in self.slots.values():
                self._move(slot, Happening.ENDED, now)
            self._turn(Turn.ENDED)
            return []
        return self._decide()

    # --- helpers ------------------------------------------------------------------------------------------------------------

    def _apply(self, slot: Slot, report: Report, now: float) -> list[Command]:
        """Put a report on its machine. The newest snapshot by sequence number is kept; the state only moves forward."""
        if slot.report is None or slot.report.seq <= report.seq:
            slot.report = report
        if self.state in GIVEN_UP or slot.dropped:
            return [Terminate((report.instance,))] if slot.alive else []
        first = not slot.was_ready
        self._move(slot, HAPPENING[report.present], now)
        return [Arrived(slot)] if first and slot.was_ready else []

    def _move(self, slot: Slot, happening: Happening, now: float) -> None:
        was_lost = slot.lost
        slot.state = MACHINE[slot.state][happening]
        if slot.state is MachineState.READY and not slot.was_ready:
            slot.was_ready = True
            self.ready += 1
        if slot.state is MachineState.GONE and slot.gone is None:
            slot.gone = now
        self.lost += slot.lost - was_lost

    def _decide(self) -> list[Command]:
        if self.state is not LaunchState.WAITING:
            return []
        commands: list[Command] = []
        if self.ready >= self.minimum and not self.said_enough:
            self.said_enough = True
            commands.append(Enough())
        if self.ready >= self.wanted or (self.ready >= self.minimum and self.ready + self.lost >= len(self.slots)):
            return commands + self._resolve()
        if len(self.slots) - self.lost < self.minimum:
            self._turn(Turn.SHORT)
            return [*commands, GiveUp("failed")]
        return [*commands, Describe()] if self._listing_due() else commands

    def _resolve(self) -> list[Command]:
        """Up: whoever is still expected is not waited for any more. Failed machines stay, for whoever wants to look at them."""
        self._turn(Turn.ENOUGH)
        waiting = [slot for slot in self.slots.values() if not slot.was_ready and not slot.lost]
        for slot in waiting:
            slot.dropped = True
        unreported = tuple(slot.instance for slot in waiting if slot.instance)
        return [Resolve(tuple(slot.key for slot in waiting), unreported)]

    def _listing_due(self) -> bool:
        """Is a listing, which binds held reports to their slots, worth a call? It is where it would decide the launch, and, once there
        is an outcome, where it shows a machine that nobody waits for and that must be ended.
        """
        if not self.held or self.state is not LaunchState.WAITING:
            return bool(self.held) and self.state in (LaunchState.UP, LaunchState.FAILED, LaunchState.CANCELLED)
        phases = [report.present for report in self.held.values()]
        ready = self.ready + phases.count(Phase.READY)
        lost = self.lost + phases.count(Phase.FAILED)
        return ready >= self.wanted or ready + lost >= len(self.slots) or len(self.slots) - lost < self.minimum


def diagram(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> str:
    """A transition table as a Mermaid state diagram; events that change nothing are left out."""
    lines = ["stateDiagram-v2"]
    for state, row in table.items():
        for event, to in row.items():
            if to is not state:
                lines.append(f"    {state} --> {to}: {event}")
    return "\n".join(lines)


if __name__ == "__main__":
    for each in (LAUNCH, MACHINE):
        print(diagram(each))  # type: ignore[arg-type]
