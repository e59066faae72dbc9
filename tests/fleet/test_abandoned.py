"""A process that dies leaves a ledger, and whoever comes later can see and end what it left. Real processes, killed by SIGKILL."""

import contextlib
import os
import re
import sqlite3
import time

import boto3
import pytest

from fleetctl import bring_up_one_spot, local
from fleetctl.errors import LedgerError, ProfileError
from fleetctl.ledger import Ledger, sessions
from fleetctl.oversight import abandoned

pytestmark = pytest.mark.cloud

BEGIN = """
import time
from fleetctl import bring_up_spots, connect
session = connect("local")
print(session.id, flush=True)
request = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}}
launch = bring_up_spots(request, 2, "sleep 1000")
"""


def listed(home):
    """Ids of the sessions that `fleetctl ls` shows."""
    return [record.id for record in abandoned.listing(home)]


def ours(cloud, session):
    """The session's instances, with the host's process ids."""
    inventory = cloud.inventory()
    mine = [one["id"] for one in inventory["instances"] if one["tags"].get("fleetctl:session") == session]
    return {one: inventory["processes"][one] for one in mine}


def test_what_a_killed_process_left_is_listed_and_ended_and_the_living_are_spared(start, home, cloud, session, fleetctl, request_, living):
    spared = bring_up_one_spot(request_, "sleep 1000", session=session).result(60)
    process = start(BEGIN + "launch.result(60); print('up', flush=True); time.sleep(600)")
    dead, _ = process.stdout.readline().strip(), process.stdout.readline()
    process.kill()
    process.wait()
    machines = ours(cloud, dead)
    assert len(machines) == 2

    shown = fleetctl("ls").stdout
    [row] = [line for line in shown.splitlines() if dead in line]
    assert "UNOWNED: fleetctl down ends it" in row
    assert "2 ×" in row
    [row] = [line for line in shown.splitlines() if session.id in line]
    assert "alive" in row
    assert str(os.getpid()) in row

    ended = fleetctl("down")
    assert ended.returncode == 0, ended
    assert "all seen gone" in ended.stdout
    assert all(one in ended.stdout for one in machines)
    assert re.search(r"all seen gone; \$0\.\d{4} in all", ended.stdout), "what they cost, by the prices of now"
    assert f"session {session.id} is alive" in ended.stdout
    assert not {*machines} & living()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in machines.values())
    assert [name for name in cloud.inventory()["queues"] + cloud.inventory()["topics"] if dead in name] == []
    assert dead not in listed(home)
    assert spared.instance_id in living()

    forced = fleetctl("down", "--force")
    assert forced.returncode == 0
    assert spared.instance_id not in living()


def test_a_launch_call_that_was_on_its_way_when_its_process_died_is_found_by_its_tag(start, home, cloud, fleetctl, living, wait_for):
    cloud.fault("delay", operation="RequestSpotInstances", seconds=15)
    mark, process = cloud.calls()["mark"], start(BEGIN + "time.sleep(600)")
    dead = process.stdout.readline().strip()
    wait_for(lambda: "RequestSpotInstances" in cloud.calls(mark)["calls"].get("controller", {}).get("ec2", {}))
    process.kill()
    process.wait()
    [record] = [one for one in sessions(home / "ledgers") if one.id == dead]
    assert [entry.unknown for entry in abandoned.launches(record)] == [True]
    early = fleetctl("down")
    assert early.returncode == 1
    assert "NOT SEEN not visible" in early.stdout, "that nothing is to be seen yet proves nothing"
    tagged = [{"Name": "tag:fleetctl:session", "Values": [dead]}]
    ec2 = boto3.client("ec2", **cloud.client())
    wait_for(lambda: ec2.describe_spot_instance_requests(Filters=tagged)["SpotInstanceRequests"], 60)
    ended = fleetctl("down")
    assert ended.returncode == 0, ended
    rows = ec2.describe_spot_instance_requests(Filters=tagged)["SpotInstanceRequests"]
    assert {row["State"] for row in rows} <= {"cancelled", "closed"}
    assert not {row.get("InstanceId") for row in rows} & living()
    assert dead not in listed(home)


def test_a_session_whose_local_cloud_has_ended_is_simply_closed(start, fleetctl, tmp_path, environment):
    environment["FLEETCTL_HOME"] = str(tmp_path)
    process = start(BEGIN + "time.sleep(600)")
    dead = process.stdout.readline().strip()
    process.kill()
    process.wait()
    local.down(tmp_path / "local", force=True)
    assert listed(tmp_path) == [dead]
    ended = fleetctl("down")
    assert ended.returncode == 0
    assert "there was nothing to end" in ended.stdout
    assert listed(tmp_path) == []
    assert local.status(tmp_path / "local") is None, "and no other was started for it"


def test_one_session_that_cannot_be_ended_keeps_no_other_from_it(tmp_path, monkeypatch):
    for number, cloud in enumerate(("nowhere", "local")):
        Ledger.create(tmp_path / "ledgers", f"s{number}", cloud=cloud, region="us-east-1", endpoint="http://127.0.0.1:9").close()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ProfileError, match="nowhere"):
        abandoned.down(tmp_path)
    assert listed(tmp_path) == ["s0"], "the other's cloud has ended, so it is closed"


def test_ledgers_of_sessions_that_ended_long_ago_are_deleted_and_no_others(tmp_path):
    now = time.time()
    for name, ended in (("old", now - abandoned.KEPT_SECONDS - 60), ("young", now - 60), ("left", None)):
        ledger = Ledger.create(tmp_path / "ledgers", name, cloud="local", region="us-east-1", endpoint="http://127.0.0.1:9")
        with ledger._writing():
            ledger._mark(ended)
        ledger.close()
    living = Ledger.create(tmp_path / "ledgers", "living", cloud="local", region="us-east-1", endpoint="http://127.0.0.1:9")
    living._mark(1.0)
    abandoned.down(tmp_path)
    living.close()
    assert {one.id for one in sessions(tmp_path / "ledgers")} == {"young", "left", "living"}
    assert {path.stem for path in (tmp_path / "ledgers").iterdir()} == {"young", "left", "living"}


def test_a_session_of_another_account_is_not_taken_for_gone(start, home, cloud, fleetctl, tmp_path):
    process = start(BEGIN + "launch.result(60); print('up', flush=True); time.sleep(600)")
    dead, _ = process.stdout.readline().strip(), process.stdout.readline()
    process.kill()
    process.wait()
    machines = ours(cloud, dead)
    ledger = home / "ledgers" / f"{dead}.sqlite"
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        change = "UPDATE entry SET result = replace(result, ':123456789012:', ':{}:') WHERE operation = 'create_topic'"
        db.execute(change.format("999999999999"))
        db.commit()
        refused = fleetctl("down")
        assert refused.returncode == 1
        assert "999999999999" in refused.stderr
        assert {*machines} <= ours(cloud, dead).keys()
        db.execute(change.replace("123456789012", "999999999999").format("123456789012"))
        db.commit()
    assert fleetctl("down").returncode == 0
    assert not ours(cloud, dead)


def test_who_takes_over_waits_for_those_who_only_look(tmp_path, monkeypatch):
    made = Ledger.create(tmp_path / "ledgers", "s", cloud="local", region="us-east-1", endpoint="http://127.0.0.1:9")
    made.close()
    refused = []
    opened = Ledger.open

    def busy(path):
        if len(refused) < 3:
            refused.append(path)
            raise LedgerError("somebody looks at it")
        return opened(path)

    monkeypatch.setattr(Ledger, "open", busy)
    assert abandoned.take_over(tmp_path, "s").lines == ()
    assert len(refused) == 3
    assert listed(tmp_path) == []
