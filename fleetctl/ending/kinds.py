"""What a session can leave besides machines: how each kind of thing is made, ended, and proved to be gone. A table; pure.

A thing is proved gone when AWS says so of it: the look at it is refused with NotFound, or its answer holds a state that is an end.
Machines, spot requests, fleets and volumes come in hundreds and are ended in batches, so they are not here: see `ending` and `volumes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["KINDS", "MADE_BY", "Kind", "Thing", "kind_of_id"]


class Thing(NamedTuple):
    """One thing: its kind's name, and its id, which is an ARN, a URL, a name or an id as AWS takes it."""

    kind: str
    id: str


def _no_state(_: Mapping[str, Any]) -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """`make` answers with the id under `named` (keys, outermost first), unless the request itself names it under `asked`.

    `delete` takes the id as `key`. `look` with the parameters that `looked` makes of the id raises NotFound once it is gone, or answers
    with what `over` finds an end in ("" while there is none). `prefix` is that of EC2 ids. `repeat`: the same call again names it.
    """

    name: str
    service: str
    make: str
    delete: str
    key: str
    look: str
    looked: Callable[[str], dict[str, Any]]
    named: tuple[str, ...] = ()
    asked: str = ""
    over: Callable[[Mapping[str, Any]], str] = _no_state
    prefix: str = ""
    repeat: bool = False

    def __repr__(self) -> str:
        return f"<kind {self.name}: {self.make}, {self.delete}>"

    def made(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
        """The id of what the call made, '' where neither names it."""
        if self.asked:
            return str(request.get(self.asked, ""))
        found: Any = answer
        for key in self.named:
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return str(found or "")


def _by(key: str) -> Callable[[str], dict[str, Any]]:
    return lambda id: {key: id}


def _by_list(key: str) -> Callable[[str], dict[str, Any]]:
    return lambda id: {key: [id]}


def _nat_over(answer: Mapping[str, Any]) -> str:
    """A NAT gateway is shown for about an hour after its end (EC2 API reference, DeleteNatGateway)."""
    states = {one.get("State", "") for one in answer.get("NatGateways", ())}
    return "deleted" if states == {"deleted"} else ""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("topic", "sns", "create_topic", "delete_topic", "TopicArn", "get_topic_attributes", _by("TopicArn"),
             named=("TopicArn",), repeat=True),
        Kind("subscription", "sns", "subscribe", "unsubscribe", "SubscriptionArn", "get_subscription_attributes", _by("SubscriptionArn"),
             named=("SubscriptionArn",), repeat=True),
        Kind("queue", "sqs", "create_queue", "delete_queue", "QueueUrl", "get_queue_attributes", _by("QueueUrl"),
             named=("QueueUrl",), repeat=True),
        Kind("parameter", "ssm", "put_parameter", "delete_parameter", "Name", "get_parameter", _by("Name"), asked="Name"),
        Kind("launch template", "ec2", "create_launch_template", "delete_launch_template", "LaunchTemplateName",
             "describe_launch_templates", _by_list("LaunchTemplateNames"), asked="LaunchTemplateName"),
        Kind("bucket", "s3", "create_bucket", "delete_bucket", "Bucket", "list_objects_v2", _by("Bucket"), asked="Bucket"),
        Kind("address", "ec2", "allocate_address", "release_address", "AllocationId", "describe_addresses", _by_list("AllocationIds"),
             named=("AllocationId",), prefix="eipalloc-"),
        Kind("NAT gateway", "ec2", "create_nat_gateway", "delete_nat_gateway", "NatGatewayId", "describe_nat_gateways",
             _by_list("NatGatewayIds"), named=("NatGateway", "NatGatewayId"), over=_nat_over, prefix="nat-"),
    )
}  # fmt: skip
"""Every kind by its name."""

MADE_BY: Mapping[str, Kind] = {kind.make: kind for kind in KINDS.values()}
"""The kind that an operation makes."""

EC2_IDS = {"i-": "instance", "sir-": "spot request", "vol-": "volume", "fleet-": "fleet", "lt-": "launch template"} | {
    kind.prefix: kind.name for kind in KINDS.values() if kind.prefix
}


def kind_of_id(id: str) -> str:
    """The kind of an EC2 thing by its id; '' for kinds that cost nothing by themselves, such as network interfaces.

    >>> kind_of_id("vol-0a1b"), kind_of_id("eni-0a1b")
    ('volume', '')
    """
    return EC2_IDS.get(id[: id.find("-") + 1], "")
