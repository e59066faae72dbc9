"""What a launch's machines fetch before their commands: a bundle, files, variables. It lies in S3, and each machine takes it from there.

Files and variables of a launch are one packed object, which ends with the launch. It is there for the variables' sake too: user data can be
read by every process of a machine and by whoever may describe it, and stays in the ledger.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias
from uuid import UUID

from .. import bootstrap
from ..bootstrap import Program
from ..cloud.bucket import Bucket
from ..errors import RequestInvalid
from . import Bundle, packing
from .packing import Entry

__all__ = ["Cargo", "Files", "lines", "loaded"]

Files: TypeAlias = Sequence[str | Path] | Mapping[str, str | Path]
KEY = "files-{}"  # of the launch with this id
MOST_BYTES = 1 << 30  # of files: what a notebook may well hold in memory while it sends them
HOME, VARIABLES = "home/", "env"
CHECKED = '[[ -e "$FLEETCTL_RUN/activate" ]] || exit\n. "$FLEETCTL_RUN/activate"\n'
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ANYTHING = "files are paths, or a mapping from their names in the login user's home directory to paths"


class Desk(Protocol):
    """What this needs of the session."""

    async def bucket(self) -> Bucket:
        """The session's place in S3, made when first asked for."""


@dataclass(frozen=True)
class Cargo:
    """A bundle, and a packed archive of files and variables; each may be missing. Made by `loaded`."""

    bundle: Bundle | None
    body: bytes = field(default=b"", repr=False)
    sum: str = ""
    names: int = 0

    def program(self, program: Program, place: Bucket, launch: UUID) -> Program:
        """The program with what fetches this before it. Asks nothing of AWS: where things are to be is known before they are there."""
        text = lines(self.bundle, place, files_at=place.whole(KEY.format(launch)) if self.body else "", sum=self.sum, names=self.names)
        check = program.check if program.check is None else f"{CHECKED}{program.check}"
        return replace(program, lines=(text, *program.lines), check=check)

    async def stow(self, desk: Desk, launch: UUID) -> None:
        """Put it where machines look for it. Raises kinds of AwsError, RequestInvalid where the bundle's file has gone, LedgerError."""
        bucket = await desk.bucket()
        if self.bundle is not None:
            await self.bundle.put(bucket)
        if self.body:
            await bucket.put(KEY.format(launch), self.body, launch=str(launch))


def loaded(bundle: Bundle | None, files: Files, env: Mapping[str, str]) -> Cargo | None:
    """What these come to, None where there is nothing. Reads the files now. Raises RequestInvalid for what cannot go along."""
    if bundle is not None and not isinstance(bundle, Bundle):
        raise RequestInvalid(f"bundle is what bundle.build and bundle.from_environment return, not {bundle!r}", alias="bundle",
                             found=bundle, todo="build it first: bundle.build(…)")  # fmt: skip
    entries, variables = _read(files), _exports(env)
    if not entries and not variables:
        return Cargo(bundle) if bundle else None
    archive, packed = io.BytesIO(), io.BytesIO()
    packing.write([*entries, Entry(VARIABLES, variables.encode())], archive)
    archive.seek(0)
    sum = packing.squeeze(archive, packed)
    return Cargo(bundle, packed.getvalue(), sum, len(entries))


def lines(bundle: Bundle | None, place: Bucket, *, files_at: str = "", sum: str = "", names: int = 0) -> str:
    """The shell text that fetches, verifies and activates."""
    values = {"bundle": ""}
    if bundle is not None:
        values = {"bundle": bundle.name, "python": bundle.python, "machine": bundle.machine, "bundle_at": place.common(bundle.key)}
    values |= {"files_at": files_at, "sum": sum, "names": str(names)}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()) + bootstrap.bare("activate.sh")


def _read(files: Files) -> list[Entry]:
    if isinstance(files, (str, bytes, Path)) or not isinstance(files, (Sequence, Mapping)):
        raise RequestInvalid(f"{_ANYTHING}, not {files!r}", alias="files", found=files)
    pairs = list(files.items()) if isinstance(files, Mapping) else [(Path(os.fspath(one)).expanduser().name, one) for one in files]
    entries: dict[str, Entry] = {}
    size = 0
    for name, what in pairs:
        path = Path(what).expanduser()
        _fit(name)
        if not path.exists():
            raise RequestInvalid(f"there is no file {path}", alias="files", found=str(path), todo="mend the path; nothing was launched")
        for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
            whole = name if one == path else f"{name}/{one.relative_to(path).as_posix()}"
            if not one.is_file():
                continue
            size += one.stat().st_size
            if size > MOST_BYTES:
                raise RequestInvalid(f"the files are more than {MOST_BYTES:,} bytes", alias="files", found=str(path),
                                     todo="put what is so large into S3 yourself, and fetch it in the commands")  # fmt: skip
            if whole in entries:
                raise RequestInvalid(f"two files would be {whole} on the machines", alias="files", found=whole,
                                     todo="give them names: files={'name': path, …}")  # fmt: skip
            try:
                entries[whole] = Entry(HOME + whole, one.read_bytes(), bool(one.stat().st_mode & 0o100))
            except OSError as error:
                raise RequestInvalid(f"{one} cannot be read: {error}", alias="files", found=str(one)) from error
    return list(entries.values())


def _fit(name: object) -> None:
    """A name on the machine stays in the home directory."""
    if not isinstance(name, str) or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise RequestInvalid(f"{_ANYTHING}; {name!r} is no name there", alias="files", found=name)


def _exports(env: Mapping[str, str]) -> str:
    if not isinstance(env, Mapping):
        raise RequestInvalid(f"env is a mapping of names and texts, not {env!r}", alias="env", found=type(env).__name__)
    for name, value in env.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("FLEETCTL_"):
            raise RequestInvalid(f"{name!r} is no name that a variable can have", alias="env", found=name)
        if not isinstance(value, str) or "\0" in value:
            raise RequestInvalid(f"the variable {name} must be a text", alias="env", found=name)  # its value may be a secret
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
