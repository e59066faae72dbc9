"""The write-ahead journal of one session: what it is about to make or end is on disk before AWS is asked to.

SQLite with a rollback journal and synchronous=FULL: a home directory may be NFS, where WAL does not work (sqlite.org/wal.html,
"does not work over a network filesystem"). One file a session, plus a lock file that its process holds for as long as it lives, so
that another process can tell a living session from an abandoned one without trusting process ids.

    <directory>/<session>.sqlite      tables `session` (one row) and `entry` (the journal, only ever appended to)
    <directory>/<session>.lock        flock'ed by the owner

An entry is an intent (the call, its parameters byte for byte, its client token), later given its result or its error. An intent with
neither, or whose error is that no answer came, means: whether AWS applied the call is not known.

Directory and files are for their owner only: user data is in the parameters.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import LedgerError, Network, Throttled

log = logging.getLogger(__name__)

# errors after which a call may have been applied all the same: of several tries, one may have been and its answer lost
UNSURE = (f"{Network.__name__}:", f"{Throttled.__name__}:")
SEEN_GONE = "seen_gone"
SCHEMA = """
CREATE TABLE IF NOT EXISTS session (id TEXT PRIMARY KEY, pid INTEGER, cloud TEXT, region TEXT, endpoint TEXT, began REAL, ended REAL);
CREATE TABLE IF NOT EXISTS entry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, launch TEXT, service TEXT NOT NULL, operation TEXT NOT NULL,
    region TEXT NOT NULL, token TEXT, request TEXT NOT NULL, done REAL, result TEXT, error TEXT);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of the journal. `result` and `error` are None while the outcome is not known."""

    seq: int
    at: float
    launch: str | None
    service: str
    operation: str
    region: str
    token: str | None
    request: Any
    result: Any
    error: str | None

    @property
    def unknown(self) -> bool:
        """True where nothing tells whether AWS applied the call."""
        return self.result is None and (self.error is None or self.error.startswith(UNSURE))


class Ledger:
    """The journal of one session, open for writing. Raises LedgerError when another process holds it or the disk refuses."""

    def __init__(self, path: Path, lock: IO[str], db: sqlite3.Connection) -> None:
        self.path, self._lock, self._db = path, lock, db
        self.session = path.stem
        self._ended = False

    def __repr__(self) -> str:
        return f"<ledger of session {self.session}>"

    @classmethod
    def create(cls, directory: Path, session: str, *, cloud: str, region: str, endpoint: str | None) -> Ledger:
        """A new session's ledger, locked by this process until `close`."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        ledger = cls.open(directory / f"{session}.sqlite")
        try:
            with ledger._writing():
                ledger._db.execute(
                    "INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, NULL)", (session, os.getpid(), cloud, region, endpoint, time.time())
                )
        except LedgerError:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Take over a ledger. Raises LedgerError while its owner lives."""
        lock = _lock(path)
        if lock is None:
            raise LedgerError(f"the ledger {path.name} belongs to a living session", todo="end that session, or leave it alone")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives its journal the mode of the file
            # every write goes through the session's one loop thread, but it may be created on another
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            lock.close()
            raise LedgerError(f"the ledger {path.name} cannot be written: {error}", todo="free or mend the disk that holds it") from error
        return cls(path, lock, db)

    @classmethod
    def take_over(cls, path: Path) -> Ledger:
        """Open the ledger of a session that goes on in this process. Raises LedgerError."""
        ledger = cls.open(path)
        try:
            with ledger._writing():
                ledger._db.execute("UPDATE session SET pid = ?", (os.getpid(),))
        except LedgerError:
            ledger.close()
            raise
        return ledger

    def intent(
        self, service: str, operation: str, request: Any, *, region: str, launch: str | None = None, token: str | None = None
    ) -> int:
        """Write what is about to be asked of AWS; returns the entry's number. On disk when this returns."""
        with self._writing():
            if self._ended:
                self._mark(None)
            cursor = self._db.execute(
                "INSERT INTO entry (at, launch, service, operation, region, token, request) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (time.time(), launch, service, operation, region, token, _dump(request)),
            )
        return int(cursor.lastrowid or 0)

    def result(self, entry: int, result: Any) -> None:
        """Write what AWS answered."""
        with self._writing():
            self._db.execute("UPDATE entry SET done = ?, result = ? WHERE seq = ?", (time.time(), _dump(result), entry))

    def error(self, entry: int, error: BaseException) -> None:
        """Write that the call failed for good."""
        with self._writing():
            self._db.execute("UPDATE entry SET done = ?, error = ? WHERE seq = ?", (time.time(), f"{type(error).__name__}: {error}", entry))

    def seen_gone(self, ids: Sequence[str]) -> None:
        """Write that these things were seen to be gone, so that no later teardown asks for them again."""
        if ids:
            self.note(SEEN_GONE, list(ids))

    def note(self, what: str, of: Any) -> None:
        """Write something that is no call, for whoever goes on with the session."""
        self.result(self.intent("fleetctl", what, of, region=""), {})

    def entries(self) -> Iterator[Entry]:
        """Every call of the session, oldest first."""
        yield from _entries(self._db)

    def mark_ended(self) -> None:
        """Nothing of the session is left, so nobody needs to look after it. The next intent takes this back."""
        with self._writing():
            self._mark(time.time())

    def forked(self) -> None:
        """In a forked child: drop its share of the lock, which would outlive the parent. SQLite's connection must not be touched there."""
        self._lock.close()

    def close(self) -> None:
        """Release the lock."""
        self._db.close()
        self._lock.close()

    def _mark(self, ended: float | None) -> None:
        self._db.execute("UPDATE session SET ended = ?", (ended,))
        self._ended = ended is not None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(
                f"the ledger {self.path.name} could not be written: {error}",
                todo="nothing was asked of AWS; free or mend the disk and try again",
            ) from error


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session as its ledger tells it. `living`: its process still holds the lock."""

    id: str
    path: Path
    pid: int
    cloud: str
    region: str
    endpoint: str | None
    began: float
    ended: float | None
    living: bool
    entries: tuple[Entry, ...]


def sessions(directory: Path) -> list[SessionRecord]:
    """Every session that has a ledger in `directory`, oldest first. Writes nothing of its own; holds no lock afterwards."""
    records = [record for path in sorted(directory.glob("*.sqlite")) if (record := _read(path)) is not None]
    return sorted(records, key=lambda record: record.began)


def _read(path: Path) -> SessionRecord | None:
    lock = _lock(path, fcntl.LOCK_SH)
    living = lock is None
    # a process that died while it wrote has left a journal, which only somebody who may write can roll back
    mode = "ro" if living else "rw"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as db:
            row = db.execute("SELECT id, pid, cloud, region, endpoint, began, ended FROM session").fetchone()
            entries = tuple(_entries(db))
    except sqlite3.Error as error:
        log.warning("%s is passed over, it is not a ledger or a broken one: %s", path, error)
        return None
    finally:
        if lock is not None:
            lock.close()
    if row is None:
        return None  # made a moment ago by a session that has not written its row yet
    return SessionRecord(row[0], path, row[1], row[2], row[3], row[4], row[5], row[6], living, entries)


def _entries(db: sqlite3.Connection) -> Iterator[Entry]:
    columns = "seq, at, launch, service, operation, region, token, request, result, error"
    for row in db.execute(f"SELECT {columns} FROM entry ORDER BY seq"):
        seq, at, launch, service, operation, region, token, request, result, error = row
        yield Entry(
            seq, at, launch, service, operation, region, token, json.loads(request), None if result is None else json.loads(result), error
        )


def _dump(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))


def _lock(path: Path, kind: int = fcntl.LOCK_EX) -> IO[str] | None:
    """The lock of a ledger, held until the returned file is closed; None when somebody else has it. Who only asks shares it."""
    file = os.fdopen(os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="utf-8")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
