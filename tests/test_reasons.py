"""AWS's codes for what it does not give: each is one kind of trouble, wherever it stands."""

import pytest

from fleetctl.errors import Kind
from fleetctl.reasons import ENDED, REFUSED, STATUS, hopeless, main, reason


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("capacity-not-available", Kind.CAPACITY),
        ("capacity-oversubscribed", Kind.CAPACITY),
        ("price-too-low", Kind.PRICE),
        ("bad-parameters", Kind.INVALID),
        ("constraint-not-fulfillable", Kind.INVALID),
        ("az-group-constraint", Kind.CAPACITY),
        ("limit-exceeded", Kind.QUOTA),
        ("instance-terminated-no-capacity", Kind.INTERRUPTED),
        ("InsufficientInstanceCapacity", Kind.CAPACITY),
        ("InsufficientFreeAddressesInSubnet", Kind.CAPACITY),
        ("MaxSpotInstanceCountExceeded", Kind.QUOTA),
        ("SpotMaxPriceTooLow", Kind.PRICE),
        ("UnauthorizedOperation", Kind.PERMISSION),
        ("RequestLimitExceeded", Kind.THROTTLED),
        ("InvalidParameterCombination", Kind.INVALID),
        ("UnsupportedOperation", Kind.INVALID),
        ("Server.SpotInstanceTermination", Kind.INTERRUPTED),
        ("Client.VolumeLimitExceeded", Kind.QUOTA),
    ],
)
def test_a_code_is_one_kind_of_trouble(code, kind):
    assert reason(code).kind is kind
    assert reason(code).todo


@pytest.mark.parametrize("code", ["fulfilled", "pending-evaluation", "pending-fulfillment", "running", "Client.Whatever", ""])
def test_what_tells_of_no_trouble_has_no_reason(code):
    assert reason(code) is None
    assert not hopeless(code)


def test_only_what_waiting_does_not_mend_is_hopeless():
    assert {code for code in STATUS if hopeless(code)} == {"bad-parameters", "constraint-not-fulfillable", "limit-exceeded", "system-error"}
    assert not any(map(hopeless, [*REFUSED, *ENDED]))


def test_no_code_stands_in_two_tables():
    assert len({*STATUS, *REFUSED, *ENDED}) == len(STATUS) + len(REFUSED) + len(ENDED)


def test_the_main_reason_is_that_of_most_and_of_equals_the_one_to_mend_first():
    assert main({"capacity-not-available": 2, "InsufficientInstanceCapacity": 1, "price-too-low": 2}).kind is Kind.CAPACITY
    assert main({"capacity-not-available": 1, "UnauthorizedOperation": 1, "price-too-low": 1}).kind is Kind.PERMISSION
    assert main({"fulfilled": 9, "price-too-low": 1}).kind is Kind.PRICE
    assert main({"fulfilled": 9}) is None
    assert main({}) is None
