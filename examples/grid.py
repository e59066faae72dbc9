"""A grid of four workers evaluates functions of this script, which call each other through the grid.

    python examples/grid.py

Functions travel by value, so nothing is installed on the machines. `request` and `requests` inside of a function set it aside until
the answers are there; equal calls are evaluated once.
"""

import asyncio

from fleetctl import bring_up_one_spot, bring_up_spots, commands, connect, connect_grid, teardown_all
from gridworker import CallFailed, request, requests

REQUEST = {"SpotPrice": "0.05", "LaunchSpecification": {"InstanceType": "t3.micro"}}


def fib(n: int) -> int:
    """As a tree this asks for thousands of calls; on the grid each different one is evaluated once."""
    return n if n < 2 else sum(requests([(fib, n - 1), (fib, n - 2)]))


def inverse(x: float) -> float:
    return 1 / x


def inverses(xs: list[float]) -> list[float]:
    return [request(inverse, x) for x in xs]


async def main() -> None:
    connect("local")
    try:
        server = await bring_up_one_spot(REQUEST, commands.server(), subnet="public", itype="m3.medium")
        await bring_up_spots(REQUEST, 4, commands.worker(1, "pool", server), subnet="private")
        grid = await connect_grid(server)
        print("fib(20) =", await grid.request("pool", fib, 20), "by", sum(grid.status().executed.values()), "calls")
        print("inverses:", await grid.request("pool", inverses, [1, 2, 4]))
        try:
            await grid.request("pool", inverses, [1, 0])
        except CallFailed as error:
            print(error)
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
