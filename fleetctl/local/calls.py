"""Every AWS call that reached the local cloud, by caller, launch, service and operation. The call budgets are asserted on these counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

Call = tuple[str, str, str, str]   # caller, launch, service, operation


class CallLog:
    """An append-only list; a mark is a length of it. Appending is atomic, so no lock is needed."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._names: dict[Call, Call] = {}

    def add(self, caller: str, service: str, operation: str, launch: str = "") -> None:
        """Note one call, when it arrives. `launch` is what the controller's User-Agent names, '' where it names none."""
        call = (caller, launch, service, operation)
        self._calls.append(self._names.setdefault(call, call))   # one tuple per kind of call, however many calls

    def since(self, mark: int = 0) -> dict[str, Any]:
        """The calls after `mark`: `{"mark": the mark of now, "calls": {caller: …}, "launches": {launch: …}}`.

        Each … is `{service: {operation: count}}`; a call for a launch is in both.
        """
        end = len(self._calls)
        calls: dict[str, dict[str, dict[str, int]]] = {}
        launches: dict[str, dict[str, dict[str, int]]] = {}
        for (caller, launch, service, operation), count in sorted(Counter(self._calls[mark:end]).items()):
            for table, key in ((calls, caller), (launches, launch)):
                if key or table is calls:
                    counts = table.setdefault(key, {}).setdefault(service, {})
                    counts[operation] = counts.get(operation, 0) + count
        return {"mark": end, "calls": calls, "launches": launches}

    def forget(self) -> None:
        """Begin anew: the calls with which a cloud furnished itself are nobody's."""
        self._calls.clear()

    def __repr__(self) -> str:
        return f"<CallLog {len(self._calls)} calls>"
