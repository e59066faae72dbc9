"""What a grid bears, and what it keeps how long. The same on every node and client; an environment variable of the same name changes one.

    GRIDWORKER_DEPTH_MOST      calls of calls of calls …: a longer chain is taken for recursion without end
    GRIDWORKER_PAYLOAD_MOST    bytes of pickled arguments, or of a pickled result
    GRIDWORKER_KEPT_MOST       results that have been acknowledged and are still kept; the oldest go first
    GRIDWORKER_RESULT_MS       how long a result is kept once all who were waiting for it have acknowledged it
    GRIDWORKER_UNHEARD_MS      how long for askers that never do: then they count as gone
    GRIDWORKER_PARTS_MOST      bytes of big values that are kept although no pending call needs them; the oldest go first
    GRIDWORKER_FAILURE_MS      how long a failure is kept, for askers who may have missed it; others run the call anew
    GRIDWORKER_DEAD_MS         without a beat of its supervisor a node counts as dead; supervisors beat each second
    GRIDWORKER_ALONE_MS        without a server for so long a host's nodes leave: longer than any restart, shorter than a bill that hurts
    GRIDWORKER_CODE_MS         how long a function that goes by value is kept after its last use; if it is big, as other big values
    GRIDWORKER_CODES_BYTES     bytes of functions by value that a worker has at hand; the oldest go first
"""

from __future__ import annotations

import os


def _limit(name: str, default: int) -> int:
    return int(os.environ.get("GRIDWORKER_" + name, default))


DEPTH_MOST = min(_limit("DEPTH_MOST", 2000), 9999)
PAYLOAD_MOST = _limit("PAYLOAD_MOST", 256 << 20)
KEPT_MOST = _limit("KEPT_MOST", 50_000)
RESULT_MS = _limit("RESULT_MS", 600_000)
PARTS_MOST = _limit("PARTS_MOST", 256 << 20)
UNHEARD_MS = _limit("UNHEARD_MS", 3_600_000)
FAILURE_MS = _limit("FAILURE_MS", 60_000)
CODE_MS = _limit("CODE_MS", 86_400_000)
HEARD_MOST = 200         # results are acknowledged in batches of this size, or when there is nothing else to do
CODES_MOST = 1000        # functions by value that a process has at hand
CODES_BYTES = _limit("CODES_BYTES", 128 << 20)
UPLOAD_MS = 600_000      # a part that has been stored, and then not entered as one of a call, goes after this time
HOLD_MS = 60_000         # so long it is kept for a call that has not been made yet
DEAD_MS = _limit("DEAD_MS", 6000)
ALONE_MS = _limit("ALONE_MS", 600_000)
TRIES = 5                # a call whose nodes died under it this often is given up
