"""Everything gridworker raises. Each error says what happened, to which call or node, and what to do.

    GridError
    ├─ CallFailed          a call on the grid ended with an exception (also an instance of that exception's class, where possible)
    │   ├─ NodeLost        its nodes died under it more often than is allowed
    │   ├─ CycleFound      it would have waited for itself
    │   ├─ CallCancelled   whoever asked for it has taken that back
    │   └─ CallTimeout     it was not done in the time that its asker gave it (also a TimeoutError)
    ├─ NotACall            what was asked is no function with arguments (also a TypeError)
    ├─ NotSerializable     a function, argument or result cannot travel
    ├─ CodeMismatch        the worker has another version of the function or of Python, or cannot import it
    ├─ TooBig              arguments or a result are larger than the grid carries
    ├─ PartsGone           a big value is not on the server any more
    ├─ TooDeep             a chain of calls of calls is longer than is allowed: recursion without end
    ├─ GridFull            the server has no memory left; nothing of what was asked has been done
    ├─ NotDurable          the server cannot promise that what was asked has reached its disk
    ├─ NotOnWorker         request() was called where there is no grid
    ├─ GridUnreachable     the server cannot be reached, or does not answer
    ├─ GridDenied          the server refused the password, or password or key can't be read
    ├─ NotTrusted          something is not signed with the grid's key: it was not unpickled
    ├─ GridClosed          the client was closed while the call was waiting
    ├─ GridInUse           clean-up was refused because nodes are alive
    ├─ InvalidName         a name of a pool, node or namespace is not acceptable
    └─ ServerNotFound      there is no Redis or Valkey ≥ 7.0 to start, or it did not start
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .messages import Failure


class GridError(Exception):
    """The root of the package's errors."""


class CallFailed(GridError):
    """A call on the grid raised. `failure` has all that is known: class, message, remote traceback, chain of calls.

    Where the class of the remote exception allows it, what is raised is an instance of both, so that
    `except ZeroDivisionError` works as it would around a local call. The original exception, if it could travel, is `__cause__`.
    """

    failure: Failure

    def __init__(self, failure: Failure) -> None:
        Exception.__init__(self, failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.text()

    def __reduce__(self) -> tuple[object, ...]:
        from .messages import raised

        return raised, (self.failure,)

    @property
    def chain(self) -> Sequence[str]:
        """The calls that led here, the failing one last: `("ratio(1)", "divide(1, 0)")`."""
        return self.failure.chain

    @property
    def traceback(self) -> str:
        """The remote traceback as text, without the worker's own frames."""
        return self.failure.traceback


class NodeLost(CallFailed):
    """The nodes that ran this call died each time; it is given up after a bounded number of tries."""


class CycleFound(CallFailed):
    """The call would have had to wait for itself through other calls; `chain` shows the way round."""


class CallCancelled(CallFailed):
    """The call was cancelled by who asked for it. In the call itself it is raised where that waits for other calls."""


class CallTimeout(CallFailed, TimeoutError):
    """The call was not done within the `timeout` of its request, and has been cancelled."""


class NotACall(GridError, TypeError):
    """What was asked has not the shape `request([pool,] f, *args)` or `requests([pool,] [(f, *args), …])`. Nothing was sent."""


class NotSerializable(GridError):
    """A function, an argument or a result cannot be pickled. Raised where the value was made."""


class CodeMismatch(GridError):
    """The worker cannot import the function, or has another version of it or of Python. Restart the workers after changing a module."""


class TooBig(GridError):
    """Pickled arguments or a pickled result are larger than a grid carries (limits.PAYLOAD_MOST).

    Raised before anything is sent, and for what others have sent before it is unpickled.
    """


class PartsGone(GridError):
    """Parts of a big value are not on the server any more: they were kept too long, or somebody has emptied it. Ask for the call again."""


class TooDeep(GridError):
    """A call would be the end of a chain of more than limits.DEPTH_MOST calls of calls. Raised in the function that asks."""


class GridFull(GridError):
    """The server is at its memory limit and took nothing of what was asked. It takes calls again once there is room."""


class NotDurable(GridError):
    """`durable=True` was asked of a server without WAITAOF (Redis 7.2, Valkey 7.2) or without an append-only file.

    Or the disk did not confirm in time. The calls have been taken back.
    """


class NotOnWorker(GridError):
    """`request()` was called outside a grid: use `grid.request("pool", f, x)`, or `with gridworker.local():` to evaluate here."""


class GridUnreachable(GridError):
    """The server cannot be reached or broke the connection, also after every retry."""


class GridDenied(GridError):
    """The server refused the password; or the file or text that holds password and key is not right."""


class NotTrusted(GridError):
    """Arguments, a result or a function are not signed with the grid's key for the call in question; nothing of it was unpickled.

    Either somebody else can write to the server, or one side was started without the key.
    """


class GridClosed(GridError):
    """The client was closed before the result arrived. The call itself goes on and its result is kept for a while."""


class GridInUse(GridError):
    """The keys of a grid were not deleted because some of its nodes are alive; `nodes` names them."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = tuple(nodes)
        super().__init__(f"{len(nodes)} node(s) are alive: {', '.join(sorted(nodes)[:10])}; stop them first")


class InvalidName(GridError):
    """Names of pools, nodes, clients and namespaces are made of letters, digits and `_ . -`."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{name!r} is not a name for a {what}: letters, digits and _ . - only, at most 100")


class ServerNotFound(GridError):
    """No server binary of version 7.0 or later was found, or it did not start; the message has its output."""
