"""What a launch costs: calls to EC2 for 1, 100 and 1000 machines by each launch call, and what the controller does with 10,000 of them.

    python benchmarks/launch.py [--json FILE] [--machines 10000] [--local 1000]

Calls are counted where they arrive: in an in-memory AWS (tests/fleet/fake_aws.py) on a clock that jumps, once where all is done at once,
once where it takes five minutes (spot requests are fulfilled after five minutes; machines of the other calls report after five). The
controller is the real one: session, ledger in a file, channel, life cycles. For its own costs the reports of all machines, three each, lie
in the queue; processor time is that of the whole process, so the in-memory AWS's own work is in it. `--local N` brings up N machines, as
processes, on a local cloud: that needs memory for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import enum
import gc
import json
import logging
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fleet")]

from fake_aws import REQUESTS, FakeAws, profile  # noqa: E402  (from the tests' directory)
from virtual import Clock, lived  # noqa: E402

from fleetctl import bring_up_spots, local, profiles, shapes, teardown_all  # noqa: E402
from fleetctl.messages import Phase, Report  # noqa: E402
from fleetctl.session import Session  # noqa: E402

SLOW = 300.0            # seconds of the slow days
SSH_KEY = "ssh-ed25519 " + "A" * 68
PHASES = ((Phase.BOOTED, 1, None), (Phase.READY, 2, None), (Phase.BEAT, 3, Phase.READY))


@contextlib.contextmanager
def a_session(cloud: FakeAws) -> Iterator[tuple[Session, Clock]]:
    """A session on the cloud, on a clock that jumps, with its ledger in memory where there is a place for it."""
    clock, fast = Clock(), "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="bench-", dir=fast) as home, lived(clock, 1):
        session = Session(profile(cloud, Path(home)))
        try:
            yield session, clock
        finally:
            session.leave()


def within(session: Session, clock: Clock, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of work on the session's loop; when it is done, the clock stands."""

    async def main() -> Any:
        try:
            return await work()
        finally:
            clock.stopped = True

    clock.stopped = False
    return session.submit(main(), "benchmark").result(3600)


# --- calls --------------------------------------------------------------------------------------------------------------------------


def calls(call: str, n: int, slow: bool) -> dict[str, Any]:
    """EC2 calls of a bring-up and of a teardown."""
    waits = call == "RequestSpotInstances"
    cloud = FakeAws(fill=SLOW if slow and waits else 0.0, boot=SLOW if slow and not waits else 20.0, end=30.0)

    with a_session(cloud) as (session, clock):

        async def main() -> dict[str, Any]:
            await bring_up_spots(shapes.apply(REQUESTS[call], price=0.01), n, "true", minutes=30, session=session)
            up, at = cloud.ec2_calls(), clock.now
            await teardown_all(session=session)
            down = cloud.ec2_calls() - up
            return {"call": call, "machines": n, "slow": slow, "up": sum(up.values()), "up_seconds": round(at, 1),
                    "down": sum(down.values()), "down_seconds": round(clock.now - at, 1), "up_calls": dict(up), "down_calls": dict(down)}

        told: dict[str, Any] = within(session, clock, main)
    assert not cloud.alive()
    return told


# --- the controller ------------------------------------------------------------------------------------------------------------------


def bodies(cloud: FakeAws, launch: str) -> list[str]:
    """The reports of all machines, as long as real ones, the phases one after the other."""
    return [Report(UUID(launch), one, phase, seq=seq, ip="10.0.12.34", public_ip="203.0.113.77", user="ec2-user", ssh_key=SSH_KEY,
                   host="ec2-203-0-113-77.compute-1.amazonaws.com", type="t3.micro", zone="us-east-1a", state=state).encode()
            for phase, seq, state in PHASES for one in cloud.instances]


def controller(n: int) -> dict[str, Any]:
    """A launch of n machines that say nothing until all their reports lie in the queue at once; its outcome, and its end."""
    cloud, told = FakeAws(phase=None), {"machines": n, "messages": len(PHASES) * n}
    with a_session(cloud) as (session, clock):

        async def main() -> Any:
            began = time.process_time()
            launch = bring_up_spots(shapes.apply(REQUESTS["RequestSpotInstances"], price=0.01), n, "true", minutes=30, session=session)
            while len(cloud.instances) < n:  # noqa: ASYNC110  (nothing tells of it)
                await asyncio.sleep(1)
            [queue] = cloud.queues.values()
            queue += [{"Body": body, "ReceiptHandle": str(at)} for at, body in enumerate(bodies(cloud, str(launch.uuid)))]
            reporting = time.process_time()
            cloud._news.set()
            while queue:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            reported = time.process_time()
            assert len((await launch).succeeded) == n
            up = time.process_time()
            await teardown_all(session=session)
            down = time.process_time()
            told.update(messages_per_s=round(len(PHASES) * n / (reported - reporting)), cpu_us_per_machine_up=each(up - began),
                        cpu_us_per_machine_reports=each(reported - reporting), cpu_us_per_machine_down=each(down - up))
            return launch

        def each(seconds: float) -> float:
            return round(seconds / n * 1e6, 1)

        launch = within(session, clock, main)
        [conductor] = session.launches
        told["bytes_per_finished_machine"] = round(weight(conductor.core, conductor.machines, conductor.arrived) / n)
        told["seen_up"] = len(launch.result(1).succeeded)
    told["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert not cloud.alive()
    return told


def weight(*roots: Any) -> int:
    """Bytes of all Python objects that these keep alive, what belongs to program, session and loop aside."""
    seen: set[int] = set()
    total, heap = 0, list(roots)
    while heap:
        one = heap.pop()
        if id(one) in seen or isinstance(one, (type, types.ModuleType, types.FunctionType, types.MethodType, Session, enum.Enum)):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        heap += gc.get_referents(one)
    return total


# --- a local cloud --------------------------------------------------------------------------------------------------------------------


def on_a_local_cloud(n: int) -> dict[str, Any]:
    """n machines that boot as processes, up and down, by the wall's clock."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        session = Session(profiles.load("local", home=Path(name)))
        cloud = local.status(Path(name) / "local")
        assert cloud is not None
        try:
            mark, began = cloud.calls()["mark"], time.monotonic()
            launch = bring_up_spots({"LaunchSpecification": {"InstanceType": "t3.micro"}}, n, "true", minutes=60, session=session)
            launch.result(3600)
            up, between = time.monotonic() - began, cloud.calls(mark)
            session.submit(session.teardown_all(), "teardown").result(3600)
            down, after = time.monotonic() - began - up, cloud.calls(between["mark"])
        finally:
            session.leave()
            local.down(Path(name) / "local", force=True)
    return {"machines": n, "up_seconds": round(up, 1), "down_seconds": round(down, 1),
            "up_calls": between["calls"]["controller"]["ec2"], "down_calls": after["calls"]["controller"]["ec2"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--machines", type=int, default=10_000, help="of the controller's own launch")
    parser.add_argument("--local", type=int, default=0, metavar="N", help="bring N machines up on a local cloud, too")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    told: dict[str, Any] = {"calls": []}
    print(f"{'launch call':24}{'machines':>9}{'slow':>6}{'EC2 calls up':>14}{'in s':>8}{'down':>6}{'in s':>8}")
    for call in REQUESTS:
        for n in (1, 100, 1000):
            for slow in (False, True):
                one = calls(call, n, slow)
                told["calls"].append(one)
                print(f"{call:24}{n:9}{'yes' if slow else 'no':>6}{one['up']:14}{one['up_seconds']:8}{one['down']:6}"
                      f"{one['down_seconds']:8}")
    told["controller"] = controller(options.machines)
    print(f"controller: {told['controller']}")
    if options.local:
        told["local"] = on_a_local_cloud(options.local)
        print(f"local cloud: {told['local']}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
