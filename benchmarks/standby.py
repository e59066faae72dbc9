"""How long a machine of a free list takes to be handed out: from `take()` until it has answered over SSH.

    python benchmarks/standby.py [--json FILE] [--size 5] [--rounds 200]

The machines are a local cloud's; their SSH servers are one process on this computer, whose work is in the figures. Each machine that is
handed out is tried over its connection, which stands, before anybody gets it; it is given back after each round, so none is launched
meanwhile. `launched` is what the first of an empty list takes: a launch, whose machine boots here in a second and on EC2 in half a minute.
`home_…` is a home of 256 MiB that does not pack: saved when its machine is given back, brought with the next one, and given back unchanged;
the machine, which packs, and the local cloud's S3 share this computer's processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fleetctl import Standby, local, profiles  # noqa: E402
from fleetctl.session import Session  # noqa: E402

REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}

HOME_BYTES = 256 << 20


async def measure(session: Session, size: int, rounds: int) -> dict[str, float]:
    """Seconds."""
    began = time.perf_counter()
    async with Standby(REQUEST, size, session=session) as standby:
        first = await standby.take()
        launched = time.perf_counter() - began
        await standby.give_back(first)
        await standby.full()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            machine = await standby.take()
            times.append(time.perf_counter() - began)
            await standby.give_back(machine)
        home = await measure_home(standby)
    times.sort()
    return {"launched_s": launched, "p50_s": statistics.median(times), "p99_s": times[int(0.99 * len(times))], "most_s": times[-1], **home}


async def measure_home(standby: Standby) -> dict[str, float]:
    """Seconds."""
    standby.session.boto3().client("s3").create_bucket(Bucket="bench")
    machine = await standby.take(home="s3://bench/home")
    await machine.run(f"head -c {HOME_BYTES} /dev/urandom > home/large")
    began = time.perf_counter()
    await standby.give_back(machine)
    saved = time.perf_counter()
    machine = await standby.take(home="s3://bench/home")
    brought = time.perf_counter()
    await standby.give_back(machine)
    return {"home_saved_s": saved - began, "home_brought_s": brought - saved, "home_same_s": time.perf_counter() - brought}


def main() -> None:
    """Measure on a local cloud that is gone afterwards, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleetctl-bench-") as directory:
        home = Path(directory)
        session = Session(profiles.load("local", home=home))
        try:
            found = asyncio.run(measure(session, options.size, options.rounds))
        finally:
            session.close()
            local.down(home / "local", force=True)
    for name, seconds in found.items():
        print(f"{name:<16}{1000 * seconds:>9.1f} ms")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
