"""The local cloud's one process: `python -m fleetctl.local.daemon --dir DIR [--idle SECONDS] [--region REGION]…`.

It serves AWS's protocols on 127.0.0.1, boots instances, and ends by SIGTERM or after `--idle` seconds without a call and without
instances. At its end every instance is gone and so are its files, but for the log if something went wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fleetctl.errors import LocalCloudError
from fleetctl.local import patches, seed, serverless, state
from fleetctl.local.httpd import Server

log = logging.getLogger(__name__)

CREDENTIAL_HOURS = 6   # life of what IMDS hands out, as on EC2


class Daemon:
    """The parts of a local cloud, made in order and taken apart in the reverse one."""

    def __init__(self, directory: Path, regions: Sequence[str], idle: float) -> None:
        self.directory, self.idle = directory, idle
        self._wanted = tuple(dict.fromkeys(regions))
        self.regions: dict[str, dict[str, Any]] = {}   # what there is in each, as the state file says it
        self._growing = threading.Lock()
        self._ready = False
        self.ended = threading.Event()
        self.server: Server | None = None

    def start(self) -> None:
        """Serve; returns when the state file is there."""
        started = time.time()
        images = self.directory / state.IMAGES
        seed.write_images(images)
        patches.prepare(images)
        from fleetctl.local.admin import Admin
        from fleetctl.local.calls import CallLog
        from fleetctl.local.ec2 import Wire
        from fleetctl.local.faults import Faults
        from fleetctl.local.gateway import Gateway
        from fleetctl.local.hypervisor import Hypervisor
        from fleetctl.local.instances import Instances
        from fleetctl.local.timers import Timers

        self.keys = {who: (prefix + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
                     for who, prefix in (("controller", "AKIA"), ("machine", "ASIA"), ("daemon", "AKIA"))}
        token, calls, faults, timers, lock = secrets.token_urlsafe(24), CallLog(), Faults(), Timers(), threading.RLock()
        self.timers = timers
        self.server = Server(lambda environ, answer: self.gateway(environ, answer))
        endpoint = f"http://127.0.0.1:{self.server.port}"

        def machines(exited: Any, gone: Any) -> Hypervisor:
            return Hypervisor(self.directory / state.INSTANCES, endpoint, on_exit=exited, on_gone=gone, credentials=self._credentials)

        self.instances = Instances(machines, faults, timers, lock)
        hypervisor: Any = self.instances.machines
        wire = Wire(self.instances, faults, timers, lock)
        patches.install(wire)
        serverless.install(serverless.Needs(self._client, endpoint, self.directory / state.FUNCTIONS, timers, faults))
        self.gateway = Gateway(self.regions, {id: who for who, (id, _) in self.keys.items()}, calls, faults,
                               Admin(token, self.regions, self.add_region, wire, calls))
        self.server.start()
        self._endpoint = endpoint
        id, secret = self.keys["controller"]
        self._state = {
            "pid": os.getpid(), "endpoint_url": endpoint, "region": self._wanted[0], "login_user": _login_user(), "key": seed.KEY,
            "key_file": str(self.directory / state.KEY), "access_key_id": id, "secret_access_key": secret, "token": token,
            "started": started, "weaker": hypervisor.weaker or ""}
        patches.add_region(self._wanted[0])
        self.regions[self._wanted[0]] = {}
        self._public_key = seed.key(self._client, self._wanted[0], self.directory / state.KEY)
        seed.account(self._client)
        for region in self._wanted:
            self.add_region(region)
        calls.forget()
        self._write()
        self._ready = True
        log.info("serving %s after %.2f s", endpoint, time.time() - started)

    def add_region(self, region: str) -> None:
        """Have this region too, furnished; nothing happens if it is there. Raises LocalCloudError for one that AWS has not."""
        with self._growing:
            if self.regions.get(region):
                return
            if region not in self.regions:
                patches.add_region(region)
                self.regions[region] = {}
            self.regions[region] = seed.furnish(self._client, region, self._public_key)
            if self._ready:
                self._write()

    def _write(self) -> None:
        state.write(self.directory, {**self._state, **self.regions[self._wanted[0]], "regions": self.regions})

    def wait(self) -> None:
        """Until a signal, or until it was idle for long enough."""
        while not self.ended.wait(self._left()):
            if self._left() <= 0:
                log.info("idle for %.0f s", self.idle)
                return

    def _left(self) -> float:
        if self.instances.live():
            return self.idle
        return self.gateway.last_call + self.idle - time.monotonic()

    def close(self) -> None:
        """End all, leave nothing; also after a start that failed half-way."""
        (self.directory / state.STATE).unlink(missing_ok=True)
        if self.server is not None:
            self.server.close()
        for part in (getattr(self, "timers", None), getattr(getattr(self, "instances", None), "machines", None)):
            if part is not None:
                part.close()
        for name in (state.KEY, state.IMAGES):
            (self.directory / name).unlink(missing_ok=True)
        for name in (state.INSTANCES, state.FUNCTIONS):
            shutil.rmtree(self.directory / name, ignore_errors=True)

    def _credentials(self, role: str) -> dict[str, str]:
        """Those of any role that there is. What its policies allow is not looked at here: moto's services let machines do everything."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.iam.models import iam_backends

        if role not in {one.name for one in list(iam_backends[DEFAULT_ACCOUNT_ID]["aws"].roles.values())}:
            raise KeyError(role)
        id, secret = self.keys["machine"]
        until = datetime.now(UTC) + timedelta(hours=CREDENTIAL_HOURS)
        return {"AccessKeyId": id, "SecretAccessKey": secret, "Token": "local", "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _client(self, service: str, region: str) -> Any:
        import boto3
        id, secret = self.keys["daemon"]
        return boto3.Session(id, secret, region_name=region).client(service, endpoint_url=self._endpoint)

    def __repr__(self) -> str:
        return f"<Daemon {self.directory} {' '.join(self.regions)}>"


def _login_user() -> str:
    import pwd
    return pwd.getpwuid(os.getuid()).pw_name


def main(arguments: list[str] | None = None) -> int:
    """Run until the end. 0: ended as asked; 1: it could not start; 3: another daemon has the directory."""
    parser = argparse.ArgumentParser(prog="python -m fleetctl.local.daemon")
    parser.add_argument("--dir", type=Path, default=None, help="where its files go (default: this user's)")
    parser.add_argument("--idle", type=float, default=1800.0, help="end after so many idle seconds")
    parser.add_argument("--region", action="append", help="a region to have, the first one being the usual one (us-east-1)")
    parser.add_argument("--ready-fd", type=int, default=None, help="write one line there when it serves")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    directory = (options.dir or state.default_directory()).absolute()
    lock = state.Lock(directory / state.LOCK)
    if not lock.acquire(wait=False):
        print(f"a local cloud runs in {directory} already", file=sys.stderr)
        return 3
    lock.write(str(os.getpid()))
    daemon = Daemon(directory, options.region or [seed.HOME], options.idle)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: daemon.ended.set())
    status = 1
    try:
        daemon.start()
        if options.ready_fd is not None:
            os.write(options.ready_fd, b"ready\n")
            os.close(options.ready_fd)
        daemon.wait()
        status = 0
    except LocalCloudError as error:
        print(error, file=sys.stderr)
    finally:
        daemon.close()
        if status == 0:
            (directory / state.LOG).unlink(missing_ok=True)
        lock.leave()
    return status


if __name__ == "__main__":
    sys.exit(main())
