"""A user's files apart from machines: brought to one that is handed out, saved while it is used, saved and taken away when it comes back.

The machine does all of it, with its role's rights (`housekeeper`, which is sent there); no file passes through this process. What is true
of a home stands in S3 and on the machine, so another process goes on with it by asking the machine again.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
import shlex
import time
import zipfile
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from ..cloud import ec2
from ..ending.teardown import FORGOTTEN_SECONDS
from ..errors import AwsError, HomeError, MachineError, RequestInvalid
from ..machines import Machine
from ..reach.command import Command
from ..reach.holding import me
from ..states import MachineState

__all__ = ["Lodger", "Lodging", "Place", "Saved", "place"]

log = logging.getLogger(__name__)

_PLACE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[A-Za-z0-9._=@+-]+/)*[A-Za-z0-9._=@+-]+)/?")
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
FAREWELL_SECONDS = 300.0  # for the homes to be saved, when the session ends everything
DOWN = ("shutting-down", "terminated")
TROUBLED = 3  # the program's exit code where it says what the trouble is
PROGRAM = ("objects", "parcel", "housekeeper")
START = "import sys\nfrom fleetctl.standby.housekeeper import main\nsys.exit(main())\n"
RUN = """d=~/.fleetctl/home && mkdir -p "$d" && chmod 700 "$d" && cat >"$d/new.$$" && mv "$d/new.$$" "$d/program" || exit
type python3 >/dev/null 2>&1 || exit 127
exec python3 -IS "$d/program" """
TODO = {
    "held": "give that machine back; once EC2 shows it as terminated its homes are free",
    "role": "launch with profile=…, the instance profile of a role that may reach the home",
    "missing": "make the bucket, or mend the home's name",
    "occupied": "name another directory with home_dir=…, or have the machine cleaned",
    "space": "give the machines a larger disk: disk=…",
    "broken": "`former` in home.json names the snapshot of before",
    "conflict": "copy what you need with machine.get(…), then say save=False",
    "unreadable": "make them readable for the login user and do it again, or say save=False",
    "busy": "end what writes there and do it again",
    "gone": "put the directory back and do it again, or say save=False: what was saved last counts",
    "python": "use an image with Python 3.9 or later, as Amazon Linux 2023 has",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a home lies."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save has sent: packed bytes (0: nothing had changed), seconds, and files that could not be read."""

    home: str
    bytes: int
    seconds: float
    left_out: tuple[str, ...] = ()


def place(home: str) -> Place:
    """Where `s3://bucket/name` leads. Raises RequestInvalid.

    >>> place("s3://lab/homes/ada")
    Place(bucket='lab', prefix='homes/ada')
    """
    found = _PLACE.fullmatch(home) if isinstance(home, str) else None
    if found is None or any(part in (".", "..") for part in found[2].split("/")):
        raise RequestInvalid(f"a home is s3://bucket/name, of letters, digits and ._=@+-, not {home!r}", alias="home", found=home)
    return Place(found[1], found[2])


@cache
def program() -> bytes:
    """What runs on the machine: these modules as one file that Python runs."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", START)
        for package in ("fleetctl", "fleetctl/standby"):
            archive.writestr(f"{package}/__init__.py", "")
        for name in PROGRAM:
            archive.writestr(f"fleetctl/standby/{name}.py", files(__package__).joinpath(f"{name}.py").read_text(encoding="utf-8"))
    return packed.getvalue()


class Lodger(Protocol):
    """A machine, and whose home is on it. `moving` is held by who moves one."""

    machine: Machine
    home: str
    moving: asyncio.Lock


class Lodging:
    """The homes of one list's machines: in which directory they are, how often they are saved meanwhile. On the session's loop."""

    def __init__(self, call: ec2.Call, region: str, directory: str, minutes: float, words: dict[str, str]) -> None:
        if not isinstance(directory, str) or not directory.strip("/. ") or "\0" in directory:
            raise RequestInvalid("home_dir is a directory, from the login user's on", alias="home_dir", found=directory)
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes >= 0:
            raise RequestInvalid("save_minutes is the time between saves, 0 for none", alias="save_minutes", found=minutes)
        self._call, self._region, self._words = call, region, words
        self.directory, self.minutes = directory.rstrip("/"), minutes

    async def bring(self, lodger: Lodger) -> None:
        """Have its home on a machine. The caller moves it. Raises HomeError, nothing of it is there then; MachineError."""
        where = place(lodger.home)
        asked = {
            "bucket": where.bucket, "prefix": where.prefix, "region": self._region, "dir": self.directory, "minutes": self.minutes,
            "holder": {**self._words, "by": me()},
        }  # fmt: skip
        try:
            await self._ask(lodger, "load", asked)
        except HomeError as error:
            if error.trouble != "held" or not await self._over(error.fields):
                raise
            log.warning("%s was held by %s, which is no more", where, error.fields["holder"]["instance"])
            await self._ask(lodger, "load", {**asked, "seize": error.fields["serial"]})

    async def save(self, lodger: Lodger) -> Saved | None:
        """Have what is there now in S3; None if that is no more. Raises HomeError, MachineError; what was saved before counts on then."""
        async with lodger.moving:
            return await self._saving(lodger, "save", {}) if lodger.home else None

    async def part(self, lodger: Lodger, *, save: bool) -> bool:
        """Save its home and take it away. The caller moves it. Raises HomeError, MachineError: it is all still there.

        False: it is saved, and something of it cannot be deleted there.
        """
        try:
            await self._saving(lodger, "unload", {"discard": not save})
        except HomeError as error:
            log.warning("%r %s: %s", lodger.machine, "is ended" if error.trouble == "left" else "stays as it is", error.what)
            if error.trouble != "left":
                raise
            return False
        except MachineError as error:
            if save:
                raise
            log.warning("%s keeps what was saved of it last: %s", lodger.home, error.what)
        return True

    async def _saving(self, lodger: Lodger, verb: str, asked: dict[str, Any]) -> Saved | None:
        """Ask for what saves it; None where that is over, as the machine is going down or has: it has saved what it could at its notice."""
        machine = lodger.machine
        if machine.link().state != "open" and await self._down(machine):
            return None
        try:
            return await self._ask(lodger, verb, asked)
        except HomeError:
            raise
        except MachineError as error:
            if await self._down(machine):
                return None
            raise MachineError(f"{lodger.home} could not be saved: {error.what}", left=[self._there(machine)],
                               todo="do it again, or say save=False: what was saved last counts") from error  # fmt: skip

    async def _down(self, machine: Machine) -> bool:
        """Whether nothing is to be had from a machine any more."""
        if machine.state is not MachineState.GONE:
            try:
                rows = await ec2.instances(self._call, [machine.called])
            except AwsError:
                return False
            if not rows or rows[0]["State"]["Name"] not in DOWN:
                return False
        log.warning("%s is no more: what it has saved of its home last counts", machine.called)
        return True

    async def save_all(self, lodgers: Sequence[Lodger]) -> None:
        """Save them all. Raises the first that fails, when all have been tried."""
        for outcome in await asyncio.gather(*map(self.save, lodgers), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def farewell(self, lodgers: Sequence[Lodger]) -> None:
        """The session ends everything. What cannot be saved in that time is told; the machines try once more as they go down."""

        async def part(lodger: Lodger) -> None:
            async with lodger.moving:
                if lodger.home:
                    await self.part(lodger, save=True)

        outcomes: Sequence[object] = [TimeoutError(f"not done in {FAREWELL_SECONDS:.0f} s")] * len(lodgers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                outcomes = await asyncio.gather(*map(part, lodgers), return_exceptions=True)
        for one, outcome in zip(lodgers, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("%s was not saved from %s before its end: %s", one.home, one.machine.called, outcome)

    async def _ask(self, lodger: Lodger, verb: str, asked: dict[str, Any]) -> Saved:
        machine, home = lodger.machine, lodger.home
        line = RUN + f"{verb} {shlex.quote(json.dumps(asked))}"
        done = await machine.link().run(Command(line, stdin=program()))
        if done.exit_status not in (0, TROUBLED):
            trouble = {"trouble": "python", "what": (done.stderr.strip() or "there is no python3")[-500:]}
            raise self._error(machine, home, verb, trouble)
        told = done.json()
        if done.exit_status == TROUBLED:
            raise self._error(machine, home, verb, told)
        return Saved(home, told["bytes"], told["seconds"], tuple(told.get("left_out", ())))

    def _error(self, machine: Machine, home: str, verb: str, told: dict[str, Any]) -> HomeError:
        trouble, why = told.pop("trouble"), told.pop("what")
        did = {"load": "be brought to", "save": "be saved from", "unload": "be saved from"}[verb]
        todo = TODO.get(trouble, "do it again; ~/.fleetctl/home/log on the machine has more")
        if trouble == "denied":
            where = place(home)
            todo = f"allow the machines' role {', '.join(RIGHTS)} on arn:aws:s3:::{where.bucket}/{where.prefix}/*"
        left = [] if verb == "load" else [self._there(machine)]
        return HomeError(f"{home} could not {did} {machine.called}: {why}", trouble=trouble, left=left, todo=todo, home=home, **told)

    def _there(self, machine: Machine) -> str:
        return f"{machine.called}, with the files in {self.directory}"

    async def _over(self, told: dict[str, Any]) -> bool:
        """Whether the machine that holds a home is seen to have ended, or was forgotten by EC2 since."""
        holder, here = told.get("holder"), told.get("me")
        if not holder or not here or (holder["account"], holder["region"]) != (here["account"], self._region):
            return False
        try:
            rows = await ec2.instances(self._call, [holder["instance"]])
        except AwsError as error:
            log.warning("whether %s still holds the home is not known: %s", holder["instance"], error.what)
            return False
        if rows:
            return bool(rows[0]["State"]["Name"] == "terminated")
        return time.time() - timegm(time.strptime(holder["since"], "%Y-%m-%dT%H:%M:%SZ")) > FORGOTTEN_SECONDS
