"""Begin with each machine as soon as it is up, instead of waiting for the last one.

    python examples/as_they_arrive.py

`launch.enough()` is done at the minimum. `async for` gives all machines, in the order in which they got ready.
"""

import asyncio

from fleetctl import bring_up_spots, connect, teardown_all

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    connect("local")
    launch = bring_up_spots(REQUEST, 6, "sleep infinity", subnet="public", minimum=4, minutes=5)
    try:
        first = await launch.enough()
        print(f"{len(first.succeeded)} are up, enough to begin")
        async for machine in launch:
            print("up:", machine.instance_id, machine.ip)
        print("all are there:", await launch)
    finally:
        receipt = await teardown_all()
        print(receipt.headline())


if __name__ == "__main__":
    asyncio.run(main())
