"""What people see while they wait: one line in a terminal, one box in a notebook, nothing where nobody looks."""

from __future__ import annotations

import contextlib
import html
import shutil
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from IPython.core.getipython import get_ipython
from IPython.display import display as show_in_notebook
from rich.console import Console


class Shown(Protocol):
    """Something whose progress can be shown."""

    def progress(self) -> Any:
        """Where it is; its str is one line, `up` and `wanted` are numbers."""


class Tick:
    """Where nobody looks: shows nothing, and wakes rarely."""

    seconds: float | None = None

    def show(self) -> None:
        """Show the present state."""

    def end(self) -> None:
        """Show the last state."""


class _Terminal(Tick):
    """A line on stderr that is written anew at each tick, and by nobody else: IPython drops an await at Ctrl-C without telling it.

    A display with a thread of its own would then paint over the prompt for good, with the cursor hidden.
    """

    seconds = 0.2

    def __init__(self, what: Shown) -> None:
        self._what = what
        self.show()

    def show(self) -> None:
        """Show the present state."""
        line = str(self._what.progress())[: max(20, shutil.get_terminal_size().columns - 1)]
        sys.stderr.write(f"\r{line}\x1b[K")  # K: to the end of the line
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the last line standing."""
        self.show()
        sys.stderr.write("\n")
        sys.stderr.flush()


class _Notebook(Tick):
    """One box that is updated in place, in the output of the cell that waits."""

    seconds = 0.5

    def __init__(self, what: Shown) -> None:
        self._what = what
        self._handle: Any = show_in_notebook(_Html(what), display_id=True)  # type: ignore[no-untyped-call]

    def show(self) -> None:
        """Show the present state."""
        if self._handle is not None:
            self._handle.update(_Html(self._what))

    end = show


class _Html:
    """Carries both forms, so that a notebook without HTML shows text."""

    def __init__(self, what: Any) -> None:
        self._what = what
        self._text = str(what.progress())

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return launch_html(self._what)


@contextlib.contextmanager
def progress(what: Shown) -> Iterator[Tick]:
    """Show progress for as long as the block runs: in a notebook, in a terminal, or not at all."""
    tick = _tick(what)
    try:
        yield tick
    finally:
        tick.end()


def _tick(what: Shown) -> Tick:
    shell = get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        return _Notebook(what)
    return _Terminal(what) if sys.stderr.isatty() else Tick()


def say(text: str) -> None:
    """One line to whoever looks at this process."""
    Console(stderr=True, force_jupyter=False).print(text, highlight=False, markup=False, soft_wrap=True)


def launch_html(launch: Any) -> str:
    """A bar and a line for a notebook."""
    now = launch.progress()
    share, lost = (100 * n / max(1, now.wanted) for n in (now.up, now.failed))
    bar = (
        f"<div style='display:flex;width:24em;height:.7em;background:#ddd;border-radius:3px;overflow:hidden'>"
        f"<div style='width:{share:.1f}%;background:#2a9d55'></div><div style='width:{lost:.1f}%;background:#c0392b'></div></div>"
    )
    return f"<div>{bar}<code>{html.escape(str(now))}</code></div>"
