"""A command on many machines at once: fleetctl beside asyncssh used bare, Fabric and Ansible, on the same machines.

    python benchmarks/ssh.py [--json FILE] [--machines 100] [--rounds 5] [--peers PYTHON]

The machines are a local cloud's, each with an SSH server of its own; all of those are in one process on this computer, whose work is in
every figure. In each round every tool has its turn, in a process of its own, with host keys checked: `cold` is `echo` on all machines with
all that it takes to connect, `warm` the same again over what is open then (Ansible: its control sockets). The start of a tool's Python is
in neither, but for Ansible, which starts anew each time. Shown are medians; `ok` says that every machine answered, every time. `--peers` is
the interpreter of an environment in which Fabric and ansible-core are installed (default: this one); what is missing is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fleetctl import bring_up_spots, local, profiles, teardown_all  # noqa: E402
from fleetctl.session import Session  # noqa: E402

TOOLS = ("fleetctl", "asyncssh", "fabric", "ansible")
OURS = ("fleetctl", "asyncssh")  # run by this interpreter
REQUEST = {"SpotPrice": "0.10", "LaunchSpecification": {"InstanceType": "t3.micro"}}


def machines(session: Session, n: int, directory: Path) -> dict[str, Any]:
    """Brings machines up; what a tool must know to reach them."""
    up = bring_up_spots(REQUEST, n, "true", minutes=20, session=session).result().succeeded
    known = directory / "known_hosts"
    known.write_text("".join(f"[{one.public_ip or one.host or one.ip}]:{one.ssh_port} {one.ssh_key}\n" for one in up))
    return {
        "known_hosts": str(known),
        "key": str(session.key_file),
        "directory": str(directory),
        "machines": [[one.public_ip or one.host or one.ip, one.ssh_port, one.user, one.ssh_key] for one in up],
    }


def measure(tool: str, told: dict[str, Any], python: str) -> dict[str, Any] | None:
    """One turn of a tool; None where it is not installed."""
    ran = subprocess.run([python, str(ROOT / "benchmarks" / "peer_ssh.py"), tool], input=json.dumps(told), text=True, capture_output=True,
                         timeout=600, check=False)
    if ran.returncode == 77:
        return None
    if ran.returncode:
        raise SystemExit(f"{tool} failed:\n{ran.stderr[-4000:]}")
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path)
    options.add_argument("--machines", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default=",".join(TOOLS))
    options.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    chosen = options.parse_args()
    tools = chosen.only.split(",")
    if unknown := set(tools) - set(TOOLS):
        options.error(f"no tool is called {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    turns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as directory:
        home = Path(directory) / "home"
        session = Session(profiles.load("local", home=home))
        try:
            told = machines(session, chosen.machines, Path(directory))
            for _ in range(chosen.rounds):
                for tool in tools:
                    turn = measure(tool, told, sys.executable if tool in OURS else chosen.peers)
                    if turn is not None:
                        turns.setdefault(tool, []).append(turn)
        finally:
            teardown_all(session=session).result()
            session.leave()
            local.down(home / "local", force=True)
    results = {
        tool: {
            "warm_s": round(statistics.median(one["warm_s"] for one in rows), 3),
            "cold_s": round(statistics.median(one["cold_s"] for one in rows), 3),
            "ok": all(one["ok"] for one in rows),
        }
        for tool, rows in turns.items()
    }
    print(f"echo on {chosen.machines} machines, median of {chosen.rounds} rounds\n")
    print("| tool | warm, s | cold, s | all answered |\n|---|---|---|---|")
    for tool, row in results.items():
        print(f"| {tool} | {row['warm_s']:.2f} | {row['cold_s']:.2f} | {'yes' if row['ok'] else 'NO'} |")
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
