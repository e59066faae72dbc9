"""A grid with its machines, in one line: it computes, changes its size, and is gone.

    python examples/one_line_grid.py

Functions travel by value, so nothing is installed on the machines. Machines that EC2 takes back are replaced.
"""

import asyncio

from fleetctl import bring_up_grid, connect, teardown_all
from gridworker import requests

REQUEST = {"SpotPrice": "0.05", "LaunchSpecification": {"InstanceType": "t3.micro"}}


def collatz(n: int) -> int:
    """Steps until 1."""
    steps = 0
    while n > 1:
        n, steps = (3 * n + 1 if n % 2 else n // 2), steps + 1
    return steps


def longest(start: int, stop: int) -> int:
    """The most steps in a range; asks the grid for halves of it."""
    if stop - start <= 250:
        return max(map(collatz, range(start, stop)))
    middle = (start + stop) // 2
    return max(requests([(longest, start, middle), (longest, middle, stop)]))


async def main() -> None:
    connect("local")
    try:
        async with await bring_up_grid(REQUEST, 3, each=1) as grid:
            print("below 10,000:", await grid.request(longest, 1, 10_000), "steps, by", len(grid.machines.up), "machines")
            await grid.resize(1)
            print("below 20,000:", await grid.request(longest, 10_000, 20_000), "steps, by", len(grid.machines.up), "machine")
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
