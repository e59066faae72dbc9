"""What a user sees of a set-up: tables of 80 columns."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from . import prices
from .options import Facts, Options
from .planning import Difference, Step, Verb, Wanted

__all__ = ["Plan", "refusal"]

SHADES = {Verb.MAKE: "green", Verb.FINISH: "green", Verb.CHANGE: "yellow", Verb.DRIFT: "magenta", Verb.REMOVE: "red", Verb.CLASH: "red"}
WIDTH = 80
SHOWN = 60  # characters of a value that is not as wanted
DOCUMENTS = ("trust", "rights", "policy", "options", "public", "tells", "template", "query", "state")
PLAIN = ("addresses", "zone", "service", "type", "name", "out by", "lets in")  # settings that need no name


@dataclass(frozen=True)
class Plan:
    """What would be done to an account. Look at it, print it, or apply it."""

    facts: Facts
    options: Options
    steps: tuple[Step, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing would be done."""
        return all(step.idle for step in self.steps)

    @property
    def complete(self) -> bool:
        """Whether all is there, and as wanted, but for what cannot be had yet."""
        return all(step.verb in (Verb.LEAVE, Verb.WAIT) for step in self.steps)

    @property
    def clashes(self) -> tuple[Step, ...]:
        """Names that are taken."""
        return tuple(step for step in self.steps if step.verb is Verb.CLASH)

    @property
    def drift(self) -> tuple[Step, ...]:
        """What is otherwise than wanted, and stays so."""
        return tuple(step for step in self.steps if step.verb is Verb.DRIFT)

    @property
    def things(self) -> tuple[Wanted, ...]:
        """What the account has once all is done; what is not wanted and stays is among it."""
        return tuple(step.thing for step in self.steps if step.verb is not Verb.REMOVE)

    @property
    def per_hour(self) -> float:
        """USD an hour of what the account has then, used or not."""
        return sum(map(prices.per_hour, self.things))

    def headline(self) -> str:
        """What would be done, in one line."""
        counts = Counter(step.verb for step in self.steps)
        said = ", ".join(f"{counts[verb]} to {verb}" if verb not in (Verb.DRIFT, Verb.CLASH) else f"{counts[verb]} × {verb}"
                         for verb in Verb if counts[verb])  # fmt: skip
        return f"set-up {self.facts.setup} in {self.facts.region}, account {self.facts.account}: {said}"

    def table(self) -> Group:
        """The plan as a rich renderable, 80 columns wide."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), width=WIDTH)
        for name, justify in (("do", "left"), ("thing", "left"), ("part", "left"), ("with", "left"), ("$/hour", "right")):
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for step in self.steps:
            cost = 0.0 if step.verb is Verb.REMOVE else prices.per_hour(step.thing)
            table.add_row(Text(step.verb, SHADES.get(step.verb, "")), step.kind, step.part, _with(step), f"{cost:.3f}" if cost else "–")
        month = self.per_hour * prices.MONTH_HOURS
        besides = {one.kind: prices.besides(one) for one in self.things if prices.besides(one)}
        by_use = "; by use: " + ", ".join(f"{kind} {price}" for kind, price in besides.items()) if besides else ""
        cost_line = f"${self.per_hour:.3f} an hour, ${month:.2f} a month while it is there (us-east-1, {prices.AS_OF}){by_use}"
        return Group(Text(self.headline()), table, Text(cost_line))

    def __repr__(self) -> str:
        return f"<plan: {self.headline()}>"

    def __str__(self) -> str:
        out = io.StringIO()
        Console(file=out, width=WIDTH, force_terminal=False, force_jupyter=False).print(self.table())
        return out.getvalue().rstrip()


def refusal(denied: tuple[tuple[str, str], ...], policy: Any, documents: Mapping[str, Any] | None = None) -> Group:
    """The calls that AWS did not allow, and the policy that would allow them; then the rights that somebody else may grant instead."""
    table = Table("service", "call", title="AWS does not allow these calls", title_justify="left", box=box.SIMPLE_HEAD)
    for service, operation in denied:
        table.add_row(service, operation)
    others = [Text(f"or an administrator makes {name}, with these rights:\n{json.dumps(one, indent=2)}")
              for name, one in (documents or {}).items()]  # fmt: skip
    return Group(table, Text("this policy would, for whoever may grant it:"), Text(json.dumps(policy, indent=2)), *others)


def _with(step: Step) -> str:
    if step.differs and step.verb in (Verb.DRIFT, Verb.CHANGE):
        return "\n".join([*map(_difference, step.differs), *([step.why] if step.why else [])])
    if step.why or step.wanted is None:
        return step.why
    shown = [_value(key, value) for key, value in step.wanted.settings.items()]
    return ", ".join(filter(None, shown))


def _difference(one: Difference) -> str:
    wanted, seen = _short(one.wanted), _short(one.seen)
    return f"{one.key}: is {seen}, wanted {wanted}" if wanted != seen else f"{one.key}: is otherwise"


def _value(key: str, value: Any) -> str:
    """A setting in a word or two; documents and keys would fill the page."""
    if isinstance(value, bool):
        return key if value else ""
    if key in DOCUMENTS or not value:
        return ""
    return _words(value) if key in PLAIN else f"{key} {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return "nothing" if value in (None, "") else str(value)


def _short(value: Any) -> str:
    text = _words(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
