"""`make mutants` takes minutes; that its patches still fit the code, and name tests that exist, is seen at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
_spec = importlib.util.spec_from_file_location("mutants_run", ROOT / "tests" / "mutants" / "run.py")
assert _spec is not None
assert _spec.loader is not None
mutants_run: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutants_run)


@pytest.mark.parametrize("mutant", mutants_run.mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_names_a_test(mutant: Any, tmp_path: Path) -> None:
    mutants_run.copy(tmp_path)
    mutant.apply(tmp_path)
    path, _, name = mutant.test.partition("[")[0].partition("::")
    assert f"def {name}(" in (tmp_path / path).read_text()
    assert mutant.removes


def test_every_line_of_safety_has_mutants() -> None:
    assert {mutant.line for mutant in mutants_run.mutants()} == {*range(1, 13)}
