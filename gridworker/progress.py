"""A progress bar for those who wait: a line in a terminal, HTML in a notebook, nothing anywhere else. It is drawn only by who waits."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Protocol

AFTER_SECONDS = 1.0         # of waiting; what is done sooner needs no bar
EVERY_SECONDS = 0.1
BAR_MOST = 40                # columns


class _Display(Protocol):
    def show(self, done: int, failed: int) -> None: ...
    def close(self) -> None: ...


class Bar:
    """One bar for one wait. `wanted` None: after a second, where somebody looks on; True: at once, on stderr if nowhere else."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        self.total, self._wanted = total, wanted
        self._silent = wanted is False or (wanted is None and not (in_notebook() or _terminal()))
        self._began = time.monotonic()
        self._from = self._began + (0.0 if wanted else AFTER_SECONDS)
        self._shown_at = 0.0
        self._display: _Display | None = None

    def __repr__(self) -> str:
        return f"<Bar of {self.total}{' shown' if self._display else ''}>"

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def pause(self, left: float | None) -> float | None:
        """The longest that one may wait now so that the bar stays fresh, in seconds; at most `left`. None: as long as it takes."""
        if self._silent:
            return left
        return EVERY_SECONDS if left is None else min(left, EVERY_SECONDS)

    def show(self, done: int, failed: int) -> int:
        """So many are done, failed ones among them. Returns `done`."""
        now = time.monotonic()
        if self._silent or now < self._from or (now < self._shown_at + EVERY_SECONDS and done < self.total):
            return done
        if self._display is None:
            if done == self.total and not self._wanted:         # too late to be of use
                return done
            self._display = (_Notebook if in_notebook() else _Terminal)(self.total, self._began)
        self._shown_at = now
        self._display.show(done, failed)
        return done

    def close(self) -> None:
        """Leaves the bar standing as it is."""
        if self._display is not None:
            self._display.close()
            self._display, self._silent = None, True


def words(done: int, total: int, failed: int, spent: float) -> str:
    """Where it is, after so many seconds.

    >>> words(10, 40, 0, 5.0), words(40, 40, 1, 21.3)
    ('10/40, 5.0 s, about 15 s left', '40/40, 1 failed, 21.3 s')
    """
    rest = f", about {spent * (total - done) / done:.0f} s left" if 0 < done < total else ""
    return f"{done}/{total}{f', {failed} failed' if failed else ''}, {spent:.1f} s{rest}"


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return hasattr(_shell(), "kernel")


def _shell() -> object:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _cell() -> int:
    """The number of the cell that IPython runs; 0 where there is no IPython."""
    return getattr(_shell(), "execution_count", 0)


def _terminal() -> bool:
    return bool(sys.stderr is not None and sys.stderr.isatty())


class _Terminal:
    """A line on stderr that is written anew at each look, and by nobody else: no thread of its own, and the cursor stays as it is.

    At Ctrl-C IPython drops what was awaited without a word to it. Whatever drew by itself would go on, over the prompt. The coroutine that
    was dropped goes on during the next `await` of another cell, which is no business of that cell: so the line is silent there.
    """

    def __init__(self, total: int, began: float) -> None:
        self.total, self._began, self._cell = total, began, _cell()

    def show(self, done: int, failed: int) -> None:
        if _cell() != self._cell:
            return
        columns = shutil.get_terminal_size().columns - 1
        text = f" {words(done, self.total, failed, time.monotonic() - self._began)}"
        width = max(0, min(BAR_MOST, columns - len(text)))
        full = width * done // max(1, self.total)
        sys.stderr.write("\r" + ("━" * full + "─" * (width - full) + text)[:columns] + "\x1b[K")      # K: to the end of the line
        sys.stderr.flush()

    def close(self) -> None:
        if _cell() == self._cell:
            sys.stderr.write("\n")
            sys.stderr.flush()


class _Notebook:
    def __init__(self, total: int, began: float) -> None:
        from IPython.display import DisplayHandle

        self.total, self._began = total, began
        self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
        self._begun = False

    def show(self, done: int, failed: int) -> None:
        from IPython.display import HTML

        text = words(done, self.total, failed, time.monotonic() - self._began)
        colour = " style='color:#b00'" if failed else ""
        html = HTML(f"<progress max='{self.total}' value='{done}' style='width:20em'></progress> "  # type: ignore[no-untyped-call]
                    f"<span{colour}>{text}</span>")
        (self._handle.update if self._begun else self._handle.display)(html)  # type: ignore[no-untyped-call]
        self._begun = True

    def close(self) -> None:
        """Its last picture stays in the notebook."""
