"""The local cloud: an AWS endpoint on loopback whose instances really boot, as local processes.

    cloud = fleetctl.local.up()          # starts the daemon if none runs; a frozen LocalCloud
    boto3.client("ec2", **cloud.client())
    cloud.fault("capacity", type="t3.micro", left=2); cloud.faults(); cloud.clear_faults()     # KINDS lists what can go wrong
    fleetctl.local.down(force=True)

Importing this package is cheap: moto is loaded by the daemon's process only.
"""

from fleetctl.local.faults import KINDS
from fleetctl.local.wiring import LocalCloud, down, status, up

__all__ = ["KINDS", "LocalCloud", "down", "status", "up"]
