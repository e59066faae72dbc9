"""The pure parts behind launches: who gives how many machines to a fleet, token buckets, tokens, templates, what is not seen yet."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.local.answers import Tokens, page
from fleetctl.local.book import Refused
from fleetctl.local.buckets import Bucket, Buckets
from fleetctl.local.faults import Faults
from fleetctl.local.fleets import Pool, Target, allocate, pools, targets
from fleetctl.local.hidden import Hidden
from fleetctl.local.supply import Supply, no_capacity, spot_price
from fleetctl.local.templates import Template, Templates, with_override, with_template

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Rooms:
    """A market whose pools have so many machines at such prices; None is a pool that can't be had at its price."""

    def __init__(self, rooms: dict[str, tuple[int, Decimal | None]]) -> None:
        self.left = {zone: room for zone, (room, _) in rooms.items()}
        self.prices = {zone: price for zone, (_, price) in rooms.items()}

    def offer(self, pool: Pool, lifecycle: str) -> Decimal:
        price = self.prices[pool.zone]
        if price is None:
            raise Refused("SpotMaxPriceTooLow", "too low")
        return price

    def take(self, pool: Pool, lifecycle: str, wanted: int, least: int) -> int:
        got = min(wanted, self.left[pool.zone])
        got = got if got >= least else 0
        self.left[pool.zone] -= got
        return got


def a_pool(zone: str, **more: Any) -> Pool:
    return Pool({}, more.pop("type", "t3.micro"), zone, {}, **more)


ROOMS = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.integers(0, 20), st.none() | st.decimals("0.01", "1", places=2)), min_size=1)


@given(ROOMS, st.integers(1, 50), st.sampled_from(["lowest-price", "price-capacity-optimized", "diversified"]))
def test_a_fleet_gets_all_that_there_is_up_to_its_target(rooms: dict[str, tuple[int, Decimal | None]], units: int, strategy: str) -> None:
    market = Rooms(rooms)
    shares, failures = allocate([a_pool(zone) for zone in rooms], Target("spot", units, strategy), market)
    there = sum(room for room, price in rooms.values() if price is not None)
    assert sum(count for _, count in shares) == min(units, there)
    assert all(count > 0 for _, count in shares)
    assert sum(market.left.values()) == sum(room for room, _ in rooms.values()) - sum(count for _, count in shares)
    told = {failure.pool.zone: failure.code for failure in failures}
    assert {zone for zone, code in told.items() if code == "SpotMaxPriceTooLow"} == {z for z, (_, p) in rooms.items() if p is None}
    if there < units:
        assert set(told) == set(rooms)


@given(ROOMS, st.integers(1, 50))
def test_no_machine_is_dearer_than_one_that_was_left(rooms: dict[str, tuple[int, Decimal | None]], units: int) -> None:
    market = Rooms(rooms)
    shares, _ = allocate([a_pool(zone) for zone in rooms], Target("spot", units), market)
    paid = [price for pool, _ in shares if (price := rooms[pool.zone][1]) is not None]
    spare = [price for zone, (_, price) in rooms.items() if price is not None and market.left[zone]]
    assert not paid or not spare or max(paid) <= min(spare)


@given(ROOMS, st.integers(1, 30), st.integers(1, 30))
def test_a_minimum_is_reached_in_one_zone_or_nothing_is_launched(rooms: dict[str, tuple[int, Decimal | None]], units: int,
                                                                 least: int) -> None:
    shares, _ = allocate([a_pool(zone) for zone in rooms], Target("spot", units, least=min(least, units), one_zone=True), Rooms(rooms))
    assert len(shares) <= 1
    assert sum(count for _, count in shares) == 0 or sum(count for _, count in shares) >= min(least, units)
    if any(price is not None and room >= units for room, price in rooms.values()):
        assert shares


def test_diversified_begins_with_equal_parts() -> None:
    shares, failures = allocate([a_pool(zone) for zone in "abc"], Target("spot", 9, "diversified"),
                                Rooms({"a": (1, Decimal("0.1")), "b": (9, Decimal("0.2")), "c": (9, Decimal("0.3"))}))
    assert {pool.zone: count for pool, count in shares} == {"a": 1, "b": 5, "c": 3}
    assert [failure.pool.zone for failure in failures] == ["a"]


def test_weights_count_units_and_prices_are_compared_by_unit() -> None:
    market = Rooms({"a": (9, Decimal("0.1")), "b": (9, Decimal("0.3"))})
    shares, _ = allocate([a_pool("a"), a_pool("b", weight=4.0)], Target("spot", 7), market)
    assert [(pool.zone, count) for pool, count in shares] == [("b", 2)]


def test_a_total_price_is_not_passed() -> None:
    shares, _ = allocate([a_pool("a")], Target("spot", 10, most_per_hour=Decimal("0.35")), Rooms({"a": (99, Decimal("0.1"))}))
    assert [count for _, count in shares] == [3]


def test_priorities_come_before_prices_where_the_strategy_says_so() -> None:
    found = [a_pool("a", priority=2.0), a_pool("b", priority=1.0)]
    rooms = {"a": (9, Decimal("0.1")), "b": (9, Decimal("0.2"))}
    for strategy, zone in (("prioritized", "b"), ("lowest-price", "a")):
        assert allocate(found, Target("on-demand", 1, strategy), Rooms(rooms))[0][0][0].zone == zone


@pytest.mark.parametrize(("given_", "code"), [
    ({"TargetCapacitySpecification": {"TotalTargetCapacity": 1, "SpotTargetCapacity": 2}}, "InvalidParameterCombination"),
    ({"TargetCapacitySpecification": {"TotalTargetCapacity": 1}, "OnDemandOptions": {"AllocationStrategy": "diversified"}},
     "InvalidParameterValue"),
    ({"TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "capacity-block"}}, "UnsupportedOperation"),
    ({"TargetCapacitySpecification": {"TotalTargetCapacity": 1}, "SpotOptions": {"MinTargetCapacity": 1}}, "InvalidParameterCombination")])
def test_targets_that_make_no_sense_are_refused(given_: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        targets(given_)
    assert refused.value.code == code


def test_the_pools_of_a_fleet_are_its_overrides_over_their_template() -> None:
    templates = Templates()
    data = {"InstanceType": "t3.micro", "ImageId": "ami-1", "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "s-1", "Groups": ["g"]}]}
    templates.add(Template("lt-1", "name", data, "", NOW))
    configs = [{"LaunchTemplateSpecification": {"LaunchTemplateName": "name", "Version": "$Latest"},
                "Overrides": [{"InstanceType": "t3.small", "SubnetId": "s-2", "MaxPrice": "0.5"}, {"AvailabilityZone": "z"}]}]
    first, second = pools(configs, templates, lambda spec: "zone")
    assert (first.type, first.max_price, first.spec["NetworkInterfaces"]) == (
        "t3.small", Decimal("0.5"), [{"DeviceIndex": 0, "SubnetId": "s-2", "Groups": ["g"]}])
    assert first.shown["LaunchTemplateSpecification"] == {"LaunchTemplateId": "lt-1", "Version": "1"}
    assert (second.type, second.spec["Placement"]) == ("t3.micro", {"AvailabilityZone": "z"})
    assert data["NetworkInterfaces"][0]["SubnetId"] == "s-1"
    for broken in ([], [{"LaunchTemplateSpecification": {"LaunchTemplateName": "name"}}],
                   [{**configs[0], "Overrides": [{"SubnetId": "s-1,s-2"}]}],
                   [{**configs[0], "Overrides": [{"InstanceRequirements": {"a": 1}}]}]):
        with pytest.raises(Refused):
            list(pools(broken, templates, lambda spec: "zone"))


def test_an_override_without_interfaces_names_the_subnet_itself() -> None:
    assert with_override({"ImageId": "a"}, {"SubnetId": "s"}) == {"ImageId": "a", "SubnetId": "s"}


def test_a_call_wins_over_its_template_but_not_with_a_subnet_beside_interfaces() -> None:
    data = {"ImageId": "a", "InstanceType": "t", "NetworkInterfaces": [{"DeviceIndex": 0}]}
    assert with_template({"InstanceType": "u", "LaunchTemplate": {}}, data) == {**data, "InstanceType": "u"}
    with pytest.raises(Refused, match="InvalidParameterCombination"):
        with_template({"SubnetId": "s"}, data)


@given(st.floats(1, 100), st.floats(0.1, 50), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10)), max_size=40))
def test_a_bucket_never_gives_more_than_its_size_and_its_rate(size: float, rate: float, calls: list[tuple[float, int]]) -> None:
    bucket, now, given_out = Bucket(size, rate, size, 0.0), 0.0, 0.0
    for pause, wanted in calls:
        now += pause
        if bucket.has(wanted, now):
            bucket.tokens -= wanted
            given_out += wanted
        assert -1e-6 <= bucket.tokens <= size + 1e-6
    assert given_out <= size + now * rate + 1e-6


def test_run_instances_has_a_bucket_of_a_thousand_instances_that_fills_by_two_a_second() -> None:
    buckets = Buckets()
    assert buckets.take("RunInstances", 1000, False, 0.0)
    assert not buckets.take("RunInstances", 1, False, 0.4)
    assert buckets.take("RunInstances", 2, False, 1.0)
    assert not buckets.take("RunInstances", 1, False, 1.0)
    assert buckets.take("TerminateInstances", 1000, False, 1.0)   # has one of its own


def test_a_call_that_is_refused_takes_nothing() -> None:
    buckets = Buckets()
    for _ in range(20):
        assert not buckets.take("RunInstances", 1001, False, 0.0)
    assert buckets.take("RunInstances", 1000, False, 0.0)


def test_reading_everything_is_dearer_than_reading_something() -> None:
    def calls(broad: bool) -> int:
        buckets = Buckets()
        return sum(buckets.take("DescribeInstances", 1, broad, 0.0) for _ in range(200))
    assert (calls(False), calls(True)) == (100, 50)


def test_a_token_is_of_its_call_and_its_parameters() -> None:
    tokens = Tokens()
    given_ = {"ClientToken": "t", "MaxCount": 1}
    assert tokens.made("RunInstances", given_) is None
    tokens.keep("RunInstances", given_, "made")
    assert tokens.made("RunInstances", dict(reversed(given_.items()))) == "made"
    assert tokens.made("CreateFleet", given_) is None
    with pytest.raises(Refused, match="IdempotentParameterMismatch"):
        tokens.made("RunInstances", {**given_, "MaxCount": 2})
    tokens.keep("RunInstances", {"MaxCount": 1}, "without a token")
    assert tokens.made("RunInstances", {"MaxCount": 1}) is None


@given(st.lists(st.integers(), max_size=30), st.integers(1, 10))
def test_pages_have_everything_once(things: list[int], limit: int) -> None:
    found, token = page(things, limit, None)
    while token is not None:
        more, token = page(things, limit, token)
        found += more
    assert found == things


def test_a_strange_page_token_is_refused() -> None:
    with pytest.raises(Refused, match="InvalidNextToken"):
        page([1], 1, "nonsense")


def test_what_is_hidden_is_seen_when_its_time_has_come() -> None:
    hidden = Hidden()
    hidden.hide("i-1", 5.0)
    with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound"):
        hidden.check(["i-2", "i-1"], 4.9)
    hidden.check(["i-1"], 5.0)
    hidden.hide("lt-1", 9.0)
    hidden.show("lt-1")
    assert hidden.now(0.0) == set()


@given(st.integers(0, 20), st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), max_size=10))
def test_a_pool_never_gives_more_than_it_has_left(left: int, calls: list[tuple[int, int]]) -> None:
    faults = Faults()
    faults.add("capacity", type="t3.*", left=left)
    supply = Supply(faults, lambda type: 2, lambda market: 0)
    given_out = 0
    for wanted, least in calls:
        got = supply.room("t3.micro", "us-east-1a", "spot", wanted, min(least, wanted))
        assert got == 0 or min(least, wanted) <= got <= wanted
        assert got == (min(wanted, left - given_out) if left - given_out >= min(least, wanted) else 0)
        given_out += got
    assert supply.room("m5.large", "us-east-1a", "spot", 7, 1) == 7


def test_a_quota_counts_what_lives_and_what_is_asked_for() -> None:
    faults = Faults()
    supply = Supply(faults, lambda type: 2, lambda market: 6)
    supply.quota("t3.micro", "spot", 1000)
    faults.add("quota", vcpus=10)
    supply.quota("t3.micro", "spot", 2)
    for market, code in (("spot", "MaxSpotInstanceCountExceeded"), ("on-demand", "VcpuLimitExceeded")):
        with pytest.raises(Refused, match=code):
            supply.quota("t3.micro", market, 3)


def test_a_price_that_went_up_is_what_everybody_sees() -> None:
    faults = Faults()
    supply = Supply(faults, lambda type: 2, lambda market: 0)
    usual = spot_price("t3.micro", "us-east-1a")
    supply.affords("t3.micro", "us-east-1a", usual)
    faults.add("price", zone="us-east-1a", price=0.25)
    with pytest.raises(Refused, match=r"of 0\.25\."):
        supply.affords("t3.micro", "us-east-1a", usual)
    supply.affords("t3.micro", "us-east-1a", None)
    assert supply.price("t3.micro", "us-east-1a", "on-demand") == 3 * usual
    assert no_capacity("t3.micro", "us-east-1a").code == "InsufficientInstanceCapacity"
