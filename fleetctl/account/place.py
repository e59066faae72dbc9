"""One set-up in one region of one account: the way to it, its tags, and what its kinds have in common.

A kind knows how its things are found, made, put right and removed. Finding looks only, so that a plan asks nothing else of AWS. `put`
brings settings of a thing from whatever they are to what is wanted, and bears repetition: who was killed in the middle does it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cloud import ec2
from ..errors import AwsError, Network, NotFound
from .options import Facts
from .planning import Seen, Wanted

__all__ = ["DONE_TAG", "PART_TAG", "SETUP_TAG", "Kind", "Place", "tags_of"]

log = logging.getLogger(__name__)

SETUP_TAG = ec2.SETUP_TAG
PART_TAG, DONE_TAG = "fleetctl:part", "fleetctl:done"
SOON = (0.5, 1, 2, 4, 8)  # seconds between tries of a call that names what was made a moment ago: EC2 and IAM may not know it yet
WAIT_SECONDS = 600.0  # NAT gateways and endpoints take minutes to come and to go
PAGE = 1000


@dataclass
class Place:
    """`call` is the journalled way to AWS; `ids` are those of the things that are there, by kind and part."""

    call: ec2.Call
    facts: Facts
    ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<set-up {self.facts.setup} in {self.facts.region}: {len(self.ids)} things>"

    def id(self, kind: str, part: str) -> str:
        """The id of a thing that is there. Raises KeyError where the order of kinds is wrong."""
        return self.ids[kind, part]

    def part(self, kind: str, id: str) -> str:
        """The part that an id belongs to; an id that is not this set-up's stands for itself."""
        return next((part for (one, part), known in self.ids.items() if (one, known) == (kind, id)), id)

    def tags(self, part: str, *, done: bool = False) -> list[dict[str, str]]:
        """The tags that a thing is made with. `done` for those that one call makes whole."""
        tags = {SETUP_TAG: self.facts.setup, PART_TAG: part, "Name": f"fleetctl-{self.facts.setup} {part}"}
        return [{"Key": key, "Value": value} for key, value in {**tags, **({DONE_TAG: "yes"} if done else {})}.items()]

    def specification(self, resource: str, part: str, *, done: bool = False) -> list[dict[str, Any]]:
        """The same as EC2's calls take them."""
        return [{"ResourceType": resource, "Tags": self.tags(part, done=done)}]

    async def ours(self, operation: str, rows: str, *, most: int = PAGE) -> list[dict[str, Any]]:
        """Everything of one kind in EC2 that bears the set-up's tag. `most` in a page; 0 where the call knows no pages."""
        mine = [{"Name": f"tag:{SETUP_TAG}", "Values": [self.facts.setup]}]
        return await ec2.pages(self.call, operation, rows, paged=most > 0, most=most, Filters=mine)

    async def do(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """A call about things that may have been made a moment ago; asked again for a while where AWS does not know them yet.

        Only calls that bear repetition go on after silence: what makes something without a token is looked for by the next run.
        """
        for pause in SOON:
            try:
                return await self.call(service, operation, **parameters)
            except NotFound as error:
                log.info("%s; again in %s s", error.what, pause)
            except Network as error:
                if operation.startswith(("create_", "allocate_", "run_")):
                    raise
                log.info("%s; again in %s s", error.what, pause)
            await asyncio.sleep(pause)
        return await self.call(service, operation, **parameters)


@dataclass(frozen=True)
class Kind:
    """How things of one kind are found, made, put right, marked as done, and removed.

    `make` returns the id; `put` is given the keys of the settings that are to be brought to what is wanted. `fixed` are those that
    cannot be, `given` those that `make` brings along too. `whole`: `make` does all of it in one call, the mark too. `needs` are the kinds
    that must be there before.
    `look`: service, operation and parameter of the call by which one thing is looked at, to see its end; or what does that.
    `optional`: who may not look at these goes on as if there were none; many an administrator may not look at the account's bills.
    """

    name: str
    find: Callable[[Place], Awaitable[list[Seen]]]
    make: Callable[[Place, Wanted], Awaitable[str]]
    remove: Callable[[Place, Seen], Awaitable[None]]
    put: Callable[[Place, Wanted, str, Collection[str]], Awaitable[None]]
    mark: Callable[[Place, str, str], Awaitable[None]]
    look: tuple[str, str, str] | Callable[[Place, str], Awaitable[str]]
    needs: tuple[str, ...] = ()
    fixed: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()
    whole: bool = False
    optional: bool = False

    def __repr__(self) -> str:
        return f"<kind {self.name}>"


def in_ec2(name: str, find: Any, make: Any, put: Any, remove: Any, look: str | Callable[[Place, str], Awaitable[str]], key: str = "",
           **more: Any) -> Kind:  # fmt: skip
    """A kind of EC2's, where tags are put on everything by one call; it is looked at by an operation with its id as `key`, or by `look`."""
    return Kind(name, find, make, remove, put, mark_ec2, ("ec2", look, key) if isinstance(look, str) else look, **more)


def tags_of(row: Mapping[str, Any], key: str = "Tags") -> dict[str, str]:
    """Tags as a dictionary."""
    return {one["Key"]: one["Value"] for one in row.get(key, ())}


def seen(kind: str, id: str, tags: Mapping[str, str], settings: Mapping[str, Any], *, ending: bool = False, note: str = "") -> Seen:
    """What bears the set-up's tag, as seen."""
    return Seen(kind, tags.get(PART_TAG, "?"), id, settings, done=DONE_TAG in tags, ending=ending, note=note)


async def mark_ec2(place: Place, part: str, id: str) -> None:
    """Put the mark of the finished on something of EC2's."""
    await place.do("ec2", "create_tags", Resources=[id], Tags=[{"Key": DONE_TAG, "Value": "yes"}])


async def nothing_to_put(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """For what has no settings that can change."""


async def end_of(place: Place, kind: Kind, id: str) -> str:
    """What AWS says that proves a thing's end, '' while there is none."""
    if callable(kind.look):
        return await kind.look(place, id)
    service, operation, key = kind.look
    try:
        named: dict[str, Any] = {key: [id] if key.endswith("s") else id}
        answer = await place.call(service, operation, **named)
    except NotFound as error:
        return error.code
    states = {str(row.get("State", "")).lower() for rows in answer.values() if isinstance(rows, list) for row in rows}
    return "deleted" if states == {"deleted"} else ""


async def until(look: Callable[[], Awaitable[bool]], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Look until it holds. Raises AwsError for what takes longer than AWS says that it may."""
    clock, pause = asyncio.get_running_loop().time, 0.2
    end = clock() + seconds
    while not await look():
        if clock() > end:
            raise AwsError(f"{what} took longer than {seconds:.0f} s", service="ec2", operation="describe", code="TimedOut",
                           todo="run the same command again: it goes on from there")  # fmt: skip
        await asyncio.sleep(pause)
        pause = min(10.0, 2 * pause)


def ids(place: Place, kind: str, parts: Iterable[str]) -> list[str]:
    """The ids of parts of one kind."""
    return [place.id(kind, part) for part in parts]


def parts(place: Place, kind: str, known: Sequence[str]) -> tuple[str, ...]:
    """The parts of ids, sorted."""
    return tuple(sorted(place.part(kind, id) for id in known))
