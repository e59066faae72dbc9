"""What the hypervisor is told about an instance that is to boot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Boot:
    """One instance to come. `ip` is from `Hypervisor.address()`."""

    instance_id: str
    ip: str
    type: str
    zone: str
    region: str
    image_id: str
    user_data: bytes                # as the machine sees it: decoded
    public_keys: tuple[str, ...]    # OpenSSH lines: who may log in
    role: str | None                # name of the instance profile's role; None: the metadata service has no credentials
    spot: bool = True
    tags: Callable[[], Mapping[str, str]] | None = None     # its tags as they are now; None where its metadata are not to show them
    public_ip: str = ""             # '' for a machine without public address; in the local cloud equal to ip
