"""Ending what a session made, and proving it. It works from the ledger and the tags alone, so it ends an abandoned session too.

Spot requests are cancelled, then listed, then their instances terminated: the other order lets a request be filled behind our back. The
requests of RunInstances and of fleets are made filled, so there the instances come first (a fleet's by its deletion), and what the last
look by tag shows of the requests has ended with them.

The proof of an instance's end is the state `terminated`, seen in a listing; of a spot request's, that a listing shows it `cancelled`,
`closed` or `failed`; of a fleet's, its state `deleted…`; of other things, see `things`. A launch call whose answer was lost is looked for
by its tag. What it made may take minutes to be visible (EC2 API reference, "Eventual consistency"), so that nothing is seen proves
something only VISIBLE_SECONDS after the call. AWS forgets what has ended after an hour: see `forgotten`.

The work goes in rounds, each of which does what is still to do; what AWS throttles or does not answer is done in a later one. Last comes
one look at everything in EC2 that bears the session's tag. EC2 calls for a whole session of any size: six, and one for each 30 s that
the machines take to go.

    RequestSpotInstances   cancel, list, terminate, look                                         , tags (, volumes)
    RunInstances                         terminate, look                         , list requests , tags (, volumes)
    CreateFleet                          delete fleet, look, template (2)        , list requests , tags (, volumes)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..cloud import ec2
from ..errors import AwsError, NotFound
from . import nat
from .estate import SPOT, Estate
from .kinds import Thing, kind_of_id
from .receipt import Line, Receipt
from .things import end_thing, end_things, end_volumes

log = logging.getLogger(__name__)

LOOKS = (0.7, 4.3, 60.0, 30.0)  # seconds between looks for the terminated state; the last repeats. EC2 takes about a minute
TROUBLES = 5  # rounds in a row that AWS may spoil before a teardown says what it could not do
PROOF_SECONDS = 300.0
VISIBLE_SECONDS = 300.0
FORGOTTEN_SECONDS = 7200.0  # "Terminated instances remain visible … (for approximately one hour)" (API reference, TerminateInstances)
SWEEPS = 3  # looks at what bears the tag; each but the last may have found machines that no ledger named
FLEET_MOST = 1000  # DeleteFleets may fail for more machines: "first terminate most of the instances" (EC2 API reference)
PROTECTED = "OperationNotPermitted"

Listed = Callable[[Sequence[dict[str, Any]]], None]
Gone = Callable[[Sequence[str]], None]
CostOf = Callable[[dict[str, Any]], float]


async def end(
    call: ec2.Call,
    estate: Estate,
    *,
    cost: CostOf,
    on_listed: Listed = lambda rows: None,
    on_gone: Gone = lambda ids: None,
    launches: Collection[str] | None = None,
) -> Receipt:
    """End everything of the estate and return the receipt. Never raises for what AWS refuses: that stands in `receipt.remaining`.

    `cost` gives USD that a described instance has cost so far; `on_listed` and `on_gone` hear of listings and of instances seen to be gone;
    `launches` limits what the tags find to those launches.
    """
    machines = Machines(call, estate, cost, on_listed, on_gone, launches)
    freeing = asyncio.gather(*(nat.release(call, one, estate.session, estate.region) for one in sorted(estate.held)))
    things, freed, _ = await asyncio.gather(end_things(call, estate), freeing, machines.end())
    things += freed
    if not estate.launched:
        return Receipt((*machines.lines(), *things))
    known = {line.id for line in things} | estate.gone
    swept: list[Line] = []
    for number in range(SWEEPS):
        try:
            found = await _tagged(call, estate, launches)
        except AwsError as error:
            swept.append(Line("tags", estate.session, estate.region, "looked for", error.code, todo="allow ec2:DescribeTags"))
            break
        rest = [id for id in found if id not in known]
        open_ = await machines.settle_requests([id for id in rest if kind_of_id(id) == "spot request"])
        if not (machines.take(rest) or open_) or number == SWEEPS - 1:
            swept += await _end_found(call, estate, rest, machines)
            break
        await machines.end()
    return Receipt((*machines.lines(), *things, *swept))


async def _tagged(call: ec2.Call, estate: Estate, launches: Collection[str] | None) -> list[str]:
    """Ids of everything in EC2 that bears the session's tag, or those of the launches."""
    if launches is not None and not launches:
        return []
    key, values = (ec2.SESSION_TAG, [estate.session]) if launches is None else (ec2.LAUNCH_TAG, sorted(launches))
    return list(dict.fromkeys(id for id, _, _ in await ec2.tagged(call, key, values=values)))


async def _templates(call: ec2.Call, estate: Estate) -> list[str]:
    """Names of the session's launch templates that there are: a template's tag may outlive it."""
    return [row["LaunchTemplateName"] for row in await ec2.templates(call, ec2.SESSION_TAG, [estate.session])]


async def _end_found(call: ec2.Call, estate: Estate, ids: Iterable[str], machines: Machines) -> list[Line]:
    """End what is tagged as ours and no machine: volumes that were left behind, addresses, templates and the like."""
    kinds = {id: kind_of_id(id) for id in ids}
    left = {id for id, kind in kinds.items() if kind == "volume"} | machines.kept
    others = [Thing(kind, id) for id, kind in kinds.items() if kind in ("address", "NAT gateway")]
    if any(kind == "launch template" for kind in kinds.values()):
        others += [Thing("launch template", one) for one in await _templates(call, estate)]
    lines = await asyncio.gather(*(end_thing(call, estate.region, thing) for thing in others))
    over = {id for id, line in machines.instances.items() if line.gone is not None} | estate.gone
    living = machines.instances.keys() - over
    volumes = await end_volumes(call, estate.region, left - estate.gone, over=over, living=living) if left - estate.gone else []
    return [*lines, *(line for line in volumes if line.done != "found gone")]


class Machines:
    """The spot requests, fleets and instances of an estate, on the way to their end."""

    def __init__(
        self, call: ec2.Call, estate: Estate, cost: CostOf, on_listed: Listed, on_gone: Gone, only: Collection[str] | None
    ) -> None:
        self.call, self.estate, self.cost, self.on_listed, self.on_gone, self.only = call, estate, cost, on_listed, on_gone, only
        self.requests = {key: Line("spot request", key, estate.region) for key in estate.requests}
        self.fleets = {key: Line("fleet", key, estate.region) for key in estate.fleets}
        self.instances = {key: Line("instance", key, estate.region) for key in estate.instances}
        self.unsure = {launch: Line("launch call", launch, estate.region, "looked for", "not visible") for launch in estate.unsure}
        self.kept: set[str] = set()  # volumes that outlive their machine
        self.cancelled: set[str] = set()
        self.accepted: set[str] = set()  # instances whose termination AWS has taken on
        self.refused: set[str] = set()  # instances that it will not terminate, requests and fleets that it will not end
        self.ended: dict[str, str] = {}  # instance -> the status of its request that says that it was terminated
        self.fleet_of = dict(estate.fleet_of)
        self.with_fleet: set[str] = set()  # instances that the deletion of their fleet ends

    def __repr__(self) -> str:
        return f"<machines of {self.estate!r}: {sum(line.gone is None for line in self.lines())} things not gone>"

    def lines(self) -> list[Line]:
        """What was found and done, so far."""
        return [*self.requests.values(), *self.fleets.values(), *self.instances.values(), *self.unsure.values()]

    def take(self, ids: Iterable[str]) -> bool:
        """Machines and fleets that a tag has shown; True where there is a new one among them."""
        tables = {"instance": self.instances, "fleet": self.fleets, "spot request": self.requests}
        before = sum(len(table) for table in tables.values())
        for id in ids:
            if (table := tables.get(kind := kind_of_id(id))) is not None:
                table.setdefault(id, Line(kind, id, self.estate.region))
        return sum(len(table) for table in tables.values()) > before

    async def end(self) -> None:
        """Rounds, until everything is seen to be gone, or cannot be, or the time for proof is over."""
        if not any(line.gone is None for line in self.lines()):
            return
        clock = asyncio.get_running_loop().time
        began, looks, troubles = clock(), 0, 0
        while True:
            try:
                await self._round(first=looks == 0)
                troubles = 0
            except AwsError as error:
                log.warning("the teardown of session %s met: %s", self.estate.session, error.what)
                troubles += 1
                if troubles >= TROUBLES or not isinstance(error, ec2.TRANSIENT):
                    self._spoilt(error)
                    return
                await asyncio.sleep(ec2.PAUSES[troubles - 1])
                continue
            if not self._waiting() or clock() - began >= PROOF_SECONDS:
                return
            gone = sum(line.gone is not None for line in self.instances.values())
            await asyncio.sleep(next_look(looks, clock() - began, gone, len(self.instances)))
            looks += 1

    def _spoilt(self, error: AwsError) -> None:
        """AWS will not do what all depends on: the receipt says so at each thing whose end was not seen."""
        for table in (self.requests, self.fleets, self.instances, self.unsure):
            table.update({key: replace(line, proof=error.code, todo=error.todo) for key, line in table.items() if line.gone is None})

    def _waiting(self) -> bool:
        """Is there anything whose end may still be seen?"""
        requests = (key for key, line in self.requests.items() if line.gone is None and (line.proof or self._fresh(key)))
        others = (one for table in (self.instances, self.fleets) for one, line in table.items() if line.gone is None)
        return any(one not in self.refused for one in (*requests, *others))

    def _made(self, key: str) -> float:
        """When the thing was asked for; of what a tag or a listing has shown, the time is not known, and taken to be now."""
        request = self.instances[key].request if key in self.instances else ""
        return self.estate.requests.get(key) or self.estate.instances.get(key) or self.estate.requests.get(request) or time.time()

    def _fresh(self, key: str) -> bool:
        """Was it made so lately that AWS may not show it yet?"""
        return time.time() - self._made(key) < VISIBLE_SECONDS

    async def _round(self, *, first: bool) -> None:
        """Do what is still to do: find, cancel, list, terminate, look."""
        if first and self.unsure:
            await self._find()
        new = [key for key, line in self.requests.items() if line.gone is None and key not in self.cancelled | self.refused]
        if new:
            await self._cancel(new)
        if new or any(line.gone is None for key, line in self.requests.items() if key not in self.refused):
            await self._list()
        await self._end_fleets()
        done = self.accepted | self.refused | self.with_fleet
        new = [one for one, line in self.instances.items() if line.gone is None and one not in done]
        if new:
            if self.estate.keeps:
                await self._keep(new)
            await self._terminate(new)
        if self.instances and not (first and (self.accepted or self.with_fleet)):
            await self._look()

    async def _find(self) -> None:
        """What a launch call without an answer has made, by the tags of what is visible."""
        spot = [launch for launch in self.unsure if self.estate.unsure[launch].operation == SPOT]
        if spot:
            await self._list()
        others = [launch for launch in self.unsure if launch not in spot]
        rows = await ec2.instances_with(self.call, f"tag:{ec2.LAUNCH_TAG}", others) if others else []
        for row in rows:
            self.instances.setdefault(row["InstanceId"], Line("instance", row["InstanceId"], self.estate.region))
            if fleet := _tag(row, "aws:ec2:fleet-id"):
                self.fleets.setdefault(fleet, Line("fleet", fleet, self.estate.region))
                self.fleet_of[row["InstanceId"]] = fleet
        for launch in others:
            self._resolve(launch, sum(_tag(row, ec2.LAUNCH_TAG) == launch for row in rows))

    def _resolve(self, launch: str, known: int) -> None:
        """A lost answer is made good once as many machines are visible as were asked for; else it is a matter of time."""
        asked = self.estate.unsure[launch]
        if known >= asked.wanted:
            self.unsure.pop(launch, None)
        elif (now := time.time()) - asked.at >= VISIBLE_SECONDS:
            seen = f"nothing{' more' if known else ''} to be seen {VISIBLE_SECONDS:.0f} s later"
            self.unsure[launch] = replace(self.unsure[launch], proof=seen, gone=now)
        elif known:
            self.unsure[launch] = replace(self.unsure[launch], proof=f"{known} of {asked.wanted} visible")

    async def _cancel(self, keys: Sequence[str]) -> None:
        refused = await ec2.cancel(self.call, keys)
        for key, error in refused.items():
            if not isinstance(error, NotFound):
                self.refused.add(key)
                self.requests[key] = replace(self.requests[key], done="not cancelled", proof=error.code, todo=error.todo)
            elif forgotten(self._made(key), time.time()):  # else the next round asks again
                await self._forget_request(key, error.code)
        self.cancelled.update(key for key in keys if key not in refused)

    async def _list(self) -> None:
        """By the session's tag. A launch whose answer was lost is known now, as far as anything of it is visible."""
        rows = await ec2.spot_requests(self.call, ec2.SESSION_TAG, self.estate.session)
        for launch in [one for one in self.unsure if self.estate.unsure[one].operation == SPOT]:
            self._resolve(launch, sum(_tag(row, ec2.LAUNCH_TAG) == launch for row in rows))
        mine = [row for row in rows if row["SpotInstanceRequestId"] not in self.estate.gone]
        if self.only is not None:
            mine = [row for row in mine if _tag(row, ec2.LAUNCH_TAG) in self.only]
        for row in mine:
            self._request(row)
        shown = {row["SpotInstanceRequestId"] for row in rows}
        for key in [key for key, line in self.requests.items() if line.gone is None and key not in shown | self.refused]:
            if forgotten(self._made(key), time.time()):
                await self._forget_request(key, "not shown")
        self.on_listed(mine)

    def _request(self, row: dict[str, Any]) -> None:
        """One row of a listing of spot requests."""
        [seen] = ec2.seen([row])
        known = self.requests.get(seen.key)
        done = "cancelled" if seen.key in self.cancelled else known.done if known else "found"
        over = row["State"] in ("cancelled", "closed", "failed") and (seen.instance is not None or seen.over)
        self.requests[seen.key] = Line("spot request", seen.key, self.estate.region, done, row["State"], time.time() if over else None)
        if over:
            self.refused.discard(seen.key)
        if seen.instance and seen.instance not in self.estate.gone:
            line = self.instances.setdefault(seen.instance, Line("instance", seen.instance, self.estate.region))
            self.instances[seen.instance] = replace(line, request=seen.key)
            if seen.status.startswith(ec2.TERMINATED):
                self.ended[seen.instance] = seen.status

    async def _forget_request(self, key: str, code: str) -> None:
        """A spot request that AWS shows no more, hours after it was made: over, if it has left no instance."""
        if rows := await ec2.requests_by_id(self.call, [key]):  # its tag was taken away
            self._request(rows[0])
            return
        for row in await ec2.instances_with(self.call, "spot-instance-request-id", [key]):
            self.instances.setdefault(row["InstanceId"], Line("instance", row["InstanceId"], self.estate.region, request=key))
        self.requests[key] = replace(self.requests[key], proof=f"{code}, long after it was made", gone=time.time())

    async def settle_requests(self, keys: Sequence[str]) -> bool:
        """Spot requests that a tag has shown, of calls that fill them at once: their listing shows how they ended, with their machines.

        True where one has not ended.
        """
        if {*keys} <= self.requests.keys():
            return False
        try:
            await self._list()
        except AwsError as error:
            new = (Line("spot request", key, self.estate.region, proof=error.code, todo=error.todo) for key in keys)
            self.requests |= {line.id: line for line in new if line.id not in self.requests}
            return False
        return any(self.requests[key].gone is None for key in keys if key in self.requests)

    async def _end_fleets(self) -> None:
        """Delete fleets, which ends their instances. Many instances are terminated first, as EC2's documentation asks for."""
        waiting = [key for key, line in self.fleets.items() if line.gone is None and key not in self.refused]
        alive = sum(line.gone is None for line in self.instances.values())
        if not waiting or (alive > FLEET_MOST and not self.accepted):
            return
        try:
            answers = await ec2.delete_fleets(self.call, waiting)
        except ec2.TRANSIENT:
            raise
        except AwsError as error:  # their instances can be terminated all the same
            answers = dict.fromkeys(waiting, ("", error.code))
        for key, (state, code) in answers.items():
            await self._fleet(key, state, code)

    async def _fleet(self, key: str, state: str, code: str) -> None:
        """What DeleteFleets has answered for one fleet."""
        if state:
            self.with_fleet.update(one for one, fleet in self.fleet_of.items() if fleet == key)
        else:
            try:
                state = (await ec2.fleet_states(self.call, [key])).get(key, "")
            except AwsError as error:
                log.warning("fleet %s cannot be looked at: %s", key, error.what)
        over = state.startswith("deleted") or state.endswith(".NotFound")
        now = time.time() if over else None
        self.fleets[key] = replace(self.fleets[key], done="deleted" if over else "not deleted", proof=state if over else code, gone=now)
        if not over:
            self.refused.add(key)

    async def _keep(self, ids: Sequence[str]) -> None:
        """Tag volumes that outlive their machines while these still show them: RequestSpotInstances cannot tag them itself."""
        rows = await ec2.instances(self.call, ids)
        new = {volume for row in rows for volume in outliving(row)} - self.kept
        if new:
            await ec2.tag(self.call, sorted(new), {ec2.SESSION_TAG: self.estate.session})
            self.kept |= new

    async def _terminate(self, ids: Sequence[str]) -> None:
        refused = await ec2.terminate(self.call, ids)
        for one in ids:
            error = refused.get(one)
            done, proof, todo = ("terminated", "", "") if error is None else ("not terminated", error.code, way_out(error, one))
            self.instances[one] = replace(self.instances[one], done=done, proof=proof, todo=todo)
            if error is None:
                self.accepted.add(one)
            elif not isinstance(error, NotFound) or one in self.ended:  # else it is not visible yet: the next round asks again
                self.refused.add(one)

    async def _look(self) -> None:
        """The states of the instances that are not seen to be gone. One that AWS has forgotten is proved by its request's status."""
        waiting = [one for one, line in self.instances.items() if line.gone is None]
        rows, now = await ec2.instances(self.call, waiting), time.time()
        for row in rows:
            one, state = row["InstanceId"], row["State"]["Name"]
            self.kept.update(outliving(row))
            if state in ("pending", "running"):  # its fleet's deletion has not reached it
                self.with_fleet.discard(one)
            proof = self.instances[one].proof if one in self.refused and state != "terminated" else state
            gone = now if state == "terminated" else None
            self.instances[one] = replace(self.instances[one], proof=proof, cost=self.cost(row), gone=gone)
        for one in {*waiting} - {row["InstanceId"] for row in rows}:
            if one in self.ended:
                self.instances[one] = replace(self.instances[one], proof=self.ended[one], gone=now)
            elif forgotten(self._made(one), now):
                self.instances[one] = replace(self.instances[one], proof="not shown, long after it was made", gone=now)
        self.on_gone([one for one in waiting if self.instances[one].gone is not None])


def forgotten(made: float, now: float) -> bool:
    """Whether something that a listing by its id does not show must have ended, for it was made so long ago.

    EC2 shows every instance that has not ended, and those that have for about an hour more (API reference, TerminateInstances). So what
    is not shown is either not visible yet, which is a matter of minutes, or over. This is no observed end, but what an observation allows.
    """
    return now - made > FORGOTTEN_SECONDS


def outliving(row: dict[str, Any]) -> set[str]:
    """The volumes of a described instance that its end does not delete."""
    mappings = (one.get("Ebs", {}) for one in row.get("BlockDeviceMappings", ()))
    return {one["VolumeId"] for one in mappings if one.get("VolumeId") and not one.get("DeleteOnTermination", False)}


def way_out(error: AwsError, instance: str) -> str:
    """What ends an instance that AWS refused to terminate."""
    if error.code == PROTECTED:
        return f"{instance} is protected: aws ec2 modify-instance-attribute --instance-id {instance} --no-disable-api-termination"
    return error.todo


def next_look(number: int, elapsed: float, gone: int, of: int) -> float:
    """Seconds until look `number` (from 0) at `of` instances: LOOKS, or sooner where the share that is `gone` lets the rest be reckoned.

    Twice as long is given to the rest as those that are gone have taken. Two looks in the first 30 s, then one in each, and no more.
    """
    usual = LOOKS[min(number, len(LOOKS) - 1)]
    if not 0 < gone < of:
        return usual
    return min(usual, max(1.0, 30.0 * (number - 1) - elapsed, 2 * elapsed * (of - gone) / gone))


def _tag(row: dict[str, Any], key: str) -> str:
    """The value of a row's tag, '' without it."""
    return next((str(tag["Value"]) for tag in row.get("Tags", []) if tag["Key"] == key), "")
