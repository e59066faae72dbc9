"""What stands on the machine itself: events that have happened to it, and locks that somebody holds. The controller keeps no copy of either
that could disagree; whoever reaches the machine as the same user sees the same.

They are files in /var/lib/fleetctl/events, or, where the login user may not write there, in ~/.fleetctl/events. A lock has an owner and an
end by the machine's own clock; flock(1) is held for the moment in which one is looked at and taken, so that of two who find it expired one
gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from ..errors import MachineError, RequestInvalid
from ..messages import BadMessage, Report, decode
from .command import Command
from .link import Link

SECONDS = 60.0  # how long a lock outlives its holder
LOOK_SECONDS = 20.0  # for the answer of a machine that is asked where it is
WAIT_SECONDS = 0.5  # between looks at a lock that another one holds
_RENEW = 3  # times in its length
_TAKEN = 75  # the exit code of a lock that another one holds (EX_TEMPFAIL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_PLACE = """d=${FLEETCTL_STATE_DIR:-/var/lib/fleetctl}/events
mkdir -p "$d" 2>/dev/null && [ -w "$d" ] || { d=$HOME/.fleetctl/events && mkdir -p "$d" || exit 1; }
exec 9>>"$d/.guard" && flock 9 || exit 1
now=$(date +%s)
"""
_MARK = _PLACE + 'cat >"$d/.$NAME" && mv "$d/.$NAME" "$d/$NAME"'
_EVENTS = _PLACE + """for f in "$d"/*; do
[ ! -f "$f" ] || printf '%s %s %s\\n' "${f##*/}" "$(date -r "$f" +%s)" "$(head -c 200 "$f" | tr '\\n' ' ')"
done"""
_TAKE = _PLACE + f"""f=$d/lock.$NAME
if [ -s "$f" ]; then
read -r end owner <"$f"
[ "$owner" = "$OWNER" ] || [ "$end" -le "$now" ] || {{ echo "$((end - now)) $owner"; exit {_TAKEN}; }}
fi
echo "$((now + SECONDS_)) $OWNER" >"$d/.lock" && mv "$d/.lock" "$f\""""
_LEAVE = _PLACE + 'f=$d/lock.$NAME; [ -s "$f" ] && { read -r end owner <"$f"; [ "$owner" != "$OWNER" ] || rm "$f"; } || :'


# The boot script keeps its last report there; while it writes the next one the file is not whole for a moment.
_REPORT = """for d in "${FLEETCTL_STATE_DIR:-/var/lib/fleetctl}" "$HOME/.fleetctl"; do f=$d/$LAUNCH/report
for n in 1 2 3 4 5 6 7 8 9; do [ -f "$f" ] || break
r=$(cat "$f"); case $r in *'}') printf %s "$r"; exit;; esac
sleep 0.2; done; done"""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a machine, as it stands there: its name, when, and what was said of it."""

    name: str
    at: datetime
    text: str


def named(name: str) -> str:
    """The name of an event or a lock, if it is one. Raises RequestInvalid."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("lock."):
        raise RequestInvalid("a name has up to 64 letters, digits, dots, dashes or underscores", alias="name", found=name)
    return name


def me() -> str:
    """Who holds a lock from here: user, computer and process."""
    return f"{os.environ.get('USER') or os.getuid()}@{socket.gethostname()}:{os.getpid()}".replace(" ", "_")


async def mark(link: Link, name: str, text: str) -> None:
    """Write an event down, in one stroke; again: anew. Raises MachineError."""
    (await link.run(Command(_MARK, env={"NAME": named(name)}, stdin=text + "\n"))).check()


async def events(link: Link) -> dict[str, Event]:
    """All that stand there, by name; locks that are held are among them as `lock.…`. Raises MachineError."""
    done = (await link.run(Command(_EVENTS))).check()
    parts = (line.split(" ", 2) for line in done.stdout.splitlines())
    return {name: Event(name, datetime.fromtimestamp(int(at), UTC), text.strip()) for name, at, text in parts}


async def report(link: Link, launch: UUID, machine: str) -> Report:
    """The report that the machine's boot script would send now. Raises MachineError."""
    done = (await link.run(Command(_REPORT, env={"LAUNCH": str(launch)}, timeout=LOOK_SECONDS))).check()
    try:
        found = decode(done.stdout)
    except BadMessage:
        found = None
    if not isinstance(found, Report) or (found.launch, found.instance) != (launch, machine):
        raise MachineError(f"on {machine} stands no report of launch {launch}", todo="look at its log; it may be just beginning")
    return found


@contextlib.asynccontextmanager
async def held(link: Link, name: str, seconds: float, wait: float, machine: str) -> AsyncIterator[None]:
    """The lock, for as long as the block runs, renewed meanwhile. Raises MachineError when another one holds it for longer than `wait`."""
    words = {"NAME": named(name), "OWNER": f"{me()}-{uuid4().hex[:8]}", "SECONDS_": str(max(1, round(seconds)))}
    clock = asyncio.get_running_loop().time
    until = clock() + wait
    while (done := await link.run(Command(_TAKE, env=words))).exit_status == _TAKEN:
        if clock() >= until:
            left, holder = done.stdout.split(maxsplit=1)
            raise MachineError(f"{holder.strip()} holds the lock {name!r} on {machine}, which ends in {left} s unless that lives",
                               todo="wait for longer, or look who that is", holder=holder.strip())  # fmt: skip
        await asyncio.sleep(WAIT_SECONDS)
    done.check()
    renewing = asyncio.create_task(_renew(link, words, seconds))
    try:
        yield
    finally:
        renewing.cancel()
        await link.run(Command(_LEAVE, env=words))


async def _renew(link: Link, words: dict[str, str], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds / _RENEW)
        with contextlib.suppress(MachineError):  # it comes again; if the machine is lost, so is the lock
            await link.run(Command(_TAKE, env=words))
