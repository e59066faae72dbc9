"""Messages: what is written comes back, and whatever else arrives is refused by one error and nothing else."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl.messages import MESSAGE_BYTES, TAIL_CHARS, BadMessage, Phase, Probe, Report, decode

LAUNCH = UUID("6f1c7c1e-33a8-4be4-9a53-3f0a2f6d4f10")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmQxJ0SLd1nJ4iE0S9kq9i3pXU3fZ8vY5t0Wm0yqK7H"
FULL = Report(
    launch=LAUNCH, instance="i-0123456789abcdef0", phase=Phase.FAILED, seq=3, exit_code=7, tail="ой\nno such file\n", ip="10.0.1.5",
    public_ip="3.4.5.6", host="ec2-3-4-5-6.compute-1.amazonaws.com", ssh_port=2222, ssh_key=KEY, user="ec2-user", type="t3.micro",
    zone="us-east-1a",
)

names = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,63}", fullmatch=True) | st.just("")
phases = st.sampled_from([phase for phase in Phase if phase is not Phase.BEAT])
instances = st.from_regex(r"i-([0-9a-f]{8}|[0-9a-f]{17})", fullmatch=True)
hosts = st.sampled_from(["", "localhost", "a.b-c.example"])
keys = st.sampled_from(["", KEY, "ssh-rsa " + "A" * 700, "ecdsa-sha2-nistp256 " + "B" * 140])
times = st.sampled_from(["", "2031-05-06T07:08:09Z"])
reports = st.builds(
    Report, launch=st.uuids(), instance=instances, phase=phases, seq=st.integers(0, 2**53),
    exit_code=st.none() | st.integers(0, 255), tail=st.text(st.characters(exclude_categories=["Cs"]), max_size=TAIL_CHARS),
    ip=st.ip_addresses(v=4).map(str), public_ip=st.ip_addresses(v=4).map(str) | st.just(""), host=hosts,
    ssh_port=st.integers(1, 65535), ssh_key=keys,
    user=st.sampled_from(["", "ec2-user", "nobody", "_x.y"]), type=names, zone=names, taken_at=times, rebalance=times,
)
beats = st.builds(lambda report, state: dataclasses.replace(report, phase=Phase.BEAT, state=state), reports, phases)
probes = st.builds(Probe, session=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,40}", fullmatch=True), nonce=st.uuids().map(str))
messages = reports | beats | probes


def enveloped(message: str) -> str:
    return json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": message})


def older(**fields: str) -> str:
    text = "".join(f"{key}: {value}\n" for key, value in fields.items())
    return base64.encodebytes(text.encode()).decode()


def with_field(**changes: Any) -> str:
    return json.dumps({**json.loads(FULL.encode()), **changes})


@settings(deadline=None)
@given(messages)
def test_what_is_encoded_decodes_to_itself_raw_as_bytes_and_in_an_envelope(message: Report | Probe) -> None:
    text = message.encode()
    assert decode(text) == decode(text.encode()) == decode(enveloped(text)) == message


def survives(body: str | bytes) -> None:
    """Either a message whose encoding reads back, or the one error."""
    try:
        message = decode(body)
    except BadMessage as error:
        assert str(error)
    else:
        assert decode(message.encode()) == message


@settings(deadline=None)
@given(st.binary(max_size=400) | st.text(max_size=400))
def test_arbitrary_bodies_are_read_or_refused(body: str | bytes) -> None:
    survives(body)


@settings(deadline=None)
@given(messages, st.booleans(), st.data())
def test_truncated_and_mutated_messages_are_read_or_refused(message: Report | Probe, wrapped: bool, data: st.DataObject) -> None:
    raw = bytearray((enveloped(message.encode()) if wrapped else message.encode()).encode())
    survives(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(raw))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=4)


@settings(deadline=None)
@given(st.sampled_from([*json.loads(FULL.encode()), "state", "probe", "session"]), json_values)
def test_any_value_in_any_field_is_read_or_refused(field: str, value: Any) -> None:
    survives(with_field(**{field: value}))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_an_older_body_of_arbitrary_content_is_read_or_refused(content: bytes) -> None:
    survives(base64.b64encode(content))


@pytest.mark.parametrize(("field", "value"), [
    ("ssh_key", KEY + "\nssh-rsa AAAA"), ("ssh_key", KEY + "\n"), ("ssh_key", KEY + " root@host"), ("ssh_key", "ssh-dss " + "A" * 80),
    ("ssh_key", "ssh-rsa " + "A" * 3000), ("ssh_key", 'command="x" ' + KEY), ("ssh_key", "ecdsa-sha2-nistp٢٥٦ " + "A" * 80),
    ("host", "a b"), ("host", "a\nb"), ("host", "-oProxyCommand=x"), ("host", "a\x00b"), ("host", "a" * 300), ("host", "exämple"),
    ("instance", "i-XYZ"), ("instance", ""), ("instance", "i-0123456789abcdef0\n"), ("instance", None),
    ("ip", "10.0.0.256"), ("ip", "fe80::1%a b"), ("public_ip", "1.2.3"), ("ip", "10.0.0.1\n"), ("ip", 167772161),
    ("taken_at", "soon"), ("taken_at", "2031-05-06T07:08:09Z\n"), ("rebalance", "2031-05-06T07:08:09+02:00"), ("rebalance", 1),
    ("user", "root; rm"), ("user", "-x"), ("type", "t3 micro"), ("zone", "eu\twest"),
    ("seq", -1), ("seq", True), ("seq", 1.5), ("seq", "1"), ("seq", 2**60), ("exit", 256), ("exit", "0"),
    ("ssh_port", 0), ("ssh_port", 65536),
    ("launch", "{6f1c7c1e-33a8-4be4-9a53-3f0a2f6d4f10}"), ("launch", "x"), ("launch", 1), ("phase", "gone"), ("phase", None),
    ("tail", "***"), ("tail", "A" * 20000), ("tail", base64.b64encode(b"x" * (TAIL_CHARS + 1)).decode()), ("tail", ["a"]),
    ("fleetctl", 0), ("fleetctl", "1"), ("fleetctl", True), ("fleetctl", None),
])
def test_a_field_that_is_not_what_it_must_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(with_field(**{field: value}))
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize("field", ["launch", "instance", "phase"])
def test_a_report_without_what_it_is_about_is_refused(field: str) -> None:
    body = json.loads(FULL.encode())
    del body[field]
    with pytest.raises(BadMessage, match=f"{field}: missing"):
        decode(json.dumps(body))


@pytest.mark.parametrize("body", [
    "", "{", "{}", "[1]", "null", "x", b"\xff\xfe", "{" + '"a":{' * 50_000, '{"fleetctl": ' + "9" * 5000 + "}", '{"fleetctl": NaN}',
    "\ud800", '{"Message": 1}', enveloped("{"), enveloped(enveloped(FULL.encode())), enveloped("[]"), "[" * 100_000,
    '{"Message": "[[[["}', enveloped("\ud800"),
])
def test_a_body_that_is_no_message_is_refused(body: str | bytes) -> None:
    with pytest.raises(BadMessage):
        decode(body)


def test_a_body_above_the_bound_is_refused_even_if_it_would_read() -> None:
    padded = FULL.encode() + " " * MESSAGE_BYTES
    with pytest.raises(BadMessage, match="longer"):
        decode(padded)
    assert decode(padded[: MESSAGE_BYTES]) == FULL


def test_unknown_keys_and_higher_versions_are_read() -> None:
    assert decode(with_field(fleetctl=7, colour={"a": [1]})) == FULL


def test_a_key_other_than_ours_is_refused() -> None:
    body = json.loads(FULL.encode())
    body["fleetctl9"] = body.pop("fleetctl")
    with pytest.raises(BadMessage):
        decode(json.dumps(body))


def test_fields_left_out_have_their_defaults() -> None:
    assert decode(json.dumps({"fleetctl": 1, "launch": str(LAUNCH), "instance": "i-01234567", "phase": "booted"})) == Report(
        LAUNCH, "i-01234567", Phase.BOOTED)


def test_a_beat_names_the_present_state() -> None:
    beat = dataclasses.replace(FULL, phase=Phase.BEAT, state=Phase.READY)
    assert decode(beat.encode()) == beat
    assert beat.present is Phase.READY
    assert FULL.present is Phase.FAILED


@pytest.mark.parametrize("state", [None, "beat", "gone", 1])
def test_a_beat_without_a_state_is_refused(state: Any) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(with_field(phase="beat", state=state))
    assert caught.value.field == "state"


def test_a_state_outside_a_beat_is_ignored_on_the_wire_and_refused_in_the_making() -> None:
    assert decode(with_field(state="ready")) == FULL
    with pytest.raises(BadMessage):
        dataclasses.replace(FULL, state=Phase.READY)


def test_a_tail_cut_inside_a_character_is_read() -> None:
    cut = "жжж".encode()[1:]
    report = decode(with_field(tail=base64.b64encode(cut).decode()))
    assert isinstance(report, Report)
    assert report.tail.endswith("жж")


def test_a_tail_with_half_a_surrogate_pair_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadMessage):
        dataclasses.replace(FULL, tail="\ud800")


@pytest.mark.parametrize("wrap", [str, enveloped, str.encode])
def test_the_older_form_means_ready(wrap: Any) -> None:
    fields = {"id": str(LAUNCH), "instance-id": "i-01234567", "public-hostname": "a.example", "local-ipv4": "10.0.0.1", "ami-id": "ami-1"}
    assert decode(wrap(older(**fields))) == Report(LAUNCH, "i-01234567", Phase.READY, ip="10.0.0.1", host="a.example")


def test_the_older_form_reads_with_an_empty_host_and_blank_lines() -> None:
    body = base64.b64encode(f"\n id : {LAUNCH}\r\ninstance-id:i-01234567\npublic-hostname:\n\nnonsense\n".encode())
    assert decode(body) == Report(LAUNCH, "i-01234567", Phase.READY)


@pytest.mark.parametrize("missing", ["id", "instance-id"])
def test_the_older_form_without_an_id_is_refused(missing: str) -> None:
    fields = {"id": str(LAUNCH), "instance-id": "i-01234567", "local-ipv4": "10.0.0.1"}
    del fields[missing]
    with pytest.raises(BadMessage, match=f"{missing}: missing"):
        decode(older(**fields))


def test_a_report_shows_itself_in_one_line() -> None:
    assert repr(FULL) == f"<Report i-0123456789abcdef0 failed seq=3 exit=7 launch={LAUNCH}>"
    beat = dataclasses.replace(FULL, phase=Phase.BEAT, state=Phase.READY, exit_code=None)
    assert repr(beat) == f"<Report i-0123456789abcdef0 beat=ready seq=3 launch={LAUNCH}>"
