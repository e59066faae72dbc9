"""What a session has made in one region, by its ledger: what a teardown must see gone. No I/O.

| call | what it leaves | where its answer was lost |
|---|---|---|
| RequestSpotInstances | spot requests; their instances are learnt from listings | looked for by tag |
| RunInstances | instances, with a spot request each | looked for by tag |
| CreateFleet | a fleet and its instances | its instances are looked for by tag, and bear the fleet's id |
| those of `kinds.KINDS` | one thing each | named by the request, or by the same call again |
| CreateTags of a hold | a NAT instance that runs for the session | it is let go of all the same |
| PutObject | an object in a bucket that the session did not make | the request names it |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..ledger import SEEN_GONE, Entry
from ..shapes import launched
from .kinds import MADE_BY, Thing
from .nat import HELD

__all__ = ["LAUNCH_CALLS", "Estate", "Unsure", "instance_types", "label", "regions", "wanted"]

SPOT, RUN, FLEET = "request_spot_instances", "run_instances", "create_fleet"


class Unsure(NamedTuple):
    """A launch call without a known outcome: when it was made, for how many machines, and which call it was."""

    at: float
    wanted: int
    operation: str


@dataclass
class Estate:
    """What a ledger says a session has made in a region. Times are those of the intents, seconds since the epoch."""

    session: str
    region: str
    requests: dict[str, float] = field(default_factory=dict)  # spot request -> when it was asked for
    instances: dict[str, float] = field(default_factory=dict)  # those that an answer named
    fleets: dict[str, float] = field(default_factory=dict)
    fleet_of: dict[str, str] = field(default_factory=dict)  # by instance
    unsure: dict[str, Unsure] = field(default_factory=dict)  # by launch
    things: list[Thing] = field(default_factory=list)
    unsure_things: list[Entry] = field(default_factory=list)  # calls that may have made something nobody knows the id of
    held: set[str] = field(default_factory=set)  # NAT instances that run for the session
    objects: set[tuple[str, str]] = field(default_factory=set)  # (bucket, key)
    doubt: float | None = None  # when the last call was made that made one of those, if at all
    ended: set[Thing] = field(default_factory=set)  # AWS has accepted their deletion; it is not proved
    gone: set[str] = field(default_factory=set)  # what an earlier teardown has proved to be gone
    launched: bool = False  # a launch call was made: EC2 may hold things that no answer named
    keeps: bool = False  # spot requests whose machines leave volumes behind, which the call could not tag

    def __repr__(self) -> str:
        counts: dict[str, Collection[object]] = {
            "spot requests": self.requests,
            "instances": self.instances,
            "fleets": self.fleets,
            "unsure launches": self.unsure,
            "things": [*self.things, *self.unsure_things, *self.objects, *self.held],
        }
        return f"<estate of {self.session} in {self.region}: {', '.join(f'{len(v)} {k}' for k, v in counts.items() if v) or 'nothing'}>"

    @classmethod
    def read(cls, session: str, region: str, entries: Iterable[Entry], launches: Collection[str] | None = None) -> Estate:
        """From a ledger's entries of that region; `launches` limits it to what those launches made, and leaves the channel alone."""
        estate = cls(session, region)
        for entry in entries:
            if entry.operation == SEEN_GONE:
                estate.gone.update(entry.request)
                estate.held -= {*entry.request}
            elif entry.region == region and (launches is None or entry.launch in launches):
                estate._read(entry)
        estate._settle()
        return estate

    def _read(self, entry: Entry) -> None:
        if entry.operation in LAUNCH_CALLS:
            self._launch(entry)
        elif entry.operation in MADE_BY:
            self._thing(entry)
        elif entry.operation == "create_tags" and (entry.result is not None or entry.unknown):
            if any(tag["Key"].startswith(HELD) for tag in entry.request["Tags"]):
                self.held |= {*entry.request["Resources"]}
        elif entry.operation == "put_object" and (entry.result is not None or entry.unknown):
            self.objects.add((entry.request["Bucket"], entry.request["Key"]))
        elif entry.result is not None and (ending := ENDED_BY.get(entry.operation)) is not None:
            kind, key = ending
            self.ended.add(Thing(kind, str(entry.request.get(key, ""))))

    def _launch(self, entry: Entry) -> None:
        self.launched = True
        launch = str(entry.launch)
        if entry.result is None:
            if entry.unknown:
                self.unsure[launch] = Unsure(entry.at, wanted(entry.operation, entry.request), entry.operation)
                self.keeps |= entry.operation == SPOT and keeps_volumes(entry.request)
            return
        self.unsure.pop(launch, None)  # an earlier try of the same call, with the same token
        self.keeps |= entry.operation == SPOT and keeps_volumes(entry.request)
        for one in launched(entry.result):
            if entry.operation == SPOT and one.request:
                self.requests[one.request] = entry.at
            if one.instance:
                self.instances[one.instance] = entry.at
        if fleet := entry.result.get("FleetId"):
            self.fleets[fleet] = entry.at
            self.fleet_of |= {one.instance: fleet for one in launched(entry.result) if one.instance}

    def _thing(self, entry: Entry) -> None:
        """Things as far as an answer or an intent names them."""
        kind = MADE_BY[entry.operation]
        if entry.result is None:
            if not entry.unknown:
                return
            self.doubt = max(self.doubt or 0.0, entry.at)
        if made := kind.made(entry.request, entry.result or {}):
            self.things.append(Thing(kind.name, made))
            self.ended.discard(self.things[-1])
            self.unsure_things = [one for one in self.unsure_things if (one.operation, one.request) != (entry.operation, entry.request)]
        elif entry.unknown:
            self.unsure_things.append(entry)

    def _settle(self) -> None:
        """Without what is proved gone, nothing twice, and objects only where their bucket does not go as a whole."""
        for table in (self.requests, self.instances, self.fleets, self.unsure):
            for one in self.gone & table.keys():
                del table[one]
        buckets = {thing.id for thing in self.things if thing.kind == "bucket"}
        self.things = [thing for thing in dict.fromkeys(self.things) if thing.id not in self.gone]
        self.unsure_things = [entry for entry in self.unsure_things if label(entry) not in self.gone]
        self.objects = {(bucket, key) for bucket, key in self.objects if bucket not in buckets and f"{bucket}/{key}" not in self.gone}


LAUNCH_CALLS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    SPOT: lambda request: int(request.get("InstanceCount", 1)),
    RUN: lambda request: int(request.get("MaxCount", 1)),
    FLEET: lambda request: int(request.get("TargetCapacitySpecification", {}).get("TotalTargetCapacity", 1)),
}
"""The calls that launch machines, and how many each asks for."""

ENDED_BY = {kind.delete: (kind.name, kind.key) for kind in MADE_BY.values()}


def wanted(operation: str, request: Mapping[str, Any]) -> int:
    """How many machines a launch call asks for."""
    return LAUNCH_CALLS[operation](request)


def regions(entries: Iterable[Entry], home: str) -> tuple[str, ...]:
    """The regions in which a ledger's calls were made, `home` first."""
    return tuple(dict.fromkeys([home, *(entry.region for entry in entries if entry.region)]))


def instance_types(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The instance types that a ledger's launches named or were given."""
    answered = {one.type for entry in entries if entry.operation in LAUNCH_CALLS and entry.result for one in launched(entry.result)}
    asked = {str(entry.request.get("LaunchSpecification", {}).get("InstanceType", "")) for entry in entries if entry.operation == SPOT}
    return tuple(sorted((answered | asked) - {""}))


def keeps_volumes(request: Mapping[str, Any]) -> bool:
    """Whether a spot request says that a volume shall outlive its machine, or does not say that it shall not.

    RequestSpotInstances tags no volume, so such a one has to be tagged while its machine still shows it.
    """
    mappings = request.get("LaunchSpecification", {}).get("BlockDeviceMappings", ())
    return any("Ebs" in one and one["Ebs"].get("DeleteOnTermination") is not True for one in mappings)


def label(entry: Entry) -> str:
    """What stands for a thing whose id nobody knows."""
    return f"{entry.operation} {entry.seq}"
