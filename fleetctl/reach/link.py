"""The one SSH connection to a machine: made when it is first needed, shared by all that goes there, made again when it has broken.

    closed ── somebody needs it ──> opening ── it stands ──> open ── it breaks, or lies idle ──> closed
                                        └───── it cannot be had: all who wait are told ──────────> closed

A session makes at most HANDSHAKES at a time: a hundred at once would take each other's time, and all ways into a private subnet lead
through one server, which drops what is too much (sshd_config(5), MaxStartups: from ten on). What is dropped, and what is not listening
yet, is tried again for SECONDS.

A server bears so many commands and copies at a time on one connection (sshd_config(5), MaxSessions: ten); those beyond SESSIONS take a
further connection, which is kept like the first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MachineError
from .command import Command, Done

if TYPE_CHECKING:
    import asyncssh

    from .ssh import Address, Forward, Found, Tied

HANDSHAKES = 8
SESSIONS = 8  # commands and copies at a time on one connection
SECONDS = 20.0  # from the first try to the last
PAUSES = (0.3, 0.6, 1.2, 2.4)  # seconds between tries, give or take a half; the last repeats


@dataclass(frozen=True, slots=True)
class Where:
    """How a machine is reached. `host_key` is what the machine itself has reported; `inside` its private address.

    Of one that has not been launched here, `known` says what the user and ~/.ssh say of it.
    """

    host: str
    port: int
    user: str
    host_key: str
    key_file: Path | None
    name: str
    inside: str
    known: tuple[Address, Found] | None = None


class Link:
    """To one machine. All methods on the session's loop. `where` is asked before each use; `via` gives the machine on the way, if any."""

    def __init__(self, where: Callable[[], Where], gate: asyncio.Semaphore, via: Callable[[], Link | None]) -> None:
        self._where, self._gate, self._via = where, gate, via
        self._opening: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._at: tuple[Where, Link | None] | None = None  # where that leads, and through whom
        self._closed = False
        self._busy = 0  # sessions that this connection carries
        self._further: Link | None = None

    def __repr__(self) -> str:
        return f"<link {self.state}>"

    @property
    def state(self) -> str:
        """closed, opening or open."""
        if self._opening is None or self._broken():
            return "closed"
        return "open" if self._opening.done() else "opening"

    def _broken(self) -> bool:
        task = self._opening
        return task is not None and task.done() and (task.cancelled() or task.exception() is not None or task.result().is_closed())

    async def connection(self) -> asyncssh.SSHClientConnection:
        """The connection, which stands. Raises MachineError."""
        while True:
            where, via = at = self._where(), self._via()
            if self._closed:
                raise MachineError(f"no SSH to {where.name}: its session has been torn down", todo="bring up another machine")
            if self._opening is None or self._broken() or at != self._at:  # another address, another key, another way
                self._let_go()
                self._at, self._opening = at, asyncio.get_running_loop().create_task(self._open(where, via))
                self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())  # those who waited may have gone
            opening = self._opening
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                if not opening.cancelled() or _cancelled():
                    raise  # else it was let go, for another or for good

    async def _open(self, where: Where, through: Link | None) -> asyncssh.SSHClientConnection:
        from . import ssh  # asyncssh takes a while to import, and not every session needs it

        via = await through.connection() if through is not None else None
        began, tries = asyncio.get_running_loop().time(), 0
        while True:
            left = SECONDS - (asyncio.get_running_loop().time() - began)
            try:
                async with self._gate:
                    if where.known is not None:
                        return await ssh.connect_known(*where.known, via=via, seconds=max(1.0, left))
                    return await ssh.connect(where.host, where.port, user=where.user, host_key=where.host_key,
                                             key_file=where.key_file, via=via, seconds=max(1.0, left))  # fmt: skip
            except MachineError as error:
                # give or take: those that were dropped together must not come together again
                pause = PAUSES[min(tries, len(PAUSES) - 1)] * random.uniform(0.5, 1.5)
                if not error.fields.get("again") or left < pause:
                    raise
                tries += 1
                await asyncio.sleep(pause)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A connection on which there is room for one more session, for as long as the block runs. Raises MachineError."""
        link = self
        while link._busy >= SESSIONS:
            if link._further is None:
                link._further = Link(self._where, self._gate, self._via)
                link._further._closed = link._closed
            link = link._further
        link._busy += 1
        try:
            yield await link.connection()
        finally:
            link._busy -= 1

    async def run(self, what: Command) -> Done:
        """Run a command. Raises MachineError, never for its exit code."""
        from . import ssh

        async with self.session() as connection:
            return await ssh.run(connection, what, self._where().name)

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a tree there. Raises MachineError."""
        from . import ssh

        async with self.session() as connection:
            await ssh.put(connection, local, remote, self._where().name)

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a tree from there. Raises MachineError."""
        from . import ssh

        async with self.session() as connection:
            await ssh.get(connection, remote, local, self._where().name)

    async def forward(self, port: int, host: str | None) -> Forward:
        """A Unix socket here that leads to that port of the machine's private address, or of `host` as it sees it. Raises MachineError."""
        from . import ssh

        where = self._where()
        to = host or where.inside
        return await ssh.forward(await self.connection(), to, port, f"{to}:{port} through {where.user}@{where.host}:{where.port}")

    async def tied(self, program: str, *, before: str = ":", after: str = ":", stdin: str = "") -> Tied:
        """Start a program that ends with its connection; see `ssh.tied`. Raises MachineError."""
        from . import ssh

        rooms = AsyncExitStack()
        connection = await rooms.enter_async_context(self.session())
        return await ssh.tied(rooms, connection, program, self._where().name, before=before, after=after, stdin=stdin)

    async def aclose(self) -> None:
        """End the connection; it is not made again. Harmless when repeated."""
        self._closed = True
        if self._further is not None:
            await self._further.aclose()
        if (task := self._let_go()) is not None:
            await asyncio.gather(task, return_exceptions=True)

    def _let_go(self) -> asyncio.Task[asyncssh.SSHClientConnection] | None:
        """At one stroke, so that of several who find it broken one makes the next. Returns what is on its way to its end."""
        task, self._opening = self._opening, None
        if task is not None and not task.cancel() and not task.cancelled() and task.exception() is None:
            task.result().abort()  # politeness would wait for machines that are gone
        return task


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
