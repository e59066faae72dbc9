"""Why a launch ended below its minimum, as the error that says it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import LaunchCancelled, LaunchFailed, NeverReported, ScriptFailed
from .lifecycle import Core
from .shapes import Shortfall
from .states import MachineState

END_IT = "call teardown_all(), which ends it and proves it"


class Facts(NamedTuple):
    """What the errors tell: `title` names the launch, `seconds` is the time it was allowed, `shortfalls` the pools that gave none."""

    title: str
    core: Core
    machines: Mapping[str, Any]
    seconds: float
    shortfalls: tuple[Shortfall, ...] = ()


def failure(why: str, facts: Facts) -> LaunchFailed:
    """The error of a launch that was given up because of `why`."""
    core = facts.core
    common: dict[str, Any] = {"machines": facts.machines}
    if why == "cancelled":
        return LaunchCancelled(f"{facts.title} was cancelled with {core.ready} up", **common)
    if why == "failed":
        script = _script_failed(facts, common)
        if script is not None:
            return script
    if why == "short":
        return _short(facts, common)
    counts = core.counts()
    states = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none listed"
    statuses = ", ".join(f"{n} × {code}" for code, n in Counter(slot.status for slot in core.slots.values() if slot.status).items())
    known = f"machines: {states}; requests: {statuses or 'none listed'}"
    if why != "deadline":
        return LaunchFailed(
            f"{facts.title}: {core.lost} were lost, {core.minimum} were needed ({known})",
            todo="look at the requests' status; another type or zone may have machines",
            **common,
        )
    silent, unready = counts[MachineState.LAUNCHED], counts[MachineState.BOOTED]
    if unready:
        hint = f"; {unready} have booted, but their commands or their check did not get ready in time"
        todo = "allow more minutes, or mend the commands or the check"
    elif silent:
        hint, todo = f"; {silent} ran but never reported", "look at their boot script, and at their way to SNS"
    elif "price-too-low" in statuses:
        hint, todo = "", "raise price, or leave it out: the on-demand price is then the cap"
    else:
        hint, todo = "", "look at the requests' status; another type or zone may have machines"
    return NeverReported(
        f"{facts.title}: {core.ready} up after {facts.seconds:.0f} s, {core.minimum} were needed ({known}){hint}", todo=todo, **common
    )


def _short(facts: Facts, common: dict[str, Any]) -> LaunchFailed:
    """EC2 gave fewer than the minimum, and named the pools that gave none."""
    pools = [f"{one.type} in {one.place or 'any zone'}: {one.code}" for one in facts.shortfalls]
    named = f" ({'; '.join(pools[:8])}{'; …' if len(pools) > 8 else ''})" if pools else ""
    return LaunchFailed(
        f"{facts.title}: EC2 gave {len(facts.core.slots)}, {facts.core.minimum} were needed{named}",
        todo="name more types or zones, or ask for fewer",
        **common,
    )


def _script_failed(facts: Facts, common: dict[str, Any]) -> ScriptFailed | None:
    """If commands have failed: their number, and the first with its exit code and the end of its log."""
    reports = [
        slot.report for slot in facts.core.slots.values() if slot.lost and slot.report is not None and slot.report.exit_code is not None
    ]
    if not reports:
        return None
    first = reports[0]
    return ScriptFailed(
        f"{facts.title}: the commands of {len(reports)} failed and {facts.core.minimum} were needed; "
        f"on {first.instance} with exit code {first.exit_code}:\n{first.tail.rstrip()}",
        exit_code=first.exit_code,
        tail=first.tail,
        todo="mend the commands; the end of the log is above",
        **common,
    )
