"""The metadata service: its rules as pure functions, then over HTTP by curl and by botocore."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from botocore.utils import InstanceMetadataFetcher
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.local.boot import Boot
from fleetctl.local.imds import Metadata, parse_head

BOOT = Boot("i-0abc", "127.5.1.2", "m3.medium", "us-east-1b", "us-east-1", "ami-7", b"#!/bin/sh\n", ("ssh-ed25519 AAAA grid-key",),
            "grid", public_ip="127.5.1.2")
ISSUED = {"AccessKeyId": "ASIA1", "SecretAccessKey": "secret", "Token": "session", "Expiration": "2040-01-01T00:00:00Z"}
TTL, TOKEN = "x-aws-ec2-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token"


def metadata(boot: Boot = BOOT, roles: tuple[str, ...] = ("grid",)) -> Metadata:
    return Metadata(boot, dict.fromkeys(roles, ISSUED).__getitem__)


def look(service: Metadata, path: str) -> str | None:
    """What stands at a path, asked for as it should be; None for 404."""
    token = service.respond("PUT", "/latest/api/token", {TTL: "60"}, now=0.0).body.decode()
    reply = service.respond("GET", path, {TOKEN: token}, now=1.0)
    assert reply.status in (200, 404)
    return reply.body.decode() if reply.status == 200 else None


def test_tags_are_shown_as_they_are_at_the_moment_and_only_where_the_launch_wants_it() -> None:
    tags = {"Name": "a b", "fleetctl:held-by:one": "2030-01-01T00:00:00Z"}
    service = metadata(replace(BOOT, tags=lambda: tags))
    assert look(service, "/latest/meta-data/tags/instance/") == "Name\nfleetctl:held-by:one"
    assert look(service, "/latest/meta-data/tags/instance/Name") == "a b"
    del tags["fleetctl:held-by:one"]
    assert look(service, "/latest/meta-data/tags/instance") == "Name"
    assert look(service, "/latest/meta-data/tags/instance/fleetctl:held-by:one") is None
    assert look(metadata(), "/latest/meta-data/tags/instance/") is None


@pytest.mark.parametrize("path, text", [
    ("instance-id", "i-0abc"), ("local-ipv4", "127.5.1.2"), ("public-ipv4", "127.5.1.2"), ("public-hostname", "127.5.1.2"),
    ("instance-type", "m3.medium"), ("ami-id", "ami-7"), ("placement/availability-zone", "us-east-1b"), ("placement/region", "us-east-1"),
    ("instance-life-cycle", "spot"), ("public-keys/0/openssh-key", "ssh-ed25519 AAAA grid-key"), ("public-keys/", "0=grid-key"),
    ("iam/security-credentials/", "grid"), ("iam/security-credentials", "grid"), ("placement/", "availability-zone\nregion"),
])
def test_a_machine_learns_about_itself(path: str, text: str) -> None:
    assert look(metadata(), f"/latest/meta-data/{path}") == text
    assert look(metadata(), f"/2021-07-15/meta-data/{path}?x=1") == text


def test_listings_mark_directories() -> None:
    assert set((look(metadata(), "/latest/meta-data/") or "").split()) >= {"iam/", "placement/", "public-keys/", "instance-id"}
    assert (look(metadata(), "/latest/") or "").split() == ["dynamic/", "meta-data/", "user-data"]


@pytest.mark.parametrize("path", ["/latest/meta-data/nothing", "/latest/meta-data/instance", "/latest/meta-data/spot/instance-action",
                                  "/elsewhere/x"])
def test_what_is_not_there_is_404(path: str) -> None:
    assert look(metadata(), path) is None


def test_a_machine_without_address_role_or_user_data_has_none() -> None:
    bare = metadata(Boot("i-1", "127.5.1.3", "t3.micro", "z", "r", "ami", b"", (), None, spot=False))
    for path in ("meta-data/public-ipv4", "meta-data/public-hostname", "meta-data/iam/", "meta-data/public-keys/", "user-data"):
        assert look(bare, f"/latest/{path}") is None
    assert look(bare, "/latest/meta-data/instance-life-cycle") == "on-demand"


def test_user_data_and_identity_document() -> None:
    assert look(metadata(), "/latest/user-data") == "#!/bin/sh\n"
    identity = json.loads(look(metadata(), "/latest/dynamic/instance-identity/document") or "")
    assert (identity["instanceId"], identity["region"], identity["privateIp"]) == ("i-0abc", "us-east-1", "127.5.1.2")


def test_credentials_are_those_of_the_role_while_it_exists() -> None:
    path = "/latest/meta-data/iam/security-credentials/grid"
    found = json.loads(look(metadata(), path) or "")
    assert found.items() >= ISSUED.items()
    assert (found["Code"], found["Type"]) == ("Success", "AWS-HMAC")
    assert look(metadata(roles=()), path) is None


def test_an_interruption_notice_appears() -> None:
    service = metadata()
    at = "2030-01-01T00:00:00Z"
    service.interrupt("stop", at)
    assert look(service, "/latest/meta-data/spot/termination-time") is None
    service.interrupt("terminate", at)
    assert json.loads(look(service, "/latest/meta-data/spot/instance-action") or "") == {"action": "terminate", "time": at}
    assert look(service, "/latest/meta-data/spot/termination-time") == at


def test_a_recommendation_to_rebalance_is_no_notice() -> None:
    service = metadata()
    path = "/latest/meta-data/events/recommendations/rebalance"
    assert look(service, path) is None
    service.advise("2030-01-01T00:00:00Z")
    assert json.loads(look(service, path) or "") == {"noticeTime": "2030-01-01T00:00:00Z"}
    assert look(service, "/latest/meta-data/spot/instance-action") is None


@pytest.mark.parametrize("headers, status", [
    ({TTL: "1"}, 200), ({TTL: "21600"}, 200), ({}, 400), ({TTL: "0"}, 400), ({TTL: "21601"}, 400), ({TTL: "x"}, 400), ({TTL: "-5"}, 400),
    ({TTL: "9" * 5000}, 400), ({TTL: "60", "x-forwarded-for": "1.2.3.4"}, 403),
])
def test_a_token_needs_a_time_to_live_and_no_proxy(headers: dict[str, str], status: int) -> None:
    assert metadata().respond("PUT", "/latest/api/token", headers, 0.0).status == status


def test_without_a_valid_token_there_is_nothing() -> None:
    service = metadata()
    token = service.respond("PUT", "/latest/api/token", {TTL: "60"}, now=100.0).body.decode()
    others = metadata().respond("PUT", "/latest/api/token", {TTL: "60"}, now=100.0).body.decode()

    def status(token: str, now: float) -> int:
        return service.respond("GET", "/latest/meta-data/instance-id", {TOKEN: token}, now).status

    assert status(token, 159.9) == 200
    assert status(token, 160.0) == 401, "expired"
    assert status(others, 101.0) == 401, "issued by another machine"
    assert status("", 101.0) == status("gar bage", 101.0) == status(token[:-8] + "AAAAAAA=", 101.0) == 401


def test_other_methods_are_refused() -> None:
    for method, path in (("GET", "/latest/api/token"), ("POST", "/latest/meta-data/"), ("PUT", "/latest/meta-data/")):
        assert metadata().respond(method, path, {TTL: "60"}, 0.0).status == 405


@given(st.binary(max_size=300), st.text(max_size=60), st.text(max_size=100))
def test_nothing_a_client_sends_breaks_it(head: bytes, target: str, token: str) -> None:
    parsed = parse_head(head)
    assert parsed is None or len(parsed) == 4
    assert metadata().respond("GET", target, {TOKEN: token}, 0.0).status in (401, 404, 405)


@given(st.sampled_from(["GET", "PUT"]),
       st.dictionaries(st.sampled_from(["Host", "X-A", "x-b"]), st.from_regex(r"[!-~]{0,9}", fullmatch=True)))
def test_heads_are_read_as_they_are_written(method: str, headers: dict[str, str]) -> None:
    lines = [f"{method} /latest HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lowered = {name.lower(): value for name, value in headers.items()}
    assert parse_head("\r\n".join(lines).encode()) == (method, "/latest", "HTTP/1.1", lowered)


def curl(*args: str) -> str:
    return subprocess.run(["curl", "-sS", "--max-time", "10", *args], capture_output=True, text=True, check=True).stdout


def test_curl_gets_a_token_and_data_over_one_connection(lab: Any) -> None:
    boot = lab.boot()
    base = f"http://{boot.ip}:1338/latest"
    token = curl("-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", f"{base}/api/token")
    answer = curl("-H", f"X-aws-ec2-metadata-token: {token}", "-w", "\n%{http_code} %{num_connects}\n",
                  f"{base}/meta-data/instance-id", f"{base}/meta-data/placement/region")
    assert answer == f"{boot.instance_id}\n200 1\nus-east-1\n200 0\n"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{base}/meta-data/instance-id") == "401"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", f"{base}/api/token") == "400"


def test_botocore_finds_the_roles_credentials(lab: Any) -> None:
    lab.roles["grid"] = ISSUED
    boot = lab.boot(role="grid")
    found = InstanceMetadataFetcher(base_url=f"http://{boot.ip}:1338/", num_attempts=1).retrieve_iam_role_credentials()
    assert (found["role_name"], found["access_key"], found["token"]) == ("grid", "ASIA1", "session")


def test_each_machine_has_its_own_service_and_an_interruption_reaches_only_one(lab: Any) -> None:
    mail = lab.mailbox()
    ask = 'm=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest; ' \
          'get() { curl -sS -H "X-aws-ec2-metadata-token: $t" "$m/meta-data/$1"; }; ' \
          't=$(curl -sS -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" $m/api/token); '
    one = lab.boot(f"{ask} echo $(get instance-id) > {mail.path}")
    assert mail.hear() == one.instance_id
    other = lab.boot(f"{ask} echo $(get instance-id) > {mail.path}")
    assert mail.hear() == other.instance_id
    lab.hypervisor.interrupt(one.instance_id, "terminate", "2030-01-01T00:00:00Z")
    assert json.loads(lab.run(one, f"{ask} get spot/instance-action"))["action"] == "terminate"
    assert "404" in lab.run(other, f"{ask} get spot/instance-action")


def test_requests_glued_together_and_torn_apart_are_answered_in_order(lab: Any) -> None:
    boot = lab.boot()
    with socket.create_connection((boot.ip, 1338), timeout=10) as client:
        requests = b"PUT /latest/api/token HTTP/1.1\r\nContent-Length: 2\r\n\r\nxxGET /latest/ HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n"
        for part in (requests[:30], requests[30:60], requests[60:]):
            client.sendall(part)
        answer = b""
        while data := client.recv(65_536):
            answer += data
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"400", b"401", b"404"]


@pytest.mark.parametrize("request_, status", [(b"nonsense\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, b"431"),
                                              (b"PUT / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", b"413"),
                                              (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400")])
def test_what_is_not_a_small_request_is_refused_and_hung_up_on(lab: Any, request_: bytes, status: bytes) -> None:
    boot = lab.boot()
    with socket.create_connection((boot.ip, 1338), timeout=10) as client:
        client.sendall(request_)
        answer = b""
        while data := client.recv(65_536):
            answer += data
    assert answer.split(b" ", 2)[1] == status


def test_a_machine_that_is_switched_off_hangs_up(lab: Any) -> None:
    boot = lab.boot()
    with socket.create_connection((boot.ip, 1338), timeout=10) as client:
        client.sendall(b"GET /latest/ HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 401")
        lab.hypervisor.terminate(boot.instance_id)
        while client.recv(65_536):      # a connection that stayed open would time out here
            pass
    lab.wait("gone", boot)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((boot.ip, 1338), timeout=10)
