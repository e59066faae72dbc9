"""Why AWS gives no machine, or takes one away: its codes, what kind of trouble each is, and what to do. Pure.

| codes | where they stand | source |
|---|---|---|
| STATUS | `Status.Code` of a spot request | EC2 User Guide, "Spot request status codes" |
| REFUSED | the error of a call, and each entry of CreateFleet's `Errors` | EC2 API Reference, "Error codes"; other services' own |
| ENDED | `StateReason.Code` of an instance | botocore's model, `StateReason` |

A hopeless code is one that waiting does not mend: a launch counts such a request as lost at once, not at its deadline. `price-too-low`
and a lack of capacity are not hopeless, since prices and capacity move, and a request waits for just that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from .errors import Kind

__all__ = ["Reason", "hopeless", "main", "reason"]


class Reason(NamedTuple):
    """The kind of trouble that a code means; `hopeless` where waiting does not mend it."""

    kind: Kind
    todo: str = ""
    hopeless: bool = False


CAPACITY = Reason(Kind.CAPACITY, "name further types or zones (itype=[…], subnet=[…]), or ask again later")
QUOTA = Reason(Kind.QUOTA, "this is an account limit, not missing capacity: raise it in Service Quotas or end something", True)
PRICE = Reason(Kind.PRICE, "raise price, or leave it out: the on-demand price is then the cap")
DENIED = Reason(Kind.PERMISSION, "check which credentials are in use, and that their policy allows the call", True)
STALE = Reason(Kind.PERMISSION, "renew the credentials (`aws sso login`, or as they were got), and look at this computer's clock", True)
THROTTLED = Reason(Kind.THROTTLED, "wait a minute and try again, or ask for less at once")
INVALID = Reason(Kind.INVALID, "mend the request: AWS's message says what it does not take", True)
ADDRESSES = Reason(Kind.CAPACITY, "the subnet has too few free addresses: name a larger one, or further ones (subnet=[…])")
GROUPING = Reason(Kind.CAPACITY, "the request wants its machines together: drop its group, or ask for fewer")
INTERRUPTED = Reason(Kind.INTERRUPTED, "name further types or zones: the capacity pools that give machines back least are others")
AWS_BROKE = Reason(Kind.AWS, "try again; if it repeats, ask AWS's support", True)
BY_HAND = Reason(Kind.ENDED, "somebody, or the machine itself, has ended it: look who does")
WRONG_AT_START = Reason(Kind.INVALID, "look at the image, its snapshots and, where disks are encrypted, at the key's policy", True)

STATUS: Mapping[str, Reason] = {
    "capacity-not-available": CAPACITY,
    "capacity-oversubscribed": CAPACITY,
    "price-too-low": PRICE,
    "az-group-constraint": GROUPING,
    "launch-group-constraint": GROUPING,
    "placement-group-constraint": GROUPING,
    "constraint-not-fulfillable": INVALID,
    "bad-parameters": INVALID,
    "limit-exceeded": QUOTA,
    "system-error": AWS_BROKE,
    "marked-for-termination": INTERRUPTED,
    "instance-terminated-by-price": INTERRUPTED,
    "instance-terminated-no-capacity": INTERRUPTED,
    "instance-terminated-capacity-oversubscribed": INTERRUPTED,
    "instance-terminated-launch-group-constraint": INTERRUPTED,
    "instance-terminated-by-experiment": INTERRUPTED,
    "instance-terminated-by-service": BY_HAND,
    "instance-terminated-by-user": BY_HAND,
}

REFUSED: Mapping[str, Reason] = {
    **dict.fromkeys(
        (
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "Throttled",
            "RequestThrottled",
            "TooManyRequestsException",
            "EC2ThrottledException",
        ),
        THROTTLED,
    ),
    **dict.fromkeys(
        (
            "UnauthorizedOperation",
            "AccessDenied",
            "AccessDeniedException",
            "AuthorizationError",
            "AuthFailure",
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
            "InvalidClientTokenId",
            "OptInRequired",
            "PendingVerification",
            "Blocked",
            "InvalidAccessKeyId",
            "MissingAuthenticationToken",
            "UnrecognizedClientException",
        ),
        DENIED,
    ),
    **dict.fromkeys(
        (
            "ExpiredToken",
            "ExpiredTokenException",
            "InvalidToken",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
        ),
        STALE,
    ),
    **dict.fromkeys(
        (
            "InsufficientInstanceCapacity",
            "InsufficientHostCapacity",
            "InsufficientCapacity",
            "InsufficientCapacityOnHost",
            "UnfulfillableCapacity",
        ),
        CAPACITY,
    ),
    "InsufficientFreeAddressesInSubnet": ADDRESSES,
    **dict.fromkeys(
        (
            "MaxSpotInstanceCountExceeded",
            "InstanceLimitExceeded",
            "VcpuLimitExceeded",
            "VolumeLimitExceeded",
            "SpotMaxPriceTooHigh",
            "MaxSpotFleetRequestCountExceeded",
            "MaxScheduledInstanceCapacityExceeded",
            "VpcLimitExceeded",
            "SubnetLimitExceeded",
            "RouteTableLimitExceeded",
            "InternetGatewayLimitExceeded",
            "SecurityGroupLimitExceeded",
            "NatGatewayLimitExceeded",
            "VpcEndpointLimitExceeded",
            "AddressLimitExceeded",
            "RulesPerSecurityGroupLimitExceeded",
            "TooManyBuckets",
            "LimitExceeded",
            "LimitExceededException",
            "CreationLimitExceededException",
            "ServiceQuotaExceededException",
            "TopicLimitExceeded",
        ),
        QUOTA,
    ),
    "SpotMaxPriceTooLow": PRICE,
}

ENDED: Mapping[str, Reason] = {
    "Server.InsufficientInstanceCapacity": CAPACITY,
    "Server.InternalError": AWS_BROKE,
    "Server.SpotInstanceShutdown": INTERRUPTED,
    "Server.SpotInstanceTermination": INTERRUPTED,
    "Client.InternalError": WRONG_AT_START,
    "Client.InvalidSnapshot.NotFound": WRONG_AT_START,
    "Client.VolumeLimitExceeded": QUOTA,
    "Client.InstanceInitiatedShutdown": BY_HAND,
    "Client.InstanceTerminated": BY_HAND,
    "Client.UserInitiatedShutdown": BY_HAND,
}

INVALID_BEGINS = ("Invalid", "Missing", "Malformed", "Unknown", "Unsupported", "IdempotentParameterMismatch", "ValidationError")
ORDER = (Kind.PERMISSION, Kind.INVALID, Kind.QUOTA, Kind.PRICE, Kind.CAPACITY, Kind.INTERRUPTED)  # what to mend first


def reason(code: str) -> Reason | None:
    """What a code means; None for one that tells of no trouble, or that nobody here knows."""
    for table in (STATUS, REFUSED, ENDED):
        if code in table:
            return table[code]
    return INVALID if code.startswith(INVALID_BEGINS) else None


def hopeless(code: str) -> bool:
    """Whether a spot request with this status will never have an instance, however long it stays open."""
    known = STATUS.get(code)
    return known is not None and known.hopeless and known.kind is not Kind.INTERRUPTED


def main(codes: Mapping[str, int]) -> Reason | None:
    """The reason that stands behind most of the codes, given with their numbers; of equal ones what has to be mended first."""
    known = Counter[Kind]()
    reasons: dict[Kind, Reason] = {}
    for code, number in codes.items():
        if (found := reason(code)) is not None:
            known[found.kind] += number
            reasons.setdefault(found.kind, found)
    if not known:
        return None
    rank = {kind: place for place, kind in enumerate(ORDER)}
    return reasons[min(known, key=lambda kind: (-known[kind], rank.get(kind, len(ORDER))))]
