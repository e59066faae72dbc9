"""Planning a set-up: laws that hold of any account, on a model of one, and what the real table of things says."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetctl.account import prices
from fleetctl.account.options import ALARMS, NETWORK, PRIVATE, Facts, Options, wanted
from fleetctl.account.pages import Plan
from fleetctl.account.planning import Seen, Step, Verb, Wanted, plan, removal
from fleetctl.account.work import FIXED, KINDS, ORDER
from fleetctl.errors import RequestInvalid

MODEL = ("a", "b", "c")  # kinds; each thing needs whatever stands before it
LASTING = {"a": frozenset({"size"})}
FACTS = Facts("lab", "us-east-1", "123456789012", keys={"user": "ssh-ed25519 AAAA", "machines": "ssh-ed25519 BBBB"})
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")

settings = st.fixed_dictionaries({"size": st.integers(0, 1), "colour": st.integers(0, 1)})
parts = st.tuples(st.sampled_from(MODEL), st.sampled_from("xyz"))
wishes = st.dictionaries(parts, settings, max_size=6).map(
    lambda chosen: [Wanted(kind, part, its) for (kind, part), its in chosen.items()]
)
things = st.lists(st.builds(Seen, st.sampled_from(MODEL), st.sampled_from("xyz"), st.just(""), settings, done=st.booleans()), max_size=6)


class Killed(Exception):
    """The process has died."""


class Account:
    """An account that things are made in, in steps: made, each setting put, marked. It dies after `lives` of these."""

    def __init__(self, there=(), lives=None):
        self.things = {f"{thing.kind}-{number}": thing for number, thing in enumerate(there)}
        self.lives, self.numbers, self.log = lives, len(self.things), []

    def seen(self):
        return [Seen(one.kind, one.part, id, dict(one.settings), done=one.done) for id, one in self.things.items()]

    def change(self, id, thing):
        if thing is None:
            later = MODEL[MODEL.index(self.things[id].kind) + 1 :]
            self.log.append(("removed", self.things.pop(id).kind, {one.kind for one in self.things.values()} & set(later)))
        else:
            self.things[id] = thing
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise Killed

    def carry_out(self, steps):
        for step in steps:
            if step.verb is Verb.REMOVE:
                self.change(step.id, None)
            elif not step.idle:
                self.bring_about(step)

    def bring_about(self, step):
        id, wish = step.id, step.wanted
        if step.verb is Verb.MAKE:
            self.numbers += 1
            id = f"{step.kind}-{self.numbers}"
            self.log.append(("made", step.kind, step.part))
            self.change(id, Seen(step.kind, step.part, id, {key: wish.settings[key] for key in LASTING.get(step.kind, ())}, done=False))
        for key in wish.settings.keys() - LASTING.get(step.kind, frozenset()):
            old = self.things[id]
            self.change(id, Seen(old.kind, old.part, id, {**old.settings, key: wish.settings[key]}, done=old.done))
        if step.verb is not Verb.CHANGE:
            old = self.things[id]
            self.change(id, Seen(old.kind, old.part, id, old.settings))


def planned(wish, account, fix=False):
    return plan(wish, account.seen(), MODEL, LASTING, fix=fix)


@given(wishes, things, st.booleans())
def test_after_a_plan_was_carried_out_there_is_nothing_left_to_do(wish, there, fix):
    account = Account(there)
    account.carry_out(planned(wish, account, fix))
    again = planned(wish, account, fix)
    assert all(step.idle for step in again)
    if not there:
        assert {step.verb for step in again} <= {Verb.LEAVE}


@given(wishes, things, st.booleans(), st.integers(0, 30))
def test_whoever_is_killed_after_any_step_completes_it_with_the_same_command(wish, there, fix, lives):
    account, whole = Account(there, lives), Account(there)
    whole.carry_out(planned(wish, whole, fix))
    try:
        account.carry_out(planned(wish, account, fix))
    except Killed:
        account.lives = None
        account.carry_out(planned(wish, account, fix))
    have, should = ({(one.kind, one.part, *sorted(one.settings.items()), one.done) for one in it.seen()} for it in (account, whole))
    assert have == should


@given(wishes, st.integers(0, 30))
def test_what_was_cut_off_is_never_taken_for_drift(wish, lives):
    account = Account(lives=lives)
    try:
        account.carry_out(planned(wish, account))
    except Killed:
        assert {step.verb for step in planned(wish, account)} <= {Verb.MAKE, Verb.FINISH, Verb.LEAVE}


@given(wishes)
def test_a_removal_leaves_an_account_as_it_was(wish):
    account = Account()
    account.carry_out(planned(wish, account))
    account.carry_out(removal(account.seen(), MODEL))
    assert account.things == {}
    assert [line for line in account.log if line[0] == "removed" and line[2]] == [], "what others need goes after them"


@given(wishes, things)
def test_things_are_made_after_what_they_need(wish, there):
    account = Account(there)
    account.carry_out(planned(wish, account))
    kinds = [MODEL.index(kind) for verb, kind, _ in account.log if verb == "made"]
    assert kinds == sorted(kinds)


@given(wishes, things)
def test_without_fix_nothing_that_is_complete_is_changed_or_removed(wish, there):
    account = Account(there)
    complete = {id: thing for id, thing in account.things.items() if thing.done}
    account.carry_out(planned(wish, account))
    assert complete.items() <= account.things.items()


def test_a_name_that_somebody_else_has_is_a_clash_and_is_never_removed():
    theirs = Seen("a", "x", "a-1", {"colour": 1}, ours=False)
    (step,) = plan([Wanted("a", "x", {"colour": 0})], [theirs], MODEL, {}, fix=True)
    assert (step.verb, step.id) == (Verb.CLASH, "a-1")
    assert removal([theirs], MODEL) == ()


def test_of_two_of_a_name_the_one_that_is_as_wanted_stays():
    two = [Seen("a", "x", "a-1", {"colour": 1}), Seen("a", "x", "a-2", {"colour": 0})]
    steps = plan([Wanted("a", "x", {"colour": 0})], two, MODEL, {}, fix=True)
    assert [(step.verb, step.id) for step in steps] == [(Verb.LEAVE, "a-2"), (Verb.REMOVE, "a-1")]
    assert "another one" in steps[1].why


def test_what_is_on_its_way_out_counts_as_gone_and_is_waited_for_when_all_is_removed():
    going = Seen("a", "x", "a-1", {}, ending=True)
    assert [step.verb for step in plan([Wanted("a", "x")], [going], MODEL, {})] == [Verb.MAKE]
    assert [step.id for step in removal([going], MODEL)] == ["a-1"]


def test_a_setting_that_lasts_for_life_is_shown_and_not_changed():
    seen = [Seen("a", "x", "a-1", {"size": 1, "colour": 1})]
    (step,) = plan([Wanted("a", "x", {"size": 0, "colour": 0})], seen, MODEL, LASTING, fix=True)
    assert step.verb is Verb.DRIFT
    assert "size cannot be changed" in str(step)


# --- the real table --------------------------------------------------------------------------------------------------------------------


def test_each_kind_stands_after_what_it_needs():
    for kind in KINDS.values():
        assert all(ORDER.index(needed) < ORDER.index(kind.name) for needed in kind.needs), kind


@pytest.mark.parametrize("private", PRIVATE)
def test_no_thing_stands_twice_and_every_one_is_of_a_kind(private):
    table = wanted(Options(ZONES, private, ("203.0.113.7/32",)), FACTS)
    names = [(one.kind, one.part) for one in table]
    assert len(names) == len(set(names))
    assert {kind for kind, _ in names} <= set(ORDER)
    for one in table:
        assert FIXED[one.kind] <= one.settings.keys()


def test_a_subnet_s_addresses_are_its_zone_s_and_stay_when_zones_come():
    def blocks(*zones):
        return {one.part: one.settings["addresses"] for one in wanted(Options(zones, "none", ()), FACTS) if one.kind == "subnet"}

    one, all_of_them = blocks("us-east-1c"), blocks(*(f"us-east-1{letter}" for letter in "abcdefgh"))
    assert one.items() <= all_of_them.items()
    assert len(set(all_of_them.values())) == 16
    assert all(block.endswith("/20") for block in all_of_them.values()) and NETWORK == "10.0.0.0/16"


@pytest.mark.parametrize(("private", "hourly"), [("none", 0.0), ("endpoints", 0.02), ("nat", 0.05), ("nat-instance", 0.64 / 730)])
def test_what_an_unused_set_up_costs_is_its_way_out_alone(private, hourly):
    table = wanted(Options(ZONES, private, ()), FACTS)
    assert sum(map(prices.per_hour, table)) == pytest.approx(hourly)
    assert prices.monthly(table) == pytest.approx(hourly * 730)


def test_what_is_not_wanted_any_more_costs_until_it_is_removed():
    table = wanted(Options(ZONES, "none", ()), FACTS)
    endpoint = {"type": "Interface", "in": ("private-a",)}
    there = [Seen("nat", "nat", "nat-1", {"subnet": "public-a"}), Seen("endpoint", "sns", "e-1", endpoint)]
    shown = {fix: Plan(FACTS, Options(), plan(table, there, ORDER, FIXED, fix=fix)) for fix in (False, True)}
    assert shown[False].per_hour == pytest.approx(0.055)
    assert "0.045" in str(shown[False]) and "$40.15 a month" in str(shown[False])
    assert shown[True].per_hour == 0.0


def test_options_survive_their_way_through_a_tag():
    for options in (
        Options(ZONES, "nat", ("10.0.0.0/8", "203.0.113.7/32"), ALARMS, reaper=False),
        Options(ZONES, "none", (), (), "some.one+aws@x.org", reaper=True),
    ):
        assert Options.decode(options.encode()) == options
        assert re.fullmatch(r"[\w +=.:/@-]*", options.encode()), "what the value of a tag may have"
    for bad in ("", "private=maybe ssh= zones= alarms= mail=", "nonsense", "private=nat", "private=nat ssh= zones= alarms=many mail="):
        assert Options.decode(bad) is None


def test_what_is_not_said_is_as_the_account_remembers():
    remembered = Options(ZONES, "none", ("203.0.113.7/32",))
    assert Options().over(remembered) == remembered
    assert Options(private="nat").over(remembered).private == "nat"
    assert Options(alarms=()).over(replace(remembered, alarms=(5,), mail="me@example.org")).alarms == ()
    assert Options(ssh=("203.0.113.7",)).checked(ZONES) == Options(ZONES, "endpoints", ("203.0.113.7/32",), ALARMS, "", reaper=False)
    reaping = replace(remembered, reaper=True)
    assert (Options().over(reaping).reaper, Options(reaper=False).over(reaping).reaper) == (True, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(("eu-west-1a",)), "no zone eu-west-1a"),
        (Options(private="wormhole"), "no private side"),
        (Options(ssh=("home",)), "no address"),
        (Options(mail="me"), "no address for mail"),
        (Options(alarms=(5, 0)), "no alarm can be on 0 USD"),
        (Options(ssh=tuple(f"203.0.113.{number}" for number in range(30))), "more than a tag holds"),
    ],
)
def test_what_cannot_be_chosen_is_told_with_what_can(options, words):
    with pytest.raises(RequestInvalid, match=words) as caught:
        options.checked(ZONES)
    assert caught.value.todo


@pytest.mark.parametrize("name", ["", "Lab", "a_b", "x" * 21, "1st"])
def test_a_name_that_no_bucket_could_have_is_refused(name):
    with pytest.raises(RequestInvalid, match="no name for a set-up"):
        Facts(name, "us-east-1", "123456789012")


def test_a_bucket_s_name_fits_in_the_longest_region():
    assert len(Facts("x" * 20, "ap-southeast-1", "123456789012").bucket) <= 63


def test_a_step_says_what_it_is_in_a_line():
    assert str(Step(Verb.DRIFT, "vpc", "vpc", "vpc-1", why="there is another one")) == "drift vpc vpc (there is another one)"
