"""A pool of a grid as a `concurrent.futures.Executor`: for `asyncio.loop.run_in_executor`, for joblib, for whatever takes one.

Every submit runs: its call is salted with the executor's name and an ordinal, so equal submits are different calls, while a call that is
asked again after a broken connection is the same. The answers are unpickled, and callbacks run, in one thread of the executor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .answers import Answer
from .culprit import Stays
from .serialize import Reference, salted
from .store import Script

if TYPE_CHECKING:
    from .client import Grid

P = ParamSpec("P")
T = TypeVar("T")


class GridFuture(Future[T], Stays):
    """A future of a call on a grid. While the call waits in a queue it is pending and can be cancelled; handed to a node, it is running."""

    instead = Answer.instead
    answer: Answer[T] | None = None
    grid: Grid | None = None

    def running(self) -> bool:
        """Whether a node has the call now. Asks the server: blocks for milliseconds."""
        return not self.done() and self._holder() is not None

    def cancel(self) -> bool:
        """Takes the call back unless a node has it already: whether it is cancelled now. Asks the server: blocks for milliseconds."""
        if self.cancelled():
            return True
        if self.done() or self._holder() is not None or not super().cancel():
            return False
        if self.answer is not None:
            self.answer.cancel()
        return True

    def _holder(self) -> str | None:
        if self.grid is None or self.answer is None:
            return None
        return holder(self.grid, self.answer.calls[0])


def holder(grid: Grid, call: str) -> str | None:
    """The node (its incarnation) that has been handed a call and has not finished it, or None."""
    script, keys = Script("holder"), grid.keys
    found = grid._command("EVAL", script.text, 1, keys.nodes, keys.prefix, call)
    return found.decode() if found else None


class GridExecutor(Executor, Stays):
    """Made by `grid.executor(pool)`. `shutdown()`, or the end of a `with`, waits for what was submitted; the grid stays open."""

    def __init__(self, grid: Grid, pool: str) -> None:
        self.grid, self.pool = grid, pool
        self._name, self._ordinals = os.urandom(8).hex(), count()
        self._lock = threading.Lock()
        self._pending: set[GridFuture[Any]] = set()
        self._empty = threading.Condition(self._lock)
        self._shut = False
        self._arrived: SimpleQueue[GridFuture[Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name=f"executor of {pool}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<GridExecutor on {self.pool}, {len(self._pending)} pending{', shut down' if self._shut else ''}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of fn(*args, **kwargs) in the pool. RuntimeError after `shutdown()`, NotSerializable for what cannot travel."""
        return self._submit(fn, args, kwargs)

    def _submit(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GridFuture[Any]:
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            salt = f"{self._name}.{next(self._ordinals)}"
        future: GridFuture[Any] = GridFuture()
        answer: Answer[Any] = self.grid._ask(self.pool, [(salted(function, salt), args, kwargs)], Answer, single=True)
        future.grid, future.answer = self.grid, answer
        with self._lock:
            self._pending.add(future)
        future.add_done_callback(self._done)
        answer._when_over(lambda: self._arrived.put(future))
        return future

    def map(self, fn: Callable[..., T], /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1) -> Iterator[T]:
        """As `concurrent.futures.Executor.map`. `chunksize` changes nothing: the grid makes batches by itself, as long as fits."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        reference: Any = self.grid._reference(fn)           # pickled once for all, if it goes by value
        return _Map(self, reference).map(fn, *iterables, timeout=timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more; cancels what no node has yet, if told to; waits until all the rest is done, if told to."""
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            with self._empty:
                self._empty.wait_for(lambda: not self._pending)
        with self._lock:
            if not self._pending:
                self._arrived.put(None)

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)
            if not self._pending:
                self._empty.notify_all()
                if self._shut:
                    self._arrived.put(None)

    def _deliver(self) -> None:
        while (future := self._arrived.get()) is not None:
            if not future.set_running_or_notify_cancel():
                continue
            assert future.answer is not None
            try:
                value = future.answer.result()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(value)


class _Map(Executor):
    """The standard library's `map` (order, timeout, cancelling the rest when it is abandoned) over submits of one function."""

    def __init__(self, executor: GridExecutor, reference: Reference) -> None:
        self._executor, self._reference = executor, reference

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._executor._submit(self._reference, args, kwargs)
