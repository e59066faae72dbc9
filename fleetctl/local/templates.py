"""Launch templates and what comes of them: a template's data, then what the call or a fleet's override says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from fleetctl.local.book import Refused
from fleetctl.local.rules import missing

Spec = Mapping[str, Any]

# What an override of a fleet puts in the template's place as it stands; the other keys have rules of their own.
PLAIN_OVERRIDES = ("InstanceType", "ImageId", "KeyName", "BlockDeviceMappings", "IamInstanceProfile", "MetadataOptions", "Placement")


class Template:
    """One launch template with its versions, numbered from 1."""

    def __init__(self, id: str, name: str, data: Spec, description: str, now: datetime) -> None:
        self.id, self.name, self.created, self.default = id, name, now, 1
        self.versions: list[tuple[Spec, str, datetime]] = [(data, description, now)]

    def number(self, version: str | None) -> int:
        """The number behind a version: a number, `$Latest` or `$Default`; None is the default. Raises Refused."""
        if version in (None, "", "$Default"):
            return self.default
        number = len(self.versions) if version == "$Latest" else int(version) if str(version).isdigit() else 0
        if not 1 <= number <= len(self.versions):
            raise Refused("InvalidLaunchTemplateId.VersionNotFound",
                          f"Could not find the specified version {version} for the launch template with ID {self.id}.")
        return number

    def data(self, version: str | None) -> Spec:
        """The data of a version. Raises Refused."""
        return self.versions[self.number(version) - 1][0]

    def __repr__(self) -> str:
        return f"<Template {self.id} {self.name}, {len(self.versions)} versions>"


class Templates:
    """The launch templates of a region. Callers hold the cloud's lock."""

    def __init__(self) -> None:
        self._by_id: dict[str, Template] = {}

    def add(self, template: Template) -> None:
        """Raises Refused if the name is taken."""
        if any(other.name == template.name for other in self._by_id.values()):
            raise Refused("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
        self._by_id[template.id] = template

    def get(self, id: str | None = None, name: str | None = None) -> Template:
        """By id or by name, one of them. Raises Refused."""
        if bool(id) == bool(name):
            raise Refused("MissingParameter" if not id else "InvalidParameterCombination",
                          "Either a launch template ID or a launch template name must be specified, and not both.")
        if id:
            if id not in self._by_id:
                raise Refused("InvalidLaunchTemplateId.NotFound",
                              f"The specified launch template, with template ID {id}, does not exist.")
            return self._by_id[id]
        found = next((template for template in self._by_id.values() if template.name == name), None)
        if found is None:
            raise Refused("InvalidLaunchTemplateName.NotFoundException",
                          f"The specified launch template, with template name {name}, does not exist.")
        return found

    def named(self, specification: Mapping[str, Any]) -> Template:
        """The template that a LaunchTemplateSpecification names. Raises Refused."""
        return self.get(specification.get("LaunchTemplateId"), specification.get("LaunchTemplateName"))

    def remove(self, template: Template) -> None:
        """A template that is there."""
        del self._by_id[template.id]

    def all(self) -> list[Template]:
        """In the order of their making."""
        return list(self._by_id.values())

    def __repr__(self) -> str:
        return f"<Templates {len(self._by_id)}>"


def with_template(given: Spec, data: Spec) -> dict[str, Any]:
    """The parameters of a RunInstances call with those of its template where it has none; tags of both, the call's winning."""
    merged = {**data, **{key: value for key, value in given.items() if value is not None and key != "LaunchTemplate"}}
    tags = with_tags(data.get("TagSpecifications") or (), given.get("TagSpecifications") or ())
    if tags:
        merged["TagSpecifications"] = tags
    if given.get("SubnetId") and data.get("NetworkInterfaces") and not given.get("NetworkInterfaces"):
        raise Refused("InvalidParameterCombination",
                      "Network interfaces and an instance-level subnet ID may not be specified on the same request")
    return merged


def with_override(data: Spec, override: Spec) -> dict[str, Any]:
    """A template's data as an override of a fleet changes them."""
    spec = {**data, **{key: override[key] for key in PLAIN_OVERRIDES if override.get(key)}}
    if override.get("AvailabilityZone"):
        spec["Placement"] = {**(spec.get("Placement") or {}), "AvailabilityZone": override["AvailabilityZone"]}
    if override.get("SubnetId"):
        interfaces = spec.get("NetworkInterfaces")
        if interfaces:   # the subnet is the first interface's: the two levels can't both say it
            spec["NetworkInterfaces"] = [{**interfaces[0], "SubnetId": override["SubnetId"]}, *interfaces[1:]]
        else:
            spec["SubnetId"] = override["SubnetId"]
    return spec


def with_tags(*layers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """TagSpecifications of several origins in one: by resource type and key, later ones win."""
    found: dict[str, dict[str, str]] = {}
    for layer in layers:
        for specification in layer:
            if not specification.get("ResourceType"):
                raise missing("ResourceType")
            tags = found.setdefault(specification["ResourceType"], {})
            tags.update({tag.get("Key", ""): tag.get("Value", "") for tag in specification.get("Tags") or ()})
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            for kind, tags in found.items()]
