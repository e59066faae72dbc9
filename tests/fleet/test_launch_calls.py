"""Each of the three launch calls brings machines up that are found, tagged and counted alike; what it has not to give is told."""

import time

import pytest
from fake_aws import REQUESTS, FakeAws, Held, refusal

from fleetctl import LaunchFailed, bring_up_spots, commands, templates
from fleetctl.errors import Capacity, Denied, Kind, LaunchCancelled, Network, NotFound, PriceTooLow, TooFewMachines
from fleetctl.lifecycle import Deadline, LaunchState

AT_ONCE = ["RunInstances", "CreateFleet"]  # the calls whose answer names instances


@pytest.fixture(params=REQUESTS)
def call(request):
    return request.param


def requests(session):
    """One machine by each call, as a user of the local cloud writes it."""
    return {
        "RequestSpotInstances": {"LaunchSpecification": {"InstanceType": "t3.micro"}},
        "RunInstances": templates.spot(itype="t3.micro"),
        "CreateFleet": templates.fleet(types=["t3.micro", "t3.small"], subnets=list(session.profile.subnets.values())[:1]),
    }


def tags(row):
    return {tag["Key"]: tag["Value"] for tag in row.get("Tags", [])}


@pytest.fixture
def ended(session):
    """Ends what a test has brought up, whatever a teardown makes of it."""
    ids = []
    yield ids.extend
    if ids:
        session.boto3().client("ec2").terminate_instances(InstanceIds=ids)


@pytest.mark.cloud
@pytest.mark.parametrize("n", [1, 12])
async def test_every_call_brings_up_tagged_machines_within_the_budget_of_calls_and_leaves_no_template(session, oracle, ended, call, n):
    began = time.monotonic()
    launch = bring_up_spots(requests(session)[call], n, "sleep 1000", session=session, tags={"project": "tide"})
    machines = await launch
    calls, waits = oracle.ec2_calls(), int((time.monotonic() - began) // 30)
    ids = [machine.instance_id for machine in machines.values()]
    ended(ids)
    assert sum(calls.values()) <= 6 + waits, calls
    assert len(machines.succeeded) == n
    assert all(machine.request_id.startswith("sir-") for machine in machines.values()), "spot machines have a request in every shape"
    assert set(machines) == {machine.instance_id if call == "CreateFleet" else machine.request_id for machine in machines.values()}
    assert machines.succeeded[0].price == 0.0031
    ec2 = session.boto3().client("ec2")
    rows = [one for reservation in ec2.describe_instances(InstanceIds=ids)["Reservations"] for one in reservation["Instances"]]
    disks = [disk["Ebs"]["VolumeId"] for row in rows for disk in row["BlockDeviceMappings"]]
    spots = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[machine.request_id for machine in machines.values()])
    for row in [*rows, *ec2.describe_volumes(VolumeIds=disks)["Volumes"], *spots["SpotInstanceRequests"]]:
        assert tags(row)["fleetctl:session"] == session.id
        assert tags(row)["fleetctl:launch"] == str(launch.uuid)
        assert tags(row)["fleetctl:expires"].endswith("Z")
    assert all(tags(row)["project"] == "tide" for row in rows)
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []


@pytest.mark.cloud
@pytest.mark.parametrize("call", AT_ONCE)
async def test_what_there_is_no_capacity_for_is_told_and_nothing_is_left(session, cloud, oracle, call, one_round):
    cloud.fault("capacity", type="t3.micro")
    cloud.fault("capacity", type="t3.small")
    with pytest.raises((TooFewMachines, Capacity), match="InsufficientInstanceCapacity") as caught:
        await bring_up_spots(requests(session)[call], 2, "true", minutes=10, session=session)
    assert caught.value.left == ()
    assert caught.value.kind is Kind.CAPACITY
    assert oracle.living() == set()
    assert session.boto3().client("ec2").describe_launch_templates()["LaunchTemplates"] == []


def listing_often(monkeypatch):
    for name in ("EARLY_SECONDS", "LISTING_SECONDS"):
        monkeypatch.setattr(f"fleetctl.launching.listing.{name}", 0.05)


@pytest.mark.cloud
def test_a_price_that_is_too_low_is_told_as_such_by_every_call(session, oracle, call, monkeypatch, wait_for):
    listing_often(monkeypatch)
    launch = bring_up_spots(requests(session)[call], 1, "true", minutes=10, session=session, price=0.001)
    if call == "RequestSpotInstances":  # the only one whose requests wait
        wait_for(lambda: dict(launch.progress().waiting).get("price-too-low"))
        session.loop.call_soon_threadsafe(launch._conductor.feed, Deadline())
    error = launch.exception(60)
    assert isinstance(error, TooFewMachines | PriceTooLow)
    assert error.kind is Kind.PRICE
    assert "raise price" in error.todo
    assert error.left == ()
    assert oracle.living() == set()


def test_what_waiting_does_not_mend_ends_the_launch_at_once_with_aws_s_own_words(fake_session, monkeypatch):
    listing_often(monkeypatch)
    cloud = FakeAws(fill=1000.0)

    def constrained(number):
        key = f"sir-{number:08x}"
        cloud.requests[key]["Status"] = {"Code": "constraint-not-fulfillable", "Message": "There is no zone us-east-1q."}
        return [key]

    made = cloud._requested
    cloud._requested = lambda p: [key for one in made(p) for key in constrained(int(one[4:], 16))]
    session = fake_session(cloud)
    launch = bring_up_spots(REQUESTS["RequestSpotInstances"], 2, "true", session=session)
    error = launch.exception(10)
    assert isinstance(error, TooFewMachines)
    assert (error.kind, error.codes) == (Kind.INVALID, {"constraint-not-fulfillable": 2})
    assert "There is no zone us-east-1q." in str(error)
    assert "left running: nothing; it had no instance" in str(error)
    assert cloud.alive() == set(), "open requests are cancelled"


class Scarce(FakeAws):
    """Has `room` machines for each call."""

    room = 1

    def grant(self, kind, zone, wanted, least, spot):
        return min(self.room, wanted), "InsufficientInstanceCapacity"


@pytest.mark.parametrize("call", AT_ONCE)
def test_with_fewer_than_the_minimum_and_no_time_to_ask_again_the_launch_fails_and_ends_what_there_is(fake_session, call, one_round):
    cloud = Scarce(phase=None)
    error = bring_up_spots(REQUESTS[call], 3, "true", minimum=2, session=fake_session(cloud)).exception(10)
    assert isinstance(error, LaunchFailed)
    assert "EC2 gave 1, 2 were needed" in str(error)
    assert "left running: nothing; its 1 instance(s) were terminated" in str(error)
    assert error.kind is Kind.CAPACITY
    assert ("InsufficientInstanceCapacity" in str(error)) == (call == "CreateFleet"), "RunInstances says nothing of what it has not"
    assert error.left == ()
    assert len(cloud.instances) == 1
    assert cloud.alive() == set()


@pytest.mark.parametrize("call", AT_ONCE)
def test_the_minimum_is_enough_where_there_are_no_more(fake_session, call, one_round):
    machines = bring_up_spots(REQUESTS[call], 3, "true", minimum=1, session=fake_session(Scarce())).result(10)
    assert len(machines.succeeded) == len(machines) == 1


def test_a_lost_answer_is_asked_for_again_with_the_same_token_and_nothing_is_made_twice(fake_session, call, monkeypatch):
    monkeypatch.setattr("fleetctl.cloud.ec2.PAUSES", (0, 0))
    cloud, lost = FakeAws(), set()

    async def lose(service, operation, parameters):
        if operation.startswith(("request_", "run_", "create_fleet", "create_launch")) and operation not in lost:
            lost.add(operation)
            raise refusal(Network, service, operation, "ConnectionClosedError")

    cloud.after = lose
    machines = bring_up_spots(REQUESTS[call], 2, "true", session=fake_session(cloud)).result(10)
    assert lost
    assert {machine.instance_id for machine in machines.values()} == {*cloud.instances}
    assert len(cloud.instances) == 2
    assert cloud.templates == {}


def test_a_template_that_its_fleet_does_not_see_yet_is_asked_for_again(fake_session, monkeypatch):
    monkeypatch.setattr("fleetctl.cloud.ec2.PAUSES", (0, 0))
    cloud, asked = FakeAws(), []

    async def unseen(service, operation, parameters):
        if operation == "create_fleet" and not asked:
            asked.append(parameters["ClientToken"])
            raise refusal(NotFound, service, operation, "InvalidLaunchTemplateName.NotFoundException")

    cloud.before = unseen
    assert len(bring_up_spots(REQUESTS["CreateFleet"], 2, "true", session=fake_session(cloud)).result(10).succeeded) == 2
    assert cloud.count("create_fleet") == 2
    assert asked == [*{one["ClientToken"] for one in cloud.parameters if "TargetCapacitySpecification" in one}]


def test_a_fleet_that_is_refused_leaves_no_template(fake_session):
    cloud = FakeAws()

    async def refuse(service, operation, parameters):
        if operation == "create_fleet":
            raise refusal(Denied, service, operation, "UnauthorizedOperation")

    cloud.before = refuse
    error = bring_up_spots(REQUESTS["CreateFleet"], 2, "true", session=fake_session(cloud)).exception(10)
    assert isinstance(error, Denied)
    assert error.left == ()
    assert cloud.count("create_launch_template") == 1
    assert cloud.templates == {}


@pytest.mark.parametrize("applied", [False, True], ids=["before it is applied", "while its answer is on its way"])
def test_a_launch_cancelled_at_any_call_to_aws_leaves_no_machine_and_no_template(fake_session, tasks_of, caplog, call, applied):
    held_at, k = [], 0
    while True:
        cloud = FakeAws()
        held, session = Held(cloud, k, applied=applied), fake_session(cloud)
        launch = bring_up_spots(REQUESTS[call], 2, commands.server(), session=session)
        if not held.reached(launch):
            break
        held_at.append(held.at)
        cancelling = launch.cancel()
        tasks_of(session)  # by now the cancel has been heard
        session.loop.call_soon_threadsafe(held.release)
        cancelling.result(10)
        error = launch.exception(10)
        if launch.progress().state is not LaunchState.UP:
            assert isinstance(error, LaunchCancelled), held.at
            assert error.left == ()
            assert cloud.alive() == set(), held.at
        assert cloud.templates == {}, held.at
        session.leave()
        k += 1
    assert {"create_fleet", "delete_launch_template"} <= {*held_at} or call != "CreateFleet"
    assert "broke" not in caplog.text
