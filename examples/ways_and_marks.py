"""A way to a port on a machine, and what stands on the machine itself: events, and a lock that one at a time holds.

    python examples/ways_and_marks.py

Whoever reaches the machine as the same user sees the same events and locks, from this process or from another one.
"""

import asyncio

from fleetctl import bring_up_one_spot, connect, teardown_all
from fleetctl.errors import MachineError

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    connect("local")
    machine = await bring_up_one_spot(REQUEST, "sleep infinity", price=0.01)
    try:
        forward = await machine.forward(machine.ssh_port)  # a Unix socket here; any port there, a web server's for one
        reader, writer = await asyncio.open_unix_connection(forward.path)
        print("there answers:", (await reader.readline()).decode().split("-")[0])
        writer.close()

        async with machine.lock("deploy"):
            await machine.mark("deployed", "version 3")
            try:
                async with machine.lock("deploy"):
                    pass
            except MachineError as error:
                print("one at a time:", "holds the lock" in error.what)
        print("it says of itself:", {name: event.text for name, event in (await machine.events()).items()}, await machine.look())
        print("looks well:", bool(await machine.diagnose()))
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
