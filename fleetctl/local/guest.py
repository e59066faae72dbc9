"""One instance as the hypervisor sees it: its services, its wire to the first process inside, and what it is on the way to.

Everything here runs in the hypervisor's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleetctl.local import image, imds, pictures, sshd
from fleetctl.local.boot import Boot
from fleetctl.local.pid1 import EACH_BOOT
from fleetctl.local.wire import LoopWire, Message

_CONSOLE = 65_536       # what EC2 keeps of a console too


@dataclass(frozen=True)
class Site:
    """What all instances of one hypervisor have in common. A port of 0 means: any that is free (where addresses are shared)."""

    root: Path
    bin: Path
    endpoint_url: str
    imds_port: int
    ssh_port: int
    contained: bool
    credentials: imds.Credentials
    nursery: LoopWire
    may_reach: Callable[[str], bool]

    @property
    def login_user(self) -> str:
        """Without namespaces, root stays root inside, and scripts that become the login user must find one that exists."""
        return "root" if not self.contained and os.geteuid() == 0 else sshd.LOGIN_USER


class Guest:
    """An instance: `goal` (running, stopped, gone) is what was asked for; `up`, `off` and `is_settled` are what is."""

    def __init__(self, boot: Boot, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self.boot, self._site, self._loop = boot, site, loop
        self.directory = site.root / "instances" / boot.instance_id
        self.goal = "running"
        self.off = self.is_settled = False
        self.told_off = False           # since power on, and so a stop is not forgotten when a start follows at once
        self.pid = 0                    # the host's number of the first process
        self.reason = ""
        self._says_up = False
        self._grace = 0.0
        self._booted_before = False
        self._key = sshd.HostKey()
        self._news = asyncio.Event()
        self._wire: LoopWire | None = None
        self._metadata = imds.Metadata(boot, site.credentials)
        self._imds = imds.Service(self._metadata)
        self._ssh: sshd.Server | None = None
        self._numbers = itertools.count(1)
        self._commands: dict[int, asyncio.Future[int]] = {}

    def __repr__(self) -> str:
        state = "off" if self.off else "up" if self.up else "booting"
        return f"<Guest {self.boot.instance_id} {self.boot.ip} {state}, to be {self.goal}>"

    @property
    def up(self) -> bool:
        """It has booted, and we know its pid: news that comes from inside and from its keeper, in either order."""
        return self._says_up and self.pid > 0

    # -- what is asked

    def aim(self, goal: str, grace: float) -> None:
        """Sets the goal, and the seconds that processes have to end if that means power off."""
        self.goal, self._grace = goal, grace
        self.told_off = self.told_off or goal != "running"
        self._news.set()

    def settle(self) -> None:
        """The heavy phase of the boot is over."""
        self.is_settled = True
        self._news.set()

    def interrupt(self, action: str, at: str) -> None:
        """Shows a spot interruption notice in the metadata."""
        self._metadata.interrupt(action, at)

    def advise(self, at: str) -> None:
        """Shows a recommendation to rebalance in the metadata."""
        self._metadata.advise(at)

    async def until(self, true: Callable[[], bool], timeout: float | None = None) -> None:
        """Waits until the condition holds, or the timeout (seconds) is over. For the one driver task."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not true():
                    self._news.clear()
                    await self._news.wait()

    # -- power

    async def power_on(self) -> None:
        """Opens the services and has the nursery fork the first process. OSError if that is dead, or the services cannot listen."""
        if not self._site.nursery.is_open:
            raise BrokenPipeError("the process that starts instances died")
        self.off = self.told_off = self.is_settled = self._says_up = False
        self.pid, self.reason = 0, ""
        imds_socket = _bound(self.boot.ip, self._site.imds_port)
        await self._imds.listen(imds_socket)
        ssh_socket = _bound(self.boot.ip, self._site.ssh_port)
        if not self._booted_before:
            await asyncio.to_thread(pictures.develop, self._site.root / "images" / self.boot.image_id, self.directory / "home")
        environment = self._environment(imds_socket.getsockname()[1], ssh_socket.getsockname()[1])
        door = sshd.Door(self.boot.ip, self._site.login_user, self.boot.public_keys, str(self.directory / "home"), environment,
                         self._site.may_reach)
        self._ssh = sshd.Server(door, self._key, self)
        self._ssh.listen(ssh_socket)
        ours, theirs = socket.socketpair()
        self._wire = LoopWire(self._loop, ours, self._inside_says, self._lose_commands)
        user_data = self.boot.user_data if not self._booted_before or self.boot.user_data.startswith(EACH_BOOT) else b""
        spec = {"directory": str(self.directory), "hostname": "ip-" + self.boot.ip.replace(".", "-"), "environment": environment,
                "user_data": b64encode(user_data).decode(), "host_key": self._key.public, "tools": str(self._site.bin.parent / "power")}
        self._site.nursery.send({"op": "boot", "id": self.boot.instance_id, "spec": spec}, [theirs.detach()])
        self._booted_before = True

    async def power_off(self) -> None:
        """Has everything inside end within the grace; then cuts the power. Returns when nothing is left."""
        assert self._wire is not None
        self._wire.send({"op": "off", "grace": self._grace})
        await self.until(lambda: self.off, timeout=self._grace + 3.0)
        if not self.off:
            self._site.nursery.send({"op": "kill", "id": self.boot.instance_id})
            await self.until(lambda: self.off)

    async def unplug(self) -> None:
        """Closes the services and the wire."""
        self._lose_commands()
        if self._wire is not None:
            self._wire.close()
        self._imds.close()
        if self._ssh is not None:
            await self._ssh.close()

    def failed(self, why: str) -> None:
        """It ended without being asked, or never started."""
        if not self.off:
            self.reason = self.reason or f"died: {why}"
            self.off = True
            self._news.set()

    def ended(self, status: int) -> None:
        """The nursery's word that nothing of it is left. What it said last may still be on its own wire."""
        if self._wire is not None:
            self._wire.drain()
        self.failed(f"its first process ended with {status}")

    def console(self) -> bytes:
        """The console's last 64 KiB."""
        try:
            with open(self.directory / "console.log", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _CONSOLE))
                return file.read()
        except FileNotFoundError:
            return b""

    # -- inside

    def spawn(self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], tty: bool) -> sshd.Spawned:
        """Runs a command inside, as `sshd.Host` asks for it."""
        assert self._wire is not None
        wire, number = self._wire, next(self._numbers)
        ended = self._commands[number] = self._loop.create_future()
        wire.send({"op": "spawn", "n": number, "argv": list(argv), "env": dict(env), "tty": tty}, fds)
        return sshd.Spawned(ended, lambda signal: wire.send({"op": "signal", "n": number, "signal": signal}))

    def _inside_says(self, message: Message) -> None:
        match message["say"]:
            case "pid":
                self.pid = message["pid"]
            case "up":
                self._says_up = True
            case "script":
                self.is_settled = True
            case "exit":
                if (command := self._commands.pop(message["n"], None)) and not command.done():
                    command.set_result(message["status"])
            case "off":
                self.reason = message["why"]
            case "failed":
                self.reason = f"died: {message['why']}"
        self._news.set()

    def _lose_commands(self) -> None:
        while self._commands:
            _, command = self._commands.popitem()
            if not command.done():
                command.set_result(255)

    def _environment(self, imds_port: int, ssh_port: int) -> dict[str, str]:
        """The environment of everything inside: a login's own on Amazon Linux, and what tells the machine that its cloud is local."""
        home = self.directory / "home"
        user = self._site.login_user
        return {
            "HOME": str(home), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8",
            "TMPDIR": str(self.directory / "tmp"),
            "PATH": f"{self.directory / 'bin'}:{self._site.bin}:{image.HOST_PATH}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.boot.ip}:{imds_port}",
            "AWS_ENDPOINT_URL": self._site.endpoint_url,
            "FLEETCTL_SSH_PORT": str(ssh_port), "FLEETCTL_SSH_KEY_FILE": str(self.directory / "ssh_host_ed25519_key.pub"),
            "FLEETCTL_LOGIN_USER": user,
            # machines share this computer's disk, and so what is the same on each of them by its hash
            "FLEETCTL_BUNDLES": str(self._site.bin.parent / "bundles"),
            "FLEETCTL_STATE_DIR": str(home / ".fleetctl"),      # /var/lib is the host's, and may be writable
        }


def _bound(ip: str, port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)      # a stopped instance that starts again
        sock.bind((ip, port))
    except OSError:
        sock.close()
        raise
    return sock
