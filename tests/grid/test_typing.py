"""The public API's types are what users' editors complete by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_mypy_infers_what_the_api_promises_and_finds_what_is_wrong(tmp_path: Path) -> None:
    checked = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}",
                              str(Path(__file__).with_name("typing_api.py"))],
                             cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


def test_every_public_name_is_there_and_documented() -> None:
    import gridworker

    for name in gridworker.__all__:
        assert getattr(gridworker, name).__doc__, name
        assert name in dir(gridworker)


WITHOUT_JOBLIB = """
import sys
sys.modules["joblib"] = None            # as on a computer that has none
from gridworker import *
try:
    register_joblib()
except ModuleNotFoundError as error:
    print(error)
"""


def test_every_public_name_is_there_where_there_is_no_joblib() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT_JOBLIB], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "register_joblib() needs joblib, which is not installed here: pip install joblib\n"
