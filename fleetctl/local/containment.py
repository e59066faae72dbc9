"""What keeps an instance's processes in, and ends them all: Linux namespaces, or less.

Contained, each instance is a user and PID namespace of its own: its first process is PID 1, and when that ends, the kernel kills
everything in it, daemons and double forks included. Death of the parent kills PID 1 (`PR_SET_PDEATHSIG`), so nothing outlives the
daemon, even when that gets SIGKILL. Inside, the user is 1000 where the host's is root (one id is all an unprivileged process may
map): scripts see an ordinary user.

Not contained (no user namespaces, or not Linux), the first process adopts orphans where the kernel can do that, and ends its
descendants one by one; `weakness` says what that leaves open. The stdlib and ctypes only: the nursery imports this.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys

USER_INSIDE = 1000      # Amazon Linux's ec2-user has this id too

_NEWNS, _NEWUTS, _NEWUSER, _NEWPID = 0x0002_0000, 0x0400_0000, 0x1000_0000, 0x2000_0000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x4_0000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, doing: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")


def isolate() -> None:
    """Gives the children that this process will fork a user, PID, mount and host-name namespace of their own.

    OSError where the kernel or its settings do not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    inside = user or USER_INSIDE, group or USER_INSIDE
    _checked(_libc.unshare(_NEWUSER | _NEWPID | _NEWNS | _NEWUTS), "unshare")
    _write("/proc/self/setgroups", "deny")          # the kernel's condition for an unprivileged gid_map
    _write("/proc/self/uid_map", f"{inside[0]} {user} 1")
    _write("/proc/self/gid_map", f"{inside[1]} {group} 1")


def furnish(hostname: str) -> None:
    """In the first process inside: the namespace's own /proc and host name.

    Both are comfort, not containment: where the kernel refuses (a masked /proc in a container), the host's show through.
    """
    _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    _libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC), None)
    name = hostname.encode()
    _libc.sethostname(name, len(name))


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send `how` to this process when the thread that started it ends. Linux only; elsewhere nothing happens."""
    if LINUX:
        _checked(_libc.prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0), "prctl(PDEATHSIG)")


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants' orphans. Linux only; elsewhere nothing happens."""
    if LINUX:
        _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(CHILD_SUBREAPER)")


def weakness() -> str | None:
    """None where instances can be contained; else what is weaker, as a sentence. Tries it in a forked child: call it single-threaded."""
    if not LINUX:
        return ("instances are process groups here, not namespaces: a process that leaves its group and its parent can outlive its "
                "instance, and instances see each other's processes")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            isolate()
            grandchild = os.fork()      # the first process of the PID namespace: fork fails where that cannot be
            if grandchild == 0:
                os._exit(0 if os.getpid() == 1 else 1)
            _, status = os.waitpid(grandchild, 0)
            if status != 0:
                os.write(write, b"no PID namespace")
        except OSError as exc:
            limit = "unshare: no more user namespaces are allowed" if exc.errno == errno.ENOSPC else None
            os.write(write, (limit or exc.strerror or str(exc)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        why = answer.read().decode()
    os.waitpid(child, 0)
    return weaker_because(why) if why else None


def weaker_because(why: str) -> str:
    """The sentence for Linux without user namespaces."""
    return (f"instances are process trees, not namespaces ({why}): they see each other's and the host's processes, run as the host's user, "
            "and are ended one by one by a keeper: if that is killed too, they can outlive their instance")


def descendants(root: int) -> list[int]:
    """Every living process below `root`, by /proc or by ps; a snapshot, so what forks meanwhile needs another look."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, ahead = [], [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def _parents() -> list[tuple[int, int]]:
    if not LINUX:
        import subprocess  # slow to import, and Linux does without

        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return [(int(pid), int(parent)) for pid, parent in (line.split() for line in table.splitlines())]
    pairs = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    pairs.append((int(name), int(file.read().rpartition(b")")[2].split()[1])))
            except (FileNotFoundError, ProcessLookupError):     # it ended while we looked
                continue
    return pairs


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
