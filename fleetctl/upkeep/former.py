"""What an earlier process of a session has left that another can go on with, by the session's ledger. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .. import bootstrap, shapes
from ..cloud.ec2 import EXPIRES_TAG, seen
from ..ending import fuse
from ..ending.estate import ENDED_BY, LAUNCH_CALLS, Estate, wanted
from ..ending.kinds import Thing
from ..events import Asked, Seen
from ..launching.asking import TEMPLATE, asked
from ..ledger import Entry, Ledger
from ..notify import Wire

__all__ = ["Former", "Past", "end_of", "now_of", "parameter_of", "past_launches", "wire_of"]

VISIBLE_SECONDS = 300.0  # how long after a call AWS may not show what it has made


@dataclass(frozen=True)
class Former:
    """A session's ledger, taken over, and its channel; its secret's parameter, and the object by which machines see that it lives.

    The last two are '' where there is none.
    """

    ledger: Ledger
    wire: Wire
    parameter: str = ""
    fuse_object: str = ""


class Past(NamedTuple):
    """A launch as the ledger tells it: its request as it was first sent, how many machines that was for, and what answers have named.

    `end` is the hard end that it was given, `fuse_object` what its machines were told to read, `script` all that they were told, and
    `policy` what was to follow when EC2 takes one back.
    """

    launch: str
    at: float
    request: shapes.Request
    wanted: int
    made: tuple[Seen, ...]
    end: float | None
    fuse_object: str
    script: str = ""
    policy: str = ""


def wire_of(estate: Estate, entries: Iterable[Entry]) -> Wire | None:
    """The session's channel, None where none is whole: it was not finished, or its end has begun, whatever came of that."""
    entries = list(entries)
    ending = {Thing(*_ended(entry)) for entry in entries if entry.operation in ENDED_BY}
    alive = {*estate.things} - ending
    queues = {one.id.rsplit("/", 1)[-1]: one.id for one in alive if one.kind == "queue"}
    for entry in reversed([one for one in entries if one.operation == "subscribe" and one.result is not None]):
        topic, queue_arn = entry.request.get("TopicArn", ""), entry.request.get("Endpoint", "")
        url, arn = queues.get(queue_arn.rpartition(":")[2]), entry.result["SubscriptionArn"]
        own = any(one.kind == "topic" and one.id == topic for one in estate.things)
        if topic and url and Thing("subscription", arn) in alive and Thing("topic", topic) not in ending:
            return Wire(topic, url, queue_arn, arn, own)
    return None


def _ended(entry: Entry) -> tuple[str, str]:
    kind, key = ENDED_BY[entry.operation]
    return kind, str(entry.request.get(key, ""))


def parameter_of(estate: Estate) -> str:
    """The parameter that holds the session's secret, '' where there is none."""
    return next((one.id for one in reversed(estate.things) if one.kind == "parameter" and one not in estate.ended), "")


def past_launches(entries: Iterable[Entry], gone: Collection[str] = ()) -> list[Past]:
    """The launches of a ledger that may have made something, oldest first; not those all of which is among `gone`."""
    calls: dict[str, list[Entry]] = {}
    templates: dict[str, shapes.Request] = {}
    for entry in entries:  # of what was taken in by its tags the request is not known
        if entry.operation in LAUNCH_CALLS and entry.launch and entry.request and (entry.result is not None or entry.unknown):
            calls.setdefault(entry.launch, []).append(entry)
        elif entry.operation == TEMPLATE and entry.launch:
            templates.setdefault(entry.launch, entry.request.get("LaunchTemplateData", {}))
    found = [_past(launch, tries, templates.get(launch)) for launch, tries in calls.items()]
    return [one for one in found if one.launch not in gone and not (one.made and all(_names(each) & {*gone} for each in one.made))]


def _past(launch: str, tries: Sequence[Entry], template: Mapping[str, Any] | None) -> Past:
    first = tries[0]
    request = first.request if template is None else _whole_fleet(first.request, template)
    answers = [(entry, asked(entry.result, on_demand=_on_demand(entry.request))) for entry in tries if entry.result is not None]
    made = {one.key: one for _, answer in answers for one in answer.seen}
    said = shapes.view(request)
    end, script = fuse.when(said.get("tags", {}).get(EXPIRES_TAG, "")), said.get("udata", "")
    number, told = wanted(first.operation, first.request), [bootstrap.told(script, name) for name in ("object", "policy")]
    return Past(launch, first.at, request, number, tuple(made.values()), end, told[0], script, told[1])


def _whole_fleet(request: shapes.Request, template: Mapping[str, Any]) -> shapes.Request:
    """A fleet's launch template was a call of its own; the request as people write it has its data, and does not name it."""
    named = "LaunchTemplateSpecification"
    configs = [{key: value for key, value in one.items() if key != named} for one in request["LaunchTemplateConfigs"]]
    return {**request, "LaunchTemplateConfigs": [one for one in configs if one], "LaunchTemplateData": dict(template)}


def _on_demand(request: Mapping[str, Any]) -> bool:
    """Whether a finished launch call asked for machines on demand."""
    capacity = request.get("TargetCapacitySpecification", {})
    return capacity.get("DefaultTargetCapacityType") == "on-demand" or ("MaxCount" in request and "InstanceMarketOptions" not in request)


def _names(one: Seen) -> set[str]:
    return {name for name in (one.key, one.instance, one.request) if name}


def now_of(past: Past, rows: Sequence[dict[str, Any]], now: float) -> Asked:
    """What a launch is made of now: what answers have named, and what a listing shows besides, for an answer may be lost.

    What the listing does not show is over, unless it was made so lately that AWS may not show it yet.
    """
    shown = seen(rows)
    known = {name for one in shown for name in _names(one)}
    absent = [one for one in past.made if one.key not in known]
    if now - past.at > VISIBLE_SECONDS:
        absent = [replace(one, status="not shown", over=True) for one in absent]
    named = {name for one in past.made for name in (one.key, one.instance)}
    strangers = [one.key for one in shown if one.key not in named and one.request not in named]
    return Asked((*(one.key for one in past.made), *strangers), (*past.made, *shown, *absent))


def end_of(past: Past, rows: Iterable[Mapping[str, Any]]) -> float | None:
    """The hard end of its machines as their tags have it, which an extension has moved; else the one that they were given."""
    tags = [tag["Value"] for row in rows for tag in row.get("Tags", ()) if tag["Key"] == EXPIRES_TAG]
    return max((end for tag in tags if (end := fuse.when(tag)) is not None), default=past.end)
