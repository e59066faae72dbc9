"""The first process of an instance: makes its directory, runs its user data once, and stays until it is powered off.

It is to the instance what systemd and cloud-init are to a real one: it adopts and reaps orphans, starts what the SSH server asks for
(inside the instance, with descriptors handed over its wire), and obeys `shutdown`, which writes to the FIFO `initctl` in the
instance's directory. An instance is a machine, not a process: it stays up when its user data has ended.

Messages to the daemon: `{"say": "up"}`, `{"say": "script", "status"}`, `{"say": "exit", "n", "status"}` (a status is an exit
code, or minus a signal's number), `{"say": "reboot"}`, `{"say": "halt"}` and, last, `{"say": "off", "why": "shutdown" | "asked"}`.
From it: `{"op": "spawn", "n", "argv", "env", "tty"}` with descriptors 0, 1 and 2,
`{"op": "signal", "n", "signal"}`, `{"op": "off", "grace"}`. When the wire ends, the daemon is gone, and so is the instance, at once.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gzip
import os
import selectors
import signal
import socket
import sys
import termios
import time
from typing import Any, NamedTuple, NoReturn

from fleetctl.local import containment
from fleetctl.local.wire import Message, Wire

SHUTDOWN_GRACE = 2.0    # seconds from SIGTERM to SIGKILL when the instance itself asks; systemd gives 90, but nobody here waits for disks
_VERBS = ("poweroff", "reboot", "halt")
EACH_BOOT = b"#cloud-boothook"  # user data that begins so runs at each boot (cloud-init's documentation, "User data formats")


class Spec(NamedTuple):
    """What the first process needs to know, as it arrives from the daemon (JSON)."""

    directory: str
    hostname: str
    environment: dict[str, str]
    user_data: str          # base64; "" for an instance that has booted before: but for boot hooks, it runs once in an instance's life
    host_key: str           # the SSH server's public key, one line
    tools: str              # directory of the image's power commands

    def path(self, *parts: str) -> str:
        """A path in the instance's directory."""
        return os.path.join(self.directory, *parts)


class Initctl(NamedTuple):
    """One request read from the FIFO."""

    verb: str               # poweroff, reboot, halt or cancel
    seconds: int


def parse_initctl(line: str) -> Initctl | None:
    """`<verb> <seconds>` or `cancel`; None for anything else, which an instance's own process may have written there.

    >>> parse_initctl("poweroff 300")
    Initctl(verb='poweroff', seconds=300)
    >>> parse_initctl("dance now") is None
    True
    """
    match line.split():
        case ["cancel"]:
            return Initctl("cancel", 0)
        case [verb, seconds] if verb in _VERBS and seconds.isascii() and seconds.isdigit():
            return Initctl(verb, int(seconds))
    return None


class Init:
    """One instance, seen from inside. Single-threaded; `run` returns only by ending the process."""

    def __init__(self, wire: Wire, spec: Spec, contained: bool) -> None:
        self._wire, self._spec, self._contained = wire, spec, contained
        self._selector = selectors.DefaultSelector()
        self._main: int | None = None               # pid of the user data's script
        self._spawned: dict[int, int] = {}          # pid -> the daemon's number for it
        self._planned: tuple[float, str] | None = None      # when (monotonic), which verb
        self._going: tuple[float, str, str] | None = None   # when SIGKILL is due, which verb, and who asked
        self._halted = False
        self._held: list[tuple[Message, list[int]]] = []
        self._initctl_text = ""

    def __repr__(self) -> str:
        state = "halted" if self._halted else f"going: {self._going[1]}" if self._going else "up"
        return f"<Init {self._spec.hostname} {state}, {len(self._spawned)} commands>"

    def run(self) -> NoReturn:
        """Boots, then serves until the end."""
        self._prepare_directory()
        initctl = os.open(self._spec.path("initctl"), os.O_RDWR | os.O_NONBLOCK)    # for reading too: a FIFO without writers would end
        wake, alarm = socket.socketpair()
        for end in (wake, alarm):
            end.setblocking(False)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if not self._contained:
            signal.signal(signal.SIGTERM, lambda *_: self._vanish())    # from the kernel, when the nursery has died
        self._selector.register(self._wire.socket, selectors.EVENT_READ, self._serve_daemon)
        self._selector.register(initctl, selectors.EVENT_READ, lambda: self._serve_initctl(initctl))
        self._selector.register(wake, selectors.EVENT_READ, lambda: self._reap(wake))
        self._say({"say": "up"})
        if self._spec.user_data:
            self._run_user_data(base64.b64decode(self._spec.user_data))
        while True:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._keep_time()

    # -- booting

    def _prepare_directory(self) -> None:
        spec = self._spec
        os.umask(0o022)
        for part in ("home", "tmp", "bin"):
            os.makedirs(spec.path(part), exist_ok=True)
        os.chmod(spec.path("home"), 0o700)
        if not os.path.exists(spec.path("initctl")):
            os.mkfifo(spec.path("initctl"), 0o600)
            for name in ("shutdown", "poweroff", "halt", "reboot"):     # links, so that the commands find this instance by their own path
                os.symlink(os.path.join(spec.tools, name), spec.path("bin", name))
        with open(spec.environment["FLEETCTL_SSH_KEY_FILE"], "w") as file:
            file.write(spec.host_key + "\n")
        os.chdir(spec.path("home"))

    def _run_user_data(self, data: bytes) -> None:
        """Runs a script as cloud-init does: through its own first line, its output on the console. Other kinds are only named there."""
        if data.startswith(b"\x1f\x8b"):
            with contextlib.suppress(OSError, EOFError):
                data = gzip.decompress(data)
        console = os.open(self._spec.path("console.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with contextlib.closing(os.fdopen(console, "wb", buffering=0)) as out:
            if data.startswith(EACH_BOOT):
                data = data.partition(b"\n")[2]
            if not data.startswith(b"#!"):
                out.write(b"user data: not a script (no #! in front), left alone\n")
                return
            script = self._spec.path("user-data")
            with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "wb") as file:
                file.write(data)
            nothing = os.open(os.devnull, os.O_RDONLY)
            self._main = self._start([script], self._spec.environment, [nothing, console, console], tty=False)
            os.close(nothing)

    def _start(self, argv: list[str], environment: dict[str, str], fds: list[int], tty: bool) -> int:
        """Forks and executes `argv` in a session of its own, with `fds` as 0, 1 and 2; returns its pid."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            if not self._contained:
                containment.die_with_parent()
            if tty:
                fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
            for name in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_DFL)
            os.execvpe(argv[0], argv, environment)
        except OSError as exc:
            os.write(2, f"{argv[0]}: {exc.strerror}\n".encode())
        finally:
            os._exit(127)

    # -- serving

    def _serve_daemon(self) -> None:
        messages = self._wire.receive()
        if messages is None:
            self._vanish()
        for message, fds in messages:
            match message["op"]:
                case "spawn":
                    self._spawn(message, fds)
                case "signal":
                    for pid, number in self._spawned.items():
                        if number == message["n"]:
                            with contextlib.suppress(ProcessLookupError):
                                os.killpg(pid, message["signal"])
                case "off":
                    self._go("poweroff", "asked", message["grace"])

    def _spawn(self, message: Message, fds: list[int]) -> None:
        if self._going and self._going[1] == "reboot":
            self._held.append((message, fds))       # who logs in now meets the machine that comes up
            return
        if self._halted or self._going:
            self._say({"say": "exit", "n": message["n"], "status": 255})
        else:
            pid = self._start(message["argv"], {**self._spec.environment, **message["env"]}, fds, message["tty"])
            self._spawned[pid] = message["n"]
        for fd in fds:
            os.close(fd)

    def _serve_initctl(self, fd: int) -> None:
        self._initctl_text += os.read(fd, 4096).decode(errors="replace")
        *lines, rest = self._initctl_text.split("\n")
        self._initctl_text = rest[-64:]     # no request is longer
        for request in filter(None, map(parse_initctl, lines)):
            if request.verb == "cancel":
                self._planned = None
            else:
                self._planned = time.monotonic() + request.seconds, request.verb

    def _reap(self, wake: socket.socket | None = None) -> bool:
        """Collects every child that has ended; False when none is left."""
        if wake is not None:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        """Tells the daemon of an end it may be waiting for; an adopted orphan's is no news."""
        if pid == self._main:
            self._main = None
            self._say({"say": "script", "status": os.waitstatus_to_exitcode(status)})
        elif pid in self._spawned:
            self._say({"say": "exit", "n": self._spawned.pop(pid), "status": os.waitstatus_to_exitcode(status)})

    # -- ending

    def _patience(self) -> float | None:
        """Seconds until something is due, None when nothing is."""
        due = [event[0] for event in (self._planned, self._going) if event]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._planned and now >= self._planned[0]:
            verb, self._planned = self._planned[1], None
            self._go(verb, "shutdown", SHUTDOWN_GRACE)
        if self._going and (not self._reap() or now >= self._going[0]):
            self._went(self._going[1], self._going[2])

    def _go(self, verb: str, why: str, grace: float) -> None:
        """Begins the end: SIGTERM to everything (SIGHUP to shells on terminals, which ignore it), SIGKILL when the grace is over."""
        self._going = time.monotonic() + grace, verb, why
        if grace > 0:
            self._kill_all(signal.SIGTERM)
            self._kill_all(signal.SIGCONT)
            for pid in self._spawned:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGHUP)

    def _went(self, verb: str, why: str) -> None:
        """Everything has ended or must end now; then the machine is off, up again, or halted."""
        self._going = None
        self._kill_until_none()
        if verb == "poweroff":
            self._say({"say": "off", "why": why})
            os._exit(0)
        self._say({"say": verb})
        self._halted = verb == "halt"       # as on EC2, a halted machine is not off: it goes on being billed
        while self._held:
            self._spawn(*self._held.pop(0))

    def _vanish(self) -> NoReturn:
        """The power is cut. Contained, the kernel ends all the rest when this process ends."""
        if not self._contained:
            self._kill_until_none()
        os._exit(0)

    def _kill_until_none(self) -> None:
        """SIGKILL to everything until no child is left; each round's orphans are the next round's children."""
        while True:
            self._kill_all(signal.SIGKILL)
            try:
                self._ended(*os.waitpid(-1, 0))
            except ChildProcessError:
                return

    def _kill_all(self, how: signal.Signals) -> None:
        """Sends `how` to every other process of the instance."""
        if self._contained:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, how)
            return
        told: set[int] = set()
        while new := set(containment.descendants(os.getpid())) - told:      # again, for what was forked meanwhile
            told |= new
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):      # the daemon is gone; the wire's end ends this process in the next round
            self._wire.send(message)


def start(wire: Wire, spec: Spec, contained: bool) -> NoReturn:
    """Becomes the instance's first process. Never returns; whatever goes wrong is on stderr, the hypervisor's log."""
    try:
        if contained:
            containment.furnish(spec.hostname)
        Init(wire, spec, contained).run()
    except BaseException:
        import traceback  # only now: every instance would pay for it

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)        # EX_SOFTWARE
