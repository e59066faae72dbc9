"""The life of a spot instance request: pure. The clock, the market and the ids are passed in.

Each request is a row in this table (state, event → state, status code), as the EC2 User Guide's "State changes for a
Spot request" has it:

    open       a request that waits: pending-evaluation, capacity-not-available, price-too-low, not-scheduled-yet, pending-fulfillment
    active     its instance exists: fulfilled, marked-for-termination
    closed     it is over, not by a cancel: instance-terminated-by-user, instance-terminated-no-capacity
    cancelled  canceled-before-fulfillment, schedule-expired, request-canceled-and-instance-running; the instance of the last
               one lives on until it is terminated, and the state stays cancelled then
    failed     bad-parameters

An event that the table lacks raises IllegalEvent and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol


class State(StrEnum):
    """A request's state, with AWS's spelling as its value."""

    OPEN = "open"
    ACTIVE = "active"
    CLOSED = "closed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Event(StrEnum):
    """What can happen to a request."""

    NO_CAPACITY = "no capacity"
    PRICE_LOW = "price too low"
    NOT_YET = "not scheduled yet"
    MATCHED = "matched"
    FULFILLED = "fulfilled"
    REFUSED = "refused"
    CANCEL = "cancel"
    EXPIRE = "expire"
    MARKED = "marked"
    USER_TERMINATED = "terminated by user"
    TAKEN_BACK = "taken back"


TRANSITIONS: dict[State, dict[Event, tuple[State, str]]] = {
    State.OPEN: {
        Event.NO_CAPACITY: (State.OPEN, "capacity-not-available"),
        Event.PRICE_LOW: (State.OPEN, "price-too-low"),
        Event.NOT_YET: (State.OPEN, "not-scheduled-yet"),
        Event.MATCHED: (State.OPEN, "pending-fulfillment"),
        Event.FULFILLED: (State.ACTIVE, "fulfilled"),
        Event.REFUSED: (State.FAILED, "bad-parameters"),
        Event.CANCEL: (State.CANCELLED, "canceled-before-fulfillment"),
        Event.EXPIRE: (State.CANCELLED, "schedule-expired"),
    },
    State.ACTIVE: {
        Event.MARKED: (State.ACTIVE, "marked-for-termination"),
        Event.CANCEL: (State.CANCELLED, "request-canceled-and-instance-running"),
        Event.USER_TERMINATED: (State.CLOSED, "instance-terminated-by-user"),
        Event.TAKEN_BACK: (State.CLOSED, "instance-terminated-no-capacity"),
    },
    State.CANCELLED: {
        Event.CANCEL: (State.CANCELLED, ""),   # "": the status stays as it is
        Event.USER_TERMINATED: (State.CANCELLED, "instance-terminated-by-user"),
        Event.TAKEN_BACK: (State.CANCELLED, "instance-terminated-no-capacity"),
        Event.MARKED: (State.CANCELLED, "marked-for-termination"),
    },
    State.CLOSED: {Event.CANCEL: (State.CLOSED, "")},
    State.FAILED: {Event.CANCEL: (State.FAILED, "")},
}

MESSAGES = {
    "pending-evaluation": "Your Spot request has been submitted for review, and is pending evaluation.",
    "capacity-not-available": "There is no Spot capacity available that matches your request.",
    "price-too-low": "Your Spot request price is lower than the minimum required Spot request fulfillment price.",
    "not-scheduled-yet": "Your Spot request will not be evaluated until the scheduled date.",
    "pending-fulfillment": "Your Spot request is pending fulfillment.",
    "fulfilled": "Your Spot request is fulfilled.",
    "bad-parameters": "Your Spot request failed due to bad parameters.",
    "canceled-before-fulfillment": "Your Spot request was canceled before it was fulfilled.",
    "schedule-expired": "Your Spot request was canceled because it was not fulfilled within the specified duration.",
    "marked-for-termination": "Your Spot instance is marked for termination.",
    "request-canceled-and-instance-running": "Your Spot request is canceled, but your instance is still running.",
    "instance-terminated-by-user": "Spot Instance terminated due to user-initiated termination.",
    "instance-terminated-no-capacity": "Your Spot Instance was terminated because there is no longer enough Spot capacity.",
}


class IllegalEvent(Exception):
    """An event that cannot happen to a request in its state; the request is as it was."""

    def __init__(self, request: SpotRequest, event: Event) -> None:
        self.request, self.event = request, event
        super().__init__(f"{request.id} is {request.state.value} ({request.status}): {event.value!r} cannot happen to it")


@dataclass(frozen=True)
class Order:
    """What one RequestSpotInstances call asked for. `spec` is its LaunchSpecification, as AWS's model names it."""

    spec: Mapping[str, Any]
    count: int = 1
    price: Decimal | None = None          # $ per hour; None: up to the on-demand price
    token: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    launch_group: str = ""
    zone_group: str = ""
    fingerprint: str = ""                 # of all parameters: a token used again must come with the same

    @property
    def type(self) -> str:
        """The instance type."""
        return str(self.spec["InstanceType"])


@dataclass(frozen=True)
class SpotRequest:
    """One request at one moment."""

    id: str
    order: Order
    created: datetime
    updated: datetime
    zone: str = ""
    state: State = State.OPEN
    status: str = "pending-evaluation"
    message: str = MESSAGES["pending-evaluation"]
    instance: str = ""
    fault: str = ""                       # why EC2 refused it, for bad-parameters

    def __repr__(self) -> str:
        return f"<{self.id} {self.state.value} {self.status}{' ' + self.instance if self.instance else ''}>"


def step(request: SpotRequest, event: Event, now: datetime, *, instance: str = "", fault: str = "") -> SpotRequest:
    """The request after `event`; raises IllegalEvent."""
    try:
        state, status = TRANSITIONS[request.state][event]
    except KeyError:
        raise IllegalEvent(request, event) from None
    if event in (Event.USER_TERMINATED, Event.TAKEN_BACK, Event.MARKED) and not request.instance:
        raise IllegalEvent(request, event)
    if not status or (state, status) == (request.state, request.status):
        return request
    return replace(request, state=state, status=status, message=MESSAGES[status], updated=now,
                   instance=instance or request.instance, fault=fault or request.fault)


class Market(Protocol):
    """What decides whether a request is fulfilled."""

    def price(self, type: str, zone: str) -> Decimal:
        """The spot price, $ per hour."""

    def capacity(self, type: str, zone: str) -> bool:
        """Whether the capacity pool has a machine to give."""


def evaluate(request: SpotRequest, market: Market, now: datetime) -> Event:
    """What the market does to an open request now."""
    order = request.order
    if order.valid_until is not None and now >= order.valid_until:
        return Event.EXPIRE
    if order.valid_from is not None and now < order.valid_from:
        return Event.NOT_YET
    if order.price is not None and order.price < market.price(order.type, request.zone):
        return Event.PRICE_LOW
    if not market.capacity(order.type, request.zone):
        return Event.NO_CAPACITY
    return Event.MATCHED
