"""What a worker reports of a call that has failed."""

from __future__ import annotations

import pickle

from .errors import CallFailed
from .messages import Failure
from .serialize import pickled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .parking import Running

TEXT_MOST = 500_000      # bytes of each part of a failure


def report(error: BaseException, running: Running, node: str) -> Failure:
    """The failure of a call: its own, or, if it let the failure of a call it had made pass, that one with itself as the caller."""
    if isinstance(error, CallFailed):
        return error.failure.called_by(running.describe())
    import traceback

    trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
    text = "".join(traceback.format_exception(type(error), error, trace))[-TEXT_MOST:]
    try:
        message = str(error)[:TEXT_MOST]
    except BaseException as worse:          # this is users' code, and may raise whatever it likes
        message = f"(its text cannot be had: {type(worse).__name__})"
    try:
        cause = pickled(error, "the exception")
        pickle.loads(cause)                 # some exceptions pickle and do not come back
    except BaseException:
        cause = b""
    if len(cause) > TEXT_MOST:
        cause = b""
    return Failure("raised", type(error).__name__, message, traceback=text, node=node, chain=(running.describe(),),
                   cause=cause)
