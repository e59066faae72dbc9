"""Boots instances as local processes, each with its own address, metadata service and SSH server, and ends them without remains.

One thread runs an event loop that serves every instance's IMDS and SSH; one small process, the nursery, forks the instances. Public
methods may be called from any thread and return at once. Each instance has one driver task that brings it to what was last asked for
(running, stopped or gone), so orders may come at any moment and in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetctl.errors import LocalCloudError
from fleetctl.local import image, nursery, pictures
from fleetctl.local.addresses import Block
from fleetctl.local.boot import Boot
from fleetctl.local.guest import Guest, Site
from fleetctl.local.wire import LoopWire, Message, Wire

__all__ = ["Boot", "Hypervisor"]

log = logging.getLogger(__name__)

IMDS_PORT, SSH_PORT = 1338, 2222
GRACE = 1.0             # seconds between SIGTERM and SIGKILL when EC2 stops or terminates; AWS gives minutes, and nothing here needs them
_HEAVY = 1.0            # a boot's heavy phase lasts at most this long, in seconds
_CONSOLES = 1_000       # console outputs kept of instances that are gone


class Hypervisor:
    """The machines of one local cloud.

    `on_exit(instance_id, reason)` is called when an instance ended by itself ("shutdown", or "died: …"; its directory is kept until
    `terminate`), `on_running(instance_id)` when one is up, `on_gone(instance_id)` when a stop or terminate is complete: all three from a
    thread of their own, one at a time. `credentials(role)` gives what IMDS hands out, from the event loop: it must be quick, and raises
    KeyError for a role that does not exist. At most `gate` instances are in the heavy phase of booting at once.

    `contain=False` forgoes namespaces even where they exist; `weaker` then (or where they don't) says in words what is weaker.
    """

    def __init__(self, root: Path, endpoint_url: str, *, on_exit: Callable[[str, str], None], credentials: Callable[[str], dict[str, str]],
                 gate: int = 4, on_running: Callable[[str], None] | None = None, on_gone: Callable[[str], None] | None = None,
                 contain: bool = True) -> None:
        self._root = root
        self._on_exit, self._on_running, self._on_gone = on_exit, on_running, on_gone
        self._guests: dict[str, Guest] = {}
        self._drivers: set[asyncio.Task[None]] = set()
        self._pids: dict[str, int] = {}
        self._consoles: OrderedDict[str, bytes] = OrderedDict()
        self._closing = False
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        _allow_many_files()
        self._block = Block((IMDS_PORT, SSH_PORT))
        ports = (0, 0) if self._block.shared else (IMDS_PORT, SSH_PORT)
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Semaphore(gate)
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run_loop, name="hypervisor", daemon=True),
                         threading.Thread(target=self._run_events, name="hypervisor-events", daemon=True)]
        self.weaker: str | None = None
        try:
            bin_ = image.build(root / "image")
            for thread in self._threads:
                thread.start()
            self._nursery, nursery_wire = self._call(self._start_nursery(contain))
        except BaseException:
            self._stop_threads()
            self._block.close()
            raise
        self._site = Site(root=root, bin=bin_, endpoint_url=endpoint_url, imds_port=ports[0], ssh_port=ports[1],
                          contained=self.weaker is None, credentials=credentials, nursery=nursery_wire, may_reach=self._block.__contains__)

    def __repr__(self) -> str:
        return f"<Hypervisor {self._block!r}, {len(self._pids)} of {len(self._guests)} instances up{', weaker' if self.weaker else ''}>"

    @property
    def login_user(self) -> str:
        """Whom the SSH servers let in."""
        return self._site.login_user

    def address(self) -> str:
        """Reserves an address for an instance to come; terminating that instance gives it back."""
        return self._block.take()

    def boot(self, boot: Boot) -> None:
        """Starts a new instance's life. What goes wrong from here on is told by `on_exit`."""
        self._post(self._boot, boot)

    def stop(self, instance_id: str) -> None:
        """Powers off, gracefully; the directory stays. No effect on an instance that is off or unknown."""
        self._post(self._aim, instance_id, "stopped", GRACE)

    def start(self, instance_id: str) -> None:
        """Powers on an instance that is off. Its user data is not run again, as on AWS."""
        self._post(self._aim, instance_id, "running", GRACE)

    def terminate(self, instance_id: str) -> None:
        """Powers off and removes the directory; the console's last 64 KiB are kept. No effect on an unknown instance."""
        self._post(self._aim, instance_id, "gone", GRACE)

    def kill(self, instance_id: str) -> None:
        """Cuts the power, and removes the directory. No effect on an unknown instance."""
        self._post(self._aim, instance_id, "gone", 0.0)

    def interrupt(self, instance_id: str, action: str, at: str) -> None:
        """Puts a spot interruption notice into the instance's metadata: `action` terminate, stop or hibernate, `at` an ISO time."""
        self._post(self._notify, instance_id, lambda guest: guest.interrupt(action, at))

    def advise(self, instance_id: str, at: str) -> None:
        """Puts a recommendation to rebalance into the instance's metadata, as made at an ISO time."""
        self._post(self._notify, instance_id, lambda guest: guest.advise(at))

    def photograph(self, instance_id: str, image_id: str, done: Callable[[bool], None]) -> None:
        """Copies an instance's files into an image, for those that are booted from it; `done` hears whether it went well."""
        self._post(self._photograph, instance_id, image_id, done)

    def forget_image(self, image_id: str) -> None:
        """Removes an image's files. No effect on an image that has none."""
        shutil.rmtree(self._root / "images" / image_id, ignore_errors=True)

    def settled(self, instance_id: str) -> None:
        """Says that an instance's heavy boot phase is over, which lets the next one through the gate."""
        self._post(self._settled, instance_id)

    def running(self) -> dict[str, int]:
        """Instance id -> pid (the host's number) of its first process, for instances that are up."""
        return dict(self._pids)

    def console(self, instance_id: str) -> bytes:
        """The last 64 KiB of an instance's console, for a while after its end too; b"" for an unknown one."""
        guest = self._guests.get(instance_id)
        return guest.console() if guest else self._consoles.get(instance_id, b"")

    def close(self) -> None:
        """Cuts the power of everything and waits until nothing is left: no process, no listener, no instance's directory. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._call(self._end_all())
        self._stop_threads()
        self._block.close()
        shutil.rmtree(self._root / "instances", ignore_errors=True)
        for name in ("image", "images"):
            shutil.rmtree(self._root / name, ignore_errors=True)

    # -- threads

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _run_events(self) -> None:
        """Callbacks have a thread of their own: a slow or a locking one delays no instance."""
        while (event := self._events.get()) is not None:
            try:
                event()
            except Exception:
                log.exception("a callback of the hypervisor failed")

    def _stop_threads(self) -> None:
        self._events.put(None)
        if self._threads[0].ident is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        if not self._closing:
            self._loop.call_soon_threadsafe(function, *args)

    def _tell(self, callback: Callable[..., None] | None, *args: Any) -> None:
        if callback is not None:
            self._events.put(lambda: callback(*args))

    # -- in the loop

    async def _start_nursery(self, contain: bool) -> tuple[subprocess.Popen[bytes], LoopWire]:
        """Starts it, and waits until it can boot instances."""
        ours, theirs = socket.socketpair()
        process = self._popen_nursery(theirs, contain)
        ours.settimeout(30)
        messages = await asyncio.to_thread(Wire(ours).receive)
        if not messages:
            process.kill()
            process.wait()
            raise LocalCloudError("the process that starts instances did not start", todo=f"see {self._root / 'hypervisor.log'}")
        self.weaker = messages[0][0]["weaker"]
        return process, LoopWire(self._loop, ours, self._nursery_says, self._nursery_died)

    def _popen_nursery(self, theirs: socket.socket, contain: bool) -> subprocess.Popen[bytes]:
        """In the loop's thread, because that stays: the death of the thread that started it is the nursery's too."""
        with open(self._root / "hypervisor.log", "ab") as errors, theirs:
            return subprocess.Popen(nursery.command(sys.executable, theirs.fileno(), contain), pass_fds=[theirs.fileno()],
                                    stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, cwd="/")

    def _boot(self, boot: Boot) -> None:
        guest = self._guests[boot.instance_id] = Guest(boot, self._site, self._loop)
        task = self._loop.create_task(self._drive(guest))
        self._drivers.add(task)
        task.add_done_callback(self._drivers.discard)

    def _aim(self, instance_id: str, goal: str, grace: float) -> None:
        guest = self._guests.get(instance_id)
        if guest is None or guest.goal == "gone":
            return
        if goal == guest.goal == "stopped" and guest.off:       # it ended by itself before it was told to
            self._tell(self._on_gone, instance_id)
        guest.aim(goal, grace)

    def _notify(self, instance_id: str, notify: Callable[[Guest], None]) -> None:
        if guest := self._guests.get(instance_id):
            notify(guest)

    def _photograph(self, instance_id: str, image_id: str, done: Callable[[bool], None]) -> None:
        async def copy() -> None:
            home, image = self._root / "instances" / instance_id / "home", self._root / "images" / image_id
            try:
                await asyncio.to_thread(pictures.photograph, home, image)
            except OSError as error:
                log.warning("no image could be made of %s: %s", instance_id, error)
                self._tell(done, False)
            else:
                self._tell(done, True)

        task = self._loop.create_task(copy())
        self._drivers.add(task)
        task.add_done_callback(self._drivers.discard)

    def _settled(self, instance_id: str) -> None:
        if guest := self._guests.get(instance_id):
            guest.settle()

    async def _drive(self, guest: Guest) -> None:
        """One instance's life."""
        instance_id = guest.boot.instance_id
        while guest.goal != "gone":
            if guest.goal == "running":
                await self._one_uptime(guest)
            else:
                await guest.until(lambda: guest.goal != "stopped")
        self._consoles[instance_id] = guest.console()
        while len(self._consoles) > _CONSOLES:
            self._consoles.popitem(last=False)
        await asyncio.to_thread(shutil.rmtree, guest.directory, ignore_errors=True)
        del self._guests[instance_id]
        self._block.release(guest.boot.ip)
        self._tell(self._on_gone, instance_id)

    async def _one_uptime(self, guest: Guest) -> None:
        """From power on to power off."""
        instance_id = guest.boot.instance_id
        async with self._gate:
            if guest.goal != "running":
                return
            try:
                await guest.power_on()
                await guest.until(lambda: guest.up or guest.off or guest.told_off)
                if guest.up:
                    self._pids[instance_id] = guest.pid
                    self._tell(self._on_running, instance_id)
                await guest.until(lambda: guest.is_settled or guest.off or guest.told_off, timeout=_HEAVY)
            except OSError as exc:
                guest.failed(str(exc))
        await guest.until(lambda: guest.off or guest.told_off)
        by_itself = guest.off and not guest.told_off
        if not guest.off:
            await guest.power_off()
        self._pids.pop(instance_id, None)
        await guest.unplug()
        if by_itself:
            guest.aim("stopped", GRACE)
            self._tell(self._on_exit, instance_id, guest.reason)
        elif guest.goal == "stopped":
            self._tell(self._on_gone, instance_id)

    def _nursery_says(self, message: Message) -> None:
        guest = self._guests.get(message["id"])
        if guest is not None:
            guest.ended(message["status"])

    def _nursery_died(self) -> None:
        """Every instance died with it: that is what it is for."""
        for guest in self._guests.values():
            guest.failed("the process that starts instances died")

    async def _end_all(self) -> None:
        for guest in self._guests.values():
            guest.aim("gone", 0.0)
        if self._drivers:
            _, late = await asyncio.wait(tuple(self._drivers), timeout=10)
            for driver in late:
                driver.cancel()
        self._site.nursery.close()
        try:
            await asyncio.to_thread(self._nursery.wait, 5)
        except subprocess.TimeoutExpired:
            self._nursery.kill()
            await asyncio.to_thread(self._nursery.wait)


def _allow_many_files() -> None:
    """An instance costs the daemon three descriptors, a log-in a few more; some systems start programs with 256 in all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(16_384, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):      # macOS caps it lower than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
