"""The HTTP server by itself, with an application that tells what it got."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl.local.httpd import Server


def echo(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read().decode()
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], body,
                        environ.get("HTTP_X_A", "")]).encode()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(echo)
    made.start()
    yield made
    made.close()


class Client:
    """A raw connection: bytes out, answers in."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, text: str | bytes) -> None:
        self.socket.sendall(text if isinstance(text, bytes) else text.encode())

    def answer(self) -> tuple[str, dict[str, str], bytes]:
        status = self.file.readline().decode().strip()
        headers = dict(line.decode().strip().split(": ", 1) for line in iter(self.file.readline, b"\r\n"))
        return status, headers, self.file.read(int(headers.get("Content-Length", 0)))

    def echoed(self) -> list[str]:
        found: list[str] = json.loads(self.answer()[2])
        return found


def test_one_connection_serves_many_requests_also_when_they_come_at_once(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /a?b=c HTTP/1.1\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
                    "POST /%2Fd HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET /e HTTP/1.1\r\n\r\n")
        assert client.echoed() == ["GET", "/a", "b=c", "", "1,2"]
        assert client.echoed() == ["POST", "//d", "", "xyz", ""]
        assert client.echoed() == ["GET", "/e", "", "", ""]


def test_a_chunked_body_is_put_together(server: Server) -> None:
    with Client(server) as client:
        client.send("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\nGET /next HTTP/1.1\r\n\r\n")
        assert client.echoed()[3] == "abcde"
        assert client.echoed()[1] == "/next"


def test_who_expects_100_continue_gets_it_before_sending_the_body(server: Server) -> None:
    with Client(server) as client:
        client.send("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.file.readline() + client.file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send("ok")
        assert client.echoed()[3] == "ok"


def test_head_has_no_body_and_close_closes(server: Server) -> None:
    with Client(server) as client:
        client.send("HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert "Content-Length" not in client.answer()[1]
        assert client.answer()[1]["Connection"] == "close"
        assert client.file.read() == b""


@pytest.mark.parametrize(("sent", "status"), [
    ("NONSENSE\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
    ("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
    ("PUT / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", "413"),
    ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400"),
    ("GET / HTTP/1.1\r\nLong: " + "x" * 70_000 + "\r\n\r\n", "431"),
])
def test_what_is_no_request_is_answered_and_closed(server: Server, sent: str, status: str) -> None:
    with Client(server) as client:
        client.send(sent)
        assert client.file.readline().split()[1] == status.encode()


def test_a_client_that_goes_away_leaves_the_server_alone(server: Server) -> None:
    with Client(server) as client:
        client.send("PUT / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
    with Client(server) as client:
        client.send("GET /still HTTP/1.1\r\n\r\n")
        assert client.echoed()[1] == "/still"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300), st.integers(1, 7))
def test_any_body_arrives_whole_in_one_piece_or_in_chunks(server: Server, text: str, size: int) -> None:
    body = text.encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size))
    with Client(server) as client:
        client.send(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert client.echoed()[3] == text
        client.send(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks)
        assert client.echoed()[3] == text
