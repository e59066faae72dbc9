"""Where a local cloud keeps its files, and which process owns them.

    DIR/daemon.lock   held (flock) for as long as the daemon lives; its text is the daemon's pid
    DIR/start.lock    held by whoever is starting a daemon
    DIR/state.json    written last at the start (mode 0600: it names secrets), removed first at the end
    DIR/daemon.log    what the daemon printed
    DIR/key.pem       private half of the cloud's key pair, mode 0600
    DIR/images.json   the image that moto is to know
    DIR/instances/    the hypervisor's
    DIR/functions/    a directory for each run of a Lambda function

Whether a daemon lives is told by the lock, never by a pid: pids are reused, and locks end with their holder however it dies.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE, LOCK, START, LOG, KEY, IMAGES, INSTANCES, FUNCTIONS = (
    "state.json", "daemon.lock", "start.lock", "daemon.log", "key.pem", "images.json", "instances", "functions")
TRIES = 10   # of an exclusive lock, 10 ms apart


def default_directory() -> Path:
    """`$FLEETCTL_HOME/local`, else `fleetctl/local` below the XDG state directory of this user."""
    home = os.environ.get("FLEETCTL_HOME")
    base = Path(home) if home else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fleetctl"
    return base / "local"


class Lock:
    """An exclusive file lock that knows when its file was removed under it: whoever then made a new one has another lock."""

    def __init__(self, path: Path) -> None:
        self.path, self._fd = path, -1

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock; False if it is held by another and `wait` is false.

        Whoever asks whether a daemon lives holds the lock for an instant, so one refusal is not believed.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tries = itertools.count()
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                if next(tries) == TRIES:
                    return False
                time.sleep(0.01)
                continue
            if _is_at(fd, self.path):
                self._fd = fd
                return True
            os.close(fd)

    def write(self, text: str) -> None:
        """Leave `text` in the lock's file, for people who look."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def release(self) -> None:
        """Remove the file, then let go; nothing happens if the lock is not held."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def leave(self) -> None:
        """Remove the file, and hold the lock until this process is gone: who watches it then knows that nothing of it is left."""
        self.path.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<Lock {self.path.name} {'held' if self._fd >= 0 else 'free'}>"


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def starting(directory: Path) -> Iterator[None]:
    """Only one process at a time starts a daemon in `directory`; the others wait here until it has."""
    lock = Lock(directory / START)
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def lives(directory: Path) -> bool:
    """Whether a daemon holds `directory`."""
    path = directory / LOCK
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _free(fd)
    finally:
        os.close(fd)


@contextmanager
def watching(directory: Path) -> Iterator[Callable[[], bool]]:
    """A question that is answered True once the daemon that holds `directory` now is gone, as a process."""
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield lambda: True
        return
    try:
        yield lambda: _free(fd)
    finally:
        os.close(fd)


def _free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(directory: Path, state: dict[str, Any]) -> None:
    """Put the state file in place at once: readers see all of it or none."""
    new = directory / f"{STATE}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(state, file, indent=1)
    new.rename(directory / STATE)


def read(directory: Path) -> dict[str, Any] | None:
    """The state of the daemon that lives in `directory`; None if none lives there or it is not ready yet."""
    if not lives(directory):
        return None
    try:
        state: dict[str, Any] = json.loads((directory / STATE).read_text())
    except FileNotFoundError:
        return None
    return state
