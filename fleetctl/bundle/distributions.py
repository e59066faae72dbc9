"""What is installed here: distributions, their files, and what they need, as the environment's own records tell."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..errors import RequestInvalid
from .packing import Entry

GLIBC = (2, 34)  # that of Amazon Linux 2023; Debian 12 has 2.36, Ubuntu 22.04 has 2.35
LIBRARIES = f"manylinux_{GLIBC[0]}_{GLIBC[1]}"
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
SCRIPT = re.compile(rb"#!\S*python[0-9.]*[ \t]*\r?\n")
EVERYWHERE = b"#!/usr/bin/env python3\n"
OWN = (".pyc", ".pyo", ".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED", ".dist-info/direct_url.json")  # of one install


def machine() -> str:
    """What this computer's programs are for, as machines name it; '' where it is none that machines can be."""
    said = platform.machine().lower()
    known = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
    return known.get(said, "") if sys.platform == "linux" else ""


@dataclass(frozen=True)
class Distribution:
    """One that is installed. `editable` is the directory that an editable install is of, `origin` where it came from if from no index."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    editable: str = ""
    origin: str = ""
    tags: tuple[str, ...] = ()
    record: metadata.Distribution | None = field(default=None, repr=False, compare=False)

    @property
    def recorded(self) -> bool:
        """Whether it is known which files are its own."""
        return self.record is not None and self.record.files is not None

    def files(self) -> Iterator[tuple[str, str]]:
        """Each file's place in an environment, '@/…' for what is among the modules, else from the prefix on; and its path here."""
        if self.record is None:
            return
        site, prefix = (os.path.join(os.path.realpath(root), "") for root in (str(self.record.locate_file("")), sys.prefix))
        for file in self.record.files or ():
            path = os.path.normpath(os.path.join(site, file))
            if path.startswith(site):
                yield f"@/{path[len(site) :]}", path
            elif path.startswith(prefix):
                yield path[len(prefix) :], path

    def entries(self, site: str) -> Iterator[Entry]:
        """Its files as they lie in an archive, with modules in `site`. Scripts find their Python by the PATH; byte code stays behind."""
        for name, path in self.files():
            if name.endswith(OWN):
                continue
            body = Path(path).read_bytes()
            run = bool(os.stat(path).st_mode & 0o100)
            if run and body.startswith(b"#!"):
                if not (first := SCRIPT.match(body)):
                    continue  # a script for a shell, with this computer's paths in it
                body = EVERYWHERE + body[first.end() :]
            yield Entry(site + name[1:] if name.startswith("@/") else name, body, run)


def unfit(tags: Sequence[str], to: str) -> str:
    """Why what these tags of a wheel promise does not run on machines; '' where it does.

    >>> unfit(["cp311-cp311-manylinux_2_17_x86_64"], "x86_64"), unfit(["py3-none-any"], "aarch64")
    ('', '')
    >>> unfit(["cp311-cp311-linux_x86_64"], "x86_64")
    'it was compiled on this computer, against libraries that machines may not have'
    >>> unfit(["cp311-cp311-manylinux_2_39_x86_64"], "x86_64")
    'it needs glibc 2.39, and Amazon Linux 2023 has 2.34'
    """
    trouble = ""
    for tag in tags:
        where = tag.rpartition("-")[2]
        if where == "any":
            return ""
        if found := re.fullmatch(rf"manylinux_(\d+)_(\d+)_{to}", where):
            needs = int(found[1]), int(found[2])
            if needs <= GLIBC:
                return ""
            trouble = f"it needs glibc {needs[0]}.{needs[1]}, and Amazon Linux 2023 has {GLIBC[0]}.{GLIBC[1]}"
        elif re.fullmatch(rf"manylinux(1|2010|2014)_{to}", where):
            return ""
        else:
            trouble = trouble or "it was compiled on this computer, against libraries that machines may not have"
    return trouble


def installed() -> dict[str, Distribution]:
    """All of this environment, by their normalised names; of two of a name the one that is imported."""
    found: dict[str, Distribution] = {}
    for one in map(_read, metadata.distributions()):
        if one.name:
            found.setdefault(canonicalize_name(one.name), one)
    return found


def _read(one: metadata.Distribution) -> Distribution:
    said = json.loads(one.read_text("direct_url.json") or "{}")
    editable = said.get("url", "") if said.get("dir_info", {}).get("editable") else ""
    wheel = one.read_text("WHEEL") or ""
    tags = tuple(line[4:].strip() for line in wheel.splitlines() if line.startswith("Tag:"))
    told = one.metadata  # read each time that it is asked for
    return Distribution(told["Name"], told["Version"], tuple(told.get_all("Requires-Dist") or ()), editable.removeprefix("file://"),
                        said.get("url", ""), tags, one)  # fmt: skip


def needed(wanted: Iterable[str], known: Mapping[str, Distribution], *, of: str) -> tuple[dict[str, Distribution], list[str]]:
    """What these requirements come to by what is installed here, with all that it needs itself; and what is missing, in words.

    Raises RequestInvalid for a requirement that is none.
    """
    found: dict[str, Distribution] = {}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    ahead = [(text, of, "") for text in wanted]
    while ahead:
        text, by, extra = ahead.pop()
        try:
            one = Requirement(text)
        except InvalidRequirement as error:
            raise RequestInvalid(f"{text!r} is no requirement: {error}", alias="requires", found=text) from None
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(one.name)
        have = known.get(name)
        if have is None or not one.specifier.contains(have.version, prereleases=True):
            missing.append(f"{text} (needed by {by}; here is {have.version if have else 'none'})")
            continue
        found[name] = have
        for more in ("", *one.extras):
            if (name, more) not in seen:
                seen.add((name, more))
                ahead += [(each, have.name, more) for each in have.requires]
    return found, sorted(set(missing))
