"""The commands over what nobody owns: `fleetctl recover`, `orphans`, `adopt`, `reap`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .errors import FleetError
from .profiles import state_home

if TYPE_CHECKING:  # what works is imported where it is needed: AWS's library takes a while, and --help should not
    from .ledger import SessionRecord
    from .orphans import Found


def add_commands(commands: Any) -> None:
    """Add the parsers of the four commands."""
    recover = commands.add_parser("recover", help="show what sessions left whose process is gone, and end it if you say so")
    recover.add_argument("sessions", nargs="*", metavar="SESSION", help="these only")
    recover.add_argument("--end", "--yes", action="store_true", dest="end", help="end it all, ask nothing")
    recover.set_defaults(run=_recover)

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
    from . import abandoned

    console, home = Console(), state_home()
    records = [one for one in abandoned.listing(home) if not options.sessions or one.id in options.sessions]
    if unknown := sorted({*options.sessions} - {one.id for one in records}):
        raise FleetError(f"no session {', '.join(unknown)} is alive or has left anything", todo="`fleetctl ls` shows the sessions")
    code = 0
    for record in records:
        if record.living:
            console.print(f"session {record.id} is alive (process {record.pid}) and was left alone", highlight=False)
            continue
        console.print(_summary(record), highlight=False)
        if not (options.end or _asked(console, "end it?")):
            console.print(f"left as it is; `fleetctl recover {record.id}` asks again", highlight=False)
            code = 1
            continue
        receipt = abandoned.take_over(home, record.id)
        console.print(receipt.table())
        code = 1 if receipt.remaining else code
    if not records:
        console.print("no session has left anything")
    return code


def _summary(record: SessionRecord) -> str:
    from .abandoned import launches
    from .estate import wanted

    machines = sum(wanted(entry.operation, entry.request) for entry in launches(record) if entry.error is None)
    began = f"{datetime.fromtimestamp(record.began).astimezone():%Y-%m-%d %H:%M:%S}"
    asked = f"asked for {machines} machines" if machines else "asked for no machines"
    return f"session {record.id} on {record.cloud} ({record.region}), begun {began}, has no process any more; it {asked}"


def _orphans(options: argparse.Namespace) -> int:
    from . import recovery

    home = state_home()
    found = recovery.orphaned(home, recovery.look(recovery.cloud(options.cloud, home), all_regions=options.all_regions))
    _show(found, "there are no orphans")
    if found:
        Console().print("another computer's session looks the same while it lives; `fleetctl adopt SESSION` takes them in", soft_wrap=True)
    return 1 if found else 0


def _adopt(options: argparse.Namespace) -> int:
    from . import recovery

    home, console = state_home(), Console()
    profile = recovery.cloud(options.cloud, home)
    found = recovery.orphaned(home, recovery.look(profile, all_regions=options.all_regions))
    found = [one for one in found if one.session in options.sessions]
    _show(found, f"there are no orphans of {', '.join(options.sessions)}")
    if not found or not (options.yes or _asked(console, "another computer's session looks the same while it lives; take these in?")):
        return 0
    for session in recovery.adopt(home, profile, found):
        console.print(f"session {session} has a ledger here now; `fleetctl recover {session}` ends it", highlight=False)
    return 0


def _reap(options: argparse.Namespace) -> int:
    if options.template:
        from .reaper_template import template

        print(json.dumps(template(), indent=2))
        return 0
    from . import recovery

    profile = recovery.cloud(options.cloud, state_home())
    if options.dry_run:
        found = recovery.overdue(recovery.look(profile, all_regions=options.all_regions))
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


def _asked(console: Console, question: str) -> bool:
    """Whether somebody at a terminal says yes. Where nobody can be asked, that is no."""
    if not sys.stdin.isatty():
        console.print(f"{question} nobody is there to answer, so: no (--end or --yes says yes)", highlight=False, soft_wrap=True)
        return False
    return console.input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")
