"""What a session is about to do is on disk before AWS hears of it, and one process at a time holds the ledger."""

import fcntl
import os
import sqlite3
import stat
import subprocess
import sys

import pytest

from fleetctl.errors import LedgerError, Network, NotFound, Throttled
from fleetctl.ledger import Ledger, sessions


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.create(tmp_path, "abc", cloud="local", region="us-east-1", endpoint=None)
    yield ledger
    ledger.close()


def test_an_intent_is_on_disk_before_its_outcome_is_known(ledger, tmp_path):
    ledger.intent("ec2", "request_spot_instances", {"SpotPrice": "0.01"}, region="us-east-1", launch="L", token="T")
    [record] = sessions(tmp_path)
    [entry] = record.entries
    assert entry.unknown
    assert (entry.launch, entry.token, entry.request) == ("L", "T", {"SpotPrice": "0.01"})


def test_results_and_errors_end_the_uncertainty(ledger):
    first, second = (ledger.intent("ec2", "terminate_instances", {}, region="r") for _ in range(2))
    ledger.result(first, {"ok": True})
    ledger.error(second, ValueError("no"))
    done, failed = ledger.entries()
    assert done.result == {"ok": True}
    assert failed.error == "ValueError: no"
    assert not done.unknown
    assert not failed.unknown


@pytest.mark.parametrize(("kind", "unknown"), [(Network, True), (Throttled, True), (NotFound, False)])
def test_a_call_that_got_no_answer_may_have_been_applied_and_a_refused_one_was_not(ledger, kind, unknown):
    ledger.error(ledger.intent("ec2", "x", {}, region="r"), kind("x", service="ec2", operation="x", code="c"))
    assert [entry.unknown for entry in ledger.entries()] == [unknown]


def test_only_its_owner_can_read_a_ledger(tmp_path):
    before = os.umask(0)
    try:
        ledger = Ledger.create(tmp_path / "new", "abc", cloud="local", region="r", endpoint=None)
        ledger.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()} == {0o600}


def test_a_session_that_was_killed_in_the_middle_of_writing_is_found_all_the_same(tmp_path):
    script = (
        "import os, pathlib; from fleetctl.ledger import Ledger\n"
        f"ledger = Ledger.create(pathlib.Path({str(tmp_path)!r}), 'dead', cloud='local', region='r', endpoint=None)\n"
        "ledger.intent('ec2', 'request_spot_instances', {}, region='r', launch='L')\n"
        "db = ledger._db\n"
        "db.execute('PRAGMA cache_size = 1'); db.execute('BEGIN IMMEDIATE')\n"  # so that half of it reaches the file
        "[db.execute('UPDATE entry SET request = ?', ('x' * 9999 * n,)) for n in range(1, 9)]\n"
        "db.execute('CREATE TABLE more AS SELECT * FROM entry')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert (tmp_path / "dead.sqlite-journal").exists(), "else this tests nothing"
    with pytest.raises(sqlite3.OperationalError):  # nor does it if a reader needed not roll back
        sqlite3.connect(f"{(tmp_path / 'dead.sqlite').as_uri()}?mode=ro", uri=True).execute("SELECT * FROM entry").fetchall()
    [record] = sessions(tmp_path)
    assert [entry.launch for entry in record.entries] == ["L"]


def test_two_who_look_at_once_see_the_same_and_neither_looks_like_an_owner(tmp_path):
    Ledger.create(tmp_path, "abc", cloud="local", region="r", endpoint=None).close()
    with open(tmp_path / "abc.lock") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert [record.living for record in sessions(tmp_path)] == [False]


def test_a_directory_with_any_name_can_hold_ledgers(tmp_path):
    odd = tmp_path / "what? 100% #1"
    Ledger.create(odd, "abc", cloud="local", region="r", endpoint=None).close()
    assert [record.id for record in sessions(odd)] == ["abc"]


def test_a_living_session_cannot_be_taken_over(ledger, tmp_path):
    with pytest.raises(LedgerError, match="living session"):
        Ledger.open(ledger.path)
    assert [record.living for record in sessions(tmp_path)] == [True]


def test_the_ledger_of_a_killed_process_can_be_taken_over_with_all_it_wrote(tmp_path):
    script = (
        "import os, sys, pathlib; from fleetctl.ledger import Ledger\n"
        f"ledger = Ledger.create(pathlib.Path({str(tmp_path)!r}), 'dead', cloud='local', region='r', endpoint=None)\n"
        "ledger.intent('ec2', 'request_spot_instances', {'n': 1}, region='r', launch='L')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    [record] = sessions(tmp_path)
    assert not record.living
    taken = Ledger.open(record.path)
    assert [entry.launch for entry in taken.entries()] == ["L"]
    taken.close()


def test_a_new_intent_takes_back_that_a_session_had_ended(ledger, tmp_path):
    ledger.mark_ended()
    assert sessions(tmp_path)[0].ended is not None
    ledger.intent("sns", "create_topic", {}, region="r")
    assert sessions(tmp_path)[0].ended is None


def test_a_file_that_is_no_ledger_is_passed_over_and_that_is_said(tmp_path, caplog):
    (tmp_path / "x.sqlite").write_bytes(b"not a database at all, just some bytes" * 40)
    assert sessions(tmp_path) == []
    assert "x.sqlite is passed over" in caplog.text


def test_a_disk_that_refuses_is_a_clear_error(ledger):
    ledger._db.close()
    with pytest.raises(LedgerError, match="could not be written"):
        ledger.intent("ec2", "x", {}, region="r")
