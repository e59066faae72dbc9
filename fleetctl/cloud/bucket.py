"""The session's place in S3: a prefix of the profile's bucket, or a bucket of its own that goes with the session.

It holds what is too large for user data and what machines must be able to read while their session lives. Machines read it with their
role, so the role's policy must allow `s3:GetObject` there.

A bucket of its own is private (access to the public is blocked), its objects are encrypted, and it bears the session's tag. A bucket is
tagged in a call after the one that makes it; between the two its name, which has the session's id in it, says whose it is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ..errors import AwsError, Denied, Network, NotFound
from . import ec2, parts

log = logging.getLogger(__name__)

HOME_REGION = "us-east-1"  # the one region that a bucket there must not name (S3 API reference, CreateBucket)
COMMON = "fleetctl/"  # in the profile's bucket, where the machines' role may read (`account.rights`)
OBJECTS = 1000  # in one DeleteObjects (S3 API reference)
OURS_ALREADY = "BucketAlreadyOwnedByYou"  # the answer to a first try was lost
FRESH = timedelta(days=7)  # what is older is put again, for a bucket's rules may end it after 30 days, and machines may come a week later
UNSEEN = ("404", "403")  # HeadObject has no body, and so no words of its own: not there, or not to be looked at
CLOSED = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}


async def empty(call: ec2.Call, bucket: str) -> None:
    """Delete all that is in a bucket of ours and on its way there, with old versions, should somebody have switched versions on."""
    await parts.abort_all(call, bucket)
    while True:
        answer = await ec2.persist(call, "s3", "list_object_versions", Bucket=bucket, MaxKeys=OBJECTS)
        found = [{"Key": one["Key"], "VersionId": one["VersionId"]}
                 for one in (*answer.get("Versions", ()), *answer.get("DeleteMarkers", ()))]  # fmt: skip
        if not found:
            return
        await ec2.persist(call, "s3", "delete_objects", Bucket=bucket, Delete={"Objects": found, "Quiet": True})


class Bucket:
    """Where a session's objects lie: every key begins with `prefix`. Made by `reserve`; `again` calls AWS past the ledger."""

    def __init__(
        self, call: ec2.Call, again: ec2.Call, session: str, region: str, *, name: str, prefix: str = "", own: bool = True
    ) -> None:
        self.name, self.region, self.prefix, self.own = name, region, prefix, own
        self._call, self._again, self._session = call, again, session
        self._common = prefix if own else COMMON
        self._known: set[str] = set()  # keys whose intent is in the ledger
        self._kept: set[str] = set()
        self._keeping = asyncio.Lock()  # who comes second finds what the first has put there

    def __repr__(self) -> str:
        return f"<bucket {self.name}/{self.prefix} in {self.region}, {'its own' if self.own else 'the profile names it'}>"

    def whole(self, key: str) -> str:
        """Bucket and key, as machines are told it."""
        return f"{self.name}/{self.prefix}{key}"

    def common(self, key: str) -> str:
        """Bucket and key of what is there for many launches: in the profile's bucket for many sessions, and it outlives them."""
        return f"{self.name}/{self._common}{key}"

    async def make(self) -> None:
        """Make the bucket, if it is the session's own. May be repeated. Raises kinds of AwsError; what was made is in the ledger."""
        if not self.own:
            return
        where = {} if self.region == HOME_REGION else {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        try:
            await ec2.persist(self._call, "s3", "create_bucket", Bucket=self.name, **where)
        except AwsError as error:
            if error.code != OURS_ALREADY:
                raise
            log.info("bucket %s was made by a try whose answer was lost", self.name)
        tags = {"TagSet": [{"Key": ec2.SESSION_TAG, "Value": self._session}]}
        await ec2.persist(self._call, "s3", "put_bucket_tagging", Bucket=self.name, Tagging=tags)
        await ec2.persist(self._call, "s3", "put_public_access_block", Bucket=self.name, PublicAccessBlockConfiguration=CLOSED)

    async def put(self, key: str, body: bytes, *, launch: str | None = None) -> str:
        """Write an object; returns its whole key. Raises kinds of AwsError, and LedgerError before anything is made.

        An object that is written again and again has one line in the ledger: that it may exist is all that a teardown needs.
        """
        whole = self.prefix + key
        extra = {"ServerSideEncryption": "AES256"} if self.own else {}  # elsewhere as that bucket's owner has decided
        call = self._again if whole in self._known else self._call
        await call("s3", "put_object", launch=launch, Bucket=self.name, Key=whole, Body=body, **extra)
        self._known.add(whole)
        return whole

    async def keep(self, key: str, size: int, read: Callable[[int, int], bytes]) -> str:
        """Have an object there whose key follows from its content: `read(start, length)`, only where it is not there. Its whole place.

        A large one goes in parts, which are in no ledger: all that is in a bucket of ours ends with it. In the profile's bucket it bears no
        session's mark and is in no ledger either: that bucket's rules end it. Raises kinds of AwsError.
        """
        whole = self._common + key
        async with self._keeping:
            if whole not in self._kept and not await self._there(whole, size):
                extra = {"ServerSideEncryption": "AES256"} if self.own else {}
                await self._send(whole, size, read, extra)
            self._kept.add(whole)
        return self.common(key)

    async def _send(self, whole: str, size: int, read: Callable[[int, int], bytes], extra: dict[str, str]) -> None:
        if size <= parts.LARGE:
            body = await asyncio.to_thread(read, 0, size)
            await (self._call if self.own else self._again)("s3", "put_object", Bucket=self.name, Key=whole, Body=body, **extra)
            return
        try:
            await parts.upload(self._again, self.name, whole, size, read, **extra)
        except Network:
            if not await self._there(whole, size):  # else it was the answer alone that was lost
                raise

    async def _there(self, whole: str, size: int) -> bool:
        try:
            seen = await self._again("s3", "head_object", Bucket=self.name, Key=whole)
        except AwsError as error:
            if isinstance(error, (NotFound, Denied)) or error.code in UNSEEN:
                return False
            raise
        return bool(seen["ContentLength"] == size and datetime.now(UTC) - seen["LastModified"] < FRESH)


def reserve(call: ec2.Call, again: ec2.Call, session: str, region: str, *, named: str | None = None) -> Bucket:
    """The session's place in the bucket `named`, or in a bucket to be made. Asks nothing of AWS; `make` does.

    Each place has a name that was never used before: what a teardown has proved gone must not be taken for what came after it.
    """
    once = f"{session}-{secrets.token_hex(4)}"
    if named is not None:
        return Bucket(call, again, session, region, name=named, prefix=f"fleetctl/{once}/", own=False)
    return Bucket(call, again, session, region, name=f"fleetctl-{once}")


def found(call: ec2.Call, again: ec2.Call, session: str, region: str, whole: str) -> Bucket:
    """The place that an earlier process of the session has reserved; `whole` is bucket and key of an object in it. Asks nothing of AWS."""
    name, _, key = whole.partition("/")
    prefix = key[: key.rfind("/") + 1]
    return Bucket(call, again, session, region, name=name, prefix=prefix, own=not prefix)
