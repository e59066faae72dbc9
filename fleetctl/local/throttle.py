"""Calls of EC2 against its token buckets, while the fault "token-buckets" says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from moto.core.request import Request

from fleetctl.local.buckets import Buckets
from fleetctl.local.faults import Faults

COMMON = ("Action", "Version", "DryRun")   # parameters that narrow nothing


class Throttle:
    """One set of buckets for each region and each fault; full when the fault begins."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._buckets: dict[tuple[int, str], Buckets] = {}
        self._lock = threading.Lock()

    def refuses(self, request: Request, facts: Mapping[str, str]) -> bool:
        """Whether this call is one too many."""
        if facts["service"] != "ec2" or (fault := self._faults.strikes("token-buckets", **facts)) is None:
            return False
        operation, broad = facts["operation"], not set(request.values) - set(COMMON)
        with self._lock:
            buckets = self._buckets.setdefault((fault.id, facts["region"]), Buckets(fault.settings["scale"]))
            return not buckets.take(operation, _resources(request), broad, time.monotonic())

    def __repr__(self) -> str:
        return f"<Throttle {len(self._buckets)} regions>"


def _resources(request: Request) -> int:
    """How many instances a call is about."""
    named = sum(name.startswith("InstanceId.") for name in request.values)
    return named or int(request.values.get("MaxCount") or 1)
