"""The daemon's life: one per directory, detached, found by its lock, gone without remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleetctl import local
from fleetctl.errors import LocalCloudError
from fleetctl.local import patches, state

pytestmark = pytest.mark.cloud


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cloud"
    local.down(tmp_path / "cloud", force=True)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:      # not there, or gone between opening and reading
        return True


def test_up_starts_one_daemon_and_everyone_gets_it(home: Path) -> None:
    first = local.up(home)
    assert local.up(home) == first == local.status(home)
    assert "secret" not in repr(first)
    assert first.token not in repr(first)


def test_starters_at_the_same_time_get_one_daemon(home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        clouds = list(pool.map(lambda _: local.up(home), range(4)))
    assert len({cloud.pid for cloud in clouds}) == 1


def test_the_daemon_is_detached_and_on_loopback_only(home: Path) -> None:
    cloud = local.up(home)
    assert os.getsid(cloud.pid) == cloud.pid
    assert os.readlink(f"/proc/{cloud.pid}/fd/0") == os.devnull
    port = int(cloud.endpoint_url.rpartition(":")[2])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_the_state_and_the_key_are_private(home: Path) -> None:
    cloud = local.up(home)
    assert [(home / name).stat().st_mode & 0o077 for name in ("state.json", "key.pem", "daemon.log")] == [0, 0, 0]
    assert cloud.key_file.read_text().startswith("-----BEGIN")
    assert set(json.loads((home / "state.json").read_text())) == {
        "pid", "endpoint_url", "region", "subnets", "groups", "image", "key", "key_file", "instance_profile", "login_user",
        "access_key_id", "secret_access_key", "token", "started", "weaker", "regions"}


def test_down_refuses_while_instances_live(home: Path) -> None:
    import boto3
    cloud = local.up(home)
    session = boto3.Session()
    ec2 = session.client("ec2", **cloud.client())
    id = ec2.run_instances(ImageId=cloud.image, InstanceType="t3.micro", MinCount=1, MaxCount=1,
                           SubnetId=cloud.subnets["private"])["Instances"][0]["InstanceId"]
    ec2.close()
    with pytest.raises(LocalCloudError, match="1 instance") as refusal:
        local.down(home)
    assert refusal.value.left == (id,)
    processes = cloud.inventory()["processes"]
    assert local.down(home, force=True)
    assert [pid for pid in [cloud.pid, *processes.values()] if not gone(pid)] == []
    assert os.listdir(home) == []
    assert not local.down(home)


def test_a_killed_daemon_is_not_taken_for_a_living_one(home: Path) -> None:
    killed = local.up(home)
    os.kill(killed.pid, signal.SIGKILL)
    os.waitpid(killed.pid, 0)
    assert local.status(home) is None
    again = local.up(home)
    assert again.pid != killed.pid
    assert again.inventory()["instances"] == []


def test_an_idle_daemon_ends_itself(home: Path) -> None:
    cloud = local.up(home, idle=0.3)
    os.waitpid(cloud.pid, 0)
    assert local.status(home) is None
    assert os.listdir(home) == []


def test_a_daemon_that_cannot_start_says_why(home: Path) -> None:
    home.mkdir()
    (home / "images.json").mkdir()   # where the daemon wants to write a file
    with pytest.raises(LocalCloudError, match="IsADirectoryError"):
        local.up(home)


def test_a_second_daemon_in_the_same_directory_ends_at_once(home: Path) -> None:
    cloud = local.up(home)
    second = subprocess.run([sys.executable, "-m", "fleetctl.local.daemon", "--dir", str(home)], capture_output=True, text=True, timeout=20)
    assert (second.returncode, "runs in" in second.stderr) == (3, True)
    assert local.status(home) == cloud


def test_another_moto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "version", lambda name: "5.3.0")
    with pytest.raises(LocalCloudError, match=r"made for moto 5\.2\.5, and found 5\.3\.0"):
        patches.check_version()


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = state.Lock(path), state.Lock(path)
    assert first.acquire(wait=False)
    assert not second.acquire(wait=False)
    first.release()
    assert not path.exists()
    assert second.acquire(wait=False)
    second.release()


def test_the_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEETCTL_HOME", str(tmp_path))
    assert state.default_directory() == tmp_path / "local"
    monkeypatch.delenv("FLEETCTL_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state.default_directory() == tmp_path / "fleetctl" / "local"


def test_asking_whether_a_daemon_lives_does_not_keep_one_from_starting(home: Path) -> None:
    asking = True

    def ask() -> int:
        answers = 0
        while asking:
            local.status(home)
            answers += 1
        return answers

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            cloud = local.up(home)
        finally:
            asking = False
        assert asked.result() > 0
    assert local.status(home) == cloud
