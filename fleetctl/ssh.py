"""SSH to a machine, and keys for it: the only importer of asyncssh. The host key is the one that the machine itself reported; none is
trusted on sight.

Forwards end in a Unix socket inside a private directory instead of a TCP port, so that no other user of this computer can use them
and no port of it is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

from .command import Command, Done
from .errors import MachineError


class Forward:
    """A way from a Unix socket here to a port that the machine can reach. `path` is the socket; `aclose()` ends it."""

    def __init__(self, listener: asyncssh.SSHListener, path: Path, label: str) -> None:
        self.path, self._listener, self._label = path, listener, label

    def __repr__(self) -> str:
        return f"<forward to {self._label}>"

    @property
    def url(self) -> str:
        """The socket as a URL that Redis clients take."""
        return f"unix://{self.path}"

    async def aclose(self) -> None:
        """Close the socket and remove its directory; harmless when repeated. On the session's loop."""
        self._listener.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)


def new_key(comment: str) -> str:
    """The private half of a new key pair, as OpenSSH writes it, without a passphrase."""
    return str(asyncssh.generate_private_key("ssh-ed25519", comment=comment).export_private_key().decode())


def public_half(private: str) -> str:
    """The public half of a private key: type and key, without comment. Raises MachineError for what is none, or has a passphrase."""
    try:
        public = asyncssh.import_private_key(private).export_public_key().decode()
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise MachineError(f"this is no private key that can be read: {error}", todo="name another key file") from error
    return " ".join(str(public).split()[:2])


async def connect(
    host: str, port: int, *, user: str, host_key: str, key_file: Path | None, via: Any = None, seconds: float = 20
) -> asyncssh.SSHClientConnection:  # fmt: skip
    """An SSH connection, `via` another one where there is one. Raises MachineError with the reason; `fields["again"]`: it may pass."""
    label = f"{user}@{host}:{port}"
    if not host_key:
        raise MachineError(f"the machine at {host} has reported no SSH host key, so it cannot be known", todo="wait for its report")
    try:
        known: tuple[list[Any], list[Any], list[Any]] = ([asyncssh.import_public_key(host_key)], [], [])
        return await asyncssh.connect(
            host,
            port,
            tunnel=via,
            username=user,
            known_hosts=known,
            client_keys=[str(key_file)] if key_file else (),
            config=None,
            agent_path=None if key_file else os.environ.get("SSH_AUTH_SOCK"),
            connect_timeout=seconds,
            login_timeout=seconds,
            keepalive_interval=15,
        )
    except (OSError, asyncssh.Error, ValueError) as error:
        # a full server (sshd_config(5), MaxStartups) and one that is just starting cut the connection; what is wrong with keys stays so
        again = isinstance(error, OSError | asyncssh.ConnectionLost) and not isinstance(error, FileNotFoundError | PermissionError)
        raise MachineError(
            f"no SSH to {label}: {type(error).__name__}: {error}",
            todo="check that its SSH port is reachable from here, and that the key pair is the one it was launched with",
            again=again,
        ) from error


async def run(connection: asyncssh.SSHClientConnection, what: Command, machine: str) -> Done:
    """The outcome of a command, whatever its exit code. Raises MachineError when its time is over, or the connection breaks."""
    began, problem = time.monotonic(), ""
    try:
        process = await connection.create_process(what.line, encoding=None)
        try:
            stdin = what.stdin.encode() if isinstance(what.stdin, str) else what.stdin
            async with asyncio.timeout(what.timeout):
                out, err = await process.communicate(stdin)
        except BaseException:  # nobody waits for it any more, so it is not to run on; a machine that is gone is not waited for
            with contextlib.suppress(OSError, asyncssh.Error):
                process.kill()
                process.close()
            raise
    except TimeoutError:
        problem = f"was not done within {what.timeout:g} s, and was killed"
    except (OSError, asyncssh.Error) as error:
        problem = f"lost its machine: {type(error).__name__}: {error}; whether it has run, and how far, is not known"
    if problem:
        raise MachineError(f"{what.text[:60]!r} on {machine} {problem}", todo="look at the machine, then run it again")
    status = process.returncode
    if status is None:  # the connection has gone without a word about the command
        raise MachineError(f"{what.text[:60]!r} on {machine} ended without an exit code", todo="look at the machine, then run it again")
    return Done(what, status, _text(out), _text(err), time.monotonic() - began, machine)


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


async def put(connection: asyncssh.SSHClientConnection, local: Path, remote: str, machine: str) -> None:
    """Copy a file or a tree to the machine. Raises MachineError."""
    await _copy(connection, lambda sftp: sftp.put(str(local), remote, recurse=True, preserve=True), f"{local} to {machine}:{remote}")


async def get(connection: asyncssh.SSHClientConnection, remote: str, local: Path, machine: str) -> None:
    """Copy a file or a tree from the machine. Raises MachineError."""
    await _copy(connection, lambda sftp: sftp.get(remote, str(local), recurse=True, preserve=True), f"{machine}:{remote} to {local}")


async def _copy(connection: asyncssh.SSHClientConnection, action: Callable[[Any], Awaitable[None]], what: str) -> None:
    try:
        async with connection.start_sftp_client() as sftp:
            await action(sftp)
    except (OSError, asyncssh.Error) as error:
        problem = f"could not copy {what}: {type(error).__name__}: {error}"
        raise MachineError(problem, todo="check that both paths exist, and who may read and write there") from error


async def forward(connection: asyncssh.SSHClientConnection, to_host: str, to_port: int, label: str) -> Forward:
    """Forward a Unix socket here to `to_host:to_port` as the machine sees it. Raises MachineError with the reason."""
    directory = Path(tempfile.mkdtemp(prefix="fleetctl-"))  # mode 0700
    try:
        path = directory / "s"
        listener = await connection.forward_local_path_to_port(str(path), to_host, to_port)
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if not isinstance(error, (OSError, asyncssh.Error)):
            raise
        raise MachineError(f"no forward to {label}: {type(error).__name__}: {error}", todo="try again") from error
    return Forward(listener, path, label)
