"""A hypervisor of its own for each test, and ears to hear what its instances do, so that tests wait on events and not on clocks."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from fleetctl.local.hypervisor import Boot, Hypervisor

PATIENCE = 30.0     # seconds until a wait is a failure


class Mailbox:
    """A FIFO that instances write lines to (`echo … > "$path"`), and the test reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    def hear(self) -> str:
        """The next line."""
        deadline = time.monotonic() + PATIENCE
        while "\n" not in self._text:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing was written to {self.path.name}"
            self._text += os.read(self._fd, 65_536).decode()
        line, _, self._text = self._text.partition("\n")
        return line

    def close(self) -> None:
        os.close(self._fd)


class Lab:
    """A hypervisor whose callbacks can be waited for, and whose processes can be found by a mark in their environment."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.mark = f"http://127.0.0.1:9/{uuid.uuid4().hex}"     # the endpoint URL is in every instance's environment
        self.roles: dict[str, dict[str, str]] = {}
        self.log: list[tuple[str, ...]] = []
        self._news: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        self._mailboxes: list[Mailbox] = []
        self.key = asyncssh.generate_private_key("ssh-ed25519", comment="lab")
        self.public_key = self.key.export_public_key().decode().strip()
        self.hypervisor = Hypervisor(
            root / "cloud", self.mark, credentials=lambda role: self.roles[role],
            on_exit=lambda instance, reason: self._news.put(("exit", instance, reason)),
            on_running=lambda instance: self._news.put(("running", instance)),
            on_gone=lambda instance: self._news.put(("gone", instance)), **options)

    def boot(self, script: str | bytes = "", *, wait: bool = True, **fields: Any) -> Boot:
        """Boots an instance with a bash script (or other user data); waits until it is running unless told not to."""
        if isinstance(script, str) and script:
            script = "#!/bin/bash\n" + script
        boot = Boot(instance_id=f"i-{uuid.uuid4().hex[:17]}", ip=self.hypervisor.address(), **{
            "type": "t3.micro", "zone": "us-east-1a", "region": "us-east-1", "image_id": "ami-1", "role": None,
            "user_data": script.encode() if isinstance(script, str) else script, "public_keys": (self.public_key,), **fields})
        self.hypervisor.boot(boot)
        if wait:
            self.wait("running", boot)
        return boot

    def wait(self, what: str, boot: Boot) -> str:
        """Waits for a callback about an instance; returns the reason of an exit, else ''."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for event in self.log:
                if event[:2] == (what, boot.instance_id):
                    self.log.remove(event)
                    return event[2] if len(event) > 2 else ""
            try:
                self.log.append(self._news.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"{boot.instance_id} is never {what}; heard {self.log}") from None

    def mailbox(self) -> Mailbox:
        mailbox = Mailbox(self.root / f"mailbox{len(self._mailboxes)}")
        self._mailboxes.append(mailbox)
        return mailbox

    def home(self, boot: Boot) -> Path:
        return self.root / "cloud" / "instances" / boot.instance_id / "home"

    def processes(self, mark: str = "") -> set[int]:
        """Host pids of living processes with the mark in their environment; by default all that any instance has started."""
        return marked(mark or self.mark)

    def all_gone(self) -> bool:
        """Whether no process of an instance is left, after the moment that the kernel takes to bury the killed."""
        deadline = time.monotonic() + PATIENCE
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def login(self, boot: Boot, **options: Any) -> Any:
        """An asyncssh connection as a careful client makes it: one key, and the host key that the machine itself has shown."""
        directory = self.root / "cloud" / "instances" / boot.instance_id
        host_key = (directory / "ssh_host_ed25519_key.pub").read_text()
        return asyncssh.connect(boot.ip, **{
            "port": 2222, "username": self.hypervisor.login_user, "client_keys": [self.key], "agent_path": None, "config": None,
            "known_hosts": asyncssh.import_known_hosts(f"[{boot.ip}]:2222 {host_key}"), **options})

    def run(self, boot: Boot, command: str, **options: Any) -> str:
        """What a command prints that is run over SSH; it must exit 0."""
        async def go() -> str:
            async with self.login(boot, **options) as connection:
                return str((await connection.run(command, check=True)).stdout)
        return asyncio.run(go())

    def close(self) -> None:
        self.hypervisor.close()
        for mailbox in self._mailboxes:
            mailbox.close()


def marked(mark: str) -> set[int]:
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                environment = Path(entry.path, "environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in environment:
                found.add(int(entry.name))
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A hypervisor with the best containment this host has."""
    lab = Lab(tmp_path)
    yield lab
    lab.close()
    assert lab.all_gone(), "processes outlived their hypervisor"


@pytest.fixture(params=["contained", "weaker"])
def either_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A hypervisor with namespaces, and one that does without."""
    lab = Lab(tmp_path, contain=request.param == "contained")
    yield lab
    lab.close()
    assert lab.all_gone(), "processes outlived their hypervisor"


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Any]:
    """Makes hypervisors with options of the test's own."""
    labs: list[Lab] = []

    def make(**options: Any) -> Lab:
        root = tmp_path / f"lab{len(labs)}"
        root.mkdir()
        labs.append(Lab(root, **options))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()
