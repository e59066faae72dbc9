"""CloudFormation's stacks: what becomes of each, resource by resource, on a thread of its own.

    create   CREATE_IN_PROGRESS → CREATE_COMPLETE;  a failure → with OnFailure DELETE: DELETE_…,  ROLLBACK: ROLLBACK_COMPLETE,
                                                    DO_NOTHING: CREATE_FAILED
    update   UPDATE_IN_PROGRESS → UPDATE_COMPLETE;  a failure → UPDATE_ROLLBACK_IN_PROGRESS → UPDATE_ROLLBACK_COMPLETE
    delete   DELETE_IN_PROGRESS → DELETE_COMPLETE;  a failure → DELETE_FAILED

A stack that is gone is found by its id only.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fleetctl.local import blueprints, building
from fleetctl.local.blueprints import Template, invalid
from fleetctl.local.book import Refused

log = logging.getLogger(__name__)

GONE = "DELETE_COMPLETE"
UPDATABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
INTERRUPTIBLE = ("CREATE_IN_PROGRESS", "DELETE_IN_PROGRESS")   # of what is under way, what DeleteStack is taken for
FAILURES = ("DELETE", "ROLLBACK", "DO_NOTHING")


@dataclass
class Resource:
    """One resource of a stack as it is there."""

    type: str
    id: str
    properties: Mapping[str, Any]
    attributes: dict[str, str]


@dataclass
class Event:
    """What happened to a resource, or to the stack, which is named like one."""

    logical: str
    id: str
    type: str
    status: str
    reason: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    event: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Stack:
    """A stack. `resources` stand in the order in which they were made."""

    id: str
    name: str
    body: str
    template: Template
    parameters: dict[str, str]
    tags: dict[str, str]
    status: str = ""
    reason: str = ""
    made: datetime = field(default_factory=lambda: datetime.now(UTC))
    changed: datetime | None = None
    gone: datetime | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    working: threading.Lock = field(default_factory=threading.Lock, repr=False)
    stop: bool = False   # a deletion waits for what is under way

    def become(self, status: str, reason: str = "") -> None:
        """Another status, and its event."""
        self.status, self.reason = status, reason
        self.gone = datetime.now(UTC) if status == GONE else None
        self.events.append(Event(self.name, self.id, "AWS::CloudFormation::Stack", status, reason))

    def note(self, logical: str, resource: str, status: str, id: str = "", reason: str = "") -> None:
        """An event of a resource."""
        self.events.append(Event(logical, id, resource, status, reason))


class Stacks:
    """The stacks of one region of one account. `clients(service)` are boto3 clients that may do everything."""

    def __init__(self, account: str, region: str, clients: Callable[[str], Any]) -> None:
        self.account, self.region, self._clients = account, region, clients
        self._stacks: dict[str, Stack] = {}
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Stack]:
        """Every stack that is not gone, newest first."""
        return [one for one in reversed(self._stacks.values()) if one.status != GONE]

    def find(self, which: str) -> Stack:
        """By name, or by id. Raises Refused."""
        found = self._stacks.get(which) or next((one for one in self.all() if one.name == which), None)
        if found is None:
            raise invalid(f"Stack with id {which} does not exist")
        return found

    def create(self, name: str, body: str, given: Mapping[str, str], tags: dict[str, str], *, capabilities: list[str], token: str,
               on_failure: str) -> Stack:
        """Begin to make one. Raises Refused."""
        with self._lock:
            if token and token in self._tokens:
                return self._stacks[self._tokens[token]]
            if any(one.name == name for one in self.all()):
                raise Refused("AlreadyExistsException", f"Stack [{name}] already exists")
            if on_failure not in FAILURES:
                raise invalid(f"Value '{on_failure}' at 'onFailure' failed to satisfy constraint: one of {', '.join(FAILURES)}")
            template = self._checked(body, capabilities)
            id = f"arn:aws:cloudformation:{self.region}:{self.account}:stack/{name}/{uuid.uuid4()}"
            stack = Stack(id, name, body, template, blueprints.values(template, given), tags)
            self._stacks[id] = stack
            self._tokens[token] = id
            stack.become("CREATE_IN_PROGRESS", "User Initiated")
        self._begin(stack, lambda: self._make(stack, on_failure))
        return stack

    def update(self, stack: Stack, body: str, given: Mapping[str, str], tags: dict[str, str], *, capabilities: list[str]) -> None:
        """Begin to change one. Raises Refused."""
        with self._lock:
            if stack.status not in UPDATABLE:
                raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
            template = self._checked(body, capabilities)
            parameters = blueprints.values(template, given)
            if (template, parameters, tags) == (stack.template, stack.parameters, stack.tags):
                raise invalid("No updates are to be performed.")
            before = (stack.body, stack.template, stack.parameters, stack.tags)
            stack.body, stack.template, stack.parameters, stack.tags = body, template, parameters, tags
            stack.become("UPDATE_IN_PROGRESS", "User Initiated")
        self._begin(stack, lambda: self._change(stack, before))

    def delete(self, stack: Stack) -> None:
        """Begin to end one. Raises Refused for one that is being changed."""
        with self._lock:
            if stack.status.endswith("_IN_PROGRESS") and stack.status not in INTERRUPTIBLE:
                raise invalid(f"Stack [{stack.name}] cannot be deleted while in status {stack.status}")
            if stack.status in (GONE, "DELETE_IN_PROGRESS"):
                return
            stack.stop = True
            stack.become("DELETE_IN_PROGRESS", "User Initiated")
        self._begin(stack, lambda: self._end(stack))

    def _checked(self, body: str, capabilities: list[str]) -> Template:
        template = blueprints.read(body)
        gives_rights = any(one["Type"] in blueprints.ROLES for one in template["Resources"].values())
        if gives_rights and not {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"} & set(capabilities):
            raise Refused("InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]")
        return template

    def _begin(self, stack: Stack, work: Callable[[], None]) -> None:
        def alone() -> None:
            with stack.working:
                try:
                    work()
                except Exception:   # a fault of ours: seen in the log, and by the stack's standing still
                    log.exception("the work on %s failed", stack.id)

        threading.Thread(target=alone, name=f"stack {stack.name}", daemon=True).start()

    # --- what the threads do -----------------------------------------------------------------------------------------------------------

    def _make(self, stack: Stack, on_failure: str) -> None:
        try:
            self._bring(stack)
        except Exception as error:   # whatever a service refuses with
            if stack.stop:
                return
            reason = f"The following resource(s) failed to create: {error}"
            if on_failure == "DO_NOTHING":
                stack.become("CREATE_FAILED", reason)
            elif on_failure == "DELETE":
                stack.become("DELETE_IN_PROGRESS", reason)
                self._end(stack)
            else:
                stack.become("ROLLBACK_IN_PROGRESS", reason)
                stack.become("ROLLBACK_COMPLETE" if self._clear(stack) else "ROLLBACK_FAILED")
        else:
            if not stack.stop:
                stack.become("CREATE_COMPLETE")

    def _change(self, stack: Stack, before: tuple[str, Template, dict[str, str], dict[str, str]]) -> None:
        try:
            self._bring(stack)
        except Exception as error:   # whatever a service refuses with
            stack.become("UPDATE_ROLLBACK_IN_PROGRESS", f"The following resource(s) failed to update: {error}")
            stack.body, stack.template, stack.parameters, stack.tags = before
            self._bring(stack)
            stack.become("UPDATE_ROLLBACK_COMPLETE")
        else:
            stack.changed = datetime.now(UTC)
            stack.become("UPDATE_COMPLETE")

    def _end(self, stack: Stack) -> None:
        stack.become(GONE if self._clear(stack) else "DELETE_FAILED")

    def _bring(self, stack: Stack) -> None:
        """Make and change until all is as the template says, then end what it does not have. Raises what a service refuses with."""
        known = {**stack.parameters, "AWS::Region": self.region, "AWS::Partition": "aws", "AWS::AccountId": self.account,
                 "AWS::StackName": stack.name, "AWS::StackId": stack.id}

        def attribute(logical: str, name: str) -> str:
            resource = stack.resources[logical]
            return resource.attributes[name] if name else resource.id

        over: list[Resource] = []
        for logical in blueprints.order(stack.template):
            if stack.stop:
                return
            wanted = stack.template["Resources"][logical]
            properties = blueprints.filled(wanted.get("Properties", {}), known, attribute)
            over += self._one(stack, logical, wanted["Type"], properties)
        gone = [logical for logical in stack.resources if logical not in stack.template["Resources"]]
        over += [stack.resources.pop(logical) for logical in reversed(gone)]
        for resource in over:
            building.BUILDERS[resource.type].end(self._clients, resource.id, resource.properties)

    def _one(self, stack: Stack, logical: str, type: str, properties: Mapping[str, Any]) -> Iterator[Resource]:
        """Bring one resource about; gives what it replaces."""
        there, builder = stack.resources.get(logical), building.BUILDERS[type]
        if there is not None and (there.type, there.properties) == (type, properties):
            return iter(())
        verb = "UPDATE" if there is not None and there.type == type and builder.change else "CREATE"
        stack.note(logical, type, f"{verb}_IN_PROGRESS", there.id if there else "")
        try:
            if there is not None and there.type == type and builder.change:
                builder.change(self._clients, there.id, there.properties, properties)
                there.properties = properties
                stack.note(logical, type, "UPDATE_COMPLETE", there.id)
                return iter(())
            tags = {**stack.tags, "aws:cloudformation:stack-name": stack.name}
            id, attributes = builder.make(self._clients, building.name(stack.name, logical), properties, tags)
        except Exception as error:   # whatever a service refuses with
            stack.note(logical, type, f"{verb}_FAILED", there.id if there else "", f"Resource handler returned message: \"{error}\"")
            raise
        stack.resources.pop(logical, None)
        stack.resources[logical] = Resource(type, id, properties, attributes)
        stack.note(logical, type, "CREATE_COMPLETE", id)
        return iter([there] if there is not None else ())

    def _clear(self, stack: Stack) -> bool:
        """End every resource, last made first; whether all are gone."""
        for logical, resource in reversed(list(stack.resources.items())):
            stack.note(logical, resource.type, "DELETE_IN_PROGRESS", resource.id)
            try:
                building.BUILDERS[resource.type].end(self._clients, resource.id, resource.properties)
            except Exception as error:   # whatever a service refuses with; what is gone already is gone
                if "NotFound" not in str(error) and "NoSuchEntity" not in str(error):
                    stack.note(logical, resource.type, "DELETE_FAILED", resource.id, str(error))
                    return False
            del stack.resources[logical]
            stack.note(logical, resource.type, "DELETE_COMPLETE", resource.id)
        return True

    def __repr__(self) -> str:
        return f"<Stacks {self.region}: {len(self.all())}>"
