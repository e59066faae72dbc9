"""The reaper that AWS runs: one CloudFormation stack of `reaper_template`, made and removed as a whole.

A stack says by its status how far it is, so it needs no other mark: `*_IN_PROGRESS` is waited for, and what failed on its way up counts
as gone: it is deleted before another one is made. What CloudFormation could not do is told in the words of the first event that failed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from typing import Any

from ..errors import AwsError
from . import rights
from .place import PART_TAG, SETUP_TAG, Kind, Place, tags_of, until
from .planning import Seen, Wanted

__all__ = ["KINDS"]

WHOLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
GONE, STUCK = "DELETE_COMPLETE", "DELETE_FAILED"
MINUTES = 10  # in which the stack is made, or given up by CloudFormation; it takes one or two
UNCHANGED = "No updates are to be performed"


async def _described(place: Place, which: str) -> dict[str, Any] | None:
    """A stack by its name, or by its id, which shows it after its end too; None where there is none."""
    try:
        rows = (await place.call("cloudformation", "describe_stacks", StackName=which))["Stacks"]
    except AwsError as error:
        if error.code == "ValidationError" and "does not exist" in error.what:  # CloudFormation has no code of its own for it
            return None
        raise
    return dict(rows[0])


def _moving(status: str) -> bool:
    return status.endswith("_IN_PROGRESS")


def _ending(status: str) -> bool:
    """Whether it is gone, on its way out, or a wreck that can only be deleted."""
    return status not in WHOLE and (not _moving(status) or status.startswith(("DELETE_", "ROLLBACK_")))


async def _find(place: Place) -> list[Seen]:
    row = await _described(place, place.facts.stack)
    if row is None or row["StackStatus"] == GONE:
        return []
    tags, status = tags_of(row), row["StackStatus"]
    ours = tags.get(SETUP_TAG) == place.facts.setup
    settings: dict[str, Any] = {}
    if ours and not _ending(status):
        body = (await place.call("cloudformation", "get_template", StackName=row["StackId"]))["TemplateBody"]
        runs = {one["ParameterKey"]: one["ParameterValue"] for one in row.get("Parameters", ())}.get("Schedule", "")
        settings = {"runs": runs, "template": body if isinstance(body, str) else rights.encode(body)}
    part = tags.get(PART_TAG, "reaper")
    return [Seen("stack", part, row["StackId"], settings, ours=ours, done=status in WHOLE, ending=ours and _ending(status))]


async def _make(place: Place, wanted: Wanted) -> str:
    """Begins it. A wreck of that name goes first."""
    if (wreck := await _described(place, place.facts.stack)) is not None and wreck["StackStatus"] != GONE:
        await _delete(place, wreck["StackId"])
        await until(lambda: _is_gone(place, wreck["StackId"]), f"the end of a stack {place.facts.stack} that had failed")
    made = await place.do(
        "cloudformation", "create_stack", StackName=place.facts.stack, **_content(wanted), OnFailure="DELETE", TimeoutInMinutes=MINUTES,
        Tags=place.tags(wanted.part), ClientRequestToken=uuid.uuid4().hex
    )  # fmt: skip
    return str(made["StackId"])


async def _put(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """Wait for what is under way; then bring it to what is wanted."""
    await _until_whole(place, id)
    if not keys:
        return
    try:
        await place.do("cloudformation", "update_stack", StackName=id, **_content(wanted), Tags=place.tags(wanted.part))
    except AwsError as error:
        if UNCHANGED not in error.what:
            raise
    else:
        await _until_whole(place, id, rolled_back=False)


def _content(wanted: Wanted) -> dict[str, Any]:
    """What making and changing have in common. A role in a template has to be agreed to."""
    body = json.dumps(json.loads(wanted.settings["template"]), indent=1)  # as people may look at it in the console
    schedule = {"ParameterKey": "Schedule", "ParameterValue": wanted.settings["runs"]}
    return {"TemplateBody": body, "Parameters": [schedule], "Capabilities": ["CAPABILITY_IAM"]}


async def _until_whole(place: Place, id: str, *, rolled_back: bool = True) -> None:
    """Wait until nothing is under way. Raises AwsError, in AWS's words, unless the stack is whole then."""
    status = await _settled(place, id)
    if status not in WHOLE or (status == "UPDATE_ROLLBACK_COMPLETE" and not rolled_back):
        raise AwsError(f"the stack {place.facts.stack} came to {status}: {await _reason(place, id)}", service="cloudformation",
                       operation="describe_stacks", code=status)  # fmt: skip


async def _settled(place: Place, id: str) -> str:
    """The status once nothing is under way."""
    status = ""

    async def settled() -> bool:
        nonlocal status
        row = await _described(place, id)
        status = row["StackStatus"] if row else GONE
        return not _moving(status)

    await until(settled, f"the stack {place.facts.stack}", seconds=60 * (MINUTES + 5))
    return status


async def _reason(place: Place, id: str) -> str:
    """What failed first, as its event says it: all that follows is its consequence. Events come newest first."""
    try:
        events = (await place.call("cloudformation", "describe_stack_events", StackName=id))["StackEvents"]
    except AwsError as error:
        return f"why is not known ({error.code})"
    failed = [one for one in events if one.get("ResourceStatus", "").endswith("_FAILED")]
    return f"{failed[-1]['LogicalResourceId']}: {failed[-1].get('ResourceStatusReason', '')}" if failed else "no event says why"


async def _never(place: Place, part: str, id: str) -> None:
    """Its status is its mark."""


async def _remove(place: Place, thing: Seen) -> None:
    await _delete(place, thing.id)


async def _delete(place: Place, id: str) -> None:
    """Begins its end. A change that is under way comes to its own end first, as not each of them can be cut off."""
    if await _settled(place, id) != GONE:
        await place.call("cloudformation", "delete_stack", StackName=id)


async def _end(place: Place, id: str) -> str:
    row = await _described(place, id)
    status = row["StackStatus"] if row else "does not exist"
    if status == STUCK:
        raise AwsError(f"the stack {place.facts.stack} was not deleted: {await _reason(place, id)}", service="cloudformation",
                       operation="delete_stack", code=STUCK, todo="end what holds it, then destroy again")  # fmt: skip
    return "" if row and status != GONE else status


async def _is_gone(place: Place, id: str) -> bool:
    return bool(await _end(place, id))


KINDS = (Kind("stack", _find, _make, _remove, _put, _never, _end, given=frozenset({"runs", "template"})),)
