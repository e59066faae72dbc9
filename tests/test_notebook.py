"""The notebooks run in a real Jupyter kernel, show what a person should see, and are committed as they ran."""

import ast
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

from fleetctl import local

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
QUICKSTART, MACHINES = NOTEBOOKS / "quickstart.ipynb", NOTEBOOKS / "machines.ipynb"
WORKERS = 20

pytestmark = pytest.mark.cloud


def load(path):
    """A module by its file: notebooks/ is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def shown(cell, kind):
    """What a cell's outputs show in one form: "text/html", "text/plain" or "stream"."""
    if kind == "stream":
        return [out.text for out in cell.outputs if out.output_type == "stream"]
    return [out.data[kind] for out in cell.outputs if kind in out.get("data", {})]


def errors(notebook):
    return [out.ename for cell in cells(notebook).values() for out in cell.outputs if out.output_type == "error"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """State of this notebook's own; its local cloud ends with the tests."""
    home = tmp_path_factory.mktemp("notebook")
    yield home
    local.down(home / "local", force=True)
    assert not (home / "local" / "instances").exists()


@pytest.fixture(scope="module")
def executed(home):
    return load(NOTEBOOKS / "execute.py").execute(QUICKSTART, home)


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(QUICKSTART, as_version=4)


@pytest.fixture(params=["executed", "committed"])
def notebook(request):
    """Both: what a kernel made just now, and what people see without running it."""
    return request.getfixturevalue(request.param)


def test_every_cell_has_run_in_order_and_none_has_failed(notebook):
    nbformat.validate(notebook)
    assert errors(notebook) == []
    assert [cell.execution_count for cell in cells(notebook).values()] == list(range(1, len(cells(notebook)) + 1))


def test_the_machines_are_a_table_with_prices(notebook):
    table = shown(cells(notebook)["wait"], "text/html")[-1]
    assert f"machines: {WORKERS} up, 0 failed" in table
    assert len(re.findall(r"<td[^>]*>ready</td>", table)) == 10  # the first ten; the others are counted
    assert f"and {WORKERS - 10} more" in table
    assert re.search(r"\$0\.\d{4}/h", table)


def test_waiting_shows_a_bar_that_ends_full(notebook):
    bars = [html for html in shown(cells(notebook)["wait"], "text/html") if "<table>" not in html]
    full = re.compile(r"(\d+)/(\d+)(?: × [a-z0-9.]+)? up · 0 pending · 0 failed")
    assert [full.search(bar).groups() for bar in bars] == [("1", "1"), ("20", "20")]


def test_the_cost_is_told_per_hour_with_what_it_leaves_out(notebook):
    (text,) = shown(cells(notebook)["cost"], "stream")
    per_hour, machines = re.match(r"\$(\d+\.\d+) per hour for (\d+) machines", text).groups()
    assert float(per_hour) > 0 and int(machines) == WORKERS + 2
    assert "not counted: data transfer" in text


def test_the_grid_evaluates_what_the_notebook_defines(notebook):
    assert "50 results" in shown(cells(notebook)["grid"], "stream")[0]
    assert "56 executed" in shown(cells(notebook)["grid"], "text/plain")[0]
    assert abs(float(shown(cells(notebook)["own"], "text/plain")[0]) - 3.14159) < 0.01
    (error,) = shown(cells(notebook)["error"], "stream")
    assert "divide(1, 0) raised ZeroDivisionError" in error and "called by ratio(1)" in error and "remote traceback" in error
    assert "<td>debug</td>" in shown(cells(notebook)["logs"], "text/html")[0]


def test_the_receipt_is_a_table_and_nothing_remains(notebook):
    receipt = shown(cells(notebook)["end"], "text/html")[-1]
    assert "all seen gone" in receipt and f"{WORKERS + 2} × i-" in receipt
    assert "NOT" not in receipt
    assert ast.literal_eval(shown(cells(notebook)["remaining"], "text/plain")[0]) == ()
    assert shown(cells(notebook)["check"], "text/plain") == ["Counter({'terminated': 22})"]


def test_the_committed_notebook_names_no_place_on_its_authors_computer(committed):
    assert "/home/" not in (text := nbformat.writes(committed))
    assert "site-packages" not in text and str(Path.home()) not in text


def test_nothing_of_it_costs_anything_afterwards(executed, home):
    """By the cloud's own inventory, which knows of more than the receipt does."""
    assert errors(executed) == []
    left = local.status(home / "local").inventory()
    assert {kind: things for kind, things in left.items() if things and kind != "spot_requests"} == {}
    assert {one["state"] for one in left["spot_requests"]} <= {"cancelled", "closed"}


# --- machines.ipynb -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed_hands(tmp_path_factory):
    home = tmp_path_factory.mktemp("notebook")
    yield load(NOTEBOOKS / "execute.py").execute(MACHINES, home)
    left = local.status(home / "local").inventory()
    assert {kind: things for kind, things in left.items() if things and kind != "spot_requests"} == {}
    local.down(home / "local", force=True)


@pytest.fixture(params=["executed", "committed"])
def hands_on(request):
    """Both: what a kernel made just now, and what people see without running it."""
    return nbformat.read(MACHINES, as_version=4) if request.param == "committed" else request.getfixturevalue("executed_hands")


def test_the_notebook_on_machines_shows_what_it_should_and_nothing_has_failed(hands_on):
    nbformat.validate(hands_on)
    assert errors(hands_on) == []
    of = cells(hands_on)
    assert [cell.execution_count for cell in of.values()] == list(range(1, len(of) + 1))
    assert "machines: 6 up, 0 failed" in shown(of["up"], "text/html")[-1]
    assert "cat: letters: No such file" in shown(of["fails"], "stream")[0]
    assert "GiB free" in shown(of["diagnose"], "stream")[0]
    table = shown(of["many"], "text/html")[-1]
    assert "nothing here" in table and "5 ×" in table and "1 ×" in table
    assert "1 has it, 5 have not" in shown(of["failed"], "stream")[0]
    assert shown(of["there"], "text/plain") == ["({'deployed': 'version 3'}, <MachineState.READY: 'ready'>)"]
    assert "handed out" in shown(of["standby"], "stream")[0]
    assert "all seen gone" in shown(of["end"], "text/html")[-1]


def test_the_committed_one_on_machines_names_no_place_on_its_authors_computer():
    assert "/home/" not in (text := MACHINES.read_text()) and "/tmp/" not in text and ".venv" not in text
    assert "site-packages" not in text and str(Path.home()) not in text
