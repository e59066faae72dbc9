"""The spot requests of a region: placing, idempotence, filters, pages. Pure but for being mutable; callers hold the lock."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from fleetctl.local.spot import Event, Order, SpotRequest, State, step


class Refused(Exception):
    """A call that EC2 would answer with an error document: `code` and `message` are AWS's."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


def _iso(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z") if moment else ""


def _interface(request: SpotRequest, key: str) -> list[str]:
    return [str(nic[key]) for nic in request.order.spec.get("NetworkInterfaces", ()) if key in nic]


# The filters of DescribeSpotInstanceRequests; each gives the values of which one must match.
FILTERS: dict[str, Callable[[SpotRequest], Iterable[str]]] = {
    "availability-zone-group": lambda r: [r.order.zone_group],
    "create-time": lambda r: [_iso(r.created)],
    "fault-code": lambda r: ["bad-parameters"] if r.fault else [],
    "fault-message": lambda r: [r.fault] if r.fault else [],
    "instance-id": lambda r: [r.instance] if r.instance else [],
    "launch-group": lambda r: [r.order.launch_group],
    "launch.group-id": lambda r: [*map(str, r.order.spec.get("SecurityGroupIds", ())),
                                  *(g for nic in r.order.spec.get("NetworkInterfaces", ()) for g in nic.get("Groups", ()))],
    "launch.image-id": lambda r: [str(r.order.spec.get("ImageId", ""))],
    "launch.instance-type": lambda r: [r.order.type],
    "launch.key-name": lambda r: [str(r.order.spec.get("KeyName", ""))],
    "launched-availability-zone": lambda r: [r.zone] if r.instance else [],
    "network-interface.device-index": lambda r: _interface(r, "DeviceIndex"),
    "network-interface.subnet-id": lambda r: _interface(r, "SubnetId"),
    "product-description": lambda r: ["Linux/UNIX"],
    "spot-instance-request-id": lambda r: [r.id],
    "spot-price": lambda r: [f"{r.order.price:.6f}"] if r.order.price is not None else [],
    "state": lambda r: [r.state.value],
    "status-code": lambda r: [r.status],
    "status-message": lambda r: [r.message],
    "type": lambda r: ["one-time"],
    "valid-from": lambda r: [_iso(r.order.valid_from)],
    "valid-until": lambda r: [_iso(r.order.valid_until)],
}


def _values(name: str, request: SpotRequest, tags: Mapping[str, str]) -> Iterable[str]:
    if name.startswith("tag:"):
        return [tags[name[4:]]] if name[4:] in tags else []
    if name == "tag-key":
        return tags
    try:
        return FILTERS[name](request)
    except KeyError:
        raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid") from None


def matches(request: SpotRequest, filters: Mapping[str, Sequence[str]], tags: Mapping[str, str]) -> bool:
    """All filters hold; a filter holds if any of its values matches, with * and ? as wildcards."""
    return all(any(fnmatchcase(value, pattern) for value in _values(name, request, tags) for pattern in patterns)
               for name, patterns in filters.items())


class SpotBook:
    """All requests, in the order of their placing. `tags` gives the tags of a request by its id (EC2 keeps all tags together)."""

    def __init__(self, tags: Callable[[str], Mapping[str, str]]) -> None:
        self._tags = tags
        self._requests: dict[str, SpotRequest] = {}
        self._tokens: dict[str, tuple[str, list[str]]] = {}
        self._by_instance: dict[str, str] = {}

    def repeated(self, order: Order) -> list[SpotRequest] | None:
        """The requests that this client token made before; None if it is new. Raises Refused if it came with other parameters."""
        if not order.token or order.token not in self._tokens:
            return None
        fingerprint, ids = self._tokens[order.token]
        if fingerprint != order.fingerprint:
            raise Refused("IdempotentParameterMismatch",
                          "The client token you have provided is associated with a resource that has different parameters")
        return [self._requests[id] for id in ids]

    def place(self, order: Order, ids: Sequence[str], zone: str, now: datetime) -> list[SpotRequest]:
        """New open requests with these ids."""
        for id in ids:
            self._requests[id] = SpotRequest(id, order, created=now, updated=now, zone=zone)
        if order.token:
            self._tokens[order.token] = (order.fingerprint, list(ids))
        return [self._requests[id] for id in ids]

    def apply(self, id: str, event: Event, now: datetime, *, instance: str = "", fault: str = "") -> SpotRequest:
        """One step of one request; raises IllegalEvent."""
        request = self._requests[id] = step(self._requests[id], event, now, instance=instance, fault=fault)
        if instance:
            self._by_instance[instance] = id
        return request

    def get(self, ids: Sequence[str]) -> list[SpotRequest]:
        """These requests; raises Refused if one of them does not exist, as AWS fails the whole call."""
        missing = [id for id in ids if id not in self._requests]
        if missing:
            raise Refused("InvalidSpotInstanceRequestID.NotFound",
                          f"The spot instance request ID '{missing[0]}' does not exist")
        return [self._requests[id] for id in ids]

    def of_instance(self, instance: str) -> SpotRequest | None:
        """The request that made this instance, if one did."""
        id = self._by_instance.get(instance)
        return self._requests[id] if id is not None else None

    def open(self) -> list[SpotRequest]:
        """All requests that wait."""
        return [request for request in self._requests.values() if request.state is State.OPEN]

    def all(self) -> list[SpotRequest]:
        """All requests there ever were."""
        return list(self._requests.values())

    def find(self, ids: Sequence[str] = (), filters: Mapping[str, Sequence[str]] | None = None, *,
             limit: int | None = None, token: str | None = None) -> tuple[list[SpotRequest], str | None]:
        """A page of the requests that match, and the token of the next page. Raises Refused."""
        if limit is not None and not 5 <= limit <= 1000:
            raise Refused("InvalidParameterValue",
                          f"Value ( {limit} ) for parameter maxResults is invalid. Expecting a value from 5 to 1000.")
        if limit is not None and ids:
            raise Refused("InvalidParameterCombination",
                          "The parameter spotInstanceRequestIds cannot be used with the parameter maxResults")
        chosen = [r for r in (self.get(ids) if ids else self._requests.values()) if matches(r, filters or {}, self._tags(r.id))]
        start = _position(token) if token else 0
        end = len(chosen) if limit is None else start + limit
        return chosen[start:end], (_token(end) if end < len(chosen) else None)

    def __repr__(self) -> str:
        return f"<SpotBook {len(self._requests)} requests, {len(self.open())} open>"


def _token(position: int) -> str:
    return base64.urlsafe_b64encode(f"spot:{position}".encode()).decode()


def _position(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).decode().removeprefix("spot:"))
    except (ValueError, binascii.Error):
        raise Refused("InvalidParameterValue", "Unable to parse pagination token") from None
