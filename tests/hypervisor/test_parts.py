"""The hypervisor's parts by themselves: addresses, frames, the image's commands."""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.errors import LocalCloudError
from fleetctl.local import containment, image
from fleetctl.local.addresses import Block
from fleetctl.local.pid1 import Initctl, parse_initctl
from fleetctl.local.wire import Frames, Wire, encode


@pytest.fixture
def blocks() -> object:
    made: list[Block] = []

    def make(*ports: int) -> Block:
        made.append(Block(ports))
        return made[-1]

    yield make
    for block in made:
        block.close()


def test_local_clouds_on_one_host_share_no_address(blocks) -> None:
    several = [blocks() for _ in range(20)]
    prefixes = {block.take().rsplit(".", 2)[0] for block in several}
    assert len(prefixes) == 20
    assert not prefixes & {"127.0", "127.1"}


def test_threads_get_different_addresses(blocks) -> None:
    block, got = blocks(), []
    threads = [threading.Thread(target=lambda: got.extend(block.take() for _ in range(200))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1600


def test_an_address_given_back_is_used_last(blocks) -> None:
    block = blocks()
    first = block.take()
    assert first in block
    block.release(first)
    block.release(first)
    block.release("127.9.9.9")
    assert first not in block
    later = {block.take() for _ in range(254 * 254 - 1)}
    assert first not in later
    assert block.take() == first
    with pytest.raises(LocalCloudError, match="every address"):
        block.take()


def test_a_block_in_which_a_port_is_taken_is_not_used(blocks) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere, pytest.raises(LocalCloudError, match="no free block"):
        blocks(everywhere.getsockname()[1])


messages = st.lists(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "fds"), st.text(max_size=20), max_size=3), max_size=5)


@given(messages, st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_frames_come_out_whole_however_they_are_cut(sent: list[dict[str, str]], cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in sent)
    frames, received, at, turn = Frames(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        frames.feed(stream[at:at + step], [])
        received += [message for message, _ in frames]
        at, turn = at + step, turn + 1
    assert received == [{**message, "fds": 0} for message in sent]


def test_descriptors_find_their_own_frame_even_when_frames_are_glued() -> None:
    frames = Frames()
    frames.feed(encode({"n": 1}, 2) + encode({"n": 2}) + encode({"n": 3}, 1), [10, 11, 12])
    assert [(message["n"], fds) for message, fds in frames] == [(1, [10, 11]), (2, []), (3, [12])]


def test_a_frame_of_another_protocol_is_an_error() -> None:
    frames = Frames()
    frames.feed(b"GET / HTTP/1.1\r\n", [])
    with pytest.raises(ValueError, match="does not speak"):
        list(frames)


def test_descriptors_travel_and_are_not_inherited_by_children() -> None:
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    sender, receiver = Wire(ours), Wire(theirs)
    sender.send({"op": "take"}, [write])
    ((message, (arrived,)),) = receiver.receive() or []
    assert message["op"] == "take"
    assert not os.get_inheritable(arrived)
    os.write(arrived, b"through")
    assert os.read(read, 10) == b"through"
    sender.send({"op": "unclaimed"})
    socket.send_fds(ours, [b"\0\0"], [write])
    assert receiver.receive() is not None
    sender.close()
    receiver.receive()
    assert receiver.receive() is None
    receiver.close()
    for fd in (read, write, arrived):
        os.close(fd)
    assert array.array("i").itemsize == 4


@given(st.text(max_size=30))
def test_initctl_takes_only_its_own_language(line: str) -> None:
    request = parse_initctl(line)
    assert request is None or (request.verb in ("poweroff", "reboot", "halt", "cancel") and request.seconds >= 0)


def test_initctl_requests() -> None:
    assert parse_initctl("reboot 0") == Initctl("reboot", 0)
    assert parse_initctl("cancel") == Initctl("cancel", 0)
    assert parse_initctl("poweroff") is parse_initctl("poweroff ²") is parse_initctl("cancel 1") is None


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """An instance's directory as its power commands see it, with a plain file for initctl."""
    image.build(tmp_path / "image")
    (tmp_path / "machine" / "bin").mkdir(parents=True)
    for name in ("shutdown", "poweroff", "halt", "reboot"):
        (tmp_path / "machine" / "bin" / name).symlink_to(tmp_path / "image" / "power" / name)
    return tmp_path / "machine"


def power(machine: Path, line: str) -> str:
    """What a command line writes to initctl; '' if it is refused."""
    (machine / "initctl").write_text("")
    done = subprocess.run(line.split(), executable=str(machine / "bin" / line.split()[0]), capture_output=True, text=True,
                          env={"PATH": f"{machine}/bin:{image.HOST_PATH}"})
    asked = (machine / "initctl").read_text()
    assert (done.returncode == 0) == bool(asked), done.stderr
    return asked.strip()


@pytest.mark.parametrize("line, asked", [
    ("shutdown now", "poweroff 0"), ("shutdown -h now", "poweroff 0"), ("shutdown -P +10", "poweroff 600"), ("shutdown", "poweroff 60"),
    ("shutdown -r +1 back soon", "reboot 60"), ("shutdown -H now", "halt 0"), ("shutdown -c", "cancel"), ("shutdown +0", "poweroff 0"),
    ("shutdown -P --no-wall +3", "poweroff 180"), ("poweroff", "poweroff 0"), ("poweroff -f", "poweroff 0"), ("halt", "halt 0"),
    ("halt -p", "poweroff 0"), ("reboot", "reboot 0"), ("shutdown +x", ""),
    ("shutdown soon", ""), ("shutdown -Z now", ""), ("shutdown +", ""),
])
def test_power_commands_speak_as_systemds_do(machine: Path, line: str, asked: str) -> None:
    assert power(machine, line) == asked


@pytest.mark.parametrize("ahead", [timedelta(minutes=9), timedelta(hours=23)])
def test_a_shutdown_at_a_time_of_day_comes_within_a_day(machine: Path, ahead: timedelta) -> None:
    at = datetime.now() + ahead
    verb, seconds = power(machine, f"shutdown -h {at:%H:%M}").split()
    assert verb == "poweroff"
    assert ahead.total_seconds() - 62 <= int(seconds) <= ahead.total_seconds() + 2


def fake_aws(directory: Path) -> None:
    directory.mkdir()
    (directory / "aws").write_text('#!/bin/sh\necho "$@"\n')
    (directory / "aws").chmod(0o755)


def test_aws_is_told_its_endpoint_because_its_sqs_commands_ignore_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_aws(tmp_path / "host")
    monkeypatch.setenv("PATH", f"{tmp_path / 'host'}:{os.environ['PATH']}")
    aws = image.build(tmp_path / "image") / "aws"

    def said(*args: str, **environment: str) -> str:
        return subprocess.run([aws, *args], env={"PATH": image.HOST_PATH, "AWS_REGION": "us-east-1", **environment}, capture_output=True,
                              text=True, check=True).stdout.strip()

    assert said("sqs", "list-queues", AWS_ENDPOINT_URL="http://127.0.0.1:5") == "--endpoint-url http://127.0.0.1:5 sqs list-queues"
    assert said("sqs", "--endpoint-url", "http://x", AWS_ENDPOINT_URL="http://127.0.0.1:5") == "sqs --endpoint-url http://x"
    assert said("sns", "publish") == "sns publish"


def test_an_image_without_aws_or_redis_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(image, "find_server", lambda: None)
    bin_ = image.build(tmp_path / "image")
    for name in ("aws", "valkey-server"):
        done = subprocess.run([bin_ / name], env={"PATH": image.HOST_PATH}, capture_output=True, text=True)
        assert done.returncode == 127
        assert "none" in done.stderr


def test_an_old_redis_server_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "redis-server"
    monkeypatch.setenv("PATH", str(tmp_path))
    for version, taken in (("6.2.14", False), ("7.0.0", True), ("10.1.0", True), ("?", False)):
        server.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
        server.chmod(0o755)
        assert (image.find_server() == str(server)) is taken


def test_descendants_are_found_over_generations() -> None:
    with subprocess.Popen(["sh", "-c", "sh -c 'echo up; exec sleep 1000' & echo $!; wait"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = {child.stdout.readline().strip(), child.stdout.readline().strip()}
        (grandchild,) = (int(line) for line in lines if line != "up")
        found = containment.descendants(os.getpid())
        assert child.pid in found
        assert grandchild in containment.descendants(child.pid)
        assert os.getpid() not in found
        os.kill(grandchild, signal.SIGKILL)
