"""The NAT instance of a set-up: sessions start it, share it, and stop it; where they die without a word, it stops itself."""

import asyncio
import random
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual import run

from fleetctl import bring_up_one_spot, preflight, profiles, templates
from fleetctl.account import Options, router
from fleetctl.account.planning import Verb
from fleetctl.ending import nat
from fleetctl.ending.nat import TABLE, Act
from fleetctl.errors import BadRequest, LaunchFailed, NotFound, Throttled
from fleetctl.oversight import abandoned, inventory, recovery
from fleetctl.session import Session

STATES = ("pending", "running", "stopping", "stopped", "shutting-down", "terminated")
WISH = Options(("us-east-1a",), "nat-instance", ("203.0.113.7",), ())
LATER, END = 4_000_000_000.0, "2030-01-01T00:00:00Z"


# --- what it decides, on a clock of its own --------------------------------------------------------------------------------------------


def test_each_state_has_its_answer_whether_it_is_held_or_not():
    assert {state for state, _ in TABLE} == {*STATES} and len(TABLE) == 2 * len(STATES)
    assert all(TABLE["running", held] is (Act.DONE if held else Act.STOP) for held in (True, False))


class Ec2:
    """One instance that takes its time, asked over a way that does so too; a call may act long before its answer comes."""

    def __init__(self, seed, *, trouble=0.0, state="stopped"):
        self.draw, self.trouble, self.state, self.tags, self.asked = random.Random(seed), trouble, state, {}, []

    async def call(self, service, operation, /, *, launch=None, **given):
        self.asked.append(operation)
        if self.draw.random() < self.trouble:
            raise Throttled("slower", service=service, operation=operation, code="RequestLimitExceeded")
        await asyncio.sleep(self.draw.random() * 2)
        answer = getattr(self, operation)(**given)
        await asyncio.sleep(self.draw.random() * 2)
        return answer

    def describe_instances(self, Filters, MaxResults):
        rows = [] if self.state == "gone" else [
            {"InstanceId": "i-1", "State": {"Name": self.state}, "Tags": [{"Key": k, "Value": v} for k, v in self.tags.items()]}]
        return {"Reservations": [{"Instances": rows}]}

    def create_tags(self, Resources, Tags):
        self.tags |= {one["Key"]: one["Value"] for one in Tags}
        return {}

    def delete_tags(self, Resources, Tags):
        for one in Tags:
            self.tags.pop(one["Key"], None)
        return {}

    def start_instances(self, InstanceIds):
        self.becomes("stopped", "pending", "running", harmless=("pending", "running"))
        return {}

    def stop_instances(self, InstanceIds):
        self.becomes("running", "stopping", "stopped", harmless=("stopping", "stopped"))
        return {}

    def becomes(self, now, soon, then, harmless):
        if self.state == now:
            self.state = soon
            asyncio.get_running_loop().call_later(5 + self.draw.random() * 40, setattr, self, "state", then)
        elif self.state not in harmless:
            raise BadRequest("not now", service="ec2", operation="", code="IncorrectInstanceState")


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2]), st.integers(1, 4))
def test_whoever_comes_and_goes_meanwhile_it_runs_in_the_end_if_and_only_if_somebody_holds_it(seed, trouble, sessions):
    async def main():
        ec2, draw = Ec2(seed, trouble=trouble), random.Random(seed)

        async def one(name):
            await asyncio.sleep(draw.random() * 60)
            await nat.hold(ec2.call, "i-1", name, LATER, anew=True)
            await asyncio.sleep(draw.random() * 60)
            if draw.random() < 0.7:
                line = await nat.release(ec2.call, "i-1", name, "us-east-1")
                assert line.gone is not None and line.done in ("stopped", "left to others")

        await asyncio.gather(*(one(f"s{number}") for number in range(sessions)))
        assert ec2.state == ("running" if ec2.tags else "stopped")

    run(main())


def test_what_dead_sessions_have_left_is_taken_away_with_one_s_own():
    async def main():
        ec2 = Ec2(1, state="running")
        ec2.tags = {nat.HELD + "dead": "2020-01-01T00:00:00Z", nat.HELD + "odd": "for ever", "Name": "nat"}
        await nat.hold(ec2.call, "i-1", "mine", LATER, anew=True)
        line = await nat.release(ec2.call, "i-1", "mine", "us-east-1")
        assert (line.done, ec2.tags, ec2.state) == ("stopped", {"Name": "nat"}, "stopped")

    run(main())


def test_one_that_runs_and_that_nobody_held_is_looked_at_again_as_it_may_be_going_down():
    async def main():
        ec2 = Ec2(1, state="running")
        asyncio.get_running_loop().call_later(nat.SURE_SECONDS + 1, ec2.becomes, "running", "stopping", "stopped", ())
        await nat.hold(ec2.call, "i-1", "mine", LATER, anew=True)
        assert ec2.state == "running" and "start_instances" in ec2.asked

    run(main())


@pytest.mark.parametrize("state", ["terminated", "shutting-down", "gone"])
def test_one_that_is_gone_is_said_to_be_and_holds_up_no_teardown(state):
    async def main():
        ec2 = Ec2(1, state=state)
        with pytest.raises(NotFound, match="is gone") as caught:
            await nat.hold(ec2.call, "i-1", "mine", LATER, anew=True)
        assert "fleetctl setup apply" in caught.value.todo
        assert (await nat.release(ec2.call, "i-1", "mine", "us-east-1")).gone is not None

    run(main())


def test_one_that_does_not_stop_is_in_the_receipt_with_what_stops_it():
    async def main():
        ec2 = Ec2(1, state="pending")
        line = await nat.release(ec2.call, "i-1", "mine", "eu-west-1")
        assert (line.gone, line.done, line.proof) == (None, "not stopped", "TimedOut")
        assert line.todo == "aws ec2 stop-instances --instance-ids i-1 --region eu-west-1"

    run(main())


async def test_what_runs_for_nobody_and_has_not_just_come_up_is_idle():
    now = 1_800_000_000.0
    asked = []

    async def call(service, operation, /, *, launch=None, **given):
        asked.append(given["Filters"])
        rows = (("i-1", "running", 3600, {}), ("i-2", "running", 60, {}), ("i-3", "stopped", 3600, {}),
                ("i-4", "running", 3600, {nat.HELD + "a": "2030-01-01T00:00:00Z"}),
                ("i-5", "running", 3600, {nat.HELD + "a": "2020-01-01T00:00:00Z"}))  # fmt: skip
        shown = [{"InstanceId": id, "State": {"Name": state}, "LaunchTime": datetime.fromtimestamp(now - age, UTC),
                  "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} for id, state, age, tags in rows]  # fmt: skip
        return {"Reservations": [{"Instances": shown}]}

    assert [row["InstanceId"] for row in await nat.idle(call, now)] == ["i-1", "i-5"]
    assert asked == [[{"Name": "tag-key", "Values": ["fleetctl:setup"]}]]


# --- on the local cloud ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
    """Nobody waits five minutes for a machine to see that nobody holds it."""
    monkeypatch.setattr(router, "LOOK_SECONDS", 1)
    monkeypatch.setattr(router, "GRACE_SECONDS", 2)
    monkeypatch.setattr(nat, "SURE_SECONDS", 0.0)
    monkeypatch.setattr(nat, "PAUSES", (0.1,))


@pytest.fixture
def machine(hasty, setup, client, wait_for, home):
    """The NAT instance of a set-up that was made a moment ago, and has stopped itself since."""
    assert setup.apply(WISH).complete

    class Machine:
        id = setup.id("nat-instance", "nat")
        router = home / "local" / "instances" / "instances" / id / "router"

        def row(self):
            [one] = client("ec2").describe_instances(InstanceIds=[self.id])["Reservations"][0]["Instances"]
            return one

        def state(self):
            return self.row()["State"]["Name"]

        def route(self):
            tables = client("ec2").describe_route_tables(Filters=[{"Name": "tag:fleetctl:part", "Values": ["private"]}])["RouteTables"]
            return next(one["State"] for one in tables[0]["Routes"] if one.get("InstanceId") == self.id)

    wait_for(lambda: Machine().state() == "stopped")
    return Machine()


@pytest.fixture
def sessions(machine, home):
    made = []

    def make():
        made.append(Session(profiles.load("lab", home=home)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def private(session, **options):
    return bring_up_one_spot(templates.spot(itype="t3.micro"), "true", subnet="private", session=session, **options)


@pytest.mark.cloud
def test_it_runs_while_sessions_have_private_machines_and_goes_with_the_last(machine, sessions, setup, asked):
    assert machine.route() == "blackhole" and setup.plan().complete, "which is as it should be"
    assert "PublicIpAddress" not in machine.row(), "so it costs its volume alone"
    [step] = [step for step in setup.plan().steps if step.kind == "nat-instance"]
    assert (step.verb, step.why) == (Verb.LEAVE, "stopped, as no session uses it")
    first, second = sessions(), sessions()
    bring_up_one_spot(templates.spot(itype="t3.micro"), "true", subnet="public", session=first).result(60)
    assert machine.state() == "stopped", "public machines need no way out"
    check = preflight(templates.spot(itype="t3.micro"), subnet="private", session=first).result(60)["reports"]
    assert "sns" in check.found or f"by NAT instance {machine.id}, which the launch starts" in check.found

    launch = private(first)
    launch.result(60)
    assert (machine.state(), machine.route()) == ("running", "active")
    tags = {one["Key"]: one["Value"] for one in machine.row()["Tags"]}
    until = datetime.fromtimestamp(launch._conductor.expires, UTC)
    assert tags[nat.HELD + first.id] == until.strftime("%Y-%m-%dT%H:%M:%SZ"), "to the hard end of its machines"
    private(second).result(60)
    [line] = [line for line in first.close().lines if line.thing == nat.THING]
    assert (line.id, line.done, line.proof) == (machine.id, "left to others", f"held by {second.id}")
    assert machine.state() == "running"
    [line] = [line for line in second.close().lines if line.thing == nat.THING]
    assert (line.done, line.proof, machine.state()) == ("stopped", "stopped", "stopped")
    assert asked.faults() == [] and {("ec2", "start_instances"), ("ec2", "stop_instances"), ("ec2", "delete_tags")} < asked.calls


@pytest.mark.cloud
def test_it_forwards_for_the_private_subnets_as_it_was_told_at_its_boot(machine):
    told = machine.router.read_text().splitlines()
    assert "sysctl -q -w net.ipv4.ip_forward=1" in told
    assert told.count("iptables -t nat -A POSTROUTING ! -o lo -j MASQUERADE") == 1
    row = machine.row()
    assert row["SourceDestCheck"] is False and "IamInstanceProfile" not in row


@pytest.mark.cloud
def test_who_is_killed_leaves_it_to_down_which_stops_it_and_says_so(machine, sessions, home):
    dead = sessions()
    private(dead).result(60)
    dead.leave()
    receipt, _ = abandoned.down(home)
    assert [(line.id, line.done) for line in receipt.lines if line.thing == nat.THING] == [(machine.id, "stopped")]
    assert machine.state() == "stopped"


@pytest.mark.cloud
def test_reap_stops_one_that_runs_for_nobody_and_the_checklist_counts_who_holds_it(near, home, client, hasty, monkeypatch, wait_for):
    """One that does not watch itself, as it may be broken."""
    monkeypatch.setattr(nat, "IDLE_SECONDS", 0.0)
    ec2, profile = client("ec2"), profiles.load("local", home=home)
    marks = [{"ResourceType": "instance", "Tags": [{"Key": "fleetctl:setup", "Value": "lab"}, {"Key": nat.HELD + "one", "Value": END}]}]
    made = ec2.run_instances(ImageId=near.image, InstanceType="t4g.nano", MinCount=1, MaxCount=1, TagSpecifications=marks)
    id = made["Instances"][0]["InstanceId"]
    try:
        wait_for(lambda: ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]["State"]["Name"] == "running")
        [shown] = [one for one in inventory.look(profile).expenses if one.id == id]
        assert shown.state.endswith("t4g.nano, sessions: 1") and shown.owner == "set-up lab" and shown.month > 3
        assert recovery.reap(profile).lines == ()
        ec2.create_tags(Resources=[id], Tags=[{"Key": nat.HELD + "one", "Value": "2020-01-01T00:00:00Z"}])
        assert [(line.id, line.done) for line in recovery.reap(profile).lines] == [(id, "stopped")]
    finally:
        ec2.terminate_instances(InstanceIds=[id])


@pytest.mark.cloud
def test_where_nobody_is_left_to_let_go_it_stops_itself_once_the_hold_is_over_at_its_second_boot_too(machine, near, runner, wait_for):
    way = near.way.call
    end = int(time.time() + 6)
    runner.run(nat.hold(way, machine.id, "dead", end, anew=True))
    wait_for(lambda: machine.state() == "stopped")
    assert time.time() >= end, "not before the hold was over"
    assert machine.row()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


@pytest.mark.cloud
def test_an_extended_launch_keeps_it_as_long_as_its_machines(machine, sessions):
    session = sessions()
    launch = private(session)
    launch.result(60)
    session.submit(session.move_end(3), "extending").result(60)
    tags = {one["Key"]: one["Value"] for one in machine.row()["Tags"]}
    end = datetime.strptime(tags[nat.HELD + session.id], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    assert end == pytest.approx(launch._conductor.expires, abs=1) and end - launch._conductor.began > 4 * 3600


@pytest.mark.cloud
def test_nobody_ends_it_by_a_slip_and_what_is_changed_about_it_is_drift(machine, setup, client):
    ec2 = client("ec2")
    with pytest.raises(ec2.exceptions.ClientError, match="OperationNotPermitted"):
        ec2.terminate_instances(InstanceIds=[machine.id])
    ec2.modify_instance_attribute(InstanceId=machine.id, DisableApiTermination={"Value": False})
    ec2.modify_instance_attribute(InstanceId=machine.id, SourceDestCheck={"Value": True})
    ec2.modify_instance_attribute(InstanceId=machine.id, Attribute="instanceInitiatedShutdownBehavior", Value="terminate")
    [drift] = setup.plan().drift
    assert {one.key: one.seen for one in drift.differs} == {"protected": False, "forwards": False, "at shutdown": "terminate"}
    assert setup.apply(None, fix=True).complete
    assert setup.id("nat-instance", "nat") == machine.id, "it is the same one"


@pytest.mark.cloud
def test_one_that_somebody_has_ended_fails_the_launch_in_words_and_is_made_again_by_apply(machine, setup, sessions, client, wait_for):
    ec2 = client("ec2")
    ec2.modify_instance_attribute(InstanceId=machine.id, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=[machine.id])
    with pytest.raises((NotFound, LaunchFailed), match="is gone"):
        private(sessions()).result(60)
    verbs = {(step.kind, step.part): step.verb for step in setup.plan().steps if step.verb is not Verb.LEAVE and step.kind != "tag"}
    assert verbs == {("nat-instance", "nat"): Verb.MAKE, ("routes", "private"): Verb.DRIFT}, "its route ends nowhere for good"
    assert setup.apply(None, fix=True).complete
    assert setup.id("nat-instance", "nat") != machine.id


@pytest.mark.cloud
def test_the_way_out_is_changed_to_it_and_from_it_with_fix(setup, hasty, there):
    setup.apply(Options(("us-east-1a",), "endpoints", ("203.0.113.7",), ()))
    assert setup.apply(Options(private="nat-instance"), fix=True).complete
    with_it = there()
    assert len(with_it["nat-instance"]) == 1
    assert setup.apply(Options(private="endpoints"), fix=True).complete
    after = there()
    assert after["nat-instance"] == [] and len(after["endpoint"]) == len(with_it["endpoint"]) + 2
