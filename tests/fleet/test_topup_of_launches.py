"""What one capacity pool has not is asked for elsewhere, and on demand where that is wanted; never for more than is missing."""

import time

import pytest
from fake_aws import REQUESTS, FakeAws, Held, refusal

from fleetctl import bring_up_spots, commands, templates
from fleetctl.errors import Capacity, Denied, Kind, LaunchCancelled, Network, RequestInvalid, TooFewMachines
from fleetctl.launching import topup
from fleetctl.lifecycle import LaunchState

TYPES = ["t3.micro", "t3.small", "t3.medium"]


class Pools(FakeAws):
    """Has so many spot machines of each type, and on demand as many as anybody wants."""

    def __init__(self, **room):
        super().__init__()
        self.room = {kind.replace("_", "."): number for kind, number in room.items()}

    def grant(self, kind, zone, wanted, least, spot):
        if not spot:
            return wanted, ""
        given = min(wanted, self.room.get(kind, 0))
        self.room[kind] = self.room.get(kind, 0) - given
        return given, "InsufficientInstanceCapacity"

    def tokens_of(self, operation):
        return [one["ClientToken"] for name, one in zip(self.calls, self.parameters, strict=True) if name == operation]

    def types(self):
        return sorted((one["InstanceType"], one.get("InstanceLifecycle", "on-demand")) for one in self.instances.values())


def bring_up(session, n, **options):
    return bring_up_spots({"ImageId": "ami-0123456789abcdef0"}, n, "true", session=session, **{"itype": TYPES, **options})


@pytest.fixture
def soon(monkeypatch):
    """Rounds follow each other at once."""
    monkeypatch.setattr(topup, "FIRST_GAP", 0.02)
    monkeypatch.setattr(topup, "LAST_GAP", 0.05)


def test_the_shortfall_of_a_pool_is_asked_for_from_the_next_under_a_new_token(fake_session):
    cloud = Pools(t3_micro=2, t3_small=0, t3_medium=9)
    session = fake_session(cloud)
    machines = bring_up(session, 5).result(10)
    assert len(machines.succeeded) == len(machines) == 5
    assert cloud.types() == [("t3.medium", "spot")] * 3 + [("t3.micro", "spot")] * 2
    tokens = cloud.tokens_of("run_instances")
    assert len(tokens) == len({*tokens}) == 3
    in_ledger = [entry.token for entry in session.ledger.entries() if entry.operation == "run_instances"]
    assert in_ledger == tokens


def test_nothing_further_is_asked_for_where_the_first_pool_has_all(fake_session):
    cloud = Pools(t3_micro=5, t3_small=5)
    assert len(bring_up(fake_session(cloud), 5).result(10)) == 5
    assert cloud.count("run_instances") == 1


@pytest.mark.parametrize("call", ["RunInstances", "CreateFleet"])
def test_what_no_pool_has_comes_on_demand_where_that_is_the_fallback(fake_session, call):
    cloud = Pools(t3_micro=2)
    options = {"session": fake_session(cloud), "fallback": "on-demand"}
    machines = bring_up_spots(REQUESTS[call], 5, "true", **options).result(10)
    assert len(machines.succeeded) == len(machines) == 5
    assert cloud.types() == [("t3.micro", "on-demand")] * 3 + [("t3.micro", "spot")] * 2
    assert cloud.templates == {}
    assert sum(machine.request_id is None for machine in machines.values()) == 3
    assert {tag["Key"] for one in cloud.instances for tag in cloud.tags[one]} >= {"fleetctl:session", "fleetctl:launch", "fleetctl:expires"}


def test_without_a_fallback_nothing_on_demand_is_launched_and_the_minimum_is_enough(fake_session, one_round):
    cloud = Pools(t3_micro=1, t3_small=1)
    machines = bring_up(fake_session(cloud), 5, minimum=2).result(10)
    assert len(machines.succeeded) == len(machines) == 2
    assert {market for _, market in cloud.types()} == {"spot"}


def test_where_all_pools_together_have_too_few_each_is_named_and_all_is_ended(fake_session, one_round):
    cloud = Pools(t3_small=1)
    error = bring_up(fake_session(cloud), 5, minimum=2).exception(10)
    assert isinstance(error, TooFewMachines)
    assert error.kind is Kind.CAPACITY
    assert [one.type for one in error.shortfalls] == ["t3.micro", "t3.medium"], "of what a pool had some of, RunInstances says nothing"
    assert (error.left, error.ended) == ((), 1)
    assert cloud.alive() == set()


def test_where_no_pool_has_any_the_refusal_is_the_error(fake_session, one_round):
    cloud = Pools()
    error = bring_up(fake_session(cloud), 5).exception(10)
    assert isinstance(error, Capacity)
    assert error.left == ()
    assert cloud.count("run_instances") == len(TYPES)


@pytest.mark.parametrize("call", ["RunInstances", "CreateFleet"])
def test_pools_that_had_none_are_asked_again_under_new_tokens_until_they_have_some(fake_session, soon, wait_for, call):
    cloud = Pools()
    session = fake_session(cloud)
    launch = bring_up_spots(REQUESTS[call], 3, "true", session=session)
    name = "run_instances" if call == "RunInstances" else "create_fleet"
    wait_for(lambda: cloud.count(name) >= 2)
    assert launch.progress().waiting == (("InsufficientInstanceCapacity", 3),)
    cloud.room["t3.micro"] = 2
    wait_for(lambda: len(cloud.instances) == 2)
    cloud.room["t3.micro"] = 9
    assert len(launch.result(20).succeeded) == len(cloud.instances) == 3
    assert launch.progress().waiting == ()
    tokens = cloud.tokens_of(name)
    assert len(tokens) == len({*tokens}) >= 4
    assert [one.token for one in session.ledger.entries() if one.operation == name] == tokens
    assert cloud.templates == {}


def test_asking_ends_with_the_deadline_and_the_error_says_that_there_is_no_capacity(fake_session, soon):
    cloud = Pools()
    launch = bring_up(fake_session(cloud), 5, minutes=0.01)
    error = launch.exception(20)
    assert error.kind is Kind.CAPACITY
    assert error.left == ()
    assert cloud.count("run_instances") > len(TYPES)


@pytest.mark.parametrize("code", ["SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded", "InsufficientFreeAddressesInSubnet"])
def test_what_minutes_do_not_mend_is_asked_for_once_in_each_pool(fake_session, soon, code):
    cloud = Pools()
    cloud.grant = lambda kind, zone, wanted, least, spot: (0, code)
    assert bring_up(fake_session(cloud), 5).exception(10) is not None
    assert cloud.count("run_instances") == len(TYPES)


def test_a_launch_that_waits_for_its_next_round_is_cancelled_at_once(fake_session):
    cloud = Pools()
    session = fake_session(cloud)
    launch = bring_up(session, 5)
    while launch.progress().waiting == () or cloud.count("run_instances") < len(TYPES):
        time.sleep(0.005)
    launch.cancel().result(10)
    assert isinstance(launch.exception(10), LaunchCancelled)
    assert cloud.count("run_instances") == len(TYPES)


def test_what_is_not_allowed_is_not_tried_elsewhere(fake_session):
    cloud = Pools(t3_small=5)

    async def refuse(service, operation, parameters):
        if operation == "run_instances":
            raise refusal(Denied, service, operation, "UnauthorizedOperation")

    cloud.before = refuse
    assert isinstance(bring_up(fake_session(cloud), 1).exception(10), Denied)
    assert cloud.count("run_instances") == 1


@pytest.mark.parametrize("minimum", [1, 4])
def test_machines_of_a_further_pool_whose_answer_was_lost_for_good_are_found_and_ended(fake_session, monkeypatch, minimum):
    monkeypatch.setattr("fleetctl.cloud.ec2.PAUSES", ())
    cloud = Pools(t3_micro=1, t3_small=3)

    async def lose(service, operation, parameters):
        if operation == "run_instances" and parameters["InstanceType"] == "t3.small":
            raise refusal(Network, service, operation, "ConnectionClosedError")

    cloud.after = lose
    launch = bring_up(fake_session(cloud), 4, minimum=minimum, itype=TYPES[:2])
    launch.exception(10)
    assert len(cloud.instances) == 4
    if launch.exception() is None:
        assert cloud.alive() == {machine.instance_id for machine in launch.machines.succeeded}
    else:
        assert minimum == 4
        assert cloud.alive() == set()


@pytest.mark.parametrize("applied", [False, True], ids=["before it is applied", "while its answer is on its way"])
@pytest.mark.parametrize("call", ["RunInstances", "CreateFleet"])
def test_a_launch_that_goes_from_pool_to_pool_is_cancelled_at_any_call_and_leaves_nothing(fake_session, tasks_of, call, applied):
    held_at, k = [], 0
    while True:
        cloud = Pools(t3_micro=1)
        held, session = Held(cloud, k, applied=applied), fake_session(cloud)
        launch = bring_up_spots(REQUESTS[call], 3, commands.server(), session=session, fallback="on-demand")
        if not held.reached(launch):
            break
        held_at.append(held.at)
        cancelling = launch.cancel()
        tasks_of(session)  # by now the cancel has been heard
        session.loop.call_soon_threadsafe(held.release)
        cancelling.result(10)
        if launch.progress().state is not LaunchState.UP:
            assert isinstance(launch.exception(10), LaunchCancelled), held.at
            assert cloud.alive() == set(), held.at
        assert cloud.templates == {}, held.at
        session.leave()
        k += 1
    assert held_at.count("run_instances" if call == "RunInstances" else "create_fleet") == 2


def test_zones_are_not_put_into_the_one_subnet_that_the_profile_would_fill_in(fake_session):
    session = fake_session(Pools())
    object.__setattr__(session.profile, "subnets", {"public": "subnet-1", "public-b": "subnet-2"})
    with pytest.raises(RequestInvalid, match="all zones into its subnet 'public'") as raised:
        bring_up(session, 1, zone=["us-east-1a", "us-east-1b"])
    assert "public, public-b" in raised.value.todo


@pytest.mark.cloud
async def test_on_the_local_cloud_a_type_without_capacity_is_replaced_by_the_next_and_by_machines_on_demand(session, cloud, oracle):
    cloud.fault("capacity", type="t3.micro")
    machines = await bring_up_spots(
        templates.spot(), 3, "sleep 1000", session=session, itype=["t3.micro", "t3.small"], subnet=["public"], fallback="on-demand"
    )
    ec2 = session.boto3().client("ec2")
    ids = [machine.instance_id for machine in machines.values()]
    try:
        assert {machine.type for machine in machines.succeeded} == {"t3.small"}
        assert sum(oracle.ec2_calls().values()) <= 6 + 4, "one refused call (which the SDK asks again) beside the usual"
    finally:
        ec2.terminate_instances(InstanceIds=ids)
