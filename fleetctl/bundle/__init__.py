"""Bundles: a project, gridworker and all that they need as one file, which machines fetch from S3 and make their Python of.

    from fleetctl import bundle
    mine = bundle.build("~/work/protein")       # or a module, or nothing: gridworker alone
    mine = bundle.from_environment()            # what this notebook itself runs on
    bring_up_spots(request, 100, "python -m protein", bundle=mine, files=["table.csv"], env={"SEED": "1"})

A bundle's name is the SHA-256 of its content, so what has not changed has the name that it had, and is uploaded once. It is relocatable: a
directory that becomes a virtual environment by a link to the machine's Python. Nothing of the process's environment goes into it, and of a
project no secrets (`packing.NEVER`); `contents()` lists what did, and what stayed behind.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from ..cloud.bucket import Bucket
from ..errors import RequestInvalid
from ..futures import Pending
from ..profiles import state_home
from . import gathering, packing
from .distributions import HERE
from .gathering import Gathered
from .packing import Entry

if TYPE_CHECKING:
    from ..session import Session

__all__ = ["Bundle", "Contents", "build", "from_environment"]

BUNDLES = "bundles"
KEY = "bundles/{}.tar.gz"
UNUSED_SECONDS = 30 * 86400.0  # after which a built bundle is removed from this computer
SHOWN = 12  # characters of a name


class Contents(NamedTuple):
    """What is in a bundle. `distributions` by name with their versions, `files` by path with their bytes, `left_out` of the project by path
    with the rule that barred it, `modules` what can be imported."""

    distributions: Mapping[str, str]
    files: Mapping[str, int]
    left_out: Mapping[str, str]
    modules: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{name} {version}" for name, version in self.distributions.items()]
        lines += [f"{size:>12,} {name}" for name, size in self.files.items()]
        return "\n".join([*lines, *(f"left out: {name} ({rule})" for name, rule in self.left_out.items())])


@dataclass(frozen=True)
class Bundle:
    """One that was built: the file `path` on this computer, for Python `python` on `machine` (x86_64, aarch64)."""

    name: str
    path: Path
    python: str
    machine: str
    size: int
    source: str
    _contents: Contents = field(repr=False, compare=False)

    def __repr__(self) -> str:
        what = f"{len(self._contents.distributions)} distributions, {len(self._contents.files)} files"
        out = f", {len(self._contents.left_out)} left out" if self._contents.left_out else ""
        return (f"<bundle {self.name[:SHOWN]} of {self.source}: {what}{out}, {self.size / 1e6:.1f} MB, "
                f"Python {self.python} on {self.machine}>")  # fmt: skip

    @property
    def key(self) -> str:
        """Its key in a bucket, after the prefix."""
        return KEY.format(self.name)

    def contents(self) -> Contents:
        """Everything that is in it, and what of the project is not."""
        return self._contents

    def read(self, start: int, length: int) -> bytes:
        """Some of the file. Raises RequestInvalid where it has gone since."""
        try:
            os.utime(self.path)  # it is in use
            with open(self.path, "rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise RequestInvalid(f"{self!r} cannot be read any more: {error}", alias="bundle", found=str(self.path),
                                 todo="build it again") from error  # fmt: skip

    def ship(self, *, session: Session | None = None) -> Pending[str]:
        """Have it in the bucket of the session, or of its profile; resolves to where. `bring_up_spots(…, bundle=…)` does it as well.

        What is there already is not sent again. In the profile's bucket it outlives the session, until the bucket's rules end it. Raises
        NotConnected at once; the future raises kinds of AwsError.
        """
        session = session or _current()

        async def shipping() -> str:
            return await self.put(await session.bucket())

        return session.submit(shipping(), f"shipping of {self!r}")

    async def put(self, bucket: Bucket) -> str:
        """`ship` in the session's own loop."""
        return await bucket.keep(self.key, self.size, self.read)

    def commands(self, *, session: Session | None = None) -> tuple[str, ...]:
        """The shell lines that fetch it where `ship` puts it, verify it and make it the `python3` of what follows them in a launch's
        commands. They need what a stock machine has: bash, curl, gzip, tar, coreutils, and Python `python`."""
        from .cargo import lines

        return (lines(self, (session or _current()).place),)


def _current() -> Session:
    from ..session import current

    return current()


def build(project: str | Path | ModuleType | None = None, *, python: str = HERE, machine: str = "", requires: Sequence[str] = (),
          home: Path | None = None) -> Bundle:  # fmt: skip
    """A bundle of a project with all that it needs, and of gridworker; of gridworker alone where there is no project.

    `project` is a directory with a pyproject.toml, whose wheel is built, a directory of modules, a package's directory, one `.py` file, or
    the name of a module that can be imported here. `requires` are further requirements. Versions are those of the project's uv.lock, else
    those that are installed here. `python` and `machine` ("x86_64", "aarch64"; as this computer) say what it is for; where that is this
    computer's own kind and all is installed here, nothing is fetched. Raises RequestInvalid for whatever cannot go into it.
    """
    machine = gathering.target(python, machine)
    return _made(gathering.project(project, requires, python, machine), home)


def from_environment(*, only: Iterable[str] | None = None, also: str | Path | ModuleType | None = None, machine: str = "",
                     home: Path | None = None) -> Bundle:  # fmt: skip
    """A bundle of what this process itself runs on: all that is installed in its environment, or `only` these with all that they need.

    `also` is a project to go with it, as `build` takes it: an editable install can go in no other way. Raises RequestInvalid.
    """
    machine = gathering.target(HERE, machine)
    return _made(gathering.environment(only, also, machine), home)


def _made(gathered: Gathered, home: Path | None) -> Bundle:
    entries = [*gathered.entries, *_fixed(gathered)]
    place = (home or state_home()) / BUNDLES
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile() as archive, tempfile.TemporaryDirectory(prefix="new-", dir=place) as scratch:
            try:
                packing.write(entries, archive)
            except ValueError as error:
                raise RequestInvalid(f"{gathered.source} cannot be bundled: {error}", alias="bundle", todo="leave one out") from error
            gathering.prove(gathered, archive)
            archive.seek(0)
            with open(Path(scratch, "archive"), "xb") as out:
                name = packing.squeeze(archive, out)
                size = out.tell()
            path = place / f"{name}.tar.gz"
            os.replace(out.name, path)
        _prune(place)
    except OSError as error:
        raise RequestInvalid(f"{gathered.source} cannot be bundled: {error}", alias="bundle", todo=f"make room at {place}") from error
    files = {entry.name: len(entry.body) for entry in sorted(entries, key=lambda one: one.name)}
    contents = Contents(gathered.versions, files, dict(gathered.left_out), gathered.modules)
    return Bundle(name, path, gathered.python, gathered.machine, size, gathered.source, contents)


def _fixed(gathered: Gathered) -> list[Entry]:
    """What each bundle has: its own description, and other names of the Python that the machine gives it."""
    told = {"fleetctl bundle": 1, "python": gathered.python, "machine": gathered.machine, "distributions": gathered.versions}
    names = ("python", f"python{gathered.python}")
    return [Entry("bundle.json", f"{json.dumps(told, indent=1, sort_keys=True)}\n".encode()),
            *(Entry(f"bin/{name}", b"", link="python3") for name in names)]  # fmt: skip


def _prune(place: Path) -> None:
    for one in place.glob("*.tar.gz"):
        if time.time() - one.stat().st_mtime > UNUSED_SECONDS:
            one.unlink(missing_ok=True)
