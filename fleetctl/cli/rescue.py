"""The commands over what nobody owns: `fleetctl recover`, `attach`, `orphans`, `adopt`, `reap`."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..errors import FleetError
from ..profiles import state_home

if TYPE_CHECKING:  # what works is imported where it is needed: AWS's library takes a while, and --help should not
    from ..launching.handle import Launch
    from ..ledger import SessionRecord
    from ..oversight.orphans import Found


def add_commands(commands: Any) -> None:
    """Add the parsers of the commands."""
    recover = commands.add_parser("recover", help="show what sessions left whose process is gone, and end it or go on with it")
    recover.add_argument("sessions", nargs="*", metavar="SESSION", help="these only")
    what = recover.add_mutually_exclusive_group()
    what.add_argument("--end", "--yes", action="store_const", const="end", dest="what", help="end it all, ask nothing")
    what.add_argument("--adopt", action="store_const", const="adopt", dest="what", help="go on with it until Ctrl-C, ask nothing")
    recover.set_defaults(run=_recover)

    attach = commands.add_parser("attach", help="show the machines of a launch whose process is gone, and keep them if you say so")
    attach.add_argument("launch", metavar="LAUNCH", help="its id, or the first eight characters, as `ls` shows them")
    attach.add_argument("--minutes", type=float, default=10, metavar="M", help="how long to wait for the machines to report (10)")
    attach.add_argument("--hold", action="store_true", help="stay until Ctrl-C, and look after its session as its own process did")
    attach.set_defaults(run=_attach)

    orphans = commands.add_parser("orphans", help="list what bears fleetctl's tags in a cloud and no ledger here knows")
    orphans.set_defaults(run=_orphans)
    adopt = commands.add_parser("adopt", help="write orphans into a ledger, so that ls, recover and down know them")
    adopt.add_argument("sessions", nargs="+", metavar="SESSION", help="whose things; `orphans` lists the sessions")
    adopt.add_argument("--yes", action="store_true", help="ask nothing")
    adopt.set_defaults(run=_adopt)
    reap = commands.add_parser("reap", help="end what has outlived its expires tag, whoever made it")
    reap.add_argument("--dry-run", action="store_true", help="list it only")
    reap.add_argument("--template", action="store_true", help="print a CloudFormation template that lets AWS do it on a schedule")
    reap.set_defaults(run=_reap)
    for one in (orphans, adopt, reap):
        one.add_argument("--cloud", default="aws", metavar="NAME", help="aws (default), local, or a profile")
        one.add_argument("--all-regions", action="store_true", help="in every region of the account, not in the profile's alone")


def _recover(options: argparse.Namespace) -> int:
    from ..oversight import abandoned

    console, home = Console(), state_home()
    records = [one for one in abandoned.listing(home) if not options.sessions or one.id in options.sessions]
    if unknown := sorted({*options.sessions} - {one.id for one in records}):
        raise FleetError(f"no session {', '.join(unknown)} is alive or has left anything", todo="`fleetctl ls` shows the sessions")
    code = 0
    adopted: list[Launch[Any]] = []
    for record in records:
        if record.living:
            console.print(f"session {record.id} is alive (process {record.pid}) and was left alone", highlight=False)
            continue
        console.print(_summary(record), highlight=False)
        what = options.what or _chosen(console)
        if what == "end":
            receipt = abandoned.take_over(home, record.id)
            console.print(receipt.table())
            code = 1 if receipt.remaining else code
        elif what == "adopt":
            adopted += _taken(record, home)
        else:
            console.print(f"left as it is; `fleetctl recover {record.id}` asks again", highlight=False)
            code = 1
    if not records:
        console.print("no session has left anything")
    return _held(console, adopted, hold=True) if adopted else code


def _taken(record: SessionRecord, home: Path) -> list[Launch[Any]]:
    from ..oversight.resuming import take

    return take(record, home, minutes=10, lifetime="fuse")


def _attach(options: argparse.Namespace) -> int:
    from ..oversight.resuming import attach

    return _held(Console(), [attach(options.launch, minutes=options.minutes)], hold=options.hold)


def _held(console: Console, launches: Sequence[Launch[Any]], *, hold: bool) -> int:
    """Show the machines of launches that were gone on with, stay if told to, and let go of them in the end: all runs on."""
    sessions = {one.session.id: one.session for one in launches}
    code = 0
    try:
        for launch in launches:
            if error := _settled(launch):
                console.print(str(error), style="red", markup=False, highlight=False)
                code = 1
            else:
                console.print(_machines(launch))
        if hold and not code:
            console.print(f"this process looks after {_names(sessions)} now; Ctrl-C lets go of it", highlight=False, soft_wrap=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        console.print()
    finally:
        for session in sessions.values():
            session.leave()
    console.print(f"{_names(sessions)} goes on without a process; `fleetctl recover` ends it", highlight=False, soft_wrap=True)
    return code


def _settled(launch: Launch[Any]) -> BaseException | None:
    """Wait for a launch and return what it raised. Not by `result`: Ctrl-C there would end the machines."""
    from ..display import progress

    with progress(launch) as tick:
        while True:
            try:
                return launch.exception(tick.seconds)
            except TimeoutError:
                tick.show()


def _machines(launch: Launch[Any]) -> Table:
    now = launch.progress()
    table = Table(title=f"launch {launch.uuid}: {now.up} of {len(launch.machines)} up, ${now.per_hour:.4f}/h", title_justify="left")
    for name in ("machine", "state", "type", "zone", "ip"):
        table.add_column(name, no_wrap=True)
    for one in launch.machines.values():
        table.add_row(one.instance_id or one.request_id, one.state, one.type or "–", one.zone or "–", one.public_ip or one.ip or "–")
    return table


def _names(sessions: Iterable[str]) -> str:
    return f"session {', '.join(sessions)}"


def _summary(record: SessionRecord) -> str:
    from ..ending.estate import wanted
    from ..oversight.abandoned import launches

    machines = sum(wanted(entry.operation, entry.request) for entry in launches(record) if entry.error is None)
    began = f"{datetime.fromtimestamp(record.began).astimezone():%Y-%m-%d %H:%M:%S}"
    asked = f"asked for {machines} machines" if machines else "asked for no machines"
    return f"session {record.id} on {record.cloud} ({record.region}), begun {began}, has no process any more; it {asked}"


def _orphans(options: argparse.Namespace) -> int:
    from ..oversight import recovery

    home = state_home()
    found = recovery.orphaned(home, recovery.look(recovery.cloud(options.cloud, home), all_regions=options.all_regions))
    _show(found, "there are no orphans")
    if found:
        Console().print("another computer's session looks the same while it lives; `fleetctl adopt SESSION` takes them in", soft_wrap=True)
    return 1 if found else 0


def _adopt(options: argparse.Namespace) -> int:
    from ..oversight import recovery

    home, console = state_home(), Console()
    profile = recovery.cloud(options.cloud, home)
    found = recovery.orphaned(home, recovery.look(profile, all_regions=options.all_regions))
    found = [one for one in found if one.session in options.sessions]
    _show(found, f"there are no orphans of {', '.join(options.sessions)}")
    if not found or not (options.yes or asked(console, "another computer's session looks the same while it lives; take these in?")):
        return 0
    for session in recovery.adopt(home, profile, found):
        console.print(f"session {session} has a ledger here now; `fleetctl recover {session}` ends it", highlight=False)
    return 0


def _reap(options: argparse.Namespace) -> int:
    if options.template:
        from ..oversight.reaper_template import template

        print(json.dumps(template(), indent=2))
        return 0
    from ..oversight import recovery

    profile = recovery.cloud(options.cloud, state_home())
    if options.dry_run:
        found = recovery.overdue(recovery.look(profile, all_regions=options.all_regions))
        found += recovery.idle(profile, all_regions=options.all_regions)
        _show(found, "nothing has outlived its end")
        return 1 if found else 0
    receipt = recovery.reap(profile, all_regions=options.all_regions)
    Console().print(receipt.table() if receipt.lines else "nothing has outlived its end")
    return 1 if receipt.remaining else 0


def _show(found: Sequence[Found], nothing: str) -> None:
    """A table of things, the sessions together; many of a kind in one row."""
    table = Table("session", "thing", "id", "region", "expires", title=f"{len(found)} things", title_justify="left")
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for one in sorted(found):
        groups.setdefault((one.session, one.kind, one.region), []).append(one)
    for (session, kind, region), things in sorted(groups.items()):
        ends = Counter(_clock(one.expires) for one in things)
        shown = [one.id.rsplit("/", 1)[-1].rsplit(":", 1)[-1] for one in things[:4]]
        more = [f"… and {len(things) - 4} more"] if len(things) > 4 else []
        table.add_row(session, f"{len(things)} × {kind}", "\n".join([*shown, *more]), region, "\n".join(ends))
    Console().print(table if found else nothing)


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else f"{datetime.fromtimestamp(seconds).astimezone():%m-%d %H:%M}"


def _chosen(console: Console) -> str:
    """What somebody at a terminal wants to be done with a session. Where nobody can be asked, nothing."""
    if not sys.stdin.isatty():
        console.print("end it? nobody is there to answer, so: no (--end ends it, --adopt goes on with it)", highlight=False, soft_wrap=True)
        return ""
    said = console.input("(e)nd it, (a)dopt it, or leave it? [e/a/N] ", markup=False).strip().lower()
    return {"e": "end", "end": "end", "a": "adopt", "adopt": "adopt"}.get(said, "")


def asked(console: Console, question: str) -> bool:
    """Whether somebody at a terminal says yes. Where nobody can be asked, that is no."""
    if not sys.stdin.isatty():
        console.print(f"{question} nobody is there to answer, so: no (--yes says yes)", highlight=False, soft_wrap=True)
        return False
    return console.input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")
