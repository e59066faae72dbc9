"""Bundles, files and variables of a launch: in S3 before anything is launched, each once, and gone when they are to be."""

import dataclasses
import json
from datetime import timedelta

import pytest
from fake_aws import REQUEST, REQUESTS, FakeAws, profile, refusal

from fleetctl import bring_up_one_spot, bring_up_spots, bundle, teardown, teardown_all
from fleetctl.errors import Denied, RequestInvalid, ScriptFailed
from fleetctl.session import Session


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    place = tmp_path_factory.mktemp("bundles")
    (place / "mine.py").write_text("import gridworker\n")
    return bundle.build(place / "mine.py", home=place)


@pytest.fixture
def shared(quick, tmp_path):
    """Makes sessions whose profile names a bucket."""
    sessions = []

    def make(cloud):
        cloud.buckets.setdefault("my-lab", {})
        named = dataclasses.replace(profile(cloud, tmp_path), bucket="my-lab")
        object.__setattr__(named, "cloud", cloud)
        sessions.append(Session(named))
        return sessions[-1]

    yield make
    for session in sessions:
        session.leave()


def puts(cloud, what):
    sent = zip(cloud.calls, cloud.parameters, strict=True)
    return [given for operation, given in sent if operation == "put_object" and what in given["Key"]]


def test_a_bundle_is_in_the_bucket_before_the_launch_and_once_for_all_of_them(fake_session, built):
    session = fake_session(cloud := FakeAws())
    launches = [bring_up_spots(REQUEST, 3, "true", bundle=built, session=session) for _ in range(3)]
    assert [len(one.result(20).succeeded) for one in launches] == [3, 3, 3]
    [given] = puts(cloud, built.key)
    assert given["Body"] == built.path.read_bytes()
    assert cloud.calls.index("put_object") < cloud.calls.index("request_spot_instances")
    assert teardown_all(session=session).result(30).remaining == ()
    assert cloud.buckets == {}


def test_in_the_profiles_bucket_it_outlives_the_session_and_is_not_sent_again(shared, built):
    first = shared(cloud := FakeAws())
    assert built.ship(session=first).result(10) == f"my-lab/fleetctl/{built.key}"
    assert teardown_all(session=first).result(30).remaining == ()
    assert list(cloud.buckets["my-lab"]) == [f"fleetctl/{built.key}"]
    second = shared(cloud)
    bring_up_spots(REQUEST, 1, "true", bundle=built, session=second).result(20)
    assert len(puts(cloud, built.key)) == 1


def test_one_that_its_buckets_rules_could_end_soon_is_put_there_again(shared, built):
    session = shared(cloud := FakeAws())
    built.ship(session=session).result(10)
    cloud.ages[f"fleetctl/{built.key}"] = timedelta(days=8)
    built.ship(session=shared(cloud)).result(10)
    assert len(puts(cloud, built.key)) == 2


def test_half_of_one_is_not_taken_for_it(shared, built):
    session = shared(cloud := FakeAws())
    cloud.buckets["my-lab"][f"fleetctl/{built.key}"] = b"half"
    built.ship(session=session).result(10)
    assert cloud.buckets["my-lab"][f"fleetctl/{built.key}"] == built.path.read_bytes()


def test_who_may_not_look_whether_it_is_there_sends_it(fake_session, built):
    session = fake_session(cloud := FakeAws())

    async def blind(service, operation, parameters):
        if operation == "head_object":
            raise refusal(Denied, service, operation, "403")

    cloud.before = blind
    assert built.ship(session=session).result(10).endswith(built.key)


@pytest.mark.parametrize("shape", REQUESTS)
def test_files_and_variables_go_with_their_launch_and_are_in_no_user_data_and_no_ledger(fake_session, tmp_path, shape):
    session = fake_session(cloud := FakeAws())
    (tmp_path / "table.csv").write_text("x")
    launch = bring_up_spots(REQUESTS[shape], 2, "true", files=[tmp_path / "table.csv"], env={"TOKEN": "hush-hush"}, session=session)
    assert len(launch.result(20).succeeded) == 2
    [given] = puts(cloud, f"files-{launch.uuid}")
    assert given["Key"] in {key for keys in cloud.buckets.values() for key in keys}
    said = json.dumps([entry.request for entry in session.ledger.entries()], default=str)
    assert "hush" not in said and "hush" not in repr(cloud.parameters[: cloud.calls.index("put_object")])
    assert launch._conductor.order.program.lines[-1] == "true"
    assert teardown(launch).result(30).remaining == ()
    assert [key for keys in cloud.buckets.values() for key in keys if "files-" in key] == []


def test_a_bundle_that_cannot_be_sent_launches_nothing(fake_session, built):
    session = fake_session(cloud := FakeAws())

    async def deny(service, operation, parameters):
        if operation == "put_object":
            raise refusal(Denied, service, operation, "AccessDenied")

    cloud.before = deny
    with pytest.raises(Denied, match="put_object"):
        bring_up_spots(REQUEST, 2, "true", bundle=built, session=session).result(20)
    assert "request_spot_instances" not in cloud.calls


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"files": ["/no/such/file"]}, "there is no file /no/such/file"),
        ({"files": "table.csv"}, "files are paths"),
        ({"files": {"../up": __file__}}, "is no name there"),
        ({"files": {"/etc/x": __file__}}, "is no name there"),
        ({"files": [__file__, __file__]}, "two files would be test_cargo.py"),
        ({"env": {"A B": "x"}}, "no name that a variable can have"),
        ({"env": {"FLEETCTL_RUN": "x"}}, "no name that a variable can have"),
        ({"env": {"A": 5}}, "the variable A must be a text"),
        ({"env": ["A"]}, "env is a mapping"),
        ({"bundle": "gridworker"}, "build it first"),
    ],
)
def test_what_cannot_go_along_is_refused_before_anything_is_asked(fake_session, options, words):
    session = fake_session(cloud := FakeAws())
    with pytest.raises(RequestInvalid, match=words):
        bring_up_spots(REQUEST, 1, "true", session=session, **options)
    assert (cloud.calls, session.launches) == ([], [])


def test_the_lines_for_ones_own_commands_are_those_that_a_launch_uses(fake_session, built):
    session = fake_session(FakeAws())
    [line] = built.commands(session=session)
    assert f"bundle={built.name}\n" in line and built.key in line
    assert line == bring_up_spots(REQUEST, 1, "true", bundle=built, session=session)._conductor.order.program.lines[0]


@pytest.mark.cloud
def test_machines_take_it_from_s3_and_the_notebook_sends_it_once(session, request_, cloud, built, tmp_path):
    (tmp_path / "word").write_text("there\n")
    mark = cloud.calls()["mark"]
    launch = bring_up_spots(request_, 3, ['test "$(cat word)$TIMES" = there3', "python3 -c 'import mine'", "exec sleep 60"], bundle=built,
                            files=[tmp_path / "word"], env={"TIMES": "3"}, subnet="private", session=session)  # fmt: skip
    machines = launch.result(60)
    assert len(machines.succeeded) == 3
    calls = cloud.calls(mark)["calls"]
    sent = calls["controller"]["s3"]
    assert (sent["PutObject"], "GetObject" in sent) == (2, False)
    fetched = [one["s3"]["GetObject"] for who, one in calls.items() if who != "controller" and "s3" in one]
    assert sum(fetched) >= 4, "each its own files, and one at least the bundle: machines here share a disk"
    where = '. "$(ls -d ~/.fleetctl/*/activate)" && command -v python3'
    assert built.name in machines.succeeded[0].run(where).result(20).stdout
    assert teardown_all(session=session).result(60).remaining == ()


@pytest.mark.cloud
def test_another_python_on_the_machines_is_an_error_here_that_names_both_sides(session, request_, built):
    other = dataclasses.replace(built, python="3.99", name="9" * 64)
    with pytest.raises(ScriptFailed, match=r"is for Python 3\.99 on \w+, and this machine has 3\.\d+ on") as caught:
        bring_up_one_spot(request_, "true", bundle=other, session=session, subnet="private").result(60)
    assert caught.value.exit_code == 86
    assert teardown_all(session=session).result(60).remaining == ()
