"""What a forked copy of a process must not share with it: connections, and whose answers they bring.

Two processes that read one socket take each other's replies, and both would wait for ever. So a copy finds its client closed, and opens
one of its own if it wants to ask; and a copy that a function on the grid makes of its worker is none: it hears signals as any process
does, has no grid, and ends if it ever comes back from the function, which goes on in the worker itself.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, NoReturn

from .errors import GridClosed

if TYPE_CHECKING:
    from .client import Grid

_clients: weakref.WeakSet[Grid] = weakref.WeakSet()


def watch(client: Grid) -> None:
    """In a forked copy of this process the client is to be closed."""
    _clients.add(client)


def _cut_off() -> None:
    for client in list(_clients):
        _close_copy(client)


def _close_copy(client: Grid) -> None:
    """In the copy. Whoever held a lock is not here, and nothing is said on a connection: it goes on, in the other process."""
    error = GridClosed(f"this process is a copy (by fork) of the one that has opened the grid at {client.address.url}; connections and "
                       "answers are that one's: open a grid here, Grid.connect(…)")

    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    client._lock._at_fork_reinit()      # type: ignore[attr-defined]    # as the standard library does, and tells nobody
    client._connected._at_fork_reinit()     # type: ignore[attr-defined]
    client._connected.set()
    client._error, client._open, client._closing = error, False, True
    for verb in ("lead", "need", "glance", "wake", "lose"):
        setattr(client._reading, verb, refuse)      # answers of before wait by these
    for connection in (client._commands, client._bell, client._blobs, client._disk):
        connection.close()
    client._reading.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cut_off)
