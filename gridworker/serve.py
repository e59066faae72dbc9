"""What a forked node does with its life: by its role, a worker's or a distributor's."""

from __future__ import annotations

import gc
import signal
import sys

from . import logs
from .store import Script
from .supervisor import GONE

YOUNG = 10_000          # new containers before a collection: calls that wait for calls make many that live for milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .node import Node
    from .signing import Seal
    from .store import Connection
    from .supervisor import Role


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
    node.register(connection, Script("register"))
    ready()
    worker.run()
    if worker.steps.gone:
        sys.exit(GONE)
    worker.leave()


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
