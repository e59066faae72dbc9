"""What one types to look at a grid, and to have hosts leave it; text for people, or `--json` for programs.

    gridworker top                            pools and nodes at work, live
    gridworker status                         the same once
    gridworker logs warning --follow          what the nodes log
    gridworker graph CALL --svg calls.svg     the calls that a traced call made
    gridworker drain NODE …                   have the hosts of these nodes leave, losing nothing

All take `--host --port --unix --url --namespace`; the password stands in the file that $GRIDWORKER_SECRET_FILE names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import where
from .client import Grid
from .errors import GridError
from .graph import Graph
from .logs import Entry, level_number
from .store import read_secret

COMMANDS = ("top", "status", "logs", "graph", "drain")


def main(argv: Sequence[str]) -> int:
    """Runs one of the commands: exit status 0, 1 after an error (which is on stderr), 2 for a wrong command line."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        address = where.address_of(vars(options))
    except ValueError as error:
        parser.error(str(error))
    try:
        with Grid.connect(address.url, password=read_secret(os.environ)[0], namespace=options.namespace) as grid:
            options.run(grid, options)
        sys.stdout.flush()
    except (GridError, LookupError) as error:
        print(f"gridworker {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:             # `gridworker logs | head`: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    for name, kind, default, text, metavar in where.OPTIONS:
        common.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=f"{text} ({default})" if default else text)
    parser = argparse.ArgumentParser(prog="gridworker", description="Look at a grid, or have hosts leave it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    top = commands.add_parser("top", parents=[common], help="pools and nodes at work, live, until Ctrl-C")
    top.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two pictures (1)")
    top.set_defaults(run=_top)
    status = commands.add_parser("status", parents=[common], help="pools and nodes, once")
    status.set_defaults(run=_status)
    logs = commands.add_parser("logs", parents=[common], help="what the nodes have logged")
    logs.add_argument("level", nargs="?", type=_level, default="info", help="that level and above (info)")
    logs.add_argument("--node", help="of that node only")
    logs.add_argument("--last", type=int, default=1000, metavar="N", help="so many entries are looked at (1000)")
    logs.add_argument("--follow", action="store_true", help="go on with each entry as it is written, until Ctrl-C")
    logs.set_defaults(run=_logs)
    graph = commands.add_parser("graph", parents=[common], help="the calls that a traced call made, with times")
    graph.add_argument("call", help="the call's id: answer.calls[0] of a request made with trace=True")
    graph.add_argument("--svg", type=Path, metavar="FILE", help="draw it into that file")
    graph.add_argument("--dot", action="store_true", help="in Graphviz's language")
    graph.set_defaults(run=_graph)
    drain = commands.add_parser("drain", parents=[common], help="have the hosts of nodes finish what runs, and leave")
    drain.add_argument("nodes", nargs="+", metavar="NODE", help="a node's name, as status shows it; all of its host leave with it")
    drain.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for their end (60)")
    drain.set_defaults(run=_drain)
    for command in (status, logs, graph):
        command.add_argument("--json", action="store_true", help="for programs: one JSON object, of logs one a line")
    return parser


def _level(text: str) -> str:
    try:
        level_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _top(grid: Grid, options: argparse.Namespace) -> None:
    from .top import watch

    watch(grid, every=options.every)


def _status(grid: Grid, options: argparse.Namespace) -> None:
    status = grid.status()
    if options.json:
        print(json.dumps(status.as_dict()))
        return
    from .top import show

    show(status, f"{grid.keys.namespace} at {grid.address.url}")


def _logs(grid: Grid, options: argparse.Namespace) -> None:
    show = _entry_json if options.json else repr
    if not options.follow:
        for entry in grid.logs(options.level, options.node, last=options.last):
            print(show(entry))
        return
    with grid.logs(options.level, options.node, last=options.last, follow=True) as following:
        for entry in following:
            print(show(entry), flush=True)


def _entry_json(entry: Entry) -> str:
    return json.dumps({slot: getattr(entry, slot) for slot in ("time", "node", "level", "logger", "call", "text")})


def _graph(grid: Grid, options: argparse.Namespace) -> None:
    graph = grid.graph(options.call)
    if options.svg is not None:
        options.svg.write_text(graph.svg())
    if options.json:
        print(json.dumps(graph.as_dict()))
    elif options.dot:
        print(graph.dot(), end="")
    else:
        print(repr(graph)[1:-1])
        print(*tree_lines(graph), sep="\n")


def _drain(grid: Grid, options: argparse.Namespace) -> None:
    if left := grid.drain(options.nodes, timeout=options.timeout):
        raise GridError(f"still there after {options.timeout:g} s, finishing what they run: {', '.join(left)}")


def tree_lines(graph: Graph) -> list[str]:
    """A line for each call, below the one that first made it."""
    lines: list[str] = []
    seen: set[str] = set()
    stack = [(graph.root.id, 0)]
    while stack:
        id, depth = stack.pop()
        if id in seen:
            continue
        seen.add(id)
        indent = "  " * depth
        if (call := graph.calls.get(id)) is None:
            lines.append(f"{indent}{id[:8]}: its result was there, or its record is not kept any more")
            continue
        wrong = f", {call.error}" if call.error else ""
        lines.append(f"{indent}{call.name} on {call.node}: {1000 * (call.ended - call.begun):.1f} ms, "
                     f"{1000 * call.computed:.1f} ms computed{wrong}")
        stack += [(made, depth + 1) for made, _ in reversed(call.calls)]
    return lines
