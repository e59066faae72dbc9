"""Real processes on a real local cloud, each killed at one moment of its life, and each followed by one that ends what it left.

The oracle is the cloud's own inventory and the operating system's processes, never a receipt.
"""

import contextlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import killable
from lives import Lives

TAG = killable.TAG
AFTER = {"end": killable.end, "adopt": killable.adopt}  # what the next process does


@dataclass
class Slaughter:
    """What came of it: `killed` moments of `moments`, whose `sessions`, what is left, what was made twice, and what else went wrong."""

    shape: str
    moments: int = 0
    killed: list[int | str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextlib.contextmanager
def place(home):
    """A home of its own, whose local cloud is the one that runs in `home`."""
    with tempfile.TemporaryDirectory(prefix="life-", dir=home) as name:
        (Path(name) / "local").symlink_to(home / "local")
        yield Path(name)


class Butcher:
    """Kills lives on the local cloud that runs in `home`; each has a directory of its own for its ledger."""

    def __init__(self, home, cloud):
        self.home, self.cloud = home, cloud
        self._lives = Lives(["fleetctl.session", "aiobotocore.session", "boto3"])

    def moments(self, shape):
        """The names of all there are in a life that is not killed."""
        with place(self.home) as home:
            status = self._lives.run(killable.live, str(home), shape, None, str(home / "passed"))
            assert status == 0, f"a life that nobody ends ended with {status}"
            return json.loads((home / "passed").read_text())

    def kill(self, shape, moments, *, after="end", forgetful=False, jobs=4):
        """Kills one life at each of the moments; says what is left when all have been followed up by a process that does `after`."""
        done = Slaughter(shape, moments=len(moments))
        with ThreadPoolExecutor(jobs) as pool:
            for moment, session, statuses in pool.map(lambda moment: self._end_of(shape, moment, forgetful, AFTER[after]), moments):
                done.sessions.append(session)
                if statuses[0] == -9:
                    done.killed.append(moment)
                if statuses[0] not in (-9, 0) or statuses[1]:
                    done.wrong.append(f"killed at {moment}: exit status {statuses[0]}, recovery {statuses[1]}")
                done.doubles += [f"killed at {moment}: {one}" for one in self._doubles(session)]
                done.left += [f"killed at {moment}: {one}" for one in self.left(session)]
        return done

    def _end_of(self, shape, moment, forgetful, after):
        with place(self.home) as home:
            status = self._lives.run(killable.live, str(home), shape, moment, str(home / "passed"), forgetful)
            [session] = [path.stem for path in (home / "ledgers").glob("*.sqlite")]
            return moment, session, (status, self._lives.run(after, str(home)))

    def left(self, session):
        """What the cloud still has of a session, and the processes of its machines."""
        there = self.cloud.inventory()
        requests = {one["id"]: one for one in there["spot_requests"] if one["tags"].get(TAG) == session}
        machines = {one["id"] for one in there["instances"] if one["tags"].get(TAG) == session or one["request"] in requests}
        processes = [pid for one, pid in there["processes"].items() if one in machines and os.path.exists(f"/proc/{pid}")]
        waiting = {key for key, one in requests.items() if one["state"] in ("open", "active")}
        kinds = ("fleets", "launch_templates", "volumes")
        tagged = {one["id"] for kind in kinds for one in there[kind] if one["tags"].get(TAG) == session}
        named = {one for kind in ("queues", "topics", "subscriptions", "parameters") for one in there[kind] if session in str(one)}
        return sorted(machines | waiting | tagged | named | {f"process {pid}" for pid in processes})

    def _doubles(self, session):
        """Machines beyond what a launch was for, the ended ones counted too."""
        ec2 = boto3.client("ec2", **self.cloud.client())
        mine = [{"Name": f"tag:{TAG}", "Values": [session]}]
        requests = ec2.describe_spot_instance_requests(Filters=mine)["SpotInstanceRequests"]
        tagged = [one["InstanceId"] for row in ec2.describe_instances(Filters=mine)["Reservations"] for one in row["Instances"]]
        machines = {*tagged, *(row["InstanceId"] for row in requests if row.get("InstanceId"))}
        return sorted(machines)[killable.N:] + sorted(row["SpotInstanceRequestId"] for row in requests)[killable.N:]
