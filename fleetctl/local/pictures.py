"""The files of images: a copy of a machine's home, laid into the home of each machine that comes up from it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

OWN = (".fleetctl",)   # in a home: what the boot script keeps of its one machine


def photograph(home: Path, image: Path) -> None:
    """Copy a machine's files into an image: whole, or not at all. Sockets and the like are no files. Raises OSError."""
    def left_out(directory: str, names: list[str]) -> set[str]:
        own = OWN if directory == str(home) else ()
        return {name for name in names if name in own or not _is_file(os.path.join(directory, name))}

    new = image.with_name(f"{image.name}.new")
    image.parent.mkdir(exist_ok=True)
    try:
        shutil.copytree(home, new, symlinks=True, ignore=left_out)
        new.rename(image)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def develop(image: Path, home: Path) -> None:
    """Lay an image's files into the home of a new machine. An image without files of its own lays none. Raises OSError."""
    if image.is_dir():
        shutil.copytree(image, home, symlinks=True, dirs_exist_ok=True)


def _is_file(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:   # it has gone between the listing and the look
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
