"""Going on with what another process has begun: its machines come back, nothing is made or ended for that."""

import asyncio
import base64
import os
import subprocess
import threading
import time
from uuid import UUID

import pytest
from fake_aws import REQUESTS, FakeAws, profile, refusal

from fleetctl import Program, bootstrap, bring_up_spots, current, teardown, teardown_all
from fleetctl.cloud.bucket import reserve
from fleetctl.errors import BudgetExceeded, Denied, FleetError, RequestInvalid
from fleetctl.launching import replacing
from fleetctl.ledger import Ledger, sessions
from fleetctl.lifecycle import LaunchState, MachineState
from fleetctl.messages import Phase, Report
from fleetctl.oversight import abandoned, recovery
from fleetctl.oversight.orphans import Found
from fleetctl.oversight.resuming import attach

each_shape = pytest.mark.parametrize("shape", REQUESTS)
ENDS = ("cancel_spot_instance_requests", "terminate_instances", "delete_fleets", "delete_topic", "delete_queue", "unsubscribe")
MAKES = ("request_spot_instances", "run_instances", "create_fleet", "create_topic", "create_queue", "subscribe", "put_parameter")


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Attaches to a launch on a FakeAws, as another process would; what it has attached to is let go."""
    attached = []

    def make(cloud, launch, **options):
        monkeypatch.setattr(abandoned, "load", lambda name, home: profile(cloud, tmp_path))
        cloud._news = asyncio.Event()  # the other process had another loop
        attached.append(attach(launch, home=tmp_path, **options))
        return attached[-1]

    monkeypatch.setenv("FLEETCTL_SIDECAR", "off")
    yield make
    for launch in attached:
        launch.session.leave()


def begun(session, cloud, shape, n=3, program="true", **options):
    """A launch whose machines are there, when its process lets go."""
    there = len(cloud.instances)
    launch = bring_up_spots(REQUESTS[shape], n, program, session=session, **options)
    while len(cloud.instances) < there + n and cloud.fill == 0:
        time.sleep(0.005)
    return launch


def speak(cloud, launch):
    """What machines send while nobody listens waits in the queue."""
    cloud.phase = Phase.READY
    for instance in cloud.instances:
        cloud.report(instance, str(launch.uuid))


def asks(cloud, before, *operations):
    return [one for one in cloud.calls[before:] if one in operations]


@each_shape
def test_a_launch_that_its_process_did_not_see_up_comes_up_in_another(fake_session, again, shape):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    launch = begun(session, cloud, shape, program=Program(("true",), secret=True))
    session.leave()
    with pytest.raises(FleetError, match="was left"):
        launch.result(10)
    before = len(cloud.calls)
    machines_then, alive_then = {*cloud.instances}, cloud.alive()
    resumed = again(cloud, str(launch.uuid)[:8])
    assert resumed.uuid == launch.uuid
    assert resumed.session.id == session.id
    resumed.session.submit(spoken(cloud, launch), "reports").result(10)
    machines = resumed.result(20)
    assert {one.instance_id for one in machines.succeeded} == machines_then
    assert [one.ip for one in machines.succeeded] == ["10.0.0.1"] * 3
    assert asks(cloud, before, *ENDS, *MAKES) == []
    assert cloud.alive() == alive_then
    assert resumed.session.secret == session.secret
    receipt = teardown_all(session=resumed.session).result(30)
    assert receipt.remaining == ()
    assert cloud.left() == set()
    [record] = sessions(resumed.session.ledger.path.parent)
    assert record.ended is not None


async def spoken(cloud, launch):
    speak(cloud, launch)


@each_shape
def test_reports_that_came_while_nobody_listened_are_not_lost(fake_session, again, shape):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    launch = begun(session, cloud, shape)
    session.leave()
    speak(cloud, launch)
    assert len(again(cloud, launch.uuid).result(20).succeeded) == 3


@each_shape
def test_who_has_gone_meanwhile_is_not_waited_for(fake_session, again, shape):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, shape)
    launch.result(20)
    session.leave()
    gone, forgotten, *alive = cloud.instances
    cloud.time = time.monotonic  # no loop runs here
    cloud._end_instance(gone, "instance-terminated-by-user")
    cloud._end_instance(forgotten, "instance-terminated-by-user")
    del cloud.time
    speak(cloud, launch)
    machines = again(cloud, launch.uuid).result(20)
    assert [one.instance_id for one in machines.succeeded] == alive
    assert {one.instance_id for one in machines.failed} == {gone, forgotten}
    assert {one.state for one in machines.failed} == {MachineState.GONE}


def test_what_has_not_reported_in_time_stays_and_is_shown(fake_session, again):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    launch = begun(session, cloud, "RequestSpotInstances")
    session.leave()
    resumed = again(cloud, launch.uuid, minutes=0.001)
    machines = resumed.result(20)
    assert machines.succeeded == []
    assert {one.instance_id for one in machines.values()} == {*cloud.instances}
    assert len(cloud.alive() & {*cloud.instances}) == 3
    assert resumed.progress().state is LaunchState.UP
    assert asks(cloud, 0, *ENDS) == []


def test_requests_that_are_still_open_stay_open(fake_session, again):
    cloud = FakeAws(fill=1e6)
    session = fake_session(cloud)
    launch = begun(session, cloud, "RequestSpotInstances")
    while len(cloud.requests) < 3 or launch.progress().state is not LaunchState.WAITING:
        time.sleep(0.005)
    session.leave()
    machines = again(cloud, launch.uuid, minutes=0.001).result(20)
    assert {one.state for one in machines.values()} == {MachineState.PENDING}
    assert {one["State"] for one in cloud.requests.values()} == {"open"}


@each_shape
def test_what_an_answer_that_was_lost_has_made_belongs_to_it(fake_session, again, shape):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    launch = begun(session, cloud, shape)
    session.leave()
    db = Ledger.open(session.ledger.path)
    db._db.execute("UPDATE entry SET result = NULL WHERE operation IN ('request_spot_instances', 'run_instances', 'create_fleet')")
    db.close()
    speak(cloud, launch)
    assert {one.instance_id for one in again(cloud, launch.uuid).result(20).succeeded} == {*cloud.instances}


def test_letting_go_again_leaves_all_as_it_is(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    for _ in range(2):
        speak(cloud, launch)
        resumed = again(cloud, launch.uuid)
        assert len(resumed.result(20).succeeded) == 3
        resumed.session.leave()
    assert asks(cloud, 0, *ENDS) == []
    assert len(cloud.alive() & {*cloud.instances}) == 3


def test_a_later_launch_of_the_session_uses_its_channel_and_after_a_teardown_a_new_one(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid)
    resumed.result(20)
    assert len(bring_up_spots(REQUESTS["RunInstances"], 2, "true", session=resumed.session).result(20).succeeded) == 2
    assert cloud.count("create_topic") == 1
    teardown_all(session=resumed.session).result(30)
    assert len(bring_up_spots(REQUESTS["RunInstances"], 1, "true", session=resumed.session).result(20).succeeded) == 1
    assert cloud.count("create_topic") == 2
    assert teardown_all(session=resumed.session).result(30).remaining == ()
    assert cloud.left() == set()


def test_what_cannot_be_gone_on_with_is_refused_and_nothing_is_touched(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    with pytest.raises(FleetError, match=r"is alive \(process"):
        again(cloud, launch.uuid)
    for unknown in ("0" * 36, str(launch.uuid)[:7], ""):
        with pytest.raises(FleetError, match="no ledger here knows"):
            again(cloud, unknown)
    cloud.protected.update(cloud.instances)
    with pytest.raises(FleetError):
        teardown_all(session=session).result(30)
    session.leave()
    with pytest.raises(FleetError, match="its channel is not whole"):
        again(cloud, launch.uuid)
    cloud.protected.clear()
    assert abandoned.take_over(session.profile.home, session.id).remaining == ()
    with pytest.raises(FleetError, match="has ended"):
        again(cloud, launch.uuid)


@pytest.mark.parametrize("operation", ["unsubscribe", "delete_topic", "delete_queue"])
def test_a_channel_whose_end_was_begun_is_not_gone_on_with_whatever_came_of_it(fake_session, again, operation):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    wire = session._belongings.channel.value.wire
    names = {"unsubscribe": {"SubscriptionArn": wire.subscription_arn}, "delete_topic": {"TopicArn": wire.topic_arn}}
    session.leave()
    ledger = Ledger.open(session.ledger.path)
    ledger.intent("any", operation, names.get(operation, {"QueueUrl": wire.queue_url}), region="us-east-1")  # no answer was written down
    ledger.close()
    with pytest.raises(FleetError, match="its channel is not whole"):
        again(cloud, launch.uuid)
    assert abandoned.take_over(session.profile.home, session.id).remaining == ()


def test_where_nothing_of_it_is_left_it_says_so(fake_session, again, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    cloud.instances.clear()
    later = time.time() + 3600
    monkeypatch.setattr("fleetctl.oversight.resuming.time.time", lambda: later)
    machines = again(cloud, launch.uuid).result(20)
    assert {one.state for one in machines.failed} == {MachineState.GONE}
    assert len(machines) == 3


def written(cloud, session):
    """The object by which machines see that their session lives: its number, and the hard ends."""
    [(key, body)] = cloud.buckets[session.place.name].items()
    assert session.place.whole("fuse") == f"{session.place.name}/{key}"
    (word, number), *ends = [line.split() for line in body.decode().splitlines()]
    assert word == "renewed"
    return int(number), {launch: int(end) for launch, end in ends}


def told(cloud):
    """The object that the machines of the first launch were told to read."""
    sent = cloud.parameters[cloud.calls.index("request_spot_instances")]
    return bootstrap.told(base64.b64decode(sent["LaunchSpecification"]["UserData"]).decode(), "object")


@pytest.mark.parametrize("named", [None, "somebodys-bucket"])
def test_machines_are_shown_that_their_session_lives_where_they_were_told_to_look(fake_session, again, wait_for, monkeypatch, named):
    cloud = FakeAws()
    session = fake_session(cloud)
    if named is not None:
        cloud.buckets[named] = {}
        session._belongings.place = reserve(session.call, cloud.call, session.id, "us-east-1", named=named)
    launch = begun(session, cloud, "RequestSpotInstances", hours=5)
    launch.result(20)
    name, _, key = told(cloud).partition("/")
    wait_for(lambda: cloud.buckets.get(name))
    before = int(cloud.buckets[name][key].split()[1])
    session.leave()
    speak(cloud, launch)
    monkeypatch.setattr("fleetctl.ending.fuse.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("fleetctl.ending.fuse.RENEW_SECONDS", 0.01)  # two writings in one second are told apart
    resumed = again(cloud, launch.uuid)
    assert resumed.session.place.whole("fuse") == f"{name}/{key}"
    resumed.result(20)
    wait_for(lambda: int(cloud.buckets[name][key].split()[1]) > before)
    resumed.session.leave()
    assert [*cloud.buckets] == [name]
    assert written(cloud, resumed.session)[1] == {str(launch.uuid): pytest.approx(launch._conductor.expires, abs=1.5)}


def test_a_session_that_had_nothing_to_show_has_nothing_to_show_in_another_process(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    again(cloud, launch.uuid).result(20)
    assert cloud.buckets == {}


@each_shape
def test_an_end_that_was_moved_before_stays_moved_and_can_be_moved_again(fake_session, again, shape):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, shape, hours=3)
    launch.result(20)
    given = launch._conductor.expires
    moved = launch.extend(1.5).result(10).timestamp()
    assert moved == pytest.approx(given + 5400)
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid)
    resumed.result(20)
    assert resumed._conductor.expires == pytest.approx(moved, abs=1.5)
    assert resumed.extend(1).result(10).timestamp() == pytest.approx(moved + 3600, abs=1.5)
    assert written(cloud, resumed.session)[1] == {str(launch.uuid): pytest.approx(moved + 3600, abs=1.5)}


def test_an_end_that_could_not_be_read_is_not_moved(fake_session, again, wait_for, monkeypatch):
    monkeypatch.setattr("fleetctl.ending.fuse.RETRY_SECONDS", 0.01)
    cloud = FakeAws()
    session = fake_session(cloud)
    unknown, known = (begun(session, cloud, "RunInstances", n, hours=5) for n in (1, 2))
    for one in (unknown, known):
        one.result(20)
    session.leave()

    async def deny(service, operation, parameters):
        if operation == "describe_instances" and str(unknown.uuid) in str(parameters):
            raise refusal(Denied, service, operation, "UnauthorizedOperation")

    cloud.before = deny
    for one in (unknown, known):
        speak(cloud, one)
    resumed = again(cloud, known.uuid)
    resumed.result(20)
    wait_for(lambda: cloud.count("put_object") >= 2)
    resumed.session.leave()
    assert list(written(cloud, resumed.session)[1]) == [str(known.uuid)], "what the object does not name keeps its end"
    assert asks(cloud, 0, *ENDS) == []


def test_what_the_former_process_brought_up_counts_against_the_budget(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RequestSpotInstances", itype="m5.large", price=0.10)
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid, budget=0.70)  # 3 × ($0.10 and what is beside) × 2 h
    resumed.result(20)
    with pytest.raises(BudgetExceeded) as error:
        bring_up_spots(REQUESTS["RequestSpotInstances"], 1, "true", session=resumed.session, itype="m5.large", price=0.10)
    assert 0.6 < error.value.alive < 0.7
    assert resumed.session.cost().machines == 3
    resumed.session.budget = 2.0
    assert len(bring_up_spots(REQUESTS["RequestSpotInstances"], 1, "true", session=resumed.session, itype="m5.large").result(20)) == 1


def test_it_becomes_the_default_session_where_none_is_connected(fake_session, again, monkeypatch):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    monkeypatch.setattr("fleetctl.session._default", session)  # it has been left
    resumed = again(cloud, launch.uuid)
    resumed.result(20)
    assert current() is resumed.session
    assert teardown_all().result(30).remaining == ()


def test_what_has_ended_is_not_resumed_beside_what_lives(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    over, launch = (begun(session, cloud, "RunInstances", n) for n in (1, 2))
    for one in (over, launch):
        one.result(20)
    assert teardown(over).result(30).remaining == ()
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid)
    assert len(resumed.result(20).succeeded) == 2
    assert [one.uuid for one in resumed.session.launches] == [launch.uuid]
    resumed.session.leave()
    with pytest.raises(FleetError, match="has ended: all that it made was seen to be gone"):
        again(cloud, over.uuid)


def test_ctrl_c_while_waiting_for_it_ends_the_waiting_only(fake_session, again, monkeypatch):
    cloud = FakeAws(phase=None)
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    session.leave()
    resumed = again(cloud, launch.uuid)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fleetctl.launching.handle.concurrent.futures.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resumed.result(20)
    monkeypatch.undo()
    assert not resumed.done()
    assert asks(cloud, 0, *ENDS) == []


def test_whoever_holds_the_ledger_of_a_dead_process_for_a_moment_is_waited_for(fake_session, again):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    dead = subprocess.Popen(["true"])
    dead.wait()
    held = Ledger.open(session.ledger.path)  # as the sidecar of the dead process does, or whoever lists sessions
    held._db.execute("UPDATE session SET pid = ?", (dead.pid,))
    threading.Timer(0.2, held.close).start()
    resumed = again(cloud, launch.uuid)
    assert len(resumed.result(20).succeeded) == 3
    [record] = sessions(session.ledger.path.parent)
    assert record.living and record.pid == os.getpid()


def test_what_was_taken_in_by_its_tags_is_told_that_it_cannot_be_gone_on_with(fake_session, again, tmp_path):
    found = [Found("instance", "i-1", "us-east-1", "5eaf00d5eaf0", launch="6f1c0000-0000-4000-8000-000000000000")]
    assert recovery.adopt(tmp_path, profile(FakeAws(), tmp_path), found) == ["5eaf00d5eaf0"]
    with pytest.raises(FleetError, match=r"launch 6f1c.* cannot be gone on with.*its request"):
        again(FakeAws(), "6f1c0000")


def reported(cloud, session, launch, machine, **facts):
    """A machine says something to whoever listens now."""

    async def publish():
        report = Report(UUID(str(launch)), machine.instance_id, **{"seq": 99, "ip": "10.0.0.1", **facts})
        cloud._publish({"Message": report.encode()})

    session.submit(publish(), "a report").result(10)


def taken(cloud, launch, wait_for):
    """EC2 takes the first machine of a launch back."""
    machine = launch.result(20).succeeded[0]
    reported(cloud, launch.session, launch.uuid, machine, phase=Phase.INTERRUPTED, taken_at="2031-05-06T07:08:09Z")
    wait_for(lambda: machine.state is MachineState.INTERRUPTED)
    return machine


@each_shape
@pytest.mark.parametrize("long", [False, True])
def test_an_attached_launch_replaces_what_is_taken_if_it_was_begun_so_with_the_same_commands(fake_session, again, wait_for, monkeypatch,
                                                                                            shape, long):
    monkeypatch.setattr(replacing, "GATHER_SECONDS", 0.01)
    cloud = FakeAws()
    session = fake_session(cloud)
    words = " ".join(os.urandom(20).hex() for _ in range(500 if long else 1))  # too long for user data, or not
    launch = begun(session, cloud, shape, program=Program((f"echo {words}", "sleep 9"), check="true", secret=True),
                   on_interruption="replace", hours=5)
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid)
    gone = taken(cloud, resumed, wait_for)
    wait_for(lambda: resumed.replacements)
    [second] = resumed.replacements[0].result(20).succeeded
    assert second.instance_id != gone.instance_id
    first, other = (dict(line.split("=", 1) for line in text.splitlines()[1:13] if "=" in line) for text in told_scripts(cloud, shape))
    assert (first.pop("launch"), other.pop("launch")) == (str(launch.uuid), str(resumed.replacements[0].uuid))
    assert int(other.pop("ends")) == pytest.approx(int(first.pop("ends")), abs=2), "it ends when that would have which it replaces"
    assert first == other
    assert bool(first["bulk"].strip("'")) is long
    third = taken(cloud, resumed.replacements[0], wait_for)
    wait_for(lambda: len(resumed.replacements) == 2)
    assert resumed.replacements[1].result(20).succeeded[0].instance_id != third.instance_id
    assert teardown_all(session=resumed.session).result(30).remaining == ()
    assert cloud.left() == set()


def told_scripts(cloud, shape):
    """The user data of the first launch and of the one after it."""
    operation = {"RequestSpotInstances": "request_spot_instances", "RunInstances": "run_instances"}.get(shape, "create_launch_template")
    sent = [one for name, one in zip(cloud.calls, cloud.parameters, strict=True) if name == operation]
    coded = [one.get("LaunchSpecification", one.get("LaunchTemplateData", one))["UserData"] for one in sent]
    return [one if one.startswith("#!") else base64.b64decode(one).decode() for one in coded[:2]]


def test_an_attached_launch_goes_on_with_fewer_if_it_was_begun_so_and_as_it_is_told_now(fake_session, again, wait_for, monkeypatch):
    monkeypatch.setattr(replacing, "GATHER_SECONDS", 0.01)
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances")
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid)
    taken(cloud, resumed, wait_for)
    assert resumed._conductor.replacing.policy == "shrink" and resumed.replacements == []
    resumed.session.leave()
    speak(cloud, launch)
    called = []
    resumed = again(cloud, launch.uuid, on_interruption=called.append)
    machine = taken(cloud, resumed, wait_for)
    wait_for(lambda: called == [machine])
    with pytest.raises(RequestInvalid, match="on_interruption"):
        attach(launch.uuid, on_interruption="panic")


def test_a_function_for_interruptions_ends_with_its_process_and_attaching_says_so(fake_session, again, caplog):
    cloud = FakeAws()
    session = fake_session(cloud)
    launch = begun(session, cloud, "RunInstances", on_interruption=print)
    launch.result(20)
    session.leave()
    speak(cloud, launch)
    resumed = again(cloud, launch.uuid)
    resumed.result(20)
    [warning] = [one.getMessage() for one in caplog.records if "on_interruption" in one.getMessage()]
    assert str(launch.uuid) in warning and "ended with its process" in warning
    assert resumed._conductor.replacing.policy == "shrink"
    resumed.session.leave()
    caplog.clear()
    speak(cloud, launch)
    again(cloud, launch.uuid, on_interruption="replace").result(20)
    assert "on_interruption" not in caplog.text
