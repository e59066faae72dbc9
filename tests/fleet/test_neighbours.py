"""Whatever ends things touches only what is ours: what else is in the account is as it was, in every region. The oracle is the cloud."""

import time
from contextlib import contextmanager

import pytest
from fake_listing import STRANGER, world
from test_ending import SHAPES, launch

from fleetctl.__main__ import _parser
from fleetctl.cloud import ec2
from fleetctl.ledger import sessions
from fleetctl.oversight import abandoned, recovery
from fleetctl.session import Session

OVER = "2020-01-01T00:00:00Z"
ENDS = {
    "down": [("down",)],
    "recover": [("recover", "--end")],
    "adopt": [("adopt", "SESSION", "--cloud", "world", "--all-regions", "--yes"), ("recover", "--end")],
    "reap": [("reap", "--cloud", "world", "--all-regions")],
}
each_end = pytest.mark.parametrize("end", ENDS)


def run(end, session, *, wide=True):
    """One end's commands in this process; their exit statuses. Not `wide`: without --all-regions."""
    commands = [[session if word == "SESSION" else word for word in words if wide or word != "--all-regions"] for words in ENDS[end]]
    return [(options := _parser().parse_args(words)).run(options) or 0 for words in commands]


@pytest.fixture
def account(quick, tmp_path, monkeypatch):
    """A profile with two regions full of neighbours, and the regions."""
    profile, regions = world(tmp_path, "us-east-1", "eu-west-1")
    for module in (abandoned, recovery):
        monkeypatch.setattr(module, "load", lambda name, home: profile)
    monkeypatch.setenv("FLEETCTL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return profile, regions


@contextmanager
def lived(profile, shape):
    """A session that has one of everything, and a machine that leaves a volume; then it is left."""
    session = Session(profile)
    for make in (session.channel, session.secret_parameter, session.bucket):
        session.submit(make(), "something").result(20)
    request = SHAPES[shape]
    kept = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}]
    inner = {"spot": "LaunchSpecification", "fleet": "LaunchTemplateData"}.get(shape)
    disks = {"BlockDeviceMappings": kept}
    launch(session, {**request, inner: {**request[inner], **disks}} if inner else {**request, **disks}, 2)
    cloud = profile.aws()
    while len(cloud.ours() & {*cloud.instances}) < 2:
        time.sleep(0.01)
    session.leave()
    yield session.id


def lose_ledger(home, session):
    for path in (home / "ledgers").glob(f"{session}.*"):
        path.unlink()


def expire(cloud, session):
    """The time of all machines and requests of the session is over."""
    mine = [id for id, tags in cloud.tags.items() if {"Key": ec2.SESSION_TAG, "Value": session} in tags and id.startswith(("i-", "sir-"))]
    cloud._create_tags({"Resources": mine, "Tags": [{"Key": ec2.EXPIRES_TAG, "Value": OVER}]})


@each_end
@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_is_ours_goes_and_all_that_is_not_stays(account, end, shape, tmp_path):
    profile, regions = account
    here = regions[profile.region]
    with lived(profile, shape) as session:
        assert here.ours()
    if end == "adopt":
        lose_ledger(tmp_path, session)
    if end == "reap":
        lose_ledger(tmp_path, session)
        expire(here, session)
    assert not any(run(end, session))
    assert here.ours() == set()
    assert {name: cloud.harmed() for name, cloud in regions.items()} == {name: [] for name in regions}
    assert STRANGER not in [record.id for record in sessions(tmp_path / "ledgers") if record.ended]


@pytest.mark.parametrize("end", ["adopt", "reap"])
def test_what_a_session_has_in_another_region_goes_too_and_only_where_all_regions_are_meant(account, end, tmp_path, capsys):
    profile, regions = account
    elsewhere = type(profile)("world", "eu-west-1", home=tmp_path)
    with lived(elsewhere, "run") as session:
        lose_ledger(tmp_path, session)
    there = regions["eu-west-1"]
    expire(there, session)
    before = there.ours()
    run(end, session, wide=False)
    assert there.ours() == before
    capsys.readouterr()
    assert not any(run(end, session))
    assert there.ours() == set()
    assert "eu-west-1" in capsys.readouterr().out
    assert [cloud.harmed() for cloud in regions.values()] == [[], []]
