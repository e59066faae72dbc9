"""What AWS, botocore or the network say comes out as one of fleetctl's own kinds of error."""

import socket

import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError, CredentialRetrievalError, TokenRetrievalError, UnauthorizedSSOTokenError

from fleetctl.cloud.aws import Aws, Credentials, _from_client_error
from fleetctl.errors import AwsError, BadRequest, Capacity, Denied, Network, NotFound, Quota, Throttled

KEYS = Credentials("AKIAEXAMPLE", "not-to-be-seen", "nor-this")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("RequestLimitExceeded", 503, Throttled),
        ("RequestThrottled", 400, Throttled),
        ("Throttled", 429, Throttled),
        ("UnauthorizedOperation", 403, Denied),
        ("RequestExpired", 400, Denied),
        ("UnrecognizedClientException", 400, Denied),
        ("InsufficientInstanceCapacity", 500, Capacity),
        ("MaxSpotInstanceCountExceeded", 400, Quota),
        ("InvalidInstanceID.NotFound", 400, NotFound),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, NotFound),
        ("QueueDoesNotExist", 400, NotFound),
        ("NotFound", 404, NotFound),
        ("ParameterNotFound", 400, NotFound),
        ("InternalError", 500, Network),
        ("ServiceUnavailable", 503, Network),
        ("InvalidParameterValue", 400, BadRequest),
        ("SomethingNew", 400, AwsError),
    ],
)
def test_each_code_is_a_kind_and_a_broken_answer_tells_nothing_about_the_call(code, status, kind):
    response = {"Error": {"Code": code, "Message": "so it is"}, "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"}}
    error = _from_client_error("ec2", "run", ClientError(response, "Run"))
    assert type(error) is kind
    assert (error.code, error.request_id) == (code, "r-1")
    assert "so it is" in str(error)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"])
def test_credentials_that_have_run_out_or_a_clock_that_is_wrong_are_told_as_that(code):
    error = _from_client_error("ec2", "run", ClientError({"Error": {"Code": code, "Message": "no"}}, "Run"))
    assert type(error) is Denied
    assert "renew the credentials" in error.todo and "clock" in error.todo


@pytest.mark.parametrize("raised", [UnauthorizedSSOTokenError(), TokenRetrievalError(provider="sso", error_msg="it has expired"),
                                    CredentialRetrievalError(provider="process", error_msg="it ended with 1")])
async def test_credentials_that_are_not_to_be_had_now_are_told_with_what_to_do(raised, monkeypatch):
    async def refuse(self, service):
        raise raised

    monkeypatch.setattr(Aws, "_client", refuse)
    with pytest.raises(Denied, match="aws sso login") as caught:
        await Aws(region="us-east-1").call("ec2", "describe_instances")
    assert caught.value.code == type(raised).__name__


async def test_an_endpoint_that_nobody_serves_is_a_network_error(monkeypatch):
    once = {"retries": {"mode": "standard", "max_attempts": 1}}
    monkeypatch.setattr("fleetctl.cloud.aws.AioConfig", lambda **options: AioConfig(**{**options, **once}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        aws = Aws(region="us-east-1", endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}", credentials=KEYS)
        with pytest.raises(Network, match="describe_instances") as caught:
            await aws.call("ec2", "describe_instances")
        await aws.close()
    assert "may or may not have been applied" in str(caught.value)


@pytest.mark.parametrize(("options", "words"), [({"region": None}, "region"), ({"region": "us-east-1", "profile": "nobody"}, "nobody")])
async def test_a_set_up_that_lacks_something_is_an_error_that_says_what(options, words, monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    aws = Aws(**options)
    with pytest.raises(Denied, match=words):
        await aws.call("ec2", "describe_instances")
    await aws.close()


def test_no_secret_is_in_a_repr():
    aws = Aws(region="us-east-1", credentials=KEYS)
    for shown in (repr(KEYS), repr(aws), repr([KEYS, aws])):
        assert "not-to-be-seen" not in shown
        assert "nor-this" not in shown
