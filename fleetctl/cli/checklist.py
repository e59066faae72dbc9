"""`fleetctl shutdown-checklist`: all that costs money in an account by being there, ours or not. What is ours can be ended from it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..errors import FleetError, StillBilling
from ..profiles import Profile, state_home
from .rescue import asked

if TYPE_CHECKING:  # what works is imported where it is needed: AWS's library takes a while, and --help should not
    from ..ending.receipt import Receipt
    from ..oversight.inventory import Inventory

WIDTH = 80
SESSION, SETUP = "session ", "set-up "


def add_commands(commands: Any) -> None:
    """Add the parser of the command."""
    listing = commands.add_parser("shutdown-checklist", help="everything in the account that costs money, ours or not, and what it costs")
    listing.add_argument("--cloud", default="aws", metavar="NAME", help="aws (default), local, or a profile")
    listing.add_argument("--all-regions", action="store_true", help="in every region of the account, not in the profile's alone")
    listing.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    listing.add_argument("--end", nargs="+", default=(), metavar="NAME", help="end all that these sessions and set-ups have")
    listing.add_argument("--yes", action="store_true", help="ask nothing")
    listing.set_defaults(run=_checklist)


def _checklist(options: argparse.Namespace) -> int:
    from ..oversight import inventory, recovery

    home, console = state_home(), Console(stderr=options.json)
    profile = recovery.cloud(options.cloud, home)
    found = inventory.look(profile, all_regions=options.all_regions)
    owners = _owners(found, options.end)
    code = 0
    if owners and (options.yes or asked(console, f"end all of {', '.join(owners)}?")):
        for owner in owners:
            code = max(code, _end(owner, found, profile, options, home, console))
        found = inventory.look(profile, all_regions=options.all_regions)
    if options.json:
        print(json.dumps(as_json(found)))
    else:
        console.print(page(found))
    return 1 if found.failed else code


def _owners(found: Inventory, names: Sequence[str]) -> list[str]:
    """Whose things are to be ended, sessions first, as their machines hold a set-up's network. Raises FleetError for what is not ours."""
    whole = [owner for name in names for owner in (SESSION + name, SETUP + name) if found.of(owner)]
    ours = {owner.partition(" ")[2] for owner in whole}
    if unknown := [name for name in names if name not in ours]:
        raise FleetError(
            f"nothing was ended: the list has no session and no set-up {', '.join(unknown)}",
            todo="name one as the column `whose` has it; what is not fleetctl's is ended where it was made",
        )
    return sorted(dict.fromkeys(whole), key=lambda owner: owner.startswith(SETUP))


def _end(owner: str, found: Inventory, profile: Profile, options: argparse.Namespace, home: Path, console: Console) -> int:
    """End what is one owner's, by the commands that do it at other times; 0 where all was seen gone."""
    kind, _, name = owner.partition(" ")
    try:
        receipt = _end_session(name, profile, options, home) if kind == SESSION.strip() else _end_setup(name, found, profile, options, home)
    except StillBilling as error:
        receipt = error.receipt
    console.print(receipt.table())
    return 1 if receipt.remaining else 0


def _end_session(name: str, profile: Profile, options: argparse.Namespace, home: Path) -> Receipt:
    from ..oversight import abandoned, recovery

    record = next((one for one in abandoned.listing(home) if one.id == name), None)
    if record is not None and record.living:
        what = f"session {name} is alive (process {record.pid}) and was left alone"
        raise FleetError(what, todo="end it there, or with `fleetctl down --force`")
    if record is None:
        things = [one for one in recovery.look(profile, all_regions=options.all_regions) if one.session == name]
        recovery.adopt(home, profile, things)
    return abandoned.take_over(home, name)


def _end_setup(name: str, found: Inventory, profile: Profile, options: argparse.Namespace, home: Path) -> Receipt:
    from .. import account

    elsewhere = sorted({one.region for one in found.of(SETUP + name)} - {profile.region, ""})
    if elsewhere:
        raise FleetError(f"set-up {name} is in {', '.join(elsewhere)}", todo="name a profile of that region with --cloud")
    return account.destroy(name=name, cloud=options.cloud, home=home)


# --- what is shown ---------------------------------------------------------------------------------------------------------------------


def as_json(found: Inventory) -> dict[str, Any]:
    """The list for programs."""
    from ..oversight.expenses import monthly

    known, unknown = monthly(found.expenses)
    return {
        "regions": list(found.regions),
        "month": round(known, 2),
        "unpriced": unknown,
        "things": [one._asdict() for one in found.expenses],
        "not looked at": [{"region": region, "service": error.service, "operation": error.operation, "code": error.code}
                          for region, error in found.failed],
    }  # fmt: skip


def page(found: Inventory) -> Group:
    """The list as a rich renderable, 80 columns wide."""
    from ..oversight.expenses import monthly

    several = len(found.regions) > 1
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), width=WIDTH)
    for heading in ("thing", "id", *(["region"] if several else []), "state", "$/month", "whose"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "$/month" else "left")
    for one in found.expenses:
        month = "?" if one.month is None else f"{one.month:.2f}"
        table.add_row(one.kind, one.id, *([one.region] if several else []), Text(one.state), month, one.owner or "–")
    known, unknown = monthly(found.expenses)
    ours, _ = monthly(one for one in found.expenses if one.owner)
    parts: list[Any] = [table] if found.expenses else []
    where = ", ".join(found.regions)
    if found.expenses:
        parts.append(Text(f"{len(found.expenses)} things in {where}: ${known:.2f} a month if they stay, ${ours:.2f} of it fleetctl's"))
    else:
        parts.append(Text(f"nothing in {where} costs money by being there"))
    if unknown:
        parts.append(Text(f"{unknown} × ?: what no list here has a price for; look it up before you leave it"))
    if any(one.owner for one in found.expenses):
        parts.append(Text("--end NAME ends all that a session or a set-up has, and nothing else can be ended from here"))
    for region in found.regions:
        looks = [f"{error.service} {error.operation} ({error.code})" for place, error in found.failed if place == region]
        parts += [Text(f"NOT LOOKED AT in {region}: {', '.join(looks)}", "red")] if looks else []
    if found.denied:
        from ..account import refusal, rights

        parts.append(refusal(found.denied, rights.allowing(found.denied)))
    return Group(*parts)
