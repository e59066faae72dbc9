"""Looking at what is there, and carrying out steps. What fails stops what needs it and nothing else; the rest is done all the same."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cloud.ec2 import pages
from ..ending.receipt import Line, Receipt
from ..errors import AwsError, Denied, NotFound, SetupFailed
from . import billing, costs, identity, limits, network, reaping, rights, router, storage, ways
from .place import Kind, Place, end_of, until
from .planning import Seen, Step, Verb, Wanted

__all__ = ["FIXED", "KINDS", "ORDER", "carry_out", "living_machines", "look", "remove"]

log = logging.getLogger(__name__)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *network.KINDS, *ways.KINDS, router.KIND, network.ROUTES, ways.ENDPOINT, *storage.KINDS, *identity.KINDS, *billing.KINDS,
        *costs.KINDS, *reaping.KINDS
    )
}  # fmt: skip
"""Every kind, lowest first: what one needs stands before it."""

ORDER = tuple(KINDS)
FIXED = {kind.name: kind.fixed for kind in KINDS.values()}
HELD = ("DependencyViolation", "DeleteConflict", "InvalidIPAddress.InUse", "BucketNotEmpty", "OperationAborted")
HELD_SECONDS = 180.0  # network interfaces of endpoints and NAT gateways are there for a while after these
ALIVE = ["pending", "running", "stopping", "stopped"]
Report = Callable[[Step, str], None]


async def look(place: Place) -> list[Seen]:
    """Everything that the set-up has there, and what bears one of its names. Raises SetupFailed with all that may not be looked at."""
    seen: list[Seen] = []
    failed: list[tuple[str, AwsError]] = []
    place.ids.clear()
    for kind in KINDS.values():
        try:
            found = await kind.find(place)
        except Denied as error:
            if not kind.optional:
                failed.append((kind.name, error))
            log.info("%s cannot be looked at: %s", kind.name, error.what)
            continue
        seen += found
        for thing in sorted(found, key=lambda thing: (not thing.done, thing.id), reverse=True):
            if thing.ours and not thing.ending:
                place.ids[kind.name, thing.part] = thing.id
    if failed:
        raise refused("the set-up cannot be looked at", failed)
    return seen


async def carry_out(place: Place, steps: Sequence[Step], seen: Sequence[Seen], report: Report) -> None:
    """Do all that is not idle, in its order. Raises SetupFailed with what could not be done, once everything else is."""
    things = {(one.kind, one.id): one for one in seen}
    failed: list[tuple[str, AwsError]] = []
    documents: dict[str, Any] = {}
    broken: set[str] = set()  # kinds of which one is missing, and those that need them
    for step in steps:
        if step.idle:
            continue
        kind = KINDS[step.kind]
        if held := broken & {*kind.needs}:
            broken.add(kind.name)
            report(step, f"left out: it needs {', '.join(sorted(held))}")
            continue
        try:
            if step.verb is Verb.REMOVE:
                await _remove(place, things[step.kind, step.id])
            elif step.wanted is not None:
                await _bring_about(place, kind, step, step.wanted)
        except AwsError as error:
            failed.append((str(step), error))
            broken.add(kind.name)
            report(step, error.code)
            if isinstance(error, Denied) and step.wanted is not None and "rights" in step.wanted.settings:
                documents[f"{step.kind} {identity.name_of(place, step.part)}"] = json.loads(step.wanted.settings["rights"])
        else:
            report(step, "")
    if failed:
        raise refused("the set-up is not complete", failed, documents)


async def _bring_about(place: Place, kind: Kind, step: Step, wanted: Wanted) -> None:
    keys = [one.key for one in step.differs]
    id = step.id
    if step.verb is Verb.MAKE:
        id = await kind.make(place, wanted)
        keys = [key for key in wanted.settings if key not in kind.fixed | kind.given]
    place.ids[kind.name, step.part] = id
    if step.verb is not Verb.MAKE or not kind.whole:
        await kind.put(place, wanted, id, keys)
        if step.verb is not Verb.CHANGE:
            await kind.mark(place, step.part, id)


async def remove(place: Place, steps: Sequence[Step], seen: Sequence[Seen]) -> Receipt:
    """Remove what the steps say, and look until each was seen to be gone. What AWS refuses is in the receipt, with its reason."""
    things = {(one.kind, one.id): one for one in seen}
    lines: list[Line] = []
    for step in steps:
        if step.idle:
            continue
        line = Line(step.kind, step.id, place.facts.region, "deleted")
        try:
            proof = await _remove(place, things[step.kind, step.id])
            lines.append(replace(line, proof=proof, gone=time.time()))
        except AwsError as error:
            todo = await holders(place) if error.code in HELD else error.todo
            lines.append(replace(line, done="not deleted", proof=error.code, todo=todo))
    return Receipt(tuple(lines))


async def _remove(place: Place, thing: Seen) -> str:
    """Remove a thing and see its end. What is held by something that goes away itself is tried again for a while."""
    kind = KINDS[thing.kind]
    end = ""

    async def removed() -> bool:
        try:
            await kind.remove(place, thing)
        except NotFound as error:
            log.info("%s %s: %s", thing.kind, thing.id, error.code)  # it, or a part of it; whether it is gone is seen below
        except AwsError as error:
            if error.code not in HELD:
                raise
            held.append(error)
            return False
        return True

    async def gone() -> bool:
        nonlocal end
        end = await end_of(place, kind, thing.id)
        return bool(end)

    held: list[AwsError] = []
    try:
        await until(removed, f"the removal of {thing.kind} {thing.id}", seconds=HELD_SECONDS)
    except AwsError as error:
        raise held[-1] if held and error.code == "TimedOut" else error from None
    await until(gone, f"the end of {thing.kind} {thing.id}")
    place.ids.pop((thing.kind, thing.part), None)
    return end


async def living_machines(place: Place) -> list[str]:
    """The machines in the set-up's network but its own, whoever made them: while one is there, nothing can be removed."""
    vpc = place.ids.get(("vpc", "vpc"))
    if vpc is None:
        return []
    here = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "instance-state-name", "Values": ALIVE}]
    rows = await pages(place.call, "describe_instances", "Reservations", Filters=here)
    own = {id for (kind, _), id in place.ids.items() if kind == "nat-instance"}
    return sorted({one["InstanceId"] for row in rows for one in row["Instances"]} - own)


async def holders(place: Place) -> str:
    """What to do about whatever holds a part of the network, as far as AWS shows it."""
    vpc = place.ids.get(("vpc", "vpc"))
    if vpc is None:
        return ""
    try:
        rows = await pages(place.call, "describe_network_interfaces", "NetworkInterfaces", Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    except AwsError:
        return ""
    shown = [f"{row['NetworkInterfaceId']} ({row.get('Description') or row.get('InterfaceType', 'of no description')})" for row in rows]
    return f"the network still has {', '.join(shown[:5])}: end what they belong to, then destroy again" if shown else ""


def refused(what: str, failed: Sequence[tuple[str, AwsError]], documents: Mapping[str, Any] | None = None) -> SetupFailed:
    """One error for all that failed, denials first, as they are what an administrator can mend in one go."""
    denied = list(dict.fromkeys((error.service, error.operation) for _, error in failed if isinstance(error, Denied)))
    others = [(step, error) for step, error in failed if not isinstance(error, Denied)]
    said = [f"{step}: {error.what}" for step, error in others]
    if denied:
        said.append(f"AWS does not allow {', '.join(f'{service} {operation}' for service, operation in denied)}")
    todo = [advice for _, error in others if (advice := limits.todo(error.code) or error.todo)]
    if denied:
        todo.append("have these calls allowed")
    return SetupFailed(
        "; ".join([what, *said]),
        failed=failed,
        denied=denied,
        policy=rights.allowing(denied) if denied else None,
        documents=documents,
        todo="; ".join(dict.fromkeys([*todo, "then run the same command again: it goes on from there"])),
    )
