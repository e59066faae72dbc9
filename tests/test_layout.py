"""What docs/architecture.md states of the layout holds: order of imports, outside libraries, pure modules, public names."""

import ast
import inspect
import itertools
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import fleetctl
import gridworker
from fleetctl import shapes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = ("fleetctl", "fleetctl.local", "gridworker")
INPUT_AND_OUTPUT = {
    *(
        "asyncio",
        "concurrent",
        "fcntl",
        "glob",
        "http",
        "logging",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "select",
        "selectors",
        "shutil",
    ),
    *("signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib"),
}


HARMLESS = {"sys.intern"}  # of those modules what reads nothing and writes nothing, where it is imported by its name


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what, and how. `of` is the module, or the package, that is imported."""

    by: str
    of: str
    typing_only: bool

    @property
    def library(self):
        return self.of.partition(".")[0]


def module_files():
    """Every module's name and file, from the tree, not from imports."""
    out = {}
    for package in ("fleetctl", "gridworker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


FILES = module_files()


def imports_of(module):
    """All imports of a module, those inside functions too."""
    path = FILES[module]
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]

    def found(node, typing_only):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(module, alias.name, typing_only) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                parents = package[: len(package) - child.level + 1] if child.level else []
                base = ".".join([*parents, *([child.module] if child.module else [])])
                for alias in child.names:
                    whole = f"{base}.{alias.name}"
                    yield Import(module, whole if whole in FILES or whole in HARMLESS else base, typing_only)
            elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                yield from found(child, True)
            else:
                yield from found(child, typing_only)

    return list(found(ast.parse(path.read_text()), False))


IMPORTS = [one for module in FILES for one in imports_of(module)]
AT_RUN_TIME = [one for one in IMPORTS if not one.typing_only]


def rows(title):
    """The rows of the table under a heading, as (names in the first cell, the rest)."""
    (section,) = re.findall(rf"^### {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    cells = [line.strip("|").split("|", 1) for line in section.splitlines() if line.startswith("| `")]
    return [(first.strip().strip("`"), rest) for first, rest in cells]


def full_name(section, row):
    return section if row == "__init__" else f"{section}.{row}"


ORDER = {section: [full_name(section, name) for name, _ in rows(section)] for section in SECTIONS}
UPWARD = {
    (full_name(section, name), full_name(section, up))
    for section in SECTIONS
    for name, rest in rows(section)
    for up in re.findall(r"↑ `([\w.]+)`", rest)
}
PURE = [full_name(section, name) for section in SECTIONS for name, rest in rows(section) if "**pure**" in rest]


def test_the_page_lists_every_module_once():
    assert sorted(name for names in ORDER.values() for name in names) == sorted(FILES)


@pytest.mark.parametrize("section", SECTIONS)
def test_modules_import_only_from_those_above_them(section):
    place = {name: at for at, name in enumerate(ORDER[section])}
    upward = {(one.by, one.of) for one in AT_RUN_TIME if one.by in place and one.of in place and place[one.of] >= place[one.by]}
    assert upward - {(module, module) for module in place} == {pair for pair in UPWARD if pair[0] in place}


@pytest.mark.parametrize("section", SECTIONS)
def test_packages_are_layers_as_modules_are(section):
    """Their rows stand together: with imports only from above, no two packages then import from each other."""
    packages = [name for name, _ in itertools.groupby(name.removeprefix(f"{section}.").partition(".")[0] for name in ORDER[section])]
    assert sorted(packages) == sorted(set(packages))


def test_gridworker_does_not_know_fleetctl():
    assert {one.by for one in IMPORTS if one.by.startswith("gridworker") and one.library == "fleetctl"} == set()


def test_the_local_cloud_is_known_to_its_wiring_only_and_knows_only_the_errors():
    def local(name):
        return name == "fleetctl.local" or name.startswith("fleetctl.local.")

    assert {one.by for one in IMPORTS if local(one.of) and not local(one.by)} == {"fleetctl.profiles"}
    assert {one.of for one in IMPORTS if local(one.by) and one.library in ("fleetctl", "gridworker") and not local(one.of)} == {
        "fleetctl.errors"
    }


def test_each_outside_library_has_its_importers_and_no_others():
    allowed = {library: re.findall(r"`([\w.]+)`", rest) for library, rest in rows("Who may import what from outside")}

    def inside(module, package):
        return module == package or (package == "fleetctl.local" and module.startswith("fleetctl.local."))

    ours = {"fleetctl", "gridworker"}
    outside = [one for one in AT_RUN_TIME if one.library not in sys.stdlib_module_names and one.library not in ours]
    assert {one.library for one in outside} == set(allowed) - {"gridworker", "fleetctl.local"}
    strangers = {(one.library, one.by) for one in outside if not any(inside(one.by, package) for package in allowed[one.library])}
    assert strangers == set()
    users = {one.by for one in IMPORTS if one.library == "gridworker" and one.by.startswith("fleetctl")}
    assert users == set(allowed["gridworker"])


def test_what_the_page_allows_is_also_used():
    used = {(one.library, one.by) for one in AT_RUN_TIME}
    for library, rest in rows("Who may import what from outside"):
        for module in re.findall(r"`([\w.]+)`", rest):
            if library != "fleetctl.local" and module != "fleetctl.local":
                assert (library, module) in used, f"{module} does not import {library}"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_input_or_output(module):
    """Neither themselves nor by way of a module of ours, but for the reading of botocore's model, which `shapes` says of itself."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen or name == "fleetctl.shapes.callmodel":
            continue
        seen.add(name)
        used = {one.library for one in AT_RUN_TIME if one.by == name and one.of not in HARMLESS}
        assert used & INPUT_AND_OUTPUT == set(), f"{module} imports {name}"
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(FILES[name].read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert calls & {"open", "print", "input", "exec", "eval"} - ({"print"} if name == "fleetctl.lifecycle" else set()) == set()
        todo += [one.of for one in AT_RUN_TIME if one.by == name and one.of in FILES]


def test_the_diagrams_of_the_page_are_what_the_tables_give():
    drawn = subprocess.run([sys.executable, "-W", "ignore", "-m", "fleetctl.lifecycle"], capture_output=True, text=True, check=True)
    assert "".join(re.findall(r"^```mermaid\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)) == drawn.stdout


def test_signatures_in_the_reference_are_those_of_the_code():
    page = (ROOT / "docs" / "reference.md").read_text()
    shown = re.findall(r"^\| `([a-z_.]+)\((.*?)\)` \|", page, re.MULTILINE)
    verbs = {name: arguments for name, arguments in shown if name.partition(".")[0] in fleetctl.__all__}
    assert {name for name in fleetctl.__all__ if name.islower()} - {"bundle", "commands"} == {name for name in verbs if "." not in name}
    for name, arguments in verbs.items():
        thing = fleetctl
        for part in name.split("."):
            thing = getattr(thing, part)
        starred = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        names = [starred.get(one.kind, "") + one.name for one in inspect.signature(thing).parameters.values()]
        assert [part for part in arguments.split(", ") if part not in ("*", "")] == names, name


def test_the_reference_has_every_option():
    page = (ROOT / "docs" / "reference.md").read_text()
    (section,) = re.findall(r"^### Options\n(.*?)^###", page, re.MULTILINE | re.DOTALL)
    assert {option for shape in shapes.SHAPES for option in shape.options} <= set(re.findall(r"`(\w+)`", section))


def public(package):
    return [(package, name) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), public(fleetctl) + public(gridworker), ids=lambda value: getattr(value, "__name__", value))
def test_every_public_name_exists_is_described_and_is_in_the_docs(package, name):
    thing = getattr(package, name)
    assert inspect.getdoc(thing), f"{name} has no docstring"
    if inspect.isclass(thing):
        assert thing.__doc__, f"{name} has only the docstring of its base"
    assert isinstance(thing, types.ModuleType) == (name in ("bundle", "commands")), "a module hides the public name"
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py"), ROOT / "notebooks" / "quickstart.ipynb"]
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in pages), f"no page mentions {name}"


@pytest.mark.parametrize("package", [fleetctl, gridworker], ids=lambda package: package.__name__)
def test_public_names_stand_once_and_a_star_import_brings_them(package):
    assert len(package.__all__) == len(set(package.__all__))
    space = {}
    exec(f"from {package.__name__} import *", space)
    assert set(package.__all__) <= space.keys()


@pytest.mark.parametrize("module", sorted(FILES))
def test_files_stay_small_enough_to_be_read_at_once(module):
    text = FILES[module].read_text()
    assert ast.get_docstring(ast.parse(text)), f"{module} does not say what it is"
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 70, f"{module}.{node.name} is long"
