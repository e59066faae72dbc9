"""What has to be done so that an account has what is wanted: one function from wanted and seen things to steps. Pure.

    absent                              make      (name taken by something that is not ours: clash, and nothing is done at all)
    there, but cut off while made       finish
    there, as wanted                    leave
    there, with other settings          drift     with `fix`: change, unless it is of those that a thing keeps for life
    there, ours, and not wanted         drift     with `fix`: remove, after all else
    cannot be had yet, or not by us     wait      and it is none of what a set-up lacks

A thing that takes several calls to make bears a mark once all of them are done. So what a killed run left unfinished is told from what
somebody has changed since: the one is completed, the other shown, and changed only if the user says so.

There is no file of what was made: the account itself is asked, by tags and names, so nothing can be forgotten or disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

__all__ = ["Difference", "Seen", "Step", "Verb", "Wanted", "differences", "plan", "removal"]

Settings = Mapping[str, Any]


class Verb(StrEnum):
    """What is to be done with a thing."""

    MAKE = "make"
    FINISH = "finish"
    CHANGE = "change"
    LEAVE = "leave"
    WAIT = "wait"
    DRIFT = "drift"
    REMOVE = "remove"
    CLASH = "clash"


IDLE = frozenset({Verb.LEAVE, Verb.WAIT, Verb.DRIFT, Verb.CLASH})  # what asks nothing of AWS


@dataclass(frozen=True, slots=True)
class Wanted:
    """A thing that the account is to have. Settings name other things of the set-up by their part, never by id."""

    kind: str
    part: str
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A thing that the account has. `done`: it bears the mark of the finished; `ending`: it is on its way out already.

    `barred`: why it cannot be had yet. `shared`: why it stays when the set-up goes, as other set-ups of the account live by it too.
    `note`: what it does at the moment, for people.
    """

    kind: str
    part: str
    id: str
    settings: Settings = field(default_factory=dict)
    ours: bool = True
    done: bool = True
    ending: bool = False
    barred: str = ""
    shared: str = ""
    note: str = ""


class Difference(NamedTuple):
    """One setting that is otherwise than wanted."""

    key: str
    wanted: Any
    seen: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One thing and what is to be done with it; `why` is for people. `seen` are the settings of what is there and not wanted."""

    verb: Verb
    kind: str
    part: str
    id: str = ""
    wanted: Wanted | None = None
    differs: tuple[Difference, ...] = ()
    why: str = ""
    seen: Settings = field(default_factory=dict)

    @property
    def thing(self) -> Wanted:
        """What it is about: what is wanted, or what is there all the same, and costs."""
        return self.wanted or Wanted(self.kind, self.part, self.seen)

    @property
    def idle(self) -> bool:
        """Whether it asks nothing of AWS."""
        return self.verb in IDLE

    def __str__(self) -> str:
        return f"{self.verb} {self.kind} {self.part}{f' ({self.why})' if self.why else ''}"


def differences(wanted: Settings, seen: Settings) -> tuple[Difference, ...]:
    """The wanted settings that are otherwise, in their order. What is not wanted in particular may be as it likes.

    >>> differences({"zone": "a", "public": True}, {"zone": "a", "public": False, "colour": "red"})
    (Difference(key='public', wanted=True, seen=False),)
    """
    return tuple(Difference(key, value, seen.get(key)) for key, value in wanted.items() if seen.get(key) != value)


def plan(
    wanted: Iterable[Wanted], seen: Iterable[Seen], order: Sequence[str], fixed: Mapping[str, frozenset[str]], *, fix: bool = False
) -> tuple[Step, ...]:
    """The steps, in the order in which they must be done: kinds by `order`, removals last and the other way round.

    `fixed` are the settings of each kind that a thing keeps for life.
    """
    there = list(seen)
    steps = [
        _step(one, [thing for thing in there if (thing.kind, thing.part) == (one.kind, one.part)], fixed.get(one.kind, frozenset()), fix)
        for one in sorted(wanted, key=lambda one: (order.index(one.kind), one.part))
    ]
    kept = {(step.kind, step.id) for step in steps if step.id}
    names = {(step.kind, step.part) for step in steps}
    mine = [thing for thing in there if thing.ours and not thing.ending and not thing.shared and not thing.barred]
    for thing in [thing for thing in _backwards(mine, order) if (thing.kind, thing.id) not in kept]:
        why = "there is another one" if (thing.kind, thing.part) in names else "not wanted any more"
        steps.append(Step(Verb.REMOVE if fix else Verb.DRIFT, thing.kind, thing.part, thing.id, why=why, seen=thing.settings))
    return tuple(steps)


def removal(seen: Iterable[Seen], order: Sequence[str]) -> tuple[Step, ...]:
    """The steps that remove all that is ours, what is needed by others last. What is shared is left, and says why."""
    ours = [thing for thing in seen if thing.ours and not thing.barred]
    return tuple(
        Step(Verb.LEAVE, thing.kind, thing.part, thing.id, why=thing.shared)
        if thing.shared
        else Step(Verb.REMOVE, thing.kind, thing.part, thing.id, why="on its way already" if thing.ending else "")
        for thing in _backwards(ours, order)
    )


def _backwards(seen: Iterable[Seen], order: Sequence[str]) -> list[Seen]:
    return sorted(seen, key=lambda thing: (-order.index(thing.kind), thing.part, thing.id))


def _step(wanted: Wanted, found: Sequence[Seen], fixed: frozenset[str], fix: bool) -> Step:
    """What to do for one wanted thing, of those that bear its name."""
    ours = [thing for thing in found if thing.ours and not thing.ending]
    if not ours:
        strange = next((thing for thing in found if not thing.ours), None)
        if strange is not None:
            return Step(Verb.CLASH, wanted.kind, wanted.part, strange.id, wanted, why="the name is taken by what is not this set-up's")
        return Step(Verb.MAKE, wanted.kind, wanted.part, wanted=wanted)
    # of several, the one that is nearest to what is wanted
    best = min(ours, key=lambda thing: (not thing.done, len(differences(wanted.settings, thing.settings)), thing.id))
    if best.barred:
        return Step(Verb.WAIT, wanted.kind, wanted.part, best.id, wanted, why=best.barred)
    differs = differences(wanted.settings, best.settings)
    lasting = [one.key for one in differs if one.key in fixed]
    why = f"{' and '.join(lasting)} cannot be changed: destroy and apply" if lasting else ""
    if lasting:
        verb = Verb.DRIFT
    elif not best.done:
        verb = Verb.FINISH
    elif differs:
        verb = Verb.CHANGE if fix else Verb.DRIFT
    else:
        verb, why = Verb.LEAVE, best.note
    return Step(verb, wanted.kind, wanted.part, best.id, wanted, differs, why)
