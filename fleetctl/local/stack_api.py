"""CloudFormation's calls on stacks. moto's loads every service that there is, and does not run what a stack brings about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse, EmptyResult

from fleetctl.local.book import Refused
from fleetctl.local.serverless import needs
from fleetctl.local.stacks import Event, Stack, Stacks


class LocalCloudFormation(BaseResponse):
    """One call."""

    regions: ClassVar[dict[str, Stacks]] = {}

    def __init__(self) -> None:
        super().__init__(service_name="cloudformation")
        self.automated_parameter_parsing = True

    @property
    def stacks(self) -> Stacks:
        """Those of the call's region."""
        region = self.region
        return self.regions.setdefault(region, Stacks(DEFAULT_ACCOUNT_ID, region, lambda service: needs().clients(service, region)))

    def create_stack(self) -> ActionResult:
        """Answers at once, with the id; the stack comes later."""
        with errors():
            stack = self.stacks.create(self._name(), self._body(), self._values(), self._tags(), capabilities=self._capabilities(),
                                       token=self._get_param("ClientRequestToken") or "",
                                       on_failure=self._get_param("OnFailure") or "ROLLBACK")
        return ActionResult({"StackId": stack.id})

    def update_stack(self) -> ActionResult:
        """Answers at once, too."""
        with errors():
            stack = self.stacks.find(self._name())
            self.stacks.update(stack, self._body(), self._values(), self._tags(), capabilities=self._capabilities())
        return ActionResult({"StackId": stack.id})

    def delete_stack(self) -> ActionResult:
        """A stack that is not there is as good as gone."""
        with errors():
            try:
                stack = self.stacks.find(self._name())
            except Refused:
                return EmptyResult()
            self.stacks.delete(stack)
        return EmptyResult()

    def describe_stacks(self) -> ActionResult:
        """One stack, or all that are not gone."""
        with errors():
            found = [self.stacks.find(self._name())] if self._get_param("StackName") else self.stacks.all()
        return ActionResult({"Stacks": [_stack(one) for one in found]})

    def list_stacks(self) -> ActionResult:
        """All that are not gone, in short."""
        wanted = self._get_param("StackStatusFilter") or []
        found = [_stack(one) for one in self.stacks.all()]
        return ActionResult({"StackSummaries": [one for one in found if not wanted or one["StackStatus"] in wanted]})

    def describe_stack_events(self) -> ActionResult:
        """Newest first."""
        with errors():
            stack = self.stacks.find(self._name())
        return ActionResult({"StackEvents": [_event(stack, one) for one in reversed(stack.events)]})

    def describe_stack_resources(self) -> ActionResult:
        """What a stack consists of."""
        with errors():
            stack = self.stacks.find(self._name())
        rows = [{"StackName": stack.name, "StackId": stack.id, "LogicalResourceId": logical, "PhysicalResourceId": one.id,
                 "ResourceType": one.type, "ResourceStatus": "CREATE_COMPLETE", "Timestamp": stack.made}
                for logical, one in stack.resources.items()]
        return ActionResult({"StackResources": rows})

    def get_template(self) -> ActionResult:
        """The text as it was given."""
        with errors():
            return ActionResult({"TemplateBody": self.stacks.find(self._name()).body, "StagesAvailable": ["Original", "Processed"]})

    def _name(self) -> str:
        return str(self._get_param("StackName"))

    def _body(self) -> str:
        if not self._get_param("TemplateBody"):
            raise Refused("ValidationError", "Either Template URL or Template Body must be specified. (The local cloud knows bodies only.)")
        return str(self._get_param("TemplateBody"))

    def _values(self) -> dict[str, str]:
        return {one["ParameterKey"]: one["ParameterValue"] for one in self._get_param("Parameters") or []}

    def _tags(self) -> dict[str, str]:
        return {one["Key"]: one["Value"] for one in self._get_param("Tags") or []}

    def _capabilities(self) -> list[str]:
        return list(self._get_param("Capabilities") or [])


class StackError(ServiceException):
    """An error document. A class of ours, as moto looks a service up in the name of the module that an exception of its own is from."""


@contextmanager
def errors() -> Iterator[None]:
    """Turns Refused into what moto writes as an error document of the query protocol."""
    try:
        yield
    except Refused as refused:
        raise StackError(refused.code, refused.message) from refused


def _stack(stack: Stack) -> dict[str, Any]:
    return {"StackId": stack.id, "StackName": stack.name, "StackStatus": stack.status, "StackStatusReason": stack.reason or None,
            "CreationTime": stack.made, "LastUpdatedTime": stack.changed, "DeletionTime": stack.gone,
            "Description": stack.template.get("Description"), "Capabilities": ["CAPABILITY_IAM"],
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in stack.parameters.items()],
            "Tags": [{"Key": key, "Value": value} for key, value in stack.tags.items()]}


def _event(stack: Stack, event: Event) -> dict[str, Any]:
    return {"StackId": stack.id, "StackName": stack.name, "EventId": event.event, "LogicalResourceId": event.logical,
            "PhysicalResourceId": event.id, "ResourceType": event.type, "ResourceStatus": event.status,
            "ResourceStatusReason": event.reason or None, "Timestamp": event.at}
