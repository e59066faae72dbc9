"""Files as one archive whose bytes follow from their names and contents alone, and what of a project never goes into one. Pure.

Two packings of the same files are the same bytes: entries are sorted, and bear no time, no owner, and one of two modes. Byte code is made
to be the same as well: it is found by no time but goes by itself (unchecked, PEP 552), names files as they lie in the archive, and is
written by marshal's version 2, for later ones note which objects happened to be shared in the process that wrote them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import marshal
import tarfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.util import MAGIC_NUMBER, cache_from_source
from typing import BinaryIO, NamedTuple

UNCHECKED = (1).to_bytes(4, "little")  # PEP 552: byte code by hash, which nobody compares
STABLE = 2  # marshal's last version that notes nothing of who shares what
CHUNK = 1 << 20

# secrets, history, and what each computer makes for itself: by any part of a path, in lower case
NEVER = (
    ".env", ".env.*", "*.env", ".envrc", ".git", ".hg", ".svn", ".ssh", ".aws", ".azure", ".gcloud", ".gnupg", ".docker", ".kube", ".netrc",
    "_netrc", ".pypirc", ".npmrc", ".pgpass", ".my.cnf", ".git-credentials", ".htpasswd", "credentials", "credentials.*", "secrets.*",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.asc", "*.gpg", "id_rsa*",
    "id_dsa*", "id_ecdsa*", "id_ed25519*",
    "__pycache__", "*.pyc", "*.pyo", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
    ".ipynb_checkpoints", "node_modules", ".ds_store", "*.egg-info", "*.swp", "*~",
)  # fmt: skip


class Entry(NamedTuple):
    """One file of an archive: its path there, what is in it, and whether it is a program. A link has a target and no body."""

    name: str
    body: bytes
    executable: bool = False
    link: str = ""


def barred(path: str) -> str:
    """The rule by which a file of a project stays behind, '' where none does.

    >>> barred("pkg/model.py"), barred("pkg/.env"), barred(".git/config"), barred("deploy/Server.PEM")
    ('', '.env', '.git', '*.pem')
    """
    parts = path.lower().split("/")
    return next((rule for rule in NEVER for part in parts if fnmatchcase(part, rule)), "")


def write(entries: Iterable[Entry], out: BinaryIO) -> None:
    """A tar archive of these. Raises ValueError where two have the same name."""
    done = ""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name == done:
                raise ValueError(f"two files would be {done}")
            done = entry.name
            info = tarfile.TarInfo(entry.name)
            if entry.link:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
                archive.addfile(info)
                continue
            info.size, info.mode = len(entry.body), 0o755 if entry.executable else 0o644
            archive.addfile(info, io.BytesIO(entry.body))


def squeeze(source: BinaryIO, out: BinaryIO) -> str:
    """Pack an archive by gzip; returns its SHA-256 from before that, so that the packer's version changes no name."""
    digest = hashlib.sha256()
    with gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0, compresslevel=6) as packed:
        while part := source.read(CHUNK):
            digest.update(part)
            packed.write(part)
    return digest.hexdigest()


def compiled(entry: Entry) -> Entry | None:
    """The byte code of a Python file by this very interpreter; None for what it cannot compile or write down."""
    try:
        code = compile(entry.body, entry.name, "exec", dont_inherit=True, optimize=0)
        body = marshal.dumps(code, STABLE)
    except (SyntaxError, ValueError, RecursionError):
        return None
    return Entry(cache_from_source(entry.name, optimization=""), MAGIC_NUMBER + UNCHECKED + bytes(8) + body)


def tops(names: Sequence[str]) -> tuple[str, ...]:
    """What can be imported of files in a directory of modules.

    >>> tops(["pkg/__init__.py", "pkg/a.py", "one.py", "fast.cpython-311-x86_64-linux-gnu.so", "x-1.0.dist-info/METADATA", "data/a.csv"])
    ('fast', 'one', 'pkg')
    """
    found = set()
    for name in names:
        first, *rest = name.split("/")
        if not rest and first.endswith((".py", ".so")):
            found.add(first.partition(".")[0])
        elif rest == ["__init__.py"]:
            found.add(first)
    return tuple(sorted(one for one in found if one.isidentifier()))
