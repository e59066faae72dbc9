"""The process beside a session that applies its exit policy when the session's own process is gone, by SIGKILL too.

It waits for the end of a pipe, which the kernel closes however the other side dies. Until then it is a bare interpreter: it has imported
nothing of this package, and nothing that a session's process does to its terminal or its process group reaches it. Lines on the pipe:

    keep LAUNCH    its lifetime is "fuse": it is left to its machines' fuses
    bye            the session has ended well: nothing is left to do

Run by its path, with `-S`, it waits; then it becomes `python -m fleetctl.oversight.sidecar SESSION HOME KEPT…`, which ends what the session
left. Nobody looks at it, so it tries until all is proved gone: AWS may not show yet what was asked for a moment before the process died, or
may not be reached at all just then. It gives up when the machines' own fuses have burnt, or when somebody else takes the session over.
"""

from __future__ import annotations

import os
import sys

NAME = "fleetctl.oversight.sidecar"
AGAIN = (3.0, 10.0, 30.0, 60.0, 300.0)  # seconds between tries; the last repeats


def wait(session: str, home: str) -> None:
    """Wait for the end of the pipe; after a good-bye return, else become the one who acts."""
    kept: list[str] = []
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "bye":
            return
        if word == "keep":
            kept.append(rest)
    os.execv(sys.executable, [sys.executable, "-m", NAME, session, home, *kept])


def act(session: str, home: str, kept: list[str]) -> int:
    """End what the session left, but for the launches `kept`, and write down how that went."""
    import itertools
    import logging
    import time
    from pathlib import Path

    from fleetctl.ending.fuse import FUSE_MINUTES
    from fleetctl.errors import FleetError
    from fleetctl.oversight import abandoned

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    log = logging.getLogger(NAME)
    log.info("the process of session %s is gone without a good-bye: ending what it left%s", session, f", not {kept}" if kept else "")
    until, pauses = time.monotonic() + 60 * FUSE_MINUTES, itertools.chain(AGAIN, itertools.repeat(AGAIN[-1]))
    while True:
        try:
            receipt = abandoned.take_over(Path(home), session, kept)
        except FleetError as error:
            log.error("%s", error)
            return 1
        print(receipt, file=sys.stderr)
        pause = next(pauses)
        if not receipt.remaining or time.monotonic() + pause >= until:
            return 1 if receipt.remaining else 0
        log.warning("%d of it could not be proved gone: again in %.0f s", len(receipt.remaining), pause)
        time.sleep(pause)


if __name__ == "__main__":
    if __package__:
        sys.exit(act(sys.argv[1], sys.argv[2], sys.argv[3:]))
    wait(*sys.argv[1:3])
