"""Everything fleetctl raises. Each error says what happened, to which thing, what is left running, and what to do.

FleetError
├─ NotConnected        no session yet
├─ RequestInvalid      a launch request, alias or argument is wrong; nothing was sent
│   └─ UserDataTooLarge
├─ ProfileError        a named profile lacks something or cannot be read
├─ LedgerError         the journal is held by another session, or cannot be written
├─ AwsError            AWS refused or could not be reached
│   ├─ Throttled · Denied · Capacity · Quota · PriceTooLow · BadRequest · Network · NotFound
├─ ChannelSilent       reports do not come back through SNS and SQS
├─ LaunchFailed        a launch ended below its minimum
│   ├─ TooFewMachines · ScriptFailed · NeverReported · LaunchCancelled
├─ StillBilling        a teardown could not prove that everything is gone
├─ BudgetExceeded      a launch or an extension could cost more than the session's budget; nothing was sent
├─ SetupFailed         an account's set-up could not be planned, completed or removed
├─ MachineError        a machine could not be reached over SSH
│   ├─ CommandFailed   a command on it has not succeeded
│   └─ HomeError       a user's files could not be brought to it, or saved from it
└─ LocalCloudError     the local cloud did not start or broke

`kind` says in one word what to mend, whichever of these brings the news: a lack of capacity is "capacity" as the refusal of a call and
as the status of requests that have waited in vain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What went wrong, in one word."""

    CAPACITY = "capacity"
    QUOTA = "quota"
    PRICE = "price"
    PERMISSION = "permission"
    THROTTLED = "throttled"
    NETWORK = "network"
    INVALID = "invalid"
    MISSING = "missing"  # what a call names does not exist
    SCRIPT = "script"  # the machines' commands failed
    UNREPORTED = "unreported"  # machines ran and never said that they were ready
    CHANNEL = "channel"  # nothing comes back through the session's own channel
    INTERRUPTED = "interrupted"  # AWS took machines back before they were ready
    ENDED = "ended"  # machines were ended by somebody else, or by themselves
    CANCELLED = "cancelled"
    BILLING = "billing"  # something may still cost money
    BUDGET = "budget"  # it could cost more than the session may
    AWS = "aws"  # AWS broke, or says what nobody here knows
    OTHER = "other"


class FleetError(Exception):
    """The root. `left` names what is still running (and so costs money); `todo` is the next thing to do; `kind` is the kind of trouble."""

    kind = Kind.OTHER

    def __init__(self, what: str, *, left: Sequence[str] = (), todo: str = "", **fields: Any) -> None:
        self.what, self.todo, self.fields = what, todo, dict(fields)
        self.left: tuple[str, ...] = tuple(left)
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        if self.left:
            text += f"\nleft running: {', '.join(self.left)}"
        if self.todo:
            text += f"\nto do: {self.todo}"
        return text


class NotConnected(FleetError):
    """A verb was called before `connect(…)`."""

    def __init__(self) -> None:
        super().__init__("there is no session yet", todo='call connect("local"), connect("aws") or connect("name of a profile") first')


class RequestInvalid(FleetError):
    """A launch request or an argument is wrong. Raised before anything is sent, so nothing is running because of it.

    `alias` and `path` say where, `found` is what stands there.
    """

    kind = Kind.INVALID

    def __init__(self, what: str, *, alias: str | None = None, path: Sequence[str | int] = (), found: Any = None, todo: str = "") -> None:
        self.alias, self.path, self.found = alias, tuple(path), found
        super().__init__(what, todo=todo, alias=alias, path=tuple(path), found=found)


class UserDataTooLarge(RequestInvalid):
    """The boot script does not fit into EC2's 16,384 bytes of user data."""


class ProfileError(FleetError):
    """A profile is missing, unreadable, or lacks what a request asks it for."""

    kind = Kind.INVALID


class LedgerError(FleetError):
    """The ledger is locked by a living session, or the disk refuses to hold it."""


class AwsError(FleetError):
    """An AWS call failed. `service`, `operation`, `code` and `request_id` are fields of the error."""

    kind = Kind.AWS

    def __init__(
        self, what: str, *, service: str, operation: str, code: str, request_id: str = "", todo: str = "", left: Sequence[str] = ()
    ) -> None:
        self.service, self.operation, self.code, self.request_id = service, operation, code, request_id
        super().__init__(what, todo=todo, left=left, service=service, operation=operation, code=code, request_id=request_id)


class Throttled(AwsError):
    """AWS asked us to slow down, and went on asking after every retry."""

    kind = Kind.THROTTLED


class Denied(AwsError):
    """The credentials do not allow the call, or are not valid.

    Where AWS's encoded message could be read (it takes the right to sts:DecodeAuthorizationMessage), `action`, `resource` and `principal`
    say what was not allowed on what to whom, and `explicit` whether a policy forbids it rather than none allowing it.
    """

    kind = Kind.PERMISSION
    action, resource, principal, explicit = "", "", "", False


class Capacity(AwsError):
    """The capacity pool has no machine to give."""

    kind = Kind.CAPACITY


class Quota(AwsError):
    """An account limit is reached: more capacity elsewhere in the region will not help."""

    kind = Kind.QUOTA


class PriceTooLow(AwsError):
    """The maximum price is below the spot price."""

    kind = Kind.PRICE


class BadRequest(AwsError):
    """AWS does not take the request as it is: a value that is wrong, unknown or does not fit the others."""

    kind = Kind.INVALID


class Network(AwsError):
    """AWS could not be reached, or the answer was lost: whether the call was applied is not known."""

    kind = Kind.NETWORK


class NotFound(AwsError):
    """The thing named in a call does not exist (or is not visible yet)."""

    kind = Kind.MISSING


class ChannelSilent(FleetError):
    """A probe published to the session's topic did not come back through its queue."""

    kind = Kind.CHANNEL


class LaunchFailed(FleetError):
    """A launch ended with fewer machines than its minimum. `machines` holds what is known of each machine.

    `codes` counts AWS's words for what it did not give, or took back. `ended` is the number of instances that were terminated because of
    this; None where not all that the launch had made could be ended: `left` then says what.
    """

    def __init__(
        self, what: str, *, machines: Mapping[str, Any] | None = None, codes: Mapping[str, int] | None = None, kind: Kind | None = None,
        left: Sequence[str] = (), todo: str = "", **fields: Any,
    ) -> None:  # fmt: skip
        self.machines, self.codes = dict(machines or {}), dict(codes or {})
        self.kind = kind or self.kind
        self.ended: int | None = None
        super().__init__(what, left=left, todo=todo, codes=self.codes, kind=self.kind, **fields)

    def __str__(self) -> str:
        text = super().__str__()
        if self.ended is None or self.left:
            return text
        gone = f"its {self.ended} instance(s) were terminated" if self.ended else "it had no instance"
        return f"{text}\nleft running: nothing; {gone}"


class TooFewMachines(LaunchFailed):
    """AWS gave fewer machines than the minimum, or took some back before they were ready: `kind` says why, `codes` in AWS's words.

    `shortfalls` are the capacity pools that gave none, as AWS named them: code, message, type and place of each.
    """

    def __init__(self, what: str, *, shortfalls: Sequence[Any] = (), **fields: Any) -> None:
        self.shortfalls = tuple(shortfalls)
        super().__init__(what, shortfalls=self.shortfalls, **fields)


class ScriptFailed(LaunchFailed):
    """Too many machines' commands failed; `exit_code` and `tail` are those of the first."""

    kind = Kind.SCRIPT

    def __init__(self, what: str, *, exit_code: int | None, tail: str, **fields: Any) -> None:
        self.exit_code, self.tail = exit_code, tail
        super().__init__(what, exit_code=exit_code, tail=tail, **fields)


class NeverReported(LaunchFailed):
    """The deadline came before the minimum had reported."""

    kind = Kind.UNREPORTED


class LaunchCancelled(LaunchFailed):
    """The launch was cancelled, or torn down, before it resolved."""

    kind = Kind.CANCELLED


class StillBilling(FleetError):
    """A teardown could not prove everything gone; `receipt.remaining` lists what may still cost money."""

    kind = Kind.BILLING

    def __init__(self, receipt: Any) -> None:
        self.receipt = receipt
        remaining = [str(line) for line in receipt.remaining]
        super().__init__(
            f"{len(remaining)} thing(s) are not proved to be gone",
            left=remaining,
            todo="; ".join(receipt.todo) or "call teardown_all() again; if it repeats this, end them in the AWS console",
        )


class BudgetExceeded(FleetError):
    """The worst case of a launch, or of an extension, would pass the session's budget. Nothing was sent.

    USD: `budget`, `spent` so far, `alive` (what runs may still cost) and `asked` (what this would add).
    """

    kind = Kind.BUDGET

    def __init__(
        self, what: str, *, budget: float, spent: float, alive: float, asked: float, left: Sequence[str] = (), todo: str = ""
    ) -> None:
        self.budget, self.spent, self.alive, self.asked = budget, spent, alive, asked
        super().__init__(what, left=left, todo=todo, budget=budget, spent=spent, alive=alive, asked=asked)


class SetupFailed(FleetError):
    """A set-up could not be planned, completed or removed. What was done stays done, and the same command goes on from there.

    `failed` are the steps with their errors; `denied` the calls that AWS did not allow, as (service, operation), and `policy` a document
    that would allow them. `documents` are the rights, by thing, that were to be granted and could not: somebody else may grant them.
    """

    def __init__(
        self,
        what: str,
        *,
        failed: Sequence[tuple[Any, FleetError]] = (),
        denied: Sequence[tuple[str, str]] = (),
        policy: Mapping[str, Any] | None = None,
        documents: Mapping[str, Any] | None = None,
        left: Sequence[str] = (),
        todo: str = "",
    ) -> None:
        self.failed, self.denied, self.policy, self.documents = tuple(failed), tuple(denied), policy, dict(documents or {})
        self.kind = Kind.PERMISSION if denied else next((error.kind for _, error in self.failed), Kind.OTHER)
        super().__init__(what, left=left, todo=todo, denied=[f"{service} {operation}" for service, operation in self.denied])


class MachineError(FleetError):
    """A machine could not be reached over SSH, or is not the machine that reported."""


class CommandFailed(MachineError):
    """A command on a machine ended with something else than exit code 0; `exit_status` is that, or minus a signal's number."""

    kind = Kind.SCRIPT

    def __init__(self, what: str, *, exit_status: int, **fields: Any) -> None:
        self.exit_status = exit_status
        super().__init__(what, exit_status=exit_status, **fields)


class HomeError(MachineError):
    """A home could not be brought to a machine, or saved from it. Nothing of it is lost: `what` says where it is.

    `trouble` is one word: held, denied, role, missing, occupied, space, broken (bringing); conflict, unreadable, busy, gone, left (saving);
    network, refused, disk, python.
    """

    def __init__(self, what: str, *, trouble: str, left: Sequence[str] = (), todo: str = "", **fields: Any) -> None:
        self.trouble = trouble
        self.kind = Kind.PERMISSION if trouble in ("denied", "role") else Kind.NETWORK if trouble == "network" else Kind.OTHER
        super().__init__(what, left=left, todo=todo, trouble=trouble, **fields)


class LocalCloudError(FleetError):
    """The local cloud did not start, or one of its parts broke."""
