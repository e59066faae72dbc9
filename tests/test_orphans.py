"""Whose things are, what has outlived its end, and how a ledger takes orphans in."""

from fleetctl.ending.estate import Estate
from fleetctl.ending.kinds import KINDS, Thing
from fleetctl.ledger import SessionRecord
from fleetctl.oversight import orphans
from fleetctl.oversight.orphans import Found

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def found(kind, id, session=A, *, launch="", expires=None):
    return Found(kind, id, "us-east-1", session, launch, expires)


def record(session, *, living=False, ended=None):
    return SessionRecord(session, None, 1, "aws", "us-east-1", None, 0.0, ended, living, ())


def test_only_a_name_of_ours_in_full_tells_a_session():
    assert orphans.session_of("https://sqs.us-east-1.amazonaws.com/123456789012/fleetctl-aaaaaaaaaaaa-01234567") == A
    assert orphans.session_of("arn:aws:sns:us-east-1:123456789012:fleetctl-aaaaaaaaaaaa-01234567:0a1b-2c") == A
    assert orphans.session_of("/fleetctl/aaaaaaaaaaaa/grid-01ab") == A
    strangers = ("fleetctl-aaaaaaaaaaaa-01234567-mine", "my-fleetctl-aaaaaaaaaaaa-01234567", "fleetctl-tools", "/fleetctlx/aaaaaaaaaaaa/")
    for stranger in strangers:
        assert orphans.session_of(stranger) == ""


def test_an_orphan_is_what_no_session_that_has_not_ended_owns():
    things = [found("instance", "i-1"), found("instance", "i-2", B), found("instance", "i-3", "cccccccccccc")]
    known = [record(A), record(B, ended=5.0)]
    assert [one.id for one in orphans.orphans(things, known)] == ["i-2", "i-3"]
    assert orphans.orphans(things[1:2], [record(B, ended=5.0, living=True)]) == []


def test_what_is_past_its_end_is_reaped_and_a_channel_only_with_the_last_of_its_machines():
    old, young = found("instance", "i-1", expires=10.0), found("instance", "i-2", expires=1000.0)
    topic, other = found("topic", "t"), found("topic", "u", B)
    assert orphans.expired([old, topic, other], now=100.0) == [old, topic]
    assert orphans.expired([old, young, topic, other], now=100.0) == [old]
    assert orphans.expired([topic, other], now=100.0) == [], "nobody can say how old these are"


def test_a_launch_ends_as_a_whole_by_the_latest_end_that_anything_of_it_bears():
    moved, volume, fleet = (found(kind, id, launch="L", expires=end) for kind, id, end in (
        ("instance", "i-1", 1000.0), ("volume", "vol-1", 10.0), ("fleet", "fleet-1", 10.0)))
    other = found("instance", "i-2", launch="M", expires=10.0)
    assert orphans.expired([moved, volume, fleet, other], now=100.0) == [other]
    assert orphans.expired([moved, volume, fleet, other], now=1000.0) == [moved, volume, fleet, other]
    assert orphans.expired([volume, fleet], now=100.0) == [volume, fleet], "what is left of machines that have ended"


def test_what_a_ledger_takes_in_is_what_a_teardown_ends():
    machines = [found("spot request", "sir-1", launch="L"), found("instance", "i-1", launch="L"), found("fleet", "fleet-1", launch="L")]
    things = [found(kind, f"id of {kind}") for kind in KINDS]
    estate = Estate.read(A, "us-east-1", orphans.entries([*machines, *things, found("volume", "vol-1")], at=5.0))
    assert (estate.requests, estate.instances, estate.fleets) == ({"sir-1": 5.0}, {"i-1": 5.0}, {"fleet-1": 5.0})
    assert estate.things == [Thing(kind, f"id of {kind}") for kind in KINDS]
    assert estate.launched
    assert not estate.unsure
    assert Estate.read(A, "us-east-1", orphans.entries([found("volume", "vol-1")], at=5.0)).launched, "so that its tag is looked for"
