"""What a client can ask of the server besides calls: status, logs, any other command that only reads; and that nodes leave."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

from .answers import Answer
from .errors import GridClosed, GridError, GridUnreachable
from .follow import Following
from .graph import Graph, read_graph
from .keys import LEAVE, Keys
from .limits import UNHEARD_MS
from .logs import Entries, decode_entries, level_number
from .reading import Reading
from .status import Status, read_status
from .store import Address, Connection, pack
from .vacancy import Vacancies, staffed
from .waits import Wait, Waits
from .wire import refusal

log = logging.getLogger("gridworker.client")
LEAVING_SECONDS = 0.1       # between two looks for nodes that are leaving
LOOK_SECONDS = 1.0          # what a message about a time limit may take longer, to say why


class Looking:
    """The part of a client that looks. Its commands take turns with the calls on the client's one connection."""

    address: Address
    keys: Keys
    _closing: bool
    _commands: Connection
    _lock: threading.Lock
    _open: bool
    _opened: threading.Event
    _reading: Reading
    _replies: deque[Callable[[Any], None]]
    _vacancies: Vacancies
    _waits: Waits

    def _ready(self) -> object:
        """Waits for the connection; raises what made it impossible."""
        raise NotImplementedError

    def _lose(self) -> None:
        """A write has failed."""
        raise NotImplementedError

    @overload
    def logs(self, level: str | int = "info", node: str | None = None, *, last: int = 1000, follow: Literal[False] = False) -> Entries: ...
    @overload
    def logs(self, level: str | int = "info", node: str | None = None, *, last: int = 1000, follow: Literal[True]) -> Following: ...
    def logs(self, level: str | int = "info", node: str | None = None, *, last: int = 1000, follow: bool = False) -> Entries | Following:
        """What the nodes logged: the last entries of a level and above, of one node or of all, oldest first. Blocks for milliseconds.

        `follow`: an iterator that goes on with each entry as it is written. `last`: how many entries, of any level, are looked at.
        """
        least = level_number(level)
        if follow:
            return Following(self._commands.another(f"logs:{self.keys.namespace}"), self.keys, least, node, last, lambda: self._closing)
        return decode_entries(self._command("XREVRANGE", self.keys.log, "+", "-", "COUNT", last), least, node)

    def status(self) -> Status:
        """Pools, nodes, queue lengths and what each node has done, as they are now. Blocks for milliseconds."""
        return read_status(self._command, self.keys)

    def graph(self, call: str | Answer[Any], *, most: int = 10_000) -> Graph:
        """The graph of calls that emerged from a traced request: data with times, and a picture. LookupError if it was not traced.

        `call`: the answer of a request made with `trace=True`, or the id of any call below it; `most`: calls that are looked up.
        """
        return read_graph(self._command, self.keys, call if isinstance(call, str) else call.calls[0], most)

    def drain(self, nodes: Iterable[str], *, timeout: float = 60.0) -> list[str]:
        """Has the hosts of these nodes, named as in `status().nodes`, leave the grid; blocks until they have.

        All nodes of such a host take no more calls, finish what runs or give it back within their grace (`--grace`), and end with their
        supervisor. Returns the names of those that are still there after `timeout` seconds, which is no error: they go on leaving.
        LookupError for a node that is not there; nothing has been said to anybody then.
        """
        there, wanted = self._nodes(), list(nodes)
        if strangers := [name for name in wanted if name not in there]:
            raise LookupError(f"no node {', '.join(strangers)} on this grid; it has {', '.join(sorted(there)) or 'none'}")
        supervisors = {there[name]["supervisor"] for name in wanted}
        for supervisor in supervisors:
            key = self.keys.kill(supervisor)
            self._command("SADD", key, LEAVE)
            self._command("PEXPIRE", key, UNHEARD_MS)
        deadline = time.monotonic() + timeout
        while True:
            left = sorted(name for name, one in self._nodes().items() if one["supervisor"] in supervisors)
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(LEAVING_SECONDS)

    def _nodes(self) -> dict[str, dict[str, Any]]:
        """What the nodes have said of themselves, by their names."""
        return {one["name"]: one for one in map(json.loads, self._command("HVALS", self.keys.nodes))}

    # pools without workers

    def _look_for_workers(self) -> None:
        """Asks, if it is time, whether pools that have been asked have workers; warns of those that have none. With the lock held."""
        if not self._open or not self._vacancies.due(time.monotonic()):
            return
        replies: list[Any] = []

        def arrived(reply: Any) -> None:
            replies.append(reply)
            if len(replies) == len(looks) and not any(isinstance(reply, GridError) for reply in replies):
                self._learn(*replies)

        looks = self._looks()
        self._replies += [arrived] * len(looks)
        try:
            self._commands.send(b"".join(map(pack, looks)))
        except GridUnreachable:
            self._lose()

    def _looks(self) -> list[tuple[str, str]]:
        """The commands whose replies tell which pools have workers, and whether some were refused: what `_learn` takes."""
        return [("HGETALL", self.keys.nodes), ("HGETALL", self.keys.links), ("GET", self.keys.refused)]

    def _learn(self, nodes: list[bytes], links: list[bytes], refused: bytes | None) -> None:
        found = staffed(dict(zip(nodes[::2], nodes[1::2], strict=True)), dict(zip(links[::2], links[1::2], strict=True)))
        for text in self._vacancies.learn(found, self._waits.pools(), time.monotonic(), refusal(refused)):
            log.warning("%s. Its calls wait until it has", text)

    def _why(self, wait: Wait) -> str:
        """What to add to the message of a TimeoutError: looks at once whether there is anybody who could answer."""
        with self._lock:
            pools = self._waits.pools(wait)
        try:
            replies = [self._command(*command, timeout=LOOK_SECONDS) for command in self._looks()]
        except GridError:
            return ""
        with self._lock:
            self._vacancies.doubt(pools, time.monotonic())
            self._learn(*replies)
            return self._vacancies.why(pools)

    def _command(self, *command: Any, timeout: float = 60.0) -> Any:
        """The reply of a command that only reads, by way of the reading thread; asked again if the connection breaks.

        Raises ServerError, GridUnreachable after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._ready()
            try:
                return self._command_once(command, deadline)
            except GridUnreachable:
                if not self._opened.wait(max(0.0, deadline - time.monotonic())) or time.monotonic() >= deadline:
                    raise

    def _command_once(self, command: tuple[Any, ...], deadline: float) -> Any:
        gate = threading.Lock()
        gate.acquire()
        got: list[Any] = []

        def arrived(reply: Any) -> None:
            got.append(reply)
            gate.release()

        with self._lock:
            if self._closing:
                raise GridClosed("this client was closed")
            if not self._open:
                raise GridUnreachable(f"the connection to {self.address.url} is broken")
            self._replies.append(arrived)
            try:
                self._commands.send(pack(command))
            except GridUnreachable:
                self._lose()
                raise
        self._reading.need()                            # this thread waits for a lock and reads nothing itself
        if not gate.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise GridUnreachable(f"{self.address.url} did not answer in time")
        if isinstance(got[0], GridError):
            raise got[0]
        return got[0]
