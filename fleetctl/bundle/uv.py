"""uv: builds a project's wheel, and fetches wheels for machines that are not like this computer. The only module that runs it.

Which index it asks, with which proxy and credentials, is uv's own configuration (UV_INDEX, uv.toml, …), and its cache is the user's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import RequestInvalid
from .distributions import EVERYWHERE, LIBRARIES, OWN, SCRIPT
from .packing import Entry

SECONDS = 900.0  # for a build, or for all that is to be fetched
SAID = 12  # last lines of uv's own words in an error
INSTALL_IT = "pip install 'fleetctl[bundle]', which brings it"


def build(project: Path, into: Path) -> Path:
    """The wheel of a project, by its own build back end. Raises RequestInvalid."""
    _run(["build", "--wheel", "--quiet", "--out-dir", str(into), str(project)], f"{project} cannot be built", "mend its pyproject.toml")
    made = sorted(into.glob("*.whl"))
    if len(made) != 1:
        raise RequestInvalid(f"{project} cannot be built: {len(made)} wheels came of it", alias="bundle", found=str(project))
    return made[0]


def locked(project: Path) -> str:
    """What the project's uv.lock pins, as requirements with their hashes; '' where it has none. Raises RequestInvalid."""
    if not (project / "uv.lock").is_file():
        return ""
    words = ["export", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--quiet", "--format", "requirements-txt",
             "--project", str(project)]  # fmt: skip
    return _run(words, f"{project / 'uv.lock'} cannot be read", "run `uv lock` there")


def fetch(requirements: Sequence[str], into: Path, *, python: str, machine: str, text: str = "", constraints: Sequence[str] = (),
          alone: bool = False) -> None:  # fmt: skip
    """Install wheels for such machines into a directory: `requirements` with all that they need, or `alone`; and a file's `text` of them.

    Raises RequestInvalid: what has no wheel for them, and what no index has.
    """
    asked, bounds = into.parent / "requirements.txt", into.parent / "constraints.txt"
    asked.write_text("\n".join([text, *requirements, ""]), encoding="utf-8")
    bounds.write_text("\n".join([*constraints, ""]), encoding="utf-8")
    words = [
        "pip", "install", "--quiet", "--target", str(into), "--python-version", python, "--python-platform", f"{machine}-{LIBRARIES}",
        "--only-binary", ":all:", "--link-mode", "copy", "--requirements", str(asked), "--constraints", str(bounds),
    ]  # fmt: skip
    trouble = f"not all that the bundle needs can be had as wheels for Python {python} on {machine}"
    todo = "name versions that have wheels for these, or build on such a machine, with the same Python"
    _run([*words, *(["--no-deps"] if alone else [])], trouble, todo)


def entries(tree: Path, site: str) -> Iterator[Entry]:
    """What `fetch` has installed as it lies in an archive, with modules in `site`."""
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree).as_posix()
        if not path.is_file() or name.startswith(".lock") or name.endswith(OWN):
            continue
        body = path.read_bytes()
        if name.startswith("bin/"):
            first = SCRIPT.match(body)
            yield Entry(name, EVERYWHERE + body[first.end() :] if first else body, True)
        else:
            yield Entry(f"{site}/{name}", body, bool(path.stat().st_mode & 0o100))


def _run(words: list[str], trouble: str, todo: str) -> str:
    program = _program()
    try:
        done = subprocess.run([program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
                              env={**os.environ, "NO_COLOR": "1", "UV_NO_PROGRESS": "1"})  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestInvalid(f"{trouble}: {error}", alias="bundle", found=words, todo=todo) from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-SAID:])
        raise RequestInvalid(f"{trouble}; uv says:\n{said}", alias="bundle", found=words[-1], todo=todo)
    return done.stdout


def _program() -> str:
    """uv, as installed with this Python or on the PATH. Raises RequestInvalid."""
    try:
        from uv import find_uv_bin

        return os.fspath(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise RequestInvalid("uv is needed for that, and is not installed", alias="bundle", todo=INSTALL_IT)
    return found
