"""A real server for each test process, a namespace for each test, and real worker processes that end with the test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridworker import Grid
from gridworker.server import Server
from gridworker.store import Connection

sys.path.insert(0, str(Path(__file__).parent))     # grid_calls is imported by the same name here and on the workers

from grid_lab import Lab


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server(unix=True) as server:
        yield server


@pytest.fixture
def lab(server: Server, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(server, tmp_path)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def grid(lab: Lab) -> Grid:
    """A client of a grid with two workers."""
    lab.workers(2)
    return lab.client()


@pytest.fixture
def connection(lab: Lab) -> Iterator[Connection]:
    """One to the server of the lab."""
    connection = lab.connection()
    yield connection
    connection.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lab]:
    """A lab with a server of its own, which it may fill, empty and start again."""
    with Server(unix=True, directory=tmp_path / "server") as server:
        lab = Lab(server, tmp_path)
        try:
            yield lab
        finally:
            lab.close()
