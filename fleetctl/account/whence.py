"""From which address AWS sees this computer: what SSH is let in from, unless the user says otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import urllib.request
from urllib.parse import urlsplit

from ..errors import ProfileError

__all__ = ["caller"]

WHAT_AM_I = "https://checkip.amazonaws.com"  # AWS's own; answers with the address alone
SECONDS = 10.0


async def caller(endpoint: str, *, ask: str = WHAT_AM_I) -> str:
    """The address that goes to `endpoint`: this computer's own, if the way there begins with one that means the same at its end.

    That is one of the internet's, or a loopback one where the endpoint is on this computer. Behind NAT, `ask` is asked. Raises
    ProfileError where nothing tells.
    """
    own = await asyncio.to_thread(_source, endpoint)
    if own and (ipaddress.ip_address(own).is_global or ipaddress.ip_address(own).is_loopback):
        return own
    try:
        told = await asyncio.to_thread(_told, ask)
        return str(ipaddress.ip_address(told))
    except (OSError, ValueError) as error:
        raise ProfileError(f"it is not known from which address AWS sees this computer: {ask}: {error}",
                           todo="name the addresses that may use SSH: --ssh 203.0.113.7") from error  # fmt: skip


def _source(endpoint: str) -> str:
    """The address of this computer on the way there; no packet is sent. '' where there is no way."""
    where = urlsplit(endpoint)
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(where.hostname, where.port or 443, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = sorted(found, key=lambda one: one[0] != socket.AF_INET)[0]
        with socket.socket(family, kind, protocol) as way:
            way.connect(address)
            return str(way.getsockname()[0])
    return ""


def _told(ask: str) -> str:
    with urllib.request.urlopen(ask, timeout=SECONDS) as answer:
        return str(answer.read(64).decode("ascii", "replace")).strip()
