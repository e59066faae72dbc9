"""`fleetctl local fault`, as its user types it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetctl import local
from fleetctl.__main__ import main

pytestmark = pytest.mark.cloud


@pytest.fixture
def _signals() -> Iterator[None]:
    """The command line takes over some signals, which are this process's."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
def test_faults_are_put_in_force_shown_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLEETCTL_HOME", str(tmp_path))
    assert main(["local", "fault", "list"]) == 1
    cloud = local.up(tmp_path / "local")
    try:
        assert main(["local", "fault", "capacity", "type=t3.micro", "left=3"]) == 0
        [fault] = cloud.faults()
        assert (fault["kind"], fault["type"], fault["left"]) == ("capacity", "t3.micro", 3)
        capsys.readouterr()
        assert main(["local", "fault", "list"]) == 0
        shown = capsys.readouterr().out
        assert "left=3" in shown
        assert all(kind in shown for kind in local.KINDS)
        assert main(["local", "fault", "rain"]) == 1
        assert "there is no fault 'rain'" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(SystemExit):
            main(["local", "fault", "capacity", "left"])
        assert "NAME=VALUE is wanted" in capsys.readouterr().err
        assert main(["local", "fault", "clear"]) == 0
        assert cloud.faults() == []
    finally:
        local.down(tmp_path / "local", force=True)
