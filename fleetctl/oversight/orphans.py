"""What bears fleetctl's tags in a cloud, whoever made it: who owns it, whose time is over, and how a ledger takes it in. No I/O.

Each thing names its session by its tag or, where things have no tags, by its name. A session that no ledger here knows, or whose ledger
says that it has ended, has *orphans*: another computer's session that lives looks just the same, so nothing is done to orphans by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from ..ending.estate import FLEET, RUN, SPOT
from ..ending.kinds import KINDS
from ..ledger import Entry, SessionRecord

__all__ = ["NAME", "Found", "entries", "expired", "orphans", "session_of"]

NAME = re.compile(r"(?:^|[/:])fleetctl-([0-9a-f]{12})-[0-9a-f]{8}(?=$|[:/])")  # topics, queues, buckets; subscriptions by their topic
# nobody knows whether the machine of such a spot request leaves volumes behind: it is to be looked at
UNTOLD: dict[str, Any] = {"BlockDeviceMappings": [{"Ebs": {}}]}
PARAMETER = re.compile(r"^/fleetctl/([0-9a-f]{12})/")


class Found(NamedTuple):
    """One thing in a cloud. `expires` is the end that its tag names, seconds since the epoch, None without one."""

    kind: str
    id: str
    region: str
    session: str
    launch: str = ""
    expires: float | None = None
    state: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.id} in {self.region}"


def session_of(name: str) -> str:
    """The session that a topic, queue, subscription, bucket or parameter is named after, '' for a name that is not ours.

    >>> session_of("arn:aws:sns:us-east-1:123456789012:fleetctl-0123456789ab-deadbeef")
    '0123456789ab'
    >>> session_of("fleetctl-old-thing")
    ''
    """
    found = PARAMETER.search(name) or NAME.search(name)
    return found[1] if found else ""


def orphans(found: Iterable[Found], known: Iterable[SessionRecord]) -> list[Found]:
    """What belongs to no session that has a ledger here and has not ended."""
    ours = {record.id for record in known if record.living or record.ended is None}
    return [one for one in found if one.session not in ours]


def expired(found: Sequence[Found], now: float) -> list[Found]:
    """What has outlived the end that its tag names; and of sessions all of whose tagged things have, the rest too.

    A launch ends as a whole, by the latest end that anything of it bears: an extension moves the tags of its machines, not those of
    its volumes or its fleet. Things without such a tag cost nothing, so those of a session that has no other are left: nobody can say
    how old they are.
    """
    ends: dict[str, float] = {}  # of launches, and of what belongs to none
    for one in found:
        whole = one.launch or one.id
        if one.expires is not None:
            ends[whole] = max(one.expires, ends.get(whole, one.expires))
    marked = [one for one in found if one.expires is not None]
    over = {one for one in marked if ends[one.launch or one.id] <= now}
    sessions = {one.session for one in over} - {one.session for one in marked if one not in over}
    return [one for one in found if one in over or (one.expires is None and one.session in sessions)]


def entries(found: Iterable[Found], at: float) -> list[Entry]:
    """A ledger's entries that stand for the things, as if their making had been answered: what ends a session then ends them."""
    out: list[Entry] = []
    for one in found:
        service, operation, request, result = _made(one)
        out.append(Entry(len(out) + 1, at, one.launch or None, service, operation, one.region, None, request, result, None))
    return out


def _made(one: Found) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Service, operation, request and answer of the call that would have made a thing."""
    if one.kind == "spot request":
        return "ec2", SPOT, {"LaunchSpecification": UNTOLD}, {"SpotInstanceRequests": [{"SpotInstanceRequestId": one.id}]}
    if one.kind == "instance":
        return "ec2", RUN, {}, {"Instances": [{"InstanceId": one.id}]}
    if one.kind == "fleet":
        return "ec2", FLEET, {}, {"FleetId": one.id, "Instances": []}
    if one.kind == "volume":  # a teardown finds it by its tag, once it knows that something was launched
        return "ec2", RUN, {}, {"Instances": []}
    kind = KINDS[one.kind]
    if kind.asked:
        return kind.service, kind.make, {kind.asked: one.id}, {}
    answer: Any = one.id
    for key in reversed(kind.named):
        answer = {key: answer}
    return kind.service, kind.make, {}, answer


def launches(found: Iterable[Found]) -> Collection[str]:
    """The launches of the things."""
    return {one.launch for one in found if one.launch}
