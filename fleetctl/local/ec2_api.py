"""EC2's calls as the local cloud answers them, over moto's.

Ours entirely: RequestSpotInstances, DescribeSpotInstanceRequests, CancelSpotInstanceRequests (moto keeps hardly any of their
parameters, and forgets what is cancelled) and DescribeSpotPriceHistory (moto's has one price, of 2006).
Ours in modules of their own: instances (`launch_api`), launch templates (`template_api`), fleets (`fleet_api`), images (`image_api`).
Ours because there is something to say: GetConsoleOutput. CreateTags refuses what is not seen yet, and DescribeTags does not
show it.
Everything else is moto's, after the states of instances were brought up to date.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.core.serialize import return_if_not_empty
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

from fleetctl.local import rules
from fleetctl.local.answers import SERVER_ERRORS, errors, fingerprint, listed, now, utc
from fleetctl.local.book import Refused
from fleetctl.local.existing import Existing
from fleetctl.local.fleet_api import FleetCalls
from fleetctl.local.image_api import ImageCalls
from fleetctl.local.launch_api import LaunchCalls
from fleetctl.local.rules import DEFAULT_TYPE
from fleetctl.local.spot import Order, SpotRequest, State
from fleetctl.local.supply import PRICES
from fleetctl.local.template_api import TemplateCalls

KINDS = {"spot-instance-request": "spot-instances-request", "nat-gateway": "natgateway", "vpc-elastic-ip": "elastic-ip"}


class LocalEC2API(LaunchCalls, FleetCalls, TemplateCalls, ImageCalls, EC2Response):
    """One EC2 call. Runs with the cloud's lock held, so a backend is never seen half-changed."""

    RESPONSE_KEY_PATH_TO_TRANSFORMER = EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER | {
        "InstanceNetworkInterface.Association": return_if_not_empty,
        "Instance.StateReason": lambda reason: reason if reason is not None and reason.code else None}

    def call_action(self) -> Any:
        """Bring the region up to date, then answer; Refused becomes AWS's error document."""
        with self.region_backend.wire.lock:
            self.region_backend.instances.settle()
            status, headers, body = super().call_action()
        if status == 400 and any(f"<Code>{code}</Code>" in str(body) for code in SERVER_ERRORS):
            status = 500   # what is EC2's own fault; moto knows no such thing
        return status, headers, body

    def request_spot_instances(self) -> ActionResult:
        """Checked like a launch; answered with open requests."""
        with errors():
            order = self._order()
            backend, known = self.region_backend, Existing(self.region_backend)
            rules.check(order.spec, known)
            tags = rules.tags(self._get_param("TagSpecifications", []), ["spot-instances-request"])
            self.error_on_dryrun()
            requests = backend.market.place(order, known.zone_of(order.spec))
        for request in requests:
            backend.tags[request.id].update(tags.get("spot-instances-request", {}))
            backend.made(request.id)
        return ActionResult({"SpotInstanceRequests": [self._shown(request) for request in requests]})

    def _order(self) -> Order:
        given = dict(self.params)
        spec = dict(given.get("LaunchSpecification") or {})
        spec.setdefault("InstanceType", DEFAULT_TYPE)
        if given.get("Type", "one-time") != "one-time":
            raise Refused("UnsupportedOperation", "The local cloud has one-time spot requests only.")
        if given.get("BlockDurationMinutes"):
            raise Refused("InvalidParameterCombination", "Spot Instances with a defined duration are no longer available.")
        return Order(
            spec=spec, count=rules.count(int(given.get("InstanceCount", 1))), price=rules.price(given.get("SpotPrice")),
            token=given.get("ClientToken", ""), valid_from=utc(given.get("ValidFrom")), valid_until=utc(given.get("ValidUntil")),
            launch_group=given.get("LaunchGroup", ""), zone_group=given.get("AvailabilityZoneGroup", ""), fingerprint=fingerprint(given))

    def describe_spot_instance_requests(self) -> ActionResult:
        """By ids, filters and pages."""
        limit, ids, backend = self._get_int_param("MaxResults"), self._get_param("SpotInstanceRequestIds", []), self.region_backend
        with errors():
            backend.hidden.check(ids, time.monotonic())
            requests, token = backend.book.find(
                ids, self._filters_from_querystring(), limit=limit,
                token=self._get_param("NextToken"))
        unseen = backend.hidden.now(time.monotonic())
        return ActionResult({"SpotInstanceRequests": [self._shown(request) for request in requests if request.id not in unseen],
                             "NextToken": token})

    def cancel_spot_instance_requests(self) -> ActionResult:
        """All or none. Instances live on."""
        self.error_on_dryrun()
        ids = self._get_param("SpotInstanceRequestIds", [])
        with errors():
            self.region_backend.hidden.check(ids, time.monotonic())
            requests = self.region_backend.market.cancel(ids)
        return ActionResult({"CancelledSpotInstanceRequests": [{"SpotInstanceRequestId": r.id, "State": r.state.value} for r in requests]})

    def describe_spot_price_history(self) -> ActionResult:
        """The present price of each pool asked for, with one older entry, newest first."""
        filters = self._filters_from_querystring()
        types = self._get_param("InstanceTypes", []) or list(filters.get("instance-type", ())) or sorted(PRICES)
        zones = [self._get_param("AvailabilityZone")] if self._get_param("AvailabilityZone") \
            else list(filters.get("availability-zone", ())) or list(Existing(self.region_backend).zones())
        unknown = [type for type in types if not Existing(self.region_backend).type(type)]
        if unknown:
            raise EC2ClientError("InvalidParameterValue", f"Invalid value '{unknown[0]}' for instanceType.")
        hour = now().replace(minute=0, second=0, microsecond=0)
        history = [{"InstanceType": type, "AvailabilityZone": zone, "ProductDescription": "Linux/UNIX",
                    "SpotPrice": f"{self.region_backend.supply.price(type, zone, 'spot'):.6f}",
                    "Timestamp": moment}
                   for moment in (hour, hour.replace(hour=0)) for type in types for zone in zones]
        return ActionResult({"SpotPriceHistory": history})

    def get_console_output(self) -> ActionResult:
        """What the machine printed, its end (moto: a fixed text)."""
        id = self._get_param("InstanceId")
        self.region_backend.get_instance(id)
        output = base64.b64encode(self.region_backend.instances.machines.console(id)).decode()
        return ActionResult({"InstanceId": id, "Output": output, "Timestamp": now()})

    def create_tags(self) -> ActionResult:
        """All or none; what is not seen yet does not exist."""
        with errors():
            self.region_backend.hidden.check(self._get_param("Resources", []), time.monotonic())
        answer: ActionResult = super().create_tags()
        return answer

    def describe_tags(self) -> ActionResult:
        """Of what is there and seen; what was deleted has no tags any more (moto keeps them, and has names of its own for the kinds)."""
        backend = self.region_backend
        answer: Any = super().describe_tags()
        templates = {template.id for template in backend.templates.all()}
        unseen, there = backend.hidden.now(time.monotonic()), {"vol": backend.volumes, "lt": templates, "nat": backend.nat_gateways}
        rows = [{**row, "resource_type": KINDS.get(row["resource_type"], row["resource_type"])} for row in answer.result["Tags"]
                if (id := row["resource_id"]) not in unseen and id in there.get(id.partition("-")[0], (id,))]
        return ActionResult({"Tags": rows})

    def describe_instances(self) -> ActionResult:
        """A page is 1,000 reservations where no MaxResults is given (moto: 100)."""
        self.params.setdefault("MaxResults", 1000)
        answer: ActionResult = super().describe_instances()
        return answer

    def _shown(self, request: SpotRequest) -> dict[str, Any]:
        order = request.order
        shown: dict[str, Any] = {
            "SpotInstanceRequestId": request.id, "State": request.state.value, "CreateTime": request.created, "Type": "one-time",
            "Status": {"Code": request.status, "Message": request.message, "UpdateTime": request.updated},
            "InstanceInterruptionBehavior": "terminate", "ProductDescription": "Linux/UNIX",
            "LaunchSpecification": self._specification(order.spec),
            "Tags": listed(self.region_backend.tags.get(request.id, {}))}
        optional = {"SpotPrice": f"{order.price:.6f}" if order.price is not None else None, "ValidFrom": order.valid_from,
                    "ValidUntil": order.valid_until, "LaunchGroup": order.launch_group, "AvailabilityZoneGroup": order.zone_group,
                    "InstanceId": request.instance, "LaunchedAvailabilityZone": request.zone if request.instance else None,
                    "Fault": {"Code": "bad-parameters", "Message": request.fault} if request.state is State.FAILED else None}
        return shown | {key: value for key, value in optional.items() if value}

    def _specification(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """As it was asked for, but for the user data, which EC2 does not show again, and the groups, which it shows with names."""
        shown = {key: value for key, value in spec.items() if key not in ("UserData", "SecurityGroupIds", "SecurityGroups")}
        groups = [self.region_backend.get_security_group_by_name_or_id(name)
                  for name in [*(spec.get("SecurityGroupIds") or ()), *(spec.get("SecurityGroups") or ())]]
        shown["SecurityGroups"] = [{"GroupId": group.id, "GroupName": group.name} for group in groups if group is not None]
        return shown
