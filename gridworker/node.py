"""What a function sees of the grid while it runs on it: `request`, `requests`, `node_id`; and `local()`, the same without a grid.

A process is at most one node, so which one it is belongs to the process. Outside of a node these verbs raise NotOnWorker: falling
back to local evaluation silently would turn an hour on a hundred machines into a week on one. `local()` says it in so many words.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

from . import __version__
from .asking import one, several
from .errors import NotOnWorker
from .keys import WIRE, incarnation, name_of
from .limits import FAILURE_MS, TRIES
from .tally import private
from .versions import PYTHON
from .wire import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap
    from types import TracebackType
    from typing import Any

    from .keys import Keys
    from .store import Connection, Script
    from .worker import Worker

NOBODY, SEVERAL = b"-" * 32, b"*" * 32      # in a node's `now`: no call computes; coroutines do, and any of them may
_here: Worker | None = None
_local: ContextVar[int] = ContextVar("gridworker_local", default=0)


class Node:
    """A named process of a grid in one of its lives (incarnations)."""

    __slots__ = ("incarnation", "keys", "kind", "name", "now", "pool", "supervisor", "tally")

    def __init__(self, keys: Keys, pool: str, name: str, *, kind: str, supervisor: str) -> None:
        self.keys, self.pool, self.name, self.kind, self.supervisor = keys, pool, name, kind, supervisor
        self.incarnation = incarnation(pool, name)
        self.tally = private()
        self.now: bytearray | mmap = bytearray(NOBODY)       # the call that computes; a supervisor shares the memory with the node

    def __repr__(self) -> str:
        return f"<Node {self.incarnation} {self.kind}>"

    def describe(self) -> str:
        """What the grid knows of the node, as JSON (all values are checked names and numbers, so it needs no encoder)."""
        return (f'{{"name": "{self.name}", "pool": "{self.pool}", "kind": "{self.kind}", "pid": {os.getpid()}, '
                f'"host": "{os.uname().nodename}", "supervisor": "{self.supervisor}", "python": "{PYTHON}", "version": "{__version__}", '
                f'"wire": {WIRE}}}')

    def register(self, connection: Connection, script: Script) -> None:
        """Enters the grid. CodeMismatch if it speaks another wire format."""
        keys = self.keys
        enter(connection, keys, "node")
        connection.run(script, (keys.nodes, keys.pools, keys.beats),
                       [keys.prefix, self.incarnation, self.pool, self.describe(), self.supervisor])


def reap(connection: Connection, script: Script, keys: Keys, node: str, *, dead: bool, tries: int, why: bytes,
         culprit: bytes = b"") -> tuple[int, int]:
    """Gives back all that an incarnation owns; (requeued, given up), or (-1, 0) if it was gone already. `why`: an encoded Failure.

    `culprit`: the one call that loses a try because it was computing when the node died; b"" if that is not known: then all do.
    """
    pool = node.partition("/")[0]
    fixed = (keys.nodes, keys.owned(node), keys.mine(node), keys.inbox(node), keys.busy(pool), keys.volunteers(pool), keys.helpers(pool))
    requeued, given_up = connection.run(script, fixed, [keys.prefix, node, pool, "dead" if dead else "left", tries, FAILURE_MS, why,
                                                      culprit])
    return int(requeued), int(given_up)


def lost(node: str, code: int | None = None) -> bytes:
    """The failure of calls that are given up because nodes, this one last, died while they held them. `code`: the process's, if known."""
    from .messages import Failure

    text = f"the nodes that held it died {TRIES} times, {name_of(node)} last{manner(code)}"
    return Failure("lost", "NodeLost", text, node=name_of(node)).plain()


def manner(code: int | None) -> str:
    """How a process has ended, as a message goes on; `code` as subprocess has it.

    >>> manner(-11), manner(3), manner(None)
    (', by SIGSEGV', ', with exit code 3', '')
    """
    if code is None:
        return ""
    if code >= 0:
        return f", with exit code {code}"
    from signal import Signals

    name = Signals(-code).name if -code in list(Signals) else f"signal {-code}"
    return f", by {name}" + (", as when the machine's memory is used up" if name == "SIGKILL" else "")


def become(worker: Worker | None) -> None:
    """Makes this process that worker (None: nobody any more)."""
    global _here
    _here = worker


def node_id() -> str:
    """The name of the node that runs this; "local" where there is none."""
    return _here.node.name if _here is not None else "local"


def current_call() -> str:
    """The id of the call whose code is executing here; "" if none is."""
    if _here is None:
        return ""
    from .parking import current_runner

    runner = current_runner()
    running = runner.running if runner is not None else None
    if running is None and _here._coroutines is not None:
        running = _here._coroutines.running()
    return running.call if running is not None else ""


class local:
    """Within it, in this thread or task, `request` and `requests` of plain functions are ordinary calls: nothing is sent or shared.

    >>> import math
    >>> with local():
    ...     request(math.sqrt, 16)
    4.0
    """

    def __enter__(self) -> None:
        self._token = _local.set(_local.get() + 1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        _local.reset(self._token)


def _worker() -> Worker:
    if _here is None:
        raise NotOnWorker('request() works inside functions that run on a grid. From here: grid.request("pool", f, x); '
                          "or `with gridworker.local():` to evaluate in this process")
    return _here


def request(*call: Any, **kwargs: Any) -> Any:
    """`request(f, *args)` in a running function: the value of f(*args), computed anywhere on the grid. Other calls run meanwhile.

    `request("pool", f, *args)` sends it to that pool; without, it goes to this worker's own queue. In an `async def` function the
    result has to be awaited. Raises CallFailed (which is also the exception that f raised), NotSerializable, NotOnWorker.
    `timeout=` seconds are not passed on to f: when they are over, the call is cancelled, and CallTimeout raised.
    """
    pool, function, args = one(call, "")
    timeout = None
    if "timeout" in kwargs:
        from .withdrawal import own_option

        timeout = own_option(function, "timeout", kwargs)
    if _here is None and _local.get():
        return function(*args, **kwargs)
    return _worker().request(pool, [(function, args, kwargs)], single=True, patient=False, timeout=timeout)


def requests(*where: Any, return_exceptions: bool = False, timeout: float | None = None) -> Any:
    """`requests([(f, *args), …])` or `requests("pool", [(f, *args), …])`: the values in order, computed at the same time.

    Raises the first failure while the others go on, or returns values and errors with `return_exceptions`. What is not done after
    `timeout` seconds is cancelled, and fails with CallTimeout.
    """
    pool, calls = several(where, "")
    if _here is None and _local.get():
        return [_evaluate(function, args, return_exceptions) for function, args, _ in calls]
    return _worker().request(pool, calls, single=False, patient=return_exceptions, timeout=timeout)


def _evaluate(function: Callable[..., Any], args: tuple[Any, ...], return_exceptions: bool) -> Any:
    if not return_exceptions:
        return function(*args)
    try:
        return function(*args)
    except Exception as error:
        return error
