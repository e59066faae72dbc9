"""What goes into S3 before a launch, for its machines to fetch: its cargo, and commands that are too long for user data."""

from __future__ import annotations

import logging
from typing import Protocol

from .. import bootstrap
from ..cloud.bucket import Bucket
from ..errors import AwsError, UserDataTooLarge
from ..profiles import Profile
from .order import Order

log = logging.getLogger(__name__)

KEY = "commands-{}"  # of the launch with this id: they end with it


class Desk(Protocol):
    """What this needs of the session."""

    profile: Profile

    async def bucket(self) -> Bucket:
        """The session's place in S3, made when first asked for."""


async def put_aside(order: Order, desk: Desk, *, topic_arn: str, secret: str | None) -> str:
    """Where a launch's commands lie that are too long for its user data, bucket and key; '' where they are not too long.

    Its cargo is there then as well. Raises UserDataTooLarge where there is no bucket for the commands, and what `Cargo.stow` raises.
    """
    if order.cargo is not None:
        await order.cargo.stow(desk, order.uuid)
    refusal = _too_long(order, topic_arn, desk.profile.region, secret)
    if refusal is None or isinstance(order.program, bootstrap.Retold):  # such a script was sent before, with its commands where they lie
        return ""
    body = bootstrap.packed(order.program)
    try:
        bucket = await desk.bucket()
        await bucket.put(key := KEY.format(order.uuid), body, launch=str(order.uuid))
    except AwsError as error:
        raise UserDataTooLarge(
            f"{refusal.what}; and they could not be put into S3 for the machines to fetch: {error.what}",
            alias="cmds", found=refusal.found, todo=f"let the session have a bucket (its profile may name one), or {refusal.todo}",
        ) from error  # fmt: skip
    log.info("launch %s: its commands are too long for user data, and lie in %s", order.uuid, bucket.whole(key))
    return bucket.whole(key)


def _too_long(order: Order, topic_arn: str, region: str, secret: str | None) -> UserDataTooLarge | None:
    try:
        order.script(topic_arn=topic_arn, region=region, secret=secret)
    except UserDataTooLarge as error:
        return error
    return None
