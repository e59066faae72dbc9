"""Lenses keep their three laws, share what did not change, change nothing they were given, and say where something does not fit."""

from __future__ import annotations

import base64
import copy
import doctest
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetctl import lenses
from fleetctl.errors import RequestInvalid
from fleetctl.lenses import Alias, Aliases, Lens, Transform, get, project, put, update, update_each, update_together

settings.register_profile("loaded machine", deadline=None)   # a stall of the machine is no failure of a law
settings.load_profile("loaded machine")

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
KEYS = st.sampled_from("abc")
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12)


def to_text(stored: str) -> str:
    return base64.b64decode(stored, validate=True).decode()


def to_base64(seen: str) -> str:
    return base64.b64encode(seen.encode()).decode()


BASE64 = Transform(to_text, to_base64)
JSON = Transform(json.loads, json.dumps)


@st.composite
def trees_with_a_path(draw: st.DrawFn) -> tuple[Any, list[str | int]]:
    """A tree and a path to something in it."""
    tree = draw(TREES)
    node, path = tree, []
    while node and isinstance(node, dict | list) and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
        path.append(key)
        node = node[key]
    return tree, path


@st.composite
def trees_with_a_new_path(draw: st.DrawFn) -> tuple[Any, list[str | int]]:
    """A tree and a path that goes on below something in it, where nothing is yet."""
    _, path = draw(trees_with_a_path())
    below = [draw(KEYS), *(0 if draw(st.booleans()) else draw(KEYS) for _ in range(draw(st.integers(0, 3))))]
    above = ["top", *(0 if isinstance(key, int) else key for key in path)]
    return put({}, above, {}), [*above, *below]


# -- the laws

@given(trees_with_a_path())
def test_putting_back_what_was_got_changes_nothing(case: tuple[Any, list[str | int]]) -> None:
    tree, path = case
    assert put(tree, path, get(tree, path)) == tree


@given(trees_with_a_path(), TREES)
def test_what_was_put_is_what_is_got(case: tuple[Any, list[str | int]], value: Any) -> None:
    tree, path = case
    assert get(put(tree, path, value), path) == value


@given(trees_with_a_path(), TREES, TREES)
def test_the_second_of_two_puts_is_the_one_that_counts(case: tuple[Any, list[str | int]], first: Any, second: Any) -> None:
    tree, path = case
    assert put(put(tree, path, first), path, second) == put(tree, path, second)


@given(trees_with_a_new_path(), TREES, TREES)
def test_the_laws_hold_where_levels_had_to_be_made(case: tuple[Any, list[str | int]], first: Any, second: Any) -> None:
    tree, path = case
    assert get(tree, path, default="nothing") == "nothing"
    made = put(tree, path, first)
    assert get(made, path) == first
    assert put(made, path, get(made, path)) == made
    assert put(made, path, second) == put(tree, path, second)


@given(st.lists(LEAVES, max_size=3), LEAVES, LEAVES)
def test_the_laws_hold_where_a_list_was_appended_to(items: list[Any], first: Any, second: Any) -> None:
    longer = put(items, len(items), first)
    assert longer == [*items, first]
    assert get(longer, len(items)) == first
    assert put(longer, len(items), second) == put(items, len(items), second)


@given(st.text(), st.text(), st.text())
def test_the_laws_hold_with_a_transform_at_the_end(stored: str, first: str, second: str) -> None:
    data, path = {"spec": {"UserData": to_base64(stored)}, "n": 1}, ["spec", "UserData", BASE64]
    assert get(data, path) == stored
    assert put(data, path, get(data, path)) == data
    assert get(put(data, path, first), path) == first
    assert put(put(data, path, first), path, second) == put(data, path, second)


@given(trees_with_a_path(), TREES, TREES)
def test_the_laws_hold_with_transforms_in_the_middle_and_at_the_front(case: tuple[Any, list[str | int]], first: Any, second: Any) -> None:
    tree, inner = case
    data, path = to_base64(json.dumps({"deep": tree})), [BASE64, JSON, "deep", *inner]
    assert put(data, path, get(data, path)) == data
    assert get(put(data, path, first), path) == first
    assert put(put(data, path, first), path, second) == put(data, path, second)


# -- nothing is mutated, and what did not change is shared

@given(trees_with_a_path(), TREES)
def test_put_leaves_the_original_as_it_was(case: tuple[Any, list[str | int]], value: Any) -> None:
    tree, path = case
    before = copy.deepcopy(tree)
    put(tree, path, value)
    assert tree == before


@given(trees_with_a_path(), TREES)
def test_everything_beside_the_path_is_the_same_object(case: tuple[Any, list[str | int]], value: Any) -> None:
    tree, path = case
    old, new = tree, put(tree, path, value)
    for key in path:
        assert old is not new
        beside = (name for name in (old if isinstance(old, dict) else range(len(old))) if name != key)
        assert all(old[name] is new[name] for name in beside)
        old, new = old[key], new[key]
    assert new is value


def test_a_put_that_is_refused_has_changed_nothing() -> None:
    data = {"a": [{"b": 1}]}
    with pytest.raises(RequestInvalid):
        put(data, ["a", 0, "b", "c"], 2)
    assert data == {"a": [{"b": 1}]}


def test_tuples_are_rewritten_as_tuples() -> None:
    assert put({"zones": ("a", "b")}, ["zones", 1], "c") == {"zones": ("a", "c")}


# -- missing levels

def test_missing_levels_become_dicts_or_lists_as_the_next_key_says() -> None:
    assert put({}, ["spec", "interfaces", 0, "groups", 0], "sg-1") == {"spec": {"interfaces": [{"groups": ["sg-1"]}]}}


def test_a_missing_level_behind_a_transform_is_made_on_the_seen_side() -> None:
    assert put({}, ["doc", JSON, "a", 0], 1) == {"doc": '{"a": [1]}'}


def test_an_old_value_that_cannot_be_read_can_be_replaced() -> None:
    assert put({"UserData": "not base64!"}, ["UserData", BASE64], "x") == {"UserData": to_base64("x")}


def test_none_is_a_value_and_not_a_missing_level() -> None:
    assert get({"a": None}, "a", default=1) is None
    with pytest.raises(RequestInvalid, match=r"at a stands None \(NoneType\), not a dict"):
        put({"a": None}, ["a", "b"], 1)


def test_get_gives_the_default_where_nothing_is() -> None:
    assert get({"a": []}, ["a", 0, "b"], default="x") == "x"
    assert get({"a": [None]}, ["a", 0], default="x") is None
    assert get({"a": [None]}, ["a", 1], default="x") == "x"


def test_update_gives_the_default_to_the_function_where_nothing_is() -> None:
    assert update({}, ["count"], lambda count: count + 1, default=0) == {"count": 1}


# -- errors say where and what

@pytest.mark.parametrize(("action", "path", "found", "words"), [
    (lambda: get({"a": {}}, ["a", "b"]), ("a",), {}, "a.b: nothing is there; at a stands {} (dict)"),
    (lambda: get({"a": [7]}, ["a", 1]), ("a",), [7], "a[1]: nothing is there; at a stands [7] (list)"),
    (lambda: get({"a": [7]}, ["a", -1]), ("a",), [7], "a[-1]: a negative index; at a stands [7] (list)"),
    (lambda: put({"a": [7]}, ["a", -1], 0), ("a",), [7], "a[-1]: a negative index; at a stands [7] (list)"),
    (lambda: put({"a": [7]}, ["a", 2], 0), ("a",), [7], "a[2]: past the end; the next index is 1, as at a stands [7] (list)"),
    (lambda: put({}, ["a", 1], 0), ("a",), [], "a[1]: past the end; the next index is 0, as at a stands [] (list)"),
    (lambda: put({"a": 3}, ["a", "b"], 0), ("a",), 3, "a.b: at a stands 3 (int), not a dict"),
    (lambda: put({"a": {}}, ["a", 0], 0), ("a",), {}, "a[0]: at a stands {} (dict), not a list"),
    (lambda: get([1], "a"), (), [1], "a: at the top stands [1] (list), not a dict"),
    (lambda: get({"a": {"b": 3}}, Lens("a", "b", "c", "d", alias="deep")), ("a", "b"), 3,
     "alias 'deep' (a.b.c.d): a.b.c: at a.b stands 3 (int), not a dict"),
    (lambda: get({"a": "x"}, ["a", (float, str)]), ("a",), "x", "a: could not convert string to float: 'x'; found 'x' (str)"),
    (lambda: put({}, Lens("a", (to_text, to_base64), alias="udata"), 5), ("a",), 5,
     "alias 'udata' (a): 'int' object has no attribute 'encode'; found 5 (int)"),
])
def test_what_does_not_fit_is_refused_with_its_place_and_what_stands_there(action: Any, path: Any, found: Any, words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        action()
    assert (caught.value.path, caught.value.found, str(caught.value)) == (path, found, words)


def test_a_transforms_own_refusal_gets_its_place_and_keeps_its_words() -> None:
    def refuse(_: Any) -> Any:
        raise RequestInvalid("too dear", todo="offer less")

    with pytest.raises(RequestInvalid) as caught:
        put({}, Lens("SpotPrice", (refuse, refuse), alias="price"), 9)
    assert str(caught.value) == "alias 'price' (SpotPrice): too dear\nto do: offer less"
    assert (caught.value.alias, caught.value.path, caught.value.found) == ("price", ("SpotPrice",), 9)


def test_long_values_are_shortened_in_the_message_and_whole_in_the_error() -> None:
    with pytest.raises(RequestInvalid) as caught:
        get({"a": "x" * 1000}, ["a", "b"])
    assert len(str(caught.value)) < 100
    assert caught.value.found == "x" * 1000


@pytest.mark.parametrize("part", [True, 1.5, None, b"a", ("a", "b"), (str,)])
def test_a_part_that_is_no_step_is_refused_when_the_lens_is_made(part: Any) -> None:
    with pytest.raises(TypeError, match="a path is made of"):
        Lens("a", part)


# -- composition, projection, several paths at once

def test_lenses_compose_by_being_parts_of_lenses() -> None:
    inner = Lens("interfaces", 0, alias="net")
    outer = Lens("spec", inner, "id", alias="outer")
    assert outer == Lens("spec", "interfaces", 0, "id", alias="outer")
    assert hash(outer) == hash(Lens("spec", "interfaces", 0, "id", alias="outer"))


@given(trees_with_a_path(), st.integers(0, 5))
def test_a_lens_of_two_lenses_does_what_one_after_the_other_does(case: tuple[Any, list[str | int]], cut: int) -> None:
    tree, path = case
    outer, inner = Lens(*path[:cut]), Lens(*path[cut:])
    both = Lens(outer, inner)
    assert both.get(tree) == inner.get(outer.get(tree))
    assert both.put(tree, "new") == outer.update(tree, lambda part: inner.put(part, "new"))


def test_a_repr_can_be_pasted_back() -> None:
    lens = Lens("spec", 0, BASE64, JSON, "x", alias="odd")
    assert repr(lens) == ("Lens('spec', 0, Transform(to_text, to_base64), Transform(loads, dumps), 'x', alias='odd')")
    assert eval(repr(lens), {**globals(), "loads": json.loads, "dumps": json.dumps}) == lens
    table = Aliases({"a": ["x", 0], "b": [Alias("a"), "y"]})
    assert repr(table) == "Aliases({'a': ['x', 0], 'b': ['x', 0, 'y']})"
    assert list(eval(repr(table))) == ["a", "b"]


def test_aliases_may_stand_for_parts_of_each_other() -> None:
    table = Aliases({"subnet": [Alias("net"), "SubnetId"], "net": [Alias("spec"), "interfaces", 0], "spec": "LaunchSpecification"})
    assert table["subnet"] == Lens("LaunchSpecification", "interfaces", 0, "SubnetId", alias="subnet")
    assert (len(table), list(table), "net" in table, "nat" in table) == (3, ["subnet", "net", "spec"], True, False)


def test_aliases_in_a_circle_are_refused() -> None:
    with pytest.raises(ValueError, match="a → b → a"):
        Aliases({"a": [Alias("b")], "b": [Alias("a")]})


def test_an_unknown_alias_is_refused_with_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(RequestInvalid) as caught:
        Aliases({"zone": "a", "price": "b"}).put({}, zoen="x")
    assert str(caught.value) == "there is no alias 'zoen' (did you mean 'zone'?)\nto do: the aliases are zone, price"
    assert caught.value.alias == "zoen"


def test_several_aliases_are_projected_at_once_and_renamed() -> None:
    table = Aliases({"zone": ["spec", "zone"], "n": "count", "udata": ["spec", "data", BASE64]})
    request = table.put({}, zone="b", n=3, udata="#!/bin/sh")
    assert table.project(request, "zone", many="n", script="udata") == {"zone": "b", "many": 3, "script": "#!/bin/sh"}
    assert project({"a": 1}, {"x": "a", "y": "b"}, default=0) == {"x": 1, "y": 0}


def test_one_function_takes_the_values_of_several_paths_and_gives_as_many_back() -> None:
    data = {"low": 9, "in": {"high": 1}}
    assert update_together(data, ["low", ["in", "high"]], lambda low, high: (high, low)) == {"low": 1, "in": {"high": 9}}
    assert data == {"low": 9, "in": {"high": 1}}
    with pytest.raises(ValueError, match="shorter"):
        update_together(data, ["low", ["in", "high"]], lambda low, high: [low])


def test_one_function_is_applied_at_each_of_several_paths() -> None:
    assert update_each({"a": 1, "b": [2, 3]}, ["a", ["b", 1]], str) == {"a": "1", "b": [2, "3"]}


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(lenses)
    assert (result.failed, result.attempted > 10) == (0, True)
