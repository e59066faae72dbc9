"""What machines cost, and what a budget lets through: pure sums."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.errors import BudgetExceeded, Kind, RequestInvalid
from fleetctl.events import Slot
from fleetctl.launching import billing
from fleetctl.launching.order import Order
from fleetctl.messages import Phase, Report
from fleetctl.money import prices
from fleetctl.money.budget import LEAD_SECONDS, Claim, admit, checked, reached
from fleetctl.money.cost import Cost, Span, paid, total, usage
from fleetctl.money.prices import Tariff, Volume, table

HOUR = 3600.0
times = st.floats(0, 1e6)
rates = st.floats(0, 100)
steps = st.lists(st.tuples(times, rates), min_size=1, max_size=6, unique_by=lambda step: step[0]).map(lambda found: tuple(sorted(found)))


def span(began, ended, rate, **more):
    return Span(began, ended, ((0.0, rate),), **more)


# --- sums -------------------------------------------------------------------------------------------------------------------------


def test_a_minute_is_billed_for_a_second():
    assert usage(1, 3600) == 60
    assert usage(7200, 1.5) == 3.0
    assert paid(((0.0, 3600.0),), 10.0, 11.0) == 60


def test_costs_count_the_living_by_the_hour_and_everything_so_far():
    cost = total([span(0, None, 1.0), span(0, 1800, 2.0)], HOUR)
    assert (cost.per_hour, cost.so_far, cost.machines) == (1.0, 2.0, 1)
    assert "data transfer" in repr(cost)


def test_volumes_and_public_addresses_are_in_the_sums():
    cost = total([span(0, None, 0.5, volumes=0.25, address=0.125)], 2 * HOUR)
    assert cost.so_far == 1.75
    assert cost.parts == {"machines": 0.5, "volumes": 0.25, "public addresses": 0.125}
    assert cost.per_hour == sum(cost.parts.values())


def test_a_price_that_changes_is_paid_as_it_was_at_each_time():
    history = ((0.0, 1.0), (HOUR, 3.0), (2 * HOUR, 2.0))
    assert paid(history, 0.5 * HOUR, 2.5 * HOUR) == 0.5 * 1 + 1 * 3 + 0.5 * 2
    assert paid(history, -5 * HOUR, 0) == 5.0, "the first price that is known holds before its time too"
    assert Span(0.0, None, history).per_hour == 2.0


@given(steps, times, times)
def test_what_is_paid_lies_between_the_lowest_and_the_highest_price(steps, one, other):
    began, ended = sorted((one, other))
    seconds = max(60.0, ended - began)
    low, high = (f(price for _, price in steps) * seconds / 3600 for f in (min, max))
    assert low * 0.999999 - 1e-9 <= paid(steps, began, ended) <= high * 1.000001 + 1e-9


@given(steps, st.tuples(times, times, times))
def test_what_is_paid_for_two_times_in_a_row_is_what_is_paid_for_both(steps, moments):
    began, middle, ended = sorted(moments)
    if min(middle - began, ended - middle) >= 60:
        assert paid(steps, began, middle) + paid(steps, middle, ended) == pytest.approx(paid(steps, began, ended), abs=1e-6)


def test_a_machine_whose_price_nobody_knows_is_counted_as_such_and_not_as_nothing():
    cost = total([Span(0, None, ()), span(0, None, 1.0)], HOUR)
    assert cost.unpriced == 1
    assert "1 of them at a price that is not known" in repr(cost)


# --- prices -----------------------------------------------------------------------------------------------------------------------


def test_the_table_says_of_when_and_where_it_is():
    assert table().date in repr(table()) and "us-east-1" in repr(table())


@pytest.mark.parametrize(
    ("type", "price"),
    [("t3.micro", 0.0104), ("m5.24xlarge", 4.608), ("g4dn.xlarge", 0.526), ("m5.metal", None), ("x.large", None), ("", None)]
)
def test_prices_on_demand_come_from_the_family_or_stand_there(type, price):
    assert table().on_demand(type) == price


def test_volumes_cost_by_type_and_size_and_unknown_ones_as_the_dearest():
    hour = 1 / prices.MONTH_HOURS
    assert table().volumes([Volume("gp3", 100)]) == pytest.approx(8.0 * hour)
    assert table().volumes([Volume("gp9", 8)]) == max(table().months.values()) * 8 * hour


def test_a_tariff_joins_what_is_told_later_and_prefers_the_pool_to_the_type():
    tariff = Tariff().joined({("t3.micro", "a"): ((1.0, 0.1),)})
    tariff = tariff.joined({("t3.micro", "a"): ((2.0, 0.2),), ("t3.micro", "b"): ((1.0, 0.5),)})
    assert tariff.steps("t3.micro", "a") == ((1.0, 0.1), (2.0, 0.2))
    assert tariff.steps("t3.micro", "c") == ((1.0, 0.5),), "the dearest zone"
    assert tariff.steps("m5.large", "a") == ()


# --- what a machine of a launch costs ---------------------------------------------------------------------------------------------


def order(wanted=1, **spec):
    cap = {"SpotPrice": spec.pop("cap")} if "cap" in spec else {}
    request = {**cap, "LaunchSpecification": {"InstanceType": "t3.micro", **spec}}
    return Order("u", "s", request, None, wanted, 0.0, 600.0, 120)


def test_the_volumes_of_a_machine_are_those_of_its_request_and_a_root():
    assert order().volumes == (Volume("gp2", 8),)
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 30, "VolumeType": "gp3"}}
    data = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 500}}
    assert order(BlockDeviceMappings=[root, data]).volumes == (Volume("gp3", 30), Volume("gp2", 500))
    assert order(BlockDeviceMappings=[data]).volumes == (Volume("gp2", 8), Volume("gp2", 500))


def price(slot, order, tariff):
    bill = billing.Bill([order], "us-east-1")
    bill.tariff = tariff
    return bill.price(slot)


def slot(**known):
    return Slot("sir-1", "i-1", type="t3.micro", zone="a", **known)


def test_a_machine_costs_what_its_pool_does_else_its_cap_else_the_price_on_demand():
    told = Tariff({("t3.micro", "a"): ((0.0, 0.003),)})
    assert price(slot(), order(cap="0.01"), told) == 0.003
    assert price(slot(), order(cap="0.01"), Tariff()) == 0.01
    assert price(slot(), order(), Tariff()) == 0.0104
    assert price(slot(on_demand=True), order(cap="0.001"), told) == 0.0104
    assert price(Slot("i-1", "i-1", type="x9.huge"), order(), Tariff()) is None


def test_a_machine_that_never_ran_costs_nothing():
    assert billing.span(Slot("sir-1"), order(), Tariff()) is None
    assert billing.span(slot(launched=5.0, gone=9.0, status="Server.InternalError"), order(), Tariff()) is None
    assert billing.span(slot(launched=5.0, gone=9.0, status="Client.UserInitiatedShutdown"), order(), Tariff()) is not None


def test_an_address_is_counted_where_the_machine_has_one_or_may_have_one():
    def address(report, **spec):
        return billing.span(slot(launched=1.0, report=report), order(**spec), Tariff()).address

    def said(public_ip):
        return Report(uuid4(), "i-0123456789abcdef0", Phase.READY, seq=1, ip="10.0.0.1", public_ip=public_ip)

    assert address(None) == address(said("203.0.113.9")) == table().address
    assert address(said("")) == 0.0
    assert address(None, NetworkInterfaces=[{"DeviceIndex": 0, "AssociatePublicIpAddress": False}]) == 0.0


def test_at_worst_a_machine_costs_its_cap_else_the_price_on_demand_and_elsewhere_more():
    beside = table().volumes(order().volumes) + table().address
    assert billing.worst(order(cap="0.5", InstanceType="m5.large"), "us-east-1") == pytest.approx(0.5 + beside)
    assert billing.worst(order(InstanceType="m5.large"), "us-east-1") == pytest.approx(0.096 + beside)
    assert billing.worst(order(InstanceType="m5.large"), "sa-east-1") == pytest.approx(2 * (0.096 + beside))
    assert billing.worst(order(InstanceType="x9.huge"), "us-east-1") is None


def test_at_worst_a_burstable_machine_s_processors_are_busy_beyond_their_share_which_no_cap_holds_for():
    beside = table().volumes(order().volumes) + table().address
    credits = 2 * 0.05
    assert billing.worst(order(), "us-east-1") == pytest.approx(0.0104 + credits + beside)
    assert billing.worst(order(cap="0.01"), "us-east-1") == pytest.approx(0.01 + credits + beside)
    assert billing.worst(order(InstanceType="t2.micro"), "us-east-1") == pytest.approx(0.0116 + beside), "standard, unless said otherwise"
    run = {"ImageId": "ami-1", "InstanceType": "t3.micro", "InstanceMarketOptions": {"MarketType": "spot"}}
    for said, sum_ in (("standard", 0.0), ("unlimited", credits)):
        for request in ({**run, "CreditSpecification": {"CpuCredits": said}}, {
            "LaunchTemplateData": {"ImageId": "ami-1", "CreditSpecification": {"CpuCredits": said}},
            "LaunchTemplateConfigs": [{"Overrides": [{"InstanceType": "t3.micro"}]}],
        }):
            assert billing.worst(replace(order(), request=request), "us-east-1") == pytest.approx(0.0104 + sum_ + beside)
    assert "all processors busy" in billing.Bill([order()], "us-east-1").claim([], coming=True, end=HOUR).title


def test_a_launch_claims_what_may_come_beside_what_is_there():
    there = [slot(), slot(), Slot("sir-2")]
    assert billing.Bill([order(10)], "us-east-1").claim(there, coming=True, end=HOUR).machines == 10
    assert billing.Bill([order(10)], "us-east-1").claim(there, coming=False, end=HOUR).machines == 2


def test_a_launch_claims_the_dearest_of_the_pools_that_it_may_ask():
    spot, fallback = order(cap="0.001"), replace(order(cap="0.001"), on_demand=True)
    cheap, dear = (billing.Bill(offers, "us-east-1").worst for offers in ([spot], [spot, fallback]))
    assert dear - cheap == pytest.approx(0.0104 - 0.001)
    unknown = order(InstanceType="x9.huge")
    assert billing.Bill([spot, unknown], "us-east-1").worst is None


# --- the budget -------------------------------------------------------------------------------------------------------------------

claims = st.builds(Claim, st.just("launch"), st.integers(0, 1000), rates, st.floats(0, 1e5))


@given(st.floats(0.01, 1e4), st.floats(0, 1e4), st.lists(claims, max_size=4), st.lists(claims, min_size=1, max_size=2), st.floats(0, 1e5))
def test_what_is_let_through_cannot_pass_the_budget_and_nothing_else_is_refused(budget, spent, alive, asked, now):
    worst = spent + sum(one.worst(now) for one in alive) + sum(one.worst(now) for one in asked)
    try:
        admit(budget, spent, alive, asked, now)
    except BudgetExceeded as error:
        assert worst > budget * 0.999999
        assert error.spent + error.alive + error.asked == pytest.approx(worst)
    else:
        assert worst <= budget * 1.000001


def test_a_refusal_shows_how_the_sum_is_made_and_what_would_help():
    alive, asked = Claim("launch 1 (4 × m5.large)", 4, 0.1, 2 * HOUR), Claim("launch 2 (100 × t3.micro)", 100, 0.02, 2 * HOUR)
    with pytest.raises(BudgetExceeded) as caught:
        admit(3.0, 0.5, [alive], [asked], 0.0)
    error = caught.value
    assert (error.kind, error.budget, error.spent, error.asked) == (Kind.BUDGET, 3.0, 0.5, 4.0)
    assert "$5.3000" in str(error) and "100 × $0.0200/h × 2.00 h = $4.0000" in str(error) and "spent so far: $0.5000" in str(error)
    assert "alive: launch 1" in str(error) and error.left == ("launch 1 (4 × m5.large)",)
    assert "hours=" in error.todo and "session.budget" in error.todo


def test_what_cannot_be_told_cannot_be_held_to_a_budget():
    with pytest.raises(BudgetExceeded, match="cannot be told"):
        admit(1000.0, 0.0, [], [Claim("launch", 1, None, HOUR)], 0.0)
    admit(None, 1e9, [], [Claim("launch", 1, None, HOUR)], 0.0)


def test_the_end_begins_early_enough_to_come_within_the_budget():
    def at(so_far, machines=1):
        return reached(Cost(36.0, so_far, machines, budget=5.0))

    lead = 36.0 * LEAD_SECONDS / 3600
    assert not at(5.0 - 1.1 * lead)
    assert at(5.0 - 0.9 * lead)
    assert not at(9.0, machines=0), "what is over cannot be ended"
    assert not reached(Cost(36.0, 9.0, 1))


@pytest.mark.parametrize("budget", [0, -1, True, "5", float("nan"), float("inf")])
def test_a_budget_is_an_amount(budget):
    with pytest.raises(RequestInvalid, match="budget"):
        checked(budget)
