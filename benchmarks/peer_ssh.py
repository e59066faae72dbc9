"""One tool's turn in benchmarks/ssh.py: `echo` on all machines of standard input, cold and then warm. Exit code 77: not installed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MISSING = 77
WARM = 3  # times; the median counts


def timed(both: Callable[[], int], wanted: int) -> dict[str, Any]:
    """Cold, then warm; `both` runs echo on all machines and returns how many have answered."""
    times, answered = [], []
    for _ in range(1 + WARM):
        began = time.perf_counter()
        answered.append(both())
        times.append(time.perf_counter() - began)
    return {"cold_s": times[0], "warm_s": sorted(times[1:])[WARM // 2], "ok": set(answered) == {wanted}}


def ours(told: dict[str, Any]) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import asyncssh  # noqa: F401  its import is not what is measured

    from fleetctl import hosts

    named = [{"name": str(number), "host": host, "port": port, "user": user, "host_key": key}
             for number, (host, port, user, key) in enumerate(told["machines"])]  # fmt: skip
    with hosts(named, key_file=told["key"], config="") as machines:
        return timed(lambda: sum(done.stdout == "hello\n" for done in machines.run("echo hello").result().succeeded.values()), len(named))


def bare(told: dict[str, Any]) -> dict[str, Any]:
    import asyncssh

    loop, connections = asyncio.new_event_loop(), {}

    async def one(host: str, port: int, user: str) -> bool:
        if (host, port) not in connections:
            connections[host, port] = await asyncssh.connect(host, port, username=user, client_keys=[told["key"]], config=None,
                                                             known_hosts=told["known_hosts"], agent_path=None)  # fmt: skip
        return (await connections[host, port].run("echo hello")).stdout == "hello\n"

    async def both() -> int:
        return sum(await asyncio.gather(*(one(host, port, user) for host, port, user, _ in told["machines"])))

    return timed(lambda: loop.run_until_complete(both()), len(told["machines"]))


def fabric(told: dict[str, Any]) -> dict[str, Any]:
    import paramiko
    from fabric import Connection, ThreadingGroup

    made = []
    for host, port, user, _ in told["machines"]:
        connection = Connection(host, user=user, port=port, connect_kwargs={"key_filename": told["key"], "look_for_keys": False,
                                                                            "allow_agent": False})  # fmt: skip
        connection.client.load_host_keys(told["known_hosts"])
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        made.append(connection)
    group = ThreadingGroup.from_connections(made)
    return timed(lambda: sum(done.stdout == "hello\n" for done in group.run("echo hello", hide=True).values()), len(made))


def ansible(told: dict[str, Any]) -> dict[str, Any]:
    program = Path(sys.executable).with_name("ansible")
    if not program.exists():
        raise ImportError("ansible")
    directory = Path(told["directory"])
    inventory = directory / "inventory"
    inventory.write_text("".join(f"m{number} ansible_host={host} ansible_port={port} ansible_user={user}\n"
                                 for number, (host, port, user, _) in enumerate(told["machines"])))  # fmt: skip
    options = f"-o UserKnownHostsFile={told['known_hosts']} -o ControlMaster=auto -o ControlPersist=60s"
    control = Path(f"/tmp/bench-{os.getpid()}")  # sockets' names are short
    control.mkdir(mode=0o700)
    command = [program, "all", "-i", inventory, "-f", "100", "-m", "raw", "-a", "echo hello", "--private-key", told["key"],
               f"--ssh-common-args={options}"]  # fmt: skip
    own = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(control), "ANSIBLE_HOME": str(directory / "ansible"), "LC_ALL": "C.UTF-8"}
    environment = {**os.environ, **own}

    def both() -> int:
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return ran.stdout.count("rc=0")

    try:
        return timed(both, len(told["machines"]))
    finally:
        for socket in control.iterdir():
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "x"], capture_output=True, check=False)
        shutil.rmtree(control, ignore_errors=True)


def main() -> None:
    """The turn of the tool that is named."""
    told = json.loads(sys.stdin.read())
    try:
        print(json.dumps({"fleetctl": ours, "asyncssh": bare, "fabric": fabric, "ansible": ansible}[sys.argv[1]](told)))
    except ImportError:
        raise SystemExit(MISSING) from None


if __name__ == "__main__":
    main()
