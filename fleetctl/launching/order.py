"""A launch as the order that AWS gets: the request with boot script, client token, end and tags. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from .. import bootstrap, shapes
from ..bootstrap import Program, Retold
from ..cloud import ec2
from ..ending import fuse
from ..money.prices import DEFAULT_VOLUME, Volume
from ..shapes.options import ROOT_DEVICES

if TYPE_CHECKING:
    from ..bundle.cargo import Cargo


@dataclass(frozen=True)
class Order:
    """`wanted` machines of `request` that run `program`, until `deadline`; each ends itself `hours` from `began`, and
    `fuse_minutes` after the last sign of life of its session, which is written to `fuse_object`.

    `began` and `deadline` are seconds since the epoch. The uuid is what the machines report with, and the first call's client token.
    """

    uuid: UUID
    session: str
    request: dict[str, Any]
    program: Program | Retold
    wanted: int
    began: float
    deadline: float
    fuse_minutes: int = fuse.FUSE_MINUTES
    hours: float = fuse.HOURS
    fuse_object: str = ""
    part: int = 0  # which of the launch's calls it is for: each has a token of its own
    on_demand: bool = False
    policy: str = ""  # what is to follow when EC2 takes a machine back: a note for another process that goes on with the launch
    cargo: Cargo | None = None  # what must be in S3 before the machines are there; the program fetches it

    def __repr__(self) -> str:
        return f"<order {self.uuid}: {self.wanted} × {self.type or 'machine'}>"

    @property
    def token(self) -> UUID:
        """The client token; of a later call of the same launch another one, and always the same."""
        return uuid5(self.uuid, str(self.part)) if self.part else self.uuid

    @property
    def shape(self) -> shapes.Shape:
        """The launch call that it is sent by."""
        return shapes.shape_of(self.request)

    @property
    def types(self) -> tuple[str, ...]:
        """The instance types that the request names, none where it names attributes."""
        said = shapes.view(self.request).get("itype", ())
        return (said,) if isinstance(said, str) else tuple(said)

    @property
    def type(self) -> str:
        """The instance types in words, '' where the request names none."""
        first, more = self.types[:2], len(self.types) - 2
        return " or ".join(first) + (f" or {more} more" if more > 0 else "")

    @property
    def _machine(self) -> dict[str, Any]:
        """The part of the request that describes a machine."""
        part: Any = self.request
        for key in self.shape.options["image"].lens.keys[:-1]:
            part = part.get(key, {})
        return dict(part)

    @property
    def credits(self) -> str:
        """What the request says of a burstable machine's CPU credits: "standard", "unlimited", or nothing."""
        return str(self._machine.get("CreditSpecification", {}).get("CpuCredits", ""))

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """The volumes that each machine is launched with; the root one too, where the request does not name it."""
        mappings = self._machine.get("BlockDeviceMappings", ())
        said = [one["Ebs"] for one in mappings if "Ebs" in one]
        kind, size = DEFAULT_VOLUME
        found = [Volume(one.get("VolumeType", kind), int(one.get("VolumeSize", size))) for one in said]
        rooted = any(one.get("DeviceName") in ROOT_DEVICES for one in mappings)
        return tuple(found) if rooted else (Volume(kind, size), *found)

    @property
    def public(self) -> bool | None:
        """Whether the machines get a public address; None where their subnet decides."""
        said: bool | None = shapes.view(self.request).get("public")
        return said

    @property
    def cap(self) -> float | None:
        """The highest price that it takes, USD an hour; None: the on-demand price."""
        price = shapes.view(self.request).get("price")
        return None if price is None else float(price)

    @property
    def tags(self) -> dict[str, str]:
        """What marks a thing as this launch's, with the tags that the user gave."""
        given: dict[str, str] = shapes.view(self.request).get("tags", {})
        return {
            **given,
            ec2.SESSION_TAG: self.session,
            ec2.LAUNCH_TAG: str(self.uuid),
            ec2.EXPIRES_TAG: self.stamp(self.expires),
        }

    @property
    def expires(self) -> float:
        """The hard end as it was when the launch began."""
        return self.began + 3600 * self.hours

    @staticmethod
    def stamp(end: float) -> str:
        """A time as tags carry it."""
        return datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def valid_until(self) -> datetime:
        """The deadline in whole seconds; just after it, so that the listing there shows why requests are open, not that they expired."""
        return datetime.fromtimestamp(math.ceil(self.deadline) + 1, UTC)

    def finished(self, *, topic_arn: str, region: str, secret: str | None, bulk: str = "") -> dict[str, Any]:
        """The parameters of the launch call. `secret` names the SSM parameter for a program that wants it, `bulk` the object that holds
        commands which are too long for user data.

        Raises RequestInvalid, UserDataTooLarge.
        """
        request = shapes.apply(self.request, udata=self.script(topic_arn=topic_arn, region=region, secret=secret, bulk=bulk))
        return shapes.finish(request, n=self.wanted, token=str(self.token), valid_until=self.valid_until, tags=self.tags,
                             on_demand=self.on_demand)  # fmt: skip

    def script(self, *, topic_arn: str, region: str, secret: str | None, bulk: str = "") -> str:
        """The user data alone. Raises as `finished` does."""
        if isinstance(self.program, Retold):
            return self.program.render(launch=self.uuid, ends=self.expires, policy=self.policy)
        return bootstrap.render(
            self.program,
            launch=self.uuid,
            session=self.session,
            topic_arn=topic_arn,
            region=region,
            fuse_minutes=self.fuse_minutes,
            secret_parameter=secret,
            ends=self.expires,
            fuse_object=self.fuse_object,
            look=fuse.look_seconds(self.hours),
            bulk=bulk,
            policy=self.policy,
        )
