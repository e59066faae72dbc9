"""What a security group lets in, as words and as EC2's permissions, each made from the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["permission", "rules"]

SELF = "its members"
SOURCES = (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"), ("PrefixListIds", "PrefixListId"), ("UserIdGroupPairs", "GroupId"))


def rules(permissions: Iterable[Mapping[str, Any]], group: str) -> tuple[str, ...]:
    """Every rule in words, sorted. `group` is the group's own id.

    >>> rules([{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}], "sg-1")
    ('tcp 22 from 0.0.0.0/0',)
    """
    found = {
        f"{_ports(one)} from {SELF if source[key] == group else source[key]}"
        for one in permissions
        for place, key in SOURCES
        for source in one.get(place, ())
    }
    return tuple(sorted(found))


def permission(rule: str, group: str) -> dict[str, Any]:
    """EC2's permission of a rule in words.

    >>> permission("all from its members", "sg-1")
    {'IpProtocol': '-1', 'UserIdGroupPairs': [{'GroupId': 'sg-1'}]}
    """
    what, _, source = rule.partition(" from ")
    protocol, _, ports = what.partition(" ")
    source = group if source == SELF else source
    place, key = _source(source)
    made: dict[str, Any] = {"IpProtocol": "-1" if protocol == "all" else protocol, place: [{key: source}]}
    if ports:
        first, _, last = ports.partition("..")
        made |= {"FromPort": int(first), "ToPort": int(last or first)}
    return made


def _ports(one: Mapping[str, Any]) -> str:
    protocol = "all" if one["IpProtocol"] == "-1" else str(one["IpProtocol"])
    first, last = one.get("FromPort"), one.get("ToPort")
    if protocol == "all" or first is None:
        return protocol
    return f"{protocol} {first}" if first == last else f"{protocol} {first}..{last}"


def _source(text: str) -> tuple[str, str]:
    if text.startswith("pl-"):
        return SOURCES[2]
    if text.startswith("sg-"):
        return SOURCES[3]
    return SOURCES[1] if ":" in text else SOURCES[0]
