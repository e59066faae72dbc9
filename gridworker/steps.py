"""A worker's conversation with the server: what has happened since the last step goes out, what comes next comes in.

A step that breaks with the connection is simply repeated: completions and asks are idempotent, and `resync` tells what the worker owns
and has not heard of. So steps need no numbers, and the server no memory of replies.
"""

from __future__ import annotations

import time

from .errors import GridFull, GridUnreachable
from .limits import CODE_MS, CODES_MOST, FAILURE_MS, KEPT_MOST, RESULT_MS, UNHEARD_MS
from .messages import ID, UNSIGNED, WORK, Failure
from .store import GONE, Script
from .withdrawal import cancel_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .node import Node
    from .serialize import Reference
    from .signing import Seal
    from .store import Connection
    from .withdrawal import Withdrawn


class Steps:
    """The outgoing side collects; `exchange` sends it and returns what came. `gone` says that the grid has given this node up."""

    def __init__(self, node: Node, connection: Connection, asked: Callable[[], list[tuple[str, str, bytes]]],
                 seal: Seal = UNSIGNED) -> None:
        keys, name, pool = node.keys, node.incarnation, node.pool
        self.node, self.connection, self._seal = node, connection, seal
        self.gone = False
        self.held: set[bytes] = set()                   # ids of what this worker owns
        self._fixed = (keys.nodes, keys.owned(name), keys.mine(name), keys.inbox(name), keys.up(pool), keys.queue(pool), keys.busy(pool),
                       keys.volunteers(pool), keys.helpers(pool), keys.executed)
        self._step, self._resync = Script("step"), Script("resync")
        self._step_full: Script | None = None           # the step of a server that is at its memory limit
        self._completions: list[bytes] = []
        self._heard_here: list[bytes] = []
        self._asks: list[Any] = []
        self._asked = asked                             # all that is still waited for: (pool, parent, item)
        self._stored: dict[str, float] = {}             # functions by value that were stored, and when
        self._acknowledge = Script("acknowledge")
        self.before_asking_again: Callable[[], object] = bool     # stores again what those calls need that are asked for again
        self._suspect = False                           # the connection was replaced: something may not have been heard

    def __repr__(self) -> str:
        done = len(self._completions) + len(self._heard_here)
        return f"<Steps of {self.node.name}: {done} done, {len(self._asks) // 3} asks, {len(self.held)} held>"

    @property
    def pending(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._completions or self._heard_here or self._asks)

    def complete(self, outcome: bytes, here: bool = False) -> None:
        """A call is over: its outcome, as inboxes have it. `here`: this worker itself has heard it, and only others are to be told."""
        (self._heard_here if here else self._completions).append(outcome)
        self.held.discard(outcome[1:1 + ID])

    def ask(self, asks: list[tuple[str, str, bytes]]) -> None:
        """Calls are wanted: (pool, parent, item)."""
        for ask in asks:
            self._asks += ask

    def exchange(self, *, want: int, token: bytes, idle: bool, capped: bool,
                 spare: int = 0, back: list[bytes] | None = None) -> tuple[list[bytes], list[bytes]]:
        """One step: (messages, items). After a broken connection: repeated until the server is there again."""
        back = back or []
        self.held.difference_update(item[:ID] for item in back)
        while True:
            try:
                if not self._suspect:
                    messages, items = self._send(want, token, idle, capped, back, self._asks, spare=spare, again=False)
                    self.held.update([item[:ID] for item in items])
                    return messages, items
            except GridUnreachable:
                self._suspect = True
            missed = self.recover(back)
            if missed or self.gone:
                return missed, []
            back = []

    def _send(self, want: int, token: bytes, idle: bool, capped: bool, back: list[bytes], asks: list[Any], *,
              spare: int = 0, again: bool) -> Any:
        node, outcomes = self.node, self._heard_here + self._completions
        arguments = [node.keys.prefix, node.incarnation, node.pool, node.name, UNHEARD_MS, FAILURE_MS, want, token, "idle" if idle else "",
                     "1" if capped else "", "1" if again else "", len(outcomes), len(back), spare, len(self._heard_here)]
        refused: list[bytes] = []
        try:
            reply = self.connection.run(self._step, self._fixed, arguments + outcomes + back + asks)
        except GridFull as error:
            if not again:
                refused, asks = self._refuse(asks, error), []
            if self._step_full is None:
                self._step_full = Script("step", full=True)
            reply = self.connection.run(self._step_full, self._fixed, arguments + outcomes + back + asks)
        self._completions, self._heard_here, self._asks = [], [], []
        if reply == GONE:
            self.gone = True
            return [], []
        return (refused + reply[0], reply[1]) if refused else reply

    def _refuse(self, asks: list[Any], error: GridFull) -> list[bytes]:
        """There is no room for new calls: the answers to them. What this worker has finished and is to do goes on."""
        import pickle

        body = Failure("raised", "GridFull", str(error), node=self.node.name, cause=pickle.dumps(error)).encode()
        return [b"E" + item[:ID] + self._seal.close(b"E", item[:ID], body) for item in asks[2::3]]

    def listen(self, seconds: float) -> list[bytes]:
        """Waits for the bell: the messages, or none after so many seconds; then it asks again for all it waits for."""
        try:
            reply = self.connection.call("BLMPOP", seconds, 1, self._fixed[3], "LEFT", "COUNT", 1000)
        except GridUnreachable:
            return self.recover([])
        if reply is None:
            return self._again([]) if self._asked() else []
        messages: list[bytes] = reply[1]
        return messages

    def recover(self, back: list[bytes]) -> list[bytes]:
        """Connects again, for as long as it takes, and repeats what may not have been heard."""
        while True:
            try:
                self.connection.connect(patience=60.0)
                messages = self._again(back)
                self._suspect = False
                return messages
            except GridUnreachable:
                time.sleep(0.1)

    def _again(self, back: list[bytes]) -> list[bytes]:
        self.before_asking_again()
        asks: list[Any] = []
        for ask in self._asked():
            asks += ask
        messages, _ = self._send(0, b"", False, False, back, asks, again=True)
        if self.gone:
            return []
        owned = self.connection.run(self._resync, self._fixed[:2], [self.node.keys.prefix, self.node.incarnation])
        if owned == GONE:
            self.gone = True
            return []
        owned = [item for item in owned if len(item) > ID]      # else the mark of a cancelled call, see cancel.lua
        waiting = {message[1:1 + ID] for message in messages if message[0] == WORK}
        missed: list[bytes] = [b"W" + item for item in owned if item[:ID] not in self.held and item[:ID] not in waiting]
        return [*messages, *missed]

    def acknowledge(self, heard: list[bytes]) -> None:
        """Results have arrived here (see waits.batches): this worker does not need them any more. The next step mends a connection."""
        keys = self.node.keys
        try:
            self.connection.run(self._acknowledge, (keys.kept, keys.unheard, keys.nodes),
                                [keys.prefix, RESULT_MS, KEPT_MOST, self.node.incarnation, *heard])
        except GridUnreachable:
            self._suspect = True

    def take_back(self, withdrawn: list[Withdrawn]) -> None:
        """Calls of this worker's calls are not wanted any more."""
        self._rarely(Script("cancel"), *cancel_arguments(self.node.keys, self.node.incarnation, withdrawn, False))

    def items(self, calls: list[str]) -> dict[str, bytes]:
        """The items of those of these calls that nodes hold now. Asks for each node: for what happens rarely."""
        keys, found = self.node.keys, dict[str, bytes]()
        for node in self._patiently("HKEYS", keys.nodes):
            items = self._patiently("HMGET", keys.owned(node.decode()), *calls)
            found.update((call, data) for call, data in zip(calls, items, strict=True) if data)
        return found

    def drop(self, call: str) -> None:
        """A cancelled call has ended here."""
        self._rarely(Script("drop"), self._fixed[1:2], [self.node.keys.prefix, call])

    def _rarely(self, script: Script, keys: tuple[str, ...], arguments: list[Any]) -> None:
        self._patiently("EVAL", script.text, len(keys), *keys, *arguments)

    def fetch_code(self, digest: str) -> bytes | None:
        """The pickle of a function that goes by value; its time to live starts anew. NotTrusted, TooBig."""
        code: bytes | None = self._patiently("GETEX", self.node.keys.code(digest), "PX", CODE_MS)
        return None if code is None else bytes(self._seal.open(b"F", digest.encode(), code))

    def store_code(self, reference: Reference) -> None:
        """Stores a function that goes by value, again only when its time to live has run for a while."""
        now = time.monotonic()
        if now - self._stored.get(reference.text, -float("inf")) > CODE_MS / 4000:
            digest = reference.text[1:]
            code = self._seal.close(b"F", digest.encode(), reference.code)
            self._patiently("SET", self.node.keys.code(digest), code, "PX", CODE_MS)
            self._stored[reference.text] = now
            if len(self._stored) > CODES_MOST:
                del self._stored[next(iter(self._stored))]

    def doubt(self) -> None:
        """Something may not have been heard: the next step asks again."""
        self._suspect = True

    def write(self, key: str, text: str, ms: int) -> None:
        """Writes a text down for that long."""
        self._patiently("SET", key, text, "PX", ms)

    def _patiently(self, *command: Any) -> Any:
        """A command in the midst of a call: a broken connection is replaced, and the next step finds out what was missed."""
        while True:
            try:
                return self.connection.call(*command)
            except GridUnreachable:
                self._suspect = True
                self.connection.connect(patience=float("inf"))      # if the server is gone for good, the supervisor ends this process
