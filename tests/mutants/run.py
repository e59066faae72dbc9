"""`make mutants`: each patch here removes one mechanism of safety from a copy of both packages; the test that it names must fail then.

First every named test must pass on an unchanged copy, else its failing would show nothing. A patch begins with lines that say which
line of safety it belongs to (of a grid: 1 nothing is lost · 2 bad calls end · 3 cancellation · 4 trust · 5 times to live · 6 leaving;
of a fleet: 7 against forgetting · 8 money · 9 the ledger · 10 the receipt · 11 an account's set-up and checklist · 12 users' files),
what it removes, and the test. Needs git for applying them, and no repository.

    python tests/mutants/run.py [--only WORD] [--jobs 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COPIED = ("fleetctl", "gridworker", "tests", "benchmarks", "pyproject.toml")
SECONDS = 60                # for one test; a mutant that makes it hang is killed, too


class Mutant:
    """A patch: the `line` of safety, what it `removes`, the `test` that must notice."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        head = dict(line.split(None, 1) for line in path.read_text().split("\n\n", 1)[0].splitlines())
        self.line, self.removes, self.test = int(head["line"]), head["removes"], head["test"]

    def __repr__(self) -> str:
        return f"<Mutant {self.name}>"

    def apply(self, directory: Path) -> None:
        """Patches a copy. CalledProcessError if the patch does not fit the code any more."""
        subprocess.run(["git", "apply", "--unidiff-zero", "--recount", str(self.path)], cwd=directory, check=True,
                       env={**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)})


def mutants(only: str = "") -> list[Mutant]:
    """All patches, or those whose name has the word."""
    return [mutant for path in sorted(HERE.glob("*.patch")) if only in (mutant := Mutant(path)).name]


def copy(directory: Path) -> None:
    """What the tests need."""
    for name in COPIED:
        source, target = ROOT / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target)


def run(directory: Path, tests: list[str], jobs: int) -> subprocess.CompletedProcess[str]:
    """The tests, on the package in that directory."""
    command = [sys.executable, "-m", "pytest", "-n", str(jobs), "-p", "no:cacheprovider", f"--timeout={SECONDS}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def survives(mutant: Mutant) -> tuple[Mutant, str, float]:
    """Why the mutant lives, or ""; and the seconds that it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        directory = Path(name)
        copy(directory)
        try:
            mutant.apply(directory)
        except subprocess.CalledProcessError:
            return mutant, "the patch does not fit the code any more", time.monotonic() - began
        result = run(directory, [mutant.test], 0)
    # 1: tests failed; anything else (no such test, an error of collection) has shown nothing
    why = "" if result.returncode == 1 and "FAILED tests" in result.stdout else f"{mutant.test} said: {result.stdout.strip()[-300:]}"
    if result.returncode == 0 and "s" in result.stdout.split("[100%]")[0].splitlines()[-1]:
        why = "skipped"
    return mutant, why, time.monotonic() - began


def main() -> int:
    """Exit status 0 if all mutants were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants with this word in their names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chosen = mutants(options.only)
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy(Path(name))
        sound = run(Path(name), sorted({mutant.test for mutant in chosen}), options.jobs)
    if sound.returncode != 0:
        print(sound.stdout[-3000:], "The tests do not pass without any mutant.", sep="\n")
        return 1
    alive = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, why, seconds in pool.map(survives, chosen):
            word = "killed" if not why else "SKIPPED" if why == "skipped" else "ALIVE"
            print(f"{word:8}{seconds:5.1f} s  {mutant.name}: {mutant.removes}{' — ' + why if word == 'ALIVE' else ''}", flush=True)
            alive += word == "ALIVE"
    print(f"{len(chosen)} mutants, {alive} alive")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
