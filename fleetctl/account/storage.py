"""The bucket of a set-up: private, encrypted, reached by TLS only, and what lies in it ends by itself after a while."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Collection, Mapping
from typing import Any

from ..cloud.bucket import CLOSED, HOME_REGION, OURS_ALREADY, empty
from ..errors import AwsError, BadRequest, Denied, NotFound
from . import rights
from .place import DONE_TAG, SETUP_TAG, Kind, Place, tags_of
from .planning import Seen, Wanted

__all__ = ["KINDS", "TAKEN", "expiry", "rules"]

NOT_THERE = "404"  # HeadBucket's answers have no body, and so no other code
UNSET = ("NoSuchTagSet", "NoSuchPublicAccessBlockConfiguration", "ServerSideEncryptionConfigurationNotFoundError", "NoSuchBucketPolicy",
         "NoSuchLifecycleConfiguration")  # fmt: skip
TAKEN = "BucketAlreadyExists"  # by another account
UPLOAD_DAYS = 1  # after which what was begun to be uploaded and not ended goes


def rules(days: Mapping[str, int]) -> list[dict[str, Any]]:
    """Lifecycle rules that end what begins with a prefix after so many days.

    >>> expiry(rules({"logs/": 90}))
    {'logs/': 90}
    """
    return [
        {"ID": f"fleetctl {prefix}", "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": count},
         "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS}}
        for prefix, count in days.items()
    ]  # fmt: skip


def expiry(shown: list[dict[str, Any]]) -> dict[str, int]:
    """The days by prefix of the rules in force."""
    return {one.get("Filter", {}).get("Prefix", ""): one["Expiration"]["Days"]
            for one in shown if one["Status"] == "Enabled" and "Days" in one.get("Expiration", {})}  # fmt: skip


async def _unset(asking: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """What a look at one setting answers with, {} where it was never set."""
    try:
        return await asking
    except AwsError as error:
        if error.code in UNSET:
            return {}
        raise


async def _find(place: Place) -> list[Seen]:
    name = place.facts.bucket
    try:
        tags = tags_of(await _unset(place.call("s3", "get_bucket_tagging", Bucket=name)), "TagSet")
    except NotFound:
        return []
    except Denied:
        if await _is_of_others(place, name):
            return [Seen("bucket", "bucket", name, ours=False)]
        raise
    blocked = (await _unset(place.call("s3", "get_public_access_block", Bucket=name))).get("PublicAccessBlockConfiguration")
    encryption = (await _unset(place.call("s3", "get_bucket_encryption", Bucket=name))).get("ServerSideEncryptionConfiguration", {})
    policy = (await _unset(place.call("s3", "get_bucket_policy", Bucket=name))).get("Policy")
    lifecycle = (await _unset(place.call("s3", "get_bucket_lifecycle_configuration", Bucket=name))).get("Rules", [])
    settings = {
        "name": name,
        "public access": "blocked" if blocked == CLOSED else "open",
        "encryption": next((one["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for one in encryption.get("Rules", ())), None),
        "policy": rights.encode(json.loads(policy)) if policy else None,
        "expiry": expiry(lifecycle),
    }
    # without any tag it is ours too, cut off between its making and its tagging: the name has the account's own number in it
    ours = not tags or tags.get(SETUP_TAG) == place.facts.setup
    return [Seen("bucket", "bucket", name, settings, ours=ours, done=DONE_TAG in tags)]


async def _is_of_others(place: Place, name: str) -> bool:
    """Whether a bucket that may not be looked at is there and another account's: names are the world's, and anybody can take one."""
    try:
        await place.call("s3", "head_bucket", Bucket=name)
    except AwsError as error:
        if isinstance(error, NotFound) or error.code == NOT_THERE:
            return False
    return all(one["Name"] != name for one in (await place.call("s3", "list_buckets")).get("Buckets", ()))


async def _make(place: Place, wanted: Wanted) -> str:
    name, region = str(wanted.settings["name"]), place.facts.region
    where = {} if region == HOME_REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        await place.do("s3", "create_bucket", Bucket=name, **where)
    except AwsError as error:
        if error.code == TAKEN:
            raise BadRequest(f"the bucket name {name} is taken by another account", service="s3", operation="create_bucket", code=TAKEN,
                             todo="give the set-up another name") from error  # fmt: skip
        if error.code != OURS_ALREADY:
            raise
    await place.do("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": place.tags(wanted.part)})
    return name


async def _put(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    if "public access" in keys:
        await place.do("s3", "put_public_access_block", Bucket=id, PublicAccessBlockConfiguration=CLOSED)
    if "encryption" in keys:
        by_default = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": wanted.settings["encryption"]}}
        await place.do("s3", "put_bucket_encryption", Bucket=id, ServerSideEncryptionConfiguration={"Rules": [by_default]})
    if "policy" in keys:
        await place.do("s3", "put_bucket_policy", Bucket=id, Policy=wanted.settings["policy"])
    if "expiry" in keys:
        lifecycle = {"Rules": rules(wanted.settings["expiry"])}
        await place.do("s3", "put_bucket_lifecycle_configuration", Bucket=id, LifecycleConfiguration=lifecycle)


async def _mark(place: Place, part: str, id: str) -> None:
    await place.do("s3", "put_bucket_tagging", Bucket=id, Tagging={"TagSet": place.tags(part, done=True)})


async def _remove(place: Place, thing: Seen) -> None:
    await empty(place.call, thing.id)
    await place.call("s3", "delete_bucket", Bucket=thing.id)


KINDS = (Kind("bucket", _find, _make, _remove, _put, _mark, ("s3", "get_bucket_tagging", "Bucket"), fixed=frozenset({"name"})),)
