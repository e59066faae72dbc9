"""The NAT instance of a set-up: it runs while a session has machines that go out through it, and is stopped otherwise.

All sessions of a set-up share it, on whatever computer, so it says itself who needs it: a session's tag `fleetctl:held-by:SESSION` names
the time until which that one does. Nobody locks anything. Who holds it writes the tag first, and then sees to it that it runs; who lets go
takes the tag away first, then stops it unless there is another one, and looks on until it has stopped: for one who came meanwhile it is
started again. What is next follows from its state and from whether anybody holds it:

    state            held     free
    pending          wait     wait
    running          done     stop
    stopping         wait     wait
    stopped          start    done
    shutting-down    gone     gone
    terminated       gone     gone

Where a session dies with all that would speak for it, its tag runs out, and the instance, which reads its own tags, shuts itself down
(`account/nat.sh`). `reap` stops one that does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from ..cloud import ec2
from ..errors import AwsError, NotFound
from .fuse import when
from .receipt import Line

__all__ = ["HELD", "TABLE", "THING", "Act", "hold", "holders", "idle", "lapsed", "release"]

HELD = "fleetctl:held-by:"  # with the session's id behind it; the value is a time, as that of an `expires` tag
SECONDS = 300.0  # in which it has started, or stopped; EC2 takes about one
PAUSES = (0.5, 1.0, 2.0, 5.0)  # seconds between looks; the last repeats
SURE_SECONDS = 3.0  # after which one that nobody had held is looked at again: it may have been about to shut itself down
IDLE_SECONDS = 900.0  # after which it should have shut itself down
NOT_YET = "IncorrectInstanceState"  # what EC2 says of a start or a stop that its state does not allow: it is on its way somewhere
THING = "NAT instance"

Tags = Mapping[str, str]


class Act(StrEnum):
    """What is next."""

    WAIT = "wait"
    START = "start"
    STOP = "stop"
    DONE = "done"
    GONE = "gone"


TABLE: Mapping[tuple[str, bool], Act] = {
    ("pending", True): Act.WAIT, ("pending", False): Act.WAIT,
    ("running", True): Act.DONE, ("running", False): Act.STOP,
    ("stopping", True): Act.WAIT, ("stopping", False): Act.WAIT,
    ("stopped", True): Act.START, ("stopped", False): Act.DONE,
    ("shutting-down", True): Act.GONE, ("shutting-down", False): Act.GONE,
    ("terminated", True): Act.GONE, ("terminated", False): Act.GONE,
}  # fmt: skip
"""By state, and whether anybody holds it."""


def holders(tags: Tags, now: float) -> dict[str, float]:
    """The sessions that hold it, each with the end of its hold.

    >>> holders({"fleetctl:held-by:a1": "2030-01-01T00:00:00Z", "fleetctl:held-by:b2": "2020-01-01T00:00:00Z", "Name": "x"}, 1.8e9)
    {'a1': 1893456000.0}
    """
    ends = {key.removeprefix(HELD): when(value) for key, value in tags.items() if key.startswith(HELD)}
    return {session: end for session, end in ends.items() if end is not None and end > now}


def lapsed(tags: Tags, now: float) -> list[str]:
    """The tags of those whose hold is over.

    >>> lapsed({"fleetctl:held-by:b2": "2020-01-01T00:00:00Z", "fleetctl:held-by:c3": "soon"}, 1.8e9)
    ['fleetctl:held-by:b2', 'fleetctl:held-by:c3']
    """
    held = holders(tags, now)
    return sorted(key for key in tags if key.startswith(HELD) and key.removeprefix(HELD) not in held)


async def hold(call: ec2.Call, instance: str, session: str, until: float, *, anew: bool) -> None:
    """Have it run, and stay so until that time (seconds since the epoch). Returns when it does. `anew`: the session has not held it before.

    Raises AwsError: what it lacks to run, or that it is gone.
    """
    call, stamp = _patient(call), datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await ec2.tag(call, [instance], {HELD + session: stamp})
    row = await _bring(call, instance, lambda tags: True)
    if anew and not holders(_tags(row), time.time()).keys() - {session}:
        await asyncio.sleep(SURE_SECONDS)
        await _bring(call, instance, lambda tags: True)


async def idle(call: ec2.Call, now: float) -> list[dict[str, Any]]:
    """The NAT instances of all set-ups in a region that run for nobody, and have not come up a moment ago. Raises AwsError."""
    rows = await ec2.instances_with(call, "tag-key", [ec2.SETUP_TAG])
    return [row for row in rows if row["State"]["Name"] == "running" and not holders(_tags(row), now)
            and now - row["LaunchTime"].timestamp() > IDLE_SECONDS]  # fmt: skip


async def release(call: ec2.Call, instance: str, session: str, region: str) -> Line:
    """Let go of it, and see it stopped unless others hold it: a line of the teardown's receipt. Raises nothing that AWS says.

    Without a session ('') it is stopped if nobody holds it.
    """
    call, line = _patient(call), Line(THING, instance, region)

    def others(tags: Tags) -> dict[str, float]:
        return {one: end for one, end in holders(tags, time.time()).items() if one != session}

    try:
        row = await _row(call, instance)
        over = dict.fromkeys([*([HELD + session] if session else ()), *lapsed(_tags(row), time.time())])
        if over:
            await call("ec2", "delete_tags", Resources=[instance], Tags=[{"Key": key} for key in over])
        row = await _bring(call, instance, lambda tags: bool(others(tags)))
    except NotFound as error:
        return replace(line, done="found gone", proof=error.code, gone=time.time())
    except AwsError as error:
        todo = f"aws ec2 stop-instances --instance-ids {instance} --region {region}"
        return replace(line, done="not stopped", proof=error.code, todo=error.todo or todo)
    if held := others(_tags(row)):
        return replace(line, done="left to others", proof=f"held by {', '.join(sorted(held))}", gone=time.time())
    return replace(line, done="stopped", proof="stopped", gone=time.time())


async def _bring(call: ec2.Call, instance: str, held: Callable[[Tags], bool]) -> dict[str, Any]:
    """Look and act until nothing is left to do; returns the last look."""
    clock = asyncio.get_running_loop().time
    end, looks = clock() + SECONDS, 0
    while True:
        row = await _row(call, instance)
        act = TABLE.get((row["State"]["Name"], held(_tags(row))), Act.WAIT)
        if act is Act.DONE:
            return row
        if act is Act.GONE:
            raise _gone(instance)
        if clock() >= end:
            raise AwsError(f"NAT instance {instance} has been {row['State']['Name']} for {SECONDS:.0f} s", service="ec2",
                           operation="describe_instances", code="TimedOut")  # fmt: skip
        try:
            if act is Act.START:
                await call("ec2", "start_instances", InstanceIds=[instance])
            elif act is Act.STOP:
                await call("ec2", "stop_instances", InstanceIds=[instance])
        except AwsError as error:
            if error.code != NOT_YET:
                raise
        await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
        looks += 1


def _patient(call: ec2.Call) -> ec2.Call:
    """The same way, again where AWS throttles or is silent: every call here may be made twice."""

    async def asked(service: str, operation: str, /, *, launch: str | None = None, **parameters: Any) -> dict[str, Any]:
        for pause in ec2.PAUSES:
            try:
                return await call(service, operation, launch=launch, **parameters)
            except ec2.TRANSIENT:
                await asyncio.sleep(pause)
        return await call(service, operation, launch=launch, **parameters)

    return asked


async def _row(call: ec2.Call, instance: str) -> dict[str, Any]:
    rows = await ec2.instances(call, [instance])
    if not rows:
        raise _gone(instance)
    return rows[0]


def _gone(instance: str) -> NotFound:
    return NotFound(f"NAT instance {instance}, by which the private subnets go out, is gone", service="ec2", operation="describe_instances",
                    code="InvalidInstanceID.NotFound", todo="`fleetctl setup apply` makes another one")  # fmt: skip


def _tags(row: Mapping[str, Any]) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in row.get("Tags", ())}
