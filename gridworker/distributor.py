"""A distributor: reaps nodes whose beat has stopped, hoists calls from busy members to its pool, reports the pool's state.

It hands out no work: within a pool the scripts do. A grid goes on without it; only what it does waits until it is back, so calls of a
host that died whole (its supervisor too) stay with that host until then.
"""

from __future__ import annotations

import json
import logging
import os
import time

from .errors import GridFull, GridUnreachable
from .limits import DEAD_MS, KEPT_MOST, RESULT_MS, TRIES
from .links import lift, link
from .node import lost, reap
from .store import Script, readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .node import Node
    from .store import Connection

log = logging.getLogger("gridworker.distributor")
DEAD_SECONDS = DEAD_MS / 1000
HOIST_MOST = 100            # from one member in one period


class Watch:
    """Whose beat has stopped: pure, on the reader's own monotonic clock; the beats are only counters.

    A reader that could not read for a while (`gap` seconds) knows nothing of that time, so all clocks start anew.
    """

    def __init__(self, patience: float = DEAD_SECONDS, gap: float = 2.0) -> None:
        self.patience, self.gap = patience, gap
        self._seen: dict[str, tuple[int, float]] = {}
        self._last = float("-inf")

    def __repr__(self) -> str:
        return f"<Watch {len(self._seen)} beats>"

    def silent(self, beats: Mapping[str, int], now: float) -> set[str]:
        """Those in `beats` whose counter has stood still for longer than the patience."""
        if now - self._last > self.gap:
            self._seen = {name: (count, now) for name, (count, _) in self._seen.items()}
        self._last = now
        for name, count in beats.items():
            if name not in self._seen or self._seen[name][0] != count:
                self._seen[name] = (count, now)
        for name in self._seen.keys() - beats.keys():
            del self._seen[name]
        return {name for name, (_, since) in self._seen.items() if now - since > self.patience}


class Distributor:
    """The distributor of a pool; `run()` returns after `stop()`. `period`: seconds between its rounds."""

    def __init__(self, node: Node, connection: Connection, *, period: float = 1.0, parent: str = "") -> None:
        self.node, self.period = node, period
        self.reaped = self.hoisted = 0
        self._connection = connection
        self._watch = Watch(gap=max(2.0, 3 * period))
        self._reap, self._hoist, self._acknowledge = Script("reap"), Script("hoist"), Script("acknowledge")
        self._lift = Script("lift") if parent else None
        self._parent, self.lifted = parent, 0
        self._supervisors: dict[bytes, str] = {}        # incarnation -> who beats for it
        self._stopping = False
        self._bell, self._ring = os.pipe()

    def __repr__(self) -> str:
        return f"<Distributor {self.node.name} reaped={self.reaped} hoisted={self.hoisted}>"

    def stop(self) -> None:
        """Ends `run` soon. May be called by a signal handler."""
        self._stopping = True
        os.write(self._ring, b"x")

    def run(self) -> None:
        """Round after round; a lost connection is looked for as long as it takes."""
        while not self._stopping:
            try:
                self.round(time.monotonic())
            except GridUnreachable as error:
                log.warning("distributor %s: %s", self.node.name, error)
                self._reconnect()
            except GridFull as error:       # there is no room for the report; reaping and hoisting have been done
                log.warning("distributor %s: %s", self.node.name, error)
            readable(self._bell, self.period)

    def _reconnect(self) -> None:
        try:
            self._connection.connect(patience=1.0)
        except GridUnreachable:
            return

    def round(self, now: float) -> None:
        """Reaps, hoists, reports, once."""
        self._reap_silent(now)
        keys, pool = self.node.keys, self.node.pool
        moved = self._connection.run(self._hoist, (keys.nodes, keys.busy(pool)), [keys.prefix, pool, HOIST_MOST])
        self.hoisted += moved
        if moved:
            log.debug("hoisted %d call(s) in pool %s", moved, pool)
        if self._lift is not None:
            link(self._connection, keys, pool, self._parent)        # again each time: somebody may have emptied the server
            self.lifted += lift(self._connection, self._lift, keys, pool)
        self._connection.run(self._acknowledge, (keys.kept, keys.unheard, keys.nodes),
                             [keys.prefix, RESULT_MS, KEPT_MOST, ""])       # lets go what is old
        queued, up, idle, busy = self._connection.pipeline([("LLEN", keys.queue(pool)), ("LLEN", keys.up(pool)),
                                                           ("SCARD", keys.volunteers(pool)), ("SCARD", keys.busy(pool))])
        state = {"distributor": self.node.name, "queued": queued, "up": up, "idle": idle, "busy": busy, "reaped": self.reaped,
                 "hoisted": self.hoisted, "lifted": self.lifted, "parent": self._parent}
        self._connection.call("SET", keys.report(pool), json.dumps(state), "PX", int(10_000 + 3000 * self.period))

    def _reap_silent(self, now: float) -> None:
        keys = self.node.keys
        # nodes first: whoever is among them had its supervisor among the beats before, and so has it afterwards unless that has left
        nodes, beats = self._connection.pipeline([("HGETALL", keys.nodes), ("HGETALL", keys.beats)])
        counters = {beats[i].decode(): int(beats[i + 1]) for i in range(0, len(beats), 2)}
        silent = self._watch.silent(counters, now)
        known = dict(zip(nodes[::2], nodes[1::2], strict=True))
        for incarnation in known.keys() - self._supervisors.keys():
            self._supervisors[incarnation] = json.loads(known[incarnation])["supervisor"]
        for incarnation in self._supervisors.keys() - known.keys():
            del self._supervisors[incarnation]
        for incarnation, supervisor in list(self._supervisors.items()):
            if supervisor in silent or supervisor not in counters:
                self._bury(incarnation.decode())
        for supervisor in silent:
            self._connection.call("HDEL", keys.beats, supervisor)

    def _bury(self, node: str) -> None:
        requeued, given_up = reap(self._connection, self._reap, self.node.keys, node, dead=True, tries=TRIES, why=lost(node))
        self._connection.call("HDEL", self.node.keys.tallies, node)
        if requeued >= 0:
            self.reaped += 1
            log.warning("node %s is silent: %d call(s) requeued, %d given up", node, requeued, given_up)
