"""The scripts against a model: in any order of asking, taking, finishing, failing, giving back, dying, cancelling,
collecting, reconnecting, acknowledging and repeating, no call is lost.

What must be true after each step: a pending call is in exactly one queue or owned by a living node; everyone who asked for a call
that is over has been told so exactly once for each time they asked; nobody is told anything else. One exception: a success that comes
late leaves its call's second copy in a queue; where the result is let go and the call asked for anew before the copy's turn comes, both
are there, and the call runs once more than it need have.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from memory import Memory

from gridworker.keys import Keys
from gridworker.messages import ID, item
from gridworker.node import Node, reap
from gridworker.server import Server, found
from gridworker.store import GONE, Connection, Script
from gridworker.withdrawal import cancel_arguments

CALLS = [f"{n:032x}" for n in range(6)]
CLIENTS = ["c.1", "c.2"]
TRIES = 3


class Grid(RuleBasedStateMachine):
    """Three nodes and two clients, played by one connection."""

    connection: Connection
    keys: Keys

    @initialize()
    def begin(self) -> None:
        self.connection.call("FLUSHDB")                   # a server that this test has started
        self.nodes = [self._new() for _ in range(3)]
        self.held: dict[str, list[bytes]] = {node.incarnation: [] for node in self.nodes}
        self.waiting: set[tuple[str, str]] = set()        # (client, call): asked and not told
        self.dead: list[Node] = []
        self.superfluous: set[str] = set()                # calls that have been over while a copy was queued
        self.cancelled: dict[str, list[str]] = {}         # what nodes were told to drop and have not dropped yet

    def _new(self) -> Node:
        node = Node(self.keys, "pool", "n", kind="worker", supervisor="s")
        node.register(self.connection, Script("register"))
        return node

    def _step(self, node: Node, *, want: int = 0, idle: bool = False, done: bytes = b"", back: tuple[bytes, ...] = ()) -> Any:
        keys, name = self.keys, node.incarnation
        fixed = (keys.nodes, keys.owned(name), keys.mine(name), keys.inbox(name), keys.up("pool"), keys.queue("pool"), keys.busy("pool"),
                 keys.volunteers("pool"), keys.helpers("pool"), keys.executed)
        before = self.connection.call("GET", keys.call(done[1:1 + ID].decode())) if done else None
        reply = self.connection.run(Script("step"), fixed, [
            keys.prefix, name, "pool", node.name, 60000, 60000, want, "f" * 8, "idle" if idle else "", "", "", int(bool(done)), len(back),
            0, 0, *filter(None, [done]), *back])
        if reply != GONE:
            messages, items = reply
            unasked = [b"N" + done[1:]] if done[:1] == b"R" and before is None else []
            assert [message for message in messages if message[:1] not in b"WX"] == unasked       # told to who computed it
            for message in messages:
                if message[:1] == b"W":
                    self.held[name].append(message[1:])
                elif message[:1] == b"X":
                    self.cancelled.setdefault(name, []).append(message[1:1 + ID].decode())
            self.held[name] += items
        return reply

    @rule(client=st.sampled_from(CLIENTS), calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=4, unique=True), again=st.booleans())
    def ask(self, client: str, calls: list[str], again: bool) -> None:
        arguments: list[Any] = [self.keys.prefix, client, "1" if again else ""]
        for call in calls:
            arguments += ("pool", item(call, "f" * 8, "m:f@", b""))
        self.connection.run(Script("submit"), (self.keys.nodes,), arguments)
        self.waiting.update((client, call) for call in calls)

    @precondition(lambda self: self.waiting or not any(self.held.values()))
    @rule(which=st.integers(0, 2), want=st.integers(1, 3), idle=st.booleans())
    def take(self, which: int, want: int, idle: bool) -> None:
        self._step(self.nodes[which], want=want, idle=idle)

    def _holding(self, which: int) -> Node:
        holding = [node for node in self.nodes if self.held[node.incarnation]]
        return holding[which % len(holding)]

    @precondition(lambda self: any(self.held[node.incarnation] for node in self.nodes))
    @rule(which=st.integers(0, 2), kind=st.sampled_from("RRE"), repeat=st.booleans())
    def finish(self, which: int, kind: str, repeat: bool) -> None:
        node = self._holding(which)
        call = self.held[node.incarnation].pop(0)[:ID].decode()
        for _ in range(1 + repeat):
            self._step(node, done=f"{kind}{call}body".encode())

    @precondition(lambda self: any(self.held[node.incarnation] for node in self.nodes))
    @rule(which=st.integers(0, 2), repeat=st.booleans())
    def give_back(self, which: int, repeat: bool) -> None:
        node = self._holding(which)
        unstarted = self.held[node.incarnation].pop()
        if not repeat:
            self._step(node, back=(unstarted,))
            return
        held, cancelled = self.held[node.incarnation][:], self.cancelled.get(node.incarnation, [])[:]
        self._step(node, back=(unstarted,))             # the connection breaks: what this reply brings is neither heard nor run
        self.held[node.incarnation], self.cancelled[node.incarnation] = held, cancelled
        self._step(node, back=(unstarted,))
        known = {item[:ID] for item in self.held[node.incarnation]}
        owned = self.connection.run(Script("resync"), (self.keys.nodes, self.keys.owned(node.incarnation)),
                                    [self.keys.prefix, node.incarnation])
        self.held[node.incarnation] += [item for item in owned if len(item) > ID and item[:ID] not in known]

    @rule(which=st.integers(0, 2))
    def die(self, which: int) -> None:
        node = self.nodes[which]
        for _ in range(2):
            reap(self.connection, Script("reap"), self.keys, node.incarnation, dead=True, tries=TRIES, why=b"lost")
        self.dead.append(node)
        self.nodes[which] = self._new()
        self.held[self.nodes[which].incarnation] = []

    @rule(client=st.sampled_from(CLIENTS), call=st.sampled_from(CALLS), asked=st.integers(0, 3), kill=st.booleans(), repeat=st.booleans())
    def take_back(self, client: str, call: str, asked: int, kill: bool, repeat: bool) -> None:
        """A client cancels, mostly what it has asked for; whoever asks besides goes on waiting."""
        if asked and self.waiting:
            client, call = sorted(self.waiting)[asked % len(self.waiting)]
        for _ in range(1 + repeat):
            keys, arguments = cancel_arguments(self.keys, client, [(call, "", "pool")], kill)
            self.connection.run(Script("cancel"), keys, arguments)
        self.waiting.discard((client, call))

    @rule(which=st.integers(0, 2))
    def hear_of_cancellations(self, which: int) -> None:
        """A node drops what it was told to drop, and says so; before, it may have finished it as well."""
        node = self.nodes[which]
        self._step(node)
        for call in self.cancelled.pop(node.incarnation, []):
            self.held[node.incarnation] = [held for held in self.held[node.incarnation] if held[:ID].decode() != call]
            self.connection.run(Script("drop"), (self.keys.owned(node.incarnation),), [self.keys.prefix, call])

    @rule(client=st.sampled_from(CLIENTS), call=st.sampled_from(CALLS))
    def collect(self, client: str, call: str) -> None:
        """A client that has only the id joins, or is told: the outcome, or that there is none."""
        self.connection.run(Script("collect"), (self.keys.nodes,), [self.keys.prefix, client, b"unknown", call])
        self.waiting.add((client, call))

    @precondition(lambda self: self.waiting)
    @rule(client=st.sampled_from(CLIENTS))
    def reconnect(self, client: str) -> None:
        """A client whose messages may have been lost on the way asks again for all that it waits for."""
        waiting = [call for asker, call in self.waiting if asker == client]
        self.connection.call("DEL", self.keys.inbox(client))
        if waiting:
            self.ask(client=client, calls=waiting, again=True)

    @rule(client=st.sampled_from(CLIENTS), calls=st.lists(st.sampled_from(CALLS), max_size=4), most=st.integers(0, 2))
    def acknowledge(self, client: str, calls: list[str], most: int) -> None:
        """Results are heard, also by repetition, and all but the last few let go."""
        self.connection.run(Script("acknowledge"), (self.keys.kept, self.keys.unheard, self.keys.nodes),
                            [self.keys.prefix, 60000, most, client, "".join("RL"[number % 2] + call for number, call in enumerate(calls))])

    @precondition(lambda self: any(self.held.get(node.incarnation) for node in self.dead))
    @rule()
    def come_late(self) -> None:
        """A node that was given up finishes what it had, successfully."""
        for node in self.dead:
            for late in self.held.pop(node.incarnation, []):
                assert self._step(node, done=b"R" + late[:ID] + b"late") == GONE
                self.superfluous.add(late[:ID].decode())
        self.dead.clear()

    @rule()
    def hoist(self) -> None:
        self.connection.run(Script("hoist"), (self.keys.nodes, self.keys.busy("pool")), [self.keys.prefix, "pool", 2])

    @invariant()
    def nobody_is_told_what_he_did_not_ask(self) -> None:
        for client in CLIENTS:
            for message in self.connection.call("LPOP", self.keys.inbox(client), 1000) or []:
                assert message[:1] in (b"R", b"E")
                asked = (client, message[1:1 + ID].decode())
                assert asked in self.waiting
                self.waiting.discard(asked)

    @invariant()
    def nothing_is_lost_or_there_twice(self) -> None:
        keys, where = self.keys, Counter[str]()
        lists = [keys.queue("pool"), keys.up("pool"), *(keys.mine(node.incarnation) for node in self.nodes)]
        for name in lists:
            where.update(part[:ID].decode() for part in self.connection.call("LRANGE", name, 0, -1))
        for node in self.nodes:
            owned = self.connection.call("HGETALL", keys.owned(node.incarnation))
            where.update(owned[i].decode() for i in range(0, len(owned), 2) if owned[i + 1] != b"K")
        for call in CALLS:
            state = self.connection.call("GET", keys.call(call)) or b""
            if state[:1] == b"P":
                most = 1 + (call in self.superfluous)
                assert 1 <= where[call] <= most, f"{call} is pending and {where[call]} times there"
                askers = {asker.split(b",")[0].decode() for asker in state[2:-1].split(b"><")}
                assert askers == {client for client, asked in self.waiting if asked == call}
            else:
                assert call not in {asked for _, asked in self.waiting}
        for node in self.dead:
            name = node.incarnation
            assert self.connection.call("EXISTS", keys.owned(name), keys.mine(name), keys.inbox(name)) == 0


@pytest.mark.parametrize("store", [*found(), Memory], ids=lambda store: "memory" if store is Memory else store.name)
def test_no_order_of_events_loses_a_call(store: Path | type[Memory]) -> None:
    """On every server that is here, Redis and Valkey where both are, and on a store in memory."""
    with Server(unix=True, binary=store) if isinstance(store, Path) else store() as server:
        Grid.connection, Grid.keys = server.connection(), Keys("model")
        try:
            run_state_machine_as_test(Grid, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))
        finally:
            Grid.connection.close()
