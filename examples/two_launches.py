"""Two launches at once, of different machines; one of them is ended early, the other goes on.

    python examples/two_launches.py

A launch starts at the call, so both boot side by side. `teardown(launch)` ends one; `teardown_all()` ends what is left.
"""

import asyncio

from fleetctl import bring_up_spots, connect, current, teardown, teardown_all

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}


async def main() -> None:
    connect("local")
    scouts = bring_up_spots(REQUEST, 2, "sleep infinity", subnet="public", price=0.01, tags={"role": "scout"})
    heavy = bring_up_spots(REQUEST, 1, "sleep infinity", subnet="private", itype="m3.medium", disk=20)
    try:
        both = await asyncio.gather(scouts, heavy)
        print("up:", ", ".join(f"{machine.type} at ${machine.price:.4f}/h" for fleet in both for machine in fleet.succeeded))
        print(f"together ${current().cost().per_hour:.4f} an hour")

        print((await teardown(scouts)).headline())
        print(f"still {heavy!r}")
    finally:
        print((await teardown_all()).headline())


if __name__ == "__main__":
    asyncio.run(main())
