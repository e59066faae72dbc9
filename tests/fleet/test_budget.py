"""A session's budget: launches and extensions are refused at their worst case, and what reaches it is torn down."""

import asyncio
import time

import pytest
from fake_aws import REQUEST, REQUESTS, FakeAws

from fleetctl import bring_up_one_spot, bring_up_spots, display, extend, teardown
from fleetctl.ending import fuse
from fleetctl.errors import BudgetExceeded, RequestInvalid

# with 8 GiB and an address about $0.10 an hour
SMALL = {"SpotPrice": "0.0941", "LaunchSpecification": {**REQUEST["LaunchSpecification"], "InstanceType": "m5.large"}}


def test_a_launch_that_could_pass_the_budget_is_refused_before_anything_is_asked(fake_session):
    session = fake_session(FakeAws(), budget=1.0)
    with pytest.raises(BudgetExceeded) as caught:
        bring_up_spots(SMALL, 10, "true", session=session)
    assert caught.value.asked == pytest.approx(2.0, rel=0.01)
    assert session.aws.calls == [] and session.launches == []


@pytest.mark.parametrize("call", REQUESTS)
def test_what_is_alive_counts_with_what_it_may_still_cost(fake_session, call):
    session = fake_session(FakeAws(), budget=1.0)
    cap = {"price": 0.0941, "itype": "m5.large"}
    first = bring_up_spots(REQUESTS[call], 3, "true", session=session, **cap)
    with pytest.raises(BudgetExceeded) as caught:  # while the first has no machine yet, and afterwards
        bring_up_spots(REQUESTS[call], 3, "true", session=session, **cap)
    assert caught.value.alive == pytest.approx(0.6, rel=0.01)
    first.result(10)
    with pytest.raises(BudgetExceeded):
        bring_up_spots(REQUESTS[call], 3, "true", session=session, **cap)
    teardown(first, session=session).result(30)
    bring_up_spots(REQUESTS[call], 3, "true", session=session, **cap).result(10)


def test_fewer_hours_cost_less_and_a_higher_budget_lets_more_through(fake_session):
    session = fake_session(FakeAws(), budget=1.0)
    bring_up_spots(SMALL, 10, "true", session=session, hours=0.5).result(10)
    with pytest.raises(BudgetExceeded):
        bring_up_spots(SMALL, 10, "true", session=session)
    session.budget = 3.0
    bring_up_spots(SMALL, 10, "true", session=session).result(10)


def test_an_extension_that_could_pass_the_budget_moves_nothing(fake_session):
    session = fake_session(FakeAws(), budget=1.0)
    launch = bring_up_spots(SMALL, 3, "true", session=session)
    launch.result(10)
    before = launch._conductor.expires
    with pytest.raises(BudgetExceeded):
        extend(2, session=session).result(10)
    assert launch._conductor.expires == before and session.aws.buckets == {}
    extend(1, session=session).result(10)


def test_a_launch_whose_price_nobody_knows_is_refused_under_a_budget(fake_session):
    session = fake_session(FakeAws(), budget=1000.0)
    request = {"LaunchSpecification": {"ImageId": "ami-0123456789abcdef0", "InstanceType": "x9g.large"}}
    with pytest.raises(BudgetExceeded, match="cannot be told"):
        bring_up_one_spot(request, "true", session=session)
    bring_up_one_spot(request, "true", session=session, price=0.5).result(10)


def test_two_launches_at_the_same_time_share_the_budget(fake_session):
    session = fake_session(FakeAws(), budget=1.0)
    refused = []

    async def one():
        try:
            await asyncio.to_thread(bring_up_spots, SMALL, 3, "true", session=session)
        except BudgetExceeded:
            refused.append(1)

    async def many():
        await asyncio.gather(*(one() for _ in range(8)))

    asyncio.run(many())
    assert len(session.launches) == 1 and len(refused) == 7


def test_reaching_the_budget_tears_everything_down(fake_session, monkeypatch, wait_for):
    said = []
    monkeypatch.setattr(display, "say", said.append)
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    session = fake_session(FakeAws())
    launch = bring_up_spots(SMALL, 3, "true", session=session)
    launch.result(10)
    assert session.aws.alive()
    session.budget = launch.cost().so_far  # what was spent stays below it only if all ends now
    wait_for(lambda: not session.aws.left() and len(said) == 2)
    assert "the budget is reached" in said[0] and "all seen gone" in said[1]
    assert session.cost().machines == 0


def test_a_teardown_for_the_budget_that_could_not_end_all_is_made_again_until_it_has(fake_session, monkeypatch, wait_for):
    said = []
    monkeypatch.setattr(display, "say", said.append)
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr("fleetctl.upkeep.books.AGAIN_SECONDS", 0.01)
    session = fake_session(FakeAws())
    launch = bring_up_spots(SMALL, 2, "true", session=session)
    kept, _ = launch.result(10).succeeded
    session.aws.protected.add(kept.instance_id)
    session.budget = launch.cost().so_far
    wait_for(lambda: sum("StillBilling" in one or "the teardown for the budget" in one for one in said) >= 2)
    assert session.aws.alive()
    session.aws.protected.clear()
    wait_for(lambda: not session.aws.left() and "all seen gone" in said[-1])


def test_a_budget_that_is_raised_ends_the_tries(fake_session, monkeypatch, wait_for, tasks_of):
    said = []
    monkeypatch.setattr(display, "say", said.append)
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr("fleetctl.upkeep.books.AGAIN_SECONDS", 0.01)
    session = fake_session(FakeAws())
    launch = bring_up_spots(SMALL, 1, "true", session=session)
    session.aws.protected |= {one.instance_id for one in launch.result(10).succeeded}
    session.budget = launch.cost().so_far
    wait_for(lambda: any("the teardown for the budget" in one for one in said))
    session.budget = None
    wait_for(lambda: "budget" not in tasks_of(session))


def test_a_machine_that_ends_by_itself_is_shown_as_ended(fake_session, monkeypatch, wait_for):
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    session = fake_session(FakeAws())
    monkeypatch.setattr("fleetctl.upkeep.books.LISTING_SECONDS", 0.05)
    launch = bring_up_spots(REQUEST, 2, "true", session=session)
    machine, _ = launch.result(10).succeeded
    assert launch.cost().machines == 2

    async def end():
        session.aws._end_instance(machine.instance_id, "Client.InstanceInitiatedShutdown")

    session.submit(end(), "end").result(10)
    wait_for(lambda: launch.cost().machines == 1)
    assert machine.state == "gone"


def test_a_launch_that_waits_for_capacity_keeps_nobody_from_seeing_that_others_machines_have_ended(fake_session, monkeypatch, wait_for):
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr("fleetctl.upkeep.books.LISTING_SECONDS", 0.05)
    session = fake_session(FakeAws())
    machine = bring_up_one_spot(REQUEST, "true", session=session).result(10)
    session.aws.fill = 1e6
    bring_up_one_spot(REQUEST, "true", session=session, minutes=7 * 24 * 60)

    async def end():
        session.aws._end_instance(machine.instance_id, "Client.InstanceInitiatedShutdown")

    session.submit(end(), "end").result(10)
    wait_for(lambda: session.cost().machines == 0, 20)
    assert machine.state == "gone"


def test_what_ended_while_the_computer_slept_costs_until_its_hard_end_at_most_and_spends_no_budget(fake_session, monkeypatch, wait_for):
    """A night later AWS does not show it any more."""
    said = []
    monkeypatch.setattr(display, "say", said.append)
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.01)
    session = fake_session(FakeAws(), budget=1.0)
    old, lives = (bring_up_one_spot(SMALL, "true", session=session, price=price).result(10) for price in (0.0941, 0.01))
    [first, _] = session.launches
    hourly = first.bill.spans([old._slot])[0].per_hour
    wait_for(lambda: session._books._next_listing > 0)

    async def sleep():
        del session.aws.instances[old.instance_id]
        night = 400 * 3600
        first.expires, old._slot.launched = old._slot.launched + 7200 - night, old._slot.launched - night
        session._books._next_listing -= night

    session.submit(sleep(), "sleep").result(10)
    wait_for(lambda: old.state == "gone", 20)
    assert session.cost().so_far == pytest.approx(2 * hourly, rel=0.02)
    assert lives.state == "ready" and not any("budget" in one for one in said), "it was never reached"


def test_costs_are_in_every_display(fake_session):
    session = fake_session(FakeAws(), budget=5.0)
    launch = bring_up_spots(REQUEST, 2, "true", session=session)
    machines = launch.result(10)
    hourly = f"${launch.cost().per_hour:.4f}/h"
    assert launch.cost().per_hour == pytest.approx(2 * (0.0031 + 0.1 * 8 / 720))  # they report no public address
    assert launch.cost().so_far > 0
    for shown in (repr(launch), launch._repr_html_(), repr(machines), repr(session)):
        assert hourly in shown
    for shown in (repr(launch), repr(session)):
        assert "of $5.00" in shown
    assert sum(machine.per_hour for machine in machines.values()) == pytest.approx(launch.cost().per_hour)


def test_a_price_that_changed_is_paid_for_its_time_only(fake_session):
    session = fake_session(FakeAws())
    launch = bring_up_spots(REQUEST, 1, "true", session=session)
    launch.result(10)
    [slot] = launch._conductor.core.all()
    slot.launched = time.time() - 7200
    pool = (slot.type, slot.zone)
    dearer = session._books.tariff.joined({pool: ((time.time() - 3600, 1.0031),)})
    launch._conductor.bill.tariff = dearer
    beside = launch.cost().parts["volumes"] + launch.cost().parts["public addresses"]
    assert launch.cost().so_far == pytest.approx(0.0031 + 1.0031 + 2 * beside, abs=0.01)


@pytest.mark.parametrize("budget", [0, -5, True, "5"])
def test_a_budget_is_an_amount_of_dollars(fake_session, budget):
    session = fake_session(FakeAws())
    with pytest.raises(RequestInvalid, match="budget"):
        session.budget = budget
    assert session.budget is None


@pytest.mark.cloud
def test_on_the_local_cloud_a_budget_refuses_and_tears_down(session, request_, living, monkeypatch, wait_for):
    monkeypatch.setattr(fuse, "RETRY_SECONDS", 0.1)
    session.budget = 0.3
    with pytest.raises(BudgetExceeded):
        bring_up_spots(request_, 2, "sleep 1000", session=session)
    launch = bring_up_spots(request_, 1, "sleep 1000", session=session)
    machine = launch.result(60).succeeded[0]
    assert machine.instance_id in living()
    session.budget = launch.cost().so_far
    wait_for(lambda: machine.instance_id not in living(), 60)
