"""A machine, and a launch's machines as a mapping. Views over what reports and listings have said: they go on changing."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, overload

from .command import Command, Done, command
from .cost import Span
from .errors import MachineError, RequestInvalid
from .futures import Pending
from .lifecycle import MachineState, Slot
from .link import Link, Where
from .outcomes import AT_ONCE, Outcomes, on_each

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .ssh import Forward

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
    "tail",
    "price",
    "taken_at",
    "rebalance",
)
SHOWN = ("instance_id", "state", "type", "zone", "ip", "host", "price")


class Home(Protocol):
    """What a machine needs of its session."""

    key_file: Path | None

    @property
    def secret(self) -> str:
        """The password of the grid's server and the grid's key."""

    handshakes: asyncio.Semaphore

    def submit(self, work: Coroutine[Any, Any, Any], what: str) -> Pending[Any]:
        """Run a coroutine on the session's loop."""

    def keep(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this when the session tears down; it must bear being called when there is nothing left to close."""


class Machine(Mapping[str, Any]):
    """One machine. What it knows of itself stands in attributes and in items alike: `machine.ip`, `machine["ip"]`.

    `ip` is its private IPv4, `host` its public DNS name, `state` a MachineState, `request_id` its spot request (None without one),
    `price` USD an hour: what the spot market takes where that is known, else the cap; `per_hour` has its volumes and public address too.
    `via` may be set to another machine that SSH is to go through, as into a private subnet.
    `taken_at` is the time at which EC2 takes it back,
    `rebalance` when EC2 recommended to rebalance, which is advice and no more (both ISO, or empty).
    """

    __slots__ = ("_link", "_rate", "_slot", "_span", "home", "via")

    def __init__(
        self, slot: Slot, home: Home, rate: Callable[[Slot], float | None], span: Callable[[Slot], Span | None] = lambda slot: None
    ) -> None:
        self._slot, self.home, self._rate, self._span = slot, home, rate, span
        self._link: Link | None = None
        self.via: Machine | None = None

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
        return getattr(report, name) if report is not None else None

    def run(
        self, what: str | Sequence[str] | Command, *, check: bool = True, cwd: str = "", env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"", timeout: float | None = None, combine: bool = False,
    ) -> Pending[Done]:  # fmt: skip
        """Run shell text, or the words of a program, as the login user. Await it for what it wrote, and its exit code.

        The options are those of `Command`. Raises CommandFailed unless it ends with exit code 0 (`check=False`: never), MachineError when
        the machine cannot be reached, or `timeout` is over.
        """
        to_do = command(what, cwd=cwd, env=env, stdin=stdin, timeout=timeout, combine=combine)

        async def run() -> Done:
            done = await self.link().run(to_do)
            return done.check() if check else done

        return self.home.submit(run(), f"{to_do!r} on {self.instance_id}")

    def put(self, local: str | Path, remote: str = ".") -> Pending[None]:
        """Copy a file or a tree to the machine: into `remote` if that is a directory there, else under that name. Raises MachineError."""
        path = Path(local).expanduser().absolute()
        return self.home.submit(self._over(lambda link: link.put(path, remote)), f"{path.name} to {self.instance_id}")

    @overload
    def get(self, name: str, default: Any = None, /) -> Any: ...

    @overload
    def get(self, remote: str, /, *, to: str | Path) -> Pending[None]: ...

    def get(self, name: str, default: Any = None, /, *, to: str | Path | None = None) -> Any:
        """With `to`, copy a file or a tree from the machine: into `to` if that is a directory here, else under that name.

        Without it, what a mapping's `get` gives: an item, or the default. Raises MachineError.
        """
        if to is None:
            return super().get(name, default)
        path = Path(to).expanduser().absolute()
        return self.home.submit(self._over(lambda link: link.get(name, path)), f"{name} from {self.instance_id}")

    def forward(self, port: int, *, host: str | None = None) -> Pending[Forward]:
        """Open an SSH tunnel from a Unix socket here to `port` on the machine's private address, or on `host` seen from it.

        Await it for a Forward, whose `path` is the socket. Raises MachineError when the machine has not reported or cannot be reached.
        """
        return self.home.submit(self._forward(port, host), f"forward to port {port} of {self.instance_id}")

    async def _forward(self, port: int, host: str | None) -> Forward:
        made = await self.link().forward(port, host)
        self.home.keep(made.aclose)
        return made

    async def _over(self, work: Callable[[Link], Awaitable[T]]) -> T:
        return await work(self.link())

    def link(self) -> Link:
        """The SSH connection that all of this goes through. On the session's loop."""
        if self._link is None:
            self._link = Link(self._where, self.home.handshakes, lambda: self.via.link() if self.via is not None else None)
            self.home.keep(self._link.aclose)
        return self._link

    def _where(self) -> Where:
        report = self._slot.report
        if report is None:
            raise MachineError(f"{self!r} has not reported, so its address and host key are not known", todo="wait for its launch")
        host = report.ip if self.via is not None else report.public_ip or report.host or report.ip
        return Where(host, report.ssh_port, report.user, report.ssh_key, self.home.key_file, report.instance, report.ip)


class Machines(Mapping[str, Machine]):
    """A launch's machines by spot request id (instance id where there is no spot request).

    `.succeeded`: ready, within the wanted count. `.extra`: ready beyond it; they cost money until the teardown. `.failed`: never ready and
    not waited for any more. While the launch is under way there are others, which are still expected.
    """

    def __init__(self, machines: Mapping[str, Machine], succeeded: tuple[str, ...], extra: tuple[str, ...]) -> None:
        self._all = dict(machines)
        self._succeeded, self._extra = succeeded, extra

    def __getitem__(self, key: str) -> Machine:
        return self._all[key]

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

    def run(
        self, what: str | Sequence[str] | Command, *, check: bool = False, cwd: str = "", env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"", timeout: float | None = None, combine: bool = False, at_once: int = AT_ONCE,
    ) -> Pending[Outcomes[Done]]:  # fmt: skip
        """Run a command on all machines that are ready now, at most `at_once` at a time. Failures are values; see `Machine.run`."""
        to_do = command(what, cwd=cwd, env=env, stdin=stdin, timeout=timeout, combine=combine)
        return self._each(repr(to_do)[1:-1], lambda machine: machine.link().run(to_do), check, at_once)

    def put(self, local: str | Path, remote: str = ".", *, check: bool = False, at_once: int = AT_ONCE) -> Pending[Outcomes[None]]:
        """Copy a file or a tree to all machines that are ready now; see `Machine.put`."""
        path = Path(local).expanduser().absolute()
        return self._each(f"put {path.name}", lambda machine: machine.link().put(path, remote), check, at_once)

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
        if to is None:
            return super().get(name, default)
        into = Path(to).expanduser().absolute()

        async def fetch(machine: Machine) -> Path:
            directory = into / str(machine.instance_id)
            directory.mkdir(parents=True, exist_ok=True)
            await machine.link().get(name, directory)
            return directory

        return self._each(f"get {name}", fetch, check, at_once)

    def _each(self, what: str, work: Callable[[Machine], Awaitable[T]], check: bool, at_once: int) -> Pending[Outcomes[T]]:
        ready = self.up
        if not ready:
            raise MachineError(f"no machine of {self!r} is ready, so there is none for: {what}", todo="wait for the launch")
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise RequestInvalid("at_once is how many machines at a time, at least 1", alias="at_once", found=at_once)

        async def all_of_them() -> Outcomes[T]:
            outcomes = await on_each(what, {str(one.instance_id): partial(work, one) for one in ready}, at_once)
            return outcomes.check() if check else outcomes

        return ready[0].home.submit(all_of_them(), f"{what} on {len(ready)} machines")

    @property
    def per_hour(self) -> float:
        """USD an hour of every machine that runs, with volumes and addresses."""
        return sum(machine.per_hour for machine in self._all.values())

    def __repr__(self) -> str:
        failed, extra = len(self.failed), len(self._extra)
        more = {"expected": len(self) - len(self._succeeded) - extra - failed, "extra": extra, "interrupted": len(self.interrupted)}
        shown = "".join(f", {count} {what}" for what, count in more.items() if count)
        return f"<machines: {len(self._succeeded)} up, {failed} failed{shown}, ${self.per_hour:.4f}/h>"

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
