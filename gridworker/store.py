"""A connection to the server: a blocking socket, hiredis' parser, the scripts. The only module that imports hiredis.

redis-py is not used: its import alone costs more than a worker's whole start, and its calls several times the socket's.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

import hiredis

from .errors import GridDenied, GridError, GridFull, GridUnreachable

try:                                        # as in serialize: no OpenSSL for one digest
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_DIRECTORY = os.path.join(os.path.dirname(__file__), "scripts")
_BEGINNING = 1 << 10         # bytes at least, of a string that is not as long as it should be
_CHUNK = 1 << 18
_PIECES = 512                               # the kernel takes 1024 at once
GONE = b"gone"                              # what step and resync answer to an incarnation that was given up


class ServerError(GridError):
    """The server answered a command with an error. `code` is its first word (WRONGTYPE, OOM, NOSCRIPT …)."""

    def __init__(self, message: str) -> None:
        self.code = message.partition(" ")[0]
        super().__init__(message)


def _server_error(text: str) -> GridError:
    code = text.partition(" ")[0]
    if code == "LOADING":                   # it has only just been started, and answers soon
        return GridUnreachable(text)
    if code == "OOM":
        return GridFull(f"the server is at its memory limit and took nothing of this: {text}")
    return GridDenied(f"the server refused the password: {text}") if code in ("WRONGPASS", "NOAUTH", "NOPERM") else ServerError(text)


class Address:
    """Where a server is: host and port, or the path of a unix socket; the number of the database; who one is there.

    `user`: of the server's access control list, "" for the default one. `tls`: None for none, else options for tls.wrap.
    """

    __slots__ = ("db", "host", "path", "port", "tls", "user")

    def __init__(self, host: str = "127.0.0.1", port: int = 6379, *, path: str = "", db: int = 0, user: str = "",
                 tls: dict[str, str] | None = None) -> None:
        self.host, self.port, self.path, self.db, self.user, self.tls = host, port, path, db, user, tls

    def __repr__(self) -> str:
        return f"Address({self.url!r})"

    @property
    def url(self) -> str:
        """The address without any password."""
        who = f"{self.user}@" if self.user else ""
        if self.path:
            return f"unix://{who}{self.path}" + (f"?db={self.db}" if self.db else "")
        options = "&".join(f"{name}={value}" for name, value in (self.tls or {}).items())
        return f"redis{'s' if self.tls is not None else ''}://{who}{self.host}:{self.port}/{self.db}" + (f"?{options}" if options else "")

    def open(self, timeout: float) -> socket.socket:
        """A connected socket whose reads and writes fail after `timeout` seconds. OSError if nobody listens."""
        if self.path:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            try:
                sock.connect(self.path)
            except OSError:
                sock.close()
                raise
            return _timed(sock, timeout)
        sock = socket.create_connection((self.host, self.port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.tls is None:
            return _timed(sock, timeout)
        from .tls import wrap

        return wrap(sock, self.host, self.tls)


def _timed(sock: socket.socket, timeout: float) -> socket.socket:
    """Leaves the time limit to the kernel: Python would ask `poll` before each read and each write."""
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(timeout), int(timeout % 1 * 1e6)))
    return sock


def parse_url(url: str) -> tuple[Address, str | None]:
    """Address and password of `redis://[[user]:password@]host[:port][/db]` or `unix:///path[?db=n]`.

    `rediss://…[?ca=file&cert=file&key=file]` is the same over TLS.

    >>> parse_url("redis://:secret@127.0.0.1:7000/2")
    (Address('redis://127.0.0.1:7000/2'), 'secret')
    >>> parse_url("localhost:6379")
    Traceback (most recent call last):
        ...
    gridworker.errors.GridUnreachable: 'localhost:6379' is no address of a grid: redis://host:port/0, rediss://… or unix:///path
    """
    from urllib.parse import parse_qs, unquote, urlsplit

    parts = urlsplit(url)
    password, user = unquote(parts.password) if parts.password else None, unquote(parts.username or "")
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if parts.scheme == "unix" and parts.path:
        return Address(path=unquote(parts.path), db=int(options.get("db", 0)), user=user), password
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        tls = options if parts.scheme == "rediss" else None
        return Address(parts.hostname, parts.port or 6379, db=int(parts.path.strip("/") or 0), user=user, tls=tls), password
    known = f"{parts.scheme}://…" if "://" in url else repr(url.rpartition("@")[2])        # no password in it
    raise GridUnreachable(f"{known} is no address of a grid: redis://host:port/0, rediss://… or unix:///path")


class Script:
    """One operation: the text of a .lua file behind the common part, and its digest.

    A file that begins with `#!lua flags=allow-oom` may write although the server is at its memory limit: such operations end or hand back
    work, so that the grid can get out of that state. `full=True` gives that right to one that has it not.
    """

    __slots__ = ("digest", "name", "text")

    def __init__(self, name: str, *, full: bool = False) -> None:
        self.name = name
        with open(os.path.join(_DIRECTORY, "common.lua"), "rb") as common, open(os.path.join(_DIRECTORY, f"{name}.lua"), "rb") as own:
            shared, text = common.read(), own.read()
        first, newline, rest = text.partition(b"\n")
        if full and not first.startswith(b"#!"):
            first, newline, rest = b"#!lua flags=allow-oom", b"\n", text
        self.text = first + newline + shared + rest if first.startswith(b"#!") else shared + text
        self.digest = sha1(self.text).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.digest[:8]}>"


def pack(command: Iterable[Any]) -> bytes:
    """A command in the protocol's form."""
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed


class Parser:
    """Replies out of a stream of bytes. An error reply comes out as an instance (not raised) of ServerError or GridDenied."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=_server_error, protocolError=GridUnreachable)

    def feed(self, data: bytes | bytearray, size: int) -> None:
        """Takes what the socket gave: the first `size` bytes."""
        self._reader.feed(data, 0, size)  # type: ignore[arg-type]  # it takes any buffer

    def next(self) -> Any:
        """The next whole reply, or False if there is none (RESP2 has no booleans)."""
        return self._reader.gets()


def readable(descriptor: int, seconds: float = 0.0) -> bool:
    """Whether a read would not wait, within so many seconds. Not by `select`, which knows descriptors below 1,024 only."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


class Connection:
    """A blocking connection that speaks when spoken to. Not for two threads at once.

    `timeout`: seconds that the server may be silent beyond what a blocking command asked for.
    """

    def __init__(self, address: Address, password: str | None = None, *, timeout: float = 15.0, name: str = "") -> None:
        self.address, self.timeout, self._password, self.name = address, timeout, password, name
        self._socket: socket.socket | None = None
        self._parser = Parser()
        self._ahead = b""                   # read past the end of a line by `read_big`
        self._buffer = bytearray()                  # one for all reads: a new one for each would cost more than the reading

    def __repr__(self) -> str:
        return f"<Connection {self.address.url} {'open' if self._socket else 'closed'}>"

    def connect(self, patience: float = 0.0) -> None:
        """Connects and authenticates, trying again for `patience` seconds. GridUnreachable, GridDenied."""
        deadline, pause = time.monotonic() + patience, 0.02
        while True:
            try:
                return self._connect()
            except GridUnreachable:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _connect(self) -> None:
        self.close()
        try:
            self._socket = self.address.open(self.timeout)
        except OSError as error:
            raise GridUnreachable(f"no server at {self.address.url}: {error}") from error
        self._parser, self._ahead = Parser(), b""
        self._buffer = self._buffer or bytearray(_CHUNK)
        greeting: list[tuple[Any, ...]] = [("AUTH", *filter(None, [self.address.user]), self._password)] if self._password else []
        if self.address.db:
            greeting.append(("SELECT", self.address.db))
        greeting += [("CLIENT", "SETNAME", self.name or "gridworker"), ("PING",)]       # the last fails while the server loads its data
        try:
            self.send(b"".join(map(pack, greeting)))
            replies = [self._next() for _ in greeting]
        except GridError:
            self.close()
            raise
        for reply in replies:
            if isinstance(reply, GridError):
                self.close()
                raise reply

    def close(self) -> None:
        """Closes the socket; `connect` opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def hang_up(self, patience: float = 1.0) -> None:
        """Closes the socket after the server has closed its side, so that no blocked command of it can take anything any more."""
        if self._socket is None:
            return
        try:
            self._socket.settimeout(patience)
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(_CHUNK):
                pass
        except OSError:                     # it is broken, which is as good
            pass
        finally:
            self.close()

    def fileno(self) -> int:
        """The socket's descriptor, for those who wait on several. GridUnreachable if it is closed."""
        if self._socket is None:
            raise GridUnreachable("the connection is closed")
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Writes packed commands; their replies are to be read in order."""
        if self._socket is None:
            raise GridUnreachable("the connection is closed")
        try:
            self._socket.sendall(data)
        except OSError as error:            # not closed here: another thread may be waiting for this descriptor
            raise GridUnreachable(f"lost {self.address.url}: {error}") from error

    def feed(self) -> None:
        """Reads what the socket has into the parser, waiting for at least one byte. GridUnreachable if it is at its end."""
        if self._socket is None:
            raise GridUnreachable("the connection is closed")
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError as error:    # the kernel's time limit
            self.close()
            raise GridUnreachable(f"{self.address.url} was silent for {self.timeout:g} s") from error
        except OSError as error:
            self.close()
            raise GridUnreachable(f"lost {self.address.url}: {error}") from error
        if not size:
            self.close()
            raise GridUnreachable(f"{self.address.url} closed the connection")
        self._parser.feed(self._buffer, size)

    def ready(self) -> Any:
        """A reply that has already arrived with earlier bytes, or False."""
        return self._parser.next()

    def _next(self) -> Any:
        while (reply := self._parser.next()) is False:
            self.feed()
        return reply

    def readable(self) -> bool:
        """Whether a read would find something at once."""
        return readable(self.fileno())

    def another(self, name: str) -> Connection:
        """A connection to the same server with the same rights, not open yet."""
        return Connection(self.address, self._password, timeout=self.timeout, name=name)

    def read(self) -> Any:
        """The next reply; a ServerError or GridDenied reply is raised."""
        reply = self._next()
        if isinstance(reply, GridError):
            raise reply
        return reply

    def reply(self) -> Any:
        """The next reply, an error as an instance."""
        return self._next()

    def call(self, *command: Any) -> Any:
        """One command and its reply."""
        self.send(pack(command))
        return self.read()

    def pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one write; their replies, errors as instances."""
        self.send(b"".join(map(pack, commands)))
        return [self._next() for _ in commands]

    # big strings, past hiredis: it would copy them twice. Not while replies to other commands are on their way.

    def send_pieces(self, pieces: list[bytes | memoryview]) -> None:
        """Writes what has been packed in pieces, without joining them."""
        if self._socket is None:
            raise GridUnreachable("the connection is closed")
        try:
            if self.address.tls is not None:
                for piece in pieces:
                    self._socket.sendall(piece)
                return
            left = [memoryview(piece) for piece in pieces]
            while left:
                sent = self._socket.sendmsg(left[:_PIECES])
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if left:
                    left[0] = left[0][sent:]
        except OSError as error:
            raise GridUnreachable(f"lost {self.address.url}: {error}") from error

    def read_big(self, length: int) -> bytearray | bytes | None:
        """A reply that should be a string of that length, in memory of its own. None if it is nil; of another length: its beginning."""
        line = self._line()
        if line[:1] == b"-":
            raise _server_error(line[1:].decode())
        if (size := int(line[1:])) < 0:
            return None
        data = bytearray(length if size == length else 0)
        view, at = memoryview(data), min(size, len(self._ahead))
        other, self._ahead = self._ahead[:at], self._ahead[at:]
        if size == length:
            view[:at] = other
        while at < size:
            if size == length:
                at += self._into(view[at:])
            else:
                more = self._more(min(size - at, _CHUNK))
                at += len(more)
                other = other + more if len(other) < _BEGINNING else other      # a read may end in the middle of something short
        self._line()                        # what ends the string
        return data if size == length else other

    def _line(self) -> bytes:
        while b"\r\n" not in self._ahead:
            self._ahead += self._more(64)
        line, _, self._ahead = self._ahead.partition(b"\r\n")
        return line

    def _more(self, most: int) -> bytes:
        data = bytearray(most)
        return bytes(data[:self._into(memoryview(data))])

    def _into(self, view: memoryview) -> int:
        if self._socket is None:
            raise GridUnreachable("the connection is closed")
        try:
            got = self._socket.recv_into(view)
        except OSError as error:
            self.close()
            raise GridUnreachable(f"lost {self.address.url}: {error}") from error
        if not got:
            self.close()
            raise GridUnreachable(f"{self.address.url} closed the connection")
        return got

    def run(self, script: Script, keys: tuple[str, ...], arguments: list[Any]) -> Any:
        """A script and its reply; a server that does not know it yet is given its text."""
        self.send(pack(("EVALSHA", script.digest, len(keys), *keys, *arguments)))
        try:
            return self.read()
        except ServerError as error:
            if error.code != "NOSCRIPT":
                raise
        self.send(pack(("EVAL", script.text, len(keys), *keys, *arguments)))
        return self.read()


def read_secret(environment: dict[str, str] | os._Environ[str]) -> tuple[str | None, str | None]:
    """Password and key (hex) out of the file that $GRIDWORKER_SECRET_FILE names: one line, perhaps without the key; None if not there.

    GridDenied if the file can't be read or is empty.
    """
    path = environment.get("GRIDWORKER_SECRET_FILE")
    if not path:
        return None, None
    try:
        with open(path, encoding="ascii") as file:
            words = file.readline().split()
    except OSError as error:
        raise GridDenied(f"cannot read the secret file {path}: {error.strerror}") from error
    if not words:
        raise GridDenied(f"the secret file {path} is empty")
    return words[0], words[1] if len(words) > 1 else None
