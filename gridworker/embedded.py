"""A grid of this machine's own: what `Grid()` without an address starts. A server on a unix socket, and a supervisor with its workers.

They are processes of their own, so a script needs no `if __name__ == "__main__":`, a notebook can send what its cells define, and Ctrl-C
ends neither. They end with the block; and with this process however it dies, because the kernel closes the pipes that they hang on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from .errors import GridError, GridUnreachable
from .node import manner
from .server import Server

GRACE_SECONDS = 1.0         # for what still runs when the grid is closed
_PATH_MOST = 100            # bytes of a unix socket's path; the kernels' limits are 104 and 108
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")

_started: weakref.WeakSet[Embedded] = weakref.WeakSet()


def embed(url: str | None, workers: int | None, pool: str, namespace: str, lost: Callable[[GridError], None]) -> Embedded | None:
    """The processes for a grid without an address; None for one that is somewhere. ValueError for workers that are not ours to start,
    TypeError for what is no address."""
    if url is None:
        return Embedded(workers, pool, namespace, lost)
    if not isinstance(url, str):
        raise TypeError(f"the address of a grid is a text, not {url!r}; a number of workers is said by name: Grid(workers=4)")
    if workers is not None:
        raise ValueError("workers= is for a grid of this machine's own, Grid() without an address; start those of a grid that is "
                         "somewhere with `python -m gridworker --worker`")
    return None


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Embedded:
    """The processes of an embedded grid. `lost(error)` is called, in a thread of its own, if its supervisor ends before `stop()`."""

    def __init__(self, workers: int | None, pool: str, namespace: str, lost: Callable[[GridError], None]) -> None:
        self.workers, self.pool, self.namespace = cores() if workers is None else workers, pool, namespace
        if self.workers < 1:
            raise ValueError(f"a grid needs at least one worker, not {workers}")
        self.server = Server(unix=True, shelf=True)
        if len(os.fsencode(self.server.address.path)) > _PATH_MOST:
            self.server.stop()
            self.server = Server()
        self.key = os.urandom(32).hex()
        self._lost, self._stopping = lost, False
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._pid = os.getpid()
        self._watcher = threading.Thread(target=self._watch, name="grid's workers", daemon=True)

    def __repr__(self) -> str:
        return f"<Embedded {self.server.url}, {self.workers} workers>"

    def start(self) -> None:
        """Starts the server and, at the same time, the workers. ServerNotFound."""
        secret = Path(self.server.directory) / "secret"
        with open(secret, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f"{self.server.password} {self.key}\n")
        address = self.server.address
        where = ["--unix", address.path] if address.path else ["--host", address.host, "--port", str(address.port)]
        end, self._lifeline = os.pipe()
        _started.add(self)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gridworker", *where, "--namespace", self.namespace, "--pool", self.pool,
                 "--worker", str(self.workers), "--grace", str(GRACE_SECONDS), "--lifeline", str(end)],
                pass_fds=(end,), env=_environment(secret), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise GridError(f"the workers of this grid cannot be started: {error}") from error
        finally:
            os.close(end)
        self._watcher.start()
        self.server.start()

    def _watch(self) -> None:
        assert self._process is not None
        status = self._process.wait()
        if not self._stopping:
            self._lost(GridUnreachable(f"the workers of this grid have ended{manner(status)}; what they had to say is on stderr"))

    def stop(self) -> None:
        """Ends all of it; what still runs has a second to end by itself. In a forked copy of the process it does nothing."""
        if os.getpid() != self._pid:
            return
        self._stopping = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._watcher.join(GRACE_SECONDS + 2.0)
            os.close(self._lifeline)                # whatever is left is killed by the kernel
            self._lifeline = -1
            self._watcher.join()
            self._process = None
        self.server.stop()

    def _let_go(self) -> None:
        """In a forked copy: holds none of the pipes, or the grid would live as long as the copy does."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._process is not None:
            self._process.returncode = 0            # it is not the copy's child: nothing there to wait for
        self.server.let_go()


def _environment(secret: Path) -> dict[str, str]:
    """The workers import what this process can import, and compute on one core each."""
    path = [os.path.abspath(entry) for entry in sys.path]
    package = str(Path(__file__).parents[1])
    return {**dict.fromkeys(_ONE_THREAD, "1"), **os.environ, "GRIDWORKER_SECRET_FILE": str(secret),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys([*path, package]))}


def _forked() -> None:
    for embedded in list(_started):
        embedded._let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
