"""Archives that follow from names and contents alone, and what of a project never goes into one."""

import gzip
import io
import marshal
import os
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.bundle.packing import Entry, barred, compiled, squeeze, tops, write

NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.dat", fullmatch=True)
FILES = st.dictionaries(NAMES, st.tuples(st.binary(max_size=50), st.booleans()), max_size=6)


def archive(entries):
    write(entries, out := io.BytesIO())
    return out.getvalue()


@given(FILES, st.randoms())
def test_the_same_files_are_the_same_bytes_in_whatever_order_they_come(files, random):
    entries = [Entry(name, body, run) for name, (body, run) in files.items()]
    shuffled = list(entries)
    random.shuffle(shuffled)
    assert archive(entries) == archive(shuffled)
    with tarfile.open(fileobj=io.BytesIO(archive(entries))) as opened:
        assert {one.name: (opened.extractfile(one).read(), one.mode == 0o755) for one in opened} == files
        assert {(one.mtime, one.uid, one.gid, one.uname) for one in opened} <= {(0, 0, 0, "")}


def test_two_files_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two files would be a\.py"):
        archive([Entry("a.py", b"1"), Entry("a.py", b"2")])


def test_the_name_is_that_of_the_archive_before_it_was_packed():
    packed = io.BytesIO()
    name = squeeze(io.BytesIO(b"content"), packed)
    assert name == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"  # sha256sum of "content"
    assert gzip.decompress(packed.getvalue()) == b"content"


@pytest.mark.parametrize("path", [".env", "pkg/.env.local", "prod.env", ".git/config", "deep/.git", "keys/id_ed25519",
                                  "id_rsa.pub", "tls/Server.KEY", "cert.pem", ".aws/credentials", "credentials.json", "secrets.toml",
                                  ".netrc", "x/__pycache__/a.pyc", ".venv/bin/a", "store.p12", "pass.kdbx"])  # fmt: skip
def test_secrets_and_what_each_computer_makes_for_itself_stay_behind(path):
    assert barred(path)


@pytest.mark.parametrize("path", ["pkg/environment.py", "keys.py", "pkg/git.py", "data/table.csv", "pkg/secrets_of_life.py", "README.md"])
def test_what_only_sounds_like_them_goes_along(path):
    assert barred(path) == ""


def test_byte_code_is_the_same_in_every_process_and_runs():
    text = b"import sys\nNAMES = {'a', 'b', 'c'}\ndef f(x):\n    return x in {'one', 'two', 3} and sys.maxsize\n"
    ours = compiled(Entry("lib/m.py", text))
    assert ours.name == f"lib/__pycache__/m.{sys.implementation.cache_tag}.pyc"
    script = ("import sys, random, json, decimal; from fleetctl.bundle.packing import *; keep = ['f', 'x', 'NAMES', 'one'] * 3\n"
              f"sys.stdout.buffer.write(compiled(Entry('lib/m.py', {text!r})).body)")  # fmt: skip
    for seed in ("1", "2"):
        theirs = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True)
        assert theirs.stdout == ours.body
    space = {}
    exec(marshal.loads(ours.body[16:]), space)
    assert space["f"]("one") == sys.maxsize


def test_a_python_file_that_is_none_has_no_byte_code():
    assert compiled(Entry("template.py", b"{{ not python }} :")) is None


def test_what_can_be_imported_is_packages_and_modules_at_the_top():
    assert tops(["a/__init__.py", "a/b/__init__.py", "c.py", "d.txt", "e-f.py", "g/h.py"]) == ("a", "c")
