"""W1–W7 for gridworker and for those peers that are installed, interleaved: medians, spread, ratios.

    python benchmarks/grid.py                             everything that is installed, three rounds
    python benchmarks/grid.py --only gridworker,limits --rounds 1 --w W1,W2 --scale 0.1

Peers are looked for in this interpreter and in $PEERS_HOME/venv and $PEERS_HOME/venv_r7 (~/.cache/grid_peers): dask and loky in the
first; celery, dramatiq, huey with redis<8 in the second. What is not there is left out. Each system runs in a process of its own and
is ended before the next begins. --json FILE keeps every round: {system: {workload: [row of round 1, …]}}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

NEEDS = {"gridworker": "gridworker", "gridworker-bare": "gridworker", "gridworker-tcp": "gridworker", "limits": "hiredis",
         "ppe": "concurrent", "ppe-chunk50": "concurrent", "loky": "loky",
         "dask": "distributed", "dask-satinf": "distributed", "celery": "celery", "huey": "huey", "dramatiq": "dramatiq"}
ALL = ("W1", "W2", "W3", "W3s", "W4", "W5", "W6", "W7")
ONCE = ("W3s", "W7")          # in a peer's first round only: they take long
SHOWN = {"W1": ("p50_ms", "p99_ms"), "W2": ("per_s",), "W3": ("L3_per_s", "L4_per_s", "L5_per_s"), "W3s": ("starves",),
         "W4": ("ms", "executions"), "W5": ("MB_per_s_in_plus_out",),
         "W6": ("start_to_first_result_s", "sum_pss_MB"), "W7": ("s", "executions")}
LESS_IS_BETTER = ("p50_ms", "p99_ms", "ms", "start_to_first_result_s", "sum_pss_MB", "s", "executions")

Results = dict[str, dict[str, list[dict[str, Any]]]]


def interpreters() -> dict[str, str]:
    """For each system that can be measured here, the interpreter that has it."""
    home = Path(os.environ.get("PEERS_HOME", "~/.cache/grid_peers")).expanduser()
    candidates = [sys.executable, *(str(path) for name in ("venv", "venv_r7") if (path := home / name / "bin" / "python").exists())]
    has = {}
    for interpreter in candidates:
        program = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m)])"
        done = subprocess.run([interpreter, "-c", program, *set(NEEDS.values())], env={**os.environ, "PYTHONPATH": str(HERE.parent)},
                              capture_output=True, text=True, check=True)
        has[interpreter] = done.stdout.split()
    return {name: found[0] for name, module in NEEDS.items() if (found := [each for each in candidates if module in has[each]])
            and (module not in ("gridworker", "hiredis") or found[0] == sys.executable)}


def run_one(name: str, interpreter: str, which: list[str], scale: float, url: str) -> dict[str, Any]:
    """One system in a process of its own; a crash is a row, too."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "BENCH_REDIS": url, "BENCH_COUNT": f"{directory}/count",
                       "BENCH_SATURATION": "inf" if name.endswith("satinf") else "1.1"}
        command = [interpreter, str(HERE / "grid.py"), "--system", name, "--w", ",".join(which), "--scale", str(scale)]
        try:
            done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            return {which[0]: {"fail": "600 s"}}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return dict(json.loads(lines[-1][7:])) if lines else {which[0]: {"fail": (done.stderr.strip().splitlines() or ["no row"])[-1][:200]}}


def measure_here(name: str, which: list[str], scale: float) -> None:
    """What `run_one` starts: measures, prints one line."""
    if name == "limits":
        import bench_limits
        from bench_workloads import Scale

        port = int(os.environ["BENCH_REDIS"].rpartition(":")[2].partition("/")[0])
        rows: dict[str, Any] = {"limits": bench_limits.measure(port, Scale(scale))}
    else:
        import bench_workloads

        rows = bench_workloads.measure(name, which, bench_workloads.Scale(scale))
    sys.stdout.write("RESULT " + json.dumps(rows) + "\n")
    sys.stdout.flush()
    os._exit(0)                             # some peers leave threads behind that never end


def run_all(names: list[str], which: list[str], rounds: int, scale: float, file: Path | None) -> Results:
    """All rounds: every system once, then every system again."""
    from gridworker.server import Server

    installed, results = interpreters(), Results()
    for absent in [name for name in names if name not in installed]:
        print(f"# {absent} is not installed", file=sys.stderr)
    for turn in range(rounds):
        for name in [name for name in names if name in installed]:
            ours = name.startswith("gridworker")
            wanted = [workload for workload in which if ours or turn == 0 or workload not in ONCE] or which[:1]
            with Server(password="") as server:
                rows = run_one(name, installed[name], wanted, scale, server.url)
            for workload, row in rows.items():
                results.setdefault(name, {}).setdefault(workload, []).append(row)
            print(f"# round {turn + 1} {name} load {os.getloadavg()[0]:.1f} {json.dumps(rows)}", file=sys.stderr, flush=True)
            if file:
                file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def values(results: Results, name: str, workload: str, key: str) -> list[Any]:
    """What the rounds gave."""
    return [row[key] for row in results.get(name, {}).get(workload, []) if key in row]


def table(results: Results) -> str:
    """Medians with least and most, and the ratio to gridworker: above 1 it is better."""
    lines = ["| workload | system | median [least … most] | gridworker is better by |", "|---|---|---|---|"]
    for workload, keys in SHOWN.items():
        for key in keys:
            ours = values(results, "gridworker", workload, key)
            for name in results:
                if found := values(results, name, workload, key):
                    lines.append(f"| {workload} {key} | {name} | {_spread(found)} | {_ratio(ours, found, key)} |")
                elif key == keys[0] and (rows := results[name].get(workload)):
                    why = next((str(rows[0][word]) for word in ("note", "fail", "why", "L3_fail") if word in rows[0]), "–")
                    lines.append(f"| {workload} {key} | {name} | {why.splitlines()[-1] if why else '–'} | |")
    lines += [f"| floor | {key} | {_spread(values(results, 'limits', 'limits', key))} | |"
              for key in (results.get("limits", {}).get("limits") or [{}])[0]]
    return "\n".join(lines)


def _spread(found: list[Any]) -> str:
    if isinstance(found[0], bool):
        return str(found[0])
    middle = f"{statistics.median(found):.4g}"
    return middle if min(found) == max(found) else f"{middle} [{min(found):.4g} … {max(found):.4g}]"


def _ratio(ours: list[Any], found: list[Any], key: str) -> str:
    if not ours or isinstance(found[0], bool) or not statistics.median(found) or not statistics.median(ours):
        return ""
    ratio = statistics.median(found) / statistics.median(ours)
    return f"{ratio if key in LESS_IS_BETTER else 1 / ratio:.3g}×"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="keep all rounds in this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(NEEDS), help="systems, by commas")
    parser.add_argument("--w", default=",".join(ALL), help="workloads, by commas")
    parser.add_argument("--scale", type=float, default=1.0, help="the share of each workload's calls; for trying it out")
    parser.add_argument("--show", type=Path, help="print the table of such a file, measure nothing")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    which = [workload for workload in chosen.w.split(",") if workload]
    if unknown := set(which) - set(ALL) | set(chosen.only.split(",")) - set(NEEDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if chosen.show:
        print(table(json.loads(chosen.show.read_text())))
    elif chosen.system:
        measure_here(chosen.system, which, chosen.scale)
    else:
        print(table(run_all(chosen.only.split(","), which, chosen.rounds, chosen.scale, chosen.json)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
