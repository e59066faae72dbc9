"""joblib computes on a grid, and scikit-learn with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest

from gridworker import node_id, register_joblib

if TYPE_CHECKING:
    from grid_lab import Lab

    from gridworker import Grid

joblib = pytest.importorskip("joblib")
Parallel, delayed, parallel_config = joblib.Parallel, joblib.delayed, joblib.parallel_config
register_joblib()


def nested(n: int) -> Any:
    """A parallel call inside of one: where each part of it ran, and the backend that joblib chose."""
    parts = Parallel(n_jobs=2)(delayed(pid_of)(i) for i in range(n))
    return os.getpid(), parts, type(joblib.parallel.get_active_backend()[0]).__name__


def pid_of(i: int) -> int:
    return os.getpid()


def test_parallel_calls_run_on_the_workers(grid: Grid) -> None:
    with parallel_config(backend="gridworker", grid=grid):
        assert Parallel()(delayed(calls.inc)(i) for i in range(100)) == list(range(1, 101))
        nodes = Parallel()(delayed(calls.where)(i) for i in range(4))
    assert set(nodes) <= set(grid.status().nodes) and node_id() not in nodes


def test_the_grid_of_the_block_is_used_when_none_is_named(grid: Grid) -> None:
    with grid, parallel_config(backend="gridworker"):
        assert Parallel(n_jobs=2)(delayed(calls.inc)(i) for i in range(3)) == [1, 2, 3]


def test_equal_calls_run_each_as_joblib_users_expect(grid: Grid, lab: Lab) -> None:
    path = lab.directory / "noted"
    with parallel_config(backend="gridworker", grid=grid):
        assert Parallel(batch_size=1)(delayed(calls.noted)(str(path), 1) for _ in range(6)) == [1] * 6
    assert len(path.read_text().splitlines()) == 6


def test_results_can_be_had_as_they_come(grid: Grid) -> None:
    with parallel_config(backend="gridworker", grid=grid):
        assert list(Parallel(return_as="generator")(delayed(calls.inc)(i) for i in range(20))) == list(range(1, 21))
        assert sorted(Parallel(return_as="generator_unordered")(delayed(calls.inc)(i) for i in range(20))) == list(range(1, 21))


def test_a_failure_ends_the_parallel_call_and_the_next_one_works(grid: Grid) -> None:
    with parallel_config(backend="gridworker", grid=grid):
        with pytest.raises(ZeroDivisionError):
            Parallel()(delayed(calls.divide)(1, i) for i in range(5))
        assert Parallel()(delayed(calls.inc)(i) for i in range(5)) == [1, 2, 3, 4, 5]


def test_nested_calls_stay_on_the_core_of_their_worker(grid: Grid) -> None:
    with parallel_config(backend="gridworker", grid=grid):
        for pid, parts, backend in Parallel()(delayed(nested)(3) for _ in range(3)):
            assert parts == [pid] * 3 and pid != os.getpid()
            assert backend == "SequentialBackend"


def test_n_jobs_means_workers(grid: Grid) -> None:
    with parallel_config(backend="gridworker", grid=grid):
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.effective_n_jobs(7) == 7
        assert joblib.effective_n_jobs(None) == 2


def test_scikit_learn_searches_on_the_grid(grid: Grid) -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_iris  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from sklearn.model_selection import GridSearchCV, cross_val_score  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from sklearn.svm import SVC  # type: ignore[import-untyped,import-not-found,unused-ignore]

    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}, cv=3, n_jobs=-1)
    executed = sum(grid.status().executed.values())
    with parallel_config(backend="gridworker", grid=grid):
        there = search.fit(X, y).cv_results_["mean_test_score"]
        forest = cross_val_score(RandomForestClassifier(8, random_state=0, n_jobs=2), X, y, cv=3, n_jobs=-1)
    here = GridSearchCV(SVC(), search.param_grid, cv=3, n_jobs=1).fit(X, y).cv_results_["mean_test_score"]
    assert list(there) == list(here)
    assert list(forest) == list(cross_val_score(RandomForestClassifier(8, random_state=0), X, y, cv=3))
    assert sum(grid.status().executed.values()) > executed
