"""Which grid a command line means: the same options for nodes and for those who look at them."""

from __future__ import annotations

from .store import Address, parse_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# name, kind, default, what it says, metavar: as app.Option has them
OPTIONS: list[tuple[str, type, Any, str, str]] = [
    ("host", str, "127.0.0.1", "the server", "HOST"),
    ("port", int, 6379, "its port", "PORT"),
    ("unix", str, "", "the server's unix socket, instead of host and port", "PATH"),
    ("url", str, "", "the server instead of all that: redis://, rediss:// (TLS) or unix://, with a user, without password", "URL"),
    ("namespace", str, "grid", "the grid's name on that server", "NAME"),
]


def address_of(options: dict[str, Any]) -> Address:
    """The server that these options mean. ValueError if the URL has a password."""
    if not options["url"]:
        return Address(options["host"], options["port"], path=options["unix"])
    address, password = parse_url(options["url"])
    if password:
        raise ValueError("--url: everybody on this machine can read a command line; the password belongs into $GRIDWORKER_SECRET_FILE")
    return address
