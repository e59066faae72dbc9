"""`gridworker top`: what a grid is doing, live in a terminal; and the same as a table in a notebook. rich is imported when it is drawn."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .status import Status, counted, share

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from .client import Grid

_POOL = ("pool", "nodes", "idle", "queued", "from calls", "parked", "calls/s", "failed", "oldest", "run at home")
_NODE = ("node", "pool", "host", "holds", "queued", "parked", "calls/s", "executed", "failed", "oldest", "run at home")


def seconds(value: float) -> str:
    """A time for people.

    >>> [seconds(s) for s in (0, 0.25, 12.3, 75, 7500)]
    ['', '0.2 s', '12 s', '1:15 min', '2:05 h']
    """
    if value < 10:
        return f"{value:.1f} s" if value >= 0.05 else ""
    if value < 60:
        return f"{value:.0f} s"
    return f"{int(value // 60)}:{int(value % 60):02d} min" if value < 3600 else f"{int(value // 3600)}:{int(value % 3600 // 60):02d} h"


def percent(value: float | None) -> str:
    """A share for people; nothing for None."""
    return "" if value is None else f"{100 * value:.0f} %"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value else "·"


def pool_rows(status: Status) -> list[tuple[str, ...]]:
    """A row for each pool, those that are linked below the pool they are linked to."""
    rows: list[tuple[str, ...]] = []
    for name, depth in _tree({name: pool["parent"] for name, pool in status.pools.items()}):
        pool = status.pools[name]
        rows.append(("  " * depth + name, _count(pool["nodes"]), _count(pool["idle"]), _count(pool["queued"]), _count(pool["up"]),
                     _count(pool["parked"]), _count(pool["rate"]), _count(pool["failed"]), seconds(pool["oldest"]), percent(share([pool]))))
    return rows


def _tree(parents: dict[str, str], root: str = "", depth: int = 0) -> Iterable[tuple[str, int]]:
    for name in sorted(parents):
        if parents[name] == root:
            yield name, depth
            yield from _tree(parents, name, depth + 1)


def node_rows(status: Status) -> list[tuple[str, ...]]:
    """A row for each node, the busiest first."""
    nodes = sorted(status.nodes.items(), key=lambda item: (-item[1]["rate"], -item[1]["owned"], item[0]))
    return [(name, node["pool"], node["host"], _count(node["owned"]), _count(node["queued"]), _count(node["parked"]), _count(node["rate"]),
             _count(node["executed"]), _count(node["failed"]), seconds(node["oldest"]), percent(share([node])))
            for name, node in nodes]


def headline(status: Status) -> str:
    """The grid in a line."""
    waiting = sum(pool["queued"] + pool["up"] for pool in status.pools.values()) + sum(node["queued"] for node in status.nodes.values())
    rate, failed = sum(node["rate"] for node in status.nodes.values()), sum(node["failed"] for node in status.nodes.values())
    oldest = max((pool["oldest"] for pool in status.pools.values()), default=0.0)
    at_home = f" · {percent(status.local_share)} of calls' calls run at home" if status.local_share is not None else ""
    return (f"{counted(len(status.nodes), 'node')} · {counted(waiting, 'call')} waiting · {rate:,.0f} calls/s · "
            f"{sum(status.executed.values()):,} executed · {failed:,} failed · oldest {seconds(oldest) or 'none'}{at_home}")


def narrowed(widths: list[int], room: int) -> list[int]:
    """Widths of columns that may be cut, so that they fit: the widest give way first, down to 8.

    >>> narrowed([28, 4, 15], 30)
    [13, 4, 13]
    """
    widths = list(widths)
    while sum(widths) > room and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    return widths


def view(status: Status, title: str, width: int, height: int | None = None) -> RenderableType:
    """The picture for a terminal of that size: narrow ones lose the columns that are least missed."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    narrow = {"host", "parked", "run at home", "pool"} if width < 100 else set()
    rows = node_rows(status)
    pools = pool_rows(status)
    most_rows = len(rows) if height is None else max(1, height - len(pools) - 9)
    parts: list[RenderableType] = [Text(title, style="bold"), Text(headline(status))]
    for names, shown, hide in ((_POOL, pools, narrow - {"pool"}), (_NODE, rows[:most_rows], narrow)):
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        kept = [number for number, name in enumerate(names) if name not in hide]
        natural = {number: max(map(len, (names[number], *(row[number] for row in shown)))) for number in kept}
        words = [number for number in kept if names[number] in ("pool", "node", "host")]        # numbers and headings are never cut
        room = width - 2 * len(kept) - sum(natural[number] for number in kept if number not in words)
        most = dict(zip(words, narrowed([natural[number] for number in words], room), strict=True))
        for number in kept:
            table.add_column(names[number], justify="left" if number in words else "right", no_wrap=True, overflow="ellipsis",
                             max_width=most.get(number))
        for row in shown:
            table.add_row(*(row[number] for number in kept))
        parts += [Text(""), table]
    if len(rows) > most_rows:
        parts.append(Text(f"and {len(rows) - most_rows} more", style="dim"))
    return Group(*parts)


def html(status: Status) -> str:
    """The same for a notebook."""
    from html import escape

    tables = "".join(
        "<table><tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
        + "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows) + "</table>"
        for names, rows in ((_POOL, pool_rows(status)), (_NODE, node_rows(status))) if rows)
    return f"<p>{escape(headline(status))}</p>{tables}"


def show(status: Status, title: str, console: Console | None = None) -> None:
    """Writes one picture: to stdout unless it is to go to that console."""
    from rich.console import Console

    console = console or Console()
    console.print(view(status, title, console.width))


def watch(grid: Grid, *, every: float = 1.0, rounds: int | None = None, console: Console | None = None) -> Status:
    """Draws the grid on the terminal (stderr), again each `every` seconds, until Ctrl-C or so many rounds. Returns the last snapshot.

    Where nobody can look on, it writes one picture and returns.
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True)
    title = f"{grid.keys.namespace} at {grid.address.url}"
    status = grid.status()
    if not console.is_terminal or rounds == 1:
        show(status, title, console)
        return status

    def picture(status: Status) -> Any:
        return view(status, f"{title}   {time.strftime('%H:%M:%S')}   Ctrl-C ends", console.width, console.height)

    with Live(picture(status), console=console, screen=True, auto_refresh=False) as live:
        try:
            while rounds is None or (rounds := rounds - 1) > 0:
                time.sleep(every)
                status = grid.status()
                live.update(picture(status), refresh=True)
        except KeyboardInterrupt:
            return status
    return status
