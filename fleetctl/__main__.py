"""The command line: `fleetctl demo`, `local up|status|down|fault`, `ls`, `down`, and what `rescue`, `setup` and
`checklist` add."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from .cli import baking, checklist, rescue, setup
from .errors import FleetError
from .profiles import local_cloud, state_home


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 an error that is explained on stderr, 2 wrong usage."""
    options = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal ends things as tidily as Ctrl-C does
        signal.signal(number, _interrupt)
    try:
        return int(options.run(options) or 0)
    except FleetError as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetctl", description="A fleet of cheap machines for an hour, and proof that it is gone.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the main job on a private local cloud: machines, a grid, a teardown")
    demo.add_argument("--workers", type=_count, default=8, metavar="N", help="worker machines (8)")
    demo.add_argument("--jobs", type=_count, default=50, metavar="N", help="jobs for the grid (50)")
    demo.add_argument("--reclevel", type=int, choices=range(7), default=3, metavar="N", help="depth of each job's calls, 0 to 6 (3)")
    demo.add_argument("--no-bundle", action="store_true", help="workers run what the image has, and not what is here")
    demo.add_argument("--keep", action="store_true", help="leave cloud and machines running")
    demo.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    demo.set_defaults(run=_demo)

    local = commands.add_parser("local", help="the local cloud").add_subparsers(required=True, metavar="up|status|down|fault")
    local.add_parser("up", help="start it if it does not run").set_defaults(run=_local_up)
    local.add_parser("status", help="where it is and what is in it").set_defaults(run=_local_status)
    ending = local.add_parser("down", help="end it")
    ending.add_argument("--force", action="store_true", help="with the machines that run in it")
    ending.set_defaults(run=_local_down)
    fault = local.add_parser("fault", help="break something in it, and mend it again")
    fault.add_argument("what", metavar="KIND|list|clear", help="a kind of fault; list: those in force and all kinds; clear: mend all")
    fault.add_argument("settings", type=_setting, nargs="*", metavar="NAME=VALUE", help="which calls or machines it meets, and how often")
    fault.set_defaults(run=_local_fault)

    commands.add_parser("ls", help="sessions that are alive, or have left something").set_defaults(run=_ls)
    down = commands.add_parser("down", help="end what sessions have left whose process is gone")
    down.add_argument("--force", action="store_true", help="end living sessions' machines too")
    down.set_defaults(run=_down)
    rescue.add_commands(commands)
    setup.add_commands(commands)
    checklist.add_commands(commands)
    baking.add_commands(commands)
    return parser


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("a number between 1 and 10000 is wanted")
    return value


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE is wanted, not {text!r}")
    return name, value


def _demo(options: argparse.Namespace) -> int:
    from . import demo  # the grid and the session take a while to import, and the other commands need neither

    console = Console(stderr=options.json)
    report = demo.run(options.workers, options.jobs, options.reclevel, keep=options.keep, console=console,
                      bundled=not options.no_bundle)  # fmt: skip
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        console.print(demo.summary(report))
    return 0


def _local_up(_: argparse.Namespace) -> None:
    cloud = local_cloud().up(state_home() / "local")
    Console().print(f"the local cloud serves at {cloud.endpoint_url} (process {cloud.pid})", highlight=False)
    _say_weaker(cloud)


def _local_status(_: argparse.Namespace) -> int:
    cloud = local_cloud().status(state_home() / "local")
    if cloud is None:
        Console().print("the local cloud does not run; fleetctl local up starts it", highlight=False)
        return 1
    inventory: dict[str, Any] = cloud.inventory()
    counts = ", ".join(f"{len(things)} {name.replace('_', ' ')}" for name, things in inventory.items() if isinstance(things, (list, dict)))
    where = f"{cloud.endpoint_url} (process {cloud.pid}, since {_clock(cloud.started)})"
    Console().print(f"the local cloud serves at {where}\n{counts}", highlight=False, soft_wrap=True)
    _say_weaker(cloud)
    return 0


def _say_weaker(cloud: Any) -> None:
    """What this computer cannot give the local cloud's machines, if anything."""
    if cloud.weaker:
        Console().print(f"weaker here: {cloud.weaker}", highlight=False, soft_wrap=True)


def _local_down(options: argparse.Namespace) -> None:
    ended = local_cloud().down(state_home() / "local", force=options.force)
    Console().print("the local cloud has ended" if ended else "the local cloud did not run", highlight=False)


def _local_fault(options: argparse.Namespace) -> int:
    cloud = local_cloud().status(state_home() / "local")
    if cloud is None:
        Console().print("the local cloud does not run; fleetctl local up starts it", highlight=False)
        return 1
    if options.what == "list":
        table = Table("fault", "kind", "meets", "struck", title="faults in force", title_justify="left")
        for fault in cloud.faults():
            shown = " ".join(f"{name}={value}" for name, value in fault.items() if name not in ("id", "kind", "hits") and value is not None)
            table.add_row(str(fault["id"]), fault["kind"], shown, f"{fault['hits']} ×")
        Console().print(table if table.row_count else "no fault is in force")
        kinds = Table("kind", "what happens", "names", title="kinds of faults", title_justify="left")
        for name, kind in local_cloud().KINDS.items():
            kinds.add_row(name, kind.says, " ".join([*kind.where, *kind.settings]))
        Console().print(kinds)
    elif options.what == "clear":
        cloud.clear_faults()
    else:
        Console().print(f"fault {cloud.fault(options.what, **dict(options.settings))} is in force", highlight=False)
    return 0


def _ls(_: argparse.Namespace) -> None:
    from .oversight import abandoned

    table = Table("session", "cloud", "began", "process", "launches", "state", title="sessions", title_justify="left")
    for record in abandoned.listing(state_home()):
        launches = abandoned.launches(record)
        shown = "\n".join(f"{(one.launch or '')[:8]} {one.request.get('InstanceCount', 1)} ×" for one in launches) or "–"
        state = "alive" if record.living else "UNOWNED: fleetctl down ends it"
        table.add_row(record.id, f"{record.cloud} {record.region}", _clock(record.began), str(record.pid), shown, state)
    Console().print(table if table.row_count else "no session is alive, and none has left anything")


def _down(options: argparse.Namespace) -> int:
    from .oversight import abandoned

    console = Console()
    receipt, spared = abandoned.down(state_home(), force=options.force)
    console.print(receipt.table() if receipt.lines else "there was nothing to end")
    for record in spared:
        console.print(f"session {record.id} is alive (process {record.pid}) and was left alone; --force ends it too", highlight=False)
    return 1 if receipt.remaining else 0


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


if __name__ == "__main__":
    sys.exit(main())
