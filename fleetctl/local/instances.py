"""From a moto instance to a booted one, and back: the states of instances follow the hypervisor's processes.

    pending ──process runs──▶ running ──▶ shutting-down ──process gone──▶ terminated
                                 └──▶ stopping ──process gone──▶ stopped ──start──▶ pending

That an instance runs is seen when somebody asks (`settle`): it does as soon as the hypervisor counts its process. That one is gone,
or ended by itself, the hypervisor tells from a thread of its own (`gone`, `exited`): those only leave work on the timers, everything
else here is called with the cloud's lock held.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fleetctl.local.boot import Boot
from fleetctl.local.faults import Faults
from fleetctl.local.timers import Timers

log = logging.getLogger(__name__)

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
USER_ENDED = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
SELF_ENDED = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
TAKEN_BACK = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
HOST_FAILED = ("Server.InternalError", "Server.InternalError: Internal error on launch")
HOST_DIED = ("Server.InternalError", "Server.InternalError: The host of the instance failed")

Reason = tuple[str, str]


class Machines(Protocol):
    """What is needed of the hypervisor."""

    def address(self) -> str: ...
    def boot(self, boot: Boot) -> None: ...
    def start(self, instance_id: str) -> None: ...
    def stop(self, instance_id: str) -> None: ...
    def terminate(self, instance_id: str) -> None: ...
    def kill(self, instance_id: str) -> None: ...
    def interrupt(self, instance_id: str, action: str, at: str) -> None: ...
    def advise(self, instance_id: str, at: str) -> None: ...
    def photograph(self, instance_id: str, image_id: str, done: Callable[[bool], None]) -> None: ...
    def forget_image(self, image_id: str) -> None: ...
    def settled(self, instance_id: str) -> None: ...
    def running(self) -> dict[str, int]: ...
    def console(self, instance_id: str) -> bytes: ...


class Instances:
    """The instances of all regions by id.

    `make(exited, gone)` makes the hypervisor with its two callbacks; `lock` is the cloud's. Each of `on_end` is called with
    instance id and reason as soon as an end begins; the spot markets of the regions are there.
    """

    def __init__(self, make: Callable[[Callable[[str, str], None], Callable[[str], None]], Machines], faults: Faults, timers: Timers,
                 lock: threading.RLock) -> None:
        self.faults, self.timers, self.lock = faults, timers, lock
        self.on_end: list[Callable[[str, Reason], None]] = []
        self._by_id: dict[str, Any] = {}
        self._moving: dict[str, str] = {}      # id -> state it leaves: pending, stopping or shutting-down
        self._ghosts: set[str] = set()         # never boot
        self._late: set[str] = set()           # boot later
        self.mute: set[str] = set()            # work, but nobody hears of it
        self.machines = make(self.exited, self.gone)

    def adopt(self, instance: Any, *, role: str | None) -> None:
        """Give a new moto instance its loopback address, and boot it."""
        address = self.machines.address()
        public = _readdress(instance, address)
        zone, type = instance.placement.zone, instance.instance_type
        self._by_id[instance.id] = instance
        _become(instance, "pending")
        self._moving[instance.id] = "pending"
        facts = self.facts(instance)
        pool = {name: facts[name] for name in ("type", "zone", "market")}
        if self.faults.strikes("never-reports", **pool):
            self.mute.add(instance.id)
        if dies := self.faults.strikes("dies", **facts):
            self.timers.after(float(dies.settings["seconds"]), lambda: self.kill(instance.id))
        if self.faults.strikes("never-boots", **pool):
            self._ghosts.add(instance.id)
            return
        boot = Boot(
            instance_id=instance.id, ip=address, type=type, zone=zone, region=instance.region_name, image_id=instance.image_id,
            user_data=base64.b64decode(str(instance.user_data)) if instance.user_data else b"", public_keys=_public_keys(instance),
            role=role, spot=instance.lifecycle == "spot", public_ip=address if public else "",
            tags=_shown_tags(instance))
        if slow := self.faults.strikes("slow-boot", **pool):
            self._late.add(instance.id)
            self.timers.after(float(slow.settings["seconds"]), lambda: self._boot_late(boot))
        else:
            self.machines.boot(boot)

    def _boot_late(self, boot: Boot) -> None:
        with self.lock:
            if boot.instance_id in self._late:
                self._late.discard(boot.instance_id)
                self.machines.boot(boot)

    def facts(self, instance: Any) -> dict[str, str]:
        """What faults may ask about an instance."""
        return {"type": instance.instance_type, "zone": instance.placement.zone, "market": instance.lifecycle or "on-demand",
                "instance": instance.id}

    def kill(self, id: str) -> None:
        """Cut the power of an instance that lives, for good: what EC2 shows of a machine whose host failed."""
        with self.lock:
            instance = self._by_id[id]
            if instance.state in ("pending", "running"):
                self.machines.kill(id)
                self.terminate(instance, HOST_DIED)

    def settle(self) -> None:
        """Bring the states of pending instances up to date with the processes."""
        if not self._moving:
            return
        live = self.machines.running()
        for id, state in list(self._moving.items()):
            if state == "pending" and (id in live or id in self._ghosts):
                del self._moving[id]
                _become(self._by_id[id], "running")

    def terminate(self, instance: Any, reason: Reason = USER_ENDED) -> None:
        """Begin the end of an instance: shutting-down now, terminated when its process is gone. A second call changes nothing."""
        if instance.state in ("shutting-down", "terminated"):
            return
        self._moving[instance.id] = "shutting-down"
        _become(instance, "shutting-down", reason)
        for told in self.on_end:
            told(instance.id, reason)
        self.machines.terminate(instance.id)
        if self._absent(instance.id):
            self.gone(instance.id)

    def stop(self, instance: Any, reason: Reason = USER_ENDED) -> None:
        """Begin to stop an instance."""
        if instance.state not in ("pending", "running"):
            return
        self._moving[instance.id] = "stopping"
        _become(instance, "stopping", reason)
        self.machines.stop(instance.id)
        if self._absent(instance.id):
            self.gone(instance.id)

    def start(self, instance: Any) -> None:
        """Boot a stopped instance again; nothing happens to one in another state."""
        if instance.state != "stopped":
            return
        self._moving[instance.id] = "pending"
        _become(instance, "pending")
        self.machines.start(instance.id)

    def _absent(self, id: str) -> bool:
        """Whether no process stands behind an instance; one that was to boot later does not any more."""
        if id in self._late:
            self._late.discard(id)
            self._ghosts.add(id)
        return id in self._ghosts

    def exited(self, instance_id: str, reason: str) -> None:
        """The hypervisor says that an instance ended by itself; called from its threads."""
        self.timers.after(0, lambda: self._exited(instance_id, reason))

    def gone(self, instance_id: str) -> None:
        """The hypervisor says that a stop or a terminate is complete; called from its threads."""
        self.timers.after(0, lambda: self._gone(instance_id))

    def live(self) -> list[Any]:
        """All instances that are not terminated."""
        return [instance for instance in self._by_id.values() if instance.state != "terminated"]

    def get(self, instance_id: str) -> Any:
        """One instance, or None."""
        return self._by_id.get(instance_id)

    def _exited(self, id: str, reason: str) -> None:
        with self.lock:
            instance = self._by_id.get(id)
            if instance is None or instance.state in ("shutting-down", "terminated", "stopping", "stopped"):
                return
            log.info("%s ended by itself: %s", id, reason)
            why = SELF_ENDED if reason == "shutdown" else HOST_FAILED
            if instance.lifecycle != "spot" and instance.instance_initiated_shutdown_behavior == "stop" and reason == "shutdown":
                self.stop(instance, why)
            else:
                self.terminate(instance, why)

    def _gone(self, id: str) -> None:
        with self.lock:
            instance, was = self._by_id[id], self._moving.pop(id, "")
            if was == "stopping":
                _become(instance, "stopped")
            elif was == "shutting-down":
                for special in (self._ghosts, self.mute):
                    special.discard(id)
                why = instance.state_reason.code, instance.state_reason.message
                instance.dismantle()
                _become(instance, "terminated", why)

    def __repr__(self) -> str:
        return f"<Instances {len(self.live())} live, {len(self._moving)} moving>"


def _become(instance: Any, state: str, reason: Reason | None = None) -> None:
    instance._state.name, instance._state.code = state, CODES[state]
    if reason is not None:
        instance.state_reason.code, instance.state_reason.message = reason
        instance._reason = reason[1]


def _readdress(instance: Any, address: str) -> bool:
    """Put the loopback address where moto made up one; True if the instance has a public address."""
    nic = instance.nics[0]
    for made_up in instance._private_ips:
        nic.subnet.del_subnet_ip(made_up)
    instance._private_ips = set()
    nic.private_ip_address, nic.private_dns_name = address, ""
    nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": address}]
    if nic.public_ip:
        nic.public_ip = address
    return bool(nic.public_ip)


def _shown_tags(instance: Any) -> Callable[[], Mapping[str, str]] | None:
    """What tells the tags of an instance as they are, if its metadata are to show them."""
    backend = instance.ec2_backend
    return (lambda: dict(backend.tags.get(instance.id, {}))) if instance.metadata_options.instance_metadata_tags == "enabled" else None


def _public_keys(instance: Any) -> tuple[str, ...]:
    pair = instance.ec2_backend.key_pairs.get(instance.key_name)
    return (pair.public_key.strip(),) if pair is not None else ()
