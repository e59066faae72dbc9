"""The quotas that a set-up can meet, by the codes with which AWS refuses: their names, and what to do. A table; pure.

Names and codes are those of Service Quotas (AWS General Reference, "Service endpoints and quotas").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["LIMITS", "Limit", "todo"]


class Limit(NamedTuple):
    """One quota: its name, the service's code and its own; `instead` is what needs less of it."""

    name: str
    service: str
    code: str
    instead: str = ""


WITHOUT_ADDRESS = "`--private endpoints` and `--private nat-instance` need none"
LIMITS: Mapping[str, Limit] = {
    "VpcLimitExceeded": Limit("VPCs per Region", "vpc", "L-F678F1CE"),
    "InternetGatewayLimitExceeded": Limit("Internet gateways per Region", "vpc", "L-A4707A72"),
    "SubnetLimitExceeded": Limit("Subnets per VPC", "vpc", "L-407747CB", "`--zones` with fewer zones needs fewer"),
    "RouteTableLimitExceeded": Limit("Route tables per VPC", "vpc", "L-589F43AA"),
    "SecurityGroupLimitExceeded": Limit("VPC security groups per Region", "vpc", "L-E79EC296"),
    "RulesPerSecurityGroupLimitExceeded": Limit("Inbound or outbound rules per security group", "vpc", "L-0EA8095F",
                                                "`--ssh` with fewer blocks needs fewer"),
    "AddressLimitExceeded": Limit("EC2-VPC Elastic IPs", "ec2", "L-0263D0A3", WITHOUT_ADDRESS),
    "NatGatewayLimitExceeded": Limit("NAT gateways per Availability Zone", "vpc", "L-FE5A380F", WITHOUT_ADDRESS),
    "VpcEndpointLimitExceeded": Limit("Interface VPC endpoints per VPC", "vpc", "L-29B6F2EB"),
    "VcpuLimitExceeded": Limit("Running On-Demand Standard instances", "ec2", "L-1216C47A", "`--private endpoints` needs no machine"),
    "TooManyBuckets": Limit("General purpose buckets", "s3", "L-DC2B2D3D"),
}  # fmt: skip
"""By the error's code. IAM and others say `LimitExceeded` of each of their quotas: their message names which."""


def todo(code: str) -> str:
    """What to do about a refusal, '' for a code that tells of none of these quotas.

    >>> todo("VpcLimitExceeded").split(":")[0]
    'the quota "VPCs per Region" is used up'
    """
    limit = LIMITS.get(code)
    if limit is None:
        return ""
    ask = f"aws service-quotas request-service-quota-increase --service-code {limit.service} --quota-code {limit.code} --desired-value N"
    instead = f"; {limit.instead}" if limit.instead else ""
    return f'the quota "{limit.name}" is used up: remove what is not needed, or ask for more: {ask}{instead}'
