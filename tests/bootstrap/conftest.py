"""The real boot script under real bash and curl, against a small server that plays the metadata service, SNS and SSM.

The server checks as AWS would: no metadata without a token, and every signature computed again from what arrived. While a
request is under way, its sender is alive, so that is when the server looks whether any process shows a secret to the others.
"""

from __future__ import annotations

import contextlib
import getpass
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fleetctl.bootstrap import Program, program, render
from fleetctl.messages import Phase, Report, decode

PATIENCE = 30.0  # seconds until a wait gives up; nothing here takes a tenth of it
REGION = "eu-west-1"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:fleetctl-test"
ACCESS, PRIVATE = "ASIAEXAMPLEEXAMPLE01", "wJalr/XUtnFEMI+K7MDENG/bPxRfiCYEXAMPLEKEY"
TICKET = "IQoJb3JpZ2luX2Vj" + "Token+/9" * 120 + "=="  # as long as the real ones
SECRET = "00ff" * 16 + " " + "ab12" * 16
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmQxJ0SLd1nJ4iE0S9kq9i3pXU3fZ8vY5t0Wm0yqK7H"
METADATA = {
    "instance-id": "i-0123456789abcdef0", "local-ipv4": "10.0.1.5", "public-ipv4": "3.4.5.6",
    "public-hostname": "ec2-3-4-5-6.eu-west-1.compute.amazonaws.com", "instance-type": "t3.micro",
    "placement/availability-zone": "eu-west-1a", "iam/security-credentials/": "fleet-role",
}


@dataclass
class Cloud:
    """What the machine talks to. `faults[service]` are answers (status, body) that are given first, one a request."""

    metadata: dict[str, str] = field(default_factory=lambda: dict(METADATA))
    faults: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: {"imds": [], "sns": [], "ssm": [], "s3": []})
    reports: list[Report] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    objects: dict[str, str | bytes] = field(default_factory=dict)  # S3's, by their paths
    complaints: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    lifetime: float = 6 * 3600
    signed_by_curl: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def wait(self, what: Callable[[], Any]) -> Any:
        """Until `what()` is true of what has arrived; its value."""
        with self.changed:
            assert self.changed.wait_for(what, PATIENCE), f"{self.calls}\n{self.reports}\n{self.complaints}"
            return what()

    def report(self, phase: Phase) -> Report:
        """The first report of this phase, waited for."""
        found = self.wait(lambda: [report for report in self.reports if report.phase is phase])[0]
        assert isinstance(found, Report)
        return found

    def answer(self, method: str, path: str, headers: Message, body: bytes) -> tuple[int, str | bytes]:
        with self.changed:
            aws = "s3" if method == "GET" else "ssm" if "X-Amz-Target" in headers else "sns"
            service = "imds" if path.startswith("/latest/") else aws
            self.calls.append(f"{service} {method} {path}")
            self.changed.notify_all()
            if service != "imds":
                self._check(service, method, path, headers, body)
            self._look_for_secrets()
            if self.faults[service]:
                return self.faults[service].pop(0)
            return {"imds": self._imds, "sns": self._sns, "ssm": self._ssm, "s3": self._s3}[service](method, path, headers, body)

    def _imds(self, method: str, path: str, headers: Message, _: bytes) -> tuple[int, str]:
        if (method, path) == ("PUT", "/latest/api/token"):
            assert 1 <= int(headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
            self.tokens.add(token := uuid.uuid4().hex)
            return 200, token
        if headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return 401, "<html>Unauthorized</html>\n"
        name = path.removeprefix("/latest/meta-data/")
        if name == "iam/security-credentials/fleet-role":
            end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
            return 200, json.dumps({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": ACCESS, "SecretAccessKey": PRIVATE,
                                    "Token": TICKET, "Expiration": end}, indent=2)
        return (200, self.metadata[name]) if name in self.metadata else (404, "<html>\nNot Found\n</html>\n")

    def _sns(self, _method: str, _path: str, headers: Message, body: bytes) -> tuple[int, str]:
        form = {key: values[0] for key, values in parse_qs(body.decode(), strict_parsing=True).items()}
        assert (form["Action"], form["Version"], form["TopicArn"]) == ("Publish", "2010-03-31", TOPIC)
        report = decode(form["Message"])
        assert isinstance(report, Report)
        self.reports.append(report)
        return 200, ("<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult>"
                     "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></PublishResponse>")

    def _ssm(self, _method: str, _path: str, headers: Message, body: bytes) -> tuple[int, str]:
        assert headers["X-Amz-Target"] == "AmazonSSM.GetParameter"
        assert headers["Content-Type"] == "application/x-amz-json-1.1"
        asked = json.loads(body)
        assert asked == {"Name": "/fleetctl/s1/secret", "WithDecryption": True}
        return 200, json.dumps({"Parameter": {"Name": asked["Name"], "Type": "SecureString", "Value": SECRET, "Version": 1}})

    def _s3(self, _method: str, path: str, headers: Message, body: bytes) -> tuple[int, str | bytes]:
        return (200, self.objects[path]) if path in self.objects else (404, "<Error><Code>NoSuchBucket</Code></Error>")

    def _check(self, service: str, method: str, path: str, headers: Message, body: bytes) -> None:
        """The signature once more, by botocore, over the headers that the request says it signed."""
        words = dict(word.split("=", 1) for word in headers["Authorization"].removeprefix("AWS4-HMAC-SHA256").replace(" ", "").split(","))
        signed = words["SignedHeaders"].split(";")
        must = {"host", "x-amz-date", "x-amz-security-token"}
        must |= {"s3": set(), "sns": {"content-type"}, "ssm": {"content-type", "x-amz-target"}}[service]
        if not must <= set(signed):
            self.complaints.append(f"signed are only {signed}")
        request = AWSRequest(method=method, url=self.url + path, data=body, headers={name: headers[name] for name in signed})
        request.context["timestamp"] = headers["X-Amz-Date"]
        auth = (S3SigV4Auth if service == "s3" else SigV4Auth)(Credentials(ACCESS, PRIVATE, TICKET), service, REGION)
        expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        scope = f"{ACCESS}/{headers['X-Amz-Date'][:8]}/{REGION}/{service}/aws4_request"
        if (words["Credential"], words["Signature"]) != (scope, expected) or headers["X-Amz-Security-Token"] != TICKET:
            self.complaints.append(f"wrong signature: {dict(headers)} {body!r}")
        if self.signed_by_curl and not headers["User-Agent"].startswith("curl/"):
            self.complaints.append(f"not sent by curl: {headers['User-Agent']}")

    def _look_for_secrets(self) -> None:
        hidden = [word.encode() for word in (PRIVATE, TICKET, *SECRET.split(), *self.tokens)]
        for process in os.listdir("/proc"):
            for name in ("cmdline", "environ") if process.isdecimal() and process != str(os.getpid()) else ():
                with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
                    shown = Path("/proc", process, name).read_bytes()
                    self.complaints += [f"{name} of {process} shows {word!r}" for word in hidden if word in shown]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer, so that no answer waits for an acknowledgement
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text = cloud.answer(self.command, self.path, self.headers, body)
            answer = text if isinstance(text, bytes) else text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            with cloud.changed:
                cloud.changed.notify_all()

        do_PUT = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing: `Cloud.calls` is the log."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A machine that is stopped breaks its connections; all else is told at the end."""
            if not isinstance(error := sys.exception(), ConnectionError):
                cloud.complaints.append(repr(error))

    server = Server(("127.0.0.1", 0), Handler)
    cloud.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield cloud
    server.shutdown()
    server.server_close()
    thread.join()
    assert cloud.complaints == []


@dataclass
class Machine:
    """One machine of the test: its directory, and the processes in it."""

    root: Path
    cloud: Cloud
    as_root: bool
    launch: uuid.UUID = field(default_factory=uuid.uuid4)
    host_key: str = KEY
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.root / "state" / str(self.launch)

    @property
    def user(self) -> str:
        """Who runs the commands: a root that runs these tests lets the directly run machine go as nobody too."""
        return "nobody" if os.getuid() == 0 else getpass.getuser()

    @property
    def log(self) -> str:
        return (self.run / "log").read_text()

    def put(self, name: str, text: str) -> None:
        """A program on the machine's PATH, before those of the system."""
        path = self.root / "bin" / name
        path.write_text("#!/bin/bash\n" + text)
        path.chmod(0o755)

    def boot(
        self, cmds: str | Sequence[str] | Program, *, ends: float | None = None, fuse_object: str = "", bulk: str = "", **env: str
    ) -> subprocess.Popen[bytes]:
        what = program(cmds)
        script = render(what, launch=self.launch, session="s1", topic_arn=TOPIC, region=REGION, fuse_minutes=90,
                        secret_parameter="/fleetctl/s1/secret", ends=ends, fuse_object=fuse_object, look=1, bulk=bulk)
        (self.root / "user-data").write_text(script)
        (self.root / "user-data").chmod(0o755)
        settings = {
            "PATH": f"{self.root}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "AWS_ENDPOINT_URL": self.cloud.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.cloud.url, "FLEETCTL_STATE_DIR": f"{self.root}/state", "FLEETCTL_SSH_PORT": "2222",
            "FLEETCTL_UNITS": "",
            "FLEETCTL_SSH_KEY_FILE": f"{self.root}/host_key.pub", **env,
        }
        settings = {"FLEETCTL_LOGIN_USER": "nobody", **settings} if self.as_root else {"HOME": f"{self.root}/home", **settings}
        drop: dict[str, Any] = {} if self.as_root or os.getuid() else {"user": "nobody", "group": "nogroup", "extra_groups": []}
        with open(self.root / "console", "ab") as console:
            process = subprocess.Popen([self.root / "user-data"], env=settings, cwd="/", stdin=subprocess.DEVNULL, stdout=console,
                                       stderr=subprocess.STDOUT, start_new_session=True, **drop)
        self.processes.append(process)
        return process

    def wait(self, what: Callable[[], Any]) -> Any:
        """Until something on the machine's disk is so, which nobody is told of; its value."""
        end = time.monotonic() + PATIENCE
        while not (found := what()):
            assert time.monotonic() < end, (self.root / "console").read_text()
            time.sleep(0.02)
        return found

    def stop(self) -> None:
        for process in os.listdir("/proc"):  # the commands are in a group of their own; what they run says whose it is
            with contextlib.suppress(OSError, ValueError):
                if int(process) != os.getpid() and f"FLEETCTL_RUN={self.run}\0".encode() in Path("/proc", process, "environ").read_bytes():
                    os.kill(int(process), signal.SIGKILL)
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its own session: started so, above
            process.wait()


@pytest.fixture(params=["direct", "runuser"])
def machine(request: pytest.FixtureRequest, cloud: Cloud) -> Iterator[Machine]:
    """A machine of each kind: as the local cloud's, without root, and as EC2's, where cloud-init runs the script as root."""
    if request.param == "runuser" and os.getuid():
        pytest.skip("runuser needs root")
    # Not pytest's tmp_path: only its owner can go in there, and the machine's user is another one.
    root = Path(tempfile.mkdtemp(prefix="machine-"))
    for path in (root, root / "bin", root / "home"):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
    made = Machine(root, cloud, as_root=request.param == "runuser")
    made.put("shutdown", f'echo "$*" >>{root}/shutdown\n')  # never the host's own
    made.put("getent", f"echo 'nobody:x:65534:65534:nobody:{root}/home:/bin/bash'\n")  # its own home is not there
    (root / "host_key.pub").write_text(f"{KEY} root@somewhere\n")
    yield made
    made.stop()
    shutil.rmtree(root)
