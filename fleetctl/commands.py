"""The shell lines that start gridworker's processes on machines, and `connect_grid`, the way to them from here.

With the package's face this is all that knows gridworker. Secrets are in no line: the boot script puts the session's grid secret into the
file that $GRIDWORKER_SECRET_FILE names, which only the login user can read.
"""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING

from .bootstrap import Program
from .errors import MachineError, RequestInvalid
from .futures import Pending
from .machines import Home, Machine

if TYPE_CHECKING:
    from gridworker import Grid

PORT = 6379
GRACE_SECONDS = 90  # what nodes have to finish calls when EC2 takes their machine: a little less than the boot script gives them

# bash opens the socket itself, so that asking costs no process; the password goes neither into argv nor into the log
_PING = """read -r password _ < "$GRIDWORKER_SECRET_FILE"
exec 3<>"/dev/tcp/$FLEETCTL_IP/{port}"
printf 'AUTH %s\\r\\nPING\\r\\n' "$password" >&3
IFS= read -r -t 5 auth <&3
IFS= read -r -t 5 pong <&3
[[ $auth == +OK* && $pong == +PONG* ]]"""

_SERVE = """umask 077
read -r password _ < "$GRIDWORKER_SECRET_FILE"
printf '%s\\n' "bind $FLEETCTL_IP" "port {port}" "requirepass $password" "dir $FLEETCTL_RUN" 'save ""' "appendonly {append}" \\
  > "$FLEETCTL_RUN/server.conf"
exec "$(command -v valkey-server || command -v redis-server)" "$FLEETCTL_RUN/server.conf\""""


def server(*, port: int = PORT, durable: bool = False) -> Program:
    """A Redis or Valkey server for one or more grids, on the machine's private address, with the session's password.

    Ready when it answers PING. The machine's image must have valkey-server or redis-server ≥ 7.0. `durable` has it append every change to
    a file, synced once a second: needed where requests are made with `durable=True`, and slower (docs/reliability.md says by how much).
    """
    port = _whole("port", port, 1, 65535)
    return Program((_SERVE.format(port=port, append="yes" if durable else "no"),), check=_PING.format(port=port), secret=True)


def distributor(pools: str, server: Machine, *, helper: int = 100, log: str = "info", port: int = PORT) -> Program:
    """Distributors for `pools` (names, separated by commas) at that server. `helper` is their period of reaping and hoisting, ms."""
    _whole("helper", helper, 1, 3_600_000)
    return _node(["--distributor", pools, "--helper", str(helper)], server, log, port)


def worker(n: int, pool: str, server: Machine, *, log: str = "info", port: int = PORT) -> Program:
    """`n` worker processes of `pool` at that server. Ready once all are registered."""
    _whole("n", n, 1, 10_000)
    return _node(["--worker", str(n), "--pool", pool], server, log, port)


def connect_grid(server: Machine, *, port: int = PORT, session: Home | None = None) -> Pending[Grid]:
    """A `gridworker.Grid` on that server, through SSH. Resolves when it is connected; the teardown of its session closes it.

    Raises MachineError when the machine cannot be reached, and what `Grid.connect` raises.
    """
    home = session or server.home
    return home.submit(_connect_grid(server, port, home), f"grid at {server.instance_id}")


async def _connect_grid(server: Machine, port: int, home: Home) -> Grid:
    from gridworker import Grid  # not every session has a grid

    forward = await server.forward(port)
    password, key = home.secret.split()
    grid = Grid.connect(forward.url, password=password, key=key)
    home.keep(lambda: asyncio.to_thread(_close, grid))
    return await grid


def _close(grid: Grid) -> None:
    grid.close()


def _node(what: list[str], server: Machine, log: str, port: int) -> Program:
    if not isinstance(server, Machine):
        raise RequestInvalid(
            f"server is the machine that bring_up_one_spot resolved to, not {server!r}",
            alias="server",
            found=server,
            todo="await its launch first",
        )
    if not server.ip:
        raise MachineError(f"{server!r} has not reported its address", todo="await its launch first")
    words = ["exec", "python3", "-m", "gridworker", *what, "--host", server.ip, "--port", str(port), "--log", f"{log}:{server.ip}:{port}"]
    words += ["--grace", str(GRACE_SECONDS)]
    line = f'{shlex.join(words)} --ready-file "$FLEETCTL_RUN/registered"'
    return Program((line,), check='[[ -e "$FLEETCTL_RUN/registered" ]]', secret=True)


def _whole(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestInvalid(f"{name} is a whole number between {least} and {most}, not {value!r}", alias=name, found=value)
    return value
