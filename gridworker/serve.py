"""What a forked node does with its life: by its role, a worker's or a distributor's."""

from __future__ import annotations

import gc
import os
import signal
import sys

from . import logs
from .node import become
from .store import Script
from .supervisor import BROKEN, GONE

YOUNG = 10_000          # new containers before a collection: calls that wait for calls make many that live for milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .node import Node
    from .signing import Seal
    from .store import Connection
    from .supervisor import Role
    from .worker import Worker


def serve(node: Node, role: Role, connection: Connection, ready: Callable[[], None], *, seal: Seal, helper: float = 1.0,
          parent: str = "") -> None:
    """Runs the node until it is told to leave. `helper`: a distributor's period in seconds; `parent`: what its pool is linked to."""
    logs.become(node.name, node.keys)
    gc.freeze()                                 # what the supervisor has imported is nobody's garbage, and its pages stay shared
    gc.set_threshold(YOUNG)
    if role.kind == "distributor":
        _distribute(node, connection, ready, helper, parent)
    else:
        _work(node, connection, ready, seal)


def _work(node: Node, connection: Connection, ready: Callable[[], None], seal: Seal) -> None:
    from .worker import Worker

    worker = Worker(node, connection, seal=seal)
    signal.signal(signal.SIGTERM, lambda number, frame: worker.drain())
    _watch_copies(worker)
    node.register(connection, Script("register"))
    ready()
    worker.run()
    if worker.steps.gone:
        sys.exit(GONE)
    worker.leave()


def _watch_copies(worker: Worker) -> None:
    """A process that a function forks is no worker, whatever it inherits."""
    held: list[set[int | signal.Signals]] = []

    def hold() -> None:                         # in the copy SIGTERM is to find its own handler
        held.append(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}))

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, held.pop())

    def copied() -> None:
        _end_copy(worker)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=copied)


def _end_copy(worker: Worker) -> None:
    """In the copy: SIGTERM ends it, and so does coming back from the function."""
    become(None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logs.become(worker.node.name, worker.node.keys)
    worker.steps.connection.close()
    worker.steps.connection.connect = lambda patience=0.0: os._exit(BROKEN)     # type: ignore[method-assign]  # what the hub does next
    worker.blobs.close()


def _distribute(node: Node, connection: Connection, ready: Callable[[], None], helper: float, parent: str) -> None:
    from .distributor import Distributor
    from .links import link

    distributor = Distributor(node, connection, period=helper, parent=parent)
    signal.signal(signal.SIGTERM, lambda number, frame: distributor.stop())
    node.register(connection, Script("register"))
    if parent:
        link(connection, node.keys, node.pool, parent)
    ready()
    distributor.run()
