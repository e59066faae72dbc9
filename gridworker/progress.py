"""A progress bar for those who wait: rich in a terminal, HTML in a notebook, nothing anywhere else. Both are imported when one is shown."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol

AFTER_SECONDS = 1.0         # of waiting; what is done sooner needs no bar
EVERY_SECONDS = 0.1


class _Display(Protocol):
    def show(self, done: int, failed: int) -> None: ...
    def close(self) -> None: ...


class Bar:
    """One bar for one wait. `wanted` None: after a second, where somebody looks on; True: at once, on stderr if nowhere else."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        self.total, self._wanted = total, wanted
        self._silent = wanted is False or (wanted is None and not (in_notebook() or _terminal()))
        self._from = time.monotonic() + (0.0 if wanted else AFTER_SECONDS)
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
            self._display = _Notebook(self.total) if in_notebook() else _Terminal(self.total)
        self._shown_at = now
        self._display.show(done, failed)
        return done

    def close(self) -> None:
        """Leaves the bar standing as it is."""
        if self._display is not None:
            self._display.close()
            self._display, self._silent = None, True


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _terminal() -> bool:
    return bool(sys.stderr is not None and sys.stderr.isatty())


class _Terminal:
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._progress: Any = Progress(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeElapsedColumn(),
                                       TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._progress.add_task("", total=total, failed="")
        self._progress.start()

    def show(self, done: int, failed: int) -> None:
        self._progress.update(self._task, completed=done, failed=f"[red]{failed} failed" if failed else "")

    def close(self) -> None:
        self._progress.stop()


class _Notebook:
    def __init__(self, total: int) -> None:
        from IPython.display import DisplayHandle

        self.total, self._began = total, time.monotonic()
        self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
        self._begun = False

    def show(self, done: int, failed: int) -> None:
        from IPython.display import HTML

        spent = time.monotonic() - self._began
        rest = f", about {spent * (self.total - done) / done:.0f} s left" if 0 < done < self.total else ""
        wrong = f", <span style='color:#b00'>{failed} failed</span>" if failed else ""
        html = HTML(f"<progress max='{self.total}' value='{done}' style='width:20em'></progress> "  # type: ignore[no-untyped-call]
                    f"{done}/{self.total}{wrong}, {spent:.1f} s{rest}")
        (self._handle.update if self._begun else self._handle.display)(html)  # type: ignore[no-untyped-call]
        self._begun = True

    def close(self) -> None:
        """Its last picture stays in the notebook."""
