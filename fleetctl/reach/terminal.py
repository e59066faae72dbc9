"""This process' terminal, lent to a program on a machine: keys go there as they are pressed, Ctrl-C among them, and what it writes comes.

The terminal is in raw mode meanwhile, and as before afterwards, whatever happens. Its size is looked at now and then: the signal that
tells of a change reaches the main thread only, which waits somewhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import MachineError
from .link import Link

try:
    import termios
    import tty
except ImportError:  # not a Unix
    termios = tty = None  # type: ignore[assignment]

LOOK_SECONDS = 0.5  # between looks at the terminal's size


def ours() -> tuple[int, int]:
    """The file descriptors of this process' terminal, to read and to write. Raises MachineError where there is none."""
    try:
        here = (sys.__stdin__.fileno(), sys.__stdout__.fileno())  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        here = (-1, -1)
    if termios is None or not all(fd >= 0 and os.isatty(fd) for fd in here):
        raise MachineError("there is no terminal here to lend", todo="call this in a terminal; in a notebook use run, or kernel")
    return here


async def lend(link: Link, line: str | None, machine: str) -> int:
    """Until the program has ended, whose exit code (or minus whose signal) this returns. Raises MachineError. On the loop."""
    from . import ssh  # asyncssh takes a while to import

    read, write = ours()
    loop = asyncio.get_running_loop()
    async with (
        link.session() as connection,
        ssh.terminal(connection, line, os.environ.get("TERM") or "xterm", _size(write), machine) as process,
    ):
        with _raw(read):
            loop.add_reader(read, _keys, loop, read, process)
            size = loop.create_task(_follow_size(write, process))
            try:
                while data := await process.stdout.read(65536):
                    await asyncio.to_thread(_write, write, data)  # a terminal may take its time
            finally:
                loop.remove_reader(read)
                size.cancel()
        status = (await process.wait()).returncode
    return 255 if status is None else int(status)


def _keys(loop: asyncio.AbstractEventLoop, read: int, process: Any) -> None:
    try:
        data = os.read(read, 65536)
    except OSError:
        data = b""
    if data:
        process.stdin.write(data)
    else:  # the terminal has gone
        loop.remove_reader(read)
        process.close()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _size(fd: int) -> tuple[int, int]:
    size = os.get_terminal_size(fd)  # not shutil's, which believes $COLUMNS
    return size.columns, size.lines


async def _follow_size(fd: int, process: Any) -> None:
    shown = _size(fd)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if (now := _size(fd)) != shown:
            shown = now
            process.change_terminal_size(*now)


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
