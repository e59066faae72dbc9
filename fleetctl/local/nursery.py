"""The process that forks instances: small, single-threaded, started once by the hypervisor and already imported when a boot comes.

The daemon is a large threaded program; forking that, or starting an interpreter an instance, would cost tens of milliseconds each.
Here an instance is two forks: a keeper, which makes the namespaces and waits, and the instance's first process (`pid1`).

Deaths pass downwards: this process dies with the daemon's thread that started it (and when its wire ends), keepers die with this
process, the first process with its keeper, and the rest with the first process. Answers pass upwards: a keeper ends only when nothing
is left of its instance, so `{"say": "ended", "id", "status"}` is proof.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

from fleetctl.local import containment, pid1
from fleetctl.local.wire import Message, Wire

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Bare package modules stand in for fleetctl and fleetctl.local, whose own __init__ would import what the nursery must not carry.
LOADER = f"""
import sys, types
for name, path in (("fleetctl", {_PACKAGES!r} + "/fleetctl"), ("fleetctl.local", {_PACKAGES!r} + "/fleetctl/local")):
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [path]
from fleetctl.local.nursery import main
main(int(sys.argv[1]), sys.argv[2])
"""


def command(python: str, fd: int, contain: bool) -> list[str]:
    """The command line of a nursery that talks on the inherited socket `fd`; isolated, without site: it starts in 20 ms."""
    return [python, "-I", "-S", "-c", LOADER, str(fd), "contain" if contain else "weaker"]


def main(fd: int, how: str) -> NoReturn:
    """Serves boots until the daemon is gone and the last instance has ended.

    First says `{"say": "ready", "weaker": str | None}`. Takes `{"op": "boot", "id", "spec"}` with one descriptor, the instance's wire,
    and `{"op": "kill", "id"}`.
    """
    containment.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the daemon, which then closes the wire
    weaker = containment.weakness() if how == "contain" else containment.weaker_because("asked for")
    Nursery(Wire(socket.socket(fileno=fd)), weaker).run()


class Nursery:
    """The keepers that live, by pid, and the wire to the daemon."""

    def __init__(self, wire: Wire, weaker: str | None) -> None:
        self._wire, self._weaker = wire, weaker
        self._keepers: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<Nursery {len(self._keepers)} instances{', weaker' if self._weaker else ''}>"

    def run(self) -> NoReturn:
        """Until the wire ends; then every keeper is killed, and waited for."""
        wake, alarm = socket.socketpair()
        for end in (wake, alarm):
            end.setblocking(False)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wire.send({"say": "ready", "weaker": self._weaker})
        gc.collect()
        gc.freeze()         # what is imported by now stays shared between all instances
        with selectors.DefaultSelector() as selector:
            selector.register(self._wire.socket, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wake:
                        with contextlib.suppress(BlockingIOError):
                            wake.recv(4096)
                        self._reap()
                    elif not self._serve():
                        self._end()

    def _serve(self) -> bool:
        messages = self._wire.receive()
        if messages is None:
            return False
        for message, fds in messages:
            if message["op"] == "boot":
                self._boot(message, fds[0])
            else:
                for pid, instance in self._keepers.items():
                    if instance == message["id"]:
                        os.kill(pid, signal.SIGKILL)        # our own child, not yet waited for: the pid is surely its
        return True

    def _boot(self, message: Message, fd: int) -> None:
        pid = os.fork()
        if pid:
            self._keepers[pid] = message["id"]
            os.close(fd)
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._wire.close()
            _keep(Wire(socket.socket(fileno=fd)), pid1.Spec(**message["spec"]), contained=self._weaker is None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(71)        # EX_OSERR

    def _reap(self) -> None:
        while self._keepers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            instance = self._keepers.pop(pid, None)
            if instance is not None:
                with contextlib.suppress(ConnectionError):
                    self._wire.send({"say": "ended", "id": instance, "status": os.waitstatus_to_exitcode(status)})

    def _end(self) -> NoReturn:
        """The daemon is gone, or has closed: instances see their own wires end and go; keepers that linger are killed."""
        self._wire.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGALRM, lambda *_: self._kill_keepers())
        signal.setitimer(signal.ITIMER_REAL, 1.0, 0.2)
        while self._keepers:
            with contextlib.suppress(ChildProcessError):
                pid, _ = os.waitpid(-1, 0)
                self._keepers.pop(pid, None)
        os._exit(0)

    def _kill_keepers(self) -> None:
        for pid in self._keepers:
            os.kill(pid, signal.SIGKILL)


def _keep(wire: Wire, spec: pid1.Spec, contained: bool) -> None:
    """The keeper: isolates, forks the first process, and ends with its status when all of the instance is gone."""
    os.setsid()
    try:
        if contained:
            containment.isolate()
            containment.die_with_parent()       # after isolate(): a change of identity may clear it
        else:
            containment.adopt_orphans()         # a first process that is killed leaves its orphans to the keeper, who stays for that
        first = os.fork()
    except OSError as exc:
        wire.send({"say": "failed", "why": str(exc)})
        return
    if first == 0:
        containment.die_with_parent(signal.SIGKILL if contained else signal.SIGTERM)
        if not contained:
            containment.adopt_orphans()
        pid1.start(wire, spec, contained)
    wire.send({"say": "pid", "pid": first})
    wire.close()
    _, status = os.waitpid(first, 0)
    if not contained:
        _clear_orphans()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _clear_orphans() -> None:
    """Ends what a killed first process left to its keeper, so that the keeper's own end is proof here too."""
    while True:
        for pid in containment.descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
