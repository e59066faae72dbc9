"""What a teardown finds it ends, and proves; what it cannot end it names, and that holds nothing else up."""

import asyncio
import gc
import time
import weakref
from datetime import UTC, datetime

import pytest
from fake_aws import REQUEST, FakeAws, profile, refusal

from fleetctl import ScriptFailed, StillBilling, bring_up_one_spot, bring_up_spots, teardown, teardown_all
from fleetctl.cloud import ec2
from fleetctl.ending import estate
from fleetctl.ending import teardown as ending
from fleetctl.errors import AwsError, Denied, Network, NotFound, Throttled
from fleetctl.ledger import Entry
from fleetctl.lifecycle import Ended
from fleetctl.messages import Phase
from fleetctl.session import Session

MACHINES = {"spot request", "instance"}
CHANNEL = {"topic", "queue", "subscription"}


def test_the_session_s_own_teardown_starts_at_the_call_and_is_awaited_in_any_loop(fake_session):
    session = fake_session(FakeAws())
    machines = up(session)

    async def notebook():
        return await asyncio.wait_for(session.teardown_all(), 20)       # not on the session's own loop

    assert len(asyncio.run(notebook()).found) >= 2 * len(machines)
    assert repr(machines).startswith("<machines: 0 up, 0 failed, 3 ended, $0.0000/h")
    machines = up(session)
    begun = session.teardown_all()                                      # nobody awaits it
    assert not begun.result(20).remaining
    assert machines.up == []


def test_what_is_not_awaited_yet_says_so_where_its_value_s_attributes_are_asked_for(fake_session):
    session = fake_session(FakeAws())
    launch = bring_up_spots(REQUEST, 1, "true", session=session)
    with pytest.raises(AttributeError, match=r"'Launch' object has no attribute 'run'; await it first, or call its \.result\(\): <launch "):
        launch.run("hostname")
    assert not hasattr(launch, "_repr_png_")
    assert launch.result(10).up
    ending = teardown_all(session=session)
    with pytest.raises(AttributeError, match=r"'remaining'; await it first.*: <teardown of everything: "):
        ending.remaining  # noqa: B018
    assert not ending.result(10).remaining


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ec2, "PAUSES", (0.001,) * 5)
    monkeypatch.setattr(ending, "LOOKS", (0.0, 0.001))


def up(session, n=3):
    return bring_up_spots(REQUEST, n, "true", session=session).result(10)


def down(session):
    return teardown_all(session=session).result(10)


def still(session):
    with pytest.raises(StillBilling) as caught:
        down(session)
    return caught.value.receipt


# --- on the local cloud -----------------------------------------------------------------------------------------------------


@pytest.mark.cloud
async def test_a_protected_instance_stops_no_other_and_ends_once_its_protection_is_lifted(session, cloud, oracle, request_):
    machines = await bring_up_spots(request_, 5, "sleep 1000", session=session)
    api, protected = session.boto3().client("ec2"), machines.succeeded[2].instance_id
    api.modify_instance_attribute(InstanceId=protected, DisableApiTermination={"Value": True})
    with pytest.raises(StillBilling, match=protected) as caught:
        await teardown_all(session=session)
    [line] = caught.value.receipt.remaining
    assert (line.id, line.done, line.proof) == (protected, "not terminated", "OperationNotPermitted")
    assert oracle.living() == {protected}
    api.modify_instance_attribute(InstanceId=protected, DisableApiTermination={"Value": False})
    again = await teardown_all(session=session)
    assert [line.id for line in again.found if line.thing == "instance"] == [protected]
    assert {line.thing for line in again.found} <= MACHINES
    assert oracle.living() == set()
    assert (await teardown_all(session=session)).found == ()


@pytest.mark.cloud
async def test_an_id_that_ec2_does_not_know_stops_no_other(session, cloud, oracle, request_):
    machines = await bring_up_spots(request_, 4, "sleep 1000", session=session)
    ids = [machine.instance_id for machine in machines.values()]
    refused = await session.submit(ec2.terminate(session.call, [*ids[:2], "i-0123456789abcdef0", *ids[2:]]), "terminating")
    assert {one: error.code for one, error in refused.items()} == {"i-0123456789abcdef0": "InvalidInstanceID.NotFound"}
    assert (await teardown_all(session=session)).remaining == ()
    assert oracle.living() == set()


@pytest.mark.cloud
async def test_a_launch_call_that_was_applied_though_its_answer_was_lost_launches_once(session, cloud, oracle, request_):
    cloud.fault("server-error", operation="RequestSpotInstances", applied=True, times=1)
    launch = bring_up_spots(request_, 2, "sleep 1000", session=session)
    machines = await launch
    ours = [one for one in cloud.inventory()["spot_requests"] if one["id"] in machines]
    assert len(ours) == 2
    assert oracle.ec2_calls()["RequestSpotInstances"] == 2
    assert oracle.living() == {machine.instance_id for machine in machines.values()}
    await teardown_all(session=session)
    assert oracle.living() == set()


@pytest.mark.cloud
async def test_a_teardown_ends_the_channel_as_it_ends_the_machines_and_a_second_one_finds_nothing(session, cloud, request_):
    before = cloud.inventory()
    await bring_up_one_spot(request_, "sleep 1000", session=session)
    receipt = await teardown_all(session=session)
    assert {line.thing for line in receipt.found} == MACHINES | CHANNEL
    after = cloud.inventory()
    assert {name: after[name] for name in ("queues", "topics", "subscriptions", "parameters")} == {
        name: before[name] for name in ("queues", "topics", "subscriptions", "parameters")
    }
    assert (await teardown_all(session=session)).found == ()


@pytest.mark.cloud
async def test_tearing_a_failed_launch_down_asks_for_little_and_finds_it_gone(session, oracle, request_):
    launch = bring_up_spots(request_, 2, "exit 3", session=session)
    with pytest.raises(ScriptFailed):
        await launch
    before = sum(oracle.ec2_calls().values())
    receipt = await teardown(launch)
    assert receipt.remaining == ()
    assert {line.thing for line in receipt.found} == MACHINES
    assert sum(oracle.ec2_calls().values()) - before <= 6, oracle.ec2_calls()
    assert (await teardown(launch)).found == ()


# --- whatever AWS says --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Throttled, Network])
@pytest.mark.parametrize(
    "operation",
    ["cancel_spot_instance_requests", "describe_spot_instance_requests", "terminate_instances", "describe_instances", "delete_queue"],
)
def test_a_call_that_aws_throttles_or_does_not_answer_is_done_later(fake_session, impatient, operation, kind):
    cloud = FakeAws()
    session = fake_session(cloud)
    up(session)
    refuse(cloud, operation, kind, times=3)
    assert down(session).remaining == ()
    assert cloud.left() == set()


def refuse(cloud, operation, kind, *, times=10**6, code="Broken", ids=None):
    """Refuse an operation; with `ids` only where it names one of them."""
    left = [times]

    async def hook(service, name, parameters):
        named = next((value for value in parameters.values() if isinstance(value, list)), [])
        if name == operation and left[0] and (ids is None or ids & {*named}):
            left[0] -= 1
            raise refusal(kind, service, name, code)

    cloud.before = hook


@pytest.mark.parametrize("operation", ["terminate_instances", "describe_instances", "describe_spot_instance_requests"])
def test_what_aws_goes_on_refusing_is_in_the_receipt_with_its_reason(fake_session, impatient, operation):
    cloud = FakeAws()
    session = fake_session(cloud)
    up(session)
    refuse(cloud, operation, Throttled, code="RequestLimitExceeded")
    remaining = still(session).remaining
    assert remaining
    assert {line.proof for line in remaining} == {"RequestLimitExceeded"}
    assert cloud.topics == set(), "what has nothing to do with it is ended all the same"
    refuse(cloud, "nothing", Throttled)
    assert down(session).remaining == ()
    assert cloud.left() == set()


@pytest.mark.parametrize(("kind", "code"), [(AwsError, "IncorrectState"), (Denied, "UnauthorizedOperation")])
def test_of_a_hundred_instances_the_one_that_is_refused_is_found_by_halving(fake_session, kind, code):
    cloud = FakeAws()
    session = fake_session(cloud)
    up(session, 100)
    bad = sorted(cloud.instances)[41]
    refuse(cloud, "terminate_instances", kind, code=code, ids={bad})
    receipt = still(session)
    assert [(line.id, line.proof) for line in receipt.remaining] == [(bad, code)]
    assert cloud.alive() == {bad}
    assert cloud.count("terminate_instances") <= 2 * 7 + 1


@pytest.mark.parametrize("kind", [Throttled, Network])
async def test_a_refusal_that_is_not_about_the_ids_is_not_halved(kind):
    cloud = FakeAws()
    refuse(cloud, "terminate_instances", kind)
    with pytest.raises(kind):
        await ec2.terminate(cloud.call, [f"i-{n:08x}" for n in range(64)])
    assert cloud.count("terminate_instances") == 1


def test_a_spot_request_that_cannot_be_cancelled_keeps_no_instance_alive(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    up(session)
    refuse(cloud, "cancel_spot_instance_requests", Denied, code="UnauthorizedOperation")
    receipt = still(session)
    assert {(line.thing, line.done) for line in receipt.remaining} == {("spot request", "not cancelled")}
    assert cloud.alive() == set()


def test_an_instance_that_a_listing_does_not_show_yet_is_waited_for(fake_session, impatient):
    cloud = FakeAws(boot=3600)
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 1, "true", session=session)
    listings = []

    async def hook(service, name, parameters):  # only the third listing after the cancel shows the instance
        cloud.hidden.update(cloud.requests)
        if name == "describe_spot_instance_requests" and cloud.count("cancel_spot_instance_requests"):
            listings.append(name)
            if len(listings) > 2:
                cloud.hidden.clear()

    cloud.before = hook
    while not cloud.instances:
        session.submit(asyncio.sleep(0), "a round of the loop").result(10)
    launch.cancel().result(10)
    [request] = cloud.requests
    assert launch.exception().left == (f"the instance of {request}",)
    receipt = down(session)
    assert {line.thing for line in receipt.found} == MACHINES | CHANNEL
    assert receipt.remaining == ()
    assert cloud.alive() == set()


def test_an_instance_that_aws_has_forgotten_is_proved_by_its_request(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    up(session, 2)
    forgotten, _ = sorted(cloud.instances)
    lost = cloud.instances.pop(forgotten)
    for volume in lost["volumes"]:
        del cloud.volumes[volume]
    cloud.requests[lost["request"]] |= {"State": "closed", "Status": {"Code": "instance-terminated-by-service"}}
    receipt = down(session)
    assert receipt.remaining == ()
    assert {line.id: line.proof for line in receipt.found}[forgotten] == "instance-terminated-by-service"


def test_a_thing_that_is_gone_already_is_gone(fake_session):
    cloud = FakeAws()
    session = fake_session(cloud)
    up(session)
    cloud.queues.clear()
    cloud.subscriptions.clear()
    receipt = down(session)
    assert receipt.remaining == ()
    assert {line.thing for line in receipt.found} == MACHINES | CHANNEL


@pytest.mark.parametrize("operation", ["create_topic", "create_queue", "subscribe"])
def test_a_thing_whose_making_was_not_answered_is_named_by_the_same_call_and_ended(fake_session, impatient, operation):
    cloud = FakeAws()
    session = fake_session(cloud)

    async def lost(service, name, parameters):
        if name == operation:
            raise refusal(Network, service, name, "ReadTimeoutError")

    cloud.after = lost
    with pytest.raises(Network):
        up(session)
    refuse(cloud, "nothing", Network)
    cloud.after = cloud.before
    assert down(session).remaining == ()
    assert cloud.left() == set()
    assert down(session).found == ()


@pytest.mark.parametrize("there", [True, False])
def test_a_subscription_that_was_not_answered_is_found_on_its_topic_where_its_queue_is_gone(fake_session, impatient, there):
    cloud = FakeAws()
    session = fake_session(cloud)

    async def lost(service, name, parameters):
        if name == "subscribe":
            raise refusal(Network, service, name, "ReadTimeoutError")

    cloud.after = lost
    with pytest.raises(Network):
        up(session)
    cloud.after = cloud.before
    cloud.queues.clear()
    if not there:
        cloud.subscriptions.clear()
    receipt = down(session)
    assert receipt.remaining == ()
    assert cloud.subscriptions == {}
    assert [line.done for line in receipt.found if line.thing == "subscription"] == ["deleted" if there else "looked for"]
    assert down(session).found == ()


async def test_more_instances_than_a_filter_takes_are_looked_at_in_one_call_and_one_unknown_id_spoils_nothing():
    known = [f"i-{n:08x}" for n in range(450)]
    calls = []

    async def call(service, operation, **parameters):
        calls.append(parameters)
        ids = parameters.get("InstanceIds") or parameters["Filters"][0]["Values"]
        if "InstanceIds" in parameters and not {*ids} <= {*known}:
            raise refusal(NotFound, service, operation, "InvalidInstanceID.NotFound")
        return {"Reservations": [{"Instances": [{"InstanceId": one} for one in ids if one in known]}]}

    assert len(await ec2.instances(call, known)) == 450
    assert len(calls) == 1
    assert len(await ec2.instances(call, [*known, "i-ffffffff"])) == 450
    assert len(calls) == 5, "one that fails, and three with filters"


def entry(seq, operation, result=None, error=None, *, at=0.0, launch="L", request=None):
    return Entry(seq, at, launch, "any", operation, "us-east-1", None, request or {}, result, error)


def test_an_estate_is_what_was_made_less_what_was_proved_gone():
    made = {"SpotInstanceRequests": [{"SpotInstanceRequestId": f"sir-{n}"} for n in range(3)]}
    made_of = estate.Estate.read("s", "us-east-1", [
        entry(1, "create_topic", {"TopicArn": "t"}),
        entry(2, "create_queue"),  # no outcome is known
        entry(3, "request_spot_instances", error="Network: lost"),
        entry(4, "request_spot_instances", made),  # the second try, with the same token
        entry(5, "request_spot_instances", error="RequestInvalid: no", launch="M"),
        entry(6, "request_spot_instances", launch="N", at=7.0),
        entry(7, "put_parameter", error="Network: lost", request={"Name": "p"}),
        entry(8, "seen_gone", {}, request=["sir-1", "t"]),
    ])
    assert set(made_of.requests) == {"sir-0", "sir-2"}
    assert made_of.unsure == {"N": (7.0, 1, "request_spot_instances")}
    assert made_of.things == [("parameter", "p")]
    assert [one.seq for one in made_of.unsure_things] == [2]


def test_a_receipt_counts_a_machine_that_ended_by_itself_until_its_end(fake_session):
    session = fake_session(FakeAws())
    launch = bring_up_spots(REQUEST, 2, "true", session=session)
    ended, lives = launch.result(10).succeeded
    now = time.time()
    for machine in (ended, lives):
        machine._slot.launched = now - 7200
        session.aws.instances[machine.instance_id]["LaunchTime"] = datetime.fromtimestamp(now - 7200, UTC)

    async def end():
        launch._conductor.feed(Ended((ended.instance_id,)))

    session.submit(end(), "end").result(10)
    ended._slot.gone = now - 3600
    cost = {line.id: line.cost for line in down(session).lines}
    assert cost[ended.instance_id] == pytest.approx(cost[lives.instance_id] / 2, rel=0.01)
    assert cost[lives.instance_id] > 2 * 0.0031


def test_a_receipt_of_failed_machines_has_what_they_cost(fake_session):
    cloud = FakeAws(phase=Phase.FAILED)
    session = fake_session(cloud)
    launch = bring_up_spots(REQUEST, 2, "true", session=session)
    with pytest.raises(ScriptFailed):
        launch.result(10)
    disk = 8 * 0.10 / 720  # USD an hour: 8 GiB of gp2, where the request names none
    assert down(session).cost == pytest.approx(2 * (0.0031 + disk) / 60, rel=0.01), "a minute at least is billed"


@pytest.mark.parametrize("end", ["close", "leave"])
def test_a_session_that_has_ended_is_kept_by_nobody(tmp_path, end):
    session = Session(profile(FakeAws(), tmp_path))
    up(session)
    getattr(session, end)()
    kept = weakref.ref(session)
    del session
    gc.collect()
    assert kept() is None
