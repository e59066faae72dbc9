"""The session's place in S3: made when it is needed, private, and in the ledger before it is there."""

import asyncio
import dataclasses
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from fake_aws import FakeAws, profile, refusal

from fleetctl import teardown_all
from fleetctl.errors import AwsError, Network
from fleetctl.session import Session


def bucket(session):
    return session.submit(session.bucket(), "bucket").result(10)


def put(session, key, body):
    async def work():
        return await (await session.bucket()).put(key, body)

    return session.submit(work(), "put").result(10)


def made(session, operation):
    return [entry for entry in session.ledger.entries() if entry.operation == operation]


@pytest.mark.cloud
def test_a_bucket_of_its_own_is_private_encrypted_and_tagged(session, cloud):
    ours = bucket(session)
    assert put(session, "fuse", b"lit") == "fuse"
    s3 = session.boto3().client("s3")
    assert ours.name.startswith(f"fleetctl-{session.id}-")
    assert s3.get_bucket_tagging(Bucket=ours.name)["TagSet"] == [{"Key": "fleetctl:session", "Value": session.id}]
    closed = s3.get_public_access_block(Bucket=ours.name)["PublicAccessBlockConfiguration"]
    assert len(closed) == 4 and all(closed.values())
    read = s3.get_object(Bucket=ours.name, Key="fuse")
    assert (read["Body"].read(), read["ServerSideEncryption"]) == (b"lit", "AES256")
    assert {"name": ours.name, "region": "us-east-1", "objects": ["fuse"]} in cloud.inventory()["buckets"]


def test_a_session_that_needs_none_makes_none_and_all_who_ask_share_one(fake_session):
    session = fake_session(FakeAws())
    assert session.aws.buckets == {}
    assert bucket(session) is bucket(session)
    assert list(session.aws.buckets) == [bucket(session).name]


def test_in_the_profiles_bucket_a_session_has_a_prefix_of_its_own_and_makes_nothing(quick, tmp_path):
    cloud = FakeAws()
    cloud.buckets["my-lab"] = {"theirs": b""}
    named = dataclasses.replace(profile(cloud, tmp_path), bucket="my-lab")
    object.__setattr__(named, "cloud", cloud)
    session = Session(named)
    try:
        key = put(session, "fuse", b"lit")
        assert key.startswith(f"fleetctl/{session.id}-") and key.endswith("/fuse")
        assert cloud.buckets == {"my-lab": {"theirs": b"", key: b"lit"}}
        assert cloud.calls == ["put_object"]
        assert "ServerSideEncryption" not in cloud.parameters[0], "how it is encrypted there is its owner's business"
        assert [(one.request["Bucket"], one.request["Key"]) for one in made(session, "put_object")] == [("my-lab", key)]
    finally:
        session.leave()


def test_the_ledger_knows_the_bucket_and_the_object_before_aws_does_and_never_a_body(fake_session):
    session = fake_session(FakeAws())
    seen = []

    async def look(service, operation, parameters):
        seen.append((operation, [entry.operation for entry in session.ledger.entries()][-1]))

    session.aws.before = look
    put(session, "fuse", b"a body of nobody's business")
    assert ("create_bucket", "create_bucket") in seen
    assert ("put_object", "put_object") in seen
    assert "business" not in json.dumps([entry.request for entry in session.ledger.entries()])


def test_an_object_that_is_written_again_has_one_line_in_the_ledger(fake_session):
    session = fake_session(FakeAws())
    for n in range(5):
        put(session, "fuse", b"%d" % n)
    put(session, "other", b"x")
    assert session.aws.buckets[bucket(session).name] == {"fuse": b"4", "other": b"x"}
    assert [entry.request["Key"] for entry in made(session, "put_object")] == ["fuse", "other"]


def test_an_object_whose_first_write_was_refused_is_not_taken_for_known(fake_session):
    session = fake_session(FakeAws())
    bucket(session)

    async def refuse(service, operation, parameters):
        raise refusal(AwsError, service, operation, "SlowDown")

    keep, session.aws.before = session.aws.before, refuse
    with pytest.raises(AwsError):
        put(session, "fuse", b"1")
    session.aws.before = keep
    put(session, "fuse", b"2")
    assert len(made(session, "put_object")) == 2


@pytest.mark.parametrize("second", ["applied", "BucketAlreadyOwnedByYou"])
def test_a_bucket_whose_making_was_not_answered_is_made_once(fake_session, monkeypatch, second):
    session = fake_session(FakeAws())
    monkeypatch.setattr("fleetctl.cloud.ec2.PAUSES", (0, 0, 0, 0, 0))
    answers = [refusal(Network, "s3", "create_bucket", "ReadTimeoutError")]
    if second != "applied":
        answers.append(refusal(AwsError, "s3", "create_bucket", second))

    async def lost(service, operation, parameters):
        if operation == "create_bucket" and answers:
            raise answers.pop(0)

    session.aws.after = lost
    assert {bucket(session).name} == set(session.aws.buckets)
    assert session.aws.tags[bucket(session).name] == [{"Key": "fleetctl:session", "Value": session.id}]


def test_outside_of_the_home_region_the_bucket_names_its_region(tmp_path):
    for region, expected in (("us-east-1", None), ("eu-west-1", {"LocationConstraint": "eu-west-1"})):
        cloud = FakeAws()
        there = dataclasses.replace(profile(cloud, tmp_path), region=region)
        object.__setattr__(there, "cloud", cloud)
        session = Session(there)
        try:
            bucket(session)
            [call] = [p for name, p in zip(cloud.calls, cloud.parameters, strict=True) if name == "create_bucket"]
            assert call.get("CreateBucketConfiguration") == expected
        finally:
            session.leave()


def test_after_a_teardown_of_everything_the_next_bucket_has_another_name(fake_session):
    session = fake_session(FakeAws())
    before = bucket(session).name
    session.teardown_all().result(30)
    assert bucket(session).name != before


BODY = bytes(range(256)) * 4


@pytest.fixture
def small(monkeypatch):
    """Whatever has more than a hundred bytes is large."""
    monkeypatch.setattr("fleetctl.cloud.parts.LARGE", 100)
    monkeypatch.setattr("fleetctl.cloud.ec2.PAUSES", (0, 0, 0, 0, 0))


def keep(session, read=lambda start, length: BODY[start : start + length], size=1024):
    async def work():
        return await (await session.bucket()).keep("bundles/one", size, read)

    return session.submit(work(), "keep").result(20)


def test_a_large_object_goes_in_parts_few_of_which_are_in_memory(fake_session, small):
    session = fake_session(cloud := FakeAws())
    inside, most = [0], [0]

    async def begins(service, operation, parameters):
        if operation == "upload_part":
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await asyncio.sleep(0)

    async def ends(service, operation, parameters):
        inside[0] -= operation == "upload_part"

    cloud.before, cloud.after = begins, ends
    bucket_, key = keep(session).split("/", 1)
    assert cloud.buckets[bucket_][key] == BODY and cloud.uploads == {}
    assert cloud.calls.count("upload_part") == 11 and most[0] <= 3 and "put_object" not in cloud.calls
    assert keep(session) and cloud.calls.count("upload_part") == 11, "it is there"
    assert "upload_part" not in {entry.operation for entry in session.ledger.entries()}


def test_a_part_that_fails_once_is_sent_again_and_one_that_keeps_failing_leaves_nothing(fake_session, small):
    session = fake_session(cloud := FakeAws())
    lost = [1]

    async def before(service, operation, parameters):
        if operation == "upload_part" and parameters["PartNumber"] == 4 and lost[0]:
            lost[0] -= 1
            raise refusal(Network, service, operation, "ReadTimeoutError")

    cloud.before = before
    keep(session)
    other = fake_session(second := FakeAws())
    lost[0] = 1000
    second.before = before
    with pytest.raises(Network):
        keep(other)
    assert (second.uploads, second.calls.count("abort_multipart_upload")) == ({}, 1)
    assert [key for keys in second.buckets.values() for key in keys] == []


def test_a_file_that_goes_away_meanwhile_takes_the_upload_back(fake_session, small):
    session = fake_session(cloud := FakeAws())

    def read(start, length):
        if start >= 500:
            raise OSError("gone")
        return BODY[start : start + length]

    with pytest.raises(OSError, match="gone"):
        keep(session, read)
    assert cloud.uploads == {}


def test_an_upload_whose_completion_was_not_answered_is_complete(fake_session, small):
    session = fake_session(cloud := FakeAws())

    async def after(service, operation, parameters):
        if operation == "complete_multipart_upload":
            raise refusal(Network, service, operation, "ReadTimeoutError")

    cloud.after = after
    keep(session)
    assert cloud.uploads == {} and [body for keys in cloud.buckets.values() for body in keys.values()] == [BODY]


def test_what_a_killed_process_has_left_is_aborted_by_the_next_and_what_another_is_sending_is_not(fake_session, small):
    session = fake_session(cloud := FakeAws())
    name = bucket(session).name
    place = {"Bucket": name, "Key": "bundles/one", "parts": {1: b"x"}}
    now = datetime.now(UTC)
    cloud.uploads = {"old": {**place, "Initiated": now - timedelta(days=2)}, "young": {**place, "Initiated": now},
                     "other": {**place, "Key": "theirs", "Initiated": now - timedelta(days=9)}}  # fmt: skip
    keep(session)
    assert set(cloud.uploads) == {"young", "other"}
    assert teardown_all(session=session).result(20).remaining == ()
    assert cloud.uploads == {}, "with the bucket goes what was on its way there"


@pytest.mark.cloud
def test_a_large_object_is_whole_on_the_local_cloud(asked, session):
    size = (64 << 20) + 12345
    body = random.Random(5).randbytes(1 << 20) * 65
    where = keep(session, lambda start, length: body[start : start + length], size)
    name, _, key = where.partition("/")
    s3 = session.boto3().client("s3")
    assert s3.head_object(Bucket=name, Key=key)["ContentLength"] == size
    assert s3.get_object(Bucket=name, Key=key)["Body"].read() == body[:size]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=name)
    s3.close()
    assert asked.faults() == [] and ("s3", "complete_multipart_upload") in asked.calls
