"""`python -m gridworker` with failpoints, for the soak: a node may die before a script is sent, on its way, or before its reply is used.

    SOAK_FAILPOINTS   chance of dying at each point        SOAK_SEED    of the chances, with the process id
    SOAK_NOTES        file in which each death is noted: script, point, calls owned at that moment
    SOAK_RECOVERY     "0": nothing that a dead node owned is given back (the control run)
"""

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

import gridworker.distributor
import gridworker.steps
import gridworker.supervisor
from gridworker.__main__ import OPTIONS, main
from gridworker.app import run
from gridworker.store import Connection, Script, pack

CHANCE = float(os.environ["SOAK_FAILPOINTS"])
_steps: list[gridworker.steps.Steps] = []
_dice: dict[int, random.Random] = {}
_run, _began = Connection.run, gridworker.steps.Steps.__init__


def _dies(script: Script, point: str) -> None:
    pid = os.getpid()
    dice = _dice.setdefault(pid, random.Random(f"{os.environ['SOAK_SEED']} {pid}"))
    if dice.random() < CHANCE:
        owned = len(_steps[0].held) if _steps else 0
        handle = os.open(os.environ["SOAK_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{script.name} {point} {owned}\n".encode())
        os.kill(pid, signal.SIGKILL)


def _failing_run(self: Connection, script: Script, keys: tuple[str, ...], arguments: list[Any]) -> Any:
    if not _steps:                      # a supervisor or distributor: the soak kills those from outside
        return _run(self, script, keys, arguments)
    _dies(script, "before")
    dice = _dice[os.getpid()]
    if dice.random() < CHANCE:          # on its way: the server runs it, and nobody hears the reply
        self.send(pack(("EVAL", script.text, len(keys), *keys, *arguments)))
        _dice[os.getpid()] = random.Random(0)
        globals()["CHANCE"] = 1.0
        _dies(script, "sent")
    reply = _run(self, script, keys, arguments)
    _dies(script, "after")
    return reply


def _noted(self: gridworker.steps.Steps, *arguments: Any, **options: Any) -> None:
    _began(self, *arguments, **options)
    _steps[:] = [self]


def _no_reap(*arguments: Any, **options: Any) -> tuple[int, int]:
    return -1, 0


Connection.run = _failing_run  # type: ignore[method-assign]
gridworker.steps.Steps.__init__ = _noted  # type: ignore[method-assign]
if os.environ["SOAK_RECOVERY"] == "0":
    gridworker.supervisor.reap = gridworker.distributor.reap = _no_reap  # type: ignore[attr-defined]

if __name__ == "__main__":
    sys.exit(run(main, OPTIONS, prog="python -m soak_node", description="Nodes of a grid that fail on purpose."))
