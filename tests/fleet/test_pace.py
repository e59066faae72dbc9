"""EC2 is asked rarely, also where it takes its time: on a clock that jumps from event to event, at the pace of the real one."""

import asyncio
import time
from uuid import uuid4

import pytest
from fake_aws import REQUESTS, FakeAws
from hypothesis import given
from hypothesis import strategies as st
from virtual import run

from fleetctl import shapes
from fleetctl.bootstrap import Program
from fleetctl.cloud.bucket import reserve
from fleetctl.ending import fuse
from fleetctl.ending import teardown as ending
from fleetctl.ending.teardown import LOOKS, Estate, end, next_look
from fleetctl.errors import FleetError, Kind
from fleetctl.launching import launch
from fleetctl.launching.order import Order
from fleetctl.ledger import Entry
from fleetctl.money.prices import Tariff
from fleetctl.notify import Channel


class Desk:
    """A session's side of a launch, on the running loop."""

    id, key_file, secret = "0123456789ab", None, "none"

    def __init__(self, cloud):
        self.call, self.profile = cloud.call, cloud
        self.place = reserve(cloud.call, cloud.call, self.id, cloud.region)

    async def channel(self):
        made = Channel(self.call, self.id, name="fleetctl-test")
        await made.open()
        return made

    async def way_out(self, conductor):
        """Its subnets have one of their own."""

    async def prices(self, types):
        return Tariff().joined(await launch.ec2.spot_prices(self.call, types, None))


async def bring_up(cloud, n, *, minimum=None, seconds=600, call="RequestSpotInstances"):
    request = shapes.apply(REQUESTS[call], price=0.01)
    desk, now = Desk(cloud), time.time()
    order = Order(uuid4(), desk.id, request, Program(("true",)), n, now, now + seconds, 60, fuse_object=desk.place.whole(fuse.KEY))
    conductor = launch.Conductor(desk, order, minimum=minimum or n)
    began = asyncio.get_running_loop().time()
    conductor.start()
    await conductor.settled.wait()
    return conductor, asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("call", REQUESTS)
@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("boot", [20.0, 25.8, 40.0, 150.0])
def test_machines_that_boot_as_on_ec2_cost_six_calls_and_one_for_each_half_minute_of_waiting(boot, n, call):
    async def main():
        cloud = FakeAws(fill=4.0, boot=lambda number: boot * (0.8 + (number * 37 % 100) / 250))
        conductor, seconds = await bring_up(cloud, n, call=call)
        assert len(conductor.future.result()) == n
        assert seconds < 4 + 1.3 * boot
        assert sum(cloud.ec2_calls().values()) <= 6 + seconds // 30, cloud.ec2_calls()

    run(main())


def test_machines_that_report_over_minutes_cost_no_call_each():
    async def main():
        cloud = FakeAws(fill=2.0, boot=lambda number: 10.0 + 2 * number)
        _, seconds = await bring_up(cloud, 100)
        assert seconds > 200
        assert sum(cloud.ec2_calls().values()) <= 6 + seconds // 30, cloud.ec2_calls()

    run(main())


def test_a_launch_that_waits_in_vain_asks_twice_a_minute_and_no_more():
    async def main():
        cloud = FakeAws(phase=None)
        conductor, seconds = await bring_up(cloud, 10, seconds=300)
        assert conductor.future.exception() is not None
        assert 299 < seconds < 302
        assert cloud.ec2_calls()["describe_spot_instance_requests"] <= 300 // 30 + 2

    run(main())


@pytest.mark.parametrize("call", ["RunInstances", "CreateFleet"])
def test_a_launch_that_ec2_has_no_machines_for_asks_until_shortly_before_its_deadline_and_seldom(call):
    async def main():
        cloud = FakeAws()
        cloud.grant = lambda kind, zone, wanted, least, spot: (0, "InsufficientInstanceCapacity")
        conductor, seconds = await bring_up(cloud, 10, call=call)
        assert isinstance(conductor.future.exception(), FleetError)
        assert conductor.future.exception().kind is Kind.CAPACITY
        assert 600 - 120 < seconds <= 600
        assert sum(cloud.ec2_calls().values()) <= 6 + seconds // 20, cloud.ec2_calls()

    run(main())


@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("seconds", [0.1, 3.0, 30.0, 60.0])
def test_a_teardown_costs_at_most_six_calls_and_one_for_each_half_minute_that_instances_take_to_terminate(n, seconds):
    async def main():
        cloud = FakeAws(end=seconds)
        await bring_up(cloud, n)
        before, began = cloud.ec2_calls(), asyncio.get_running_loop().time()
        receipt = await end(cloud.call, estate(cloud), cost=lambda row: 0.003)
        assert receipt.remaining == ()
        assert asyncio.get_running_loop().time() - began >= seconds  # an accepted call is no proof
        assert len(receipt.found) == 2 * n
        assert sum((cloud.ec2_calls() - before).values()) <= 6 + seconds // 30, cloud.ec2_calls() - before
        assert asyncio.get_running_loop().time() < 66 + 30

    run(main())


def test_that_an_instance_is_not_to_be_seen_proves_nothing_and_it_is_looked_for_as_long_as_aws_may_need():
    async def main():
        cloud = FakeAws()
        await bring_up(cloud, 2)
        unseen, other = sorted(cloud.instances)
        cloud.instances.pop(unseen)
        receipt = await end(cloud.call, estate(cloud), cost=lambda row: 0.003)
        assert [line.id for line in receipt.remaining] == [unseen]
        assert other in {line.id for line in receipt.found if line.gone is not None}
        assert ending.PROOF_SECONDS <= asyncio.get_running_loop().time() <= ending.PROOF_SECONDS + 60

    run(main())


def estate(cloud):
    """What a ledger would say that has just seen the launch."""
    rows = [{"SpotInstanceRequestId": key} for key in cloud.requests]
    call = Entry(1, ending.time.time(), "L", "ec2", "request_spot_instances", "us-east-1", None, {}, {"SpotInstanceRequests": rows}, None)
    return Estate.read(Desk.id, "us-east-1", [call])


@pytest.mark.parametrize(
    ("look", "elapsed", "gone", "of", "at_least", "at_most"),
    [
        (0, 0.1, 0, 10, LOOKS[0], LOOKS[0]),
        (2, 5.0, 0, 10, LOOKS[2], LOOKS[2]),
        (1, 0.7, 5, 10, 1.4, 1.4),  # half in 0.7 s: the other half gets twice as long
        (1, 0.7, 9, 10, 1.0, 1.0),
        (2, 2.1, 9, 10, 27.9, 27.9),  # a third look in the first half minute would be one too many
        (1, 0.7, 1, 10, LOOKS[1], LOOKS[1]),
        (3, 90.0, 9, 10, 20.0, 20.0),
        (9, 90.0, 0, 10, LOOKS[-1], LOOKS[-1]),
    ],
)
def test_the_next_look_comes_when_the_rest_can_be_expected_to_be_gone(look, elapsed, gone, of, at_least, at_most):
    assert at_least <= next_look(look, elapsed, gone, of) <= at_most


@given(ends=st.lists(st.floats(0.01, 200.0), min_size=1, max_size=20))
def test_there_are_two_looks_in_the_first_half_minute_and_one_in_each_that_follows(ends):
    elapsed, number = 0.0, 0
    while any(end > elapsed for end in ends):
        elapsed += next_look(number, elapsed, sum(end <= elapsed for end in ends), len(ends))
        number += 1
        assert number <= 2 + elapsed // 30
