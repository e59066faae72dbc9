"""What a session has in AWS beside its launches: channel, parameter, bucket. Each is made when it is first asked for, once for all.

Where an earlier process of the session has made one, that one is gone on with: machines know it, and know no other.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection
from typing import Protocol

from ..cloud import ec2
from ..cloud.bucket import Bucket, found, reserve
from ..ending import nat
from ..futures import Shared
from ..launching.launch import Conductor
from ..notify import Channel
from ..profiles import Profile
from .former import Former

LOOK_SECONDS = 60.0  # for which what ran goes on running: nobody stops what is held, but somebody may at the console


class Secret(str):
    """A text that no repr shows, so no traceback with variables and no careless log line does either."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


class Desk(Protocol):
    """What the belongings need of their session."""

    id: str
    profile: Profile
    launches: list[Conductor]

    @property
    def call(self) -> ec2.Call:
        """The journalled way to AWS."""


class Belongings:
    """Of one session. `again` calls AWS past the ledger; `probe_seconds` is how long a channel's first message may take."""

    def __init__(self, desk: Desk, again: ec2.Call, *, probe_seconds: float, former: Former | None = None) -> None:
        self._desk, self._again, self._probe_seconds, self._former = desk, again, probe_seconds, former
        self.secret: str = Secret(f"{secrets.token_hex(16)} {secrets.token_hex(32)}")  # the grid's password and key
        self.channel: Shared[Channel] = Shared(self._open_channel)
        self.parameter: Shared[str] = Shared(self._put_parameter)
        self.bucket: Shared[Bucket] = Shared(self._open_bucket)
        self._held, self._seen = 0.0, -LOOK_SECONDS  # until when the NAT instance is held; when it was last seen to run
        self._holding = asyncio.Lock()
        self.place = self._reserve()  # machines are told where to look before there is anything

    def __repr__(self) -> str:
        made = [name for name in ("channel", "parameter", "bucket") if getattr(self, name).value is not None]
        return f"<belongings of session {self._desk.id}: {', '.join(made) or 'nothing yet'}>"

    async def drop(self) -> None:
        """Let go of all. What is asked for from now on is made anew; what AWS keeps of the old is the teardown's business."""
        channel = await self.channel.drop()
        if channel is not None:
            await channel.close()
        await self.parameter.drop()
        await self.bucket.drop()
        self._former, self._held = None, 0.0
        self.place = self._reserve()

    async def way_out(self, subnets: Collection[str], until: float) -> None:
        """Have the profile's NAT instance run until then, if machines in these subnets need it. Raises AwsError."""
        profile, clock = self._desk.profile, asyncio.get_running_loop().time
        if profile.nat_instance is None or not profile.goes_by_nat(subnets):
            return
        async with self._holding:
            if until <= self._held and clock() - self._seen < LOOK_SECONDS:
                return
            anew, until = self._held < time.time(), max(until, self._held)
            await nat.hold(self._desk.call, profile.nat_instance, self._desk.id, until, anew=anew)
            self._held, self._seen = until, clock()

    async def _open_channel(self) -> Channel:
        desk, wire = self._desk, self._former.wire if self._former else None
        name = f"fleetctl-{desk.id}-{secrets.token_hex(4)}"
        channel = Channel(desk.call, desk.id, name=name, topic_arn=desk.profile.topic, wire=wire)
        channel.demultiplexer.handlers |= {one.uuid: one.report for one in desk.launches}  # before what waits in a former channel is read
        try:
            await channel.open(probe_seconds=self._probe_seconds)
        except BaseException:
            await channel.close()
            raise
        return channel

    async def _put_parameter(self) -> str:
        desk = self._desk
        if self._former is not None and self._former.parameter:
            answer = await desk.call("ssm", "get_parameter", Name=self._former.parameter, WithDecryption=True)
            self.secret = Secret(answer["Parameter"]["Value"])
            return self._former.parameter
        # a name is used once: what a teardown has proved gone must not be taken for what came after it
        name, tags = f"/fleetctl/{desk.id}/grid-{secrets.token_hex(2)}", [{"Key": ec2.SESSION_TAG, "Value": desk.id}]
        await desk.call("ssm", "put_parameter", Name=name, Value=self.secret, Type="SecureString", Tags=tags)
        return name

    async def _open_bucket(self) -> Bucket:
        place = self.place
        await place.make()
        return place

    def _reserve(self) -> Bucket:
        desk = self._desk
        if self._former is not None and self._former.fuse_object:
            return found(desk.call, self._again, desk.id, desk.profile.region, self._former.fuse_object)
        return reserve(desk.call, self._again, desk.id, desk.profile.region, named=desk.profile.bucket)
