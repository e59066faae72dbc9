"""The main job as a script: a server, a distributor and workers come up, the grid evaluates jobs, everything is torn down.

It runs on a private local cloud of its own, which is gone afterwards unless it is kept. `run` returns what `fleetctl demo --json` prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

import gridworker
from gridworker.bogosity import bogosity, without_nodes

from . import bundle, commands, profiles
from .bundle import Bundle
from .errors import FleetError
from .grid import bring_up_grid
from .launching.handle import Launch
from .launching.launch import Conductor
from .profiles import local_cloud
from .session import Session
from .spot import bring_up_spots, teardown_all

REQUEST: dict[str, Any] = {  # a plain RequestSpotInstances dictionary; the profile fills in image, key, role and group
    "SpotPrice": "0.01",
    "LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]},
}
ALL_LOGS = 1_000_000
COMPARED = 8  # machines that come up from the image alone, to be compared with those from the bundle
LOOK_SECONDS = 0.005  # for launches that have begun
KEPT = """kept. To look at it:
  export FLEETCTL_HOME={home}
  fleetctl ls
and to end it:
  fleetctl down && fleetctl local down && rm -r {home}"""


def run(workers: int, jobs: int, reclevel: int, *, keep: bool, console: Console, bundled: bool = True) -> dict[str, Any]:
    """The whole session. Nodes run from a bundle, or else what the image has. Raises FleetError when machines do not come up, or a result
    differs from its local evaluation."""
    home = Path(tempfile.mkdtemp(prefix="fleetctl-demo-"))
    try:
        console.print("starting a private local cloud …")
        session = Session(profiles.load("local", home=home))
        try:
            report = asyncio.run(_main(session, workers, jobs, reclevel, keep, console, bundled))
        finally:
            if keep:
                session.leave()
                console.print(KEPT.format(home=home))
            else:
                session.close()
        return report
    finally:
        if not keep:
            local_cloud().down(home / "local", force=True)
            shutil.rmtree(home)


async def _main(
    session: Session, workers: int, jobs: int, reclevel: int, keep: bool, console: Console, bundled: bool
) -> dict[str, Any]:
    made = await asyncio.to_thread(_bundle, session, console) if bundled else None
    began = time.monotonic()
    console.print(f"bringing up a server, a distributor and {workers} workers …")
    server = {"itype": "m3.medium", "price": 0.05}
    async with _timed(session) as ready:
        grid = await bring_up_grid(REQUEST, workers, each=1, server=server, distributors=1, log="debug", subnet="private", bundle=made,
                                   session=session)  # fmt: skip
        up_seconds = time.monotonic() - began
        boots = {_from(made): ready[grid.launches[-1].uuid]}
    up = 2 + len(grid.machines.succeeded)
    console.print(f"{up} machines up in {up_seconds:.1f} s, ${session.cost().per_hour:.4f} an hour", highlight=False)

    console.print(f"asking the grid for {jobs} jobs of level {reclevel} …")
    calls = [(bogosity, 1, number, reclevel, jobs, f"demo {time.time_ns()}") for number in range(jobs)]
    calls = [(*call[:-1], calls[0][-1]) for call in calls]  # one tag for all, so that equal calls are shared
    gc.collect()  # what the bring-up has left; in the middle of the jobs this tenth of a second would be counted as theirs
    began = time.monotonic()
    results = await grid.requests(calls)
    seconds = time.monotonic() - began
    _compare(calls, results)

    executed = grid.status().executed
    log_lines = len(grid.logs("debug", last=ALL_LOGS))
    if made is not None and not keep:
        few = min(workers, COMPARED)
        console.print(f"bringing up {few} workers from the image, to compare …")
        async with _timed(session) as ready:
            launch = bring_up_spots(REQUEST, few, commands.worker(1, "pool", grid.server), subnet="private", session=session)
            await launch
            boots["image"] = ready[launch.uuid]
    report: dict[str, Any] = {
        "machines": {"wanted": workers + 2, "up": up, "seconds": round(up_seconds, 3), **_origin(made),
                     "boot": {source: _spread(seconds) for source, seconds in boots.items()}},
        "ec2_calls": _ec2_calls(session, dict(zip(("server", "distributor", "workers"), grid.launches, strict=True))),
        "jobs": _jobs(jobs, reclevel, len(results), sum(executed.values()), seconds),
        "nodes": executed,
        "log_lines": log_lines,
    }
    receipt = None if keep else await teardown_all(session=session)
    if receipt is not None:
        console.print(receipt.table())
    return {**report, "cost": session.cost().as_dict(), "receipt": receipt and receipt.as_dict()}


@contextlib.asynccontextmanager
async def _timed(session: Session) -> AsyncIterator[dict[UUID, list[float]]]:
    """For each launch that begins meanwhile, the seconds after which each of its machines was known to be ready."""
    known = {conductor.uuid for conductor in session.launches}
    timed: dict[UUID, list[float]] = {}

    def watch(conductor: Conductor) -> None:
        began, seconds = time.monotonic(), timed.setdefault(conductor.uuid, [])

        def tell() -> None:
            seconds.extend(time.monotonic() - began for _ in conductor.arrived[len(seconds) :])

        conductor.watchers.append(tell)

    async def look() -> None:
        while True:
            for conductor in session.launches:
                if conductor.uuid not in known:
                    known.add(conductor.uuid)
                    watch(conductor)
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        yield timed
    finally:
        looking.cancel()


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 3), "slowest": round(max(seconds), 3)}


def _bundle(session: Session, console: Console) -> Bundle:
    """gridworker with what it needs, as this process has it."""
    began = time.monotonic()
    made = bundle.build(home=session.profile.home)
    console.print(f"{made!r}, built in {time.monotonic() - began:.1f} s", highlight=False, markup=False)
    return made


def _origin(made: Bundle | None) -> dict[str, Any]:
    """What nodes run from."""
    return {"from": _from(made), **({} if made is None else {"bundle": made.name, "bundle_bytes": made.size})}


def _from(made: Bundle | None) -> str:
    return "image" if made is None else "bundle"


def _compare(calls: list[tuple[Any, ...]], results: list[str]) -> None:
    """Every result equals what the function gives here, names of nodes aside."""
    with gridworker.local():
        wrong = [call for call, got in zip(calls, results, strict=True) if without_nodes(got) != without_nodes(call[0](0, *call[2:]))]
    if wrong:
        raise FleetError(f"{len(wrong)} of {len(calls)} results differ from a local evaluation; the first is job {wrong[0][2]}")


def _jobs(jobs: int, reclevel: int, done: int, executed: int, seconds: float) -> dict[str, Any]:
    """Counts and times. A job of level n asks itself and n jobs of level n - 1; of equal ones one is executed."""
    tree = 1
    for level in range(1, reclevel + 1):
        tree = 1 + level * tree
    asked, distinct = jobs * tree, jobs + reclevel * (reclevel + 1) // 2
    per_job, per_call = (round(1000 * seconds / count, 3) for count in (jobs, asked))
    return {
        "asked": asked,
        "done": done,
        "executed": executed,
        "distinct": distinct,
        "seconds": round(seconds, 3),
        "ms_per_job": per_job,
        "ms_per_call": per_call,
    }


def _ec2_calls(session: Session, launches: dict[str, Launch[Any]]) -> dict[str, int]:
    """EC2 calls of each launch, as the local cloud has counted them by the launch that each call's User-Agent names."""
    cloud = local_cloud().status(session.profile.home / "local")
    counted = cloud.calls()["launches"]
    return {name: sum(counted.get(str(launch.uuid), {}).get("ec2", {}).values()) for name, launch in launches.items()}


def summary(report: dict[str, Any]) -> Table:
    """The report for people."""
    machines, jobs, cost = report["machines"], report["jobs"], report["cost"]
    nodes = sorted(report["nodes"].values())
    table = Table("what", "result", title="summary", title_justify="left", show_header=False)
    table.add_row("machines", f"{machines['up']} of {machines['wanted']} up in {machines['seconds']:.1f} s, from the {machines['from']}")
    boots = (f"{one['median']:.1f} s from the {source}, the slowest {one['slowest']:.1f} s" for source, one in machines["boot"].items())
    table.add_row("a worker", f"ready after {'; '.join(boots)}")
    table.add_row("EC2 calls", ", ".join(f"{name} {count}" for name, count in report["ec2_calls"].items()))
    table.add_row("jobs", f"{jobs['done']} done in {jobs['seconds']:.3f} s: {jobs['ms_per_job']} ms a job, {jobs['ms_per_call']} ms a call")
    table.add_row("calls", f"{jobs['asked']} asked, {jobs['distinct']} distinct, {jobs['executed']} executed")
    table.add_row("nodes", f"{len(nodes)} took part, {nodes[0]} to {nodes[-1]} calls each" if nodes else "none took part")
    table.add_row("log lines", str(report["log_lines"]))
    table.add_row("cost", f"${cost['so_far']:.4f} at simulated spot prices, without {cost['leaves_out']}")
    receipt = report["receipt"]
    table.add_row("left", "everything (kept)" if receipt is None else f"{len(receipt['remaining'])} of {len(receipt['found'])} things")
    return table
