"""Whoever enters a grid, as a client, a host or a node, says which wire format it speaks; who would misread the others is refused."""

from __future__ import annotations

from . import __version__
from .errors import CodeMismatch
from .keys import WIRE
from .limits import RESULT_MS
from .store import Script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .keys import Keys
    from .store import Connection


def enter(connection: Connection, keys: Keys, what: str) -> None:
    """Before `what` ("client", "host", "node") writes anything. CodeMismatch if it and the grid would misread each other.

    Releases that speak the same wire format work together. The first who comes to an empty namespace fixes its format for good.
    """
    found = connection.call("EVAL", Script("wire").text, 4, keys.wire, keys.nodes, keys.kept, keys.refused,
                            keys.prefix, WIRE, __version__, "" if what == "client" else RESULT_MS)
    if not found:
        return
    theirs, version, node = (text.decode() for text in found)
    me = f"this {what} speaks {WIRE} (gridworker {__version__}); nothing was sent: "
    if node:
        raise CodeMismatch(f"the node {node} speaks wire format {theirs} (gridworker {version}), {me}install the same version on both")
    known = f"speaks wire format {theirs} (gridworker {version})" if version else "was left on its server by an older release of gridworker"
    raise CodeMismatch(f"the grid {keys.namespace} {known}, {me}install the same version on both, or use another namespace; "
                       f"when nobody needs what is there, `python -m gridworker --cleanup --namespace {keys.namespace}` deletes it")


def refusal(refused: bytes | None) -> str:
    """What to add to the news of a pool without workers: that some came and were refused, as the server has noted it.

    >>> refusal(b"9 0.4.0")
    '; workers of gridworker 0.4.0 came and were refused: they speak wire format 9, this grid 6'
    """
    if not refused:
        return ""
    theirs, _, version = refused.decode().partition(" ")
    return f"; workers of gridworker {version} came and were refused: they speak wire format {theirs}, this grid {WIRE}"
