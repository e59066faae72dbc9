"""What travels through a session's topic: machines' reports and the session's own probes. Pure.

The rules, in one place:

* A message is trusted only as far as its channel. `decode` evaluates nothing, bounds everything it reads, and either returns a
  value whose every field has passed its check or raises `BadMessage`; there is no third outcome, whatever the bytes.
* The check stands in the constructors, so a `Report` that exists is well formed, and `decode(report.encode()) == report`.
* A report is a snapshot, not a step: it repeats all that the machine knows of itself, so any one of them heals those lost.
* Later versions may add keys and nothing else: keys that are not known here are ignored, and a higher version is read as this one.
  A change of meaning gets a new key in place of `fleetctl`, which this reader refuses.

Forms, each bare or as the `Message` of SNS's JSON envelope (subscriptions with and without raw message delivery):

    {"fleetctl": 1, "launch": …, "instance": …, "phase": …, …}     a report
    {"fleetctl": 1, "probe": nonce, "session": id}                 a probe
    base64 of lines `key: value` (id, instance-id, …)              a report of the older form; it means ready
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address
from sys import intern
from typing import Any, Final
from uuid import UUID

VERSION: Final = 1
MESSAGE_BYTES: Final = 256 * 1024  # what SNS takes in one message
TAIL_CHARS: Final = 3072  # a machine sends that many bytes at most, and bytes never decode to more characters
_TAIL_WIRE: Final = 4 * ((4 * TAIL_CHARS + 2) // 3)  # base64 of that many characters of four bytes each

_INSTANCE = re.compile(r"i-[0-9a-f]{8,17}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")  # never a leading "-": it goes into command lines
_KEY = re.compile(r"(?:ssh-ed25519|ecdsa-sha2-nistp[0-9]{3}|ssh-rsa) [A-Za-z0-9+/=]{16,2048}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")  # instance types and zones
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")  # session ids and nonces
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")  # as the metadata service writes them


class BadMessage(ValueError):
    """A body that is no message of ours, or a field that is not what it must be. `field` names it, '' where it is the whole body."""

    def __init__(self, why: str, field: str = "") -> None:
        self.why, self.field = why, field
        super().__init__(f"{field}: {why}" if field else why)


class Phase(StrEnum):
    """Where a machine says it is. `BEAT` is not a place: it repeats the present one, which stands in `Report.state`."""

    BOOTED = "booted"
    READY = "ready"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    BEAT = "beat"


@dataclass(frozen=True, slots=True)
class Report:
    """One snapshot of one machine. Empty texts say that the machine has no such thing, or could not learn it.

    `seq` grows with every report of a machine; `exit_code` and `tail` (text of the log's end) are those of the commands, if they
    have ended; `ip` and `public_ip` are IPv4; `host` is the public DNS name; `ssh_key` the host key's type and body, no comment;
    `state` is set in a beat and nowhere else; `taken_at` is when AWS will take the machine back, `rebalance` when it recommended to
    rebalance, both as ISO times. Raises `BadMessage` naming the field that is wrong.
    """

    launch: UUID
    instance: str
    phase: Phase
    seq: int = 0
    exit_code: int | None = None
    tail: str = ""
    ip: str = ""
    public_ip: str = ""
    host: str = ""
    ssh_port: int = 22
    ssh_key: str = ""
    user: str = ""
    type: str = ""
    zone: str = ""
    state: Phase | None = None
    taken_at: str = ""
    rebalance: str = ""

    def __post_init__(self) -> None:
        _match(_INSTANCE, self.instance, "instance", empty=False)
        _within(self.seq, 0, 2**53, "seq")
        if self.exit_code is not None:
            _within(self.exit_code, 0, 255, "exit")
        _within(self.ssh_port, 1, 65535, "ssh_port")
        _ipv4(self.ip, "ip")
        _ipv4(self.public_ip, "public_ip")
        for pattern, field in ((_HOST, "host"), (_KEY, "ssh_key"), (_USER, "user"), (_NAME, "type"), (_NAME, "zone"),
                               (_TIME, "taken_at"), (_TIME, "rebalance")):
            _match(pattern, getattr(self, field), field)
        if len(self.tail) > TAIL_CHARS:
            raise BadMessage(f"longer than {TAIL_CHARS} characters", "tail")
        _utf8(self.tail, "tail")
        if (self.phase is Phase.BEAT) is (self.state is None) or self.state is Phase.BEAT:
            raise BadMessage("a beat, and only a beat, names the present state", "state")

    def __repr__(self) -> str:
        ended = "" if self.exit_code is None else f" exit={self.exit_code}"
        return f"<Report {self.instance} {self.phase}{f'={self.state}' if self.state else ''} seq={self.seq}{ended} launch={self.launch}>"

    @property
    def present(self) -> Phase:
        """Where the machine is now: the phase, or what a beat repeats. Never `BEAT`."""
        return self.state or self.phase

    def encode(self) -> str:
        """The JSON form, ASCII only."""
        body: dict[str, Any] = {
            "fleetctl": VERSION, "launch": str(self.launch), "instance": self.instance, "phase": self.phase, "seq": self.seq,
            "exit": self.exit_code, "tail": base64.b64encode(self.tail.encode()).decode(), "ip": self.ip, "public_ip": self.public_ip,
            "host": self.host, "ssh_port": self.ssh_port, "ssh_key": self.ssh_key, "user": self.user, "type": self.type, "zone": self.zone,
        }
        optional = {"state": self.state, "taken_at": self.taken_at, "rebalance": self.rebalance}
        body |= {key: value for key, value in optional.items() if value}
        return json.dumps(body, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a session publishes to itself: when it comes back, the channel works. Raises `BadMessage` on an id that is none."""

    session: str
    nonce: str

    def __post_init__(self) -> None:
        _match(_TOKEN, self.session, "session", empty=False)
        _match(_TOKEN, self.nonce, "probe", empty=False)

    def encode(self) -> str:
        """The JSON form, ASCII only."""
        return json.dumps({"fleetctl": VERSION, "probe": self.nonce, "session": self.session}, separators=(",", ":"))


def decode(body: str | bytes) -> Report | Probe:
    """Read one message, bare or in SNS's envelope.

    Raises `BadMessage`, and nothing else, on a body that is too long, malformed, or wrong in any field.
    """
    if len(body) > MESSAGE_BYTES:
        raise BadMessage(f"longer than {MESSAGE_BYTES} bytes")
    text = _text(body, "body") if isinstance(body, bytes) else body
    if not text.lstrip().startswith("{"):
        return _decode_older(text)
    outer = _object(text)
    if "fleetctl" in outer:
        return _decode_json(outer)
    inner = outer.get("Message")
    if not isinstance(inner, str):
        raise BadMessage("neither a message of ours nor SNS's envelope of one")
    return _decode_json(_object(inner)) if inner.lstrip().startswith("{") else _decode_older(inner)


def _decode_json(body: dict[str, Any]) -> Report | Probe:
    _within(body.get("fleetctl"), VERSION, 2**31, "fleetctl")
    if "probe" in body:
        return Probe(session=_str(body, "session"), nonce=_str(body, "probe"))
    phase = _phase(_str(body, "phase"), "phase")
    state = _phase(_str(body, "state"), "state") if phase is Phase.BEAT else None
    return Report(  # words that thousands of reports have in common are kept once
        launch=_uuid(_str(body, "launch"), "launch"), instance=intern(_str(body, "instance")), phase=phase, seq=body.get("seq", 0),
        exit_code=body.get("exit"), tail=_tail(_str(body, "tail", "")), ip=_str(body, "ip", ""), public_ip=_str(body, "public_ip", ""),
        host=_str(body, "host", ""), ssh_port=body.get("ssh_port", 22), ssh_key=_str(body, "ssh_key", ""),
        user=intern(_str(body, "user", "")), type=intern(_str(body, "type", "")), zone=intern(_str(body, "zone", "")), state=state,
        taken_at=_str(body, "taken_at", ""), rebalance=_str(body, "rebalance", ""),
    )


def _decode_older(text: str) -> Report:
    """The form of older machines: no key, no sequence, one report in a life, sent when their commands had begun."""
    lines = _text(_base64("".join(text.split()), "body"), "body").splitlines()
    fields = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    return Report(
        launch=_uuid(_str(fields, "id"), "id"), instance=_str(fields, "instance-id"), phase=Phase.READY,
        ip=_str(fields, "local-ipv4", ""), host=_str(fields, "public-hostname", ""),
    )


def _object(text: str) -> dict[str, Any]:
    try:
        found = _JSON.decode(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested by the thousand
        raise BadMessage(f"not JSON ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise BadMessage("not a JSON object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)  # one: making it takes as long as a message


def _text(raw: bytes, field: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadMessage("not UTF-8", field) from error


def _utf8(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadMessage("has half of a surrogate pair", field) from error


def _base64(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BadMessage("not base64", field) from error


def _tail(wire: str) -> str:
    """A log's last bytes. They may start inside a character, or be no UTF-8 at all, so decoding replaces what it can't read."""
    if len(wire) > _TAIL_WIRE:
        raise BadMessage(f"longer than {_TAIL_WIRE} characters of base64", "tail")
    return _base64(wire, "tail").decode(errors="replace")


def _str(body: dict[str, Any], key: str, default: str | None = None) -> str:
    found = body.get(key, default)
    if not isinstance(found, str):
        raise BadMessage("missing" if key not in body else "not a text", key)
    return found


def _phase(text: str, field: str) -> Phase:
    try:
        return Phase(text)
    except ValueError as error:
        raise BadMessage("no phase that is known", field) from error


@lru_cache(64)  # thousands of machines name the same launch
def _uuid(text: str, field: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError as error:
        raise BadMessage("not a UUID", field) from error
    if str(found) != text.lower():  # UUID() also takes braces, URNs and digits of other scripts
        raise BadMessage("not a UUID in its usual form", field)
    return found


def _within(found: Any, low: int, high: int, field: str) -> None:
    if type(found) is not int or not low <= found <= high:  # True is an int to isinstance
        raise BadMessage(f"not a whole number from {low} to {high}", field)


def _match(pattern: re.Pattern[str], found: str, field: str, *, empty: bool = True) -> None:
    if (found or not empty) and not pattern.fullmatch(found):
        raise BadMessage("not of the form that it must have", field)


def _ipv4(found: str, field: str) -> None:
    try:
        if found:
            IPv4Address(found)
    except ValueError as error:
        raise BadMessage("not an IPv4 address", field) from error
