"""The fabric of machines that exist already: reached as ~/.ssh/config says, with the keys and the agent that are there, and known by
~/.ssh/known_hosts. A host key that is not known is an error that shows it, never a question and never a new line in a file.

    with hosts(["db", "me@10.0.0.7:2222"]) as machines:
        print(machines.run("uptime").result())

They cost nothing here, so no session, ledger or cloud is needed. They have an event loop of their own, which ends with `close()`, with the
block, or with Python.
"""

from __future__ import annotations

import asyncio
import atexit
import re
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

from ..background import CLOSE_SECONDS, Background
from ..errors import FleetError, RequestInvalid
from ..futures import Pending
from .hands import Base, Hands, Many
from .link import HANDSHAKES, Where
from .outcomes import AT_ONCE, Outcomes
from .ssh import Address, Found, look_up

T = TypeVar("T")

_TEXT = re.compile(r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[\w:%.]+)\]|(?P<host>[^\s:@/\[\]]+))(?::(?P<port>\d{1,5}))?/?")
_KEYS = ("host", "user", "port", "key_file", "host_key", "known_hosts", "config", "via", "name")


class Host(Hands):
    """A machine that exists already. `host`, `port` and `user` are where its address leads by ~/.ssh/config."""

    __slots__ = ("_address", "_found", "_name")

    def __init__(self, name: str, address: Address, home: Base) -> None:
        super().__init__(home)
        self._name, self._address = name, address
        self._found: Found = look_up(address)

    def __repr__(self) -> str:
        return f"<host {self._name}: {self.user}@{self.host}:{self.port}{f' via {self.via.called}' if self.via is not None else ''}>"

    @property
    def called(self) -> str:
        """Its name among its hosts."""
        return self._name

    @property
    def host(self) -> str:
        """Host name or address."""
        return self._found.host

    @property
    def port(self) -> int:
        """Of its SSH server."""
        return self._found.port

    @property
    def user(self) -> str:
        """Who logs in there."""
        return self._found.user

    def get(self, remote: str, *, to: str | Path) -> Pending[None]:
        """Copy a file or a tree from the machine: into `to` if that is a directory here, else under that name. Raises MachineError."""
        return self._fetch(remote, to)

    def _where(self) -> Where:
        return Where(self.host, self.port, self.user, "", None, self._name, "127.0.0.1", (self._address, self._found))


class Hosts(Many, Mapping[str, Host]):
    """Machines that exist already, by name. `run`, `put` and `get` work on all of them; `close()` ends their connections."""

    def __init__(self, home: Base, background: Background | None) -> None:
        self._all: dict[str, Host] = {}
        self._ways: dict[str, Host] = {}  # machines on the way to others, by what stands in `via` or ProxyJump
        self._home, self._background = home, background
        if background is not None:
            # before the ordinary atexit: by then no executor takes work, and ending a loop needs one
            getattr(threading, "_register_atexit", atexit.register)(_end, weakref.ref(self))

    def __repr__(self) -> str:
        return f"<hosts: {', '.join(list(self)[:4])}{f' and {len(self) - 4} more' if len(self) > 4 else ''}>"

    def __getitem__(self, name: str) -> Host:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def _reached(self) -> Sequence[Host]:
        return list(self._all.values())

    @overload
    def get(self, key: str, /) -> Host | None: ...

    @overload
    def get(self, key: str, default: Host | T, /) -> Host | T: ...

    @overload
    def get(self, remote: str, /, *, to: str | Path, check: bool = False, at_once: int = AT_ONCE) -> Pending[Outcomes[Path]]: ...

    def get(
        self, name: str, default: Any = None, /, *, to: str | Path | None = None, check: bool = False, at_once: int = AT_ONCE
    ) -> Any:  # fmt: skip
        """With `to`, copy a file or a tree from all machines, each into a directory of its name there.

        Without it, what a mapping's `get` gives: a machine, or the default.
        """
        return super().get(name, default) if to is None else self._fetch(name, to, check=check, at_once=at_once)

    def add(self, name: str, address: Address, via: str | Hands | None) -> None:
        """One more, reached through `via`, or as ~/.ssh/config says. Raises RequestInvalid for a name that is taken."""
        if name in self._all:
            raise RequestInvalid(f"two machines are called {name!r}", alias="host", found=name, todo='give one of them a "name"')
        self._all[name] = self._led(Host(name, address, self._home), address, via, ())

    def _led(self, host: Host, address: Address, via: str | Hands | None, seen: tuple[str, ...]) -> Host:
        """With the machines on its way; those of ~/.ssh/config are looked up there too, as ssh does."""
        if isinstance(via, Hands):
            host.via = via
        elif jumps := (via,) if via else host._found.jumps:
            way: Host | None = None
            for jump in jumps:
                if jump in seen:
                    raise RequestInvalid(f"the way to {host.called} leads through itself", alias="via", found=jump, todo="mend ProxyJump")
                if jump not in self._ways:
                    text = _address(jump)
                    there = replace(address, host=text["host"], port=text.get("port"), user=text.get("user"), host_key="")
                    self._ways[jump] = Host(jump, there, self._home)
                    if way is not None:
                        self._ways[jump].via = way
                    else:
                        self._led(self._ways[jump], there, None, (*seen, jump))
                way = self._ways[jump]
            host.via = way
        return host

    def close(self) -> None:
        """End the connections, and the loop where it is their own. Harmless when repeated; not from that loop."""
        background, self._background = self._background, None
        if background is None:
            return

        async def shut() -> None:
            await background.close_ways()
            await background.shut()

        try:
            background.submit(shut(), f"closing of {self!r}").result(2 * CLOSE_SECONDS)
        finally:
            background.stop()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Hosts:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)


class _Own:
    """A loop of their own, as machines need one."""

    def __init__(self, background: Background) -> None:
        self.handshakes = asyncio.Semaphore(HANDSHAKES)
        self._background = background

    def submit(self, work: Coroutine[Any, Any, T], what: str) -> Pending[T]:
        """Run a coroutine on the loop."""
        return self._background.submit(work, what)

    def keep(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this at the end."""
        self._background.keep(close)


def hosts(
    machines: Sequence[str | Mapping[str, Any]],
    *,
    user: str | None = None,
    port: int | None = None,
    key_file: str | Path | None = None,
    host_key: str = "",
    known_hosts: str | Path | None = None,
    via: str | Hands | None = None,
    config: str | Path | None = None,
    session: Base | None = None,
) -> Hosts:
    """Machines that exist already, as `bring_up_spots` gives those that it launches: run, put, get, forward.

    Each is a text (`host`, `user@host:port`, a name of ~/.ssh/config) or a mapping with `host` and whatever else is said of this one: the
    options below, and `name`. What is not said here is as ~/.ssh/config says, or ssh's default: user, port, keys, agent, ProxyJump.
    `host_key` is the server's key, as its line in OpenSSH; without it the key is looked for in `known_hosts` (default: ~/.ssh/known_hosts).
    `via` is the machine on the way, `config` another file than ~/.ssh/config ("" for none). With a `session` (`via` a machine: with that
    one's) they end with its teardown; else with `close()` or their block. Nothing is connected yet. Raises RequestInvalid and MachineError.
    """
    if isinstance(machines, str | bytes) or not machines:
        raise RequestInvalid("hosts takes a list of machines", alias="machines", found=machines, todo='hosts(["db", "me@10.0.0.7"])')
    common = {"user": user, "port": port, "key_file": key_file, "host_key": host_key, "known_hosts": known_hosts, "via": via}
    told = [{"config": config, **{key: value for key, value in common.items() if value}, **_said(one)} for one in machines]
    session = _one_home([session, *(one["via"].home for one in told if isinstance(one.get("via"), Hands))])
    background = Background("fleetctl hosts") if session is None else None
    made = Hosts(_Own(background) if background is not None else session, background)  # type: ignore[arg-type]
    try:
        for one in told:
            files = {key: Path(one[key]).expanduser() for key in ("key_file", "known_hosts") if one.get(key)}
            chosen = None if one.get("config") is None else str(Path(one["config"]).expanduser()) if one["config"] else ""
            address = Address(one["host"], one.get("port"), one.get("user"), one.get("host_key", ""), config=chosen, **files)
            made.add(one["name"], address, one.get("via"))
    except FleetError:
        made.close()
        raise
    return made


def _one_home(homes: Sequence[Base | None]) -> Base | None:
    """The one whose loop all of it runs on: a connection through another one must be on the loop of that. Raises RequestInvalid."""
    found = [home for home in homes if home is not None]
    if any(home is not found[0] for home in found):
        raise RequestInvalid("these lead through machines of two homes, or through one of another session", alias="via", found=len(found),
                             todo="make them by hosts(…) for each")  # fmt: skip
    return found[0] if found else None


def _said(one: str | Mapping[str, Any]) -> dict[str, Any]:
    """What one of the machines' own entry says. Raises RequestInvalid."""
    if isinstance(one, str):
        return {**_address(one), "name": one}
    if not isinstance(one, Mapping) or "host" not in one or set(one) - set(_KEYS):
        known = ", ".join(_KEYS)
        raise RequestInvalid('a machine is a text, or a mapping with "host"', alias="machines", found=one, todo=f"use only: {known}")
    return {**_address(str(one["host"])), "name": str(one["host"]), **{key: value for key, value in one.items() if key != "host"}}


def _address(text: str) -> dict[str, Any]:
    """The parts of `user@host:port`.

    >>> _address("me@db:2222")
    {'host': 'db', 'user': 'me', 'port': 2222}
    """
    parts = _TEXT.fullmatch(text)
    if parts is None or not 0 < int(parts["port"] or 22) < 65536:
        raise RequestInvalid("that is no host, user@host or user@host:port", alias="host", found=text)
    out: dict[str, Any] = {"host": parts["v6"] or parts["host"]}
    if parts["user"]:
        out["user"] = parts["user"]
    if parts["port"]:
        out["port"] = int(parts["port"])
    return out


def _end(reference: weakref.ref[Hosts]) -> None:
    """Before Python ends: what is open is closed, so that no loop is cut off in the middle."""
    made = reference()
    if made is not None:
        made.close()
