"""When a machine counts as ready, and what to look at next in order to see that it is. Pure: `proving` looks.

    its own report ──────────────┐
    EC2: pending ──▶ running ──┬─▶ a host key is known ──▶ a command over SSH exits 0 ──▶ ready ("ssh", or a command)
                               └─▶ ready ("running")

A machine that has reported runs, and has told its host key, so EC2 is asked for the silent ones only: for all of them in one call, and
for the console of a single one when it has run for a while. From the console a host key is taken only if all that it shows agree. What the
machine's own commands print stands there too; so the lines of our boot script count before others, as they name the launch, whose
id nobody outside knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from ..errors import RequestInvalid
from ..messages import BadMessage, Phase, Report, decode
from ..reach.command import Command, command

__all__ = ["REPORTED", "TOLD", "Case", "Examined", "Known", "Ready", "Step", "found_out", "pause", "readiness"]

LOOKS = (5.0, 5.0, 10.0, 10.0, 30.0)  # seconds before each look at EC2's states; the last repeats
CONSOLES = (20.0, 20.0, 30.0, 60.0)  # before each look at a console, from when it was seen running: reports mostly come first
FORMER_CONSOLES = (0.0, 20.0, 30.0, 60.0)  # where it has been running since before this process was
TRIES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)  # before each try over SSH
WORDS = ("reported", "ssh", "running")
NO_OP = Command("true", timeout=20.0)

# cloud-init prints a machine's host keys to its console between these lines (cloud-init, module keys_to_console)
_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_KEY = re.compile(r"\b(ssh-ed25519 [A-Za-z0-9+/=]{16,2048})")


@dataclass(frozen=True, slots=True)
class Ready:
    """What makes a machine ready: "reported" (it says that its commands are up), "told" (it says so when it is asked, too), "running" (EC2
    says so), "ssh", or "command": `proof` exits 0 over SSH."""

    word: str = "reported"
    proof: Command | None = None

    @property
    def proved(self) -> bool:
        """Whether it is seen from outside, and what the machine says does not count."""
        return self.word not in ("reported", "told")

    def __str__(self) -> str:
        return f"{self.proof.text[:60]!r} exits 0 over SSH" if self.word == "command" and self.proof else self.word


REPORTED, TOLD = Ready(), Ready("told")  # of machines that another process has launched nobody knows whether they will speak soon


def readiness(said: str | Command) -> Ready:
    """What `ready=` means: one of the three words, else a command. Raises RequestInvalid.

    >>> readiness("ssh"), str(readiness("systemctl is-active nginx"))
    (Ready(word='ssh', proof=<command true>), "'systemctl is-active nginx' exits 0 over SSH")
    """
    if said in WORDS:
        return Ready(str(said), NO_OP if said == "ssh" else None)
    if not isinstance(said, str | Command) or not str(said).strip():
        raise RequestInvalid(f"ready is one of {', '.join(WORDS)}, or a command that must succeed", alias="ready", found=said)
    return Ready("command", command(said))


class Step(StrEnum):
    """What is to be done next about a machine that is not ready."""

    WAIT = "wait"  # for EC2's word that it runs, or for its report
    CONSOLE = "console"  # look what it has printed: its host key may be there
    TRY = "try"  # the command over SSH
    PROVED = "proved"


@dataclass(slots=True)
class Case:
    """One machine that is not ready yet. Times are seconds of whatever clock; `why` is what was in the way last."""

    running: float | None = None  # since when it is known to run
    row: Mapping[str, Any] | None = None  # EC2's, the last
    consoles: int = 0
    tries: int = 0
    last: float = 0.0  # when the last console was looked at, or the last try ended
    why: str = "EC2 has not said yet that it runs"

    def next(self, ready: Ready, *, reported: bool, keyed: bool, now: float) -> tuple[Step, float]:
        """What to do next, and when. `reported`: it has spoken; `keyed`: its address and host key are known."""
        if reported and self.running is None:
            self.running = now
        if self.running is None:
            return Step.WAIT, now
        if ready.word == "running":
            return Step.PROVED, now
        if keyed:
            return Step.TRY, self.last + pause(TRIES, self.tries)
        pauses = FORMER_CONSOLES if ready.word == "told" else CONSOLES
        return Step.CONSOLE, (self.last or self.running) + pause(pauses, self.consoles)


def pause(pauses: Sequence[float], number: int) -> float:
    """The time before try number `number`, from 0; the last of them repeats."""
    return pauses[min(number, len(pauses) - 1)]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a silent machine: a report as it would send it, None where its host key is not known; and where from, or why not."""

    report: Report | None
    source: str


class Examined(NamedTuple):
    """What was found of a machine that did not get ready: in words, and whether it answers to SSH although it has never reported."""

    text: str
    only_silent: bool


def found_out(console: str, row: Mapping[str, Any], *, launch: UUID, user: str) -> Known:
    """What a console and a row of DescribeInstances tell of a machine that has not reported.

    `user` is for images whose boot script is not ours; ours tells it, and the port of SSH too.
    """
    instance = str(row["InstanceId"])
    told = [one for one in _reports(console) if one.launch == launch and one.instance == instance and one.ssh_key]
    keys = {one.ssh_key for one in told} or {key for block in _BLOCK.findall(console) for key in _KEY.findall(block)}
    if len(keys) > 1:
        return Known(None, f"its console shows {len(keys)} different host keys, so none is trusted")
    if not keys:
        return Known(None, "its console shows no host key" if console.strip() else "EC2 has nothing of its console yet")
    if told:
        return Known(told[-1], "its host key stands on its console, where its boot script has written it")
    names = ("PrivateIpAddress", "PublicIpAddress", "PublicDnsName", "InstanceType")
    ip, public_ip, host, kind = (str(row.get(name) or "") for name in names)
    try:
        report = Report(launch, instance, Phase.BOOTED, ssh_key=keys.pop(), user=user, ip=ip, public_ip=public_ip, host=host, type=kind)
    except BadMessage as error:
        return Known(None, f"what EC2 tells of it cannot be used: {error}")
    return Known(report, "its host key stands on its console, where cloud-init has written it")


def _reports(console: str) -> list[Report]:
    out = []
    for line in console.splitlines():
        at = line.find('{"fleetctl":')  # a console puts a time before a line, or a name
        if at >= 0:
            try:
                found = decode(json.dumps(json.JSONDecoder().raw_decode(line[at:])[0]))
            except ValueError:  # BadMessage is one
                continue
            if isinstance(found, Report):
                out.append(found)
    return out
