"""Why machines did not get ready in time: a look at some of them before they are ended, for the error that tells of it.

What EC2 says of each, and whether it answers to SSH; if it does, the end of its boot log, else that of its console. Nothing here may keep a
launch from its end: it takes seconds, and what goes wrong in it is not told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..cloud import ec2
from ..errors import FleetError, MachineError
from ..events import Slot
from ..messages import Report
from ..reach.command import Command
from ..reach.diagnosis import outside
from .readiness import Case, Examined, Known, found_out

if TYPE_CHECKING:
    from .proving import Proven

log = logging.getLogger(__name__)

MOST = 2  # machines
SECONDS = 15.0  # for all of it
SSH_SECONDS = 5.0
_LINES = 12
_LOG = f"""for d in "${{FLEETCTL_STATE_DIR:-/var/lib/fleetctl}}" "$HOME/.fleetctl"; do
[ ! -f "$d/$LAUNCH/log" ] || {{ tail -n {_LINES} "$d/$LAUNCH/log"; exit; }}; done
echo "there is no log of fleetctl's boot script"; tail -n {_LINES} /var/log/cloud-init-output.log 2>/dev/null"""


async def examine(launch: Proven, cases: Mapping[str, Case]) -> tuple[Examined, ...]:
    """Of some machines that run and are not ready, the silent ones first. Never raises."""
    expected = [one for one in launch.core.all() if not (one.was_ready or one.lost or one.dropped)]
    chosen = sorted(expected, key=lambda one: (one.instance is None, one.report is not None))[: 5 * MOST]  # not all have an instance
    try:
        async with asyncio.timeout(SECONDS):
            rows = await ec2.instances_of(launch.call, [one.instance or one.key for one in chosen])
            shown = {name: row for row in rows for name in (row["InstanceId"], row.get("SpotInstanceRequestId")) if name}
            looks = [(one, shown[one.instance or one.key]) for one in chosen if (one.instance or one.key) in shown][:MOST]
            return tuple(await asyncio.gather(*(_one(launch, slot, row, cases.get(row["InstanceId"])) for slot, row in looks)))
    except (FleetError, TimeoutError) as error:
        log.warning("launch %s: its machines could not be looked at: %s", launch.uuid, error or f"AWS was silent for {SECONDS:.0f} s")
    except Exception:  # the end of the launch comes first
        log.warning("launch %s: its machines could not be looked at", launch.uuid, exc_info=True)
    return ()


async def _one(launch: Proven, slot: Slot, row: Mapping[str, Any], case: Case | None) -> Examined:
    instance = str(row["InstanceId"])
    checks, console = await ec2.status(launch.call, instance), await ec2.console(launch.call, instance)
    found = outside(row, checks, console)
    said = [f"{instance}: " + ", ".join(f"{one.what} {one.found}" for one in found if one.what != "console")]
    if case is not None:
        said.append(f"not ready, as {case.why}")
    known = Known(slot.report, "") if slot.report else found_out(console, row, launch=launch.uuid, user=launch.desk.profile.login_user)
    try:
        if known.report is None:
            raise MachineError(f"SSH was not tried: {known.source}")
        log_end = await _log_of(launch, known.report)
    except MachineError as error:
        shown = next((one.found for one in found if one.what == "console"), "")
        end = f"the end of its console:\n{shown}" if shown else "its console shows nothing"
        return Examined("; ".join([*said, error.what, end]), False)
    how = "SSH answers" if slot.report else f"its reports do not arrive, but SSH answers ({known.source})"
    return Examined("; ".join([*said, f"{how}; the end of its log:\n{log_end}"]), slot.report is None)


async def _log_of(launch: Proven, report: Report) -> str:
    from ..reach import ssh

    host = report.ip if launch.via is not None else report.public_ip or report.host or report.ip
    via = await launch.via.link().connection() if launch.via is not None else None
    connection = await ssh.connect(host, report.ssh_port, user=report.user, host_key=report.ssh_key, key_file=launch.desk.profile.key_file,
                                   via=via, seconds=SSH_SECONDS)  # fmt: skip
    try:
        look = Command(_LOG, env={"LAUNCH": str(launch.uuid)}, timeout=SSH_SECONDS)
        return (await ssh.run(connection, look, report.instance)).stdout.rstrip()
    finally:
        connection.abort()
