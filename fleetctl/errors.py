"""Everything fleetctl raises. Each error says what happened, to which thing, what is left running, and what to do.

FleetError
├─ NotConnected        no session yet
├─ RequestInvalid      a launch request, alias or argument is wrong; nothing was sent
│   └─ UserDataTooLarge
├─ ProfileError        a named profile lacks something or cannot be read
├─ LedgerError         the journal is held by another session, or cannot be written
├─ AwsError            AWS refused or could not be reached
│   ├─ Throttled · Denied · Capacity · Quota · PriceTooLow · Network · NotFound
├─ ChannelSilent       reports do not come back through SNS and SQS
├─ LaunchFailed        a launch ended below its minimum
│   ├─ ScriptFailed · NeverReported · LaunchCancelled
├─ StillBilling        a teardown could not prove that everything is gone
├─ MachineError        a machine could not be reached over SSH
└─ LocalCloudError     the local cloud did not start or broke
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class FleetError(Exception):
    """The root. `left` names what is still running (and so costs money); `todo` is the next thing to do."""

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

    def __init__(self, what: str, *, alias: str | None = None, path: Sequence[str | int] = (), found: Any = None, todo: str = "") -> None:
        self.alias, self.path, self.found = alias, tuple(path), found
        super().__init__(what, todo=todo, alias=alias, path=tuple(path), found=found)


class UserDataTooLarge(RequestInvalid):
    """The boot script does not fit into EC2's 16,384 bytes of user data."""


class ProfileError(FleetError):
    """A profile is missing, unreadable, or lacks what a request asks it for."""


class LedgerError(FleetError):
    """The ledger is locked by a living session, or the disk refuses to hold it."""


class AwsError(FleetError):
    """An AWS call failed. `service`, `operation`, `code` and `request_id` are fields of the error."""

    def __init__(
        self, what: str, *, service: str, operation: str, code: str, request_id: str = "", todo: str = "", left: Sequence[str] = ()
    ) -> None:
        self.service, self.operation, self.code, self.request_id = service, operation, code, request_id
        super().__init__(what, todo=todo, left=left, service=service, operation=operation, code=code, request_id=request_id)


class Throttled(AwsError):
    """AWS asked us to slow down, and went on asking after every retry."""


class Denied(AwsError):
    """The credentials do not allow the call, or are not valid."""


class Capacity(AwsError):
    """The capacity pool has no machine to give."""


class Quota(AwsError):
    """An account limit is reached: more capacity elsewhere in the region will not help."""


class PriceTooLow(AwsError):
    """The maximum price is below the spot price."""


class Network(AwsError):
    """AWS could not be reached, or the answer was lost: whether the call was applied is not known."""


class NotFound(AwsError):
    """The thing named in a call does not exist (or is not visible yet)."""


class ChannelSilent(FleetError):
    """A probe published to the session's topic did not come back through its queue."""


class LaunchFailed(FleetError):
    """A launch ended with fewer machines than its minimum. `machines` holds what is known of each machine."""

    def __init__(
        self, what: str, *, machines: Mapping[str, Any] | None = None, left: Sequence[str] = (), todo: str = "", **fields: Any
    ) -> None:
        self.machines = dict(machines or {})
        super().__init__(what, left=left, todo=todo, **fields)


class ScriptFailed(LaunchFailed):
    """Too many machines' commands failed; `exit_code` and `tail` are those of the first."""

    def __init__(self, what: str, *, exit_code: int | None, tail: str, **fields: Any) -> None:
        self.exit_code, self.tail = exit_code, tail
        super().__init__(what, exit_code=exit_code, tail=tail, **fields)


class NeverReported(LaunchFailed):
    """The deadline came before the minimum had reported."""


class LaunchCancelled(LaunchFailed):
    """The launch was cancelled, or torn down, before it resolved."""


class StillBilling(FleetError):
    """A teardown could not prove everything gone; `receipt.remaining` lists what may still cost money."""

    def __init__(self, receipt: Any) -> None:
        self.receipt = receipt
        remaining = [str(line) for line in receipt.remaining]
        super().__init__(
            f"{len(remaining)} thing(s) are not proved to be gone",
            left=remaining,
            todo="call teardown_all() again; if it repeats this, end them in the AWS console",
        )


class MachineError(FleetError):
    """A machine could not be reached over SSH, or is not the machine that reported."""


class LocalCloudError(FleetError):
    """The local cloud did not start, or one of its parts broke."""
