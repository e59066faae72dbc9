"""The floors, measured like everything else: what the machine, Python's sockets and the server take without any task layer."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import hiredis
from bench_systems import HERE
from bench_workloads import Row, Scale

ECHO = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := connection.recv(65536):
    connection.sendall(data)
"""


def pack(*words: Any) -> bytes:
    """A command in the protocol's form."""
    packed: bytes = hiredis.pack_command(words)
    return packed


class Raw:
    """A socket and hiredis' parser: nothing is faster in Python."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def receive(self) -> Any:
        """The next reply."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self.socket.recv(1 << 20))
        return reply

    def call(self, *words: Any) -> Any:
        """A command and its reply."""
        return self.exchange(pack(*words))

    def exchange(self, packed: bytes, replies: int = 1) -> Any:
        """Packed commands, and the last of their replies."""
        self.socket.sendall(packed)
        for _ in range(replies):
            reply = self.receive()
        return reply


def times_us(action: Callable[[], object], count: int) -> tuple[float, float]:
    """Median and 99th percentile of an action's time in microseconds, warmed up."""
    for _ in range(count // 10):
        action()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times), 1e6 * statistics.quantiles(times, n=100)[98]


def per_second(action: Callable[[], object], count: int, each: int = 1) -> float:
    """How often a second, where one action does `each` things."""
    began = time.perf_counter()
    for _ in range(count):
        action()
    return count * each / (time.perf_counter() - began)


def measure(port: int, scale: Scale) -> Row:
    """All floors at a server without password."""
    raw, row, count = Raw(port), {}, scale.of(3000, 100)
    echo = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    assert echo.stdout is not None
    with socket.create_connection(("127.0.0.1", int(echo.stdout.readline()))) as link, echo.stdout:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        row["rtt_python_socket_echo_us"], _ = times_us(lambda: link.recv(64) if link.send(b"x" * 32) else None, count)
    echo.wait()
    raw.call("SET", "k", b"v" * 32)
    row["rtt_raw_socket_us"], _ = times_us(lambda: raw.call("GET", "k"), count)
    row["queue_ping_pong_us"], row["queue_ping_pong_p99_us"] = _ping_pong(port, raw, count)
    hundred = pack("LPUSH", "l", *[b"v" * 64] * 100)
    row["lpush_variadic100_items_per_s"] = per_second(lambda: raw.exchange(hundred), count, 100)
    row["lmpop100_items_per_s"] = per_second(lambda: raw.call("LMPOP", 1, "l", "RIGHT", "COUNT", 100), count, 100)
    noop = raw.call("SCRIPT", "LOAD", "return 1")
    row["evalsha_noop_sync_per_s"] = per_second(lambda: raw.call("EVALSHA", noop, 0), count)
    many = pack("EVALSHA", noop, 0) * 100
    row["evalsha_noop_pipeline100_per_s"] = per_second(lambda: raw.exchange(many, 100), count // 10, 100)
    big = os.urandom(1 << 20)
    head = b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$1048576\r\n"

    def there_and_back() -> None:
        raw.socket.sendmsg([head])
        raw.socket.sendall(big)
        raw.socket.sendall(b"\r\n")
        raw.receive()
        assert len(raw.call("GET", "big")) == len(big)

    row["set_get_1MiB_raw_MB_per_s"] = per_second(there_and_back, scale.of(200, 10)) * 2 * len(big) / 1e6
    raw.call("FLUSHALL")
    raw.socket.close()
    return row


def _ping_pong(port: int, raw: Raw, count: int) -> tuple[float, float]:
    """Another process pops what is pushed and pushes an answer: one queued call without a task layer."""
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench_limits; bench_limits.pong({port})"
    other = subprocess.Popen([sys.executable, "-c", program])

    def ping() -> None:
        raw.exchange(pack("RPUSH", "a", "x") + pack("BLPOP", "b", 5), 2)

    try:
        return times_us(ping, count)
    finally:
        raw.call("RPUSH", "a", "stop")
        other.wait()


def pong(port: int) -> None:
    """The other process."""
    raw = Raw(port)
    while (got := raw.call("BLPOP", "a", 5)) is not None and got[1] != b"stop":
        raw.call("RPUSH", "b", "x")
