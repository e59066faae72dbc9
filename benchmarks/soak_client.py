"""A client of the soak that is killed in the midst of its maps, and its next life, which goes on under the same name.

It asks for maps, one after the other, and writes down in a journal what it is about to ask, the ids of the calls, and the values. Whoever
comes after a kill reads there what is not done; takes what has arrived under its name and was not delivered; collects the rest by id; and
asks again for what the grid has never heard of.

    SOAK_JOURNAL   the journal                SOAK_NOTES   where calls note that they were run
    SOAK_SOCKET    the socket of the server   SOAK_STOP    it ends when this file is there
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import soak_calls  # noqa: E402  (from this directory, here and on the workers)

from gridworker import CallFailed, Grid, GridError, GridUnreachable  # noqa: E402
from gridworker.store import read_secret  # noqa: E402

NAME = "mapper"
CALLS = 40                  # of one map
PATIENCE = 60.0             # seconds


def calls_of(number: int) -> list[tuple[str, int]]:
    """The calls of a map: name and level. The same for all who ask for that map."""
    dice = random.Random(number)
    return [(f"map{number}:{i}", dice.choice([0, 0, 1, 2])) for i in range(CALLS)]


class Journal:
    """What was asked and answered, one JSON object a line, each written in one go: a kill leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: dict[int, list[str]] = {}       # ids, or none if nobody knows whether it was asked
        self.values: dict[int, list[Any]] = {}
        self.taken = 0                              # results that had arrived and were not delivered before a kill
        self.lives = 0
        for line in path.read_text().splitlines() if path.exists() else []:
            self._enter(json.loads(line))

    def __repr__(self) -> str:
        return f"<Journal {len(self.asked)} maps, {len(self.values)} done>"

    def write(self, **entry: Any) -> None:
        """Enters it and writes it down."""
        self._enter(entry)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, json.dumps(entry).encode() + b"\n")
        finally:
            os.close(handle)

    def _enter(self, entry: dict[str, Any]) -> None:
        self.lives += "life" in entry
        self.taken += entry.get("taken", 0)
        if "values" in entry:
            self.values[entry["map"]] = entry["values"]
        elif "map" in entry:
            self.asked[entry["map"]] = entry.get("ids", [])

    def open(self) -> dict[int, list[str]]:
        """The maps that have no values."""
        return {number: ids for number, ids in self.asked.items() if number not in self.values}


def ask(grid: Grid, number: int, notes: str, only: set[int] | None = None) -> Any:
    """The answer to a map, or to some of its calls."""
    return grid.requests("pool", [(soak_calls.work, notes, name, level, 2.0) for i, (name, level) in enumerate(calls_of(number))
                                  if only is None or i in only])


def resume(grid: Grid, number: int, ids: list[str], notes: str, journal: Journal) -> list[Any]:
    """The values of a map that an earlier life has asked for."""
    mine = grid.collect()                                   # what has arrived under this name
    values = {call: answer.result() for call, answer in mine.items() if call in ids}
    journal.write(taken=len(values))
    unheard = set()
    for call, answer in grid.collect([call for call in ids if call not in values]).items():
        try:
            values[call] = answer.result()
        except CallFailed:                                  # the kill came before the server had it
            unheard.add(ids.index(call))
    again = dict(zip(sorted(unheard), ask(grid, number, notes, unheard).result(), strict=True)) if unheard else {}
    return [again[i] if i in again else values[call] for i, call in enumerate(ids)]


def connected() -> Grid:
    """A client, as soon as the server is there: it may be dead just now, and who connects for the first time is told so at once."""
    password, key = read_secret(os.environ)
    deadline = time.monotonic() + PATIENCE
    while True:
        grid = Grid.connect(f"unix://{os.environ['SOAK_SOCKET']}", password=password, key=key, namespace="soak", name=NAME)
        try:
            grid.collect([])                # its first use
            return grid
        except GridUnreachable:
            grid.close()
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def main() -> int:
    """Asks for maps until it is told to stop; the exit status is 0 when all that this or an earlier life has asked for is there."""
    journal, notes, stop = Journal(Path(os.environ["SOAK_JOURNAL"])), os.environ["SOAK_NOTES"], Path(os.environ["SOAK_STOP"])
    journal.write(life=os.getpid())
    with connected() as grid:
        for number, ids in journal.open().items():
            values = resume(grid, number, ids, notes, journal) if ids else ask(grid, number, notes).result()
            journal.write(map=number, values=values)
        while not (stop.exists() and journal.asked):
            number = len(journal.asked)
            journal.write(map=number)
            answer = ask(grid, number, notes)
            journal.write(map=number, ids=list(answer.calls))
            journal.write(map=number, values=answer.result())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GridError as error:
        print(f"the mapping client failed: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
