"""Good launch requests to begin with. Each is a plain dictionary, to be changed like any other.

Both ask for spot machines that end for good: what shuts down from inside is terminated, and its root volume goes with it. Metadata is
given to session tokens only (IMDSv2), so a web server that can be talked into a GET hands out no credentials.

On `price`: it is a cap in USD an hour, not what is paid, which is the spot price of the capacity pool. It is usually left out: nobody
bids any more, as EC2 sets the prices and moves them gradually with long-term supply and demand (User Guide, "Spot Instances"); without a
cap a machine costs the spot price, at most the on-demand price; and with a lower one AWS says to expect more interruptions ("we do not
recommend using this parameter", MaxPrice in the API reference). To bound what is spent, bound the machines and their time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import shapes
from .errors import RequestInvalid
from .shapes import Request

__all__ = ["fleet", "spot"]

Amount = float | tuple[float, float]


def spot(*, root: str = "/dev/xvda", **aliases: Any) -> Request:
    """A RunInstances request for spot machines of one type in one zone.

    `aliases` as in `shapes`; `root` is the name of the image's root device (Amazon Linux and Debian: /dev/xvda; Ubuntu:
    /dev/sda1). Raises RequestInvalid for an alias that is unknown or does not fit.

    >>> request = spot(image="ami-1", itype="c7g.large", disk=20)
    >>> request["BlockDeviceMappings"]
    [{'DeviceName': '/dev/xvda', 'Ebs': {'VolumeType': 'gp3', 'DeleteOnTermination': True, 'VolumeSize': 20}}]
    >>> shapes.validate(request)
    """
    market = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}}
    return shapes.apply({"InstanceMarketOptions": market, **_machine(root)}, **aliases)


def fleet(
    *,
    vcpus: Amount | None = None,
    memory: Amount | None = None,
    types: Sequence[str] | None = None,
    subnets: Sequence[str] = (),
    root: str = "/dev/xvda",
    **aliases: Any,
) -> Request:
    """A CreateFleet request for spot machines of many types in many places: EC2 chooses, by price and by where it has most to give.

    Say what a machine must have (`vcpus`; `memory` in GiB; each the least, or a pair from and to), or which `types` will do: the more
    capacity pools, the better the chances (AWS advises ten types and all zones). Of `subnets` there may be one of each zone. `aliases`
    and `root` as in `spot`. Raises RequestInvalid for an alias that is unknown or does not fit, and for types beside attributes.

    >>> request = fleet(vcpus=(2, 8), memory=16, subnets=("subnet-1", "subnet-2"), image="ami-1")
    >>> request["LaunchTemplateConfigs"][0]["Overrides"][1]
    {'InstanceRequirements': {'VCpuCount': {'Min': 2, 'Max': 8}, 'MemoryMiB': {'Min': 16384}}, 'SubnetId': 'subnet-2'}
    >>> shapes.validate(request)
    >>> shapes.view(fleet(types=["c7g.large", "m7g.large"], subnets=["subnet-1"]), "itype", "subnet")
    {'itype': ['c7g.large', 'm7g.large'], 'subnet': 'subnet-1'}
    """
    if types and (vcpus is not None or memory is not None):
        raise RequestInvalid("types and attributes exclude each other", alias="types", found=types,
                             todo="name the types, or what a machine must have (vcpus, memory)")
    request = {
        "Type": "instant",
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
        "LaunchTemplateConfigs": [],
        "LaunchTemplateData": _machine(root),
    }
    said = {"itype": list(types) if types else None, "vcpus": vcpus, "memory": memory, "subnet": list(subnets) or None}
    return shapes.apply(request, **{name: value for name, value in said.items() if value is not None}, **aliases)


def _machine(root: str) -> Request:
    """What both say of a machine. Two hops let its containers reach the metadata too, as on stock Amazon Linux 2023."""
    return {
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        "BlockDeviceMappings": [{"DeviceName": root, "Ebs": {"VolumeType": "gp3", "DeleteOnTermination": True}}],
    }
