"""Ending some machines of launches that go on, and proving it. On the session's loop.

Their spot requests are cancelled first, so that nothing is filled in their place; then it is the teardown's work on a part of the estate.
What they leave behind (volumes that outlive their machine) is tagged, and ended with the rest of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from ..cloud import ec2
from ..ending import teardown as ending
from ..ending.estate import Estate
from ..ending.receipt import Receipt
from ..errors import RequestInvalid
from ..events import Ended, Slot
from ..launching.launch import Conductor
from ..ledger import Entry
from ..machines import Machine
from ..states import LaunchState

Parts = Mapping[Conductor, Sequence[Slot]]


def retirable(launches: Iterable[Conductor], machines: Collection[Machine]) -> Parts:
    """The machines that may still cost, by their launches. Raises RequestInvalid: nothing is ended then."""
    owners = {slot.key: (one, slot) for launch in launches for one in launch.family() for slot in one.core.all()}
    parts: dict[Conductor, list[Slot]] = {}
    for machine in machines:
        launch, slot = owners.get(machine._slot.key, (None, None))
        if launch is None or slot is not machine._slot:
            raise RequestInvalid(
                f"{machine!r} was not brought up by this session", alias="machines", found=machine, todo="ask the session that began it"
            )
        if launch.core.state is not LaunchState.UP:
            raise RequestInvalid(
                f"{machine!r} is of a launch that is {launch.core.state}", alias="machines", found=machine,
                todo="wait until it is up, or end it as a whole: launch.cancel(), teardown(launch)",
            )  # fmt: skip
        if slot.alive:
            parts.setdefault(launch, []).append(slot)
    return parts


async def retire(
    call: ec2.Call, session: str, region: str, entries: Iterable[Entry], parts: Parts, cost: Callable[[dict[str, Any]], float]
) -> Receipt:
    """End these machines. Never raises for what AWS refuses to end: that stands in `receipt.remaining`. AwsError where it takes nothing."""
    launches = {str(launch.uuid) for launch in parts}
    keeps = Estate.read(session, region, entries, launches).keeps
    if requests := [slot.key for launch, slots in parts.items() for slot in slots if slot.key != slot.instance]:
        await ec2.cancel(call, requests)
    instances = {slot.instance: slot.launched or launch.began for launch, slots in parts.items() for slot in slots if slot.instance}

    def gone(ids: Sequence[str]) -> None:
        for launch in parts:
            launch.feed(Ended(tuple(ids)))

    machines = ending.Machines(call, Estate(session, region, instances=instances, keeps=keeps), cost, lambda rows: None, gone, launches)
    await machines.end()
    return Receipt(tuple(machines.lines()))
