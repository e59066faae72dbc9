"""A block of loopback addresses for one local cloud: 127.B.0.0/16 with B its own, however many local clouds a host runs.

Linux answers on all of 127/8 without set-up. Where only 127.0.0.1 exists (macOS), instances share that, told apart by their ports.
"""

from __future__ import annotations

import errno
import random
import socket
import threading
from collections.abc import Iterator

from fleetctl.errors import LocalCloudError

_GUARD_PORT = 1337      # held on 127.B.0.1 by whoever owns block B
_ONLY = "127.0.0.1"


class Block:
    """Gives addresses out, each to one instance at a time; thread-safe.

    `shared` is True where every instance gets 127.0.0.1. Addresses come round robin, so one just given back is reused last: a client
    that still remembers the old machine there is not surprised.
    """

    def __init__(self, ports: tuple[int, ...] = ()) -> None:
        """Takes a free block in which `ports` can be bound too. LocalCloudError if there is none."""
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._guard, self.shared = _take_block(ports)
        self._prefix = ".".join(self._guard.getsockname()[0].split(".")[:2]) if self._guard else ""
        self._next = self._hosts()

    def __repr__(self) -> str:
        return f"<Block {self._prefix or _ONLY}, {len(self._taken)} taken>"

    def __contains__(self, ip: str) -> bool:
        return ip == _ONLY if self.shared else ip in self._taken

    def take(self) -> str:
        """An address nobody has. LocalCloudError when 64,516 are out."""
        if self.shared:
            return _ONLY
        with self._lock:
            for _ in range(254 * 254):
                ip = next(self._next)
                if ip not in self._taken:
                    self._taken.add(ip)
                    return ip
        raise LocalCloudError("every address of the local cloud is in use", todo="terminate instances")

    def release(self, ip: str) -> None:
        """Gives an address back; giving it back twice, or one that was never taken, changes nothing."""
        with self._lock:
            self._taken.discard(ip)

    def close(self) -> None:
        """Gives the block back to the host."""
        if self._guard:
            self._guard.close()

    def _hosts(self) -> Iterator[str]:
        while True:
            for third in range(1, 255):
                for fourth in range(1, 255):
                    yield f"{self._prefix}.{third}.{fourth}"


def _take_block(ports: tuple[int, ...]) -> tuple[socket.socket | None, bool]:
    """The guard's listening socket, or None and True where there is only 127.0.0.1."""
    for number in random.sample(range(2, 255), 253):        # 127.0 and 127.1 belong to the host's own names and resolvers
        ip = f"127.{number}.0.1"
        guard = socket.socket()
        try:
            guard.bind((ip, _GUARD_PORT))
            guard.listen()      # binding alone does not keep a second one out
            for port in ports:
                with socket.socket() as trial:
                    trial.bind((ip, port))
        except OSError as exc:
            guard.close()
            if exc.errno == errno.EADDRNOTAVAIL:
                return None, True
            if exc.errno != errno.EADDRINUSE:
                raise LocalCloudError(f"cannot bind a loopback address: {exc}") from exc
        else:
            return guard, False
    raise LocalCloudError(f"no free block of loopback addresses with ports {(_GUARD_PORT, *ports)}",
                          todo="end what listens on one of these ports on all addresses, or bring other local clouds down")
