"""The journalled way to AWS: what makes or ends something is in the ledger before it is asked, and its outcome after.

A disk that refuses stops what would make something, never what ends something: a full disk must not keep machines running.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import AwsError, LedgerError
from ..ledger import Ledger
from .aws import Aws

log = logging.getLogger(__name__)

READS = ("describe_", "get_", "head_", "list_", "receive_", "publish", "delete_message", "decode_")  # these make and end nothing
ENDS = ("cancel_", "stop_", "terminate_", "delete_", "release_", "unsubscribe")
# what must not reach a disk, or has no place there
SECRETS = {"put_parameter": ("Value",), "put_object": ("Body",), "upload_part": ("Body",)}


class Journal:
    """`await journal("ec2", operation, **parameters)`. Raises kinds of AwsError, and LedgerError before anything is made."""

    def __init__(self, aws: Aws, ledger: Ledger) -> None:
        self._aws, self._ledger = aws, ledger

    def __repr__(self) -> str:
        return f"<journal of {self._aws!r} in {self._ledger!r}>"

    async def __call__(self, service: str, operation: str, /, *, launch: str | None = None, **parameters: Any) -> dict[str, Any]:
        if operation.startswith(READS):
            return await self._aws.call(service, operation, launch=launch, **parameters)
        shown = {**parameters, **dict.fromkeys(SECRETS.get(operation, ()), "…")}
        token = parameters.get("ClientToken")
        try:
            entry = self._ledger.intent(service, operation, shown, region=self._aws.region, launch=launch, token=token)
        except LedgerError as error:
            if not operation.startswith(ENDS):
                raise
            log.warning("%s goes on without its line in the ledger: %s", operation, error.what)
            return await self._aws.call(service, operation, launch=launch, **parameters)
        try:
            answer = await self._aws.call(service, operation, launch=launch, **parameters)
        except AwsError as error:
            attempt(self._ledger.error, entry, error)
            raise
        attempt(self._ledger.result, entry, {k: v for k, v in answer.items() if k != "ResponseMetadata"})
        return answer


def attempt(write: Callable[..., None], *what: Any) -> None:
    """Write what has happened already. If the disk refuses, the intent stays open, and a teardown looks for what came of it."""
    try:
        write(*what)
    except LedgerError as error:
        log.warning("an outcome is missing in the ledger: %s", error.what)
