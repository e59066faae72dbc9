"""A machine, and a launch's machines as a mapping. Views over what reports and listings have said: they go on changing."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, overload

from . import images
from .cloud import ec2
from .errors import FleetError, MachineError
from .lifecycle import MachineState, Slot
from .money.cost import Span
from .reach import holding
from .reach.diagnosis import Row, outside
from .reach.hands import Base, Hands, Many
from .reach.link import Where
from .reach.outcomes import AT_ONCE

if TYPE_CHECKING:
    from .futures import Pending
    from .messages import Report
    from .reach.outcomes import Outcomes

T = TypeVar("T")

FIELDS = (
    "instance_id",
    "ip",
    "public_ip",
    "host",
    "state",
    "request_id",
    "type",
    "zone",
    "user",
    "ssh_port",
    "ssh_key",
    "exit_code",
    "log_tail",
    "price",
    "taken_at",
    "rebalance",
)
SHOWN = ("instance_id", "state", "type", "zone", "ip", "host", "price")


class Home(Base, Protocol):
    """What a machine needs of its session."""

    key_file: Path | None

    @property
    def call(self) -> ec2.Call:
        """The journalled way to AWS."""

    @property
    def secret(self) -> str:
        """The password of the grid's server and the grid's key."""

    @property
    def region(self) -> str:
        """Where its machines are."""

    def heard(self, report: Report) -> None:
        """A machine has told where it is, past the channel."""


class Machine(Hands, Mapping[str, Any]):
    """One machine. What it knows of itself stands in attributes and in items alike: `machine.ip`, `machine["ip"]`.

    `ip` is its private IPv4, `host` its public DNS name, `state` a MachineState, `request_id` its spot request (None without one),
    `price` USD an hour: what the spot market takes where that is known, else the cap; `per_hour` has its volumes and public address too.
    `via` may be set to another machine that SSH is to go through, as into a private subnet.
    `log_tail` is the end of its commands' log, once they have failed, `taken_at` is the time at which EC2 takes it back,
    `rebalance` when EC2 recommended to rebalance, which is advice and no more (both ISO, or empty).
    """

    __slots__ = ("_rate", "_slot", "_span")
    home: Home

    def __init__(
        self, slot: Slot, home: Home, rate: Callable[[Slot], float | None], span: Callable[[Slot], Span | None] = lambda slot: None
    ) -> None:
        super().__init__(home)
        self._slot, self._rate, self._span = slot, rate, span

    def __repr__(self) -> str:
        shown = [self.instance_id or self._slot.key, self.state, self.type, self.ip, self.notice]
        return f"<machine {' '.join(str(one) for one in shown if one)}>"

    def __getitem__(self, name: str) -> Any:
        if name not in FIELDS:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(FIELDS)

    def __len__(self) -> int:
        return len(FIELDS)

    def __hash__(self) -> int:
        return hash(self._slot.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Machine) and other._slot is self._slot

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *FIELDS})

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a live view that belongs to its session and cannot be copied or sent; dict(machine) can")

    @property
    def called(self) -> str:
        """What messages call it: its instance id, as soon as it has one."""
        return self.instance_id or self._slot.key

    @property
    def instance_id(self) -> str | None:
        """EC2's id; None while there is no instance yet."""
        return self._slot.instance

    @property
    def request_id(self) -> str | None:
        """The spot request's id; None on demand, and as long as nothing has shown it."""
        return self._slot.key if self._slot.key != self._slot.instance else self._slot.request

    @property
    def state(self) -> MachineState:
        """Where the machine is now."""
        return self._slot.state

    @property
    def price(self) -> float | None:
        """USD an hour."""
        return self._rate(self._slot)

    @property
    def per_hour(self) -> float:
        """USD an hour with volumes and public address, as far as their prices are known; 0 before it runs and after its end."""
        span = self._span(self._slot)
        return span.per_hour if span is not None and span.ended is None else 0.0

    @property
    def notice(self) -> str:
        """What EC2 has said of its future, '' where that is nothing."""
        if self.state is MachineState.INTERRUPTED and self.taken_at:
            return f"until {self.taken_at}"
        return "rebalance recommended" if self.rebalance and self.state is not MachineState.GONE else ""

    @property
    def lost(self) -> bool:
        """Failed, gone, or not waited for any more, without ever having been ready."""
        return self._slot.lost or self._slot.dropped

    def __getattr__(self, name: str) -> Any:
        if name not in FIELDS:
            raise AttributeError(f"a machine has no {name!r}; it has {', '.join(FIELDS)}")
        report = self._slot.report
        return getattr(report, name.removeprefix("log_")) if report is not None else None

    @overload
    def get(self, name: str, default: Any = None, /) -> Any: ...

    @overload
    def get(self, remote: str, /, *, to: str | Path) -> Pending[None]: ...

    def get(self, name: str, default: Any = None, /, *, to: str | Path | None = None) -> Any:
        """With `to`, copy a file or a tree from the machine: into `to` if that is a directory here, else under that name.

        Without it, what a mapping's `get` gives: an item, or the default. Raises MachineError.
        """
        return super().get(name, default) if to is None else self._fetch(name, to)

    def look(self) -> Pending[MachineState]:
        """Ask the machine itself where it is, over SSH. Its launch hears of it too, as of a report, so `state` follows.

        Raises MachineError where it cannot be reached, or has no such word of its boot script.
        """
        return self.home.submit(self._look(), f"look at {self.called}")

    async def _look(self) -> MachineState:
        if (last := self._slot.report) is None:
            raise MachineError(f"{self!r} has not reported, so its address and host key are not known", todo="wait for its launch")
        report = await holding.report(self.link(), last.launch, last.instance)
        self.home.heard(report)
        return MachineState(report.present)

    def image(self, name: str, *, reboot: bool = True, recipe: str = "",
              told: images.Told = lambda what: None) -> Pending[images.Image]:  # fmt: skip
        """Make an image of this machine, for others to come up from. Await it for an `Image`, which is available then.

        EC2 reboots the machine for it, which ends what runs there; without `reboot` it does not, and files that are being written may be
        half in the image. All that is on its disks is in it: logs, and the session's secret where its commands have one. An image stays
        until `fleetctl image rm`. `recipe` marks what it was made of; `told` hears of the progress. Raises RequestInvalid, AwsError,
        MachineError.
        """
        if self.instance_id is None:
            raise MachineError(f"{self!r} has no instance yet, so there is nothing to make an image of", todo="wait for its launch")
        making = images.make(self.home.call, self.instance_id, name, self.home.region, reboot=reboot, recipe=recipe, told=told)
        return self.home.submit(making, f"image {name} of {self.instance_id}")

    async def _from_outside(self, silent: bool) -> list[Row]:
        """Its state by EC2; when it is silent, the status checks and what it has printed on its console too."""
        if self.instance_id is None:
            return [Row("state", f"{self.state}: there is no instance yet", False)]
        try:
            found = await ec2.instances(self.home.call, [self.instance_id])
            checks = await ec2.status(self.home.call, self.instance_id) if silent else None
            console = await ec2.console(self.home.call, self.instance_id) if silent else ""
        except FleetError as error:
            return [Row("state", f"EC2 does not tell: {error.what}")]
        return outside(found[0] if found else None, checks, console)

    def _where(self) -> Where:
        report = self._slot.report
        if report is None:
            raise MachineError(f"{self!r} has not reported, so its address and host key are not known", todo="wait for its launch")
        host = report.ip if self.via is not None else report.public_ip or report.host or report.ip
        return Where(host, report.ssh_port, report.user, report.ssh_key, self.home.key_file, report.instance, report.ip)


class Machines(Many, Mapping[str, Machine]):
    """A launch's machines by spot request id (instance id where there is no spot request).

    `.succeeded`: ready, within the wanted count. `.extra`: ready beyond it; they cost money until the teardown. `.failed`: never ready and
    not waited for any more. While the launch is under way there are others, which are still expected.
    """

    def __init__(self, machines: Mapping[str, Machine], succeeded: tuple[str, ...], extra: tuple[str, ...]) -> None:
        self._all = dict(machines)
        self._succeeded, self._extra = succeeded, extra

    def __getitem__(self, key: str) -> Machine:
        if key in self._all:
            return self._all[key]
        known = ", ".join([*map(repr, [*self._all][:3]), *["…"][: len(self._all) > 3]]) or "none"
        raise KeyError(f"{key!r} is none of the ids of these machines: {known}; the first of them is [*machines.values()][0]")

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def joined(self, others: Sequence[Machines]) -> Machines:
        """These and the machines of the launches that replaced some of them."""
        if not others:
            return self
        every = {key: machine for machines in (self, *others) for key, machine in machines.items()}
        succeeded, extra = self._succeeded, self._extra
        for one in others:
            succeeded, extra = succeeded + one._succeeded, extra + one._extra
        return Machines(every, succeeded, extra)

    @property
    def up(self) -> list[Machine]:
        """The machines that are ready at this moment."""
        return [machine for machine in self._all.values() if machine.state is MachineState.READY]

    @property
    def interrupted(self) -> list[Machine]:
        """The machines that EC2 is taking back."""
        return [machine for machine in self._all.values() if machine.state is MachineState.INTERRUPTED]

    @property
    def succeeded(self) -> list[Machine]:
        """The machines that were ready when the launch resolved."""
        return [self._all[key] for key in self._succeeded]

    @property
    def extra(self) -> list[Machine]:
        """Machines beyond the wanted count."""
        return [self._all[key] for key in self._extra]

    @property
    def failed(self) -> list[Machine]:
        """The machines that were never ready: a command failed, or they did not come."""
        return [machine for machine in self._all.values() if machine.lost]

    @overload
    def get(self, key: str, /) -> Machine | None: ...

    @overload
    def get(self, key: str, default: Machine | T, /) -> Machine | T: ...

    @overload
    def get(self, remote: str, /, *, to: str | Path, check: bool = False, at_once: int = AT_ONCE) -> Pending[Outcomes[Path]]: ...

    def get(
        self, name: str, default: Any = None, /, *, to: str | Path | None = None, check: bool = False, at_once: int = AT_ONCE
    ) -> Any:  # fmt: skip
        """With `to`, copy a file or a tree from all machines that are ready now, each into a directory of its instance id there.

        Without it, what a mapping's `get` gives: a machine, or the default.
        """
        return super().get(name, default) if to is None else self._fetch(name, to, check=check, at_once=at_once)

    def _reached(self) -> Sequence[Machine]:
        return self.up

    @property
    def per_hour(self) -> float:
        """USD an hour of every machine that runs, with volumes and addresses."""
        return sum(machine.per_hour for machine in self._all.values())

    def __repr__(self) -> str:
        failed, extra = len(self.failed), len(self._extra)
        were = Counter(machine.state for machine in (*self.succeeded, *self.extra))
        more = {"expected": len(self) - len(self._succeeded) - extra - failed, "extra": extra, "interrupted": len(self.interrupted),
                "failed since": were[MachineState.FAILED], "ended": were[MachineState.GONE]}  # fmt: skip
        shown = "".join(f", {count} {what}" for what, count in more.items() if count)
        up = sum(machine.state not in (MachineState.FAILED, MachineState.GONE) for machine in self.succeeded)
        return f"<machines: {up} up, {failed} failed{shown}, ${self.per_hour:.4f}/h>"

    def _repr_html_(self, most: int = 10) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in SHOWN)
        shown = list(self._all.values())
        rows = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(_cell(m, name))}</td>" for name in SHOWN) + "</tr>"
            for m in shown[:most]
        )
        more = f"<p>… and {len(shown) - most} more</p>" if len(shown) > most else ""
        return f"<b>{html.escape(repr(self)[1:-1])}</b><table><tr>{head}</tr>{rows}</table>{more}"


def _cell(machine: Machine, name: str) -> str:
    value = machine[name]
    if name == "price":
        return f"${value:.4f}/h" if value else "–"
    if name == "state" and machine.notice:
        return f"{value}, {machine.notice}"
    return str(value) if value not in (None, "") else "–"
