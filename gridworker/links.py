"""Pools of pools. A pool that is linked to a parent has its idle workers volunteer there too, and sends up what it is too full for.

Work at the parent is handed down to whoever volunteers, in the script call that brings it, as within a pool. Work in a full pool goes up
when its distributor finds help free above it (lift.lua), once a period; from there idle workers take it in batches, nearest pool first
(climb.lua). So calls that calls make stay in their own worker's queue, then in its pool, and leave it only for somebody who is idle.
"""

from __future__ import annotations

from .errors import GridError, GridUnreachable
from .messages import ID
from .store import GONE, Script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .keys import Keys
    from .steps import Steps
    from .store import Connection

LIFT_MOST = 50          # calls that go up in one period for each worker that is idle there


def parse(links: list[str]) -> dict[str, str]:
    """`["low=high"]` as a dictionary. ValueError for what is no link, or a pool with two parents.

    >>> parse(["a=root", "b=root"])
    {'a': 'root', 'b': 'root'}
    """
    parents: dict[str, str] = {}
    for link in links:
        pool, _, parent = link.partition("=")
        if not pool or not parent:
            raise ValueError(f"{link!r} is no link: pool=parent")
        if pool in parents:
            raise ValueError(f"pool {pool} is linked twice")
        parents[pool] = parent
    return parents


def link(connection: Connection, keys: Keys, pool: str, parent: str) -> bool:
    """Links a pool to a parent, whoever was its parent before. Whether that is new. GridError if it would stand above itself."""
    return bool(connection.run(Script("link"), (keys.nodes, keys.pools, keys.links), [keys.prefix, pool, parent]))


def lift(connection: Connection, script: Script, keys: Keys, pool: str) -> int:
    """What waits in a full pool goes up to where help is free: how many calls."""
    fixed = (keys.nodes, keys.volunteers(pool), keys.queue(pool), keys.up(pool), keys.links)
    return int(connection.run(script, fixed, [keys.prefix, pool, LIFT_MOST]))


class Climber:
    """A worker's way to the pools above its own. Looks who they are when it is told that links have changed."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._script: Script | None = None
        self._above: list[str] = []
        self._known = False

    def __repr__(self) -> str:
        return f"<Climber to {' > '.join(self._above) or 'nowhere'}>"

    def relink(self) -> None:
        """Links have changed."""
        self._known = False

    def climb(self, want: int, token: bytes, capped: bool) -> list[bytes]:
        """Items from above, for an idle worker; none if it has no pool above. A broken connection is found by the wait that follows."""
        if self._known and not self._above:
            return []
        steps = self._steps
        node, keys = steps.node, steps.node.keys
        try:
            if not self._known:
                self._look()
            if not self._above:
                return []
            if self._script is None:
                self._script = Script("climb")
            fixed = (keys.nodes, keys.owned(node.incarnation), keys.volunteers(node.pool), keys.helpers(node.pool))
            arguments = [keys.prefix, node.incarnation, want, token, "1" if capped else "", *self._above]
            items = steps.connection.run(self._script, fixed, arguments)
        except GridUnreachable:
            steps.doubt()
            return []
        if items == GONE:
            steps.gone = True
            return []
        steps.held.update(item[:ID] for item in items)
        got: list[bytes] = items
        return got

    def _look(self) -> None:
        flat = self._steps.connection.call("HGETALL", self._steps.node.keys.links)
        parents = dict(zip(flat[::2], flat[1::2], strict=True))
        self._above, at = [], self._steps.node.pool.encode()
        while (at := parents.get(at, b"")) and at.decode() not in self._above:
            self._above.append(at.decode())
        self._known = True


def checked_links(links: list[str], pools: list[str]) -> dict[str, str]:
    """The links that distributors of these pools are told to make. GridError for one of a pool that is not among them."""
    parents = parse(links)
    if strangers := sorted(parents.keys() - set(pools)):
        raise GridError(f"--link {strangers[0]}=…: a pool is linked by its distributor, so it needs --distributor {strangers[0]}")
    return parents
