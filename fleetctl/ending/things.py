"""Ending things one by one, by the table of `kinds`, and volumes together. Each is looked at until AWS says that it is gone.

A volume's end is seen in a listing by its id: it is not there any more, or it is `deleting` or `deleted`. EC2 lists every volume that
exists, and it was there when it was found, so here an absence is an end. A volume in use by another machine is left to that machine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from ..cloud import ec2
from ..cloud.bucket import empty
from ..errors import AwsError, BadRequest, LedgerError, NotFound
from ..ledger import Entry
from .estate import Estate, label
from .kinds import KINDS, MADE_BY, Kind, Thing
from .receipt import Line

log = logging.getLogger(__name__)

DELETED_SECONDS = 75.0  # a deleted queue may answer for up to 60 s (SQS API reference, DeleteQueue)
DOUBT_SECONDS = 5.0  # after which a call has been applied, or never will be
NAT_SECONDS = 300.0  # a NAT gateway takes minutes to go
VOLUME_SECONDS = 120.0  # a volume may be `deleting` for minutes, but then nobody can keep it


async def end_things(call: ec2.Call, estate: Estate) -> list[Line]:
    """End everything of the estate that is no machine.

    A call without a known outcome may be on its way still, though whoever made it is dead: it is given the time to arrive.
    """
    if estate.doubt and (rest := estate.doubt + DOUBT_SECONDS - time.time()) > 0:
        await asyncio.sleep(min(rest, DOUBT_SECONDS))
    named = [await _name(call, estate.region, entry) for entry in estate.unsure_things]  # while what they belong to is still there
    things = [*estate.things, *(one for one in named if isinstance(one, Thing))]
    accepted = estate.ended.difference(named)  # what was named just now may have been made anew by that
    ends = [end_thing(call, estate.region, thing, deleted=thing in accepted) for thing in dict.fromkeys(things)]
    lines = await asyncio.gather(*ends, *(_end_object(call, estate.region, *one) for one in sorted(estate.objects)))
    return [*lines, *(one for one in named if isinstance(one, Line))]


async def end_thing(call: ec2.Call, region: str, thing: Thing, *, deleted: bool = False) -> Line:
    """Delete one thing, unless AWS has accepted that already, and look until it is gone."""
    kind, line = KINDS[thing.kind], Line(thing.kind, thing.id, region)
    try:
        if not deleted:
            await _delete(call, kind, thing.id)
        line = replace(line, done="deleted")
        return await _look(call, kind, thing.id, line)
    except NotFound as error:
        return replace(line, done="deleted", proof=error.code.rpartition(".")[2], gone=time.time())
    except AwsError as error:
        return replace(line, proof=error.code, todo=error.todo)


async def _delete(call: ec2.Call, kind: Kind, id: str) -> None:
    try:
        if kind.name == "bucket":
            await empty(call, id)
        await ec2.persist(call, kind.service, kind.delete, **{kind.key: id})
    except NotFound:
        log.info("%s %s was gone already", kind.name, id)


async def _look(call: ec2.Call, kind: Kind, id: str, line: Line) -> Line:
    """Look until the answer holds an end. Raises NotFound where AWS does not know the thing any more."""
    clock = asyncio.get_running_loop().time
    until, pause = clock() + (NAT_SECONDS if kind.name == "NAT gateway" else DELETED_SECONDS), 0.5
    while clock() < until:
        answer = await ec2.persist(call, kind.service, kind.look, **kind.looked(id))
        if over := kind.over(answer):
            return replace(line, proof=over, gone=time.time())
        await asyncio.sleep(pause)
        pause = min(15.0, 2 * pause)
    return replace(line, proof="still answers")


async def _end_object(call: ec2.Call, region: str, bucket: str, key: str) -> Line:
    """Delete an object in a bucket that is not ours. S3 is consistent: what its listing does not have any more is gone."""
    line = Line("object", f"{bucket}/{key}", region)
    try:
        await ec2.persist(call, "s3", "delete_object", Bucket=bucket, Key=key)
        listed = await ec2.persist(call, "s3", "list_objects_v2", Bucket=bucket, Prefix=key)
    except NotFound as error:
        return replace(line, done="deleted", proof=error.code, gone=time.time())
    except AwsError as error:
        return replace(line, proof=error.code, todo=error.todo)
    there = any(one["Key"] == key for one in listed.get("Contents", ()))
    return replace(line, done="deleted", proof="still listed" if there else "not listed", gone=None if there else time.time())


async def _name(call: ec2.Call, region: str, entry: Entry) -> Thing | Line:
    """A thing that may have been made. The same call again names it, where it answers with what is there.

    Where that is refused: the line that says so. It cannot be there where what it belongs to is gone.
    """
    kind = MADE_BY[entry.operation]
    if not kind.repeat:
        return Line(kind.name, label(entry), region, "looked for", "its making was not answered", todo=f"look for it by {kind.look}")
    try:
        try:
            answer = await ec2.persist(call, entry.service, entry.operation, **entry.request)
        except BadRequest:
            if entry.operation != "subscribe":
                raise
            found = await _subscribed(call, entry)  # its queue is gone already: it cannot be asked for again, but may be there
            if not found:
                return Line(kind.name, label(entry), region, "looked for", "not on its topic", time.time())
            return replace(await end_thing(call, region, Thing(kind.name, found)), id=label(entry))  # the name that the ledger has for it
    except AwsError as error:
        return Line(kind.name, label(entry), region, "asked for", error.code, time.time() if isinstance(error, NotFound) else None)
    except LedgerError as error:  # the disk: it must not keep what is known from being ended
        return Line(kind.name, label(entry), region, "not asked for", "the ledger refuses", todo=error.todo)
    return Thing(kind.name, kind.made(entry.request, answer))


async def _subscribed(call: ec2.Call, entry: Entry) -> str:
    """What a Subscribe has made, by its topic's listing (100 a page: SNS API reference, ListSubscriptionsByTopic); "" for nothing."""
    page: dict[str, Any] = {"NextToken": ""}
    while (token := page.get("NextToken")) is not None:
        more = {"NextToken": token} if token else {}
        page = await ec2.persist(call, "sns", "list_subscriptions_by_topic", TopicArn=entry.request["TopicArn"], **more)
        for row in page.get("Subscriptions", ()):
            if row["Endpoint"] == entry.request["Endpoint"]:
                return str(row["SubscriptionArn"])
    return ""


async def end_volumes(call: ec2.Call, region: str, ids: Collection[str], *, over: Collection[str], living: Collection[str]) -> list[Line]:
    """Delete volumes that machines left. Those of `over`, our machines that have ended, may be held by them for a moment more.

    What our `living` machines hold is theirs, and no line of its own: it is for the teardown that ends them.
    """
    lines = {id: Line("volume", id, region) for id in ids}
    clock = asyncio.get_running_loop().time
    until, pause = clock() + VOLUME_SECONDS, 0.5
    while waiting := [id for id, line in lines.items() if line.gone is None]:
        try:
            rows = {row["VolumeId"]: row for row in await ec2.volumes(call, waiting)}
            for id in waiting:
                if {*_holders(rows.get(id, {}))} & {*living}:
                    del lines[id]
                else:
                    lines[id] = await _end_volume(call, lines[id], rows.get(id), over)
        except AwsError as error:
            lines |= {id: replace(lines[id], proof=error.code, todo=error.todo) for id in waiting}
            if not isinstance(error, ec2.TRANSIENT):
                break
        if clock() + pause > until or all(line.gone is not None or line.todo for line in lines.values()):
            break
        await asyncio.sleep(pause)
        pause = min(15.0, 2 * pause)
    return list(lines.values())


async def _end_volume(call: ec2.Call, line: Line, row: dict[str, Any] | None, ours: Collection[str]) -> Line:
    """One step of a volume towards its end, by what a listing shows of it."""
    state = "deleted" if row is None else str(row["State"])
    if state in ("deleting", "deleted"):
        return replace(line, done=line.done if line.done == "deleted" else "found gone", proof=state, gone=time.time())
    holders = _holders(row or {})
    if foreign := [one for one in holders if one not in ours]:
        return replace(line, proof=f"in use by {foreign[0]}", todo="it is ours, but a machine that is not holds it: detach it")
    if holders or line.done == "deleted":
        return replace(line, proof=state)
    try:
        await ec2.persist(call, "ec2", "delete_volume", VolumeId=line.id)
    except NotFound as error:
        return replace(line, done="deleted", proof=error.code, gone=time.time())
    except AwsError as error:
        return replace(line, done="not deleted", proof=error.code, todo=error.todo or "delete it yourself, or tear down again")
    return replace(line, done="deleted", proof=state)


def _holders(row: dict[str, Any]) -> Sequence[str]:
    return [str(one["InstanceId"]) for one in row.get("Attachments", ()) if one.get("State") != "detached" and one.get("InstanceId")]
