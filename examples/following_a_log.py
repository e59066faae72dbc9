"""What lasts: a log is followed as it is written, and a Jupyter kernel on the machine computes.

    python examples/following_a_log.py

Both go over the machine's one SSH connection, and end there when they end here.
"""

import asyncio
import sys

from fleetctl import bring_up_one_spot, connect, teardown_all

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}
STEPS = "for step in 1 2 3; do echo step $step; sleep 0.2; done > steps; sleep infinity"


async def main() -> None:
    connect("local")
    machine = await bring_up_one_spot(REQUEST, STEPS, price=0.01)
    try:
        async for line in machine.tail("steps"):
            print(line)
            if line == "step 3":
                break

        async with await machine.kernel(python=sys.executable) as kernel:  # `python` of the machine; here it is this one
            await kernel.execute("import platform; x = 21")
            answer = await kernel.execute("x * 2")
            where = await kernel.execute("print(platform.node())")
            print(f"21 * 2 = {answer.value}, computed by {where.stdout.strip()}")
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
