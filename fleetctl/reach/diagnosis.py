"""What is the matter with a machine, as one table: what it says of itself over SSH, and what EC2 says where SSH does not answer. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SECONDS = 20.0  # for all that a machine is asked
CLOCK_SECONDS = 30.0  # AWS refuses what is signed by a clock that is five minutes off (IAM User Guide); this leaves time to mend it
SCARCE = 0.05  # of disk or memory
BUSY = 4.0  # processes that want a core, for each core
_LINES = 12  # of a log or a console
_KIB_PER_GIB = 1 << 20

# one line `@@name` before each part; what a machine lacks (ps, /proc) leaves its part empty
SCRIPT = f"""echo @@clock; date +%s.%N
echo @@load; cat /proc/loadavg; getconf _NPROCESSORS_ONLN
echo @@up; cat /proc/uptime
echo @@memory; grep -E '^Mem(Total|Available):' /proc/meminfo
echo @@disk; df -Pk / "$HOME" | tail -n +2
echo @@runs; ps -eo pcpu,rss,etimes,args --sort=-pcpu | grep -v ' ps -eo' | head -n 6
echo @@log; for log in $(ls -t "${{FLEETCTL_STATE_DIR:-/var/lib/fleetctl}}"/*/log "$HOME"/.fleetctl/*/log); do
tail -n {_LINES} "$log"; break; done"""


class Row(NamedTuple):
    """One thing that was looked at. `ok` is None where it is neither good nor bad."""

    what: str
    found: str
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of one machine: true where nothing looks bad. `rows` and `["disk"]` are what was looked at; print it, or look at it in a notebook."""

    machine: str
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        bad = ", ".join(row.what for row in self.rows if row.ok is False)
        return f"<diagnosis of {self.machine}: {f'look at {bad}' if bad else 'nothing looks bad'}>"

    def __bool__(self) -> bool:
        return not any(row.ok is False for row in self.rows)

    def __getitem__(self, what: str) -> Row:
        for row in self.rows:
            if row.what == what:
                return row
        raise KeyError(what)

    def __str__(self) -> str:
        width = max(len(row.what) for row in self.rows)
        lines = [repr(self)[1:-1]]
        for row in self.rows:
            first, *more = row.found.splitlines() or [""]
            lines.append(f"{'✗' if row.ok is False else '✓' if row.ok else ' '} {row.what:<{width}}  {first}")
            lines += [f"  {'':<{width}}  {line}" for line in more]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'✗' if row.ok is False else '✓' if row.ok else ''}</td><td style='text-align:left'>{html.escape(row.what)}</td>"
            f"<td style='text-align:left'><pre>{html.escape(row.found)}</pre></td></tr>"
            for row in self.rows
        )
        return f"<b>{html.escape(repr(self)[1:-1])}</b><table>{rows}</table>"


def inside(said: str, sent: float, came: float) -> list[Row]:
    """What the machine says of itself: the answer to SCRIPT, which was sent and came at these times (seconds since the epoch)."""
    parts = _parts(said)
    rows = [Row("ssh", f"answers in {1000 * (came - sent):.0f} ms", True)]
    for name, read in (("clock", lambda lines: _clock(lines, sent, came)), ("load", _load), ("memory", _memory)):
        try:
            rows.append(read(parts[name]))
        except (KeyError, ValueError, IndexError, ZeroDivisionError):
            rows.append(Row(name, "not told"))
    if up := parts.get("up"):
        rows.append(Row("up", f"since {float(up[0].split()[0]) / 3600:.1f} h"))
    for line in dict.fromkeys(parts.get("disk", ())):
        *_, blocks, _, free, _, mount = line.split(maxsplit=5)
        rows.append(_room(f"disk {mount}", int(free), int(blocks)))
    rows += [Row(name, "\n".join(parts[name])) for name in ("runs", "log") if parts.get(name)]
    return rows


def outside(row: Mapping[str, Any] | None, checks: Mapping[str, Any] | None, console: str) -> list[Row]:
    """What EC2 says: a row of DescribeInstances, one of DescribeInstanceStatus, and what GetConsoleOutput gave."""
    if row is None:
        return [Row("state", "EC2 does not know this instance", False)]
    state = str(row["State"]["Name"])
    why = (row.get("StateReason") or {}).get("Message") or row.get("StateTransitionReason") or ""
    rows = [Row("state", state + (f": {why}" if why else ""), state == "running")]
    for name, key in (("system check", "SystemStatus"), ("instance check", "InstanceStatus")):
        found = ((checks or {}).get(key) or {}).get("Status")
        if found:
            rows.append(Row(name, str(found), {"ok": True, "impaired": False}.get(str(found))))
    if console.strip():
        rows.append(Row("console", "\n".join(console.rstrip().splitlines()[-_LINES:])))
    return rows


def _parts(said: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in said.splitlines():
        if line.startswith("@@"):
            lines = parts[line[2:]] = []
        else:
            lines.append(line)
    return parts


def _clock(lines: Sequence[str], sent: float, came: float) -> Row:
    ahead = float(lines[0]) - (sent + came) / 2
    return Row("clock", f"{ahead:+.1f} s from this computer's", abs(ahead) < CLOCK_SECONDS)


def _load(lines: Sequence[str]) -> Row:
    load, cores = float(lines[0].split()[0]), int(lines[1])
    return Row("load", f"{load:.2f} on {cores} cores", load < BUSY * cores)


def _memory(lines: Sequence[str]) -> Row:
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return _room("memory", found["MemAvailable"], found["MemTotal"])


def _room(what: str, free: int, whole: int) -> Row:
    return Row(what, f"{free / _KIB_PER_GIB:.1f} of {whole / _KIB_PER_GIB:.1f} GiB free", not whole or free / whole > SCARCE)
