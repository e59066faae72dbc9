"""Key files. A private half is made here and never travels: EC2 gets the public half only, so no lost answer can lose a key.

A file appears whole and with mode 0600, or not at all: it is written under another name, which was 0600 from its first byte.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..errors import MachineError, ProfileError
from ..reach import ssh

__all__ = ["make", "public"]


def make(path: Path, comment: str) -> None:
    """Make a private key there, unless there is one. Raises ProfileError where the disk refuses."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(ssh.new_key(comment))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(new, path)  # unlike a rename it replaces nothing: of two who do this, one wins
        except FileExistsError:
            pass
        finally:
            new.unlink()
    except OSError as error:
        raise ProfileError(f"the private key {path} cannot be written: {error}", todo="name another file with --key-file") from error


def public(path: Path) -> str:
    """The public half of a key file: type and key. '' where there is no such file. Raises ProfileError for what cannot be read.

    A file beside it with the suffix .pub says it too, which is needed where the private half has a passphrase.
    """
    beside = path.with_name(path.name + ".pub")
    try:
        with contextlib.suppress(FileNotFoundError):
            return " ".join(beside.read_text(encoding="utf-8").split()[:2])
        return ssh.public_half(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except (MachineError, OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"the key file {path} cannot be read: {error}", todo=f"put its public half into {beside}") from error
