"""RunInstances and TerminateInstances as EC2 answers them.

moto launches MinCount instances whatever happens, and knows neither ClientToken nor prices, capacity and most of a template; its
TerminateInstances loads two more services the first time.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instances import Reservation

from fleetctl.local import rules
from fleetctl.local.answers import Calls, errors
from fleetctl.local.book import Refused
from fleetctl.local.existing import Existing
from fleetctl.local.supply import no_capacity
from fleetctl.local.templates import with_template

TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request")
BEHAVIOURS = ("stop", "terminate")


class LaunchCalls(Calls):
    """The calls that begin and end instances."""

    def run_instances(self) -> ActionResult:
        """Between MinCount and MaxCount instances, as many as there is capacity for; all of the same zone."""
        given, backend = dict(self.params), self.region_backend
        with errors():
            reservation: Reservation | None = backend.tokens.made("RunInstances", given)
            if reservation is None:
                reservation = self._launched(given)
                backend.tokens.keep("RunInstances", given, reservation)
        return ActionResult(reservation)

    def _launched(self, given: Mapping[str, Any]) -> Reservation:
        backend, known = self.region_backend, Existing(self.region_backend)
        least, most = int(given.get("MinCount") or 0), int(given.get("MaxCount") or 0)
        if not 1 <= least <= most:
            raise Refused("InvalidParameterValue", f"Value ({most}) for parameter maxCount is invalid.")
        spec: dict[str, Any] = dict(given)
        origin: dict[str, str] = {}
        if given.get("LaunchTemplate"):
            template = backend.templates.named(given["LaunchTemplate"])
            version = given["LaunchTemplate"].get("Version")
            spec = with_template(given, template.data(version))
            origin = template_tags(template.id, template.number(version))
        rules.check(spec, known)
        behaviour = spec.get("InstanceInitiatedShutdownBehavior")
        if behaviour and behaviour not in BEHAVIOURS:
            raise Refused("InvalidParameterValue", f"Value ({behaviour}) for parameter instanceInitiatedShutdownBehavior is invalid.")
        tags = rules.tags(spec.get("TagSpecifications") or [], TAGGABLE)
        spot, price = market(spec)
        rules.market(spec, spot=spot)
        kind, type, zone = "spot" if spot else "on-demand", str(spec.get("InstanceType") or rules.DEFAULT_TYPE), known.zone_of(spec)
        self.error_on_dryrun()
        backend.supply.quota(type, kind, most)
        if spot:
            backend.supply.affords(type, zone, price)
        count = backend.supply.room(type, zone, kind, most, least)
        if count == 0:
            raise no_capacity(type, zone)
        tags["instance"] = {**tags.get("instance", {}), **origin}
        return backend.launch(spec, count, tags=tags, spot=spot, price=price, token=given.get("ClientToken"))

    def terminate_instances(self) -> ActionResult:
        """They are shutting-down in the answer."""
        ids = self._get_param("InstanceIds", [])
        self.error_on_dryrun()
        ended = self.region_backend.terminate_instances(ids)
        return ActionResult({"TerminatingInstances": [
            {"InstanceId": instance.id, "CurrentState": {"Code": instance.state_code, "Name": instance.state}, "PreviousState": before}
            for instance, before in ended]})


def market(spec: Mapping[str, Any]) -> tuple[bool, Decimal | None]:
    """Whether a launch asks for spot instances, and its cap in $ per hour. Raises Refused for what the local cloud has not."""
    options = spec.get("InstanceMarketOptions") or {}
    kind, spot = options.get("MarketType"), options.get("SpotOptions") or {}
    if kind not in (None, "spot"):
        raise Refused("UnsupportedOperation", f"The local cloud has no market {kind}.")
    if spot.get("SpotInstanceType", "one-time") != "one-time" or spot.get("InstanceInterruptionBehavior", "terminate") != "terminate":
        raise Refused("UnsupportedOperation", "The local cloud has one-time spot requests only, which end by termination.")
    return kind == "spot", rules.max_price(spot.get("MaxPrice")) if kind == "spot" else None


def template_tags(id: str, number: int) -> dict[str, str]:
    """The tags by which EC2 says of an instance which template it came from."""
    return {"aws:ec2launchtemplate:id": id, "aws:ec2launchtemplate:version": str(number)}
