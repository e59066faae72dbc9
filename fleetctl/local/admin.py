"""`/_fleetctl`: what the tests and the command line ask the daemon about itself. Needs the token of the state file.

    GET    /_fleetctl/calls?since=MARK   the calls since a mark, by caller, service and operation
    GET    /_fleetctl/inventory?region=  everything that exists and could cost, and the processes of instances
    GET    /_fleetctl/faults             the faults in force
    POST   /_fleetctl/faults             {"kind": …, …}: one more; "interruption", "rebalance" and "dies" strike what lives at once
    DELETE /_fleetctl/faults             mend everything
    POST   /_fleetctl/regions            {"region": …}: have this region too
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, cast

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.request import Request
from werkzeug.wrappers import Response

from fleetctl.errors import LocalCloudError
from fleetctl.local.book import Refused
from fleetctl.local.calls import CallLog
from fleetctl.local.ec2 import LocalEC2, Wire
from fleetctl.local.faults import Fault, FaultUnknown


class Admin:
    """Answers `/_fleetctl` requests."""

    def __init__(self, token: str, regions: Mapping[str, Any], add_region: Callable[[str], None], wire: Wire, calls: CallLog) -> None:
        self._token, self._regions, self._add_region, self._wire, self._calls = token, regions, add_region, wire, calls
        self._routes: dict[tuple[str, str], Callable[[Request], dict[str, Any]]] = {
            ("GET", "calls"): lambda request: calls.since(int(request.args.get("since", 0))),
            ("GET", "inventory"): lambda request: inventory(self._backends(request.args.get("region")), wire),
            ("GET", "faults"): lambda request: {"faults": wire.faults.describe()},
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._mend,
            ("POST", "regions"): self._grow,
        }

    def __call__(self, request: Request) -> Response:
        """One request; 401 without the token, 404 and 400 with an `error`."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _json(401, {"error": "the token of the state file is needed"})
        route = self._routes.get((request.method, request.path.removeprefix("/_fleetctl/")))
        if route is None:
            return _json(404, {"error": f"there is no {request.method} {request.path}"})
        try:
            return _json(200, route(request))
        except (FaultUnknown, LocalCloudError, Refused, TypeError, ValueError) as error:
            return _json(400, {"error": str(error)})

    def _backends(self, region: str | None = None) -> list[LocalEC2]:
        from moto.ec2.models import ec2_backends
        if region is not None and region not in self._regions:
            raise ValueError(f"this local cloud has no region {region}")
        account = ec2_backends[DEFAULT_ACCOUNT_ID]
        return [cast("LocalEC2", account[name]) for name in ([region] if region else list(self._regions))]

    def _grow(self, request: Request) -> dict[str, Any]:
        self._add_region(str(json.loads(request.get_data())["region"]))
        return {}

    def _add_fault(self, request: Request) -> dict[str, Any]:
        wanted = json.loads(request.get_data())
        fault = self._wire.faults.add(**wanted)
        if fault.kind in ("interruption", "rebalance"):
            self._notify(fault)
        elif fault.kind == "dies":
            self._kill(fault)
        return {"id": fault.id}

    def _notify(self, fault: Fault) -> None:
        id = fault.where.get("instance", "")
        instance = self._wire.instances.get(id)
        if instance is None:
            raise Refused("InvalidInstanceID.NotFound", f"{id} is not a living spot instance")
        [backend] = self._backends(instance.region_name)
        if fault.kind == "rebalance":
            backend.market.advise(id)
        else:
            backend.market.interrupt(id, fault.settings["action"], float(fault.settings["seconds"]))
        fault.hits += 1

    def _kill(self, fault: Fault) -> None:
        with self._wire.lock:
            for instance in self._wire.instances.live():
                if instance.state in ("pending", "running") and fault.meets(self._wire.instances.facts(instance)):
                    fault.hits += 1
                    self._wire.timers.after(fault.settings["seconds"], partial(self._wire.instances.kill, instance.id))

    def _mend(self, request: Request) -> dict[str, Any]:
        self._wire.faults.clear()
        for backend in self._backends():
            backend.hidden.show_all()
            self._wire.timers.after(0, backend.market.review)   # requests that waited for capacity
        return {}

    def __repr__(self) -> str:
        return f"<Admin {' '.join(self._regions)}>"


def inventory(backends: Sequence[LocalEC2], wire: Wire) -> dict[str, Any]:
    """Everything in these regions that exists; buckets and processes are the whole cloud's."""
    with wire.lock:
        wire.instances.settle()
        parts = [_inventory(backend) for backend in backends]
        found: dict[str, Any] = {kind: list(chain.from_iterable(part[kind] for part in parts)) for kind in parts[0]}
        return {**found, "buckets": _buckets(), "processes": wire.instances.machines.running()}


def _inventory(backend: LocalEC2) -> dict[str, list[Any]]:
    from moto.sns.models import sns_backends
    from moto.sqs.models import sqs_backends
    from moto.ssm.models import ssm_backends

    account, region = backend.account_id, backend.region_name
    topics = sns_backends[account][region]

    def tags(id: str) -> dict[str, str]:
        return dict(backend.tags.get(id, {}))
    return {
        "instances": [{"id": i.id, "state": i.state, "type": i.instance_type, "ip": i.private_ip_address, "region": region,
                       "request": i.spot_instance_request_id, "tags": tags(i.id)}
                      for i in backend.instances.live() if i.region_name == region],
        "spot_requests": [{"id": r.id, "state": r.state.value, "status": r.status, "instance": r.instance, "region": region,
                           "tags": tags(r.id)} for r in backend.book.all()],
        "fleets": [{"id": f.id, "state": f.state, "region": region, "tags": tags(f.id)}
                   for f in backend.instant_fleets.values() if f.state == "active"],
        "launch_templates": [{"id": t.id, "name": t.name, "region": region, "tags": tags(t.id)} for t in backend.templates.all()],
        "volumes": [{"id": v.id, "state": v.status, "region": region, "tags": tags(v.id)} for v in backend.volumes.values()],
        "addresses": [{"id": a.allocation_id, "region": region} for a in backend.addresses],
        "nat_gateways": [{"id": id, "region": region} for id in backend.nat_gateways],
        "queues": sorted(sqs_backends[account][region].queues), "topics": sorted(topics.topics),
        "subscriptions": sorted(topics.subscriptions), "parameters": sorted(ssm_backends[account][region]._parameters)}


def _buckets() -> list[dict[str, Any]]:
    from moto.s3.models import s3_backends
    return [{"name": bucket.name, "region": bucket.region_name, "objects": sorted(bucket.keys)}
            for bucket in s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.values()]


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")
