"""What a teardown returns: each billable thing found, what was done to it, and how it was seen to be gone. Pure."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

NAME_WIDTH = 20  # the table then fits on 80 columns
COLUMNS = ("thing", "id", "region", "done", "seen gone", "cost")


@dataclass(frozen=True, slots=True)
class Line:
    """One thing. `gone` is when its end was observed (seconds since the epoch), None while it is not; `cost` is in USD.

    `request` is an instance's spot request; `todo` is what ends the thing where fleetctl could not.
    """

    thing: str
    id: str
    region: str
    done: str = "found"
    proof: str = ""
    gone: float | None = None
    cost: float = 0.0
    request: str = ""
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.thing} {self.id} in {self.region} ({self.done}{', ' + self.proof if self.proof else ''})"

    def cells(self) -> tuple[str, ...]:
        """The line as a table's cells; of an ARN or a URL the last part, which names the thing."""
        name = self.id.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
        name = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
        seen = f"{datetime.fromtimestamp(self.gone).astimezone():%H:%M:%S}" if self.gone else f"NOT SEEN {self.proof}".strip()
        return self.thing, name, self.region, self.done, seen, f"${self.cost:.4f}" if self.cost else "–"


@dataclass(frozen=True)
class Receipt:
    """All that a teardown found. Nothing in `remaining` means: nothing that this session made is costing money any more."""

    lines: tuple[Line, ...] = ()

    @property
    def found(self) -> tuple[Line, ...]:
        """Every thing found."""
        return self.lines

    @property
    def remaining(self) -> tuple[Line, ...]:
        """The things whose end was not observed."""
        return tuple(line for line in self.lines if line.gone is None)

    @property
    def cost(self) -> float:
        """What the found machines cost from start to end, USD."""
        return sum(line.cost for line in self.lines)

    @property
    def proved(self) -> tuple[str, ...]:
        """Ids that no later teardown need look for: what is gone, but no spot request whose instance is still there."""
        there = {line.request for line in self.remaining}
        return tuple(line.id for line in self.lines if line.gone is not None and line.id not in there)

    def __add__(self, other: Receipt) -> Receipt:
        return Receipt(self.lines + other.lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"found": [asdict(line) for line in self.found], "remaining": [asdict(line) for line in self.remaining]}

    @property
    def todo(self) -> tuple[str, ...]:
        """What ends the remaining things, where that is known; each once."""
        return tuple(dict.fromkeys(line.todo for line in self.remaining if line.todo))

    def table(self) -> Table | str:
        """The receipt as a rich table, equal lines folded into one; the headline alone where nothing was found."""
        if not self.lines:
            return self.headline()
        table = Table(title=self.headline(), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        if self.todo:
            table.caption, table.caption_justify = "\n".join(f"to do: {one}" for one in self.todo), "left"
        for name in COLUMNS:
            table.add_column(name, no_wrap=True)
        for cells in _folded(self.lines):
            table.add_row(*cells)
        return table

    def headline(self) -> str:
        """One sentence that says whether all is over."""
        if self.remaining:
            cost = f"; ${self.cost:.4f} so far" if self.cost else ""
            return f"Receipt: {len(self.remaining)} of {len(self.lines)} things are NOT proved gone{cost}"
        if not self.lines:
            return "Receipt: nothing was found"
        cost = f"; ${self.cost:.4f} in all" if self.cost else ""
        return f"Receipt: {len(self.lines)} things found, all seen gone{cost}"

    def __repr__(self) -> str:
        out = io.StringIO()
        Console(file=out, width=100, force_terminal=False, force_jupyter=False).print(self.table())
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        if not self.lines:
            return f"<b>{html.escape(self.headline())}</b>"
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in COLUMNS)
        rows = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in _folded(self.lines)
        )
        todo = "".join(f"<p>to do: <code>{html.escape(one)}</code></p>" for one in self.todo)
        return f"<b>{html.escape(self.headline())}</b><table><tr>{head}</tr>{rows}</table>{todo}"


def _folded(lines: Sequence[Line], most: int = 4) -> Iterable[tuple[str, ...]]:
    """Cells of the lines; where more than `most` differ only in id, time and cost, they become one row that counts them."""
    groups: dict[tuple[str, str, str, bool, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.thing, line.region, line.done, line.gone is None, line.proof), []).append(line)
    for group in groups.values():
        if len(group) <= most:
            yield from (line.cells() for line in group)
        else:
            last = max(line.gone or 0.0 for line in group) or None
            total = replace(group[0], id=f"{len(group)} × {group[0].id} …", gone=last, cost=sum(line.cost for line in group))
            yield total.cells()
