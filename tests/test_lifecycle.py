"""A launch decides the same whatever the order in which its machines' reports and listings come."""

import sys
import threading
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl.lifecycle import (
    LAUNCH,
    MACHINE,
    SETTLED,
    Arrived,
    Asked,
    Cancel,
    Core,
    Deadline,
    Describe,
    Ended,
    Enough,
    GiveUp,
    IllegalTransition,
    LaunchState,
    Listed,
    MachineState,
    Proved,
    Refused,
    Reported,
    Resolve,
    Seen,
    Terminate,
    diagram,
)
from fleetctl.messages import Phase, Report

LAUNCH_ID = UUID(int=1)


def instance(i):
    return f"i-{i:08x}"


def key(i):
    return f"sir-{i}"


def said(i, phase, seq=1, **more):
    return Reported(Report(LAUNCH_ID, instance(i), Phase(phase), seq=seq, **more))


def listed(*numbers):
    return Listed(tuple(Seen(key(i), instance(i), "fulfilled") for i in numbers))


def begun(wanted, minimum=None, *, bound=True):
    core = Core(wanted, minimum or wanted)
    core.step(Asked(tuple(key(i) for i in range(wanted))), 0)
    if bound:
        core.step(listed(*range(wanted)), 1)
    return core


def kinds(commands):
    return [type(command) for command in commands]


def test_a_launch_is_up_when_all_have_said_ready():
    core = begun(2)
    assert kinds(core.step(said(0, "ready"), 2)) == [Arrived]
    assert kinds(core.step(said(1, "ready"), 3)) == [Arrived, Enough, Resolve]
    assert core.state is LaunchState.UP


def test_a_report_of_an_instance_that_no_listing_has_shown_is_held_and_asks_for_a_listing_when_it_would_decide():
    core = begun(2, bound=False)
    assert core.step(said(0, "ready"), 1) == []
    assert core.step(said(1, "ready"), 1) == [Describe()]
    assert kinds(core.step(listed(0, 1), 2)) == [Arrived, Arrived, Enough, Resolve]


def test_a_held_failure_that_dooms_the_launch_asks_for_a_listing():
    core = begun(3, bound=False)
    assert core.step(said(0, "failed", exit_code=2), 1) == [Describe()]
    assert core.step(listed(0), 2) == [GiveUp("failed")]


def test_the_minimum_is_announced_once_and_the_launch_waits_on_for_the_rest():
    core = begun(3, 1)
    assert kinds(core.step(said(0, "ready"), 1)) == [Arrived, Enough]
    assert kinds(core.step(said(1, "ready"), 1)) == [Arrived]


def test_failures_that_leave_the_minimum_possible_do_not_end_the_launch():
    core = begun(3, 2)
    assert core.step(said(0, "failed", exit_code=1), 1) == []
    core.step(said(1, "ready"), 2)
    assert kinds(core.step(said(2, "ready"), 3)) == [Arrived, Enough, Resolve]


def test_one_failure_too_many_gives_the_launch_up_at_once():
    core = begun(3, 3)
    assert core.step(said(1, "failed", exit_code=9), 1) == [GiveUp("failed")]
    assert core.state is LaunchState.FAILED


def test_at_the_deadline_with_the_minimum_up_the_others_are_cancelled_and_their_unreported_instances_ended():
    core = begun(3, 1, bound=False)
    core.step(listed(0, 1), 1)
    core.step(said(0, "ready"), 2)
    assert core.step(Deadline(), 9) == [Resolve((key(1), key(2)), (instance(1),))]


def test_a_request_that_is_filled_behind_the_cancel_has_its_instance_ended():
    core = begun(2, 1, bound=False)
    core.step(listed(0), 1)
    core.step(said(0, "ready"), 2)
    core.step(Deadline(), 9)
    assert core.step(listed(1), 10) == [Terminate((instance(1),))]


def test_at_the_deadline_below_the_minimum_the_launch_is_given_up():
    core = begun(2)
    core.step(said(0, "ready"), 1)
    assert core.step(Deadline(), 9) == [GiveUp("deadline")]


def test_a_deadline_after_the_outcome_changes_nothing():
    core = begun(1)
    core.step(said(0, "ready"), 1)
    assert core.step(Deadline(), 9) == []
    assert core.state is LaunchState.UP


def test_a_machine_that_reports_after_its_launch_was_given_up_is_ended():
    core = begun(1)
    core.step(Cancel(), 1)
    assert core.step(said(0, "ready"), 2) == [Terminate((instance(0),))]


def test_what_the_launch_call_made_although_the_launch_was_cancelled_meanwhile_is_known_and_ended():
    core = Core(1, 1)
    assert core.step(Cancel(), 0) == [GiveUp("cancelled")]
    assert core.step(Asked((key(0),)), 1) == []
    assert core.step(listed(0), 2) == [Terminate((instance(0),))]


def test_fewer_requests_than_the_minimum_end_the_launch_at_once():
    assert Core(3, 2).step(Asked((key(0),)), 0) == [GiveUp("short")]


def made(*numbers, owed=0):
    """What the answer of a call says that names instances."""
    return Asked(tuple(key(i) for i in numbers), tuple(Seen(key(i), instance(i)) for i in numbers), owed)


def test_as_long_as_machines_may_come_of_further_pools_too_few_are_waited_for():
    core = Core(3, 2)
    assert core.step(made(0, owed=2), 0) == []
    assert kinds(core.step(said(0, "ready"), 1)) == [Arrived]
    assert core.step(made(1, owed=1), 2) == []
    assert kinds(core.step(said(1, "ready"), 3)) == [Arrived, Enough]
    assert kinds(core.step(Asked(()), 4)) == [Resolve], "the last pool had none, and the minimum is up"


def test_when_no_pool_is_left_and_there_are_too_few_the_launch_is_given_up():
    core = Core(3, 2)
    core.step(made(owed=3), 0)
    core.step(made(0, owed=2), 0)
    assert core.step(Asked(()), 1) == [GiveUp("short")]


def test_machines_that_a_further_call_makes_after_the_outcome_are_ended():
    core = Core(2, 1)
    core.step(made(0, owed=1), 0)
    core.step(said(0, "ready"), 1)
    assert core.step(Deadline(), 2) == [Resolve((), ())]
    assert core.step(made(1), 3) == [Terminate((instance(1),))]
    assert core.state is LaunchState.UP


def test_machines_may_be_quicker_than_the_answer_to_the_call_that_made_them():
    core = Core(1, 1)
    assert core.step(said(0, "ready"), 0) == []
    assert core.step(Asked((key(0),)), 1) == [Describe()]
    assert kinds(core.step(listed(0), 2)) == [Arrived, Enough, Resolve]


@pytest.mark.parametrize("end", [Cancel(), Deadline()])
def test_a_machine_that_no_listing_has_shown_and_that_reports_after_the_outcome_is_listed_and_ended(end):
    core = begun(2, 1, bound=False)
    core.step(listed(0), 1)
    core.step(said(0, "ready"), 2)
    core.step(end, 3)
    assert core.step(said(1, "booted"), 4) == [Describe()]
    assert core.step(listed(1), 5)[0] == Terminate((instance(1),))


def test_a_report_costs_the_same_however_many_are_held():
    def work(held):
        core, calls = begun(2 * held, bound=False), []
        for i in range(held):
            core.step(said(i, "booted"), 2)
        sys.setprofile(lambda frame, event, argument: calls.append(event))
        try:
            core.step(said(held, "ready"), 3)
        finally:
            sys.setprofile(None)
        return len(calls)

    assert work(3) == work(300)


def test_what_is_held_is_counted_by_what_it_says_last():
    core = begun(4, minimum=3, bound=False)
    core.step(said(0, "booted"), 2)
    core.step(said(0, "ready", seq=2), 3)
    core.step(said(1, "failed"), 4)
    assert +core.held_in == {Phase.READY: 1, Phase.FAILED: 1}
    core.step(listed(0), 5)
    assert +core.held_in == {Phase.FAILED: 1}
    assert core.step(said(2, "failed"), 6) == [Describe()], "two of four are lost, and three are needed"


def test_no_more_reports_are_held_than_a_launch_can_have_machines():
    core = begun(1, bound=False)
    for i in range(1000):
        core.step(said(i + 10, "booted"), 1)
    assert len(core.held) < 100
    core = begun(1)
    assert kinds(core.step(said(0, "ready"), 2)) == [Arrived, Enough, Resolve], "and a known machine is always heard"


def test_a_launch_can_be_counted_by_another_thread_while_it_grows():
    core, went_wrong = Core(1, 1), []

    def count():
        try:
            while len(core.slots) < 20_000:
                core.counts()
        except RuntimeError as error:
            went_wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=count)
    try:
        thread.start()
        core.step(Asked(tuple(key(i) for i in range(20_000))), 0)
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert went_wrong == []


def test_a_refused_call_gives_up_once():
    core = Core(1, 1)
    assert core.step(Refused("no"), 0) == [GiveUp("refused")]
    assert core.step(Refused("no"), 0) == []


def test_a_failure_after_ready_changes_the_machine_and_not_the_launch():
    core = begun(1)
    core.step(said(0, "ready"), 1)
    assert core.step(said(0, "failed", seq=2, exit_code=1), 2) == []
    assert core.state is LaunchState.UP
    assert core.slots[key(0)].state is MachineState.FAILED


def test_a_late_or_repeated_report_undoes_nothing():
    core = begun(1)
    core.step(said(0, "ready", seq=5), 1)
    core.step(said(0, "booted", seq=1), 2)
    assert core.slots[key(0)].state is MachineState.READY
    assert core.slots[key(0)].report.seq == 5


def test_machines_beyond_the_wanted_count_that_are_ready_stay():
    core = Core(1, 1)
    core.step(Asked((key(0), key(1))), 0)
    core.step(said(0, "ready"), 1)
    core.step(said(1, "ready"), 1)
    commands = core.step(listed(0, 1), 2)
    assert kinds(commands) == [Arrived, Arrived, Enough, Resolve]
    assert commands[-1] == Resolve((), ()), "nothing is cancelled or ended"
    assert not any(slot.dropped for slot in core.slots.values())


def test_a_heartbeat_heals_a_lost_ready():
    core = begun(1)
    assert kinds(core.step(Reported(Report(LAUNCH_ID, instance(0), Phase.BEAT, seq=7, state=Phase.READY)), 1)) == [Arrived, Enough, Resolve]


def test_requests_that_end_without_a_machine_count_as_lost():
    core = begun(2, bound=False)
    assert core.step(Listed((Seen(key(0), None, "bad-parameters", over=True),)), 1) == [GiveUp("failed")]


def test_a_request_that_waiting_does_not_help_counts_as_lost_and_is_cancelled_all_the_same():
    core = begun(3, 2, bound=False)
    assert core.step(Listed((Seen(key(0), None, "constraint-not-fulfillable"),)), 1) == []
    assert core.lost == 1
    core.step(listed(1, 2), 2)
    core.step(said(1, "ready"), 3)
    assert core.step(said(2, "ready"), 3)[-1] == Resolve((key(0),), ())
    core = begun(2, bound=False)
    assert core.step(Listed((Seen(key(0), None, "constraint-not-fulfillable"),)), 1) == [GiveUp("failed")]


@pytest.mark.parametrize("status", ["price-too-low", "capacity-not-available", "pending-evaluation"])
def test_a_request_that_may_still_be_filled_is_waited_for(status):
    core = begun(1, bound=False)
    assert core.step(Listed((Seen(key(0), None, status),)), 1) == []
    assert core.lost == 0


def test_a_request_that_is_filled_against_all_hope_is_a_machine_like_any_other():
    core = begun(2, 1, bound=False)
    core.step(Listed((Seen(key(0), None, "constraint-not-fulfillable"),)), 1)
    core.step(Listed((Seen(key(0), instance(0), "constraint-not-fulfillable"), Seen(key(1), instance(1), "fulfilled"))), 2)
    assert core.lost == 0
    core.step(said(0, "ready"), 3)
    assert kinds(core.step(said(1, "ready"), 3)) == [Arrived, Resolve]


def test_an_illegal_event_raises_and_changes_nothing():
    core = begun(1)
    before = repr(core)
    with pytest.raises(IllegalTransition, match="waiting cannot take refused"):
        core.step(Refused("no"), 1)
    with pytest.raises(IllegalTransition):
        core.step(Ended((), all=True), 1)
    assert repr(core) == before


def test_an_ended_launch_has_only_gone_machines():
    core = begun(2)
    core.step(Cancel(), 1)
    core.step(Ended((instance(0),)), 2)
    core.step(Ended((), all=True), 3)
    assert core.state is LaunchState.ENDED
    assert {slot.state for slot in core.slots.values()} == {MachineState.GONE}
    assert core.step(said(0, "ready", seq=99), 4) == []


def test_terminal_states_are_never_left_by_the_tables():
    assert set(MACHINE[MachineState.GONE].values()) == {MachineState.GONE}
    assert set(LAUNCH[LaunchState.ENDED].values()) == {LaunchState.ENDED}
    for outcome in (LaunchState.UP, LaunchState.FAILED, LaunchState.CANCELLED):
        assert set(LAUNCH[outcome].values()) <= {outcome, LaunchState.ENDED}
    order = list(MachineState)
    assert all(order.index(to) >= order.index(state) for state, row in MACHINE.items() for to in row.values())


def test_the_diagrams_are_made_from_the_tables():
    assert "waiting --> up: enough" in diagram(LAUNCH)
    assert "ready --> failed: failed" in diagram(MACHINE)


# --- whatever the order ---------------------------------------------------------------------------------------------------

N = 4
events = st.lists(
    st.one_of(
        st.tuples(st.integers(0, N), st.sampled_from(["booted", "ready", "failed", "interrupted"]), st.integers(0, 9)).map(
            lambda t: said(t[0], t[1], t[2], exit_code=1 if t[1] == "failed" else None)
        ),
        st.sets(st.integers(0, N - 1)).map(lambda numbers: listed(*numbers)),
        st.integers(0, N - 1).map(lambda i: Listed((Seen(key(i), instance(i), "instance-terminated-by-user", over=True),))),
        st.tuples(st.integers(0, N - 1), st.sampled_from(["price-too-low", "constraint-not-fulfillable", "fulfilled"])).map(
            lambda t: Listed((Seen(key(t[0]), None, t[1]),))
        ),
        st.just(Deadline()),
        st.just(Cancel()),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(events, st.integers(1, N), st.integers(0, 40))
def test_a_launch_stays_consistent_under_any_events(story, minimum, asked_at):
    core = Core(N, minimum)
    outcomes, history = [], []
    for index, event in enumerate(story):
        if index == min(asked_at, len(story)):
            assert set(kinds(core.step(Asked(tuple(key(i) for i in range(N))), index))) <= {Describe}
        ranks = {k: list(MachineState).index(slot.state) for k, slot in core.slots.items()}
        commands = core.step(event, index)
        outcomes += [c for c in commands if isinstance(c, (Resolve, GiveUp))]
        history.append(core.state)
        assert all(list(MachineState).index(core.slots[k].state) >= rank for k, rank in ranks.items()), "machines only move forward"
        assert core.ready == sum(slot.was_ready for slot in core.slots.values())
        assert core.lost == sum(slot.lost for slot in core.slots.values())
        for command in commands:
            if isinstance(command, Terminate):
                assert all(core.state in SETTLED for _ in command.instances)
                assert all(not core.by_instance[i].was_ready or core.state is not LaunchState.UP for i in command.instances)
    assert len(outcomes) <= 1, "a launch has one outcome"
    settled = [state for state in history if state in SETTLED]
    assert len(set(settled)) <= 1, "an outcome is never changed for another"


@given(st.permutations([said(0, "booted", 1), said(0, "ready", 2), said(1, "booted", 1), said(1, "ready", 2), listed(0, 1), listed(1)]))
def test_the_order_of_reports_and_listings_does_not_change_the_outcome(story):
    core = begun(2, bound=False)
    for event in story:
        core.step(event, 1)
    assert core.state is LaunchState.UP
    assert {slot.state for slot in core.slots.values()} == {MachineState.READY}


def proving(wanted, minimum=None):
    core = begun(wanted, minimum)
    core.proving = True
    return core


def test_where_readiness_is_proved_a_machine_that_says_ready_has_booted_and_no_more():
    core = proving(1)
    assert core.step(said(0, "ready"), 2) == []
    assert core.slots[key(0)].state is MachineState.BOOTED
    assert kinds(core.step(Proved(instance(0)), 3)) == [Arrived, Enough, Resolve]
    assert core.step(Proved(instance(0)), 4) == []


def test_a_silent_machine_can_be_proved_and_a_strange_or_a_lost_one_cannot():
    core = proving(2, 1)
    assert core.step(Proved("i-0badbeef"), 2) == []
    core.step(said(0, "failed", exit_code=3), 2)
    assert core.step(Proved(instance(0)), 3) == []
    assert kinds(core.step(Proved(instance(1)), 4)) == [Arrived, Enough, Resolve]
    assert core.slots[key(0)].state is MachineState.FAILED


def test_held_reports_decide_nothing_where_readiness_is_proved():
    core = begun(1, bound=False)
    core.proving = True
    assert core.step(said(0, "ready"), 2) == []


def test_once_there_is_an_outcome_a_machine_s_word_counts_again():
    core = proving(2, 1)
    core.step(Proved(instance(0)), 2)
    core.step(said(1, "ready"), 2)
    core.keeps = True
    core.step(Deadline(), 3)
    assert kinds(core.step(said(1, "ready", 2), 4)) == [Arrived]


def test_what_is_proved_after_its_launch_was_given_up_changes_nothing():
    core = proving(1)
    core.step(Cancel(), 2)
    assert core.step(Proved(instance(0)), 3) == []
    assert not core.slots[key(0)].was_ready
