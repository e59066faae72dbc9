"""Machines that exist already: the same hands on them, without a cloud, as long as their host keys are known.

    python examples/existing_machines.py

So that this runs anywhere, two machines are launched first and then treated as if somebody else had: by address, user and key. For
machines of your own `hosts(["lab-1", "me@lab-2:2222"])` is enough where ssh knows them.
"""

import asyncio

from fleetctl import bring_up_spots, connect, hosts, teardown_all

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    session = connect("local")
    up = (await bring_up_spots(REQUEST, 2, "sleep infinity", price=0.01)).succeeded
    told = [
        {"name": f"lab-{n}", "host": one.public_ip or one.ip, "port": one.ssh_port, "user": one.user, "host_key": one.ssh_key}
        for n, one in enumerate(up)
    ]
    try:
        async with hosts(told, key_file=session.key_file, config="") as machines:
            print(machines)
            print(await machines.run("uname -s"))
            print(await machines["lab-0"].diagnose())
            async with machines["lab-1"].lock("upgrade"):  # it stands on the machine, for everybody who reaches it
                await machines["lab-1"].mark("upgraded", "to nothing in particular")
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
