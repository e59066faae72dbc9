"""Why a launch ended below its minimum, as the error that says it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import reasons
from ..errors import Kind, LaunchCancelled, LaunchFailed, NeverReported, ScriptFailed, TooFewMachines
from ..lifecycle import Core
from ..shapes import Shortfall
from ..states import MachineState
from .readiness import Examined

POOLS = 8  # as many are named in a message
END_IT = "call teardown_all(), which ends it and proves it"


class Facts(NamedTuple):
    """What the errors tell: `title` names the launch, `seconds` is the time it was allowed, `shortfalls` the pools that gave none."""

    title: str
    core: Core
    machines: Mapping[str, Any]
    seconds: float
    shortfalls: tuple[Shortfall, ...] = ()
    examined: tuple[Examined, ...] = ()
    ready: str = "reported"


def failure(why: str, facts: Facts) -> LaunchFailed:
    """The error of a launch that was given up because of `why`: "cancelled", "short", "failed" or "deadline"."""
    core = facts.core
    codes = _codes(facts)
    common: dict[str, Any] = {"machines": facts.machines, "codes": codes}
    if why == "cancelled":
        return LaunchCancelled(f"{facts.title} was cancelled with {core.ready} up", **common)
    if why == "failed" and (script := _script_failed(facts, common)) is not None:
        return script
    if why == "deadline" and any(slot.instance for slot in core.all()):
        return _unreported(facts, common)
    return _too_few(why, facts, common)


def _codes(facts: Facts) -> dict[str, int]:
    """AWS's words for what did not come or went: of the machines that were lost or never had an instance, and of the empty pools."""
    slots = (slot for slot in facts.core.all() if slot.status and (slot.lost or slot.instance is None))
    return dict(Counter(slot.status for slot in slots) + Counter(one.code for one in facts.shortfalls))


def _known(facts: Facts) -> str:
    core = facts.core
    states = ", ".join(f"{n} {state}" for state, n in core.counts().items() if n) or "none listed"
    statuses = ", ".join(f"{n} × {code}" for code, n in Counter(slot.status for slot in core.all() if slot.status).items())
    return f"machines: {states}; requests: {statuses or 'none listed'}"


def _unreported(facts: Facts, common: dict[str, Any]) -> NeverReported:
    """Machines ran at the deadline, and too few of them were ready. What was found of some of them stands below."""
    core = facts.core
    counts = core.counts()
    silent, unready = counts[MachineState.LAUNCHED], counts[MachineState.BOOTED]
    hint, todo = "", "allow more minutes, or name further types or zones"
    if core.proving:
        hint, todo = f"; ready was to mean: {facts.ready}", "allow more minutes, or mend what is in the way"
    elif unready:
        hint = f"; {unready} have booted, but their commands or their check did not get ready in time"
        todo = "allow more minutes, or mend the commands or the check"
    elif silent:
        hint, todo = f"; {silent} ran but never reported", "look at their boot script, and at their way to SNS"
    if any(one.only_silent for one in facts.examined):
        todo = 'see that their role may publish to the session\'s topic and they reach SNS (`fleetctl setup status`); or say ready="ssh"'
    what = f"{facts.title}: {core.ready} up after {facts.seconds:.0f} s, {core.minimum} were needed ({_known(facts)}){hint}"
    what = "\n".join([what, *(one.text for one in facts.examined)])
    return NeverReported(what, todo=todo, silent=silent, booted=unready, **common)


def _too_few(why: str, facts: Facts, common: dict[str, Any]) -> TooFewMachines:
    """AWS gave too few machines, or took them back."""
    core = facts.core
    reason = reasons.main(common["codes"])
    if why == "short":
        pools = [f"{one.type or 'any type'} in {one.place or 'any zone'}: {one.code}" for one in facts.shortfalls]
        named = f" ({'; '.join(pools[:POOLS])}{'; …' if len(pools) > POOLS else ''})" if pools else ""
        what = f"EC2 gave {len(core.slots)}, {core.minimum} were needed{named}"
    elif why == "failed":
        what = f"{core.lost} were lost, {core.minimum} were needed ({_known(facts)})"
    else:
        what = f"EC2 gave none within {facts.seconds:.0f} s, {core.minimum} were needed ({_known(facts)})"
    said = next((one for one in [*(s.message for s in core.all()), *(s.message for s in facts.shortfalls)] if one), "")
    return TooFewMachines(
        f"{facts.title}: {what}" + (f"\nAWS says: {said}" if said else ""),
        kind=reason.kind if reason else Kind.CAPACITY if why == "short" else None,
        shortfalls=facts.shortfalls,
        todo=reason.todo if reason else "name further types or zones, or ask for fewer",
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
