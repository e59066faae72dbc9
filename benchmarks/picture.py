"""The picture in docs/performance.md: calls per second against the length of a call, and against the number of workers. Draws SVG itself.

    python benchmarks/picture.py --json FILE          measures what is installed, into FILE (replaces the systems that it measures)
    python benchmarks/picture.py --json FILE --draw docs/performance.svg
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grid import interpreters

LENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
WORKERS = (1, 2, 4, 8)
SYSTEMS = ("gridworker", "ppe", "dask", "celery", "huey", "dramatiq")
COLOURS = dict(zip(SYSTEMS, ("#d62728", "#7f7f7f", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e"), strict=True))
SECONDS = 0.6            # about what one point takes
Points = dict[str, list[tuple[float, float]]]
Panels = dict[str, Points]


def rate(name: str, workers: int, lengths: list[float], body: str) -> list[tuple[float, float]]:
    """Calls per second for calls of these lengths, each system asked for as many as it does in about the time of a point."""
    from bench_systems import system
    from bench_workloads import fresh

    under_test, points = system(name), []
    under_test.start(workers)
    try:
        numbers = fresh()

        def run(length: float, count: int) -> float:
            calls = [(length, number) for number in itertools.islice(numbers, count)]
            began = time.perf_counter()
            found = under_test.map(body, calls)
            seconds = time.perf_counter() - began
            assert found == [number for _, number in calls]
            return count / seconds

        run(0.0, 50)
        for length in lengths:
            least = max(2 * workers, min(400, int(SECONDS * workers / length)))      # some peers look for results twice a second
            first = run(length, least)
            points.append((length, max(first, run(length, max(least, min(20_000, int(first * SECONDS)))))))
    finally:
        under_test.stop()
    return points


def measure(file: Path, names: list[str]) -> None:
    """Both panels, each system in a process of its own."""
    from gridworker.server import Server

    panels: Panels = json.loads(file.read_text()) if file.exists() else {"length": {}, "workers": {}}
    found = interpreters()
    for name in [name for name in names if name in found]:
        panels["workers"].pop(name, None)
        runs = [(2, LENGTHS, "spin", "length"), *((workers, (0.01,), "rest", "workers") for workers in WORKERS)]
        for workers, lengths, body, panel in runs:
            with Server(password="") as server, tempfile.TemporaryDirectory() as directory:
                program = (f"import sys, json; sys.path[:0] = {sys.path[:2]!r}; import picture; "
                           f"print('RESULT', json.dumps(picture.rate({name!r}, {workers}, {list(lengths)!r}, {body!r})), flush=True); "
                           "import os; os._exit(0)")
                environment = {**os.environ, "BENCH_REDIS": server.url, "BENCH_COUNT": f"{directory}/count"}
                done = subprocess.run([found[name], "-c", program], env=environment, cwd=directory, capture_output=True, text=True,
                                      timeout=120, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            points = json.loads(lines[-1][7:]) if lines else []
            if panel == "length":
                panels["length"][name] = points
            else:
                panels["workers"].setdefault(name, []).extend((float(workers), per_second) for _, per_second in points)
            file.write_text(json.dumps(panels, indent=1) + "\n")
            print(name, workers, points or done.stderr[-300:], file=sys.stderr)


def draw(panels: Panels) -> str:
    """The two panels as SVG, logarithmic both ways."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 400" font-family="sans-serif" font-size="12">',
             '<rect width="860" height="400" fill="white"/>']
    titles = {"length": ("length of a call, two workers that compute", [f"{x:g}" for x in LENGTHS], LENGTHS),
              "workers": ("workers, calls that rest 10 ms", [str(x) for x in WORKERS], tuple(map(float, WORKERS)))}
    for at, (panel, (title, labels, ticks)) in enumerate(titles.items()):
        parts += _panel(panels[panel], 70 + 420 * at, title, labels, ticks)
    for at, name in enumerate(name for name in SYSTEMS if panels["length"].get(name)):
        parts.append(f'<rect x="{90 + 125 * at}" y="374" width="18" height="4" fill="{COLOURS[name]}"/>'
                     f'<text x="{113 + 125 * at}" y="380">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(points: Points, left: float, title: str, labels: list[str], ticks: tuple[float, ...]) -> list[str]:
    width, top, height = 340.0, 40.0, 280.0
    values = [y for line in points.values() for _, y in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def across(x: float) -> float:
        return left + width * (math.log(x) - math.log(ticks[0])) / (math.log(ticks[-1]) - math.log(ticks[0]))

    def up(y: float) -> float:
        return top + height * (high - math.log10(y)) / (high - low)

    parts = [f'<text x="{left}" y="24" font-weight="bold">calls per second</text>',
             f'<text x="{left + width / 2}" y="358" text-anchor="middle">{title}</text>']
    for power in range(low, high + 1):
        parts.append(f'<path d="M{left} {up(10.0 ** power):.1f}h{width}" stroke="#ddd"/>'
                     f'<text x="{left - 6}" y="{up(10.0 ** power) + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>')
    parts += [f'<text x="{across(x):.1f}" y="338" text-anchor="middle">{label}</text>' for x, label in zip(ticks, labels, strict=True)]
    for name, line in points.items():
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in line]
    return parts


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", default=",".join(SYSTEMS))
    parser.add_argument("--draw", type=Path)
    chosen = parser.parse_args()
    if chosen.draw:
        chosen.draw.write_text(draw(json.loads(chosen.json.read_text())), encoding="utf-8")
    else:
        measure(chosen.json, chosen.only.split(","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
