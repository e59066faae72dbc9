"""SSH to a machine, and keys for it: the only importer of asyncssh. The host key is the one that the machine itself reported; none is
trusted on sight.

Forwards end in a Unix socket inside a private directory instead of a TCP port, so that no other user of this computer can use them
and no port of it is taken.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import asyncssh

from .errors import MachineError


class Forward:
    """A way from a Unix socket here to a port that the machine can reach. `path` is the socket; `aclose()` ends it."""

    def __init__(self, connection: Any, listener: Any, path: Path, label: str) -> None:
        self.path, self._connection, self._listener, self._label = path, connection, listener, label

    def __repr__(self) -> str:
        return f"<forward to {self._label}>"

    @property
    def url(self) -> str:
        """The socket as a URL that Redis clients take."""
        return f"unix://{self.path}"

    async def aclose(self) -> None:
        """Close the socket, the connection and the directory; harmless when repeated. On the session's loop."""
        try:
            self._listener.close()
            self._connection.close()
            await self._connection.wait_closed()
        finally:
            self._connection.abort()  # harmless on a closed one; a machine that is gone would keep it open
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


async def forward(
    host: str, port: int, *, user: str, host_key: str, key_file: Path | None, to_host: str, to_port: int, seconds: float = 20
) -> Forward:
    """Open an SSH connection and forward a Unix socket to `to_host:to_port`. Raises MachineError with the reason."""
    label = f"{to_host}:{to_port} through {user}@{host}:{port}"
    if not host_key:
        raise MachineError(f"the machine at {host} has reported no SSH host key, so it cannot be known", todo="wait for its report")
    connection = None
    directory = Path(tempfile.mkdtemp(prefix="fleetctl-"))  # mode 0700
    try:
        known: tuple[list[Any], list[Any], list[Any]] = ([asyncssh.import_public_key(host_key)], [], [])
        keys = [str(key_file)] if key_file else ()
        connection = await asyncssh.connect(
            host,
            port,
            username=user,
            known_hosts=known,
            client_keys=keys,
            config=None,
            agent_path=None if key_file else os.environ.get("SSH_AUTH_SOCK"),
            connect_timeout=seconds,
            keepalive_interval=15,
        )
        path = directory / "s"
        listener = await connection.forward_local_path_to_port(str(path), to_host, to_port)
    except BaseException as error:
        if connection is not None:
            connection.close()
        shutil.rmtree(directory, ignore_errors=True)
        if not isinstance(error, (OSError, asyncssh.Error, ValueError)):
            raise
        raise MachineError(
            f"no SSH to {label}: {type(error).__name__}: {error}",
            todo="check that its SSH port is reachable from here, and that the key pair is the one it was launched with",
        ) from error
    return Forward(connection, listener, path, label)
