"""Ending what a session made, and proving it. It works from the ledger and the tags alone, so it ends an abandoned session too.

Spot requests are cancelled, then listed, then their instances terminated: the other order lets a request be filled behind our back.
The proof of an instance's end is the state `terminated`, seen in a listing; of a spot request's, that a listing shows it `cancelled`,
`closed` or `failed`; of a topic, queue, subscription or parameter, that AWS accepted the deletion and then says it does not exist.
A launch call whose answer was lost is looked for by its tag. What it made may take minutes to be visible (EC2 API reference, "Eventual
consistency"), so that nothing is seen proves something only VISIBLE_SECONDS after the call.

The work goes in rounds, each of which does what is still to do; what AWS throttles or does not answer is done in a later one. EC2 calls
for a whole session: one cancel, one listing, one terminate, and three looks at the instances in the first 65 s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import ec2
from .cost import usage
from .errors import AwsError, NotFound
from .ledger import SEEN_GONE, Entry
from .receipt import Line, Receipt

log = logging.getLogger(__name__)

LOOKS = (0.7, 4.3, 60.0, 30.0)  # seconds between looks for the terminated state; the last repeats. EC2 takes about a minute
TROUBLES = 5  # rounds in a row that AWS may spoil before a teardown says what it could not do
PROOF_SECONDS = 300.0
VISIBLE_SECONDS = 300.0
DELETED_SECONDS = 75.0  # a deleted queue may answer for up to 60 s (SQS API reference, DeleteQueue)


@dataclass
class Estate:
    """What a ledger says a session has made."""

    session: str
    region: str
    requests: dict[str, float] = field(default_factory=dict)  # spot request -> when it was asked for
    unsure: dict[str, float] = field(default_factory=dict)  # launch whose call has no known outcome -> when it was made
    things: list[tuple[str, str]] = field(default_factory=list)  # (kind, id) of topic, subscription, queue, parameter
    unsure_things: list[Entry] = field(default_factory=list)  # calls that may have made one of those
    gone: set[str] = field(default_factory=set)  # what an earlier teardown has proved to be gone

    @classmethod
    def read(cls, session: str, region: str, entries: Iterable[Entry], launches: set[str] | None = None) -> Estate:
        """From a ledger's entries; `launches` limits it to those launches, and leaves the channel alone."""
        estate = cls(session, region)
        for entry in entries:
            if entry.operation == SEEN_GONE:
                estate.gone.update(entry.request)
            elif entry.operation == "request_spot_instances" and (launches is None or entry.launch in launches):
                if entry.unknown:
                    estate.unsure[str(entry.launch)] = entry.at
                for one in (entry.result or {}).get("SpotInstanceRequests", []):
                    estate.requests[one["SpotInstanceRequestId"]] = entry.at
                    estate.unsure.pop(str(entry.launch), None)  # an earlier try of the same call, with the same token
            elif launches is None:
                estate._thing(entry)
        for gone in estate.gone:
            estate.requests.pop(gone, None)
            estate.unsure.pop(gone, None)
        estate.things = [thing for thing in estate.things if thing[1] not in estate.gone]
        estate.unsure_things = [entry for entry in estate.unsure_things if _label(entry) not in estate.gone]
        return estate

    def _thing(self, entry: Entry) -> None:
        """Things of the channel, as far as an answer or an intent names them."""
        if entry.operation not in MAKERS:
            return
        kind, name = MAKERS[entry.operation]
        if made := (entry.result or {}).get(name) or (entry.request.get(name) if kind == "parameter" else None):
            self.things.append((kind, made))
            self.unsure_things = [one for one in self.unsure_things if (one.operation, one.request) != (entry.operation, entry.request)]
        elif entry.unknown:
            self.unsure_things.append(entry)


MAKERS = {  # what makes a thing of the channel -> its kind, and the name of its id in the answer
    "create_topic": ("topic", "TopicArn"),
    "create_queue": ("queue", "QueueUrl"),
    "subscribe": ("subscription", "SubscriptionArn"),
    "put_parameter": ("parameter", "Name"),
}
Listed = Callable[[Sequence[dict[str, Any]]], None]
Gone = Callable[[Sequence[str]], None]


async def end(
    call: ec2.Call,
    estate: Estate,
    *,
    rate: Callable[[dict[str, Any]], float],
    on_listed: Listed = lambda rows: None,
    on_gone: Gone = lambda ids: None,
    launches: set[str] | None = None,
) -> Receipt:
    """End everything of the estate and return the receipt. Never raises for what AWS refuses: that stands in `receipt.remaining`.

    `rate` gives USD an hour of a described instance; `on_listed` and `on_gone` hear of listings and of instances seen to be gone;
    `launches` limits what the tags find to those launches.
    """
    machines = _Machines(call, estate, rate, on_listed, on_gone, launches)
    named = [await _name(call, estate.region, entry) for entry in estate.unsure_things]  # while what they belong to is still there
    things = (*estate.things, *(one for one in named if not isinstance(one, Line)))
    _, lines = await asyncio.gather(machines.end(), asyncio.gather(*(_end_thing(call, estate.region, *thing) for thing in things)))
    return Receipt((*machines.lines(), *lines, *(one for one in named if isinstance(one, Line))))


class _Machines:
    """The spot requests and instances of an estate, on the way to their end."""

    def __init__(
        self,
        call: ec2.Call,
        estate: Estate,
        rate: Callable[[dict[str, Any]], float],
        on_listed: Listed,
        on_gone: Gone,
        launches: set[str] | None,
    ) -> None:
        self.call, self.estate, self.rate, self.on_listed, self.on_gone, self.only = call, estate, rate, on_listed, on_gone, launches
        self.requests = {key: Line("spot request", key, estate.region) for key in estate.requests}
        self.unsure = {launch: Line("launch call", launch, estate.region, "looked for", "not visible") for launch in estate.unsure}
        self.instances: dict[str, Line] = {}
        self.cancelled: set[str] = set()
        self.accepted: set[str] = set()  # instances whose termination AWS has taken on
        self.refused: set[str] = set()  # instances that it will not terminate, and requests that it will not cancel
        self.ended: dict[str, str] = {}  # instance -> the status of its request that says that it was terminated

    def lines(self) -> list[Line]:
        """What was found and done, so far."""
        return [*self.requests.values(), *self.instances.values(), *self.unsure.values()]

    async def end(self) -> None:
        """Rounds, until everything is seen to be gone, or cannot be, or the time for proof is over."""
        if not self.requests and not self.unsure:
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
        for table in (self.requests, self.instances, self.unsure):
            table.update({key: replace(line, proof=error.code) for key, line in table.items() if line.gone is None})

    def _waiting(self) -> bool:
        """Is there anything whose end may still be seen?"""
        requests = (key for key, line in self.requests.items() if line.gone is None and (line.proof or self._fresh(key)))
        instances = (one for one, line in self.instances.items() if line.gone is None)
        return any(one not in self.refused for one in (*requests, *instances))

    def _fresh(self, key: str) -> bool:
        """Was the spot request made so lately that AWS may not show it yet?"""
        return time.time() - self.estate.requests.get(key, 0.0) < VISIBLE_SECONDS

    async def _round(self, *, first: bool) -> None:
        """Do what is still to do: find, cancel, list, terminate, look."""
        if first and self.unsure:
            await self._list()
        new = [key for key in self.requests if key not in self.cancelled | self.refused]
        if new:
            refused = await ec2.cancel(self.call, new)
            for key, error in refused.items():
                if not (isinstance(error, NotFound) and self._fresh(key)):  # else the next round asks again
                    self.refused.add(key)
                    self.requests[key] = replace(self.requests[key], done="not cancelled", proof=error.code)
            self.cancelled.update(key for key in new if key not in refused)
        if new or any(line.gone is None for key, line in self.requests.items() if key not in self.refused):
            await self._list()
        known = list(self.instances)
        new = [one for one in known if one not in self.accepted | self.refused]
        if new:
            await self._terminate(new)
        if known and not (first and self.accepted):
            await self._look()

    async def _list(self) -> None:
        """By the session's tag. A launch whose answer was lost is known now, if anything came of it."""
        rows = await ec2.spot_requests(self.call, ec2.SESSION_TAG, self.estate.session)
        for row in rows:
            self.unsure.pop(_launch(row), None)
        mine = [row for row in rows if row["SpotInstanceRequestId"] not in self.estate.gone]
        if self.only is not None:
            mine = [row for row in mine if _launch(row) in self.only]
        now = time.time()
        for row in mine:
            [seen] = ec2.seen([row])
            done = "cancelled" if seen.key in self.cancelled else self.requests[seen.key].done if seen.key in self.requests else "found"
            over = row["State"] in ("cancelled", "closed", "failed") and (seen.instance is not None or seen.over)
            self.requests[seen.key] = Line("spot request", seen.key, self.estate.region, done, row["State"], now if over else None)
            if over:
                self.refused.discard(seen.key)
            if seen.instance:
                self.instances.setdefault(seen.instance, Line("instance", seen.instance, self.estate.region, request=seen.key))
                if seen.status.startswith(ec2.TERMINATED):
                    self.ended[seen.instance] = seen.status
        for launch, line in self.unsure.items():
            if now - self.estate.unsure[launch] >= VISIBLE_SECONDS:
                self.unsure[launch] = replace(line, proof=f"nothing to be seen {VISIBLE_SECONDS:.0f} s later", gone=now)
        self.on_listed(mine)

    async def _terminate(self, ids: Sequence[str]) -> None:
        refused = await ec2.terminate(self.call, ids)
        for one in ids:
            error = refused.get(one)
            self.instances[one] = replace(
                self.instances[one], done="terminated" if error is None else "not terminated", proof=error.code if error else ""
            )
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
            cost = usage(now - row["LaunchTime"].timestamp(), self.rate(row))
            proof = self.instances[one].proof if one in self.refused and state != "terminated" else state
            self.instances[one] = replace(self.instances[one], proof=proof, cost=cost, gone=now if state == "terminated" else None)
        for one in {*waiting} - {row["InstanceId"] for row in rows}:
            if one in self.ended:
                self.instances[one] = replace(self.instances[one], proof=self.ended[one], gone=now)
        self.on_gone([one for one in waiting if self.instances[one].gone is not None])


def next_look(number: int, elapsed: float, gone: int, of: int) -> float:
    """Seconds until look `number` (from 0) at `of` instances: LOOKS, or sooner where the share that is `gone` lets the rest be reckoned."""
    usual = LOOKS[min(number, len(LOOKS) - 1)]
    if not 0 < gone < of:
        return usual
    return min(usual, max(0.5, 1.2 * elapsed * (of - gone) / gone))


def _launch(row: dict[str, Any]) -> str:
    """The launch whose tag a spot request bears."""
    return next((str(tag["Value"]) for tag in row.get("Tags", []) if tag["Key"] == ec2.LAUNCH_TAG), "")


# --- the channel's things ---------------------------------------------------------------------------------------------------------

ENDINGS: dict[str, tuple[str, str, str, str]] = {  # kind: service, parameter, how to delete, how to look
    "topic": ("sns", "TopicArn", "delete_topic", "get_topic_attributes"),
    "subscription": ("sns", "SubscriptionArn", "unsubscribe", "get_subscription_attributes"),
    "queue": ("sqs", "QueueUrl", "delete_queue", "get_queue_attributes"),
    "parameter": ("ssm", "Name", "delete_parameter", "get_parameter"),
}


async def _end_thing(call: ec2.Call, region: str, kind: str, name: str) -> Line:
    """Delete one thing of the channel, and look until AWS says that it does not exist."""
    service, parameter, delete, look = ENDINGS[kind]
    line = Line(kind, name, region)
    clock = asyncio.get_running_loop().time
    try:
        try:
            await ec2.persist(call, service, delete, **{parameter: name})
        except NotFound:
            log.info("%s %s was gone already", kind, name)
        line = replace(line, done="deleted")
        until, pause = clock() + DELETED_SECONDS, 0.5
        while clock() < until:
            await ec2.persist(call, service, look, **{parameter: name})
            await asyncio.sleep(pause)
            pause = min(15.0, 2 * pause)
    except NotFound as error:
        return replace(line, proof=error.code.rpartition(".")[2], gone=time.time())
    except AwsError as error:
        return replace(line, proof=error.code)
    return replace(line, proof="still answers")


def _label(entry: Entry) -> str:
    """What stands for a thing whose id nobody knows."""
    return f"{entry.operation} {entry.seq}"


async def _name(call: ec2.Call, region: str, entry: Entry) -> tuple[str, str] | Line:
    """A thing that may have been made: its kind and id. The same call again names it, for SNS and SQS answer with what is there.

    Where that is refused: the line that says so. It cannot be there where what it belongs to is gone.
    """
    kind, name = MAKERS[entry.operation]
    try:
        answer = await ec2.persist(call, entry.service, entry.operation, **entry.request)
    except AwsError as error:
        return Line(kind, _label(entry), region, "asked for", error.code, time.time() if isinstance(error, NotFound) else None)
    return kind, answer[name]
