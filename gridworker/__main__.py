"""`python -m gridworker`: nodes, and a load to try them with. Prints one JSON object (see app.py) when it ends.

    python -m gridworker --distributor pool --helper 100 --host H --port P
    python -m gridworker --distributor low --link low=pool --host H --port P
    python -m gridworker --worker 4 --pool pool --host H --port P --log debug:H:P
    python -m gridworker --jobs 50 --reclevel 3 --pool pool --host H --port P
    python -m gridworker --cleanup --host H --port P
    gridworker top|status|logs|graph|drain --host H --port P               see terminal.py: for people who look after it

Password and key stand in the file that $GRIDWORKER_SECRET_FILE names, never on the command line.
"""

from __future__ import annotations

import logging
import os
import sys

from . import logs, where
from .app import Option, UsageError, run
from .errors import GridError
from .keys import Keys, checked
from .signing import Seal, key_from
from .store import Address, read_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = [
    Option("worker", str, "", "run workers: how many, or their names by commas", "N|names"),
    Option("stem", str, "", "with --worker N: what the workers' names begin with, unlike those of any other host", "NAME"),
    Option("distributor", list, [], "run the distributors of these pools"),
    Option("link", list, [], "link pools of these distributors to others: help goes down, what is too much goes up", "POOL=PARENT"),
    Option("helper", float, 1000.0, "a distributor's period of reaping and hoisting, in ms", "MS"),
    Option("pool", str, "pool", "the workers' pool, and that of the jobs"),
    *(Option(*words) for words in where.OPTIONS),
    Option("ready_file", str, "", "a file that is made once all the nodes are registered", "PATH"),
    Option("grace", float, 10.0, "seconds that nodes have to leave after SIGTERM"),
    Option("logs", str, "info", "nodes write what is logged at that level and above into the grid's log; off: nowhere", "LEVEL"),
    Option("lifeline", int, -1, "a pipe: when its other end closes, the nodes are killed", "FD"),
    Option("jobs", int, 0, "request that many jobs (bogosity)"),
    Option("jobmsecs", float, 1.0, "how long each call of a job sleeps, in ms"),
    Option("reclevel", int, 3, "depth of the calls that jobs make"),
    Option("numrecjobs", int, 5, "travels along with the jobs"),
    Option("cmt", str, "", "travels along too: jobs with the same are the same calls"),
    Option("jobtimeout", float, 600.0, "seconds to wait for all jobs"),
    Option("cleanup", bool, False, "delete the grid's keys; refused while nodes live"),
]


def main(options: dict[str, Any]) -> dict[str, Any]:
    """One of: run nodes until SIGTERM, run jobs, clean up."""
    try:
        address = where.address_of(options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    password, key = read_secret(os.environ)
    keys = Keys(options["namespace"])
    logs.become(f"pid{os.getpid()}", keys)
    nodes = bool(options["worker"] or options["distributor"])
    if nodes + bool(options["jobs"]) + options["cleanup"] != 1:
        raise UsageError("one of --worker/--distributor, --jobs, --cleanup; or a command: top, status, logs, graph, drain")
    if nodes:
        return _nodes(options, address, password, keys, Seal(key_from(key)))
    from .jobs import clean_up, run_jobs

    if options["cleanup"]:
        return clean_up(address, password, options["namespace"])
    return run_jobs(address, password, options["namespace"], pool=options["pool"], jobs=options["jobs"], msecs=options["jobmsecs"],
                    reclevel=options["reclevel"], numrecjobs=options["numrecjobs"], comment=options["cmt"], timeout=options["jobtimeout"])


def _nodes(options: dict[str, Any], address: Address, password: str | None, keys: Keys, seal: Seal) -> dict[str, Any]:
    from .serve import serve
    from .supervisor import Role, Supervisor, die_with

    if options["lifeline"] >= 0:
        die_with(options["lifeline"])
    if options["logs"] != "off" and not any(isinstance(handler, logs.RedisHandler) for handler in logging.getLogger().handlers):
        try:
            logs.install(address, password, keys, f"pid{os.getpid()}", options["logs"])
        except ValueError as error:
            raise UsageError(f"--logs: {error}") from error
    # imported here, once, so that the children share it: they are forked
    if options["worker"]:
        from . import worker  # noqa: F401
    if options["distributor"]:
        from . import distributor  # noqa: F401

    from .links import checked_links

    try:
        parents = checked_links(options["link"], options["distributor"])
    except (GridError, ValueError) as error:
        raise UsageError(str(error)) from error

    def run_node(node: Any, role: Role, connection: Any, ready: Any) -> None:
        serve(node, role, connection, ready, seal=seal, helper=options["helper"] / 1000, parent=parents.get(role.pool, ""))

    roles = [Role("distributor", pool, f"{pool}.distributor") for pool in options["distributor"]]
    roles += [Role("worker", options["pool"], name) for name in worker_names(options["worker"], options["stem"])]
    return Supervisor(address, password, keys, roles, run_node, ready_file=options["ready_file"] or None, grace=options["grace"]).run()


def worker_names(text: str, stem: str = "") -> list[str]:
    """Names for `N|names`: N names that no other host has, or those given. UsageError for none, or one twice.

    >>> worker_names("left,right"), worker_names("2", "i-0a1b")
    (['left', 'right'], ['i-0a1b.1', 'i-0a1b.2'])
    """
    if not text.isdigit():
        names = [checked("node", name.strip()) for name in text.split(",") if name.strip()]
        if len(set(names)) < len(names):
            raise UsageError(f"--worker: a name stands twice: {text}")
        return names
    if int(text) == 0:
        raise UsageError("--worker: at least one")
    stem = stem or f"w{os.urandom(3).hex()}"
    return [f"{stem}.{number}" for number in range(1, int(text) + 1)]


def _log_handler(host: str, port: int) -> Any:
    """For `--log LEVEL:HOST:PORT`; which grid's log it is, is known once the options are read."""
    return logs.RedisHandler(Address(host, port), read_secret(os.environ)[0], Keys("grid"), f"pid{os.getpid()}")


def console() -> int:
    """The program `gridworker`, and `python -m gridworker`."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        from . import terminal

        return terminal.main(sys.argv[1:])
    return run(main, OPTIONS, prog="gridworker", log_handler=_log_handler, description="Nodes of a grid, and a load to try it with. "
               "For those who look after one there are the commands top, status, logs, graph and drain: gridworker top --help.")


if __name__ == "__main__":
    sys.exit(console())
