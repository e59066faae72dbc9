"""Commands that are too long for user data: into the session's bucket before the launch call, and gone with their launch."""

import base64
import random

import pytest
from fake_aws import REQUESTS, FakeAws, refusal

from fleetctl import bring_up_spots, preflight, teardown, teardown_all
from fleetctl.bootstrap import packed, program, told
from fleetctl.cloud import ec2
from fleetctl.errors import Denied, UserDataTooLarge

LONG = f"echo {random.Random(1).randbytes(40_000).hex()} >/dev/null"
each_shape = pytest.mark.parametrize("shape", REQUESTS)
MAKES = {"RequestSpotInstances": "request_spot_instances", "RunInstances": "run_instances", "CreateFleet": "create_launch_template"}


def script(cloud, shape):
    """The user data that were sent."""
    sent = cloud.parameters[cloud.calls.index(MAKES[shape])]
    if shape == "RunInstances":
        return sent["UserData"]
    part = sent["LaunchSpecification" if shape == "RequestSpotInstances" else "LaunchTemplateData"]
    return base64.b64decode(part["UserData"]).decode()


@each_shape
def test_long_commands_are_in_the_bucket_before_anything_is_launched_and_go_with_the_launch(fake_session, shape):
    session = fake_session(cloud := FakeAws())
    launch = bring_up_spots(REQUESTS[shape], 2, LONG, session=session)
    assert len(launch.result(20).succeeded) == 2
    place, _, key = told(script(cloud, shape), "bulk").partition("/")
    assert cloud.buckets[place] == {key: packed(program(LONG))}
    assert cloud.calls.index("put_object") < cloud.calls.index(MAKES[shape])
    [entry] = [one for one in session.ledger.entries() if one.operation == "put_object"]
    assert (entry.launch, entry.request["Body"]) == (str(launch.uuid), "…"), "the ledger holds no commands"
    receipt = teardown(launch).result(30)
    assert (receipt.remaining, cloud.buckets[place]) == ((), {})
    assert f"{place}/{key}" in {line.id for line in receipt.found}
    assert teardown_all(session=session).result(30).remaining == ()
    assert cloud.buckets == {}


def test_short_commands_make_no_bucket(fake_session):
    session = fake_session(cloud := FakeAws())
    bring_up_spots(REQUESTS["RunInstances"], 1, "true", session=session).result(20)
    assert (cloud.buckets, told(script(cloud, "RunInstances"), "bulk")) == ({}, "")


@each_shape
def test_where_there_is_no_bucket_for_them_they_are_refused_with_the_reason_and_nothing_is_launched(fake_session, shape):
    session = fake_session(cloud := FakeAws())

    async def deny(service, operation, parameters):
        if service == "s3":
            raise refusal(Denied, service, operation, "AccessDenied")

    cloud.before = deny
    with pytest.raises(UserDataTooLarge, match=r"EC2 takes 16,384.*could not be put into S3.*create_bucket.*AccessDenied") as error:
        bring_up_spots(REQUESTS[shape], 2, LONG, session=session).result(20)
    assert "let the session have a bucket" in str(error.value)
    assert cloud.alive() == set()
    assert MAKES[shape] not in cloud.calls


@pytest.mark.cloud
def test_machines_fetch_long_commands_and_run_them_and_nothing_of_them_is_left(session, request_, cloud, living):
    program = [f"echo {number:04} >>lines  # {'-' * 200}" for number in range(500)] + [f": {LONG}", 'test "$(wc -l <lines)" = 500']
    checks = {one.name: one for one in preflight(request_, 1, program, session=session).result(60).checks}
    assert "go into the session's bucket" in checks["user data"].found
    launch = bring_up_spots(request_, 2, program, session=session)
    assert len(launch.result(90).succeeded) == 2
    objects = [key for one in cloud.inventory()["buckets"] if session.id in one["name"] for key in one["objects"]]
    assert objects == [f"commands-{launch.uuid}"]
    receipt = teardown_all(session=session).result(60)
    assert receipt.remaining == ()
    assert [one for one in cloud.inventory()["buckets"] if session.id in one["name"]] == []
    assert {one["id"] for one in cloud.inventory()["instances"] if one["tags"].get(ec2.SESSION_TAG) == session.id} & living() == set()
