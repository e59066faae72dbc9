"""CreateFleet of type instant, DescribeFleets, DescribeFleetInstances and DeleteFleets as EC2 answers them.

moto's fleets always get what they want from their first pools, drop most of a template, and say nothing of errors.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult

from fleetctl.local import rules
from fleetctl.local.answers import Calls, errors, listed, now, page
from fleetctl.local.book import Refused
from fleetctl.local.existing import Existing
from fleetctl.local.fleets import Failure, Fleet, Pool, allocate, distinct, pools, targets
from fleetctl.local.hidden import missing
from fleetctl.local.launch_api import TAGGABLE, template_tags
from fleetctl.local.template_api import matches
from fleetctl.local.templates import with_tags

if TYPE_CHECKING:
    from fleetctl.local.ec2 import LocalEC2

DELETED_AT_ONCE = 25        # instant fleets in one DeleteFleets (model, DeleteFleets)
TERMINATED_AT_ONCE = 1000   # instances of one deleted fleet
FLEET_ID = re.compile(r"fleet-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Seller:
    """The region's market, as the allocation of a fleet asks it."""

    def __init__(self, backend: LocalEC2) -> None:
        self._backend = backend

    def offer(self, pool: Pool, lifecycle: str) -> Decimal:
        """The price; raises Refused for a pool that EC2 would not launch in."""
        rules.check(pool.spec, Existing(self._backend))
        rules.market(pool.spec, spot=lifecycle == "spot")
        if lifecycle == "spot":
            self._backend.supply.affords(pool.type, pool.zone, pool.max_price)
        return self._backend.supply.price(pool.type, pool.zone, lifecycle)

    def take(self, pool: Pool, lifecycle: str, wanted: int, least: int) -> int:
        """What there is, if it is enough; raises Refused above the account's quota."""
        self._backend.supply.quota(pool.type, lifecycle, wanted)
        return self._backend.supply.room(pool.type, pool.zone, lifecycle, wanted, least)


class FleetCalls(Calls):
    """The calls on fleets."""

    def create_fleet(self) -> ActionResult:
        """Launch what the pools have; what they have not is told in Errors."""
        given, backend = dict(self.params), self.region_backend
        with errors():
            fleet: Fleet | None = backend.tokens.made("CreateFleet", given)
            if fleet is None:
                fleet = self._made(given)
                backend.instant_fleets[fleet.id] = fleet
                backend.tokens.keep("CreateFleet", given, fleet)
                backend.made(fleet.id)
        return ActionResult({"FleetId": fleet.id, "Instances": _instances(fleet), "Errors": _errors(fleet)})

    def _made(self, given: Mapping[str, Any]) -> Fleet:
        backend = self.region_backend
        if given.get("Type") != "instant":
            raise Refused("UnsupportedOperation", "The local cloud has fleets of type instant only.")
        tags = rules.tags(given.get("TagSpecifications") or [], ["fleet", "instance", "volume", "network-interface"])
        found = distinct(list(pools(given.get("LaunchTemplateConfigs") or (), backend.templates, Existing(backend).zone_of)))
        wanted = targets(given)
        if not wanted:
            raise Refused("InvalidParameterValue", "TotalTargetCapacity must be 1 or more.")
        self.error_on_dryrun()
        fleet = Fleet(f"fleet-{uuid.uuid4()}", given, now())
        for target in wanted:
            shares, failures = allocate(found, target, Seller(backend))
            fleet.failures += failures
            for pool, count in shares:
                self._launch(fleet, target.lifecycle, pool, count, given)
        backend.tags[fleet.id].update(tags.get("fleet", {}))
        return fleet

    def _launch(self, fleet: Fleet, lifecycle: str, pool: Pool, count: int, given: Mapping[str, Any]) -> None:
        template = pool.shown["LaunchTemplateSpecification"]
        own = [tag for tag in given.get("TagSpecifications") or () if tag["ResourceType"] != "fleet"]
        try:
            tags = rules.tags(with_tags(pool.spec.get("TagSpecifications") or (), own), TAGGABLE)
            tags["instance"] = {**tags.get("instance", {}), "aws:ec2:fleet-id": fleet.id,
                                **template_tags(template["LaunchTemplateId"], int(template["Version"]))}
            made = self.region_backend.launch(pool.spec, count, tags=tags, spot=lifecycle == "spot", price=pool.max_price)
        except Refused as refused:   # of this pool only
            fleet.failures.append(Failure(pool, lifecycle, refused.code, refused.message))
        else:
            fleet.shares.append((lifecycle, pool, [instance.id for instance in made.instances]))

    def describe_fleets(self) -> ActionResult:
        """By ids: a fleet of type instant is not shown otherwise."""
        given, backend = dict(self.params), self.region_backend
        with errors():
            ids = given.get("FleetIds") or ()
            backend.hidden.check(ids, time.monotonic())
            for id in ids:
                if id not in backend.instant_fleets:
                    raise missing(id) if FLEET_ID.fullmatch(id) else Refused("InvalidFleetId.Malformed", f'Invalid id: "{id}"')
            filters = self._filters_from_querystring()
            chosen = [fleet for fleet in map(self._settled, ids)
                      if matches({"type": ["instant"], "fleet-state": [fleet.state], "activity-status": ["fulfilled"]},
                                 backend.tags.get(fleet.id, {}), filters)]
            shown, token = page(chosen, int(given.get("MaxResults") or 1000), given.get("NextToken"))
        return ActionResult({"Fleets": [self._fleet(fleet) for fleet in shown], "NextToken": token})

    def describe_fleet_instances(self) -> ActionResult:
        """Not for fleets of type instant, and there are no others here."""
        id = self._get_param("FleetId", "")
        with errors():
            if id not in self.region_backend.instant_fleets:
                raise missing(id) if FLEET_ID.fullmatch(id) else Refused("InvalidFleetId.Malformed", f'Invalid id: "{id}"')
            raise Refused("Unsupported", f"Fleet {id} is instant fleet. Describe fleet instances is not supported by this type of fleet")

    def delete_fleets(self) -> ActionResult:
        """Delete them with their instances; each succeeds or fails by itself."""
        given = dict(self.params)
        ids = list(dict.fromkeys(given.get("FleetIds") or ()))
        with errors():
            if len(ids) > DELETED_AT_ONCE:
                raise Refused("InvalidParameterValue", f"A request may delete up to {DELETED_AT_ONCE} fleets of type instant.")
            if given.get("TerminateInstances") is not True and any(id in self.region_backend.instant_fleets for id in ids):
                raise Refused("InvalidParameterValue", "A fleet of type instant can't be deleted without terminating its instances.")
            self.error_on_dryrun()
        ended: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for id in ids:
            error = self._delete(id)
            if error is None:
                ended.append({"FleetId": id, "CurrentFleetState": "deleted_terminating", "PreviousFleetState": "active"})
            else:
                failed.append({"FleetId": id, "Error": {"Code": error[0], "Message": error[1]}})
        return ActionResult({"SuccessfulFleetDeletions": ended, "UnsuccessfulFleetDeletions": failed})

    def _delete(self, id: str) -> tuple[str, str] | None:
        """None, or why not."""
        backend = self.region_backend
        if not FLEET_ID.fullmatch(id):
            return "fleetIdMalformed", f"The fleet ID '{id}' is malformed"
        fleet = backend.instant_fleets.get(id)
        if fleet is None or id in backend.hidden.now(time.monotonic()):
            return "fleetIdDoesNotExist", f"The fleet ID '{id}' does not exist"
        if fleet.state != "active":
            return "fleetNotInDeletableState", f"The fleet '{id}' is {fleet.state}"
        living = [instance for instance in map(backend.instances.get, fleet.instances) if instance.state != "terminated"]
        if len(living) > TERMINATED_AT_ONCE:
            return "unexpectedError", f"The fleet '{id}' has more than {TERMINATED_AT_ONCE} instances"
        fleet.state = "deleted_terminating"
        for instance in living:
            instance.terminate()
        return None

    def _settled(self, id: str) -> Fleet:
        """The fleet; a deleted one is `deleted` once its instances are terminated."""
        backend = self.region_backend
        fleet = backend.instant_fleets[id]
        if fleet.state == "deleted_terminating" and all(backend.instances.get(one).state == "terminated" for one in fleet.instances):
            fleet.state = "deleted"
        return fleet

    def _fleet(self, fleet: Fleet) -> dict[str, Any]:
        given = fleet.given
        shown = {key: given[key] for key in ("ClientToken", "TargetCapacitySpecification", "SpotOptions", "OnDemandOptions",
                                             "LaunchTemplateConfigs", "ExcessCapacityTerminationPolicy") if given.get(key)}
        return {**shown, "FleetId": fleet.id, "FleetState": fleet.state, "ActivityStatus": "fulfilled", "CreateTime": fleet.created,
                "Type": "instant", "FulfilledCapacity": fleet.units(), "FulfilledOnDemandCapacity": fleet.units("on-demand"),
                "Instances": _instances(fleet), "Errors": _errors(fleet), "Tags": listed(self.region_backend.tags.get(fleet.id, {}))}


def _instances(fleet: Fleet) -> list[dict[str, Any]]:
    return [{"LaunchTemplateAndOverrides": pool.shown, "Lifecycle": lifecycle, "InstanceIds": ids, "InstanceType": pool.type}
            for lifecycle, pool, ids in fleet.shares]


def _errors(fleet: Fleet) -> list[dict[str, Any]]:
    return [{"LaunchTemplateAndOverrides": failure.pool.shown, "Lifecycle": failure.lifecycle, "ErrorCode": failure.code,
             "ErrorMessage": failure.message} for failure in fleet.failures]
