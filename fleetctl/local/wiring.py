"""Starting, finding and ending the local cloud's daemon, and asking it about itself; standard library only.

The daemon is a detached process: own session, no stdin, its output in its log. `up` learns that it serves from one
line on a pipe, so nobody polls and nobody sleeps.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetctl.errors import LocalCloudError
from fleetctl.local import state

START_SECONDS = 60.0  # a second or two, but on a crowded computer
END_SECONDS = 20.0


@dataclass(frozen=True)
class LocalCloud:
    """A running local cloud as seen from one of its regions: what its state file says, and a few questions to its daemon.

    `regions` are all that it has; `region` is this one, and subnets, groups and image are this one's. `subnets` has "public", "private"
    and, by the letters of the other zones, "public-b" and "public-c"; `groups` has "default"; `key_file` is the private half of `key`.
    `weaker` says in words what holds less well here than on Linux with user namespaces; '' where all does.
    """

    directory: Path
    pid: int
    endpoint_url: str
    region: str
    subnets: Mapping[str, str]
    groups: Mapping[str, str]
    image: str
    key: str
    key_file: Path
    instance_profile: str
    login_user: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str = field(repr=False)
    started: float = 0.0
    weaker: str = ""
    regions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def in_region(self, region: str) -> LocalCloud:
        """The same cloud as seen from another of its regions. Raises LocalCloudError if it has no such."""
        if region not in self.regions:
            raise LocalCloudError(f"the local cloud has the region {', '.join(self.regions)} only, not {region}",
                                  todo=f"local.up(regions=({region!r},)) adds it")
        return replace(self, region=region, **self.regions[region])

    def client(self) -> dict[str, str]:
        """The arguments with which `boto3.client(service, **…)` talks to this cloud."""
        return {"endpoint_url": self.endpoint_url, "region_name": self.region,
                "aws_access_key_id": self.access_key_id, "aws_secret_access_key": self.secret_access_key}

    def calls(self, since: int = 0) -> dict[str, Any]:
        """What was called after `since`: `{"mark": n, "calls": {caller: {service: {operation: count}}}, "launches": …}`.

        Callers are "controller", "machine" and "other"; pass a `mark` as the next `since`.
        """
        return self._ask("GET", f"/_fleetctl/calls?since={since}")

    def inventory(self, region: str | None = None) -> dict[str, Any]:
        """Everything that exists and could cost, in one region or in all: instances, spot requests, volumes, fleets, queues, …,
        buckets, and processes by instance."""
        return self._ask("GET", f"/_fleetctl/inventory{f'?region={region}' if region else ''}")

    def fault(self, kind: str, **settings: Any) -> int:
        """Break something, as `fleetctl.local.faults.KINDS` lists it; returns the fault's number."""
        return int(self._ask("POST", "/_fleetctl/faults", {"kind": kind, **settings})["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, each with how often it `hit`."""
        found: list[dict[str, Any]] = self._ask("GET", "/_fleetctl/faults")["faults"]
        return found

    def clear_faults(self) -> None:
        """Mend everything; spot requests that waited for capacity are evaluated again."""
        self._ask("DELETE", "/_fleetctl/faults")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        where = urlsplit(self.endpoint_url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise LocalCloudError(f"the local cloud at {self.endpoint_url} does not answer: {error}",
                                  todo=f"look into {self.directory / state.LOG}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise LocalCloudError(f"the local cloud refused {method} {path}: {answer.get('error', answer)}")
        return answer


def status(directory: Path | None = None) -> LocalCloud | None:
    """The local cloud that runs in `directory` (default: this user's), or None."""
    directory = directory or state.default_directory()
    found = state.read(directory)
    if found is None:
        return None
    known = {f.name for f in fields(LocalCloud)}
    values = {key: value for key, value in found.items() if key in known}
    return LocalCloud(**{**values, "directory": directory, "key_file": Path(found["key_file"])})


def up(directory: Path | None = None, *, idle: float = 1800.0, regions: Sequence[str] = ("us-east-1",)) -> LocalCloud:
    """Start the local cloud of `directory` unless it runs, and return it once it serves, as seen from the first of `regions`.

    One that runs gets those of the regions that it has not. `idle`: seconds without any call and without instances after which it
    ends itself. Raises LocalCloudError, with the end of the daemon's log, if it does not start. Callers in other processes and threads
    get the same cloud.
    """
    directory = (directory or state.default_directory()).absolute()
    with state.starting(directory):
        running = status(directory)
        if running is None:
            _spawn(directory, ["--idle", str(idle), *(option for region in regions for option in ("--region", region))])
            running = status(directory)
        elif missing := [region for region in regions if region not in running.regions]:
            for region in missing:
                running._ask("POST", "/_fleetctl/regions", {"region": region})
            running = status(directory)
    if running is None:
        raise _failed(directory, "it ended right after its start")
    return running.in_region(regions[0])


def down(directory: Path | None = None, *, force: bool = False) -> bool:
    """End the local cloud of `directory`; False if none runs.

    Raises LocalCloudError while instances live, unless `force`.
    """
    cloud = status(directory)
    if cloud is None:
        return False
    living = [i["id"] for i in cloud.inventory()["instances"]]
    if living and not force:
        raise LocalCloudError(f"the local cloud has {len(living)} instance(s)", left=living, todo="tear them down, or force it")
    with state.watching(cloud.directory) as gone:
        os.kill(cloud.pid, signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        while not gone():   # a lock's end can't be awaited with a deadline
            if time.monotonic() <= deadline:
                time.sleep(0.01)
                continue
            raise LocalCloudError(f"the daemon {cloud.pid} of the local cloud does not end", left=[f"process {cloud.pid}"],
                                  todo=f"look into {cloud.directory / state.LOG}, then kill it")
    _reap(cloud.pid)
    return True


def _spawn(directory: Path, options: list[str]) -> None:
    """Start the daemon and wait for its line on the pipe, which closes if the daemon dies."""
    reading, writing = os.pipe()
    try:
        fd = os.open(directory / state.LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "fleetctl.local.daemon", "--dir", str(directory), "--ready-fd", str(writing), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=[writing], cwd=directory)
        os.close(writing)
        writing = -1
        readable, _, _ = select.select([reading], [], [], START_SECONDS)
        ready = os.read(reading, 64) if readable else b""
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if ready != b"ready\n":
        daemon.kill()
        daemon.wait()
        raise _failed(directory, "it did not start" if readable else f"it was not ready within {START_SECONDS:.0f} s")
    daemon.returncode = 0   # it is meant to outlive this object, which otherwise warns about that


def _reap(pid: int) -> None:
    """If the ended daemon was this process's child, take its exit status, so that no zombie stays."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def _failed(directory: Path, what: str) -> LocalCloudError:
    log = directory / state.LOG
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:]) if log.exists() else ""
    return LocalCloudError(f"the local cloud: {what}\n{tail}", todo=f"look into {log}")
