"""The way to AWS: the only importer of aiobotocore and boto3. Clients, error mapping, and the count of calls.

`Aws.call("ec2", "request_spot_instances", **parameters)` is the whole of it. Botocore's own errors come out as the kinds of
`fleetctl.errors`; which code is which kind stands in `reasons`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import boto3
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from .. import reasons
from ..errors import AwsError, BadRequest, Capacity, Denied, Kind, Network, NotFound, PriceTooLow, Quota, Throttled
from ..reasons import reason

CLASSES: dict[Kind, type[AwsError]] = {
    Kind.THROTTLED: Throttled,
    Kind.PERMISSION: Denied,
    Kind.CAPACITY: Capacity,
    Kind.QUOTA: Quota,
    Kind.PRICE: PriceTooLow,
    Kind.INVALID: BadRequest,
}

STALE = (CredentialRetrievalError, PartialCredentialsError, SSOError, TokenRetrievalError)  # what stands for credentials gives none now
# how the services say that the thing is not there
ABSENT = (".NotFound", "NotFoundException", "NonExistentQueue", "QueueDoesNotExist", "ParameterNotFound", "NoSuchBucket", "NoSuchKey",
          "NoSuchEntity", "NatGatewayNotFound", "ResourceNotFound")  # fmt: skip
LAUNCH: ContextVar[str | None] = ContextVar("launch", default=None)


@dataclass(frozen=True)
class Credentials:
    """An access key. Its repr shows the key id only."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r}, …)"


class Aws:
    """One region of one account. Clients are made when first needed, on the event loop that first needs them."""

    def __init__(
        self, *, region: str, endpoint_url: str | None = None, credentials: Credentials | None = None, profile: str | None = None
    ) -> None:
        self.region, self.endpoint_url = region, endpoint_url
        self.calls: Counter[str] = Counter()
        self._credentials, self._profile = credentials, profile
        self._session = AioSession(profile=profile)
        if credentials is not None:
            self._session.set_credentials(credentials.access_key, credentials.secret_key, credentials.token)
        self._stack = contextlib.AsyncExitStack()
        self._clients: dict[str, Any] = {}
        self._making = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<aws {self.region} {self.endpoint_url or ''} {sum(self.calls.values())} calls>"

    async def call(self, service: str, operation: str, /, *, launch: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One API call, retried by botocore's standard mode where that is safe. Raises a kind of AwsError.

        `launch` goes into the User-Agent, so that CloudTrail tells which launch each call was for.
        """
        LAUNCH.set(launch)
        try:
            client = await self._client(service)
            self.calls[f"{service}:{operation}"] += 1
            answer: dict[str, Any] = await getattr(client, operation)(**parameters)
        except ClientError as error:
            raise _from_client_error(service, operation, error) from error
        except (HTTPClientError, NoConnection, ResponseParserError) as error:
            raise Network(
                f"{service} {operation}: {error}",
                service=service,
                operation=operation,
                code=type(error).__name__,
                todo="check the network; the call may or may not have been applied",
            ) from error
        except (NoCredentialsError, NoRegionError, ProfileNotFound) as error:
            raise Denied(
                f"{service} {operation}: {error}",
                service=service,
                operation=operation,
                code=type(error).__name__,
                todo="run `aws configure`, or set AWS_PROFILE and AWS_REGION",
            ) from error
        except STALE as error:
            raise Denied(
                f"{service} {operation}: {error}", service=service, operation=operation, code=type(error).__name__, todo=reasons.STALE.todo
            ) from error
        except BotoCoreError as error:
            raise AwsError(f"{service} {operation}: {error}", service=service, operation=operation, code=type(error).__name__) from error
        return answer

    def boto3(self) -> boto3.Session:
        """A boto3 session with the same credentials, region and endpoint."""
        keys = self._credentials
        return _EndpointSession(
            self.endpoint_url,
            region_name=self.region,
            profile_name=self._profile,
            aws_access_key_id=keys.access_key if keys else None,
            aws_secret_access_key=keys.secret_key if keys else None,
            aws_session_token=keys.token if keys else None,
        )

    async def close(self) -> None:
        """Close every connection."""
        self._clients.clear()
        await self._stack.aclose()

    async def _client(self, service: str) -> Any:
        async with self._making:
            if service not in self._clients:
                # a long poll holds its connection for 20 s, so the read timeout must be longer
                config = AioConfig(
                    retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=70, max_pool_connections=20
                )
                making = self._session.create_client(service, region_name=self.region, endpoint_url=self.endpoint_url, config=config)
                self._clients[service] = await self._stack.enter_async_context(making)
                self._clients[service].meta.events.register("before-send", _name_launch)
        return self._clients[service]


class _EndpointSession(boto3.Session):  # type: ignore[misc]  # boto3 ships no types
    """A boto3 session whose clients go to one endpoint unless told otherwise: boto3 takes it per client only."""

    def __init__(self, endpoint_url: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._endpoint_url = endpoint_url

    def client(self, *args: Any, **kwargs: Any) -> Any:
        """As boto3's, with the session's endpoint."""
        return super().client(*args, **{"endpoint_url": self._endpoint_url, **kwargs})

    def resource(self, *args: Any, **kwargs: Any) -> Any:
        """As boto3's, with the session's endpoint."""
        return super().resource(*args, **{"endpoint_url": self._endpoint_url, **kwargs})


def _name_launch(request: Any, **_: Any) -> None:
    """The last moment before sending, since botocore rebuilds the header for every try. It is not part of what is signed."""
    launch = LAUNCH.get()
    if launch:
        header = request.headers["User-Agent"]
        request.headers["User-Agent"] = f"{header.decode() if isinstance(header, bytes) else header} launch/{launch}"


def _from_client_error(service: str, operation: str, error: ClientError) -> AwsError:
    body = error.response.get("Error", {})
    code = str(body.get("Code", "Unknown"))
    metadata = error.response.get("ResponseMetadata", {})
    known = reason(code)
    kind, todo = (CLASSES.get(known.kind, AwsError), known.todo) if known is not None else (AwsError, "")
    if kind in (AwsError, BadRequest) and (code.endswith(ABSENT) or code == "NotFound"):
        kind, todo = NotFound, ""
    elif kind is AwsError and int(metadata.get("HTTPStatusCode", 400)) >= 500:  # AWS broke on its way to an answer
        kind, todo = Network, "try again in a while; the call may or may not have been applied"
    request_id = str(metadata.get("RequestId", ""))
    return kind(
        f"{service} {operation} was refused with {code}: {body.get('Message', '')}",
        service=service,
        operation=operation,
        code=code,
        request_id=request_id,
        todo=todo,
    )
