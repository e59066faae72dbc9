"""The examples of the grid run as their reader runs them, and the pages' blocks run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SAYS = {  # what must stand in the output, in this order
    "grid_laptop": [r"up to a million: 6\.157756e\+12", r"without a grid: 0\.69", r"\d+ workers, 20 calls"],
    "grid_asyncio": [r"\['hello ann', 'hello bob'\]", r"arrived: 0\.1", r"arrived: 0\.4", r"arrived: 0\.9", r"given up: .*0\.2 s"],
    "grid_executor": [r"map: \[0, 1, 7, 2, 5, 8, 16\]", r"submit: \[\(97, 118\), \(871, 178\), \(6171, 261\)\]", r"asyncio: 111"],
    "grid_looking": [r"tree\(3\) = 19", r"<Graph of tree\(3\): 8 calls", r"drawn: True",
                     r"logged: \['leaf 0', 'leaf 1', 'leaf 2', 'leaf 3'\]"],
    "grid_pools": [r"\['left', 'right'\]", r"'left': 'all'"],
}


def run(script: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error::ResourceWarning"}
    return subprocess.run([sys.executable, *script], cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=100, check=False)


def test_every_example_of_the_grid_is_known_here() -> None:
    assert sorted(SAYS) == sorted(path.stem for path in EXAMPLES.glob("grid_*.py"))


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_does_what_it_says(name: str, tmp_path: Path) -> None:
    ran = run([str(EXAMPLES / f"{name}.py")], tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    at = 0
    for pattern in SAYS[name]:
        found = re.compile(pattern).search(ran.stdout, at)
        assert found, f"{pattern!r} is not there, or not after what comes before it:\n{ran.stdout}"
        at = found.end()


def test_the_page_on_the_grid_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Its blocks are one session, with `await` at the top as in IPython."""
    text = (ROOT / "docs" / "grid.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    script = tmp_path / "page.py"
    lines = "\n".join(blocks).splitlines()
    script.write_text("import ast, asyncio, types\nCODE = " + repr("\n".join(lines)) + """
async def main():
    for node in ast.parse(CODE).body:
        names = globals()
        run = types.FunctionType(compile(ast.Module([node], []), "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if (waiting := run()) is not None:
            await waiting
asyncio.run(main())
""")
    ran = run([str(script)], tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
