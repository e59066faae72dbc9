"""Every kind of trouble that a launch can meet: one word for it, fields for programs, what is still alive, and what to do next."""

from uuid import UUID

import pytest
from botocore.exceptions import ClientError

from fleetctl.cloud.aws import _from_client_error
from fleetctl.errors import AwsError, Kind, LaunchFailed
from fleetctl.events import Asked, Listed, Reported, Seen
from fleetctl.launching.outcome import Facts, failure
from fleetctl.lifecycle import Core
from fleetctl.messages import Phase, Report

LAUNCH = UUID("6f1c7c1e-33a8-4be4-9a53-3f0a2f6d4f10")


def refused(code, status=400):
    """What a call of EC2 is refused with."""
    answer = {"Error": {"Code": code, "Message": "so it is"}, "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"}}
    return _from_client_error("ec2", "run_instances", ClientError(answer, "RunInstances"))


def short(why, *seen, reports=()):
    """How a launch of two ends that saw this of its requests."""
    core = Core(2, 2)
    core.step(Asked(("sir-1", "sir-2")), 0.0)
    core.step(Listed(tuple(seen)), 1.0)
    for report in reports:
        core.step(Reported(report), 2.0)
    return failure(why, Facts("launch 6f1c of 2 × t3.micro", core, {}, 60.0))


def waiting(code):
    return short("deadline", Seen("sir-1", status=code, message="so it is"), Seen("sir-2", status=code))


RUNNING = (Seen("sir-1", "i-00000001", "fulfilled"), Seen("sir-2", "i-00000002", "fulfilled"))
TAKEN = "instance-terminated-no-capacity"

TABLE = [
    (Kind.CAPACITY, lambda: refused("InsufficientInstanceCapacity")),
    (Kind.CAPACITY, lambda: waiting("capacity-not-available")),
    (Kind.QUOTA, lambda: refused("MaxSpotInstanceCountExceeded")),
    (Kind.QUOTA, lambda: waiting("limit-exceeded")),
    (Kind.PRICE, lambda: refused("SpotMaxPriceTooLow")),
    (Kind.PRICE, lambda: waiting("price-too-low")),
    (Kind.PERMISSION, lambda: refused("UnauthorizedOperation", 403)),
    (Kind.THROTTLED, lambda: refused("RequestLimitExceeded", 503)),
    (Kind.NETWORK, lambda: refused("InternalError", 500)),
    (Kind.INVALID, lambda: refused("InvalidParameterValue")),
    (Kind.INVALID, lambda: waiting("bad-parameters")),
    (Kind.SCRIPT, lambda: short("failed", *RUNNING, reports=[Report(LAUNCH, "i-00000001", Phase.FAILED, exit_code=3, tail="no file")])),
    (Kind.UNREPORTED, lambda: short("deadline", *RUNNING)),
    (Kind.INTERRUPTED, lambda: short("failed", *(Seen(f"sir-{n}", f"i-0000000{n}", TAKEN, over=True) for n in (1, 2)))),
]


@pytest.mark.parametrize(("kind", "trouble"), TABLE, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(TABLE)])
def test_each_kind_of_trouble_has_a_word_fields_what_is_alive_and_what_to_do(kind, trouble):
    error = trouble()
    assert error.kind is kind
    assert error.what
    assert error.todo
    assert f"to do: {error.todo}" in str(error)
    if isinstance(error, AwsError):
        assert error.fields == {"service": "ec2", "operation": "run_instances", "code": error.code, "request_id": "r-1"}
        assert error.code in str(error)
    else:
        assert isinstance(error, LaunchFailed)
        assert error.fields["kind"] is kind
        assert error.fields["codes"] == error.codes
    assert error.left == (), "nothing is left of a launch that was ended, or never made"
    error.left = ("i-9",)
    assert "left running: i-9" in str(error)


def test_a_launch_that_was_ended_says_so_only_where_that_is_so():
    error = short("deadline", *RUNNING)
    assert "left running" not in str(error)
    error.ended = 2
    assert "left running: nothing; its 2 instance(s) were terminated" in str(error)
    error.left = ("i-00000001",)
    assert "nothing" not in str(error).partition("left running")[2]


def test_the_codes_of_waiting_requests_are_counted():
    assert waiting("capacity-not-available").codes == {"capacity-not-available": 2}
