"""The SSH server of an instance: the only door into it. The only importer of asyncssh in the local cloud.

An instance's server is a listening socket and a host key until somebody connects; no process, no thread. Commands and shells run inside the
instance: the server makes pipes or a terminal and has the instance's first process start the command on them (`Host.spawn`).
Log-in is by public key as the one login user. TCP forwarding reaches instances of this cloud only; `localhost` means the instance itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import asyncssh

log = logging.getLogger(__name__)

LOGIN_USER = "ec2-user"
_SFTP_VERSION = 3       # OpenSSH's
_HERE = ("localhost", "127.0.0.1", "::1")
_PASSED_ENVIRONMENT = ("LANG", "LC_")       # what Amazon Linux's sshd accepts from clients


class HostKey:
    """An ed25519 key pair, made in 50 µs."""

    def __init__(self) -> None:
        self.private = asyncssh.generate_private_key("ssh-ed25519")
        self.public = self.private.export_public_key().decode().strip()

    def __repr__(self) -> str:
        return f"<HostKey {self.private.get_fingerprint()}>"


class Host(Protocol):
    """What the server needs of its instance."""

    def spawn(self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], tty: bool) -> Spawned:
        """Starts a command inside, on `fds` (0, 1, 2), which it takes over."""


@dataclass(frozen=True)
class Spawned:
    """A command that runs inside an instance."""

    ended: Awaitable[int]               # exit code, or minus the signal's number; 255 when the instance went first
    send: Callable[[int], None]         # sends a signal to its process group


@dataclass(frozen=True)
class Door:
    """Who may come in, and where they are then."""

    ip: str
    user: str
    keys: tuple[str, ...]               # OpenSSH public keys
    home: str
    environment: Mapping[str, str]
    may_reach: Callable[[str], bool]    # is this address an instance of this cloud?


class Server:
    """Listens for one instance. All methods in the event loop."""

    def __init__(self, door: Door, key: HostKey, host: Host) -> None:
        self._door, self._key, self._host = door, key, host
        self._options: asyncssh.SSHServerConnectionOptions | None = None
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncssh.SSHServerConnection] = set()

    def __repr__(self) -> str:
        return f"<Server {self._door.ip}, {len(self._connections)} connections>"

    def listen(self, sock: socket.socket) -> None:
        """Takes over a bound socket."""
        sock.listen(64)
        sock.setblocking(False)
        self._listener = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    async def close(self) -> None:
        """Ends every connection, as a machine that is switched off does."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in tuple(self._connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = self._listener.accept()
            task = asyncio.get_running_loop().create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        if self._options is None:       # costs 0.1 ms and memory; most instances are never logged in to
            self._options = asyncssh.SSHServerConnectionOptions(
                server_factory=lambda: _Visitor(self._door, self._host), server_host_keys=[self._key.private], encoding=None,
                password_auth=False, kbdint_auth=False, host_based_auth=False, gss_host=None, agent_forwarding=False, x11_forwarding=False,
                keepalive_interval=0, login_timeout=30, server_version="FleetctlLocal", line_editor=False)
        try:
            connection = await asyncssh.run_server(client, options=self._options)
        except (asyncssh.Error, OSError) as exc:
            log.debug("%s: no log-in: %s", self._door.ip, exc)
            client.close()
            return
        self._connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            self._connections.discard(connection)


class _Visitor(asyncssh.SSHServer):
    """One client's connection."""

    def __init__(self, door: Door, host: Host) -> None:
        self._door, self._host = door, host
        self._keys = {asyncssh.import_public_key(key) for key in door.keys}
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == self._door.user and key in self._keys

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return _Session(self._door, self._host)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        target = self._door.ip if dest_host in _HERE else dest_host
        if not self._door.may_reach(target):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"{dest_host} is no instance of this local cloud")
        assert self._connection is not None
        return self._connection.forward_connection(target, dest_port)


    def unix_connection_requested(self, dest_path: str) -> Any:
        """A Unix socket of the instance: the daemon connects to it, with its own rights, as it does for files."""
        assert self._connection is not None
        return self._connection.forward_unix_connection(dest_path)


class _Session(asyncssh.SSHServerProcess[bytes]):
    """A command, a shell, or a file transfer. Signals go to the command's process group inside the instance."""

    def __init__(self, door: Door, host: Host) -> None:
        super().__init__(self._run, lambda channel: _Files(channel, door.home), _SFTP_VERSION, True)
        self._door, self._host = door, host
        self._inside: Spawned | None = None

    def signal_received(self, name: str) -> None:
        """An SSH client's request to send a signal; names are without SIG."""
        number = getattr(signal, f"SIG{name}", None)
        if self._inside is not None and isinstance(number, signal.Signals):
            self._inside.send(number)

    def break_received(self, msec: int) -> bool:
        """A break is an interrupt from the keyboard."""
        self.signal_received("INT")
        return True

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        argv = ["/bin/bash", "-c", process.command] if process.command else ["/bin/bash"]
        environment = {name: value for name, value in process.env.items() if name.startswith(_PASSED_ENVIRONMENT)}
        local, remote = process.get_extra_info("sockname"), process.get_extra_info("peername")
        if local and remote:
            environment["SSH_CONNECTION"] = f"{remote[0]} {remote[1]} {local[0]} {local[1]}"
        if process.term_type is not None:
            ours, theirs = _terminal()
            environment |= {"TERM": process.term_type, "SSH_TTY": os.ttyname(theirs[0])}
        else:
            ours, theirs = _pipes()
        self._inside = self._host.spawn(argv, environment, theirs, process.term_type is not None)
        try:
            await process.redirect(ours[0], ours[1], ours[2] if len(ours) > 2 else None, send_eof=False)
            status = await self._inside.ended
            await process.stdout.drain()        # until the command's end of each pipe is closed, by its children too: as sshd does
            await process.stderr.drain()
            if status >= 0:
                process.exit(status)
            else:
                process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        finally:
            await process.wait_closed()         # asyncssh's own ends of the pipes want to be waited for


class _Files(asyncssh.SFTPServer):
    """SFTP and scp, with paths relative to the user's home. Its file operations are the daemon's, with the daemon's rights."""

    def __init__(self, channel: asyncssh.channel.SSHChannel[bytes], home: str) -> None:
        super().__init__(cast("asyncssh.SSHServerChannel[bytes]", channel))
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)

    def exit(self) -> None:
        """OpenSSH's scp takes a transfer without an exit status for a failed one; a channel that has sent one already sends no other."""
        self.channel.exit(0)


def _pipes() -> tuple[list[int], list[int]]:
    """Our ends and the command's ends of three pipes."""
    (stdin_theirs, stdin_ours), (stdout_ours, stdout_theirs), (stderr_ours, stderr_theirs) = (os.pipe() for _ in range(3))
    return [stdin_ours, stdout_ours, stderr_ours], [stdin_theirs, stdout_theirs, stderr_theirs]


def _terminal() -> tuple[list[int], list[int]]:
    """Our side of a new terminal (to write, to read) and the command's side of it, thrice."""
    ours, theirs = os.openpty()
    return [ours, os.dup(ours)], [theirs, os.dup(theirs), os.dup(theirs)]
