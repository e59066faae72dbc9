"""What goes into a bundle: a project's own files, gridworker's, and those of all that they need.

Where a bundle is for this computer's own kind of machine and all of it is installed here, its files are those that are here: no index is
asked, and machines run what the notebook runs. Else uv fetches wheels, at the versions of the project's lock or of this environment.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from ..errors import RequestInvalid
from . import uv
from .distributions import HERE, Distribution, installed, machine, needed, unfit
from .packing import Entry, barred, compiled, tops

GRIDWORKER = "gridworker"
GRIDWORKER_NEEDS = ("cloudpickle", "greenlet", "hiredis")  # at run time, of what fleetctl's own distribution names; a test holds it
OURS = "fleetctl"  # the distribution that gridworker comes with; the controller stays where it is
MACHINES = ("x86_64", "aarch64")
PROOF_SECONDS = 120.0
_PYTHON = re.compile(r"3\.(1[1-9]|[2-9]\d)")
_WHEEL_DATA = re.compile(r"[^/]+\.data/(purelib|platlib|scripts|data)/(.+)")


@dataclass(frozen=True)
class Project:
    """A project's own files, by paths from the directory of modules ('@/…') or from the prefix, and what it needs besides."""

    title: str
    entries: tuple[Entry, ...] = ()
    requires: tuple[str, ...] = ()
    lock: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    name: str = ""  # of its distribution, if it is one


@dataclass(frozen=True)
class Gathered:
    """All that goes into a bundle, but for what each bundle has. `modules` are the project's own, which must be importable."""

    source: str
    python: str
    machine: str
    entries: tuple[Entry, ...] = field(repr=False)
    versions: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]

    @property
    def site(self) -> str:
        """Where modules lie."""
        return f"lib/python{self.python}/site-packages"

    @property
    def alike(self) -> bool:
        """Whether this very Python could run it."""
        return self.python == HERE and self.machine == machine()


def target(python: str, wanted: str) -> str:
    """The kind of machine that is meant; '' stands for this computer's, where machines can be of it. Raises RequestInvalid."""
    if not isinstance(python, str) or not _PYTHON.fullmatch(python):
        raise RequestInvalid(f'python is a version such as "3.11", from that one on, not {python!r}', alias="python", found=python)
    if wanted and wanted not in MACHINES:
        raise RequestInvalid(f"machine is one of {', '.join(MACHINES)}, not {wanted!r}", alias="machine", found=wanted)
    return wanted or machine() or MACHINES[0]


def project(what: str | Path | ModuleType | None, requires: Sequence[str], python: str, kind: str) -> Gathered:
    """A project and what it needs. Raises RequestInvalid."""
    own = _project(what)
    own = replace(own, requires=(*own.requires, *requires))
    known = installed()
    if own.lock or not _alike(python, kind):
        return _fetched(own, known, python, kind)
    found, missing = needed((*own.requires, *GRIDWORKER_NEEDS), known, of=own.title)
    if missing or _editable(found):
        return _fetched(own, known, python, kind)
    return _assembled(own, found, python, kind)


def environment(only: Iterable[str] | None, also: str | Path | ModuleType | None, kind: str) -> Gathered:
    """This environment, or a part of it. Raises RequestInvalid."""
    own, known = _project(also), installed()
    title = f"this environment with {own.title}" if also is not None else "this environment"
    chosen = {name: one for name, one in known.items() if name not in (OURS, own.name)}
    if only is not None:
        chosen, missing = needed((*only, *own.requires, *GRIDWORKER_NEEDS), known, of="only")
        if missing:
            raise RequestInvalid(f"this environment lacks {'; '.join(missing)}", alias="only", found=missing, todo="install it")
        chosen = {name: one for name, one in chosen.items() if name not in (OURS, own.name)}
    if editable := _editable(chosen):
        said = ", ".join(f"{one.name} (of {one.editable})" for one in editable)
        raise RequestInvalid(f"an editable install has no files to take along: {said}", alias="bundle",
                             found=[one.name for one in editable],
                             todo=f"name its directory: from_environment(also={editable[0].editable!r})")  # fmt: skip
    own = replace(own, title=title)
    if _alike(HERE, kind):
        return _assembled(own, chosen, HERE, kind)
    local = [one for one in chosen.values() if one.origin]
    if local:
        said = ", ".join(f"{one.name} {one.version} (from {one.origin})" for one in local)
        raise RequestInvalid(f"no index has what was installed from elsewhere: {said}", alias="bundle", found=[one.name for one in local],
                             todo=f"build the bundle on such a machine, or install releases of them; machines are {kind}")  # fmt: skip
    return _fetched(own, known, HERE, kind, exactly=[f"{one.name}=={one.version}" for one in chosen.values()])


def prove(gathered: Gathered, archive: BinaryIO) -> None:
    """Import the project's modules out of the archive, where this Python can. Raises RequestInvalid with what is missing.

    Another process does it, which sees nothing of this environment.
    """
    if not gathered.modules or not gathered.alike:
        return
    with tempfile.TemporaryDirectory(prefix="fleetctl-bundle-") as scratch:
        archive.seek(0)
        with tarfile.open(fileobj=archive) as opened:
            opened.extractall(scratch, filter="tar")
        text = f"import sys; sys.path.insert(0, {os.path.join(scratch, gathered.site)!r})\nfor one in {gathered.modules!r}: __import__(one)"
        try:
            done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", text], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=PROOF_SECONDS, check=False, cwd=scratch)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RequestInvalid(f"importing {', '.join(gathered.modules)} takes more than {PROOF_SECONDS:.0f} s", alias="bundle",
                                 todo="keep work out of modules' top level") from None  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise RequestInvalid(f"{gathered.source} cannot be imported from its bundle: {last}", alias="bundle", found=gathered.modules,
                             todo='if a module is missing, name what it comes with: build(…, requires=["…"])')  # fmt: skip


def _alike(python: str, kind: str) -> bool:
    return python == HERE and kind == machine()


def _editable(found: Mapping[str, Distribution]) -> list[Distribution]:
    return [one for one in found.values() if one.editable]


# --- the project's own files ----------------------------------------------------------------------------------------------------------


def _project(what: str | Path | ModuleType | None) -> Project:
    if what is None:
        return Project("gridworker")
    if isinstance(what, ModuleType) or (isinstance(what, str) and "/" not in what and not what.startswith((".", "~"))):
        return _of_module(what if isinstance(what, str) else what.__name__)
    path = Path(what).expanduser().resolve()
    if path.suffix == ".whl":
        raise RequestInvalid(f"{path} is a wheel", alias="bundle", found=str(path), todo="give the project that it was built of")
    if path.is_file() and path.suffix == ".py":
        return _loose(str(path), path.parent, [path])
    if not path.is_dir():
        trouble = "is no project: a directory or a .py file is wanted" if path.exists() else "is not there"
        raise RequestInvalid(f"{path} {trouble}", alias="bundle", found=str(path))
    if (path / "pyproject.toml").is_file() or (path / "setup.py").is_file():
        return _of_wheel(path)
    return _loose(str(path), path.parent if (path / "__init__.py").is_file() else path, _walk(path))


def _of_module(name: str) -> Project:
    top = name.partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise RequestInvalid(f"there is no module {top!r} here that has files of its own", alias="bundle", found=name,
                             todo="a directory is written with a slash, as in './name'")  # fmt: skip
    origin = Path(spec.origin).resolve()
    for one in installed().values():
        if any(path == str(origin) for _, path in one.files()):
            return Project(f"module {top} of {one.name} {one.version}", requires=(f"{one.name}=={one.version}",))
        if one.editable and origin.is_relative_to(one.editable) and one.name != OURS:
            return _of_wheel(Path(one.editable))
    whole = origin.parent if origin.name == "__init__.py" else origin
    return _loose(f"module {top}", whole.parent, _walk(whole) if whole.is_dir() else [whole])


def _loose(title: str, root: Path, paths: Iterable[Path]) -> Project:
    """Files as they are, links out of their directory left behind."""
    entries, left = [], []
    for path in paths:
        name = path.relative_to(root).as_posix()
        rule = barred(name) or ("" if path.resolve().is_relative_to(root) else "a link out of the directory")
        if rule:
            left.append((name, rule))
        elif path.is_file():
            entries.append(Entry(f"@/{name}", path.read_bytes(), bool(path.stat().st_mode & 0o100)))
    return Project(title, tuple(entries), left_out=tuple(left))


def _walk(root: Path) -> Iterator[Path]:
    """All files below; of directories that are barred only themselves."""
    for place, directories, names in os.walk(root):
        here = Path(place)
        for name in sorted(directories):
            if barred(name):
                directories.remove(name)
                yield here / name
        yield from (here / name for name in sorted(names))


def _of_wheel(path: Path) -> Project:
    lock = uv.locked(path)
    with tempfile.TemporaryDirectory(prefix="fleetctl-wheel-") as scratch, zipfile.ZipFile(uv.build(path, Path(scratch))) as wheel:
        entries, left = [], []
        for info in wheel.infolist():
            inside = _WHEEL_DATA.fullmatch(info.filename)
            name = f"@/{info.filename}" if inside is None else {"scripts": "bin/", "data": ""}.get(inside[1], "@/") + inside[2]
            if info.is_dir() or name.endswith(".dist-info/RECORD"):
                continue
            if rule := barred(name):
                left.append((name.removeprefix("@/"), rule))
            else:
                entries.append(Entry(name, wheel.read(info), bool(info.external_attr >> 16 & 0o100) or name.startswith("bin/")))
        told = {part: _fields(wheel, part) for part in ("METADATA", "WHEEL")}
    if trouble := unfit(told["WHEEL"].get_all("Tag", []), machine()):
        raise RequestInvalid(f"{path} has no wheel for machines: {trouble}", alias="bundle", found=str(path),
                             todo="build its extension for manylinux, publish that, and name it in requires=")  # fmt: skip
    name = str(told["METADATA"]["Name"])
    return Project(f"{name} {told['METADATA']['Version']} of {path}", tuple(entries), tuple(told["METADATA"].get_all("Requires-Dist", [])),
                   lock, tuple(left), name)  # fmt: skip


def _fields(wheel: zipfile.ZipFile, part: str) -> email.message.Message:
    found = next(name for name in wheel.namelist() if name.endswith(f".dist-info/{part}"))
    return email.message_from_bytes(wheel.read(found))


# --- with all that it needs -----------------------------------------------------------------------------------------------------------


def _fetched(own: Project, known: Mapping[str, Distribution], python: str, kind: str, exactly: Sequence[str] = ()) -> Gathered:
    """By uv: exactly these, or the lock, or what is required at the versions that are installed here where those do."""
    with tempfile.TemporaryDirectory(prefix="fleetctl-wheels-") as scratch:
        into = Path(scratch, "wheels")
        into.mkdir()
        pins = [f"{one.name}=={one.version}" for one in known.values() if not one.editable and not one.origin]
        ours = [pin for pin in pins if pin.partition("==")[0].lower() in GRIDWORKER_NEEDS]
        if exactly:
            uv.fetch(exactly, into, python=python, machine=kind, alone=True)
        elif own.lock:
            uv.fetch((), into, python=python, machine=kind, text=own.lock)
            have = {path.name.lower().partition("-")[0] for path in into.glob("*.dist-info")}
            uv.fetch([pin for pin in ours if pin.partition("==")[0] not in have], into, python=python, machine=kind)
        else:
            uv.fetch([*own.requires, *GRIDWORKER_NEEDS], into, python=python, machine=kind, constraints=pins)
        site = f"lib/python{python}/site-packages"
        entries = tuple(uv.entries(into, site))
    return _gathered(own, entries, python, kind)


def _assembled(own: Project, found: Mapping[str, Distribution], python: str, kind: str) -> Gathered:
    """Of what is installed here."""
    for one in found.values():
        if not one.recorded:
            raise RequestInvalid(f"{one.name} {one.version} has no record of its files: it was not installed as a wheel", alias="bundle",
                                 found=one.name, todo="install it by pip or uv, or leave it out")  # fmt: skip
        if trouble := unfit(one.tags, kind):
            raise RequestInvalid(f"{one.name} {one.version} has no wheel that runs on machines: {trouble}", alias="bundle", found=one.name,
                                 todo="install a release of it that has a manylinux wheel")  # fmt: skip
    site = f"lib/python{python}/site-packages"
    return _gathered(own, tuple(entry for one in found.values() for entry in one.entries(site)), python, kind)


def _gathered(own: Project, others: Iterable[Entry], python: str, kind: str) -> Gathered:
    """Everything, with byte code where this Python's is the machines'."""
    site = f"lib/python{python}/site-packages"
    mine = [entry._replace(name=site + entry.name[1:]) if entry.name.startswith("@/") else entry for entry in own.entries]
    entries = {entry.name: entry for entry in (*others, *_gridworker(site), *mine)}  # a project's own come last, so they win
    if python == HERE:
        codes = [compiled(entry) for entry in entries.values() if entry.name.startswith(f"{site}/") and entry.name.endswith(".py")]
        entries |= {code.name: code for code in codes if code is not None}
    versions = sorted(_version(entry) for entry in entries.values() if entry.name.endswith(".dist-info/METADATA"))
    modules = tops([entry.name.removeprefix("@/") for entry in own.entries if entry.name.startswith("@/")])
    return Gathered(own.title, python, kind, tuple(entries.values()), dict(versions), own.left_out, modules)


def _version(entry: Entry) -> tuple[str, str]:
    said = email.message_from_bytes(entry.body)
    return str(said["Name"]), str(said["Version"])


def _gridworker(site: str) -> Iterator[Entry]:
    spec = find_spec(GRIDWORKER)
    assert spec is not None and spec.origin is not None, "it is installed with fleetctl"
    root = Path(spec.origin).parent
    for path in _walk(root):
        if path.is_file() and not barred(path.name):
            yield Entry(f"{site}/{GRIDWORKER}/{path.relative_to(root).as_posix()}", path.read_bytes())
