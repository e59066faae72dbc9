"""User data: what a program may be, how it is embedded, and what is refused before anything is sent. The script runs in bootstrap/."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import re
import subprocess
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl import bootstrap
from fleetctl.bootstrap import USER_DATA_BYTES, Program, packed, program, render, told
from fleetctl.errors import RequestInvalid, UserDataTooLarge

LAUNCH = UUID("6f1c7c1e-33a8-4be4-9a53-3f0a2f6d4f10")
TOPIC = "arn:aws:sns:ap-southeast-2:123456789012:fleetctl-0123456789abcdef"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200)
lines = texts.filter(lambda text: text.strip() and not text.endswith("\\"))


def rendered(cmds: Any = "true", **changes: Any) -> str:
    return render(program(cmds), **{"launch": LAUNCH, "session": "s1", "topic_arn": TOPIC, "region": "ap-southeast-2", **changes})


def values(script: str) -> dict[str, str]:
    """What bash makes of the values above the script, and of nothing else."""
    head = unpacked(script)[: unpacked(script).index("\nset -euo pipefail\n")]
    names = "launch session topic region fuse secret check commands"
    show = f'for name in {names}; do printf "%s\\0" "${{!name}}"; done'
    done = subprocess.run(["bash", "-c", f"{head}\n{show}"], capture_output=True, check=True)
    assert done.stderr == b""
    return dict(zip(names.split(), done.stdout.decode().split("\0"), strict=False))


def unpacked(script: str) -> str:
    """The script as bash runs it, whether it travels packed or not."""
    packed = re.search(r"^unpacked=\$\(base64 -d <<<(\S+) .*", script, re.MULTILINE | re.DOTALL)
    return script[: packed.start()] + gzip.decompress(base64.b64decode(packed[1])).decode() if packed else script


def noise(size: int) -> str:
    return random.Random(1).randbytes(size).hex()[:size]


def test_the_script_is_whole_bash_that_starts_as_cloud_init_expects() -> None:
    script = rendered()
    assert script.startswith("#!/bin/bash\n")
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=True, capture_output=True).stderr == b""


def test_the_values_stand_above_the_script() -> None:
    assert values(rendered(["cd /tmp", "ls"], fuse_minutes=7)) == {
        "launch": str(LAUNCH), "session": "s1", "topic": TOPIC, "region": "ap-southeast-2", "fuse": "7", "secret": "", "check": "",
        "commands": "cd /tmp\necho last >&9; exec 9>&-\nls"}


@settings(max_examples=40, deadline=None)
@given(st.lists(lines, min_size=1, max_size=4), st.none() | lines)
def test_whatever_the_user_writes_comes_out_of_bash_as_it_was(text: list[str], check: str | None) -> None:
    found = values(rendered(Program(tuple(text), check=check)))
    assert found["check"] == (check or "")
    assert found["commands"] == "\n".join((*text[:-1], "echo last >&9; exec 9>&-", text[-1]))


def test_comments_stay_behind_and_the_code_does_not() -> None:
    script = rendered("true")
    assert not re.search(r"^\s*#(?!!)", script, re.MULTILINE)
    assert "--aws-sigv4" in script


def test_four_kilobytes_of_commands_can_be_read_in_the_user_data() -> None:
    script = rendered(noise(4096), session="s" * 36)
    assert noise(4096) in script
    assert len(script.encode()) <= USER_DATA_BYTES


def test_eleven_kilobytes_of_any_text_fit_packed() -> None:
    assert noise(11_264) in unpacked(rendered(noise(11_264), session="s" * 36))


def test_long_commands_are_packed_and_come_out_whole() -> None:
    text = "\n".join(f"echo 'line {number} – of many'" for number in range(2000))
    script = rendered(text)
    assert len(script.encode()) <= USER_DATA_BYTES
    assert subprocess.run(["bash", "-n"], input=unpacked(script).encode(), check=True, capture_output=True).stderr == b""
    assert values(script)["commands"].endswith(text)


def test_the_same_launch_renders_to_the_same_bytes() -> None:
    long = ["echo " + "x" * 20_000, "true"]
    assert rendered(long) == rendered(long)


def test_what_does_not_fit_is_refused_with_its_sizes() -> None:
    with pytest.raises(UserDataTooLarge) as caught:
        rendered(noise(30_000))
    message = str(caught.value)
    assert re.search(r"would be 3\d,\d{3} bytes, and EC2 takes 16,384", message)
    assert re.search(r"[4-7],\d{3} are the boot script's", message)
    assert "30,025 before" in message
    assert caught.value.alias == "cmds"
    assert caught.value.found > USER_DATA_BYTES


def test_commands_that_lie_elsewhere_leave_their_place_and_their_sum_in_the_script() -> None:
    long = [noise(30_000), "true"]
    script = rendered(long, bulk="bucket/commands-1", fuse_object="bucket/fuse")
    assert len(script.encode()) <= USER_DATA_BYTES
    assert noise(30_000) not in unpacked(script)
    assert (told(script, "bulk"), told(script, "object"), told(script, "nothing")) == ("bucket/commands-1", "bucket/fuse", "")
    text = gzip.decompress(packed(program(long)))
    assert text.startswith(noise(30_000).encode()) and text.endswith(b"true\n")
    assert told(script, "sum") == hashlib.sha256(text).hexdigest()
    assert packed(program(long)) == packed(program(long))


@given(st.lists(lines, min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_sum_is_what_the_machine_finds(text: list[str]) -> None:
    script = rendered(text, bulk="bucket/commands-1")
    find = "gzip -d | sha256sum"
    found = subprocess.run(["bash", "-c", find], input=packed(program(text)), capture_output=True, check=True).stdout.decode().split()[0]
    assert told(script, "sum") == found


def test_more_than_a_machine_fetches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BULK_BYTES", 1000)
    with pytest.raises(UserDataTooLarge, match="and a machine fetches 1,000 at most"):
        packed(program(noise(5000)))


@pytest.mark.parametrize("place", ["Bucket/x", "bucket", "bucket/", "b/'x'"])
def test_a_place_is_a_bucket_and_a_key(place: str) -> None:
    with pytest.raises(RequestInvalid, match="a bucket and a key"):
        rendered(bulk=place)


@pytest.mark.parametrize(("cmds", "expected"), [
    ("ls", Program(("ls",))), (["a", "b"], Program(("a", "b"))), (("a\nb",), Program(("a\nb",))),
    (Program(("a",), check="b", secret=True), Program(("a",), check="b", secret=True)),
])
def test_a_line_a_sequence_and_a_program_are_programs(cmds: Any, expected: Program) -> None:
    assert program(cmds) == expected


@pytest.mark.parametrize(("cmds", "path", "why"), [
    ([], (), "no commands"), ("", ("lines", 0), "empty"), (["a", " \n"], ("lines", 1), "empty"), ("a\0b", ("lines", 0), "NUL"),
    (["a", 3], ("lines", 1), "text"), (b"ls", (), "shell line"), (7, (), "shell line"), ({"a"}, (), "shell line"),
    (["a \\", "b"], ("lines", 0), "backslash"), ("a\ud800", ("lines", 0), "surrogate"),
])
def test_commands_that_no_shell_could_run_are_refused_with_their_place(cmds: Any, path: tuple[Any, ...], why: str) -> None:
    with pytest.raises(RequestInvalid, match=why) as caught:
        program(cmds)
    assert (caught.value.alias, caught.value.path) == ("cmds", path)


def test_a_check_is_held_to_the_same_rules() -> None:
    with pytest.raises(RequestInvalid) as caught:
        Program(("a",), check=" ")
    assert caught.value.path == ("check",)


def test_an_escaped_backslash_at_the_end_is_a_line_of_its_own() -> None:
    assert program("echo \\\\").lines == ("echo \\\\",)


@pytest.mark.parametrize(("name", "value"), [
    ("region", "eu west"), ("region", ""), ("topic_arn", "arn:aws:sqs:eu-west-1:123456789012:x"), ("topic_arn", TOPIC + "'"),
    ("session", "s 1"), ("session", ""), ("fuse_minutes", 0), ("fuse_minutes", 1.5), ("fuse_minutes", True), ("fuse_minutes", 10**6),
])
def test_a_value_that_is_none_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RequestInvalid) as caught:
        rendered(**{name: value})
    assert caught.value.alias == name


@pytest.mark.parametrize("parameter", [None, "", "a b", 'x"y'])
def test_a_program_with_a_secret_needs_the_name_of_a_parameter(parameter: str | None) -> None:
    with pytest.raises(RequestInvalid) as caught:
        rendered(Program(("a",), secret=True), secret_parameter=parameter)
    assert caught.value.alias == "secret_parameter"


def test_a_program_without_a_secret_is_not_told_where_it_is() -> None:
    assert "/fleetctl/s1" not in rendered("true", secret_parameter="/fleetctl/s1/secret")
    assert values(rendered(Program(("a",), secret=True), secret_parameter="/fleetctl/s1/secret"))["secret"] == "/fleetctl/s1/secret"
