"""The names of things in Redis. All keys of a grid begin with its namespace, so many grids can share a server.

    <ns>:wire             string  <format> <version of gridworker>: which wire format this grid speaks; whoever came first fixed it
    <ns>:refused          string  <format> <version>: nodes that came and speak another, for a time
    <ns>:nodes            hash    incarnation -> what is known of it (JSON); the living, as far as the grid knows
    <ns>:beats            hash    supervisor or client -> counter; whoever's counter stands still is dead
    <ns>:executed         hash    node name -> calls executed
    <ns>:links            hash    pool -> the pool that it is linked to
    <ns>:tallies          hash    incarnation -> what it has counted, as of its host's last beat
    <ns>:t:<call>         string  the record of a traced call (JSON)
    <ns>:pools            set     names of pools ever used by a node
    <ns>:report:<pool>    string  the distributor's last report on its pool (JSON)
    <ns>:log              stream  what the nodes logged, bounded
    <ns>:code:<hash>      string  a function of a notebook or script, by value, unless it is big: then it is a part
    <ns>:c:<call>         string  the state of a call: P<asker,parent>… | R<id><result> | E<id><failure>
    <ns>:b:<part>         string  a big function or part of arguments (named by its digest), or of a result (<call>.<nonce><number>)
    <ns>:need:<part>      hash    call -> ms since 1970: calls that the part was stored for
    <ns>:parts            zset    parts by their last use, in ms since 1970: arguments, and results that were heard
    <ns>:parts:bytes      string  how many bytes these parts have
    <ns>:q:<pool>         list    fresh calls, oldest left
    <ns>:up:<pool>        list    calls made by calls, sent or hoisted to the pool; before fresh ones, oldest left
    <ns>:v:<pool>         set     volunteers: idle nodes
    <ns>:vl:<pool>        set     idle nodes of pools linked to this one; hints: they count while they are in the v of their own pool
    <ns>:vs:<pool>        set     idle nodes at their cap of parked calls: volunteers for calls of calls only
    <ns>:busy:<pool>      set     nodes that may have calls in their own queue
    <ns>:own:<node>       hash    call -> item: what this incarnation has been handed and has not finished (its leases)
    <ns>:mine:<node>      list    its own queue, newest left
    <ns>:in:<who>         list    inbox of a node or a client
    <ns>:kill:<who>       set     <incarnation>,<call>: nodes of this supervisor to be killed unless that call ends; `leave`: to leave, all
    <ns>:kept             list    <ms since 1970, 13 digits><results so far, 15 digits><letter and call, …>: results that were acknowledged,
                                  in batches, oldest left; they are kept for a time
    <ns>:unheard          hash    call -> <asker><asker>…: results that several were waiting for; these have not acknowledged

A node's incarnation is `pool/name~start`: the pool is part of it, so that whoever rings a node's bell knows where it volunteers.
"""

from __future__ import annotations

import os

from .errors import InvalidName

WIRE = 6        # the format of keys, states, items, messages and seals: raise it with any change that a process of before would misread, or
                # that misreads what such a one has left on a server. Whoever speaks another than the grid is refused: wire.py
LEAVE = b"leave"
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def checked(what: str, name: str) -> str:
    """The name, if it is acceptable for a pool, node, client or namespace; InvalidName otherwise."""
    if not name or len(name) > 100 or not _ALLOWED.issuperset(name):
        raise InvalidName(what, name)
    return name


def incarnation(pool: str, name: str) -> str:
    """A new incarnation of a node: never used before, so that leases of an earlier life can be told apart."""
    return f"{checked('pool', pool)}/{checked('node', name)}~{os.urandom(4).hex()}"


def name_of(incarnation: str) -> str:
    """The node's name in an incarnation.

    >>> name_of("pool/w1~0a0b0c0d")
    'w1'
    """
    return incarnation.partition("/")[2].rpartition("~")[0]


class Keys:
    """The keys of one grid.

    >>> Keys("grid").queue("pool")
    'grid:q:pool'
    """

    __slots__ = ("beats", "executed", "kept", "links", "log", "namespace", "nodes", "parts", "pools", "prefix", "refused",
                 "tallies", "unheard", "wire")

    def __init__(self, namespace: str) -> None:
        self.namespace = checked("namespace", namespace)
        self.prefix = prefix = namespace + ":"
        self.wire = prefix + "wire"
        self.refused = prefix + "refused"
        self.nodes = prefix + "nodes"
        self.beats = prefix + "beats"
        self.executed = prefix + "executed"
        self.pools = prefix + "pools"
        self.tallies = prefix + "tallies"
        self.links = prefix + "links"
        self.log = prefix + "log"
        self.kept = prefix + "kept"
        self.unheard = prefix + "unheard"
        self.parts = prefix + "parts"

    def __repr__(self) -> str:
        return f"Keys({self.namespace!r})"

    def call(self, call: str) -> str:
        """State of a call."""
        return f"{self.prefix}c:{call}"

    def trace(self, call: str) -> str:
        """The record of a traced call."""
        return f"{self.prefix}t:{call}"

    def code(self, digest: str) -> str:
        """A function that travels by value."""
        return f"{self.prefix}code:{digest}"

    def part(self, name: str) -> str:
        """A big part of a value."""
        return f"{self.prefix}b:{name}"

    def report(self, pool: str) -> str:
        """The distributor's last report."""
        return f"{self.prefix}report:{pool}"

    def queue(self, pool: str) -> str:
        """Fresh calls."""
        return f"{self.prefix}q:{pool}"

    def up(self, pool: str) -> str:
        """Calls of calls in the pool."""
        return f"{self.prefix}up:{pool}"

    def volunteers(self, pool: str) -> str:
        """Idle nodes."""
        return f"{self.prefix}v:{pool}"

    def helpers(self, pool: str) -> str:
        """Idle nodes that take only calls of calls."""
        return f"{self.prefix}vs:{pool}"

    def busy(self, pool: str) -> str:
        """Nodes with a queue of their own."""
        return f"{self.prefix}busy:{pool}"

    def owned(self, node: str) -> str:
        """The leases of an incarnation."""
        return f"{self.prefix}own:{node}"

    def mine(self, node: str) -> str:
        """The own queue of an incarnation."""
        return f"{self.prefix}mine:{node}"

    def kill(self, supervisor: str) -> str:
        """What a supervisor is told at its next beat: calls that were cancelled with `kill`, of its nodes, and to leave."""
        return f"{self.prefix}kill:{supervisor}"

    def inbox(self, who: str) -> str:
        """The inbox of a node's incarnation or of a client."""
        return f"{self.prefix}in:{who}"
