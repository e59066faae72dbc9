"""What the calls of EC2's API share: refusals as error documents, tokens that make a call happen once, times and tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses._base_response import EC2BaseResponse

from fleetctl.local.book import Refused

if TYPE_CHECKING:
    from fleetctl.local.ec2 import LocalEC2

SERVER_ERRORS = ("InsufficientInstanceCapacity",)   # of what is refused here; EC2 API Reference, "Server error codes": HTTP 500


class Calls(EC2BaseResponse):
    """Some of EC2's calls; the others are mixed in beside them."""

    @property
    def region_backend(self) -> LocalEC2:
        """The backend of the call's region, with its right type."""
        backend: LocalEC2 = self.ec2_backend
        return backend


@contextmanager
def errors() -> Iterator[None]:
    """Turns Refused into the exception that moto writes as an EC2 error document."""
    try:
        yield
    except Refused as refused:
        raise EC2ClientError(refused.code, refused.message) from refused


def fingerprint(given: Mapping[str, Any]) -> str:
    """A digest of a call's parameters: a token that comes again must come with the same."""
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()


class Tokens:
    """What the client tokens of a region's calls have made. Each call has its own tokens."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[str, Any]] = {}

    def made(self, call: str, given: Mapping[str, Any]) -> Any:
        """What this call made with its token before; None if it has none, or a new one. Raises Refused for other parameters."""
        found = self._made.get((call, str(given.get("ClientToken") or "")))
        if found is None:
            return None
        if found[0] != fingerprint(given):
            raise Refused("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent with arguments "
                                                         "used in previous request(s).")
        return found[1]

    def keep(self, call: str, given: Mapping[str, Any], made: Any) -> None:
        """Remember what a call made. Calls that failed made nothing, and their token may be used again."""
        if given.get("ClientToken"):
            self._made[call, str(given["ClientToken"])] = fingerprint(given), made

    def __repr__(self) -> str:
        return f"<Tokens {len(self._made)} used>"


def now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def utc(moment: datetime | None) -> datetime | None:
    """A moment without zone is UTC's."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def page(things: Sequence[Any], limit: int, token: str | None) -> tuple[list[Any], str | None]:
    """A page of `limit` things and the token of the next page; raises Refused for a token that is none of ours."""
    if token is not None and not token.isdigit():
        raise Refused("InvalidNextToken", "The pagination token is invalid.")
    start = int(token or 0)
    return list(things[start:start + limit]), str(start + limit) if start + limit < len(things) else None


def listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as an answer has them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
