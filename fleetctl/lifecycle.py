"""The life of a launch and of its machines: the decisions. No I/O, no clock of its own. States and tables are in `states`.

Rules
  * A machine moves along MACHINE, a launch along LAUNCH. A pair that a table lacks is illegal: it raises and changes nothing.
  * Reports are snapshots that come late, twice, in any order: for machines every (state, event) pair is legal, and what a late
    report may not undo maps a state to itself. `gone` and `ended` are never left.
  * A report of an instance that no answer and no listing has shown yet is held, and applied when one shows the instance.
  * `Core.step` takes one event and returns the commands that the shell must carry out, in order. It decides; `launch.py` acts.
  * Where readiness is proved from outside, "ready" in a report is no more than "booted" until the launch has an outcome.
  * A machine counts as lost when it failed, or is gone, before it was ever ready, and when AWS says of its request what waiting does
    not mend. What happens after it was ready changes the machine and never the outcome.

`python -m fleetctl.lifecycle` prints both tables as Mermaid diagrams; the architecture page holds its output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .events import (
    Arrived,
    Asked,
    Cancel,
    Command,
    Deadline,
    Describe,
    Ended,
    Enough,
    Event,
    GiveUp,
    Interrupted,
    Listed,
    Proved,
    Refused,
    Reported,
    Resolve,
    Seen,
    Slot,
    Terminate,
)
from .messages import Phase, Report
from .states import (
    GIVEN_UP,
    HAPPENING,
    LAUNCH,
    MACHINE,
    SETTLED,
    Happening,
    IllegalTransition,
    LaunchState,
    MachineState,
    Turn,
    diagram,
)

__all__ = [
    "GIVEN_UP", "LAUNCH", "MACHINE", "SETTLED", "Happening", "IllegalTransition", "LaunchState", "MachineState", "Turn", "diagram",
    "Slot",
    "Asked", "Cancel", "Deadline", "Ended", "Event", "Listed", "Proved", "Refused", "Reported", "Seen",
    "Arrived", "Command", "Describe", "Enough", "GiveUp", "Interrupted", "Resolve", "Terminate",
    "Core",
]

HELD_BEYOND = 64  # reports held beyond twice the wanted count: room for strays, and a bound


@dataclass(slots=True)
class Core:
    """The launch as pure data with one method that changes it. Feed events to `step`, carry out what it returns."""

    wanted: int
    minimum: int
    state: LaunchState = LaunchState.ASKING
    slots: dict[str, Slot] = field(default_factory=dict)
    held: dict[str, Report] = field(default_factory=dict)
    held_in: Counter[Phase] = field(default_factory=Counter)  # how many of the held reports say what: ten thousand may be held
    by_instance: dict[str, Slot] = field(default_factory=dict)
    ready: int = 0  # slots that were ready at some time
    lost: int = 0  # slots that will never be
    interruptions: int = 0  # slots that EC2 has taken back, or is about to, after they were ready
    said_enough: bool = False
    keeps: bool = False  # whoever is still expected at the outcome stays: so it is where another process had its reasons
    owed: int = 0  # machines that may still come of further calls
    proving: bool = False  # until there is an outcome, machines are ready when they are proved to be, not when they say so

    def __repr__(self) -> str:
        numbers = f"{self.ready} ready, {self.lost} lost of {self.wanted} (minimum {self.minimum}), {len(self.held)} held"
        return f"<launch core {self.state}: {numbers}>"

    def step(self, event: Event, now: float) -> list[Command]:
        """Apply one event at time `now` (seconds since the epoch); returns what must be done.

        Raises IllegalTransition, changing nothing.
        """
        match event:
            case Asked():
                return self._asked(event, now)
            case Refused():
                before = self.state
                self._turn(Turn.REFUSED)
                return [GiveUp("refused")] if before not in SETTLED else []
            case Listed(seen):
                return self._listed(seen, now)
            case Reported(report):
                return self._reported(report, now)
            case Proved(instance):
                return self._proved(instance, now)
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

    def _asked(self, event: Asked, now: float) -> list[Command]:
        self._turn(Turn.ASKED)
        self.owed = event.owed
        for key in event.keys:
            self.slots.setdefault(key, Slot(key, dropped=self.state is LaunchState.UP))  # whoever comes after the outcome is not needed
        return self._listed(event.seen, now) or ([Describe()] if self.held else [])  # machines may be quicker than AWS's answer

    def _listed(self, seen: Iterable[Seen], now: float) -> list[Command]:
        commands: list[Command] = []
        late: list[str] = []
        for one in seen:
            slot = self.slots.get(one.key) or self.slots.get(one.request or "") or self.by_instance.get(one.instance or "")
            if slot is None:
                continue  # a listing may be wider than the launch
            self._describe(slot, one)
            if one.instance and slot.instance is None:
                self.lost -= slot.hopeless  # it has an instance against all hope
                slot.instance, slot.launched = one.instance, now
                self.by_instance[one.instance] = slot
                self._move(slot, Happening.LISTED, now)
                if self.state in GIVEN_UP or slot.dropped:
                    late.append(one.instance)
                report = self.held.pop(one.instance, None)
                if report is not None:
                    self.held_in[report.present] -= 1
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
                self.held_in[report.present] += 1
                if known is not None:
                    self.held_in[known.present] -= 1
                self.held[report.instance] = report
            return [Describe()] if self._listing_due() else []
        return self._apply(slot, report, now) + self._decide()

    def _proved(self, instance: str, now: float) -> list[Command]:
        slot = self.by_instance.get(instance)
        if slot is None or slot.dropped or self.state in GIVEN_UP:
            return []  # its end is under way
        first = not slot.was_ready
        self._move(slot, Happening.READY, now)
        return ([Arrived(slot)] if first and slot.was_ready else []) + self._decide()

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
        first, before = not slot.was_ready, slot.state
        said = HAPPENING[report.present]
        unproved = said is Happening.READY and self.proving and self.state not in SETTLED
        self._move(slot, Happening.BOOTED if unproved else said, now)
        if slot.state is MachineState.INTERRUPTED is not before:
            self.interruptions += slot.was_ready
            return [Interrupted(slot)]
        return [Arrived(slot)] if first and slot.was_ready else []

    def _describe(self, slot: Slot, one: Seen) -> None:
        """What a listing says beside the instance and its end. A status that waiting does not mend makes the slot a lost one."""
        was_lost = slot.lost
        if one.status:
            slot.status, slot.message = one.status, one.message
        slot.request, slot.type, slot.zone = one.request or slot.request, one.type or slot.type, one.zone or slot.zone
        slot.on_demand = slot.on_demand or one.on_demand
        self.lost += slot.lost - was_lost

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
        if self.ready >= self.wanted or (self.ready >= self.minimum and self.ready + self.lost >= self._expected()):
            return commands + self._resolve()
        if self._expected() - self.lost < self.minimum:
            self._turn(Turn.SHORT)
            return [*commands, GiveUp("failed" if self.lost else "short")]
        return [*commands, Describe()] if self._listing_due() else commands

    def _resolve(self) -> list[Command]:
        """Up: whoever is still expected is not waited for any more. Failed machines stay, for whoever wants to look at them."""
        self._turn(Turn.ENOUGH)
        missing = [slot for slot in self.slots.values() if not slot.was_ready and (slot.hopeless or not slot.lost)]
        waiting = [] if self.keeps else missing
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
        ready = self.ready + (0 if self.proving else self.held_in[Phase.READY])
        lost = self.lost + self.held_in[Phase.FAILED]
        return ready >= self.wanted or ready + lost >= self._expected() or self._expected() - lost < self.minimum

    def _expected(self) -> int:
        """How many machines there can be in the end, the lost ones included."""
        return len(self.slots) + self.owed


if __name__ == "__main__":
    for each in (LAUNCH, MACHINE):
        print(diagram(each))  # type: ignore[arg-type]
