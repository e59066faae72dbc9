"""The session's end of the pipe to its sidecar: starts the process, tells it what to spare, and says good-bye.

The pipe's end is the only sign that counts, so nobody else may hold it open: it is closed in a program that is executed (its descriptor
is not inherited) and in a child that is forked (`forked`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

LOGS = "sidecars"
PACKAGE = Path(__file__).parents[1]
END_SECONDS = 5.0  # what a sidecar may take to end after the good-bye


def wanted() -> bool:
    """Whether processes have sidecars; FLEETCTL_SIDECAR=off in the environment does without."""
    return os.environ.get("FLEETCTL_SIDECAR") != "off"


class Guard:
    """A running sidecar. `start` makes one; from any thread."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.process, self.log_file = process, log_file
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"<sidecar {self.process.pid}, {'over' if self._pipe.closed else 'standing by'}>"

    @property
    def _pipe(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @classmethod
    def start(cls, session: str, home: Path) -> Guard | None:
        """Start the sidecar of a session. None, and a warning, where the system refuses: then the machines' fuses are what is left."""
        log_file = home.absolute() / LOGS / f"{session}.log"
        path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        try:
            log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(log_file, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
                process = subprocess.Popen(
                    [sys.executable, "-S", str(PACKAGE / "oversight" / "sidecar.py"), session, str(home.absolute())],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": path},
                    start_new_session=True,  # out of reach of the terminal's hangup, of Ctrl-C, and of who kills a kernel's group
                )
        except OSError as error:
            log.warning("no sidecar could be started (%s): if this process is killed, its machines end by their fuses alone", error)
            return None
        return cls(process, log_file)

    def keep(self, launch: str) -> None:
        """This launch is left to its fuses when the session's process dies."""
        self._say(f"keep {launch}\n")

    def dismiss(self) -> None:
        """All is well: the sidecar ends, and acts no more. A log without a word in it goes too."""
        self._say("bye\n")
        self.let_go()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        with contextlib.suppress(OSError):
            if self.log_file.stat().st_size == 0:
                self.log_file.unlink()

    def let_go(self) -> None:
        """Close the pipe. Without a good-bye before, the sidecar sets to work."""
        with self._writing, contextlib.suppress(OSError):
            self._pipe.close()

    def forked(self) -> None:
        """In a forked child: the pipe is its parent's. Takes no lock, for another thread may have held it at the fork."""
        self._pipe.close()

    def _say(self, text: str) -> None:
        with self._writing:
            try:
                self._pipe.write(text.encode())
                self._pipe.flush()
            except (OSError, ValueError) as error:
                log.warning("the sidecar (process %d) does not hear any more: %s", self.process.pid, error)
