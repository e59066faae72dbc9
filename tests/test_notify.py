"""The demultiplexer hands each report to its launch and survives everything else."""

import json
from uuid import uuid4

from fleetctl.messages import Phase, Probe, Report
from fleetctl.notify import Demultiplexer


def report(launch, seq=1):
    return Report(launch, "i-0123456789abcdef0", Phase.READY, seq=seq)


def test_reports_go_to_the_launch_with_their_id():
    wires, got = Demultiplexer("s"), {}
    ours, theirs = uuid4(), uuid4()
    for launch in (ours, theirs):
        wires.handlers[launch] = lambda r, launch=launch: got.setdefault(launch, []).append(r.seq)
    wires.feed(report(theirs, 2).encode())
    wires.feed(report(ours, 1).encode())
    assert got == {ours: [1], theirs: [2]}


def test_envelopes_of_sns_are_opened():
    wires, got = Demultiplexer("s"), []
    launch = uuid4()
    wires.handlers[launch] = got.append
    wires.feed(json.dumps({"Type": "Notification", "Message": report(launch).encode()}))
    assert [r.launch for r in got] == [launch]


def test_garbage_unknown_ids_and_foreign_probes_are_counted_and_dropped():
    wires = Demultiplexer("s")
    good = report(uuid4()).encode()
    for body in ("", "{", good[: len(good) // 2], "null", "[]", "\x00" * 10):
        wires.feed(body)
    wires.feed(good)
    wires.feed(Probe("another", "n").encode())
    assert wires.counts == {"malformed": 6, "unknown": 1, "foreign": 1}


def test_a_launch_that_breaks_does_not_stop_the_others(caplog):
    wires = Demultiplexer("s")
    bad, good, got = uuid4(), uuid4(), []
    wires.handlers[bad] = lambda r: 1 / 0
    wires.handlers[good] = got.append
    wires.feed(report(bad).encode())
    wires.feed(report(good).encode())
    assert len(got) == 1
    assert wires.counts["broken"] == 1
    assert "could not take a report" in caplog.text
