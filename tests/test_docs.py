"""What the documentation shows is what runs: its Python blocks, its commands, and the examples in docstrings."""

import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fleetctl
import gridworker
from fleetctl import local, profiles
from fleetctl.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKERS = int(os.environ.get("FLEETCTL_DOCS_WORKERS", "6"))  # what README's hundred is run with here: 100 runs it to the letter


def blocks(page, language):
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def modules():
    """Every module of both packages, but the programs, which run when they are imported."""
    for package in (fleetctl, gridworker):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith("__main__"):
                yield found.name


def fewer(session):
    """README's session with fewer workers: its one launch of a hundred, and nothing else, is another number here."""
    assert session.count("bring_up_spots(req, 100, ") == session.count("minimum=90") == 1
    return session.replace("bring_up_spots(req, 100, ", f"bring_up_spots(req, {WORKERS}, ").replace(
        "minimum=90", f"minimum={WORKERS * 9 // 10}"
    )


PROBE = """
import json
from fleetctl import current
facts = {
    "up": [len(machines.succeeded), len(dist.machines.succeeded), server.state],
    "results": len(results),
    "logged": len(grid.logs("debug", last=1000)),
    "executed": sum(grid.status().executed.values()),
}
"""


@pytest.mark.cloud
def test_readmes_session_runs_in_ipython(tmp_path):
    """All of README's Python, in order, as cells that IPython awaits; a probe goes in before the teardown, and asks after it."""
    first, *others = blocks(ROOT / "README.md", "python")
    before, after = fewer(first).split("await teardown_all()")
    script = tmp_path / "session.ipy"
    last = 'receipt = await teardown_all()\nfacts["remaining"], facts["found"] = len(receipt.remaining), len(receipt.found)\n'
    script.write_text(f"{before}{PROBE}{last}await teardown_all(){after}" + "".join(others) + '\nprint("FACTS", json.dumps(facts))\n')
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", script],
            env={**os.environ, "FLEETCTL_HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
        )
        told = re.search(r"^FACTS (.*)$", ran.stdout, re.MULTILINE)
        assert told, ran.stdout + ran.stderr
        facts = json.loads(told[1])
        assert WORKERS * 9 // 10 <= facts["up"][0] <= WORKERS and facts["up"][1:] == [1, "ready"]
        assert (facts["results"], facts["executed"]) == (50, 56)
        assert facts["logged"] >= 2 * 56  # each call's start and end
        assert facts["remaining"] == 0 and facts["found"] >= WORKERS + 2
        assert local.status(tmp_path / "home" / "local").inventory()["instances"] == []
    finally:
        local.down(tmp_path / "home" / "local", force=True)


@pytest.mark.cloud
def test_the_page_on_machines_is_one_session_that_leaves_nothing(tmp_path):
    script = tmp_path / "session.ipy"
    script.write_text("\n".join(blocks(ROOT / "docs" / "machines.md", "python")) + '\nprint("to the end")\n')
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", script],
            env={**os.environ, "FLEETCTL_HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert "to the end" in ran.stdout, ran.stdout + ran.stderr
        assert local.status(tmp_path / "home" / "local").inventory()["instances"] == []
    finally:
        local.down(tmp_path / "home" / "local", force=True)


def test_readmes_profile_is_one_that_connect_takes(tmp_path, monkeypatch):
    (shown,) = blocks(ROOT / "README.md", "toml")
    (tmp_path / "fleetctl").mkdir()
    (tmp_path / "fleetctl" / "research.toml").write_text(shown)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    profile = profiles.load("research", home=tmp_path)
    assert profile.subnet("public") == tomllib.loads(shown)["subnets"]["public"]
    assert profile.key_file == Path("~/.ssh/id_ed25519").expanduser()


def test_python_stands_only_where_it_is_run():
    """README's and those of machines.md here, those of grid.md in tests/grid."""
    assert [page.name for page in PAGES if blocks(page, "python")] == ["README.md", "grid.md", "machines.md"]


@pytest.mark.parametrize("name", sorted(modules()))
def test_examples_in_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_some_docstrings_have_examples():
    """The test above would pass too if no example were found at all."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    shown = {name for name in modules() if any(test.examples for test in finder.find(importlib.import_module(name)))}
    assert {"fleetctl.lenses", "fleetctl.shapes"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in _anchors(there), f"{page.name} links to {target}"


def _anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page):
    defined = {name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = re.findall(r"\b(test_\w+)\b(?!\.py|/|…|\*)", page.read_text())
    assert {name for name in named if name not in defined} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "aws-facts.md"], ids=lambda page: page.name)
def test_commands_and_files_that_a_page_names_exist(page):
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ {4})make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name} names make {target}"
    for path in re.findall(r"`((?:fleetctl|gridworker|tests|notebooks|examples|docs)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    for command in re.findall(r"(?:`|^ +)(?:\.venv/bin/)?fleetctl ([a-z][a-z-]*(?: (?:up|status|down))?)\b", text, re.MULTILINE):
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0, f"{page.name} names fleetctl {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain_to_read_in_a_terminal(page):
    long = [line for line in page.read_text().splitlines() if len(line) > 140 and not line.startswith(("|", "!["))]
    assert long == []
