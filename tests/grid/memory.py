"""A store in memory for the contract suite: fakeredis' commands, and a real Lua that runs the product's scripts. No process, no socket.

It knows no memory limit, no disk, no password and nobody who blocks; what is about those is tested with servers.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from fakeredis import FakeRedisConnection, FakeServer
from redis.exceptions import RedisError

from gridworker.store import Address, Connection, Script, ServerError


class _Connection(Connection):
    """The product's connection, on fakeredis instead of a socket."""

    def __init__(self, store: FakeServer) -> None:
        super().__init__(Address())
        self._fake = FakeRedisConnection(server=store, protocol=2)
        self._fake.connect()

    def send(self, data: bytes) -> None:
        self._fake.get_socket().sendall(data)

    def _next(self) -> Any:
        try:
            return self._fake.read_response()
        except RedisError as error:
            return ServerError(str(error))

    def run(self, script: Script, keys: tuple[str, ...], arguments: list[Any]) -> Any:
        text = b"-- " + script.text if script.text.startswith(b"#!") else script.text     # flags are about the memory limit
        return self.call("EVAL", text, len(keys), *keys, *arguments)

    def close(self) -> None:
        self._fake.disconnect()


class Memory:
    """As much of a `Server` as the contract suite asks for."""

    def __init__(self) -> None:
        self._store = FakeServer(server_type="redis", version=(7, 0))

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        pass

    def connection(self) -> Connection:
        """An open connection to it."""
        return _Connection(self._store)
