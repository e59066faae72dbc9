"""What came of the same work on many machines: partial failure is a value, and one dead machine neither hangs nor hides the others.

Machines that said the same are shown together, for a hundred of them mostly do.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from ..errors import FleetError, MachineError
from .command import Done

T = TypeVar("T")

AT_ONCE = 100  # machines that are worked on at a time
_SHOWN = 20  # lines of a group's output in a table
_NAMED = 3  # machines of a group that are named


class Group(NamedTuple):
    """Machines whose outcome was the same: the text, whether that is a success, and their names."""

    text: str
    ok: bool
    machines: tuple[str, ...]


class Outcomes(Mapping[str, "T | FleetError"], Generic[T]):
    """By instance id: what the work gave there, or the error in its place.

    `succeeded`: what it gave where it went well. `failed`: errors, and commands that ended with something else than exit code 0.
    """

    def __init__(self, what: str, outcomes: Mapping[str, T | FleetError]) -> None:
        self._what, self._all = what, dict(outcomes)

    def __getitem__(self, machine: str) -> T | FleetError:
        return self._all[machine]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def succeeded(self) -> dict[str, T]:
        """What the work gave, of the machines where it went well."""
        return {name: one for name, one in self._all.items() if not isinstance(one, FleetError) and getattr(one, "ok", True)}

    @property
    def failed(self) -> dict[str, T | FleetError]:
        """Outcomes of the machines where it did not."""
        return {name: one for name, one in self._all.items() if isinstance(one, FleetError) or not getattr(one, "ok", True)}

    def check(self) -> Outcomes[T]:
        """Itself, if all have succeeded. Raises MachineError with the first failure, and how many there are."""
        failed = self.failed
        if not failed:
            return self
        name, first = next(iter(failed.items()))
        raise MachineError(
            f"{self._what} failed on {len(failed)} of {len(self)} machines; on {name}: {_text(first)}",
            left=[f"{len(self)} machines run on"],
            todo="see .failed of the outcomes; check=False gives them as a value",
            machines=sorted(failed),
        )

    def groups(self) -> list[Group]:
        """The outcomes without repetition: failures first, then what most machines said."""
        table: dict[tuple[str, bool], list[str]] = {}
        failed = self.failed.keys()
        for name, one in self._all.items():
            table.setdefault((_text(one), name not in failed), []).append(name)
        groups = [Group(text, ok, tuple(names)) for (text, ok), names in table.items()]
        return sorted(groups, key=lambda group: (group.ok, -len(group.machines)))

    def __repr__(self) -> str:
        return f"<{self._what} on {len(self)} machines: {len(self.succeeded)} succeeded, {len(self.failed)} failed>"

    def __str__(self) -> str:
        return "\n".join(f"{_heading(group)}\n{group.text.rstrip()}" for group in self.groups())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left;vertical-align:top'>{html.escape(_heading(group))}</td>"
            f"<td style='text-align:left'><pre>{html.escape(_cut(group.text))}</pre></td></tr>"
            for group in self.groups()
        )
        return f"<b>{html.escape(repr(self)[1:-1])}</b><table>{rows}</table>"


class Tally:
    """How far some work on many machines is: `up` of `wanted` have done it, on `failed` it has failed."""

    def __init__(self, what: str, wanted: int) -> None:
        self.what, self.wanted, self.up, self.failed, self._began = what, wanted, 0, 0, time.monotonic()

    def __repr__(self) -> str:
        return f"<tally of {self}>"

    def __str__(self) -> str:
        left = self.wanted - self.up - self.failed
        return f"{self.what}: {self.up}/{self.wanted} done · {left} at it · {self.failed} failed · {time.monotonic() - self._began:.1f} s"

    def count(self, outcome: object) -> None:
        """One machine has an outcome."""
        well = not isinstance(outcome, FleetError) and getattr(outcome, "ok", True)
        self.up, self.failed = self.up + well, self.failed + (not well)


async def on_each(
    what: str, work: Mapping[str, Callable[[], Awaitable[T]]], at_once: int = AT_ONCE, tally: Tally | None = None
) -> Outcomes[T]:  # fmt: skip
    """Do the work of all machines, at most `at_once` at a time; whatever FleetError it raises is that machine's outcome."""
    gate, tally = asyncio.Semaphore(at_once), tally or Tally(what, len(work))

    async def one(do: Callable[[], Awaitable[T]]) -> T | FleetError:
        async with gate:
            try:
                outcome: T | FleetError = await do()
            except FleetError as error:
                outcome = error
        tally.count(outcome)
        return outcome

    async with asyncio.TaskGroup() as group:  # what nobody foresaw ends all of it
        tasks = {name: group.create_task(one(do)) for name, do in work.items()}
    return Outcomes(what, {name: task.result() for name, task in tasks.items()})


def _text(one: object) -> str:
    if isinstance(one, Done):
        ended = "" if one.ok else f"exit {one.exit_status}\n"
        return ended + one.stdout + (("\n" if one.stdout and not one.stdout.endswith("\n") else "") + one.stderr if one.stderr else "")
    return one.what if isinstance(one, FleetError) else str(one)


def _heading(group: Group) -> str:
    names = ", ".join(group.machines[:_NAMED]) + (f" and {len(group.machines) - _NAMED} more" if len(group.machines) > _NAMED else "")
    return f"── {len(group.machines)} × {'ok' if group.ok else 'failed'}: {names}"


def _cut(text: str) -> str:
    lines = text.rstrip().splitlines()
    return "\n".join(lines[:_SHOWN]) + (f"\n… {len(lines) - _SHOWN} more lines" if len(lines) > _SHOWN else "")
