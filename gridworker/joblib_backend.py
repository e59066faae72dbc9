"""joblib on a grid, and with it scikit-learn's `n_jobs`.

    import gridworker, joblib

    gridworker.register_joblib()
    with Grid() as grid, joblib.parallel_config(backend="gridworker", grid=grid):
        GridSearchCV(SVC(), parameters).fit(X, y)

`grid` may be left out within `with grid:`. `n_jobs` that is not given means all workers. What runs on a worker has one core to itself,
so a parallel call inside of one that runs on the grid is computed there one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from joblib._parallel_backends import SequentialBackend  # type: ignore[import-untyped,import-not-found,unused-ignore]
from joblib.parallel import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    AutoBatchingMixin,
    ParallelBackendBase,
    register_parallel_backend,
)

from .here import current

if TYPE_CHECKING:
    from .client import Grid


class GridBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib ships no types
    """joblib's view of a pool of a grid. joblib makes batches of calls that take less than a fifth of a second."""

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = False

    def __init__(self, grid: Grid | None = None, pool: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.grid, self.pool = grid, pool
        self._futures: set[Future[Any]] = set()
        self._executor: Any = None

    def __repr__(self) -> str:
        return f"<GridBackend {self._executor!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return SequentialBackend, (self.nesting_level,)         # a copy of it on a worker has no grid to ask

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """-1 and None are all workers of the pool, as they are now."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        grid = current() if self.grid is None else self.grid
        pool = self.pool or grid.pool
        workers: int = sum(node["pool"] == pool and node["kind"] == "worker" for node in grid.status().nodes.values())
        if n_jobs is None or n_jobs < 0:
            return max(1, workers + 1 + (-1 if n_jobs is None else n_jobs))
        return n_jobs

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Begins a parallel call. One job is computed here and now."""
        grid = current() if self.grid is None else self.grid
        self.parallel = parallel
        self._executor = grid.executor(self.pool)
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Sends a batch of calls."""
        future: Future[Any] = self._executor.submit(func)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """What a finished batch gave."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Takes back what no worker has yet."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel)

    def terminate(self) -> None:
        """Ends a parallel call."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """What parallel calls use that run on a worker: one after the other, on its one core."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


def register() -> None:
    """Behind `gridworker.register_joblib`."""
    register_parallel_backend("gridworker", GridBackend)
