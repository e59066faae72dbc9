"""The grid in a real Jupyter kernel: cells by value, edits picked up, bars and pictures where they belong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = [
    "from gridworker import Grid, remote, request\nimport time\ngrid = Grid(workers=2)",
    "def version(x):\n    return 'first', x\n[await grid.request(version, 1), grid.request(version, 1).result()]",
    "def version(x):\n    return 'second', x\nawait grid.request(version, 1)",
    "def caller(x):\n    return request(version, x)\nawait grid.request(caller, 1)",
    "def version(x):\n    return 'third', x\nawait grid.request(caller, 1)",
    "(await grid.request(lambda x: x + 1, 1), (lambda y: y)(2))",
    "@remote\ndef nap(i):\n    time.sleep(0.05)\n    return i\nnap.on(grid).map(range(40), progress=True).result() == list(range(40))",
    "big = bytes(1_000_000)\ndef measure(i):\n    return i + len(big)\n"
    "await grid.requests([(measure, i) for i in range(50)])\nawait grid.requests([(measure, i) for i in range(50, 60)])\n"
    "[len(grid._command('KEYS', grid.keys.part('*'))), max(grid._command('STRLEN', key) for key in grid._command('KEYS', "
    "grid.keys.code('*'))) < 10_000]",
    "answer = grid.request(caller, 2, trace=True)\nawait answer\ngrid.graph(answer)",
    "grid.status()",
    "import os\nfirst = grid.status().nodes\ngrid = Grid(workers=2)\nawait grid.request(pow, 2, 3)",
    "def alive(pid):\n    return os.path.exists(f'/proc/{pid}') and open(f'/proc/{pid}/stat').read().split()[2] != 'Z'\n"
    "for _ in range(1000):\n    if not any(alive(node['pid']) for node in first.values()):\n        break\n    time.sleep(0.02)\n"
    "len(first) > 0, all(alive(node['pid']) for node in grid.status().nodes.values()), any(alive(node['pid']) for node in first.values())",
    "from concurrent.futures import Executor\nwith grid.executor() as executor:\n    seen = list(executor.map(version, [1, 2]))\nseen",
    "grid.close()",
]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute(
        cwd=str(tmp_path_factory.mktemp("notebook")), env={**os.environ, "PYTHONPATH": path})
    yield notebook.cells


def value(cell: Any, kind: str = "text/plain") -> str:
    return "".join(out.data[kind] for out in cell.outputs if out.output_type == "execute_result" and kind in out.data)


def test_functions_of_cells_run_and_edits_are_picked_up(cells: list[Any]) -> None:
    assert value(cells[1]) == "[('first', 1), ('first', 1)]"
    assert value(cells[2]) == "('second', 1)"


def test_an_edit_of_what_a_function_calls_is_picked_up_too(cells: list[Any]) -> None:
    assert value(cells[3]) == "('second', 1)"
    assert value(cells[4]) == "('third', 1)"


def test_lambdas_run(cells: list[Any]) -> None:
    assert value(cells[5]) == "(2, 2)"


def test_a_map_shows_a_bar_that_ends_full(cells: list[Any]) -> None:
    bars = [out.data["text/html"] for out in cells[6].outputs if out.output_type == "display_data"]
    assert len(bars) == 1 and "<progress max='40' value='40'" in bars[0]
    assert value(cells[6]) == "True"


def test_a_closure_over_something_big_is_stored_once(cells: list[Any]) -> None:
    assert value(cells[7]) == "[1, True]"


def test_graphs_are_pictures_and_the_status_a_table(cells: list[Any]) -> None:
    assert value(cells[8], "image/svg+xml").startswith("<svg") and "caller(2)" in value(cells[8], "image/svg+xml")
    assert "2 nodes" in value(cells[9], "text/html") and "<table>" in value(cells[9], "text/html")


def test_a_cell_that_makes_the_grid_anew_ends_the_earlier_one(cells: list[Any]) -> None:
    assert value(cells[11]) == "(True, True, False)"


def test_an_executor_works_in_a_cell(cells: list[Any]) -> None:
    assert value(cells[12]) == "[('third', 1), ('third', 2)]"
