"""The spot market of the local cloud: it decides over open requests, one at a time on the timers' thread.

RequestSpotInstances answers at once with open requests, as AWS does; fulfilment follows. Between two fulfilments the lock
is free, so the first machines of a hundred boot while the others are still being made.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fleetctl.local.book import Refused, SpotBook
from fleetctl.local.faults import Faults
from fleetctl.local.instances import TAKEN_BACK, Instances, Reason
from fleetctl.local.spot import Event, Order, SpotRequest, State, evaluate
from fleetctl.local.supply import Supply
from fleetctl.local.timers import Timers

log = logging.getLogger(__name__)

def utc() -> datetime:
    """Now."""
    return datetime.now(UTC)


class SpotMarket:
    """Places, fulfils, expires and cancels the requests of one region.

    `launch(order, zone, request id)` makes one instance and returns its id; it raises Refused for what only shows then.
    """

    def __init__(self, book: SpotBook, supply: Supply, instances: Instances, faults: Faults, timers: Timers, lock: threading.RLock,
                 launch: Callable[[SpotRequest], str]) -> None:
        self.book, self.supply, self.instances, self.faults, self.timers, self.lock, self.launch = (
            book, supply, instances, faults, timers, lock, launch)
        instances.on_end.append(self.ended)

    def price(self, type: str, zone: str) -> Decimal:
        """The spot price, $ per hour."""
        return self.supply.price(type, zone, "spot")

    def capacity(self, type: str, zone: str) -> bool:
        """Whether there is any: always, unless a fault says otherwise."""
        return self.supply.room(type, zone, "spot", 1, 1) == 1

    def place(self, order: Order, zone: str) -> list[SpotRequest]:
        """New requests, or those that the same client token made. Raises Refused."""
        repeated = self.book.repeated(order)
        if repeated is not None:
            return repeated
        now = utc()
        if order.valid_until is not None and order.valid_until <= now:
            raise Refused("InvalidParameterValue", "The valid-until date must be in the future.")
        self.supply.quota(order.type, "spot", order.count)
        ids = [f"sir-{secrets.token_hex(4)}" for _ in range(order.count)]
        requests = self.book.place(order, ids, zone, now)
        for moment in filter(None, (order.valid_from, order.valid_until)):
            self.timers.after((moment - now).total_seconds(), lambda: self.review(ids))
        delay = self.faults.strikes("fulfil-delay", type=order.type, zone=zone)
        self.timers.after(float(delay.settings["seconds"]) if delay else 0.0, lambda: self.review(ids))
        return requests

    def record(self, instance: Any, order: Order) -> SpotRequest:
        """The request behind a spot instance that RunInstances or CreateFleet launched: fulfilled from its beginning."""
        id = f"sir-{secrets.token_hex(4)}"
        self.book.place(order, [id], instance.placement.zone, utc())
        return self.book.apply(id, Event.FULFILLED, utc(), instance=instance.id)

    def review(self, ids: list[str] | None = None) -> None:
        """Decide over these open requests, or over all of them: called when they are due, and when a fault was mended."""
        for id in self._open(ids):
            with self.lock:
                request = self.book.get([id])[0]
                if request.state is State.OPEN:
                    self._decide(request)

    def _open(self, ids: list[str] | None) -> list[str]:
        with self.lock:
            return ids if ids is not None else [request.id for request in self.book.open()]

    def _decide(self, request: SpotRequest) -> None:
        verdict = evaluate(request, self, utc())
        self.book.apply(request.id, verdict, utc())
        if verdict is not Event.MATCHED:
            return
        try:
            instance = self.launch(request)
        except Refused as refused:
            self.book.apply(request.id, Event.REFUSED, utc(), fault=str(refused))
            return
        self.book.apply(request.id, Event.FULFILLED, utc(), instance=instance)

    def cancel(self, ids: list[str]) -> list[SpotRequest]:
        """Cancel all of them, or none if one does not exist. Their instances live on."""
        self.book.get(ids)
        return [self.book.apply(id, Event.CANCEL, utc()) for id in ids]

    def ended(self, instance_id: str, reason: Reason) -> None:
        """An instance begins to end; its request, if it has one, ends with it."""
        request = self.book.of_instance(instance_id)
        if request is not None:
            self.book.apply(request.id, Event.TAKEN_BACK if reason == TAKEN_BACK else Event.USER_TERMINATED, utc())

    def interrupt(self, instance_id: str, action: str, seconds: float) -> None:
        """Give a spot instance its notice now, and take it after `seconds`. Raises Refused if there is none such."""
        with self.lock:
            self.book.apply(self._living(instance_id).id, Event.MARKED, utc())
            self.instances.machines.interrupt(instance_id, action, _iso(utc() + timedelta(seconds=seconds)))
        self.timers.after(seconds, lambda: self._take(instance_id))

    def advise(self, instance_id: str) -> None:
        """Recommend to rebalance a spot instance. Raises Refused if there is none such."""
        with self.lock:
            self._living(instance_id)
            self.instances.machines.advise(instance_id, _iso(utc()))

    def _living(self, instance_id: str) -> SpotRequest:
        instance, request = self.instances.get(instance_id), self.book.of_instance(instance_id)
        if instance is None or request is None or instance.state in ("shutting-down", "terminated"):
            raise Refused("InvalidInstanceID.NotFound", f"{instance_id} is not a living spot instance")
        return request

    def _take(self, instance_id: str) -> None:
        with self.lock:
            self.instances.terminate(self.instances.get(instance_id), TAKEN_BACK)

    def __repr__(self) -> str:
        return f"<SpotMarket {self.book!r}>"


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
