"""What a process does that is to be killed at one moment of its life, on a local cloud; and one that comes after it.

The moments are counted where AWS is called and where the ledger is written: before each call is sent, when it is applied and its answer
not looked at yet, before each write to the ledger and after it. At the one that is asked for the process kills itself with SIGKILL.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from fleetctl import abandoned, aws, bring_up_spots, ledger, profiles, session, templates

N = 2


class Moments:
    """Counts, and kills at number `kill`."""

    def __init__(self, kill):
        self.kill, self.passed = kill, 0

    def __call__(self):
        if self.passed == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


def watch(moments, forgetful=False):
    """Has the moments of this process told. `forgetful`: intents are not written."""
    call, writing, intent = aws.Aws.call, ledger.Ledger._writing, ledger.Ledger.intent

    async def watched(self, service, operation, /, **parameters):
        if operation in ("receive_message", "delete_message_batch"):  # these make and end nothing, and come when they like
            return await call(self, service, operation, **parameters)
        moments()
        answer = await call(self, service, operation, **parameters)
        moments()
        return answer

    @contextlib.contextmanager
    def told(self):
        moments()
        with writing(self):
            yield
        moments()

    aws.Aws.call, ledger.Ledger._writing = watched, told
    if forgetful:
        ledger.Ledger.intent = lambda self, *given, **named: 0 if given[1] in LAUNCHES else intent(self, *given, **named)


LAUNCHES = ("request_spot_instances", "run_instances", "create_fleet")
REQUESTS = {
    "request_spot_instances": {"LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}},
    "run_instances": templates.spot(itype="t3.micro"),
    "create_fleet": templates.fleet(types=["t3.micro", "t3.small"]),
}


def live(home, shape, kill, passed, forgetful=False):
    """A bring-up and a teardown; the number of moments goes into the file `passed`."""
    moments = Moments(kill)
    watch(moments, forgetful)
    one = session.Session(profiles.load("local", home=Path(home)))
    try:
        bring_up_spots(REQUESTS[shape], N, "sleep 1000", minutes=2, session=one).result(120)
    finally:
        one.close()
    Path(passed).write_text(str(moments.passed))
    os._exit(0)


def recover(home):
    """What `fleetctl down` does, in a process of its own; exit status 1 where something is left."""
    receipt, _ = abandoned.down(Path(home))
    sys.exit(bool(receipt.remaining))
