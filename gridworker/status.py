"""What a grid is doing, as data: a snapshot that a client reads without scripts, so that looking costs the grid little."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import tally
from .keys import Keys, name_of
from .messages import ID
from .store import ServerError

_NOTHING = tally.read(b"0 0 0 0 0 0 0 0")
_SUMS = ("executed", "failed", "asked", "local", "parked", "rate")


class Status:
    """A snapshot of a grid.

    nodes      name -> {"pool", "kind", "host", "pid", "incarnation", "owned" (calls handed to it), "queued" (in its own queue)} and
               what it has counted by its host's last beat: "executed", "failed", "asked" (calls that calls made there), "local" (of
               those, begun there), "parked", "busy" (seconds), "rate" (calls/s), "oldest" (age of the oldest call there, seconds)
    executed   name -> calls it has executed; of nodes that are gone, too; exact, not as of the last beat
    pools      name -> {"queued" (fresh calls), "up" (calls made by calls), "idle" (volunteers), "nodes", "parent" (the pool it is linked
               to, or ""), "oldest" (age of the oldest call that waits or runs, seconds)} and the sums over its nodes
    """

    def __init__(self, nodes: dict[str, dict[str, Any]], executed: dict[str, int], pools: dict[str, dict[str, Any]]) -> None:
        self.nodes, self.executed, self.pools = nodes, executed, pools

    def __repr__(self) -> str:
        waiting = sum(pool["queued"] + pool["up"] for pool in self.pools.values()) + sum(node["queued"] for node in self.nodes.values())
        return (f"<Status {counted(len(self.nodes), 'node')}, {counted(len(self.pools), 'pool')}, {counted(waiting, 'call')} queued, "
                f"{sum(self.executed.values())} executed>")

    def _repr_html_(self) -> str:
        from .top import html

        return html(self)

    @property
    def local_share(self) -> float | None:
        """The share of the calls made by calls that were run where they were made; None if there are none."""
        return share(self.nodes.values())

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries, fit for JSON."""
        return {"nodes": self.nodes, "executed": self.executed, "pools": self.pools, "local_share": self.local_share}


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "pool"), counted(2000, "node")
    ('1 pool', '2,000 nodes')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def share(nodes: Any) -> float | None:
    """Of all the calls that calls have made on these nodes (or in these pools), the share that was begun where it was made."""
    counted = [(node["local"], node["asked"]) for node in nodes]
    asked = sum(asked for _, asked in counted)
    return sum(local for local, _ in counted) / asked if asked else None


def read_status(command: Callable[..., Any], keys: Keys) -> Status:
    """The snapshot; `command(*words)` runs one command. Not atomic: a call may be seen twice or not at all while it moves."""
    nodes: dict[str, dict[str, Any]] = {}
    tallies = dict(_pairs(command("HGETALL", keys.tallies)))
    for incarnation, known in _pairs(command("HGETALL", keys.nodes)):
        name = incarnation.decode()
        counted = tally.read(tallies[incarnation]) if incarnation in tallies else _NOTHING
        nodes[name_of(name)] = {**json.loads(known), "incarnation": name, "owned": command("HLEN", keys.owned(name)),
                                "queued": command("LLEN", keys.mine(name)), **counted}
    executed = {name.decode(): int(count) for name, count in _pairs(command("HGETALL", keys.executed))}
    links = dict(_pairs(command("HGETALL", keys.links)))
    pools = {}
    for wire in sorted(set(command("SMEMBERS", keys.pools)) | links.keys() | set(links.values())):
        pool = wire.decode()
        members = [node for node in nodes.values() if node["pool"] == pool]
        waiting = max([_age(command, keys, keys.queue(pool)), _age(command, keys, keys.up(pool)), *(node["oldest"] for node in members)])
        pools[pool] = {"queued": command("LLEN", keys.queue(pool)), "up": command("LLEN", keys.up(pool)),
                       "idle": command("SCARD", keys.volunteers(pool)) + command("SCARD", keys.helpers(pool)), "nodes": len(members),
                       "parent": links.get(wire, b"").decode(), "oldest": waiting,
                       **{key: sum(node[key] for node in members) for key in _SUMS}}
    return Status(nodes, executed, pools)


def _age(command: Callable[..., Any], keys: Keys, queue: str) -> float:
    """How long the call at the head of a queue waits, in seconds, by the server's own note of when its state was last touched."""
    head = command("LRANGE", queue, 0, 0)
    if not head:
        return 0.0
    try:
        return float(command("OBJECT", "IDLETIME", keys.call(head[0][:ID].decode("ascii"))) or 0)
    except ServerError:                 # a server that evicts by frequency keeps no such note
        return 0.0


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
