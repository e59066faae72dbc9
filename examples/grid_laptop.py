"""All cores of this computer, for functions of this script: nothing is installed, started or configured first.

    python examples/grid_laptop.py

The grid ends with the `with`; and with this process, however that ends.
"""

import math

from gridworker import Grid, remote


@remote
def log_gamma_sum(start: int, stop: int) -> float:
    """The sum of ln Γ(n) over a range."""
    return sum(math.lgamma(n) for n in range(start, stop))


STEP = 50_000

with Grid() as grid:
    starts = range(1, 1_000_001, STEP)
    parts = log_gamma_sum.map(starts, [start + STEP for start in starts])
    print(f"sum of ln Γ(n) up to a million: {sum(parts):.6e}")
    print("here, without a grid:", log_gamma_sum(1, 4))
    print(f"{len(grid.status().nodes)} workers, {sum(grid.status().executed.values())} calls")
