"""Hands on whatever SSH reaches: one machine or many, launched or there already. What it is, and how it is reached, others say."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..errors import FleetError, MachineError, RequestInvalid
from ..futures import Pending
from ..watched import Watched
from . import diagnosis, holding, terminal
from .command import Command, Done, command
from .diagnosis import Diagnosis, Row
from .holding import Event
from .link import Link, Where
from .outcomes import AT_ONCE, Outcomes, Tally, on_each

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .kernel import Kernel
    from .ssh import Forward

T = TypeVar("T")


class Base(Protocol):
    """What hands need: an event loop that goes on when nobody waits, and somebody who closes what is open at the end."""

    handshakes: asyncio.Semaphore

    def submit(self, work: Coroutine[Any, Any, Any], what: str) -> Pending[Any]:
        """Run a coroutine on that loop."""

    def keep(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this at the end; it must bear being called when there is nothing left to close."""


class Hands(ABC):
    """One machine that SSH reaches. `via` may be set to another one that SSH is to go through, as into a private subnet."""

    __slots__ = ("_link", "home", "via")
    home: Base

    def __init__(self, home: Base) -> None:
        self.home = home
        self._link: Link | None = None
        self.via: Hands | None = None

    @property
    @abstractmethod
    def called(self) -> str:
        """What messages call it."""

    @abstractmethod
    def _where(self) -> Where:
        """How it is reached now. Raises MachineError when that is not known."""

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

        return self.home.submit(run(), f"{to_do!r} on {self.called}")

    def put(self, local: str | Path, remote: str = ".") -> Pending[None]:
        """Copy a file or a tree to the machine: into `remote` if that is a directory there, else under that name. Raises MachineError."""
        path = Path(local).expanduser().absolute()
        return self.home.submit(self._over(lambda link: link.put(path, remote)), f"{path.name} to {self.called}")

    def _fetch(self, remote: str, to: str | Path) -> Pending[None]:
        """Copy a file or a tree from the machine: into `to` if that is a directory here, else under that name. Raises MachineError."""
        path = Path(to).expanduser().absolute()
        return self.home.submit(self._over(lambda link: link.get(remote, path)), f"{remote} from {self.called}")

    def forward(self, port: int, *, host: str | None = None) -> Pending[Forward]:
        """Open an SSH tunnel from a Unix socket here to `port` on the machine's private address, or on `host` seen from it.

        Await it for a Forward, whose `path` is the socket. Raises MachineError when the machine has not reported or cannot be reached.
        """
        return self.home.submit(self._forward(port, host), f"forward to port {port} of {self.called}")

    async def _forward(self, port: int, host: str | None) -> Forward:
        made = await self.link().forward(port, host)
        self.home.keep(made.aclose)
        return made

    async def tail(self, path: str, *, lines: int = 10) -> AsyncIterator[str]:
        """The last lines of a file there, and then each new one as it comes: `async for line in machine.tail("log"):`.

        It goes on where the file is replaced, and waits where there is none yet. What follows it on the machine ends when nobody iterates
        any more. Raises MachineError when the machine cannot be reached, or is lost.
        """
        if isinstance(lines, bool) or not isinstance(lines, int) or lines < 0:
            raise RequestInvalid("lines is how many of the last lines come first", alias="lines", found=lines)
        program = f"tail -n {lines} -F -- {shlex.quote(path)} 2>/dev/null"
        follower = await self.home.submit(self._over(lambda link: link.tied(program)), f"tail of {path} on {self.called}")
        try:
            while some := await self.home.submit(follower.lines(), f"lines of {path} on {self.called}"):
                for line in some:
                    yield line
        finally:
            with contextlib.suppress(FleetError):  # its loop has ended, and with it all that went over it
                self.home.submit(follower.aclose(), f"end of the tail of {path}")
        raise MachineError(f"the tail of {path} on {self.called} has ended", todo="look at the machine")

    async def shell(self, what: str | Sequence[str] | Command | None = None) -> int:
        """Lend this process' terminal to a shell on the machine, or to a program there, until it ends. Returns its exit code.

        It begins when it is awaited, for two must not read one terminal. Raises MachineError where there is no terminal, as in a notebook.
        """
        terminal.ours()
        line = None if what is None else command(what).line
        lent: int = await self.home.submit(self._over(lambda link: terminal.lend(link, line, self.called)), f"terminal on {self.called}")
        return lent

    async def ipython(self, *, python: str = "python3") -> int:
        """IPython on the machine, in this process' terminal, until it is left. Raises MachineError where there is none; see `shell`."""
        terminal.ours()
        if not (await self.run([python, "-c", "import IPython"], check=False)).ok:
            raise MachineError(f"{python} on {self.called} has no IPython", todo=f"`{python} -m pip install ipython` there")
        return await self.shell(f"exec {shlex.quote(python)} -m IPython")

    def kernel(self, *, python: str = "python3") -> Pending[Kernel]:
        """A Jupyter kernel on the machine: `async with await machine.kernel() as k: print(await k.execute("1 + 1"))`.

        It ends with `close()`, its block, or the connection. Raises MachineError where ipykernel is missing there, or jupyter_client here.
        """
        from . import kernel  # jupyter_client is for notebooks, and takes its time

        return self.home.submit(kernel.start(self, shlex.quote(python), self.home.keep), f"kernel on {self.called}")

    def diagnose(self) -> Pending[Diagnosis]:
        """What is the matter with it: SSH, clock, load, memory, disk, what runs, the log's end; where SSH does not answer, what EC2 says.

        Never raises for the machine: that it cannot be reached is a row of the table.
        """
        return self.home.submit(self._diagnose(), f"diagnosis of {self.called}")

    async def _diagnose(self) -> Diagnosis:
        sent = time.time()
        try:
            done = await self.link().run(Command(diagnosis.SCRIPT, timeout=diagnosis.SECONDS))
            rows = diagnosis.inside(done.stdout, sent, time.time())
        except MachineError as error:
            rows = [Row("ssh", error.what, False), *([Row("to do", error.todo)] if error.todo else [])]
        return Diagnosis(self.called, (*await self._from_outside(rows[0].ok is False), *rows))

    async def _from_outside(self, silent: bool) -> list[Row]:
        """What others say of it; more of that when it is `silent` itself."""
        return []

    def mark(self, name: str, text: str = "") -> Pending[None]:
        """Write down on the machine that something has happened to it, in one stroke; `events()` shows it to whoever looks there."""
        holding.named(name)
        return self.home.submit(self._over(lambda link: holding.mark(link, name, text)), f"mark {name} on {self.called}")

    def events(self) -> Pending[dict[str, Event]]:
        """What stands on the machine: events by name, with time and text, and the locks that are held (`lock.…`). Raises MachineError."""
        return self.home.submit(self._over(holding.events), f"events of {self.called}")

    @contextlib.asynccontextmanager
    async def lock(self, name: str, *, seconds: float = holding.SECONDS, wait: float = 0.0) -> AsyncIterator[None]:
        """A lock that stands on the machine, for the length of the block: `async with machine.lock("deploy"):`.

        It is renewed meanwhile, and ends `seconds` after its holder is gone. Raises MachineError, which names the holder, when another one
        has it for longer than `wait` seconds.
        """
        holding.named(name)
        lock = holding.held(self.link(), name, seconds, wait, self.called)
        entering = self.home.submit(lock.__aenter__(), f"lock {name} on {self.called}")
        try:
            await entering
        except asyncio.CancelledError:
            entering.stop()
            raise
        try:
            yield
        finally:
            await self.home.submit(lock.__aexit__(None, None, None), f"end of the lock {name} on {self.called}")

    async def _over(self, work: Callable[[Link], Awaitable[T]]) -> T:
        return await work(self.link())

    def link(self) -> Link:
        """The SSH connection that all of this goes through. On the loop of its home."""
        if self._link is None:
            self._link = Link(self._where, self.home.handshakes, lambda: self.via.link() if self.via is not None else None)
            self.home.keep(self._link.aclose)
        return self._link


class Work(Watched["Outcomes[T]"], Generic[T]):
    """The same work on many machines, under way. Ctrl-C in `.result()` stops it, `cancel()` too: what has been done stays done."""

    patience = 1.0  # most of it is done sooner
    again = "Await it again, or end it with .cancel()"

    def __init__(self, pending: Pending[Outcomes[T]], tally: Tally) -> None:
        super().__init__(pending._future, pending._what)
        self._tally = tally

    def progress(self) -> Tally:
        """How many machines have done it."""
        return self._tally

    def cancel(self) -> None:
        """Stop it where it is. Commands that run on machines are ended."""
        self.stop()

    def _give_up(self) -> None:
        self.stop()


class Many:
    """Many machines that SSH reaches; failures are values."""

    def _reached(self) -> Sequence[Hands]:
        """Those that can be worked on now."""
        raise NotImplementedError

    def run(
        self, what: str | Sequence[str] | Command, *, check: bool = False, cwd: str = "", env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"", timeout: float | None = None, combine: bool = False, at_once: int = AT_ONCE,
    ) -> Work[Done]:  # fmt: skip
        """Run a command on all machines that are ready now, at most `at_once` at a time. Failures are values; see `Machine.run`."""
        to_do = command(what, cwd=cwd, env=env, stdin=stdin, timeout=timeout, combine=combine)
        return self._each(repr(to_do)[1:-1], lambda machine: machine.link().run(to_do), check, at_once)

    def put(self, local: str | Path, remote: str = ".", *, check: bool = False, at_once: int = AT_ONCE) -> Work[None]:
        """Copy a file or a tree to all machines that are ready now; see `Machine.put`."""
        path = Path(local).expanduser().absolute()
        return self._each(f"put {path.name}", lambda machine: machine.link().put(path, remote), check, at_once)

    def _fetch(self, remote: str, to: str | Path, *, check: bool = False, at_once: int = AT_ONCE) -> Work[Path]:
        """Copy a file or a tree from all machines that are ready now, each into a directory of its own name in `to`."""
        into = Path(to).expanduser().absolute()

        async def one(machine: Hands) -> Path:
            directory = into / machine.called
            directory.mkdir(parents=True, exist_ok=True)
            await machine.link().get(remote, directory)
            return directory

        return self._each(f"get {remote}", one, check, at_once)

    def _each(self, what: str, work: Callable[[Hands], Awaitable[T]], check: bool, at_once: int) -> Work[T]:
        ready = self._reached()
        if not ready:
            raise MachineError(f"no machine of {self!r} is ready, so there is none for: {what}", todo="wait for the launch")
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise RequestInvalid("at_once is how many machines at a time, at least 1", alias="at_once", found=at_once)

        tally = Tally(what, len(ready))

        async def all_of_them() -> Outcomes[T]:
            outcomes = await on_each(what, {one.called: partial(work, one) for one in ready}, at_once, tally)
            return outcomes.check() if check else outcomes

        return Work(ready[0].home.submit(all_of_them(), f"{what} on {len(ready)} machines"), tally)
