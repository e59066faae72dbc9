"""TLS to the server. Imported only where an address asks for it: OpenSSL costs a process several ms and megabytes.

A client's connection is written by the thread that asks and read by another. OpenSSL does not allow that at the same time, so both take
turns; whoever reads does so when something has come, and does not keep the other waiting.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import nullcontext
from typing import Any

from .errors import GridDenied


class _InTurn(ssl.SSLSocket):
    """A TLS socket for two threads."""

    lock: threading.Lock | None = None      # none during the handshake

    def recv(self, *arguments: Any) -> bytes:
        """As the socket's, in turn."""
        with self.lock or nullcontext():
            return super().recv(*arguments)

    def sendall(self, *arguments: Any) -> None:
        """As the socket's, in turn."""
        with self.lock or nullcontext():
            super().sendall(*arguments)


def wrap(sock: socket.socket, host: str, options: dict[str, str]) -> socket.socket:
    """The TLS connection over a connected socket. The server's certificate is checked, always.

    `options`: "ca" (file of the authorities that are trusted, instead of the system's), "cert" and "key" (files, for servers that demand a
    client's certificate). Raises GridDenied if the certificate is not good, OSError as sockets do.
    """
    context = ssl.create_default_context(cafile=options.get("ca"))
    context.sslsocket_class = _InTurn
    if options.get("cert"):
        context.load_cert_chain(options["cert"], options.get("key"))
    try:
        wrapped = context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise GridDenied(f"the certificate of {host} is not good: {error.verify_message}") from error
    assert isinstance(wrapped, _InTurn)
    wrapped.lock = threading.Lock()
    return wrapped
