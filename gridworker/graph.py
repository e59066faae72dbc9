"""The graph of calls that emerged from a request: who made which, where and when each ran, how long it computed; as data and as a picture.

Made from the records of traced calls (trace.py). Equal calls are one call, so it is a graph and not a tree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .keys import Keys
from .picture import drawn

_BATCH = 500


class Traced:
    """A call in a graph. Times are seconds after the first call of the graph began, each by its node's clock.

    id, name      its id, and as one would write it        node       where it ran
    begun, ended  when                                      computed   seconds that it computed itself, without waiting
    calls         (id, when it was asked for) of the calls it made, in order
    error         class and text of its exception, or ""
    """

    __slots__ = ("begun", "calls", "computed", "ended", "error", "id", "name", "node")

    def __init__(self, id: str, name: str, node: str, begun: float, ended: float, computed: float, calls: list[tuple[str, float]],
                 error: str) -> None:
        self.id, self.name, self.node, self.begun, self.ended = id, name, node, begun, ended
        self.computed, self.calls, self.error = computed, calls, error

    def __repr__(self) -> str:
        return f"<{self.name} on {self.node}: {1000 * (self.ended - self.begun):.1f} ms, {len(self.calls)} calls>"

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return {slot: getattr(self, slot) for slot in self.__slots__}


class Graph:
    """Calls by id, the root first, then in the order in which they were found from it.

    `kept` are calls that were asked for and have no record: their results were there already, or their records are not kept any more.
    """

    def __init__(self, calls: dict[str, Traced], kept: set[str]) -> None:
        self.calls, self.kept = calls, kept

    def __repr__(self) -> str:
        root = self.root
        return (f"<Graph of {root.name}: {len(self.calls)} calls on {len(self.nodes)} node(s) in {1000 * self.seconds:.1f} ms, "
                f"{1000 * sum(call.computed for call in self.calls.values()):.1f} ms computed>")

    @property
    def root(self) -> Traced:
        """The call that was asked about."""
        return next(iter(self.calls.values()))

    @property
    def seconds(self) -> float:
        """From the beginning of the first call to the end of the last."""
        return max(call.ended for call in self.calls.values()) - min(call.begun for call in self.calls.values())

    @property
    def nodes(self) -> list[str]:
        """The nodes that took part."""
        return sorted({call.node for call in self.calls.values()})

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries, fit for JSON."""
        return {"root": self.root.id, "calls": {id: call.as_dict() for id, call in self.calls.items()}, "kept": sorted(self.kept)}

    def dot(self) -> str:
        """The graph in Graphviz's language, for `dot`."""
        lines = ["digraph calls {", "  rankdir=LR; node [shape=box, fontname=sans];"]
        for call in self.calls.values():
            label = f"{call.name}\n{call.node}, {1000 * (call.ended - call.begun):.1f} ms"
            lines.append(f"  {_quoted(call.id)} [label={_quoted(label)}{', color=red' if call.error else ''}];")
        lines += [f"  {_quoted(id)} [label=\"kept\", style=dashed];" for id in sorted(self.kept)]
        for call in self.calls.values():
            lines += [f"  {_quoted(call.id)} -> {_quoted(made)};" for made in dict(call.calls)]
        return "\n".join([*lines, "}", ""])

    def svg(self, *, width: int = 900, most: int = 200) -> str:
        """A picture: a row for each call under the one that first made it, with bars for when it ran. `most`: the rows that are drawn."""
        return drawn(self, width, most)

    def _repr_svg_(self) -> str:
        return self.svg()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def read_graph(command: Callable[..., Any], keys: Keys, root: str, most: int) -> Graph:
    """The records from the root down, level by level. LookupError if the root has none."""
    calls: dict[str, Traced] = {}
    kept: set[str] = set()
    level, zero = [root], 0.0
    while level:
        below: dict[str, None] = {}
        for at in range(0, len(level), _BATCH):
            ids = level[at:at + _BATCH]
            for id, record in zip(ids, command("MGET", *map(keys.trace, ids)), strict=True):
                if record is None:
                    kept.add(id)
                    continue
                known = json.loads(record)
                zero = zero or known["begun"]
                made = [(call, asked - zero) for call, asked in known["calls"]]
                calls[id] = Traced(id, known["name"], known["node"], known["begun"] - zero, known["ended"] - zero, known["computed"], made,
                                   known["error"])
                below.update((call, None) for call, _ in made)
        if not calls:
            raise LookupError(f"call {root} has no record: it was not requested with trace=True, has not ended, or its result was there "
                              "already")
        level = [id for id in below if id not in calls and id not in kept][:max(0, most - len(calls))]
    return Graph(calls, kept)
