"""Machines that wait, configured: one is handed out in a blink, and another comes up behind.

    python examples/standby.py

A list keeps so many machines free. What is given back is cleaned for the next; what has died is never handed out.
"""

import asyncio
import time

from fleetctl import Standby, connect

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    session = connect("local")
    try:
        async with Standby(REQUEST, 2, configure=["mkdir data && echo 1 2 3 > data/numbers"], clean=["rm -f scratch"]) as standby:
            first = await standby.take()  # nothing is up yet: this one waits for a launch
            await standby.full()
            began = time.perf_counter()
            async with standby.lend() as machine:
                waited = time.perf_counter() - began
                print("handed out at once" if waited < 1 else f"handed out after {waited:.1f} s", end=": ")
                print(await machine.run("tee scratch < data/numbers"), end="")
            await standby.give_back(first)
            print(standby)
            receipt = await standby.close()
            print(receipt.headline())
    finally:
        session.close()


if __name__ == "__main__":
    asyncio.run(main())
