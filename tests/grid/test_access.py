"""Who may do what at the server: access control lists, TLS, and passwords that show nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grid_calls as calls
import pytest
from grid_lab import Lab, until

from gridworker import Grid, GridDenied, GridUnreachable
from gridworker.server import Server, found, free_port
from gridworker.store import Address, Connection, parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator

RIGHTS = ["-@all", "+@all", "-@admin", "-@dangerous", "+client|setname"]


@pytest.fixture
def restricted(lab: Lab) -> Iterator[Lab]:
    """A lab whose nodes and clients are a user of the server that may touch the grid's keys and nothing else."""
    connection = lab.connection()
    connection.call("ACL", "SETUSER", "grid", "on", ">itspassword", "resetkeys", f"~{lab.keys.prefix}*", *RIGHTS)
    lab.secret.write_text(f"itspassword {lab.key}\n")
    lab.address = Address(path=lab.server.address.path, user="grid")
    try:
        yield lab
    finally:
        connection.call("ACL", "DELUSER", "grid")
        connection.close()


def test_a_user_with_rights_to_the_grids_keys_only_is_enough(restricted: Lab) -> None:
    restricted.start("--distributor", "pool", "--helper", "50")
    restricted.workers(2)
    grid = restricted.client(password="itspassword")
    assert grid.request("pool", calls.tree, 4, "a").result(20) == 65
    answer = grid.request("pool", calls.aio_sleeps, str(restricted.directory / "notes"))
    assert answer.cancel()
    connection = Connection(restricted.address, "itspassword")
    connection.connect()
    with pytest.raises(GridDenied):
        connection.call("SET", "another:key", "x")
    with pytest.raises(GridDenied):
        connection.call("CONFIG", "GET", "*")
    connection.close()


def test_a_wrong_password_of_a_user_is_denied(restricted: Lab) -> None:
    with pytest.raises(GridDenied), restricted.client(password="wrong"):
        pass


@pytest.mark.parametrize("url", ["redis://ann@h:7000/2", "rediss://ann@h:6379/0?ca=/a.pem", "unix://ann@/tmp/s", "redis://h:6379/0"])
def test_an_address_is_the_url_it_was_made_from_without_password(url: str) -> None:
    assert parse_url(url)[0].url == url
    secret = url.replace("ann@", "ann:se%2Fcret@")
    address, password = parse_url(secret)
    assert address.url == url
    assert password == (None if secret == url else "se/cret")
    assert "se" not in repr(address).replace("rediss", "")


def test_a_password_on_the_command_line_is_refused(lab: Lab) -> None:
    result = subprocess.run(lab.command("--url", "redis://:secret@127.0.0.1:1/0", "--worker", "1"), env=lab.environment(),
                            capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    assert "the password belongs into $GRIDWORKER_SECRET_FILE" in result.stderr + result.stdout


def test_no_process_list_log_or_repr_shows_a_secret(tmp_path: Path) -> None:
    with Server(unix=True, directory=tmp_path / "server") as server:
        lab = Lab(server, tmp_path)
        secrets = [server.password.encode(), lab.key.encode()]
        try:
            lab.start("--distributor", "pool", "--log", "debug")
            worker = lab.workers(1)
            grid = lab.client()
            with pytest.raises(ZeroDivisionError) as caught:
                grid.request("pool", calls.divide, 1, 0).result(20)
            told = [repr(grid), repr(grid.status()), repr(grid._commands), repr(grid.seal), repr(server), str(caught.value)]
            connection = lab.connection()
            told += [repr(connection.call("HGETALL", lab.keys.nodes)), repr(connection.call("CLIENT", "LIST"))]
            connection.close()
            shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
            shown += [path.read_bytes() for path in tmp_path.rglob("*.log")]
            assert any(str(server.directory).encode() in line for line in shown)
            assert Path(f"/proc/{worker.pid}/cmdline").exists()
        finally:
            lab.close()
    for secret in secrets:
        assert not any(secret in line for line in shown)
        assert not any(secret.decode() in line for line in told)


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:         # it has ended meanwhile
        return False


def speaks_tls(binary: Path) -> bool:
    """Whether a server binary was built with TLS: only then does it miss the key."""
    tried = subprocess.run([str(binary), "--tls-port", "1", "--tls-cert-file", "/nowhere", "--port", "0"], capture_output=True, text=True,
                           timeout=20, check=False)
    return "Failed to configure TLS" in tried.stdout + tried.stderr


@pytest.fixture(params=["no", "yes"], ids=["any client", "clients with a certificate"])
def encrypted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    """A server that listens for TLS, and the URL; one takes any client, one only those whose certificate the authority has signed."""
    binary = next(filter(speaks_tls, found()), None)
    if not (openssl := shutil.which("openssl")) or binary is None:
        pytest.skip("no server with TLS, or no openssl to make a certificate")

    def run(*words: Any) -> None:
        subprocess.run([openssl, *map(str, words)], check=True, capture_output=True, cwd=tmp_path, timeout=60)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for who in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{who}.key", "-out", "request.pem", "-subj", "/CN=127.0.0.1")
        run("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{who}.pem", "-days",
            "2", "-extfile", "names")
    port = free_port()
    options = {"tls-port": str(port), "tls-cert-file": str(tmp_path / "server.pem"), "tls-key-file": str(tmp_path / "server.key"),
               "tls-ca-cert-file": str(tmp_path / "ca.pem"), "tls-auth-clients": request.param}
    own = f"&cert={tmp_path / 'client.pem'}&key={tmp_path / 'client.key'}" if request.param == "yes" else ""
    with Server(directory=tmp_path / "server", options=options, binary=binary) as server:
        yield server, f"rediss://127.0.0.1:{port}/0?ca={tmp_path / 'ca.pem'}{own}"


def test_a_grid_over_tls(encrypted: tuple[Server, str], tmp_path: Path) -> None:
    server, url = encrypted
    lab = Lab(server, tmp_path)
    lab.address = parse_url(url)[0]
    try:
        lab.workers(2)
        grid = lab.client()
        assert grid.requests("pool", [(calls.inc, i) for i in range(3000)]).result(30) == list(range(1, 3001))
        assert grid.request("pool", calls.length, os.urandom(3_000_000)).result(30) == 3_000_000
        assert grid.request("pool", calls.tree, 4, "a").result(30) == 65
    finally:
        lab.close()


def test_a_server_that_nobody_vouches_for_is_denied(encrypted: tuple[Server, str]) -> None:
    server, url = encrypted
    with pytest.raises(GridDenied, match=r"the certificate of 127\.0\.0\.1 is not good"):
        Grid.connect(url.partition("?")[0], password=server.password).__enter__()


def test_a_server_that_wants_a_certificate_does_not_take_a_client_without(encrypted: tuple[Server, str]) -> None:
    server, url = encrypted
    without = url.partition("&")[0]
    if without == url:
        with Grid.connect(without, password=server.password):
            return
    with pytest.raises(GridUnreachable), Grid.connect(without, password=server.password):
        pass


def test_the_connection_of_a_tls_client_ends_cleanly(encrypted: tuple[Server, str]) -> None:
    server, url = encrypted
    grid = Grid.connect(url, password=server.password)
    with grid:
        assert "rediss" in repr(grid)
    connection = server.connection()
    until(lambda: grid.name not in connection.call("CLIENT", "LIST").decode(), "the server to see it gone")
    connection.close()
