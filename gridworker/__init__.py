"""gridworker: plain functions evaluated on a grid.

    from gridworker import Grid, request

    def ratio(i):
        return request(divide, i, i - 1)          # on the grid: parks until it is there, other calls run meanwhile

    with Grid.connect("redis://127.0.0.1:6379/0") as grid:
        grid.request("pool", ratio, 5).result()   # or: await grid.request("pool", ratio, 5)

Names are imported when they are first used: a worker's start should not pay for the client.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .answers import Answer
    from .client import Grid
    from .completed import as_completed
    from .errors import (
        CallCancelled,
        CallFailed,
        CallTimeout,
        CodeMismatch,
        CycleFound,
        GridClosed,
        GridDenied,
        GridError,
        GridFull,
        GridInUse,
        GridUnreachable,
        InvalidName,
        NodeLost,
        NotACall,
        NotDurable,
        NotOnWorker,
        NotSerializable,
        NotTrusted,
        PartsGone,
        ServerNotFound,
        TooBig,
        TooDeep,
    )
    from .executor import GridExecutor
    from .later import Later
    from .many import Many
    from .node import local, node_id, request, requests
    from .plugins import register_joblib
    from .remotes import Bound, Remote, remote
    from .serialize import salted

__version__ = "0.1.0"

__all__ = [
    # on the grid
    "request", "requests", "node_id", "local", "salted",
    # the client
    "Grid", "Answer", "as_completed",
    # functions that know of grids
    "remote", "Remote", "Bound", "Many", "Later",
    # as others would have it
    "GridExecutor", "register_joblib",
    # errors
    "GridError", "CallFailed", "NodeLost", "CycleFound", "CallCancelled", "CallTimeout", "NotACall", "NotSerializable", "CodeMismatch",
    "TooBig", "TooDeep", "PartsGone", "NotOnWorker", "GridUnreachable", "GridDenied", "GridFull", "NotDurable", "NotTrusted",
    "GridClosed", "GridInUse", "InvalidName", "ServerNotFound",
]  # fmt: skip

_HOMES = {"request": "node", "requests": "node", "node_id": "node", "local": "node", "salted": "serialize", "Grid": "client",
          "Answer": "answers", "as_completed": "completed", "remote": "remotes", "Remote": "remotes", "Bound": "remotes", "Many": "many",
          "Later": "later", "GridExecutor": "executor", "register_joblib": "plugins"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gridworker' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
