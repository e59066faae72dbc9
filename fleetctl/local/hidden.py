"""What exists and is not seen yet: EC2 is eventually consistent, and a fault makes that happen. Pure but for being mutable."""

from __future__ import annotations

from collections.abc import Iterable

from fleetctl.local.book import Refused

NOT_FOUND = {   # what EC2 answers to an id that it does not see, by the id's beginning
    "i": ("InvalidInstanceID.NotFound", "The instance ID '{id}' does not exist"),
    "sir": ("InvalidSpotInstanceRequestID.NotFound", "The spot instance request ID '{id}' does not exist"),
    "vol": ("InvalidVolume.NotFound", "The volume '{id}' does not exist."),
    "fleet": ("InvalidFleetId.NotFound", "The fleet ID '{id}' does not exist"),
    "lt": ("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID {id}, does not exist."),
}


class Hidden:
    """Ids that are not seen before their time (seconds of any clock)."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def hide(self, id: str, until: float) -> None:
        """Not seen before `until`."""
        self._until[id] = until

    def show(self, *ids: str) -> None:
        """Seen from now on."""
        for id in ids:
            self._until.pop(id, None)

    def show_all(self) -> None:
        """Everything is seen from now on."""
        self._until = {}

    def now(self, now: float) -> set[str]:
        """The ids that are not seen now."""
        if not self._until:
            return set()
        self._until = {id: until for id, until in self._until.items() if until > now}
        return set(self._until)

    def check(self, ids: Iterable[str], now: float) -> None:
        """Raises Refused, as EC2 does, if one of the ids is not seen."""
        unseen = self.now(now)
        for id in ids:
            if id in unseen:
                raise missing(id)

    def __repr__(self) -> str:
        return f"<Hidden {len(self._until)} ids>"


def missing(id: str) -> Refused:
    """EC2's answer to an id that does not exist."""
    code, message = NOT_FOUND[id.partition("-")[0]]
    return Refused(code, message.format(id=id))
