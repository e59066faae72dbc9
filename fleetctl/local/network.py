"""What EC2 refuses to delete while something still uses it. moto deletes groups, subnets and networks from under their machines.

Also what of a network moto lists wrongly.

EC2 API Reference: DeleteVpc ("detach or delete all gateways and resources"), DeleteSubnet, DeleteSecurityGroup, DetachInternetGateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.ec2.exceptions import DependencyViolationError, EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.utils import is_tag_filter, tag_filter_matches


class NetworkEC2(EC2Backend):
    """moto's EC2, with the dependencies between the parts of a network."""

    def delete_vpc(self, vpc_id: str) -> Any:
        """Only once nothing of it is left but its own table and group."""
        groups = [group.id for group in self.groups.get(vpc_id, {}).values() if not group.is_default]
        gateways = [one.id for one in self.internet_gateways.values() if one.vpc and one.vpc.id == vpc_id]
        endpoints = [one.id for one in self.vpc_end_points.values() if one.vpc_id == vpc_id and one.state != "deleted"]
        if groups or gateways or endpoints:
            raise DependencyViolationError(f"The vpc '{vpc_id}' has dependencies and cannot be deleted.")
        return super().delete_vpc(vpc_id)

    def delete_subnet(self, subnet_id: str) -> Any:
        """Only without interfaces: those of machines, gateways and endpoints, and those that somebody made."""
        if any(one.subnet.id == subnet_id for one in self.enis.values()):
            raise DependencyViolationError(f"The subnet '{subnet_id}' has dependencies and cannot be deleted.")
        return super().delete_subnet(subnet_id)

    def delete_security_group(self, name: str | None = None, group_id: str | None = None) -> None:
        """Only if no interface and no endpoint is in it, and no other group's rules name it."""
        if group_id and group_id in self._groups_in_use(group_id):
            raise DependencyViolationError(f"resource {group_id} has a dependent object")
        super().delete_security_group(name, group_id)

    def detach_internet_gateway(self, internet_gateway_id: str, vpc_id: str) -> None:
        """Only if nothing in the network has a public address."""
        if any(one.public_ip and one.subnet.vpc_id == vpc_id for one in self.enis.values()):
            raise DependencyViolationError(f"Network {vpc_id} has some mapped public address(es). "
                                           "Please unmap those public address(es) before detaching the gateway.")
        super().detach_internet_gateway(internet_gateway_id, vpc_id)

    def describe_nat_gateways(self, filters: Any, nat_gateway_ids: list[str] | None) -> Any:
        """By their tags, too: moto takes no notice of such a filter, and shows everybody's."""
        tags = {name: values for name, values in (filters or {}).items() if is_tag_filter(name)}
        found = super().describe_nat_gateways(filters, nat_gateway_ids)
        return [one for one in found if all(tag_filter_matches(one, name, values) for name, values in tags.items())]

    def delete_nat_gateway(self, nat_gateway_id: str) -> Any:
        """With its interface, which lets go of its address (moto: both stay, and an id that it does not know breaks it)."""
        gateway: Any = self.nat_gateways.get(nat_gateway_id)
        if gateway is None:
            raise EC2ClientError("NatGatewayNotFound", f"The Nat Gateway {nat_gateway_id} was not found")
        if gateway._eni.id in self.enis:
            for address in [one for one in self.addresses if one.eni is gateway._eni]:
                self.disassociate_address(association_id=address.association_id)
            self.delete_network_interface(gateway._eni.id)
        return super().delete_nat_gateway(nat_gateway_id)

    def _groups_in_use(self, but: str) -> Iterator[str]:
        """The groups that something is in, or that rules name; those of `but` itself do not count."""
        for interface in self.enis.values():
            yield from (group.id for group in interface.group_set)
        for endpoint in self.vpc_end_points.values():
            if endpoint.state != "deleted":
                yield from endpoint.security_group_ids or ()
        for groups in self.groups.values():
            for group in groups.values():
                if group.id != but:
                    yield from (rule.source_group.get("GroupId", "") for rule in (*group.ingress_rules, *group.egress_rules))


def route_state(route: Any) -> str:
    """A route through an instance that does not run ends nowhere (VPC User Guide, "Route tables": a blackhole route)."""
    return "active" if route.instance is None or route.instance.state == "running" else "blackhole"
