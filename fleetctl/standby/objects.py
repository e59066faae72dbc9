"""S3 from inside a machine, by the rights of its role: signed requests over the standard library alone.

It runs on the machine, sent there by `homes`, so it imports nothing of ours and bears Python 3.9: a machine need have neither the aws
command nor a curl that can sign. Addresses are found as the boot script finds them: in the environment, or those of AWS.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import threading
import time
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

TRIES = 6
PAUSE = 0.3  # seconds before the second try of a request, doubled each time, give or take a half
TIMEOUT = 60.0  # seconds of silence on a connection
EARLY = 600  # seconds before their end in which credentials are renewed: EC2 offers the next ones five minutes before, at the latest
BUSY = (409, 429, 500, 502, 503, 504)  # 409: two conditional writes at the same time (S3 User Guide, "conditional writes")
STALE = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed")
METADATA = "http://169.254.169.254"
ACTIONS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject", "DELETE": "s3:DeleteObject"}


class Trouble(Exception):
    """What stands in the way of a home: `kind` in one word, `what` in a sentence, `more` for the program at the other end."""

    def __init__(self, kind: str, what: str, **more: Any) -> None:
        self.kind, self.what, self.more = kind, what, more
        super().__init__(what)


class Keys(NamedTuple):
    """A role's credentials, and when they end (seconds since the epoch)."""

    access: str
    secret: str
    token: str
    ends: float


class Answer(NamedTuple):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """S3's word for an error."""
        found = re.search(rb"<Code>([A-Za-z]+)</Code>", self.body)
        return found.group(1).decode() if found else ""


def signed(
    method: str, host: str, path: str, query: dict[str, str], headers: dict[str, str], payload: str, keys: Keys, region: str, now: float
) -> dict[str, str]:
    """These headers and those that sign them, by Signature Version 4. `path` and `query` are plain, `payload` is the body's SHA-256."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    given = {**headers, "host": host, "x-amz-date": stamp, "x-amz-content-sha256": payload}
    if keys.token:
        given["x-amz-security-token"] = keys.token
    named = ";".join(sorted(given))
    lines = "".join(f"{name}:{given[name].strip()}\n" for name in sorted(given))
    canonical = "\n".join((method, plain(path), asked(query), lines, named, payload))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    given["authorization"] = f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={named}, Signature={signature}"
    return given


def plain(path: str) -> str:
    """A path as it travels."""
    return quote(path, safe="/-_.~")


def asked(query: dict[str, str]) -> str:
    """A query as it travels, and as it is signed."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(query[name], safe='-_.~')}" for name in sorted(query))


def _exchange(url: str, method: str, path: str, headers: dict[str, str], body: bytes, timeout: float) -> Answer:
    at = urlsplit(url)
    kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
    connection = kind(at.hostname or "", at.port, timeout=timeout)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class Metadata:
    """The instance metadata service, version 2. Threads may share one."""

    def __init__(self) -> None:
        self._url = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA).rstrip("/")
        self._token, self._role = "", ""
        self._keys: Keys | None = None
        self._lock = threading.Lock()

    def get(self, path: str) -> str | None:
        """What stands there; None where nothing does. Raises OSError, HTTPException."""
        for _ in range(2):
            if not self._token:
                given = {"x-aws-ec2-metadata-token-ttl-seconds": "21600"}
                self._token = _exchange(self._url, "PUT", "/latest/api/token", given, b"", 5.0).body.decode()
            answer = _exchange(self._url, "GET", f"/latest/{path}", {"x-aws-ec2-metadata-token": self._token}, b"", 5.0)
            if answer.status == 200:
                return answer.body.decode()
            if answer.status != 401:
                break
            self._token = ""
        return None

    def identity(self) -> dict[str, str]:
        """Which machine this is: instance, region, account."""
        try:
            found = json.loads(self.get("dynamic/instance-identity/document") or "{}")
        except (OSError, http.client.HTTPException) as error:
            raise Trouble("network", f"the metadata service does not answer: {error}") from error
        return {"instance": str(found["instanceId"]), "region": str(found["region"]), "account": str(found["accountId"])}

    def keys(self, *, anew: bool = False) -> Keys:
        """The role's credentials. Raises Trouble where the machine has no role."""
        with self._lock:
            if anew or self._keys is None or self._keys.ends - EARLY < time.time():
                roles = "meta-data/iam/security-credentials/"
                role = self.get(roles)
                text = self.get(roles + role.split()[0]) if role and role.strip() else None
                if not text:
                    raise Trouble("role", "the machine has no role, and so no rights to S3")
                found = json.loads(text)
                ends = calendar.timegm(time.strptime(found["Expiration"], "%Y-%m-%dT%H:%M:%SZ"))
                self._keys = Keys(found["AccessKeyId"], found["SecretAccessKey"], found["Token"], float(ends))
            return self._keys


class Store:
    """A place in S3: `prefix` goes before every key. Threads may share one. All raise Trouble: denied, network, missing, role, refused."""

    def __init__(self, metadata: Metadata, bucket: str, prefix: str, region: str) -> None:
        self.metadata, self.bucket, self.prefix, self.region = metadata, bucket, prefix, region

    def whole(self, key: str) -> str:
        """A key as people write it."""
        return f"s3://{self.bucket}/{self.prefix}/{key}"

    def ask(self, method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes, bear: tuple[int, ...]) -> Answer:
        """One request, tried again where that may help. Statuses from 300 on that are not in `bear` raise Trouble."""
        path, payload = f"/{self.bucket}/{self.prefix}/{key}", hashlib.sha256(body).hexdigest()
        last, anew = "", False
        for number in range(TRIES):
            if number:
                time.sleep(PAUSE * 2 ** (number - 1) * random.uniform(0.5, 1.5))
            url = os.environ.get("AWS_ENDPOINT_URL") or f"https://s3.{self.region}.amazonaws.com{'.cn' * self.region.startswith('cn-')}"
            try:
                keys, anew = self.metadata.keys(anew=anew), False
                given = signed(method, urlsplit(url).netloc, path, query, headers, payload, keys, self.region, time.time())
                answer = _exchange(url, method, plain(path) + ("?" + asked(query) if query else ""), given, body, TIMEOUT)
            except (OSError, http.client.HTTPException) as error:
                last = f"{type(error).__name__}: {error}"
                continue
            # some errors of CompleteMultipartUpload come with status 200 (its API reference)
            if answer.status < 300 and not (method == "POST" and b"<Error>" in answer.body):
                return answer
            elsewhere = answer.headers.get("x-amz-bucket-region")
            if elsewhere and elsewhere != self.region:
                self.region = elsewhere
            elif answer.code in STALE:
                anew = True
            elif answer.status in bear:
                return answer
            elif answer.status not in BUSY and answer.status >= 300:
                raise self._refused(method, key, answer)
            last = f"HTTP {answer.status} {answer.code}"
        raise Trouble("network", f"S3 did not take {method} {self.whole(key)}: {last}")

    def _refused(self, method: str, key: str, answer: Answer) -> Trouble:
        if answer.status == 403:
            return Trouble("denied", f"the machine's role may not {ACTIONS[method]} {self.whole(key)} ({answer.code or 'HTTP 403'})",
                           action=ACTIONS[method])  # fmt: skip
        if answer.status == 404:
            what = f"there is no bucket {self.bucket}" if answer.code == "NoSuchBucket" else f"{self.whole(key)} is not there"
            return Trouble("missing", what)
        return Trouble("refused", f"S3 refused {method} {self.whole(key)}: HTTP {answer.status} {answer.code}")

    def get(self, key: str) -> tuple[str, bytes] | None:
        """An object's ETag and body; None where there is none."""
        answer = self.ask("GET", key, {}, {}, b"", (404,))
        if answer.status == 404:
            if answer.code == "NoSuchBucket":
                raise self._refused("GET", key, answer)
            return None
        return answer.headers["etag"], answer.body

    def part(self, key: str, first: int, length: int) -> bytes:
        """Some bytes of an object."""
        body = self.ask("GET", key, {}, {"range": f"bytes={first}-{first + length - 1}"}, b"", ()).body
        if len(body) != length:
            raise Trouble("refused", f"S3 gave {len(body)} bytes of {self.whole(key)} from {first} on, not {length}")
        return body

    def put(self, key: str, body: bytes, *, only: dict[str, str] | None = None) -> str | None:
        """Write an object; its ETag. `only`: a header with its condition; None where that does not hold."""
        answer = self.ask("PUT", key, {}, only or {}, body, (404, 412) if only else ())
        if answer.code == "NoSuchBucket":
            raise self._refused("PUT", key, answer)
        return None if answer.status >= 300 else answer.headers["etag"]

    def delete(self, key: str) -> None:
        """Delete an object, whether it is there or not."""
        self.ask("DELETE", key, {}, {}, b"", (404,))

    def begin(self, key: str) -> str:
        """Begin an upload in parts; its id."""
        found = re.search(rb"<UploadId>([^<]+)</UploadId>", self.ask("POST", key, {"uploads": ""}, {}, b"", ()).body)
        if found is None:
            raise Trouble("refused", f"S3 began no upload of {self.whole(key)}")
        return found.group(1).decode()

    def upload(self, key: str, id: str, number: int, body: bytes) -> str:
        """One part; its ETag."""
        return self.ask("PUT", key, {"partNumber": str(number), "uploadId": id}, {}, body, ()).headers["etag"]

    def complete(self, key: str, id: str, etags: list[str]) -> None:
        """All parts are there. That an answer was lost is found out by a look at the object."""
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags, 1))
        body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</CompleteMultipartUpload>'
        if self.ask("POST", key, {"uploadId": id}, {}, body.encode(), (404,)).status == 404:
            self.ask("HEAD", key, {}, {}, b"", ())

    def abort(self, key: str, id: str) -> None:
        """Forget an upload, and the parts that have come."""
        self.ask("DELETE", key, {"uploadId": id}, {}, b"", (404,))
