"""A grid from asyncio: answers are awaited, in any order, and a call that takes too long is given up.

    python examples/grid_asyncio.py
"""

import asyncio
import time

from gridworker import CallTimeout, Grid, as_completed, remote


@remote
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@remote
async def greet(name: str) -> str:
    await asyncio.sleep(0.01)
    return f"hello {name}"


async def main() -> None:
    async with Grid(workers=3) as grid:
        print(await asyncio.gather(*[greet.on(grid)(name) for name in ("ann", "bob")]))
        async for answer in as_completed([nap.submit(seconds) for seconds in (0.9, 0.1, 0.4)]):
            print("arrived:", await answer)
        try:
            await grid.request(nap, 30, timeout=0.2)
        except CallTimeout as error:
            print("given up:", str(error).splitlines()[0])


asyncio.run(main())
