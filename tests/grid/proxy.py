"""A wire between a grid and its server that a test can stall or cut."""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType

from gridworker.store import Address


class Proxy:
    """Forwards bytes between its own address and a server's, until it is told to hold them, or to cut and refuse connections."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._held, self._refusing, self._ended = False, False, False
        self.refused = 0
        self._changed, self._change = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._ended = True
        self._change.send(b"x")
        self._thread.join()
        for end in (self._listener, self._changed, self._change):
            end.close()

    def hold(self) -> None:
        """From now on nothing passes; connections stay open."""
        self._held = True
        self._change.send(b"x")

    def cut(self) -> None:
        """Closes all connections, and each new one at once."""
        self._refusing = True
        self._change.send(b"x")

    def waiting(self) -> int:
        """How many ends have sent what has not passed."""
        return len(select.select(list(self._pairs), [], [], 0)[0])

    def mend(self) -> None:
        """What was held passes, and connections are made again."""
        self._held = self._refusing = False
        self._change.send(b"x")

    def _run(self) -> None:
        while not self._ended:
            watched = [self._listener, self._changed, *([] if self._held else self._pairs)]
            for end in select.select(watched, [], [])[0]:
                if end is self._listener:
                    self._accept()
                elif end is self._changed:
                    self._changed.recv(100)
                elif end in self._pairs:
                    self._forward(end)
            if self._refusing:
                self._close_all()
        self._close_all()

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        if self._refusing:
            self.refused += 1
            here.close()
            return
        there = self._target.open(5.0)
        self._pairs[here], self._pairs[there] = there, here

    def _forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
            self._pairs[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            other = self._pairs.pop(end)
            self._pairs.pop(other, None)
            end.close()
            other.close()

    def _close_all(self) -> None:
        for end in list(self._pairs):
            end.close()
        self._pairs.clear()
