"""Launch templates as EC2 answers for them.

moto puts the template's own tags into what it launches, pages by fifteen, overlooks ids that do not exist, and knows no ClientToken.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.utils import random_launch_template_id

from fleetctl.local import rules
from fleetctl.local.answers import Calls, errors, listed, now, page
from fleetctl.local.book import Refused
from fleetctl.local.templates import Template

PAGE = 200   # of DescribeLaunchTemplates and DescribeLaunchTemplateVersions


class TemplateCalls(Calls):
    """The calls on launch templates."""

    def create_launch_template(self) -> ActionResult:
        """One template with one version."""
        given, backend = dict(self.params), self.region_backend
        with errors():
            template: Template | None = backend.tokens.made("CreateLaunchTemplate", given)
            if template is None:
                if not given.get("LaunchTemplateName") or not given.get("LaunchTemplateData"):
                    raise rules.missing("LaunchTemplateName" if not given.get("LaunchTemplateName") else "LaunchTemplateData")
                tags = rules.tags(given.get("TagSpecifications") or [], ["launch-template"])
                self.error_on_dryrun()
                template = Template(random_launch_template_id(), given["LaunchTemplateName"], given["LaunchTemplateData"],
                                    given.get("VersionDescription", ""), now())
                backend.templates.add(template)
                backend.tags[template.id].update(tags.get("launch-template", {}))
                backend.tokens.keep("CreateLaunchTemplate", given, template)
                backend.made(template.id)
        return ActionResult({"LaunchTemplate": self._template(template)})

    def create_launch_template_version(self) -> ActionResult:
        """One more version, upon SourceVersion's data if that is given."""
        given = dict(self.params)
        with errors():
            template = self._named(given)
            data = given.get("LaunchTemplateData") or {}
            if given.get("SourceVersion"):
                data = {**template.data(given["SourceVersion"]), **data}
            self.error_on_dryrun()
            template.versions.append((data, given.get("VersionDescription", ""), now()))
        return ActionResult({"LaunchTemplateVersion": self._version(template, len(template.versions))})

    def modify_launch_template(self) -> ActionResult:
        """Another default version."""
        given = dict(self.params)
        with errors():
            template = self._named(given)
            number = template.number(given.get("DefaultVersion"))
            self.error_on_dryrun()
            template.default = number
        return ActionResult({"LaunchTemplate": self._template(template)})

    def delete_launch_template(self) -> ActionResult:
        """Gone at once, with all versions; what was launched by it stays."""
        with errors():
            template = self._named(dict(self.params))
            self.error_on_dryrun()
            self.region_backend.templates.remove(template)
        return ActionResult({"LaunchTemplate": self._template(template)})

    def describe_launch_templates(self) -> ActionResult:
        """By ids, names, filters and pages; one that does not exist fails the call."""
        given, backend = dict(self.params), self.region_backend
        with errors():
            ids, names = given.get("LaunchTemplateIds") or (), given.get("LaunchTemplateNames") or ()
            backend.hidden.check(ids, time.monotonic())
            chosen = [backend.templates.get(id) for id in ids] + [backend.templates.get(name=name) for name in names] \
                if ids or names else backend.templates.all()
            unseen, filters = backend.hidden.now(time.monotonic()), self._filters_from_querystring()
            seen = [template for template in chosen if template.id not in unseen
                    and matches({"launch-template-name": [template.name]}, backend.tags.get(template.id, {}), filters)]
            shown, token = page(seen, int(given.get("MaxResults") or PAGE), given.get("NextToken"))
        return ActionResult({"LaunchTemplates": [self._template(template) for template in shown], "NextToken": token})

    def describe_launch_template_versions(self) -> ActionResult:
        """Of one template, some versions or all."""
        given = dict(self.params)
        with errors():
            template = self._named(given)
            numbers = [template.number(version) for version in given.get("Versions") or ()] or range(1, len(template.versions) + 1)
            shown, token = page(list(numbers), int(given.get("MaxResults") or PAGE), given.get("NextToken"))
        return ActionResult({"LaunchTemplateVersions": [self._version(template, number) for number in shown], "NextToken": token})

    def _named(self, given: Mapping[str, Any]) -> Template:
        template = self.region_backend.templates.named(given)
        self.region_backend.hidden.check([template.id], time.monotonic())
        return template

    def _template(self, template: Template) -> dict[str, Any]:
        return {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "CreateTime": template.created,
                "CreatedBy": f"arn:aws:iam::{self.current_account}:root", "DefaultVersionNumber": template.default,
                "LatestVersionNumber": len(template.versions), "Tags": listed(self.region_backend.tags.get(template.id, {}))}

    def _version(self, template: Template, number: int) -> dict[str, Any]:
        data, description, created = template.versions[number - 1]
        return {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "VersionNumber": number,
                "VersionDescription": description, "CreateTime": created, "CreatedBy": f"arn:aws:iam::{self.current_account}:root",
                "DefaultVersion": number == template.default, "LaunchTemplateData": data}


def matches(values: Mapping[str, list[str]], tags: Mapping[str, str], filters: Mapping[str, list[str]]) -> bool:
    """Whether a thing with these filterable values and tags is meant. Raises Refused for a filter that there is not."""
    def has(name: str) -> list[str]:
        if name.startswith("tag:"):
            return [tags[name[4:]]] if name[4:] in tags else []
        if name == "tag-key":
            return list(tags)
        if name not in values:
            raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")
        return values[name]
    return all(any(fnmatchcase(value, pattern) for value in has(name) for pattern in patterns) for name, patterns in filters.items())
