"""Pools are asked one after the other, each once in a round, and never for more than is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl import shapes, templates
from fleetctl.errors import Kind, RequestInvalid
from fleetctl.launching.topup import Ask, Plan, pools

RUN = {"ImageId": "ami-1"}
SPOT = {"LaunchSpecification": {"ImageId": "ami-1"}}

EMPTY = (Kind.CAPACITY, "InsufficientInstanceCapacity")
ELSEWHERE = [(Kind.CAPACITY, "InsufficientFreeAddressesInSubnet"), (Kind.PRICE, "SpotMaxPriceTooLow"),
             (Kind.QUOTA, "MaxSpotInstanceCountExceeded"), (Kind.INVALID, "Unsupported")]
FOR_GOOD = [(Kind.INVALID, "InvalidParameterValue"), (Kind.PERMISSION, "UnauthorizedOperation"), (Kind.NETWORK, "ReadTimeout")]
answers = st.one_of(st.integers(0, 20), st.just(EMPTY), st.sampled_from(ELSEWHERE + FOR_GOOD))


@given(st.integers(1, 20), st.integers(1, 6), st.lists(answers, max_size=40))
def test_never_more_than_wanted_nothing_asked_twice_and_all_that_may_have_some_is_tried_before_it_gives_up(wanted, number, story):
    plan, running, parts, over = Plan(wanted, number), 0, [], set()
    asked_in_round, stopped = [], False
    for answer in story:
        ask = plan.ask()
        if ask is None:
            assert running >= wanted or stopped or {*range(number)} - over <= {*asked_in_round}, "a round is whole"
            if plan.again() is None:
                break
            asked_in_round = []
            ask = plan.ask()
        assert ask.number == wanted - running > 0, "what is asked for is what is missing"
        assert ask.pool not in asked_in_round, "once in a round"
        assert ask.pool not in over, "what waiting does not mend is not asked again"
        assert not stopped
        asked_in_round.append(ask.pool)
        parts.append(ask.part)
        if isinstance(answer, tuple):
            plan.refused(*answer)
            stopped = answer in FOR_GOOD
            over |= {ask.pool} if answer in ELSEWHERE else set()
        else:
            running += min(answer, ask.number)  # AWS gives no more than it is asked for
            plan.gave(min(answer, ask.number))
        assert (plan.owed > 0) <= (running < wanted)
        assert plan.owed in (0, wanted - running)
    assert parts == list(range(len(parts))), "each call has a number of its own, and so a token"
    assert running <= wanted


@given(st.integers(1, 20), st.lists(st.sampled_from([EMPTY, *ELSEWHERE]), min_size=1, max_size=8))
def test_a_further_round_asks_those_and_only_those_that_had_none_for_now(wanted, story):
    plan = Plan(wanted, len(story))
    for answer in story:
        assert plan.ask() is not None
        plan.refused(*answer)
    assert plan.ask() is None
    empty = [pool for pool, answer in enumerate(story) if answer == EMPTY]
    assert plan.owed == (wanted if empty else 0)
    assert (plan.again() is None) == (not empty)
    again = []
    while (ask := plan.ask()) is not None:
        again.append(ask.pool)
        plan.refused(*EMPTY)
    assert again == empty


@given(st.integers(1, 12), st.floats(1, 7200))
def test_rounds_get_rarer_and_never_cost_more_than_four_calls_a_minute(number, minutes):
    plan, now, calls, gaps = Plan(1, number), 0.0, 0, []
    while True:
        while plan.ask() is not None:
            plan.refused(*EMPTY)
            calls += 1
        gap = plan.again()
        if now + gap > minutes:
            break
        now += gap
        gaps.append(gap)
    assert gaps == sorted(gaps)
    assert calls <= number + now / 15


def test_more_than_was_asked_for_is_nothing_to_ask_further_for():
    plan = Plan(3, 2)
    assert plan.ask() == Ask(0, 3, 0)
    plan.gave(5)
    assert plan.owed == 0
    assert plan.ask() is None
    assert plan.again() is None


def test_a_type_that_a_zone_does_not_have_is_looked_for_in_the_next():
    plan = Plan(1, 3)
    plan.ask()
    plan.refused(Kind.INVALID, "Unsupported")
    assert plan.ask() == Ask(1, 1, 1)
    plan.refused(Kind.INVALID, "InvalidParameterValue")
    assert plan.ask() is None
    assert plan.again() is None


def test_a_pool_that_gave_too_few_is_asked_again_where_its_reasons_may_mend():
    for mending in (True, False):
        plan = Plan(5, 1)
        plan.ask()
        plan.gave(2, mends=mending)
        assert plan.owed == (3 if mending else 0)
        assert (plan.again() is not None) == mending


def test_every_type_is_asked_for_in_the_first_place_before_the_next_and_on_demand_comes_last():
    found = pools(RUN, {"itype": ["a.large", "b.large"], "subnet": ["subnet-1", "subnet-2"], "disk": 9}, "on-demand")
    said = [(shapes.view(one.request, "itype")["itype"], shapes.view(one.request, "subnet")["subnet"], one.on_demand) for one in found]
    spot = [("a.large", "subnet-1"), ("b.large", "subnet-1"), ("a.large", "subnet-2"), ("b.large", "subnet-2")]
    assert said == [(*one, False) for one in spot] + [(*one, True) for one in spot]
    assert {shapes.view(one.request, "disk")["disk"] for one in found} == {9}


def test_a_fleet_is_one_pool_since_ec2_chooses_among_its_own():
    request = templates.fleet(image="ami-1")
    [spot, other] = pools(request, {"itype": ["a.large", "b.large"]}, "on-demand")
    assert shapes.view(spot.request, "itype") == {"itype": ["a.large", "b.large"]}
    assert (spot.on_demand, other.on_demand) == (False, True)


def test_one_of_each_is_one_pool():
    assert len(pools(RUN, {"itype": "a.large", "zone": "us-east-1a"}, None)) == 1
    assert len(pools(SPOT, {"itype": "a.large"}, None)) == 1


@pytest.mark.parametrize(
    ("request_", "aliases", "fallback", "words"),
    [
        (RUN, {"itype": []}, None, "itype takes"),
        (RUN, {"itype": ["a.large", "a.large"]}, None, "different"),
        (RUN, {"itype": ["a.large", 3]}, None, "itype takes"),
        (RUN, {"subnet": ["subnet-1"], "zone": ["us-east-1a"]}, None, "not of both"),
        (RUN, {}, "reserved", "fallback is"),
        (SPOT, {}, "on-demand", "RequestSpotInstances has no on-demand machines"),
        (SPOT, {"itype": ["a.large", "b.large"]}, None, "RunInstances|CreateFleet"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(request_, aliases, fallback, words):
    with pytest.raises(RequestInvalid, match=words):
        pools(request_, aliases, fallback)
