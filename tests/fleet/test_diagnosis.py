"""One table says what is the matter with a machine: by itself over SSH, by EC2 where that does not answer."""

import dataclasses

import pytest
from openssh import openssh  # noqa: F401  the fixture

from fleetctl import bring_up_one_spot, hosts
from fleetctl.reach import diagnosis, link


async def test_a_machine_that_answers_tells_of_itself(openssh):  # noqa: F811
    server = openssh()
    with hosts([{**server.said, "name": "box"}], host_key=server.host_key) as machines:
        found = await machines["box"].diagnose()
    for what in ("ssh", "clock", "load", "memory", "disk /"):
        assert found[what].ok is not None, str(found)
    assert "s from this computer's" in found["clock"].found and found["clock"].ok
    assert "GiB free" in found["disk /"].found
    assert "diagnosis of box" in str(found)
    assert "GiB free" in found._repr_html_()


@pytest.mark.cloud
async def test_where_ssh_does_not_answer_ec2_tells_its_state_its_checks_and_its_console(session, request_, monkeypatch):
    monkeypatch.setattr(link, "SECONDS", 1.0)
    machine = await bring_up_one_spot(request_, "echo 'the last words'; exec sleep 1000", session=session)
    well = await machine.diagnose()
    assert (well["state"].found, well["ssh"].ok) == ("running", True)
    assert "the last words" in well["log"].found
    machine._slot.report = dataclasses.replace(machine._slot.report, ssh_port=1)  # where nobody listens
    ill = await machine.diagnose()
    assert not ill and "look at ssh" in repr(ill)
    assert "no SSH to" in ill["ssh"].found
    assert ill["state"].found == "running"
    assert ill["system check"].found == "ok"
    assert "Shutdown scheduled" in ill["console"].found, "the boot script's first words; its log follows every two seconds"


def test_what_looks_bad_is_told_and_what_a_machine_does_not_tell_is_no_fault():
    memory = "MemTotal: 1000000 kB\nMemAvailable: 20000 kB"
    said = f"@@clock\n1000.0\n@@load\n9.1 1 1 1/2 3\n2\n@@memory\n{memory}\n@@disk\n/dev/x 100 99 1 99% /\n"
    found = diagnosis.Diagnosis("m", tuple(diagnosis.inside(said, 1100.0, 1100.2)))
    assert {row.what for row in found.rows if row.ok is False} == {"clock", "load", "memory", "disk /"}
    assert repr(found) == "<diagnosis of m: look at clock, load, memory, disk />"
    empty = diagnosis.Diagnosis("m", tuple(diagnosis.inside("", 0.0, 0.1)))
    assert empty and empty["load"].found == "not told"
    with pytest.raises(KeyError):
        empty["colour"]


def test_what_ec2_says_of_an_end_is_told():
    row = {"State": {"Name": "terminated"}, "StateReason": {"Message": "Server.SpotInstanceTermination"}}
    (state,) = diagnosis.outside(row, None, "")
    assert state == ("state", "terminated: Server.SpotInstanceTermination", False)
    assert diagnosis.outside(None, None, "")[0].ok is False
    impaired = diagnosis.outside({"State": {"Name": "running"}}, {"SystemStatus": {"Status": "impaired"}}, "a\nb\n")
    assert [(one.what, one.ok) for one in impaired] == [("state", True), ("system check", False), ("console", None)]
