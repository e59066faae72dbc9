"""What CloudFormation, Lambda and EventBridge need of the daemon; each loads when it is first called, as moto's parts take long to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetctl.local.faults import Faults
    from fleetctl.local.timers import Timers


@dataclass(frozen=True)
class Needs:
    """`clients(service, region)` are boto3 clients of the daemon's own; functions find AWS at `endpoint` and run below `directory`."""

    clients: Callable[[str, str], Any]
    endpoint: str
    directory: Path
    timers: Timers
    faults: Faults


_here: list[Needs] = []


def install(needs: Needs) -> None:
    """There is one daemon in a process. Its clients are made once: each takes longer than all that is asked of it."""
    _here[:] = [replace(needs, clients=functools.cache(needs.clients))]


def needs() -> Needs:
    """Those of this process's daemon."""
    return _here[0]
