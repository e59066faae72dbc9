"""The instance metadata service, version 2, one for each instance: what a machine can learn about itself.

`Metadata` is pure: a request in, a reply out, the clock passed in. `Connection` is the little HTTP/1.1 that curl and the SDKs speak,
on the daemon's event loop; an instance's service costs a listening socket. As on AWS with HttpTokens=required: no data without a
session token (401), a token only by PUT with a time to live of 1 to 21,600 s (400), and not through a proxy (403).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus

from fleetctl.local.boot import Boot

ACCOUNT = "123456789012"
_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "x-aws-ec2-metadata-token"
_LONGEST_TTL = 21_600       # six hours
_LARGEST_HEAD = 16_384
_VERSION = re.compile(r"latest|1\.0|\d{4}-\d\d-\d\d")

Credentials = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class Reply:
    """Status, body and the headers beside the usual ones."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Tokens:
    """Session tokens of one instance, checked by signature, so that none is stored. A token of another instance is no token."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def issue(self, ttl: int, now: float) -> str:
        """A token that is good for `ttl` seconds from `now`."""
        body = struct.pack(">d", now + ttl) + secrets.token_bytes(8)
        return base64.urlsafe_b64encode(body + self._sign(body)).decode()

    def left(self, token: str, now: float) -> float:
        """Seconds this token is still good for; 0 for one that is expired, or was never issued here."""
        try:
            raw = base64.urlsafe_b64decode(token.encode())
        except ValueError:
            return 0.0
        body, signature = raw[:16], raw[16:]
        if len(body) != 16 or not hmac.compare_digest(signature, self._sign(body)):
            return 0.0
        return max(0.0, float(struct.unpack(">d", body[:8])[0]) - now)

    def _sign(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._key, digest_size=24).digest()


class Metadata:
    """Answers for one instance. `credentials(role)` is called at each asking, and must be quick: it runs in the daemon's event loop."""

    def __init__(self, boot: Boot, credentials: Credentials) -> None:
        self._boot, self._credentials = boot, credentials
        self._tokens = Tokens()
        self._notice: tuple[str, str] | None = None
        self._advised = ""
        self._launched = datetime.now(UTC)
        self._facts = self._gather()

    def interrupt(self, action: str, at: str) -> None:
        """From now on there is a notice: `action` is terminate, stop or hibernate, `at` an ISO time."""
        self._notice = action, at

    def advise(self, at: str) -> None:
        """From now on there is a recommendation to rebalance, made at this ISO time."""
        self._advised = at

    def respond(self, method: str, target: str, headers: Mapping[str, str], now: float) -> Reply:
        """The reply to one request; header names in lower case, `now` in seconds of any steady clock."""
        path = target.partition("?")[0]
        version, _, rest = path.lstrip("/").partition("/")
        if not _VERSION.fullmatch(version):
            return _refusal(404)
        if rest == "api/token":
            return self._token(method, headers, now)
        if method != "GET":
            return _refusal(405)
        left = self._tokens.left(headers.get(_TOKEN_HEADER, ""), now)
        if left <= 0:
            return _refusal(401)
        body = self._look_up(rest)
        return _refusal(404) if body is None else Reply(200, body, {_TTL_HEADER: str(int(left))})

    def _token(self, method: str, headers: Mapping[str, str], now: float) -> Reply:
        if method != "PUT":
            return _refusal(405)
        if "x-forwarded-for" in headers:
            return _refusal(403)
        ttl = headers.get(_TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit()) or not 1 <= int(ttl[:6]) <= _LONGEST_TTL:
            return _refusal(400)
        return Reply(200, self._tokens.issue(int(ttl), now).encode(), {_TTL_HEADER: ttl})

    def _look_up(self, path: str) -> bytes | None:
        """The text at a path, the listing of a directory (with or without its slash), or None."""
        facts = {**self._facts, **self._changing()}
        fact = facts.get(path)
        if fact is not None:
            return fact() if callable(fact) else fact
        folder = path.rstrip("/") + "/" if path else ""
        if folder == "meta-data/public-keys/":      # the one listing that isn't of names: index=name
            names = [f"{n}={name}" for n, name in enumerate(_key_names(self._boot.public_keys))]
        else:
            names = sorted({below.partition("/")[0] + ("/" if "/" in below else "")
                            for below in (name[len(folder):] for name in facts if name.startswith(folder))})
        return "\n".join(names).encode() if names else None

    def _gather(self) -> dict[str, bytes | Callable[[], bytes | None]]:
        """What doesn't change while the instance is up, by path."""
        boot = self._boot
        dashed = boot.ip.replace(".", "-")
        texts = {
            "ami-id": boot.image_id,
            "hostname": f"ip-{dashed}.{boot.region}.compute.internal",
            "instance-id": boot.instance_id,
            "instance-life-cycle": "spot" if boot.spot else "on-demand",
            "instance-type": boot.type,
            "local-hostname": f"ip-{dashed}.{boot.region}.compute.internal",
            "local-ipv4": boot.ip,
            "placement/availability-zone": boot.zone,
            "placement/region": boot.region,
            "services/domain": "amazonaws.com",
        }
        if boot.public_ip:      # its public name is the address itself: a name that nothing resolves would help nobody
            texts |= {"public-hostname": boot.public_ip, "public-ipv4": boot.public_ip}
        for number, key in enumerate(boot.public_keys):
            texts[f"public-keys/{number}/openssh-key"] = key
        facts: dict[str, bytes | Callable[[], bytes | None]] = {f"meta-data/{path}": text.encode() for path, text in texts.items()}
        facts["dynamic/instance-identity/document"] = json.dumps(self._identity(), indent=2).encode()
        if boot.user_data:
            facts["user-data"] = boot.user_data
        if boot.role is not None:
            facts["meta-data/iam/info"] = json.dumps({"Code": "Success", "LastUpdated": _iso(self._launched), "InstanceProfileArn":
                                                      f"arn:aws:iam::{ACCOUNT}:instance-profile/{boot.role}"}).encode()
            facts[f"meta-data/iam/security-credentials/{boot.role}"] = self._role_credentials
        return facts

    def _changing(self) -> dict[str, bytes]:
        tags = self._boot.tags() if self._boot.tags is not None else {}
        facts = {f"meta-data/tags/instance/{key}": value.encode() for key, value in tags.items()}
        if self._advised:
            facts["meta-data/events/recommendations/rebalance"] = json.dumps({"noticeTime": self._advised}).encode()
        if self._notice is None:
            return facts
        action, at = self._notice
        facts["meta-data/spot/instance-action"] = json.dumps({"action": action, "time": at}).encode()
        if action == "terminate":       # the older item, only for this action
            facts["meta-data/spot/termination-time"] = at.encode()
        return facts

    def _identity(self) -> dict[str, str | None]:
        boot = self._boot
        return {"accountId": ACCOUNT, "architecture": "x86_64", "availabilityZone": boot.zone, "imageId": boot.image_id,
                "instanceId": boot.instance_id, "instanceType": boot.type, "pendingTime": _iso(self._launched), "privateIp": boot.ip,
                "region": boot.region, "version": "2017-09-30"}

    def _role_credentials(self) -> bytes | None:
        assert self._boot.role is not None
        try:
            issued = self._credentials(self._boot.role)
        except KeyError:        # the role is gone
            return None
        return json.dumps({"Code": "Success", "LastUpdated": _iso(datetime.now(UTC)), "Type": "AWS-HMAC", **issued}).encode()


class Service:
    """`Metadata` on a socket. All methods in the event loop."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Service {'listening' if self._server else 'closed'}, {len(self._connections)} connections>"

    async def listen(self, sock: socket.socket) -> None:
        """Takes over a bound socket."""
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self._metadata, self._connections), sock=sock)

    def close(self) -> None:
        """Stops listening and ends every connection. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive for one client: as much as metadata requests need, and 400 for the rest."""

    def __init__(self, metadata: Metadata, among: set[Connection]) -> None:
        self._metadata, self._among = metadata, among
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._among.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._among.discard(self)

    def abort(self) -> None:
        """Ends the connection as a machine that is switched off does."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the loop; answers every request that is whole."""
        self._buffer += data
        while self._transport is not None and not self._transport.is_closing() and self._one():
            pass

    def _one(self) -> bool:
        """Answers the first request in the buffer; False when it isn't whole yet."""
        head, separator, _ = bytes(self._buffer).partition(b"\r\n\r\n")
        if not separator:
            if len(self._buffer) > _LARGEST_HEAD:
                self._write(_refusal(431), last=True)
            return False
        parsed = parse_head(head)
        if parsed is None:
            self._write(_refusal(400), last=True)
            return False
        method, target, version, headers = parsed
        body = int(headers.get("content-length", "0"))
        whole = len(head) + 4 + body
        if len(self._buffer) < whole:
            if whole > _LARGEST_HEAD:
                self._write(_refusal(413), last=True)
            return False
        del self._buffer[:whole]
        last = version == "HTTP/1.0" or "close" in headers.get("connection", "").lower()
        self._write(self._metadata.respond(method, target, headers, time.monotonic()), last)
        return True

    def _write(self, reply: Reply, last: bool) -> None:
        assert self._transport is not None
        headers = {"Content-Type": "text/plain", "Content-Length": str(len(reply.body)), "Server": "EC2ws",
                   "Connection": "close" if last else "keep-alive", **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body)
        if last:
            self._transport.close()


def parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]] | None:
    """(method, target, version, headers in lower case) of a request head, or None if it isn't one we take (chunked bodies included)."""
    try:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    except ValueError:
        return None
    if version not in ("HTTP/1.0", "HTTP/1.1") or "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    return (method, target, version, headers) if length.isascii() and length.isdigit() and len(length) < 8 else None


def _refusal(status: int) -> Reply:
    title = f"{status} - {HTTPStatus(status).phrase}"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Reply(status, page.encode(), {"Content-Type": "text/html"})


def _key_names(keys: tuple[str, ...]) -> list[str]:
    """Each key's comment, which is what EC2 calls the key pair; or a number."""
    return [fields[2] if len(fields := key.split(None, 2)) > 2 else f"key-{number}" for number, key in enumerate(keys)]


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
