"""What a process does that is to be killed at one moment of its life, on a local cloud; and one that comes after it.

The moments are counted where AWS is called and where the ledger is written: before each call is sent, when it is applied and its answer
not looked at yet, before each write to the ledger and after it. At the one that is asked for the process kills itself with SIGKILL.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from fleetctl import bring_up_spots, ledger, profiles, session, templates
from fleetctl.__main__ import main
from fleetctl.cloud import aws
from fleetctl.ending import teardown as ending
from fleetctl.ending import things
from fleetctl.errors import FleetError
from fleetctl.oversight import abandoned, resuming

N, TAG = 2, "fleetctl:session"


class Moments:
    """Remembers them by name, and kills at number `kill`, or at the first of that name."""

    def __init__(self, kill):
        self.kill, self.passed = kill, []

    def __call__(self, name):
        if self.kill in (len(self.passed), name):
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(name)


def watch(moments, forgetful=False):
    """Has the moments of this process told. `forgetful`: intents are not written."""
    call, writing, intent = aws.Aws.call, ledger.Ledger._writing, ledger.Ledger.intent

    async def watched(self, service, operation, /, **parameters):
        # these make and end nothing, and come when they like, and as often
        if operation in ("receive_message", "delete_message_batch", "describe_stacks"):
            return await call(self, service, operation, **parameters)
        moments(f"before {operation}")
        answer = await call(self, service, operation, **parameters)
        moments(f"after {operation}")
        return answer

    @contextlib.contextmanager
    def told(self):
        moments("before a write")
        with writing(self):
            yield
        moments("after a write")

    aws.Aws.call, ledger.Ledger._writing = watched, told
    if forgetful:
        ledger.Ledger.intent = lambda self, *given, **named: 0 if given[1] in REQUESTS else intent(self, *given, **named)


REQUESTS = {  # by the call that makes the machines
    "request_spot_instances": {"LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}},
    "run_instances": templates.spot(itype="t3.micro"),
    "create_fleet": templates.fleet(types=["t3.micro", "t3.small"]),
}


def _hurry():
    """Nothing here takes as long as in AWS."""
    ending.LOOKS, things.DOUBT_SECONDS, ending.VISIBLE_SECONDS = (0.2, 0.5), 1.0, 0.0


def live(home, shape, kill, passed, forgetful=False):
    """A bring-up and a teardown; the names of the moments go into the file `passed`."""
    _hurry()
    moments = Moments(kill)
    watch(moments, forgetful)
    one = session.Session(profiles.load("local", home=Path(home)))
    try:
        bring_up_spots(REQUESTS[shape], N, "sleep 1000", minutes=2, session=one).result(120)
    finally:
        one.close()
    Path(passed).write_text(json.dumps(moments.passed))
    os._exit(0)


def end(home):
    """`fleetctl recover --end`, in a process of its own; exit status 1 where something is left."""
    _hurry()
    os.environ["FLEETCTL_HOME"] = home
    main(["recover", "--end"])


def adopt(home):
    """Another process goes on with what there is, sees the machines that live up, and ends all; where that is refused, `end`.

    Exit status 1 where something is left, 3 where a machine that had been there was not seen up.
    """
    _hurry()
    os.environ["FLEETCTL_SIDECAR"] = "off"
    [record] = abandoned.listing(Path(home)) or [None]
    if record is None:  # killed when all was over
        sys.exit(0)
    try:
        launches = resuming.take(record, Path(home), minutes=2, lifetime="session")
    except FleetError:
        return end(home)
    there = profiles.local_cloud().status(Path(home) / "local").inventory()["instances"]
    living = {one["id"] for one in there if one["tags"].get(TAG) == record.id}
    up = {one.instance_id for launch in launches if not launch.exception(120) for one in launch.machines.succeeded}
    [ours] = {launch.session for launch in launches}
    receipt = ours.close()
    sys.exit(1 if receipt.remaining else 3 if not living <= up else 0)
