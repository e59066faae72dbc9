"""SSH to a machine, and keys for it: the only importer of asyncssh. The host key is the one that the machine itself reported, or, of a
machine that fleetctl has not launched, the one that the user knows; none is trusted on sight.

Forwards end in a Unix socket inside a private directory instead of a TCP port, so that no other user of this computer can use them
and no port of it is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh

from ..errors import MachineError
from .command import Command, Done

KEEPALIVE_SECONDS = 15  # after three of them without an answer a connection is broken


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
    with _reasons(label, "check that its SSH port is reachable from here, and that the key pair is the one it was launched with"):
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
            keepalive_interval=KEEPALIVE_SECONDS,
        )


@contextlib.contextmanager
def _reasons(label: str, todo: str) -> Iterator[None]:
    """Why there is no connection, as MachineError; `fields["again"]`: it may pass."""
    try:
        yield
    except (OSError, asyncssh.Error, ValueError) as error:
        # a full server (sshd_config(5), MaxStartups) and one that is just starting cut the connection; what is wrong with keys stays so
        again = isinstance(error, OSError | asyncssh.ConnectionLost) and not isinstance(error, FileNotFoundError | PermissionError)
        raise MachineError(f"no SSH to {label}: {type(error).__name__}: {error}", todo=todo, again=again) from error


@dataclass(frozen=True, slots=True)
class Address:
    """What the user says of a machine that exists already; the rest is in ~/.ssh/config (`config`: in this file instead, "" for none).

    `host_key` is its key, as OpenSSH writes it; without it the key is looked for in `known_hosts` (default: where the configuration says).
    """

    host: str
    port: int | None = None
    user: str | None = None
    host_key: str = ""
    key_file: Path | None = None
    known_hosts: Path | None = None
    config: str | None = None

    def options(self) -> dict[str, Any]:
        """For asyncssh, which leaves out nothing that stands in the configuration and is not said here."""
        out: dict[str, Any] = {"host": self.host}
        if self.config is not None:
            out["config"] = [self.config] if self.config else None
        if self.port is not None:
            out["port"] = self.port
        if self.user is not None:
            out["username"] = self.user
        if self.key_file is not None:
            out |= {"client_keys": [str(self.key_file)], "agent_path": None}
        if self.host_key:
            out["known_hosts"] = ([asyncssh.import_public_key(self.host_key)], [], [])
        elif self.known_hosts is not None:
            out["known_hosts"] = [str(self.known_hosts)]
        return out


class Found(NamedTuple):
    """Where an address leads, by ~/.ssh/config: the machine, and the ones on the way to it, the first to be reached first."""

    host: str
    port: int
    user: str
    jumps: tuple[str, ...]


def look_up(address: Address) -> Found:
    """Where it leads. Raises MachineError for a key or a configuration that cannot be read."""
    try:
        options = asyncssh.SSHClientConnectionOptions(**address.options())
    except (OSError, asyncssh.Error, asyncssh.KeyImportError, asyncssh.ConfigParseError, ValueError) as error:
        raise MachineError(
            f"what is said of {address.host} cannot be used: {type(error).__name__}: {error}", todo="mend ~/.ssh/config, or the argument"
        ) from error
    jumps = options.tunnel if isinstance(options.tunnel, str) else ""
    return Found(options.host, options.port, options.username, tuple(filter(None, jumps.split(","))))


class _Wary(asyncssh.SSHClient):
    """Remembers the key of a server that is not known, and whether it has spoken at all."""

    offered: asyncssh.SSHKey | None = None
    _connection: asyncssh.SSHClientConnection | None = None

    @property
    def spoke(self) -> bool:
        """Whether the server has said who it is: one that is full has not."""
        return self._connection is not None and bool(self._connection.get_extra_info("server_version"))

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.offered = key
        return False


async def connect_known(address: Address, found: Found, *, via: Any = None, seconds: float = 20) -> asyncssh.SSHClientConnection:
    """An SSH connection as ~/.ssh says, to a server whose key is known. Raises MachineError with the key that an unknown one offers."""
    label, wary = f"{found.user}@{found.host}:{found.port}", _Wary()
    options = address.options()
    options |= {"connect_timeout": seconds, "login_timeout": seconds, "keepalive_interval": KEEPALIVE_SECONDS}
    if via is not None or found.jumps:
        options["tunnel"] = via  # the jumps are opened by `link`, as strictly as all else
    with _reasons(label, "check its address, its port, and which of your keys it takes; `ssh -v` to it says more"):
        try:
            prepared = await asyncio.to_thread(_prepared, options)
            return await asyncssh.connect(**{**options, "known_hosts": prepared.known_hosts}, client_factory=lambda: wary)
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost) as error:
            # a server that has no key of the known one's kind just hangs up
            if isinstance(error, asyncssh.ConnectionLost) and not wary.spoke:
                raise
            offered = wary.offered or await asyncssh.get_server_host_key(found.host, found.port, tunnel=via, config=None)
            if offered is None or offered in _trusted(prepared, found):
                raise
            raise _stranger(label, address, found, prepared, offered) from error


def _prepared(options: dict[str, Any]) -> Any:
    """With what ~/.ssh/config adds; its `known_hosts` is never such that nothing would be checked."""
    prepared = asyncssh.SSHClientConnectionOptions(**options)
    if not prepared.known_hosts:  # None is what asyncssh makes of `UserKnownHostsFile none`, and would be no check at all
        ours = [] if prepared.known_hosts is None else [str(Path.home() / ".ssh" / "known_hosts")]
        prepared.known_hosts = [one for one in (*ours, "/etc/ssh/ssh_known_hosts") if Path(one).is_file()] or b"#"
    return prepared


def _trusted(options: Any, found: Found) -> Sequence[asyncssh.SSHKey]:
    return asyncssh.match_known_hosts(options.known_hosts, options.host_key_alias or found.host, "", found.port)[0]


def _stranger(label: str, address: Address, found: Found, options: Any, key: asyncssh.SSHKey) -> MachineError:
    """The error about a server with a key that is not the known one."""
    line, fingerprint = " ".join(key.export_public_key().decode().split()[:2]), key.get_fingerprint()
    name = options.host_key_alias or found.host
    name = name if found.port == 22 or options.host_key_alias else f"[{name}]:{found.port}"
    told, another = f"the server offers {key.get_algorithm()} {fingerprint}", bool(_trusted(options, found))
    why = "which is not the key that is known of it" if another else "which nobody here knows"
    machine = f"on the machine `ssh-keygen -lf` of its host key in /etc/ssh must show {fingerprint}; only then "
    add = f'add the line "{name} {line}" to ~/.ssh/known_hosts, or pass host_key="{line}"'
    old = f"remove the old one (`ssh-keygen -R '{name}'`) and " if another and not address.host_key else ""
    doubt = "either it was made anew, or somebody stands between: " if another else ""
    return MachineError(f"no SSH to {label}: {told}, {why}", todo=doubt + machine + old + add, fingerprint=fingerprint, host_key=line)


# With a process that is to be killed some day, its number comes first: OpenSSH's server sends no signals for root (it has no process of
# its own left that could), and so what must end is ended by its number, with all that it has started.
_NUMBERED = """exec /bin/sh -c 'echo $$ >&2; exec "${SHELL:-/bin/sh}" -c "$0"' """
_KILL_SECONDS = 10.0


async def run(connection: asyncssh.SSHClientConnection, what: Command, machine: str) -> Done:
    """The outcome of a command, whatever its exit code. Raises MachineError when its time is over, or the connection breaks."""
    began, problem, number = time.monotonic(), "", b""
    try:
        process = await connection.create_process(
            what.line if what.timeout is None else _NUMBERED + shlex.quote(what.line), encoding=None
        )
        try:
            stdin = what.stdin.encode() if isinstance(what.stdin, str) else what.stdin
            async with asyncio.timeout(what.timeout):
                number = b"" if what.timeout is None else await process.stderr.readline()
                out, err = await process.communicate(stdin)
        except BaseException:  # nobody waits for it any more, so it is not to run on; a machine that is gone is not waited for
            with contextlib.suppress(OSError, asyncssh.Error):
                process.kill()
                process.close()
            raise
    except TimeoutError:
        problem = f"was not done within {what.timeout:g} s, and {await _killed(connection, number)}"
    except (OSError, asyncssh.Error) as error:
        problem = f"lost its machine: {type(error).__name__}: {error}; whether it has run, and how far, is not known"
    if problem:
        raise MachineError(f"{what.text[:60]!r} on {machine} {problem}", todo="look at the machine, then run it again")
    status = process.returncode
    if status is None:  # the connection has gone without a word about the command
        raise MachineError(f"{what.text[:60]!r} on {machine} ended without an exit code", todo="look at the machine, then run it again")
    return Done(what, status, _text(out), _text(err), time.monotonic() - began, machine)


async def _killed(connection: asyncssh.SSHClientConnection, number: bytes) -> str:
    """Kill a process with all that is of its group, by its number. Returns what came of that, in words."""
    try:
        group = int(number)
        async with asyncio.timeout(_KILL_SECONDS):
            await connection.run(f"kill -9 -{group} 2>/dev/null || kill -9 {group} 2>/dev/null")
    except (ValueError, TimeoutError, OSError, asyncssh.Error):
        return "may run on: the machine does not answer"
    return "was killed"


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


# What ends with its connection: the program's own input is empty, and what the connection brings is waited for beside it. A server sends
# no signals for root, and a program that writes nothing does not notice that nobody reads. What follows it runs though nobody reads that.
_TIED = """exec 3<&0
{before}
{program} 3<&- </dev/null & p=$!
{{ cat <&3 >/dev/null 2>&1; kill $p; sleep 1; kill -9 $p; }} 2>/dev/null >/dev/null &
exec 3<&-
trap '' PIPE
wait $p
{after}"""


class Tied:
    """A program on a machine that ends when this does: when it is closed, or the connection breaks. On the loop."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], rooms: contextlib.AsyncExitStack, machine: str) -> None:
        self._process, self._rooms, self._machine, self._rest = process, rooms, machine, b""

    def __repr__(self) -> str:
        return f"<tied to {self._machine}: {'ended' if self._process.is_closing() else 'running'}>"

    async def lines(self) -> list[str]:
        """The next lines that it writes, at least one; none when it has ended. Raises MachineError when the connection breaks."""
        while True:
            try:
                data = await self._process.stdout.read(65536)
            except (OSError, asyncssh.Error) as error:
                raise MachineError(f"{self._machine} was lost: {type(error).__name__}: {error}", todo="look at the machine") from error
            *whole, self._rest = (self._rest + data).split(b"\n")
            if not data and self._rest:
                whole, self._rest = [self._rest], b""
            if whole or not data:
                return [_text(line).rstrip("\r") for line in whole]

    async def ending(self) -> str:
        """Once it has written all it will: what it wrote as errors."""
        return _text(await self._process.stderr.read())

    async def aclose(self) -> None:
        """End it. Harmless when repeated."""
        self._process.close()
        await self._rooms.aclose()


async def tied(
    rooms: contextlib.AsyncExitStack, connection: asyncssh.SSHClientConnection, program: str, machine: str,
    *, before: str = ":", after: str = ":", stdin: str = "",
) -> Tied:  # fmt: skip
    """Start `program`, shell text for one command, that ends with this connection; `rooms` are closed with it. Raises MachineError.

    `before` runs first, in the same shell, and may read `stdin`; `after` when it has ended.
    """
    line = _TIED.format(before=before, program=program, after=after)
    try:
        process = await connection.create_process(f"exec /bin/sh -c {shlex.quote(line)}", encoding=None)
        process.stdin.write(stdin.encode())
    except (OSError, asyncssh.Error) as error:
        await rooms.aclose()
        raise MachineError(f"nothing could be started on {machine}: {type(error).__name__}: {error}", todo="try again") from error
    return Tied(process, rooms, machine)


@contextlib.asynccontextmanager
async def terminal(
    connection: asyncssh.SSHClientConnection, line: str | None, kind: str, size: tuple[int, int], machine: str
) -> AsyncIterator[Any]:  # fmt: skip
    """A terminal on the machine: the login shell, or `line` in it. Its end ends what runs there. Raises MachineError."""
    try:
        async with connection.create_process(line, term_type=kind, term_size=size, encoding=None) as process:
            yield process
    except (OSError, asyncssh.Error) as error:
        raise MachineError(f"the terminal on {machine} was lost: {type(error).__name__}: {error}", todo="open another") from error


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
    path = directory / "s"
    with _forwarding(label, directory):
        return Forward(await connection.forward_local_path_to_port(str(path), to_host, to_port), path, label)


async def forward_sockets(connection: asyncssh.SSHClientConnection, there: str, here: Path, names: Sequence[str], label: str) -> None:
    """Forward Unix sockets here to those at the machine, by the ends of their names. They end with the connection. Raises MachineError."""
    with _forwarding(label, here.parent):
        for name in names:
            await connection.forward_local_path(f"{here}{name}", f"{there}{name}")


@contextlib.contextmanager
def _forwarding(label: str, directory: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if not isinstance(error, (OSError, asyncssh.Error)):
            raise
        raise MachineError(f"no forward to {label}: {type(error).__name__}: {error}", todo="try again") from error
