"""Big parts in the memory of the server's machine, for a grid that lives on one machine: written once, and mapped where they are needed.

A server that is started for this machine alone may have a shelf: a directory in shared memory, and beside its socket a link to it. Who
connects through that socket finds the link, and so is on that machine. A part is a file there, under its key and a mark of its own; in
its place, under its key, the server keeps a note, `@length.mark`, with all that holds for parts: who needs them, how long they are kept.
So the server alone says what there is, and a file goes when its note has gone: at once by whoever is told so, else by `sweep`. The mark
also travels with the value, so that readers need not ask. Where there is no room a part goes to the server, as it does where there is no
shelf, and readers find it there.

Nothing is signed on a shelf: only this user can reach it, and he can do anything to these processes anyway.
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from functools import cache
from weakref import finalize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .parts import Part
    from .store import Address

MEMORY = "/dev/shm"         # where Linux has files that are memory, and everybody may make a directory
LINK = "parts"
NOTE_MOST = 64              # bytes of a note: no part is so short
SETTLED_SECONDS = 60.0      # a file that is older and has no note has lost it, and is not just about to get it
MAPS_MOST = 10_000          # the kernel allows a process some 65,000 of all kinds
SHARE = 4                   # of the room for files in memory, one in so many is for what no pending call needs


class Shelf:
    """The shelf of a server, as one process sees it. What cannot be done on it is not done: nothing here raises OSError."""

    __slots__ = ("directory", "most")

    def __init__(self, directory: str) -> None:
        room = os.statvfs(directory)
        self.directory, self.most = directory, room.f_frsize * room.f_blocks // SHARE

    def __repr__(self) -> str:
        return f"<Shelf {self.directory}>"

    def put(self, key: str, mark: str, data: bytes | memoryview) -> bool:
        """Lays a part there; whether there was room. It may be there already."""
        view, at, path = memoryview(data).cast("B"), 0, self._path(key, mark)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            return isinstance(error, FileExistsError)
        try:
            while at < len(view):
                at += os.write(file, view[at:])
        except OSError:
            return False
        finally:                    # Ctrl-C, too
            os.close(file)
            if at < len(view):
                _unlink(path)
        return True

    def read(self, key: str, mark: str, length: int) -> memoryview | None:
        """A part, mapped, or copied where there are many maps already; what is written to it nobody else sees.

        None if it is not there, or not as long.
        """
        try:
            file = os.open(self._path(key, mark), os.O_RDONLY)
        except OSError:
            return None
        try:
            if os.fstat(file).st_size != length:
                return None
            return _mapped(file, length) or _copied(file, length)
        finally:
            os.close(file)

    def remove(self, key: str, mark: str) -> None:
        """Takes a part away, once no note says that it is there."""
        _unlink(self._path(key, mark))

    def sweep(self, notes: Callable[[Sequence[str]], Sequence[bytes]]) -> int:
        """Takes away what has lost its note; how much. `notes(keys)`: how what the server has there begins."""
        lying, now = [], time.time()
        for name in self._names():
            key, _, mark = name.rpartition(".")
            with suppress(OSError):         # it has just gone
                if key and now - os.stat(os.path.join(self.directory, name)).st_mtime > SETTLED_SECONDS:
                    lying.append((key, mark))
        there = notes([key for key, _ in lying]) if lying else ()
        lost = [each for each, note in zip(lying, there, strict=True) if read_note(note) != each[1]]
        for key, mark in lost:
            self.remove(key, mark)
        return len(lost)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.directory)
        except OSError:
            return []

    def _path(self, key: str, mark: str) -> str:
        return os.path.join(self.directory, f"{key}.{mark}".replace("/", "-"))       # whoever has named it: it is in here


def new_mark() -> str:
    """Another one each time, also in processes that were forked."""
    return os.urandom(4).hex()


def note(part: Part) -> bytes:
    """What the server keeps in place of a part."""
    return b"@%d.%b" % (part.length, part.mark.encode())


def read_note(value: bytes | bytearray) -> str | None:
    """The mark in a note; None for what is none.

    >>> read_note(b"@70000.0123abcd"), read_note(b"@" * 70_000), read_note(b"")
    ('0123abcd', None, None)
    """
    if not value.startswith(b"@") or len(value) > NOTE_MOST:
        return None
    return value.partition(b".")[2].decode("ascii", "replace")


def beside(address: Address) -> Shelf | None:
    """The shelf of the server at that address, if it has one and this process may use it."""
    link = os.path.join(os.path.dirname(address.path), LINK)
    try:
        return Shelf(link) if address.path and os.path.islink(link) and os.access(link, os.W_OK | os.X_OK) else None
    except OSError:
        return None


def make(directory: str) -> str:
    """A shelf for the server whose socket is in that directory: where it is, for `remove`; "" if this machine has no place for one."""
    from tempfile import mkdtemp

    try:
        memory = mkdtemp(prefix="grid-", dir=MEMORY)         # for this user alone
    except OSError:
        return ""
    link = os.path.join(directory, LINK)
    _unlink(link)                   # of a server that was here before
    os.symlink(memory, link)
    return memory


def remove(directory: str, memory: str) -> None:
    """Takes a shelf away, with all that is on it."""
    from shutil import rmtree

    _unlink(os.path.join(directory, LINK))
    rmtree(memory, ignore_errors=True)


class _Maps:
    """How many of them this process has."""

    count = 0


def _mapped(file: int, length: int) -> memoryview | None:
    """That file as memory, for as long as anybody refers to it. Not by the module mmap, whose maps hold a descriptor each."""
    import ctypes  # some milliseconds, for those only who have big values

    if _Maps.count >= MAPS_MOST:
        return None
    library = _library()
    address = library.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, file, 0)
    if address == ctypes.c_void_p(-1).value:
        return None
    memory = (ctypes.c_ubyte * length).from_address(address)
    _Maps.count += 1
    finalize(memory, _unmap, address, length).atexit = False
    return memoryview(memory).cast("B")


def _unmap(address: int, length: int) -> None:
    _Maps.count -= 1
    _library().munmap(address, length)


def _copied(file: int, length: int) -> memoryview | None:
    view, at = memoryview(bytearray(length)), 0
    while at < length and (got := os.readv(file, [view[at:]])):
        at += got
    return view if at == length else None


@cache
def _library() -> Any:
    import ctypes

    library = ctypes.CDLL(None)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return library


def _unlink(path: str) -> None:
    with suppress(OSError):         # somebody else has, or has removed the whole directory
        os.unlink(path)
