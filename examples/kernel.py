"""A Jupyter kernel on a machine: what a cell computes there comes back here, and names stay there from cell to cell.

    python examples/kernel.py

In a notebook it is the same without `main`. `kernel.connection_file` is what `jupyter console --existing` takes.
"""

import asyncio

from fleetctl import bring_up_one_spot, connect, teardown_all

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    connect("local")
    machine = await bring_up_one_spot(REQUEST, "sleep infinity", price=0.01)
    try:
        async with await machine.kernel() as kernel:
            await kernel.execute("import os, math; depths = [40, 12, 7]")
            answer = await kernel.execute("print('computed in', os.path.basename(os.getcwd()))\nmath.prod(depths)")
            print(answer.stdout, end="")
            print("product:", answer.value)
            wrong = await kernel.execute("depths[3]", check=False)
            print("error:", wrong.error.splitlines()[-1])
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
