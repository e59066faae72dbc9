"""Pools are asked one after the other, each once, and never for more than is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl import shapes, templates
from fleetctl.errors import Kind, RequestInvalid
from fleetctl.topup import Ask, Plan, pools

RUN = {"ImageId": "ami-1"}
SPOT = {"LaunchSpecification": {"ImageId": "ami-1"}}

ELSEWHERE, FOR_GOOD = [Kind.CAPACITY, Kind.PRICE, Kind.QUOTA], [Kind.INVALID, Kind.PERMISSION, Kind.NETWORK]
answers = st.one_of(st.integers(0, 20), st.sampled_from(ELSEWHERE + FOR_GOOD))


@given(st.integers(1, 20), st.lists(answers, min_size=1, max_size=8))
def test_never_more_than_wanted_nothing_asked_twice_and_all_pools_are_tried_before_it_gives_up(wanted, story):
    plan, asked, running = Plan(wanted, len(story)), [], 0
    while (ask := plan.ask()) is not None:
        assert ask.number == wanted - running > 0, "what is asked for is what is missing"
        asked.append(ask.pool)
        answer = story[ask.pool]
        if isinstance(answer, Kind):
            if not plan.goes_on(answer, "SomeCode"):
                break
        else:
            running += min(answer, ask.number)  # AWS gives no more than it is asked for
            plan.gave(min(answer, ask.number))
        assert plan.owed == (wanted - running if len(asked) < len(story) else 0)
    assert asked == list(range(len(asked))), "each once, in their order"
    assert running <= wanted
    stopped = any(story[at] in FOR_GOOD for at in asked)
    assert running == wanted or len(asked) == len(story) or stopped


def test_more_than_was_asked_for_is_nothing_to_ask_further_for():
    plan = Plan(3, 2)
    assert plan.ask() == Ask(0, 3)
    plan.gave(5)
    assert plan.owed == 0
    assert plan.ask() is None


def test_a_type_that_a_zone_does_not_have_is_looked_for_in_the_next():
    plan = Plan(1, 2)
    plan.ask()
    assert plan.goes_on(Kind.INVALID, "Unsupported")
    assert not plan.goes_on(Kind.INVALID, "InvalidParameterValue")


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
