"""A grid where a program takes an executor: `concurrent.futures`, `asyncio.loop.run_in_executor`, joblib and scikit-learn.

    python examples/grid_executor.py

The part with joblib is left out where that is not installed.
"""

import asyncio
from concurrent.futures import as_completed
from importlib.util import find_spec

from gridworker import Grid, register_joblib


def collatz(n: int) -> int:
    """How many steps it takes from n to 1."""
    steps = 0
    while n != 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


async def in_a_loop(executor) -> int:
    return await asyncio.get_running_loop().run_in_executor(executor, collatz, 27)


with Grid(workers=2) as grid, grid.executor() as executor:
    print("map:", list(executor.map(collatz, range(1, 8))))
    futures = {executor.submit(collatz, n): n for n in (97, 871, 6171)}
    print("submit:", sorted((futures[future], future.result()) for future in as_completed(futures)))
    print("asyncio:", asyncio.run(in_a_loop(executor)))
    if find_spec("joblib"):
        import joblib

        register_joblib()
        with joblib.parallel_config(backend="gridworker", grid=grid):
            print("joblib:", joblib.Parallel()(joblib.delayed(collatz)(n) for n in range(1, 8)))
