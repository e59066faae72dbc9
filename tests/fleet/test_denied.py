"""What AWS does not allow is named, where the credentials may have AWS's message read; where not, how to get there is told."""

import json

import pytest
from fake_aws import REQUESTS, FakeAws

from fleetctl import bring_up_spots
from fleetctl.cloud import denied
from fleetctl.errors import Denied, Kind

DECODED = {
    "allowed": False, "explicitDeny": False, "matchedStatements": {"items": []},
    "context": {"principal": {"id": "AIDA", "arn": "arn:aws:iam::123456789012:user/ann"}, "action": "ec2:RunInstances",
                "resource": "arn:aws:ec2:us-east-1:123456789012:instance/*", "conditions": {"items": []}},
}  # fmt: skip


def refusal(message="You are not authorized to perform this operation. Encoded authorization failure message: 4kzB-x_9"):
    return Denied(f"ec2 run_instances was refused with UnauthorizedOperation: {message}", service="ec2", operation="run_instances",
                  code="UnauthorizedOperation", todo="check the policy")  # fmt: skip


class Strict(FakeAws):
    """Allows no launch; `decoded` is what its message says, or the error that reading it brings."""

    def __init__(self, decoded):
        super().__init__()
        self.decoded = decoded

    def _run_instances(self, parameters):
        raise refusal()

    def _decode_authorization_message(self, parameters):
        assert parameters == {"EncodedMessage": "4kzB-x_9"}
        if isinstance(self.decoded, Exception):
            raise self.decoded
        return {"DecodedMessage": self.decoded}


def failed(fake_session, decoded):
    return bring_up_spots(REQUESTS["RunInstances"], 1, "true", session=fake_session(Strict(decoded))).exception(10)


def test_the_error_of_a_launch_names_the_permission_that_is_missing(fake_session):
    error = failed(fake_session, json.dumps(DECODED))
    assert (error.kind, error.action, error.explicit) == (Kind.PERMISSION, "ec2:RunInstances", False)
    assert error.resource.endswith("instance/*")
    assert "no policy allows arn:aws:iam::123456789012:user/ann ec2:RunInstances on" in str(error)
    assert "4kzB-x_9" not in str(error)
    assert error.left == ()


def test_that_a_policy_forbids_it_is_another_thing_than_that_none_allows_it(fake_session):
    error = failed(fake_session, json.dumps({**DECODED, "explicitDeny": True}))
    assert error.explicit
    assert "a policy forbids" in str(error)


@pytest.mark.parametrize("answer", [refusal("and this neither"), "no JSON", json.dumps({"context": None}), json.dumps([])])
def test_a_message_that_cannot_be_read_leaves_the_refusal_as_it_is_and_tells_what_would_help(fake_session, answer):
    error = failed(fake_session, answer)
    assert error.action == ""
    assert "UnauthorizedOperation" in str(error)
    assert "sts:DecodeAuthorizationMessage" in error.todo


async def test_a_refusal_without_an_encoded_message_costs_no_call():
    async def call(*_, **__):
        raise AssertionError

    error = refusal("No.")
    await denied.explain(call, error)
    assert error.todo == "check the policy"
