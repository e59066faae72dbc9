"""Messages with file descriptors over a Unix stream socket: how the daemon, the nursery and the instances talk.

A frame is four bytes of length (big-endian) and a JSON object. Descriptors travel with the first byte of their frame, and the object's
`fds` says how many belong to it, so that frames which arrive glued together still find their own.

`Wire` blocks and serves the small single-threaded processes; `LoopWire` serves the daemon's event loop. This module imports little,
because the nursery starts with it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

Message = dict[str, Any]

_MOST_FDS = 16          # descriptors in flight in one read; a spawn sends three
_CHUNK = 1 << 16
_LARGEST = 1 << 24      # a frame beyond this is not ours: user data is at most 16 KiB


class Frames:
    """Bytes and descriptors in, whole messages out; no I/O.

    >>> frames = Frames()
    >>> frames.feed(encode({"say": "up"})[:3], []); list(frames)
    []
    >>> frames.feed(encode({"say": "up"})[3:], []); list(frames)
    [({'say': 'up', 'fds': 0}, [])]
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Sequence[int]) -> None:
        """Takes what one read brought; nothing is decoded yet."""
        self._buffer += data
        self._fds.extend(fds)

    def __iter__(self) -> Iterator[tuple[Message, list[int]]]:
        while len(self._buffer) >= 4:
            (size,) = struct.unpack_from(">I", self._buffer)
            if size > _LARGEST:
                raise ValueError(f"a frame of {size} bytes: the other side does not speak this protocol")
            if len(self._buffer) < 4 + size:
                return
            message = json.loads(self._buffer[4:4 + size])
            del self._buffer[:4 + size]
            yield message, [self._fds.popleft() for _ in range(message["fds"])]

    def close(self) -> None:
        """Closes the descriptors that no message has claimed."""
        while self._fds:
            os.close(self._fds.popleft())


def encode(message: Message, fds: int = 0) -> bytes:
    """One frame, announcing `fds` descriptors."""
    body = json.dumps({**message, "fds": fds}).encode()
    return struct.pack(">I", len(body)) + body


def _read(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One read: data (b"" at the end) and the descriptors that came with it, none of them inheritable."""
    data, ancillary, _, _ = sock.recvmsg(_CHUNK, socket.CMSG_SPACE(_MOST_FDS * 4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[:len(payload) - len(payload) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, list(fds)


def _rights(fds: Sequence[int]) -> list[tuple[int, int, Any]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


class Wire:
    """The blocking end. `receive` returns None when the other end is gone; `send` then raises BrokenPipeError."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._frames = Frames()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends one message; the descriptors stay open on this side."""
        data = encode(message, len(fds))
        sent = self.socket.sendmsg([data], _rights(fds))
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def receive(self) -> list[tuple[Message, list[int]]] | None:
        """Reads once, and returns the messages that are whole by then (perhaps none), or None at the end."""
        try:
            data, fds = _read(self.socket)
        except ConnectionResetError:
            return None
        if not data:
            return None
        self._frames.feed(data, fds)
        return list(self._frames)

    def close(self) -> None:
        """Closes this process's end, and descriptors nobody has taken."""
        self._frames.close()
        self.socket.close()


class LoopWire:
    """The event loop's end: `message(dict)` for each message, `closed()` once, both called in the loop.

    `send` never blocks and never raises: what the socket does not take at once is sent later, and after the end it goes nowhere (the end
    itself is the news). It owns the descriptors it is given and closes them when they are sent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, message: Callable[[Message], None],
                 closed: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._loop, self._socket, self._message, self._closed = loop, sock, message, closed
        self._frames = Frames()
        self._outbox: deque[tuple[bytes, Sequence[int]]] = deque()
        self._open = True
        loop.add_reader(sock, self._readable)

    def __repr__(self) -> str:
        return f"<LoopWire {'open' if self._open else 'closed'}, {len(self._outbox)} to send>"

    @property
    def is_open(self) -> bool:
        """Neither side has closed, as far as is known here."""
        return self._open

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queues one message and sends what the socket takes now."""
        self._outbox.append((encode(message, len(fds)), fds))
        self._flush()

    def drain(self) -> None:
        """Delivers what has arrived by now, in case news of its sender came by another way."""
        while self._open and self._readable():
            pass

    def close(self) -> None:
        """Closes this end without calling `closed`; the other end reads the end of the stream. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._frames.close()
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            data, fds = self._outbox.popleft()
            if self._open:
                try:
                    sent = self._socket.sendmsg([data], _rights(fds))
                except BlockingIOError:
                    self._outbox.appendleft((data, fds))
                    self._loop.add_writer(self._socket, self._writable)
                    return
                except OSError:         # the reader will see the end and say so
                    sent = len(data)
                if sent < len(data):
                    self._outbox.appendleft((data[sent:], ()))
            for fd in fds:
                os.close(fd)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket)
        self._flush()

    def _readable(self) -> bool:
        """Reads once; False when there was nothing."""
        try:
            data, fds = _read(self._socket)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        if data:
            self._frames.feed(data, fds)
            for message, extra in self._frames:
                for fd in extra:        # nothing is ever sent to the daemon as a descriptor
                    with contextlib.suppress(OSError):
                        os.close(fd)
                self._message(message)
        elif self._open:
            self.close()
            self._closed()
        return True
