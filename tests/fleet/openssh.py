"""Debian's OpenSSH server for tests: a process with keys, a port and a configuration of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = "OpenSSH's server is not installed: apt-get install openssh-server (where CI is set, `make test` does it)"


class Server:
    """One sshd on a free port of the loopback. `key` is what logs in there, `host_key` its own public key."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True)
        self.directory, self.user = directory, getpass.getuser()
        self.key, self._key_file, self.log = directory / "id", directory / "host", directory / "log"
        for path in (self.key, self._key_file):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        self.host_key = " ".join(Path(f"{self._key_file}.pub").read_text().split()[:2])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._options, self._process = options, None
        self.start()

    def start(self) -> None:
        config = self.directory / "config"
        lines = [f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self._key_file}", f"AuthorizedKeysFile {self.key}.pub",
                 "PidFile none", "StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no",
                 "PermitRootLogin prohibit-password", "Subsystem sftp internal-sftp", "LogLevel VERBOSE",
                 # what the login shell of whoever runs the tests does is none of theirs
                 f"SetEnv HOME={self.directory} FLEETCTL_STATE_DIR={self.directory}/state",
                 *self._options]
        config.write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it confines its unprivileged part; made at boot on other machines
        with self.log.open("a") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as talk:
                    assert talk.recv(8).startswith(b"SSH-2.0")
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < until, self.log.read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def known(self, key: str | None = None) -> Path:
        """A file known_hosts with its key, or another one."""
        path = self.directory / "known_hosts"
        path.write_text(f"[127.0.0.1]:{self.port} {key or self.host_key}\n")
        return path

    @property
    def said(self) -> dict:
        """What `hosts` is told of it, but for its key."""
        return {"host": "127.0.0.1", "port": self.port, "user": self.user, "key_file": self.key, "config": ""}


@pytest.fixture
def openssh(tmp_path):
    """Makes servers, with options of sshd_config(5); they end with the test."""
    if SSHD is None:
        pytest.skip(MISSING)
    made = []

    def make(*options):
        made.append(Server(tmp_path / f"sshd-{len(made)}", *options))
        return made[-1]

    yield make
    for server in made:
        server.stop()
