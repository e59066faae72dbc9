"""Large objects go to S3 in parts, a few at a time, each read when its turn comes; what cannot be completed is taken back.

Parts of an upload that is neither completed nor aborted cost what an object of their size would, and no listing of objects shows them. So a
failure aborts, and whoever sends the same object later aborts what a killed process has left there. A set-up's bucket ends them after a day
by its own rule.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import AwsError
from . import ec2

__all__ = ["LARGE", "abort_all", "upload"]

log = logging.getLogger(__name__)

LARGE = 64 << 20  # bytes of a part, and from which an object has some. S3 takes 10,000 parts of 5 MiB to 5 GiB, and 5 GiB in one piece
AT_ONCE = 3  # so that no more than these are in memory
LEFT = timedelta(days=1)  # after which nobody is at work on an upload any more
Read = Callable[[int, int], bytes]


async def upload(call: ec2.Call, bucket: str, key: str, size: int, read: Read, **extra: Any) -> None:
    """Send an object whose bytes `read(start, length)` gives. Raises kinds of AwsError, and what `read` raises; nothing stays then."""
    await _sweep(call, bucket, key)
    answer = await call("s3", "create_multipart_upload", Bucket=bucket, Key=key, **extra)
    which = {"Bucket": bucket, "Key": key, "UploadId": answer["UploadId"]}
    turns = asyncio.Semaphore(AT_ONCE)

    async def send(number: int, start: int) -> dict[str, Any]:
        async with turns:
            body = await asyncio.to_thread(read, start, min(LARGE, size - start))
            sent = await ec2.persist(call, "s3", "upload_part", **which, PartNumber=number, Body=body)
        return {"ETag": sent["ETag"], "PartNumber": number}

    tasks = [asyncio.create_task(send(number, start)) for number, start in enumerate(range(0, size, LARGE), 1)]
    try:
        parts = await asyncio.gather(*tasks)
        await call("s3", "complete_multipart_upload", **which, MultipartUpload={"Parts": list(parts)})
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.shield(_taken_back(call, which, tasks))
        raise


async def abort_all(call: ec2.Call, bucket: str) -> None:
    """Abort all that is being uploaded into a bucket. Who may not look goes on without."""
    await _abort(call, bucket, await _begun(call, bucket))


async def _taken_back(call: ec2.Call, which: dict[str, Any], tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Once no part is on its way any more, as one that arrives after the abort would stay."""
    await asyncio.gather(*tasks, return_exceptions=True)
    try:
        await ec2.persist(call, "s3", "abort_multipart_upload", **which)
    except AwsError as error:
        if error.code != "NoSuchUpload":  # it is complete, though the answer was lost, or somebody else has aborted it
            log.warning("an upload of %s into %s could not be aborted: %s", which["Key"], which["Bucket"], error.what)


async def _sweep(call: ec2.Call, bucket: str, key: str) -> None:
    old = [one for one in await _begun(call, bucket, Prefix=key) if datetime.now(UTC) - one["Initiated"] > LEFT]
    await _abort(call, bucket, old)


async def _begun(call: ec2.Call, bucket: str, **where: str) -> list[dict[str, Any]]:
    """Uploads that are neither complete nor aborted; the first thousand, as there is one at a time."""
    try:
        return list((await call("s3", "list_multipart_uploads", Bucket=bucket, **where)).get("Uploads", ()))
    except AwsError as error:
        log.info("uploads into %s cannot be listed: %s", bucket, error.what)
        return []


async def _abort(call: ec2.Call, bucket: str, uploads: Iterable[dict[str, Any]]) -> None:
    for one in uploads:
        try:
            await call("s3", "abort_multipart_upload", Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])
        except AwsError as error:
            log.info("an upload of %s into %s could not be aborted: %s", one["Key"], bucket, error.what)
