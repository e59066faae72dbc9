"""The user-data script around the user's commands: what a machine runs from its first second on. Pure, but for reading `bootstrap.sh`.

The script itself is `bootstrap.sh`, beside this file, with its reasons. Here are the values put above it, and the bounds:

* EC2 takes 16,384 bytes of user data, counted before base64. Comments and indentation stay behind; what still doesn't fit goes
  gzipped, commands and script together; what is then too long goes without the commands, which the machine fetches from the session's
  bucket (`packed`) and compares with their checksum. Where there is no bucket it is refused with its sizes, before anything is sent.
* Every value goes in as one quoted shell word, so nothing that a user writes is read as part of the script around it.
* The machine runs the same text everywhere. What differs (endpoints, paths, the SSH port) it finds in its environment, whose
  defaults are those of stock Amazon Linux 2023.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final
from uuid import UUID

from fleetctl.errors import RequestInvalid, UserDataTooLarge

NEVER: Final = 99_999_999_999  # seconds since the epoch, where a machine has no hard end
BULK_BYTES: Final = 8 << 20  # of commands in S3, packed
ELSEWHERE: Final = "put the bulk into the image or into S3, and fetch it in the commands"
USER_DATA_BYTES: Final = 16_384  # "16 KB, in raw form, before it is base64-encoded": EC2 User Guide, instance user data

# The commands run in one shell; before the last of them stands this line, which tells the bootstrap that it begins.
_MARK: Final = "echo last >&9; exec 9>&-"

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_OBJECT = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[A-Za-z0-9._-]+)+")
_PARAMETER = re.compile(r"[A-Za-z0-9_./-]{1,1011}")


@dataclass(frozen=True, slots=True)
class Program:
    """What a machine does: shell `lines`, run in order in one bash (so that cd and export last), and when it counts as ready.

    With a `check`, the machine is ready as soon as that shell command exits 0; without one, when the last line has exited 0 or has
    run for 1 s. A line may span several lines of text. `secret` asks for the session's secret in the file $GRIDWORKER_SECRET_FILE.
    Raises `RequestInvalid` on what no shell could run.
    """

    lines: tuple[str, ...]
    check: str | None = None
    secret: bool = False

    def __post_init__(self) -> None:
        if not self.lines:
            raise RequestInvalid("there are no commands", alias="cmds", found=self.lines, todo='give at least one line, "true" for none')
        for index, line in enumerate(self.lines):
            _runnable(line, ("lines", index))
        if self.check is not None:
            _runnable(self.check, ("check",))


@dataclass(frozen=True, slots=True)
class Retold:
    """The program of a launch of which nothing but its script is known: another launch runs the same."""

    script: str

    def __repr__(self) -> str:
        return f"Retold({len(self.script)} characters)"

    @property
    def secret(self) -> bool:
        """Whether it asks for the session's secret."""
        return bool(told(self.script, "secret"))

    def render(self, *, launch: UUID, ends: float, policy: str) -> str:
        """The script for another launch of the same session, of the same length or nearly."""
        text = self.script
        for name, value in (("launch", str(launch)), ("ends", f"{ends:.0f}"), ("policy", policy)):
            text = re.sub(rf"^{name}=.*$", f"{name}={shlex.quote(value)}", text, count=1, flags=re.MULTILINE)
        return text


def program(cmds: str | Sequence[str] | Program) -> Program:
    """The program that `cmds` means: a shell line, a sequence of them, or a program as it is. Raises `RequestInvalid`."""
    if isinstance(cmds, Program):
        return cmds
    if isinstance(cmds, str):
        return Program((cmds,))
    if isinstance(cmds, bytes) or not isinstance(cmds, Sequence):
        raise RequestInvalid("commands are a shell line, a sequence of them, or a Program", alias="cmds", found=cmds)
    return Program(tuple(cmds))


def render(program: Program, *, launch: UUID, session: str, topic_arn: str, region: str, fuse_minutes: int = 120,
           secret_parameter: str | None = None, ends: float | None = None, fuse_object: str = "", look: int = 300,
           bulk: str = "", policy: str = "") -> str:
    """The user data for one launch: at most 16,384 bytes of UTF-8, not yet in base64.

    `fuse_minutes` is the time until the machine ends itself, counted from its first second; `secret_parameter` names the SSM
    SecureString that a program with `secret` reads. `ends` (seconds since the epoch) is the machine's hard end; `fuse_object`, a
    bucket and a key, is what its session writes while it lives, and `look` how often it is read (seconds): see `fuse`. `bulk`, a bucket
    and a key, is where the commands lie (`packed`) that are not to be in the user data. `policy` is a note for whoever goes on with the
    launch: what is to follow when EC2 takes a machine back.
    Raises `UserDataTooLarge`, or `RequestInvalid` on a value that is not one.
    """
    for value, pattern, name in ((session, _SESSION, "session"), (topic_arn, _TOPIC, "topic_arn"), (region, _REGION, "region")):
        if not pattern.fullmatch(value):
            raise RequestInvalid(f"{name} is not of the form that it must have", alias=name, found=value)
    if type(fuse_minutes) is not int or not 1 <= fuse_minutes <= 60 * 24 * 366:
        raise RequestInvalid("the fuse is a whole number of minutes, from 1 to those of a year", alias="fuse_minutes", found=fuse_minutes)
    if program.secret and not _PARAMETER.fullmatch(secret_parameter or ""):
        raise RequestInvalid("the program reads the session's secret, and no parameter of that name can hold it", alias="secret_parameter",
                             found=secret_parameter)
    for value, name in ((fuse_object, "fuse_object"), (bulk, "bulk")):
        if value and not _OBJECT.fullmatch(value):
            raise RequestInvalid(f"{name} is a bucket and a key", alias=name, found=value)
    secret = secret_parameter if program.secret and secret_parameter else ""
    values = {"launch": str(launch), "session": session, "topic": topic_arn, "region": region, "fuse": str(fuse_minutes),
              "ends": f"{NEVER if ends is None else ends:.0f}", "object": fuse_object, "policy": policy, "look": str(look),
              "secret": secret, "bulk": bulk, "sum": hashlib.sha256(_fetched(program)).hexdigest() if bulk else "",
              "check": program.check or ""}
    head = "#!/bin/bash\n" + "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    commands = "" if bulk else _commands(program)
    body = f"commands={shlex.quote(commands)}\n{_script()}"
    if len((head + body).encode()) <= USER_DATA_BYTES:
        return head + body
    # the image's own gzip unpacks it: cloud-init would take all of it packed, but not every image has cloud-init
    small = f"{head}unpacked=$(base64 -d <<<{_base64(body)} | gzip -d) || exit\neval \"$unpacked\"\n"
    size, own = len(small.encode()), len(head.encode()) + len(_base64(_script()))
    if size > USER_DATA_BYTES:
        raise UserDataTooLarge(
            f"the user data would be {size:,} bytes, and EC2 takes {USER_DATA_BYTES:,}: {own:,} are the boot script's, {size - own:,} the "
            f"commands' ({len(commands.encode()):,} before compression)",
            alias="cmds", found=size, todo=ELSEWHERE)
    return small


def packed(program: Program) -> bytes:
    """The commands as the object holds them that `render` calls `bulk`. Raises `UserDataTooLarge`."""
    body = gzip.compress(_fetched(program), mtime=0)
    if len(body) > BULK_BYTES:
        raise UserDataTooLarge(f"the commands are {len(body):,} bytes when packed, and a machine fetches {BULK_BYTES:,} at most",
                               alias="cmds", found=len(body), todo=ELSEWHERE)
    return body


def _commands(program: Program) -> str:
    """The program's lines as the machine's shell reads them; the mark tells that the last of them begins."""
    return "\n".join((*program.lines[:-1], _MARK, program.lines[-1]))


def _fetched(program: Program) -> bytes:
    """The file of commands that a machine fetches."""
    return f"{_commands(program)}\n".encode()


def told(script: str, name: str) -> str:
    """The value that a rendered script gives to a name, '' where it gives none.

    >>> told("launch=6f1c object=", "object"), told("object=bucket/fuse", "object")
    ('', 'bucket/fuse')
    """
    found = re.search(rf"^{name}=(.*)$", script, re.MULTILINE)
    return "".join(shlex.split(found[1])) if found else ""


def _base64(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _script() -> str:
    return bare("bootstrap.sh")


@cache
def bare(name: str) -> str:
    """One of this package's shell scripts without what only its reader needs."""
    lines = (line.strip() for line in files(__package__).joinpath("scripts", name).read_text(encoding="utf-8").splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))


def _runnable(line: object, path: tuple[str | int, ...]) -> None:
    def refuse(why: str) -> RequestInvalid:
        return RequestInvalid(why, alias="cmds", path=path, found=line)

    if not isinstance(line, str):
        raise refuse("a command is a text")
    if not line.strip():
        raise refuse("a command is empty")
    if "\0" in line:
        raise refuse("a command holds a NUL byte, which no shell can read")
    if (len(line) - len(line.rstrip("\\"))) % 2:
        raise refuse("a command ends in a backslash, which would join it with what follows")
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise refuse("a command holds half of a surrogate pair, which is no text") from error
