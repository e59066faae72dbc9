"""fleetctl: from a notebook, in one awaited line, put a hundred cheap machines to work, and know that they are gone when you say so.

    connect("local")
    machines = await bring_up_spots(request, 100, "make results", itype="t3.micro", price=0.01)
    await teardown_all()

Names are imported when they are first used: the local cloud's daemon lives in this package too, and should not wait for the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import bundle, commands
    from .bootstrap import Program
    from .commands import connect_grid
    from .ending.receipt import Receipt
    from .errors import BudgetExceeded, FleetError, LaunchFailed, NeverReported, NotConnected, RequestInvalid, ScriptFailed, StillBilling
    from .grid import FleetGrid, bring_up_grid
    from .launching.checks import Preflight
    from .launching.handle import Launch, Progress
    from .machines import Machine, Machines
    from .money.cost import Cost
    from .oversight.resuming import attach
    from .reach.command import Command
    from .reach.fabric import Hosts, hosts
    from .session import Session, connect, current
    from .spot import bring_up_one_spot, bring_up_spots, extend, preflight, teardown, teardown_all
    from .standby import Standby

__all__ = [
    # verbs
    "attach", "bring_up_grid", "bring_up_one_spot", "bring_up_spots", "bundle", "commands", "connect", "connect_grid", "current", "extend",
    "hosts", "preflight", "teardown", "teardown_all",
    # what they give and take
    "Command", "Cost", "FleetGrid", "Hosts", "Launch", "Machine", "Machines", "Preflight", "Program", "Progress", "Receipt", "Session",
    "Standby",
    # what they raise
    "BudgetExceeded", "FleetError", "LaunchFailed", "NeverReported", "NotConnected", "RequestInvalid", "ScriptFailed", "StillBilling",
    "TooFewMachines",
]  # fmt: skip

_MODULES = ("bundle", "commands")
_HOMES = {
    "attach": "oversight.resuming",
    "bring_up_one_spot": "spot", "bring_up_spots": "spot", "extend": "spot", "preflight": "spot",
    "teardown": "spot", "teardown_all": "spot",
    "bring_up_grid": "grid", "FleetGrid": "grid",
    "Hosts": "reach.fabric", "hosts": "reach.fabric",
    "Command": "reach.command", "connect": "session", "current": "session", "Session": "session", "connect_grid": "commands",
    "Cost": "money.cost", "Launch": "launching.handle", "Progress": "launching.handle", "Machine": "machines", "Machines": "machines",
    "Standby": "standby", "Preflight": "launching.checks", "Program": "bootstrap", "Receipt": "ending.receipt",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'fleetctl' has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f".{_HOMES.get(name, name if name in _MODULES else 'errors')}", __name__)
    value: object = home if name in _MODULES else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
