"""The shell lines that start gridworker's processes on machines, a load for them, and `connect_grid`, the way to them from here.

With the package's face this is all that knows gridworker. Secrets are in no line: the boot script puts the session's grid secret into the
file that $GRIDWORKER_SECRET_FILE names, which only the login user can read.
"""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING, TypeVar

from .bootstrap import Program
from .errors import MachineError, RequestInvalid
from .futures import Pending
from .machines import Home, Machine
from .reach.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridworker import Grid

    G = TypeVar("G", bound=Grid)

PORT = 6379
GRACE_SECONDS = 90  # what nodes have to finish calls when EC2 takes their machine: a little less than the boot script gives them

# bash opens the socket itself, so that asking costs no process; the password goes neither into argv nor into the log
_PING = """read -r password _ < "$GRIDWORKER_SECRET_FILE"
exec 3<>"/dev/tcp/$FLEETCTL_IP/{port}"
printf 'AUTH %s\\r\\nPING\\r\\n' "$password" >&3
IFS= read -r -t 5 auth <&3
IFS= read -r -t 5 pong <&3
[[ $auth == +OK* && $pong == +PONG* ]]"""

_CONFIGURE = """umask 077
read -r password _ < "$GRIDWORKER_SECRET_FILE"
printf '%s\\n' "bind $FLEETCTL_IP" "port {port}" "requirepass $password" "dir $FLEETCTL_RUN" 'save ""' "appendonly {append}" \\
  > "$FLEETCTL_RUN/server.conf\""""

_SERVER = '"$(command -v valkey-server || command -v redis-server)" "$FLEETCTL_RUN/server.conf"'

# whichever fails, the commands fail at once; a distributor that was told to leave leaves the server alone
_BESIDE = """{server} &
{node} &
wait -n
wait"""


def server(*, port: int = PORT, durable: bool = False, distributor: str = "", log: str = "info") -> Program:
    """A Redis or Valkey server for one or more grids, on the machine's private address, with the session's password.

    Ready when it answers PING. The machine's image must have valkey-server or redis-server ≥ 7.0. `durable` has it append every change to
    a file, synced once a second: needed where requests are made with `durable=True`, and slower (docs/reliability.md says by how much).
    `distributor`: names of pools, separated by commas, whose distributors run beside it, so that they need no machine of their own.
    """
    port = whole("port", port, 1, 65535)
    configure, ping = _CONFIGURE.format(port=port, append="yes" if durable else "no"), _PING.format(port=port)
    if not distributor:
        return Program((f"{configure}\nexec {_SERVER}",), check=ping, secret=True)
    node = _node(["--distributor", distributor], '"$FLEETCTL_IP"', log, port)
    return Program((f"{configure}\n{_BESIDE.format(server=_SERVER, node=node)}",), check=f"{ping}\n{_REGISTERED}", secret=True)


def distributor(pools: str, server: Machine, *, helper: int = 100, log: str = "info", port: int = PORT) -> Program:
    """Distributors for `pools` (names, separated by commas) at that server. `helper` is their period of reaping and hoisting, ms."""
    whole("helper", helper, 1, 3_600_000)
    return _nodes(["--distributor", pools, "--helper", str(helper)], server, log, port)


def worker(n: int | None, pool: str, server: Machine, *, log: str = "info", port: int = PORT) -> Program:
    """`n` worker processes of `pool` at that server; None: one for each processor of the machine. Ready once all are registered.

    Their names are the instance's id with a number: `i-0a1b2c3d.1`.
    """
    number = '"$(nproc)"' if n is None else str(whole("n", n, 1, 10_000))
    return _nodes(["--pool", pool], server, log, port, f'--worker {number} --stem "$FLEETCTL_INSTANCE"')


def jobs(
    pool: str, server: Machine, *, jobs: int = 50, msecs: float = 1.0, reclevel: int = 3, numrecjobs: int = 5, cmt: str = "",
    timeout: float = 600.0, port: int = PORT,
) -> Command:  # fmt: skip
    """A load for a grid, asked for from a machine of it: `(await server.run(commands.jobs("pool", server))).json()["result"]` counts it.

    So many jobs of that recursion level, each of which sleeps `msecs` and asks for others; the same `cmt` makes the same jobs.
    """
    whole("jobs", jobs, 1, 1_000_000)
    given = {"pool": pool, "jobs": jobs, "jobmsecs": msecs, "reclevel": reclevel, "numrecjobs": numrecjobs, "jobtimeout": timeout}
    words = [word for name, value in {**given, "host": _reported(server), "port": port}.items() for word in (f"--{name}", str(value))]
    line = shlex.join(["python3", "-m", "gridworker", *words, *(["--cmt", cmt] if cmt else [])])
    # by stdin, into a file that only the login user reads, as the boot script does it: it is read more than once
    text = f"umask 077\nfile=$(mktemp)\ntrap 'rm -f \"$file\"' EXIT\ncat > \"$file\"\nGRIDWORKER_SECRET_FILE=$file {line}"
    return Command(("bash", "-c", text), stdin=f"{server.home.secret}\n", timeout=timeout + 30)


def connect_grid(server: Machine, *, port: int = PORT, session: Home | None = None) -> Pending[Grid]:
    """A `gridworker.Grid` on that server, through SSH. Resolves when it is connected; the teardown of its session closes it.

    Raises MachineError when the machine cannot be reached, and what `Grid.connect` raises.
    """
    home = session or server.home
    return home.submit(_connect_grid(server, port, home), f"grid at {server.instance_id}")


async def _connect_grid(server: Machine, port: int, home: Home) -> Grid:
    from gridworker import Grid  # not every session has a grid

    return await connected(server, port, home, Grid.connect)


async def connected(server: Machine, port: int, home: Home, connect: Callable[..., G]) -> G:
    """`connect(url, password=…, key=…)` through SSH. On the session's loop; its teardown closes the grid."""
    forward = await server.forward(port)
    password, key = home.secret.split()
    grid = connect(forward.url, password=password, key=key)
    home.keep(lambda: asyncio.to_thread(_close, grid))
    await grid
    return grid


def _close(grid: Grid) -> None:
    grid.close()


_REGISTERED = '[[ -e "$FLEETCTL_RUN/registered" ]]'


def _nodes(what: list[str], server: Machine, log: str, port: int, more: str = "") -> Program:
    return Program((f"exec {_node(what, shlex.quote(_reported(server)), log, port, more)}",), check=_REGISTERED, secret=True)


def _reported(server: Machine) -> str:
    """The private address of a server's machine. Raises RequestInvalid for what is none, MachineError."""
    if not isinstance(server, Machine):
        raise RequestInvalid(
            f"server is the machine that bring_up_one_spot resolved to, not {server!r}",
            alias="server",
            found=server,
            todo="await its launch first",
        )
    if not server.ip:
        raise MachineError(f"{server!r} has not reported its address", todo="await its launch first")
    return str(server.ip)


def _node(what: list[str], ip: str, log: str, port: int, more: str = "") -> str:
    """The line that runs nodes; `ip` and `more` are shell text."""
    words = shlex.join(["python3", "-m", "gridworker", *what, "--port", str(port), "--grace", str(GRACE_SECONDS)])
    where = f"--host {ip} --log {shlex.quote(log)}:{ip}:{port}"
    return f'{words} {where} {more}{more and " "}--ready-file "$FLEETCTL_RUN/registered"'


def whole(name: str, value: int, least: int, most: int) -> int:
    """The value, if it is a whole number between those. Raises RequestInvalid."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestInvalid(f"{name} is a whole number between {least} and {most}, not {value!r}", alias=name, found=value)
    return value
