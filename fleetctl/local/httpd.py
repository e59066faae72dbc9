"""A small threaded HTTP/1.1 server for one WSGI application on loopback.

Why not werkzeug's: it closes every connection after one answer and then waits 10 ms for more input, which a hundred machines and
a polling controller pay at each call. Here connections are kept, a request is read whole before the application sees it
(so the next one starts at a known byte), and an answer leaves in one write.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote_to_bytes

log = logging.getLogger(__name__)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

LINE_LIMIT, HEADER_LIMIT = 65_536, 200
BODY_LIMIT = 256 * 1024 * 1024   # bytes; larger objects than a test needs


class BadRequest(Exception):
    """What the client sent is no HTTP, or too much of it. `status` is the answer."""

    def __init__(self, status: str) -> None:
        self.status = status
        super().__init__(status)


class Server(socketserver.ThreadingTCPServer):
    """Serves `application` on 127.0.0.1; port 0 chooses one, told by `port`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024   # a hundred machines report at once

    def __init__(self, application: Application, port: int = 0) -> None:
        self.application = application
        super().__init__(("127.0.0.1", port), Connection)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve, on a thread of its own."""
        threading.Thread(target=self._accept, name="server", daemon=True).start()

    def close(self) -> None:
        """Accept no more. Calls in progress end with the process."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)   # wakes the thread that accepts
        self.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, address = self.socket.accept()
            except OSError:
                return
            self.process_request(client, address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news; anything else is logged."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a connection broke")

    def __repr__(self) -> str:
        return f"<Server 127.0.0.1:{self.port}>"


class Connection(socketserver.StreamRequestHandler):
    """One client's connection, with one request after the other."""

    server: Server
    disable_nagle_algorithm = True
    rbufsize = 65_536

    def handle(self) -> None:
        """Answer until the client closes, or asks to."""
        try:
            while self._one():
                pass
        except BadRequest as bad:
            self._send(bad.status, [("Connection", "close")], b"")

    def _one(self) -> bool:
        """One request; False if the connection is to be closed."""
        first = self._line()
        if not first:
            return False
        try:
            method, target, version = first.split(" ")
        except ValueError:
            raise BadRequest("400 Bad Request") from None
        headers = self._headers()
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._chunked() if "chunked" in headers.get("transfer-encoding", "").lower() else self._sized(headers)
        status, passed, answer = self._ask(self._environ(method, target, version, headers, body))
        keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if not keep:
            passed.append(("Connection", "close"))
        self._send(status, passed, answer, bodiless=method == "HEAD")
        return keep

    def _line(self) -> str:
        line = self.rfile.readline(LINE_LIMIT + 1)
        if len(line) > LINE_LIMIT:
            raise BadRequest("431 Request Header Fields Too Large")
        return line.decode("latin-1").rstrip("\r\n")

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        while line := self._line():
            name, colon, value = line.partition(":")
            if not colon or len(headers) >= HEADER_LIMIT:
                raise BadRequest("400 Bad Request")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        return headers

    def _sized(self, headers: dict[str, str]) -> bytes:
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise BadRequest("400 Bad Request")
        return self._read(int(length))

    def _chunked(self) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                size = int(self._line().partition(";")[0], 16)
            except ValueError:
                raise BadRequest("400 Bad Request") from None
            if size == 0:
                break
            parts.append(self._read(size))
            self._line()
        while self._line():   # trailers
            pass
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        if not 0 <= size <= BODY_LIMIT:
            raise BadRequest("413 Content Too Large")
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the client went away")
        return body

    def _environ(self, method: str, target: str, version: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        path, _, query = target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "QUERY_STRING": query,
            "RAW_URI": target, "REQUEST_URI": target, "SERVER_PROTOCOL": version, "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.port), "REMOTE_ADDR": self.client_address[0], "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": headers.get("content-type", ""), "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False,
            "wsgi.run_once": False}
        for name, value in headers.items():
            if name not in ("content-length", "content-type", "transfer-encoding"):
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        return environ

    def _ask(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        answer: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            answer[:] = [status, list(headers)]
            return lambda data: None

        parts = self.server.application(environ, start)
        try:
            body = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        return answer[0], answer[1], body

    def _send(self, status: str, headers: list[tuple[str, str]], body: bytes, *, bodiless: bool = False) -> None:
        lines = [f"HTTP/1.1 {status}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in headers if not (name.lower() == "content-length" and not bodiless)]
        if not bodiless and status[:3] not in ("204", "304"):
            lines.append(f"Content-Length: {len(body)}")
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if bodiless else body))

    def __repr__(self) -> str:
        return f"<Connection of {self.client_address}>"
