"""A graph of calls drawn as SVG: time goes to the right, a row for each call, below the call that first made it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Graph, Traced

ROW, LEFT, TOP = 16, 240, 34            # pixels: height of a row; room for names; room for the axis
_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")      # one for each node, told apart by most eyes


def rows(graph: Graph) -> list[tuple[Traced, int]]:
    """Each call once, where it was first made, with its depth."""
    ordered: list[tuple[Traced, int]] = []
    seen: set[str] = set()
    stack = [(graph.root.id, 0)]
    while stack:
        id, depth = stack.pop()
        if id in seen or id not in graph.calls:
            continue
        seen.add(id)
        ordered.append((graph.calls[id], depth))
        stack += [(made, depth + 1) for made, _ in reversed(graph.calls[id].calls)]
    return ordered


def drawn(graph: Graph, width: int, most: int) -> str:
    """The picture, `width` pixels wide."""
    ordered = rows(graph)
    shown = ordered[:most]
    start = min(call.begun for call in graph.calls.values())
    scale = (width - LEFT - 10) / max(graph.seconds, 1e-9)
    colours = {node: _COLOURS[number % len(_COLOURS)] for number, node in enumerate(graph.nodes)}
    height = TOP + ROW * len(shown) + (ROW if len(ordered) > most else 0) + 24
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{height}" fill="white"/>', *_axis(graph.seconds, scale, height)]
    places = {call.id: number for number, (call, _) in enumerate(shown)}
    for number, (call, depth) in enumerate(shown):
        parts += _row(call, depth, TOP + ROW * number, start, scale, colours[call.node])
        for made, asked in call.calls:
            if places.get(made, 0) > number:
                at = LEFT + (asked - start) * scale
                low = TOP + ROW * places[made] + ROW / 2
                parts.append(f'<path d="M{at:.1f} {TOP + ROW * number + ROW - 4}V{low:.1f}" stroke="#00000030" fill="none"/>')
    if len(ordered) > most:
        parts.append(f'<text x="4" y="{TOP + ROW * len(shown) + 12}" fill="#666">and {len(ordered) - most} more</text>')
    at = LEFT
    for node, colour in colours.items():
        parts += [f'<rect x="{at}" y="{height - 16}" width="10" height="10" fill="{colour}"/>',
                  f'<text x="{at + 14}" y="{height - 7}">{escape(node)}</text>']
        at += 26 + 7 * len(node)
    return "".join([*parts, "</svg>"])


def _axis(seconds: float, scale: float, height: int) -> list[str]:
    step = next(mantissa * 10.0**power for power in range(-7, 6) for mantissa in (1, 2, 5) if seconds / (mantissa * 10.0**power) <= 6)
    unit, factor = ("s", 1) if step >= 1 else ("ms", 1000) if step >= 1e-3 else ("µs", 1_000_000)
    parts = []
    for number in range(int(seconds / step) + 1):
        x = LEFT + number * step * scale
        parts += [f'<path d="M{x:.1f} {TOP - 6}V{height - 22}" stroke="#eee"/>',
                  f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="middle" fill="#666">{number * step * factor:g} {unit}</text>']
    return parts


def _row(call: Traced, depth: int, y: float, start: float, scale: float, colour: str) -> list[str]:
    name = call.name if len(call.name) + 2 * depth <= 38 else call.name[:max(6, 37 - 2 * depth)] + "…"
    x, wide = LEFT + (call.begun - start) * scale, max(1.0, (call.ended - call.begun) * scale)
    title = (f"{call.name} on {call.node}: {1000 * (call.ended - call.begun):.2f} ms, {1000 * call.computed:.2f} ms computed"
             + (f"; {call.error}" if call.error else ""))
    own = max(1.0, min(wide, call.computed * scale))
    ink = "#b00" if call.error else "black"
    return [f'<g><title>{escape(title)}</title><text x="{4 + 10 * min(depth, 18)}" y="{y + 12}" fill="{ink}">{escape(name)}</text>',

            f'<rect x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="{ROW - 7}" fill="{colour}" fill-opacity="0.35"/>',
            f'<rect x="{x:.1f}" y="{y + 4}" width="{own:.1f}" height="{ROW - 7}" fill="{"#b00" if call.error else colour}"/></g>']
