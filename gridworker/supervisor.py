"""The supervisor: one process per host that forks its nodes after the imports, beats for them, and sees them die.

It computes nothing, so its beat does not stop when a function on a worker holds the interpreter for minutes. A node's death is known at
once by waitpid, reported to the grid, and the node started again, later and later if it keeps dying. When the supervisor itself dies,
however it dies, the kernel closes its end of each node's pipe, and that kills the node.

When the server has been gone for long (limits.ALONE_MS) it ends its nodes and itself: nobody would ever ask anything of them again.

    SIGTERM, SIGINT   the nodes drain (finish what runs, give back what does not) and leave within the grace; a second signal kills them;
                      a client's `drain` does what the first one does
"""

from __future__ import annotations

import fcntl
import io
import logging
import mmap
import os
import select
import signal
import sys
import time
from contextlib import suppress

from .errors import CodeMismatch, GridDenied, GridError, GridUnreachable
from .keys import LEAVE, checked
from .limits import ALONE_MS, TRIES
from .node import NOBODY, SEVERAL, Node, lost, manner, reap
from .shelf import NOTE_MOST, SETTLED_SECONDS, beside
from .store import Connection, Script, readable
from .tally import Paces, shared
from .wire import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from .keys import Keys
    from .store import Address

log = logging.getLogger("gridworker.supervisor")
BEAT_SECONDS = 1.0
GRACE_SECONDS = 10.0
STEADY_SECONDS = 5.0         # a node that lived this long is restarted at once
SLOWEST_RESTART = 10.0       # seconds between restarts of one that keeps dying
LEFT, BROKEN, GONE, DENIED = 0, 70, 75, 77       # exit status of a node: drained; an error; given up by the grid while it lived; no access


class Role:
    """What a child is to be: `kind` "worker" or "distributor", its pool, its name."""

    __slots__ = ("died_at", "kind", "name", "pause", "pool", "started_at")

    def __init__(self, kind: str, pool: str, name: str) -> None:
        self.kind, self.pool, self.name = kind, checked("pool", pool), checked("node", name)
        self.pause, self.started_at, self.died_at = 0.0, 0.0, 0.0

    def __repr__(self) -> str:
        return f"<Role {self.kind} {self.name} of {self.pool}>"

    def next_pause(self, now: float) -> float:
        """Seconds until it is started again after a death now: none after a steady life, else twice the last."""
        self.pause = 0.0 if now - self.started_at >= STEADY_SECONDS else min(SLOWEST_RESTART, 2 * self.pause or 0.05)
        return self.pause


class Supervisor:
    """Runs nodes on this host until it is told to leave.

    `serve(node, role, connection, ready)` runs one in its own process; it calls `ready()` once the node is registered.
    """

    def __init__(self, address: Address, password: str | None, keys: Keys, roles: list[Role],
                 serve: Callable[[Node, Role, Connection, Callable[[], None]], None], *, ready_file: str | None = None,
                 grace: float = GRACE_SECONDS, beat: float = BEAT_SECONDS) -> None:
        self.address, self.keys, self.roles, self.grace, self.beat = address, keys, roles, grace, beat
        self.name = f"s{os.urandom(4).hex()}"
        self.restarts = 0
        self._password, self._serve, self._ready_file = password, serve, ready_file
        self._connection = Connection(address, password, name=f"supervisor:{self.name}")
        self._children: dict[int, tuple[Role, Node]] = {}
        self._lifelines: dict[int, int] = {}            # pid -> our end of its pipe
        self._asleep: list[tuple[float, Role]] = []     # to be started again, and when
        self._unburied: list[tuple[str, bytes, int | None]] = []    # dead nodes of which the grid is to hear, their calls, exit codes
        self._doomed: set[bytes] = set()                # nodes in cancelled calls at the last beat, see beat.lua
        self._stops = 0
        self._ready: set[str] = set()
        self._reap, self._beat_script = Script("reap"), Script("beat")
        self._denied = False
        self._alone_since: float | None = None          # the first beat that nobody heard
        self._paces = Paces()
        self._swept_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<Supervisor {self.name} children={len(self._children)} restarts={self.restarts}>"

    def run(self) -> dict[str, Any]:
        """Until SIGTERM or SIGINT. GridDenied, CodeMismatch, GridUnreachable if the grid can't be entered at the start."""
        self._connection.connect(patience=10.0)
        enter(self._connection, self.keys, "host")
        self._send_beat()
        bell, ring = os.pipe()
        self._ready_in, self._ready_out = os.pipe()
        for end in (bell, ring, self._ready_in):
            os.set_blocking(end, False)
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
        woken_before = signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        try:
            for role in self.roles:
                self._spawn(role)
            self._watch(bell)
        finally:
            self._end_all()
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            for end in (bell, ring, self._ready_in, self._ready_out):
                os.close(end)
        if self._denied:
            raise GridDenied("the grid refused this host's nodes; the log says why")
        if self._alone():
            raise GridUnreachable(f"no server at {self.address.url} for {ALONE_MS / 1000:.0f} s: the nodes of this host have left "
                                  "(GRIDWORKER_ALONE_MS allows more)")
        return {"supervisor": self.name, "nodes": [role.name for role in self.roles], "restarts": self.restarts}

    def _signalled(self, number: int, frame: object) -> None:
        if number != signal.SIGCHLD:
            self._stops += 1

    def _watch(self, bell: int) -> None:
        next_beat = time.monotonic() + self.beat
        leave_by, told = float("inf"), 0
        while True:
            self._bury()
            if self._stops > told or self._denied:
                told = max(told, self._stops, 1)
                leave_by = 0.0 if told > 1 else time.monotonic() + self.grace
                self._tell_children(signal.SIGTERM)
            if self._alone() or (told and (not self._children or time.monotonic() >= leave_by)):
                return
            now = time.monotonic()
            if now >= next_beat:
                self._send_beat()
                self._sweep(now)
                next_beat = time.monotonic() + self.beat
            if not told:
                self._start_due(now)
            until = min([next_beat, leave_by, *(at for at, _ in self._asleep)])
            heard, _, _ = select.select([bell, self._ready_in], [], [], max(0.0, until - time.monotonic()))
            if bell in heard:
                os.read(bell, 4096)
            if self._ready_in in heard:
                self._hear_ready()

    def _start_due(self, now: float) -> None:
        due = [role for at, role in self._asleep if at <= now]
        self._asleep = [(at, role) for at, role in self._asleep if at > now]
        for role in due:
            self.restarts += 1
            self._spawn(role)

    def _hear_ready(self) -> None:
        self._ready.update(os.read(self._ready_in, 65536).decode().split())
        if self._ready_file and len(self._ready) >= len(self.roles):
            with open(self._ready_file + ".new", "w", encoding="ascii") as file:
                file.write("".join(f"{name}\n" for name in sorted(self._ready)))
            os.replace(self._ready_file + ".new", self._ready_file)
            self._ready_file = None

    def _send_beat(self) -> None:
        try:
            still = self._connection.run(self._beat_script, (self.keys.beats, self.keys.kill(self.name), self.keys.tallies),
                                         [self.keys.prefix, self.name, *self._paces.beat(node for _, node in self._children.values())])
        except GridUnreachable:
            return self._reconnect()
        except GridError as error:          # the server's disk is full, say: it may recover
            self._alone_since = None
            return log.warning("supervisor %s could not beat: %s", self.name, error)
        self._alone_since = None
        if LEAVE in still:                  # as if by SIGTERM, but never impatient: it is said at each beat
            still.remove(LEAVE)
            if not self._stops:
                log.info("supervisor %s is told to leave", self.name)
                self._stops = 1
        if still or self._doomed:
            self._kill_deaf(set(still))
        return None

    def _sweep(self, now: float) -> None:
        """Now and then: takes from the shelf, if there is one, what the server has let go when its time was over."""
        if now - self._swept_at < SETTLED_SECONDS:
            return
        self._swept_at = now
        if (shelf := beside(self.address)) is not None:
            try:
                shelf.sweep(self._notes)
            except GridError as error:
                log.info("supervisor %s could not sweep the shelf: %s", self.name, error)

    def _notes(self, keys: Sequence[str]) -> list[bytes]:
        replies = self._connection.pipeline([("GETRANGE", key, 0, NOTE_MOST) for key in keys])
        for reply in replies:
            if isinstance(reply, GridError):
                raise reply
        return replies

    def _alone(self) -> bool:
        """Whether the server has been gone for too long."""
        return self._alone_since is not None and time.monotonic() - self._alone_since >= ALONE_MS / 1000

    def _kill_deaf(self, still: set[bytes]) -> None:
        """Kills nodes that have been in a call for a whole beat since it was cancelled with `kill`."""
        deaf = {entry.partition(b",")[0].decode() for entry in still & self._doomed}
        self._doomed = still
        for pid, (_, node) in self._children.items():
            if node.incarnation in deaf:
                log.warning("node %s is killed: it computes a call that was cancelled with kill=True", node.name)
                os.kill(pid, signal.SIGKILL)

    def _reconnect(self) -> None:
        if self._alone_since is None:
            self._alone_since = time.monotonic()
        try:
            self._connection.connect()
        except GridError as error:
            log.warning("supervisor %s cannot reach the server: %s", self.name, error)

    # children

    def _spawn(self, role: Role) -> None:
        node = Node(self.keys, role.pool, role.name, kind=role.kind, supervisor=self.name)
        role.started_at = time.monotonic()
        node.now = mmap.mmap(-1, len(NOBODY))       # shared with the child
        node.tally = shared()
        child_end, our_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._child(role, node, child_end, our_end)
        os.close(child_end)
        self._children[pid] = (role, node)
        self._lifelines[pid] = our_end

    def _child(self, role: Role, node: Node, child_end: int, our_end: int) -> NoReturn:
        status = BROKEN
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C goes to the whole group; the supervisor decides
            for end in (our_end, *self._lifelines.values()):
                os.close(end)
            die_with(child_end)
            if isinstance(sys.stdout, io.TextIOWrapper):        # what functions print: whole lines among those of others, and at once
                sys.stdout.reconfigure(line_buffering=True, write_through=False)
            connection = Connection(self.address, self._password, name=f"{role.kind}:{node.name}")
            connection.connect(patience=30.0)
            self._serve(node, role, connection, lambda: (os.write(self._ready_out, f"{role.name}\n".encode()), None)[1])
            status = LEFT
        except (GridDenied, CodeMismatch) as error:
            log.error("%s: %s", node.name, error)
            status = DENIED
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else BROKEN
        except BaseException:
            log.exception("node %s broke", node.name)
        finally:
            with suppress(Exception):
                sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _bury(self) -> None:
        """Takes note of ended children, tells the grid, plans restarts."""
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            role, node = self._children.pop(pid)
            os.close(self._lifelines.pop(pid))
            code = os.waitstatus_to_exitcode(status)
            self._denied = self._denied or code == DENIED
            self._unburied.append((node.incarnation, culprit_in(node.now), code))
            if not self._stops:
                pause = role.next_pause(time.monotonic())
                log.warning("node %s ended%s; it starts again in %.1f s", node.name, manner(code), pause)
                self._asleep.append((time.monotonic() + pause, role))
        while self._unburied:
            dead, culprit, end = self._unburied[0]
            try:
                requeued, given_up = reap(self._connection, self._reap, self.keys, dead, dead=True, tries=TRIES, why=lost(dead, end),
                                          culprit=culprit)
                self._connection.call("HDEL", self.keys.tallies, dead)
            except GridUnreachable:
                return self._reconnect()
            except GridError as error:
                return log.warning("node %s died and the server does not take it: %s", dead, error)
            if requeued > 0 or given_up > 0:
                told = log.info if self._stops else log.warning         # who is told to leave may leave something behind
                told("node %s died: %d call(s) requeued, %d given up", dead, requeued, given_up)
            del self._unburied[0]
        return None

    def _tell_children(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)

    def _end_all(self) -> None:
        self._tell_children(signal.SIGKILL)
        for pid, (_, node) in list(self._children.items()):
            os.waitpid(pid, 0)
            os.close(self._lifelines.pop(pid))
            self._unburied.append((node.incarnation, NOBODY, None))       # it was told to leave: none of its calls is to blame
        self._children.clear()
        self._stops += 1
        try:
            self._bury()
            self._connection.call("HDEL", self.keys.beats, self.name)
        except GridError as error:
            log.warning("supervisor %s left without telling the grid: %s", self.name, error)
        self._connection.close()


def culprit_in(now: bytearray | mmap.mmap) -> bytes:
    """The call that a dead node was computing, for reap: its id, NOBODY, or b"" if it may have been any.

    >>> culprit_in(bytearray(b"*" * 32)), culprit_in(bytearray(b"0" * 32)) == b"0" * 32
    (b'', True)
    """
    what = bytes(now[:len(NOBODY)])
    return b"" if what == SEVERAL else what


def die_with(pipe: int) -> None:
    """Lets the kernel kill this process when the other end of the pipe is closed, which it is when its holder dies."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)       # else SIGIO, which ends a process too
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if readable(pipe):                                          # it was closed before we could listen
        os._exit(LEFT)
