"""Hands on machines: run commands, copy files there and back, on one machine and on all of them.

    python examples/hands.py

One SSH connection to each machine carries all of it. What fails on some of many machines is a value, not an exception.
"""

import asyncio
import tempfile
from pathlib import Path

from fleetctl import bring_up_spots, connect, teardown_all

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    connect("local")
    machines = await bring_up_spots(REQUEST, 3, "sleep infinity", price=0.01)
    try:
        first, *_ = machines.succeeded
        print((await first.run("uname -s")).stdout.strip(), "on", first.type)

        with tempfile.TemporaryDirectory() as directory:
            here = Path(directory)
            (here / "numbers").write_text("3\n4\n5\n")
            await machines.put(here / "numbers", check=True)

            outcomes = await machines.run("awk '{ sum += $1 } END { print sum }' numbers")
            print(outcomes)  # machines that said the same are shown together

            missing = await first.run(["test", "-e", "nothing"], check=False)
            print("not there" if not missing.ok else "there")
            results = await machines.get("numbers", to=here / "results", check=True)
            print(len(results.succeeded), "files here")
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
