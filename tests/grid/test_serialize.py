"""Calls as values: what has the same id, what has another, and that everything arrives as it was sent."""

from __future__ import annotations

import functools
import math
import pickle
import random
import sys
from collections.abc import Callable
from typing import Any

import grid_calls as calls
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridworker import CallFailed, InvalidName, NotSerializable
from gridworker.keys import Keys, checked, incarnation, name_of
from gridworker.messages import Failure, item, raised, split
from gridworker.parts import Aside
from gridworker.serialize import Functions, call_id, canonical, code_version, decode_arguments, describe, encode_arguments

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(scalars, lambda part: st.lists(part, max_size=3).map(tuple) | st.frozensets(part, max_size=3), max_leaves=5)
values = st.recursive(
    scalars,
    lambda part: st.lists(part, max_size=4) | st.lists(part, max_size=4).map(tuple) | st.dictionaries(hashable, part, max_size=4)
    | st.sets(hashable, max_size=4),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """A description in which only equal values of equal types are equal: 1, 1.0, True and -0.0, 0.0 differ, orders of sets do not."""
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(shape, value))
    if isinstance(value, dict):
        return "dict", frozenset((shape(key), shape(part)) for key, part in value.items())
    if isinstance(value, set | frozenset):
        return type(value).__name__, frozenset(map(shape, value))
    return type(value).__name__, math.copysign(1, value) if isinstance(value, float) else 0, value


def rebuilt(value: Any, rng: random.Random) -> Any:
    """An equal value in which nothing is the same object and every dictionary and set was built in another order."""
    if isinstance(value, dict):
        pairs = [(rebuilt(key, rng), rebuilt(part, rng)) for key, part in value.items()]
        rng.shuffle(pairs)
        return dict(pairs)
    if isinstance(value, set | frozenset):
        members = [rebuilt(member, rng) for member in value]
        rng.shuffle(members)
        return type(value)(members)
    if isinstance(value, list | tuple):
        return type(value)(rebuilt(part, rng) for part in value)
    return pickle.loads(pickle.dumps(value))


@given(values, st.randoms(use_true_random=False))
def test_equal_values_have_equal_encodings(value: Any, rng: random.Random) -> None:
    assert canonical(value) == canonical(rebuilt(value, rng))


@given(values, values)
def test_different_values_have_different_encodings(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (shape(one) == shape(other))


@given(st.lists(values, max_size=4).map(tuple), st.dictionaries(st.text(min_size=1), values, max_size=3))
def test_arguments_arrive_as_they_were_sent(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    got_args, got_kwargs = decode_arguments(encode_arguments(args, kwargs)[0])
    assert (shape(got_args), shape(got_kwargs)) == (shape(args), shape(kwargs))


@given(st.lists(values, max_size=3).map(tuple), st.dictionaries(st.text(min_size=1), values, min_size=1, max_size=2))
def test_keyword_arguments_are_never_mistaken_for_positional_ones(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert encode_arguments(args, kwargs)[1] != encode_arguments((args, kwargs), {})[1]
    assert decode_arguments(encode_arguments((args, kwargs), {})[0]) == ((args, kwargs), {})


@given(st.lists(values, max_size=4).map(tuple), st.randoms(use_true_random=False))
def test_equal_calls_have_equal_ids_in_any_process(args: tuple[Any, ...], rng: random.Random) -> None:
    here, there = Functions(), Functions()
    one = call_id(here.reference(calls.inc), encode_arguments(args, {})[1])
    other = call_id(there.reference(calls.inc), encode_arguments(rebuilt(args, rng), {})[1])
    assert one == other
    assert len(one) == 32
    assert one != call_id(here.reference(calls.divide), encode_arguments(args, {})[1])


def test_two_equal_strings_are_as_good_as_one_string_twice() -> None:
    text = "".join(["grid", "worker"])
    assert canonical([{"a": text, "b": text}]) == canonical([{"a": text, "b": "gridworker"}])


def defined(name: str, text: str) -> Any:
    """What a cell of a notebook has defined under that name."""
    cell = vars(sys.modules["__main__"])
    exec(text, cell)
    return cell[name]


@pytest.mark.parametrize("around", [lambda value: value, lambda value: [value, 1], lambda value: {"key": (value,)},
                                    lambda value: functools.partial(value, 1)])
def test_an_edited_function_is_another_argument(around: Any) -> None:
    sent = []
    for version in (1, 2):
        value = around(defined("edited", f"def edited(x): return x + {version}"))
        sent += [encode_arguments((value,), {})[1] for _ in range(2)]
    assert sent[0] == sent[1] != sent[2] == sent[3]


def with_other_code(action: Callable[[], Any]) -> Any:
    """What it gives while a function that is imported has been edited."""
    code = calls.inc.__code__
    try:
        calls.inc.__code__ = (lambda x: x + 2).__code__        # as autoreload does in IPython
        return action()
    finally:
        calls.inc.__code__ = code


@pytest.mark.parametrize("around", [lambda value: value, lambda value: [value, 1], lambda value: {"key": ({1: value},)},
                                    lambda value: functools.partial(value, 1), lambda value: [{value}, lambda: 1]])
def test_an_imported_function_that_was_edited_is_another_argument(around: Any) -> None:
    def sent() -> bytes:
        return encode_arguments((around(calls.inc),), {})[1]

    assert sent() == sent() != with_other_code(sent)


@pytest.mark.parametrize("function", [functools.partial(calls.inc, 1), functools.partial(divmod, calls.inc),
                                      functools.partial(lambda f: f(1), f=calls.inc)])
def test_a_partial_of_an_edited_function_is_another_function(function: Any) -> None:
    def reference() -> str:
        return Functions().reference(function).text

    assert reference() == reference() != with_other_code(reference)


def test_functions_among_arguments_arrive() -> None:
    data, _ = encode_arguments(((calls.inc, {"f": functools.partial(calls.inc, 5)}, [len, calls.Odd]),), {"key": calls.inc})
    (first, second, third), = decode_arguments(data)[0]
    assert first is calls.inc and decode_arguments(data)[1] == {"key": calls.inc}
    assert second["f"]() == 6 and third == [len, calls.Odd]


def test_an_instance_of_an_edited_class_is_another_argument() -> None:
    text = "class Edited:\n    def __init__(self, big): self.big = big\n    def twice(self): return {}"
    big, sent = numpy.ones(100_000), []
    for version in (1, 2):
        value = defined("Edited", text.format(version))(big)
        sent += [encode_arguments((value,), {}, Aside())[1] for _ in range(2)]
    assert sent[0] == sent[1] != sent[2] == sent[3]
    assert len(sent[0]) < big.nbytes        # its array goes beside it, and is hashed once


def test_what_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotSerializable, match="contains itself"):
        encode_arguments((loop,), {})


@given(st.text("0123456789abcdef", min_size=32, max_size=32), st.text("0123456789abcdef", min_size=8, max_size=8),
       st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.binary())
def test_items_come_apart_as_they_were_put_together(call: str, token: str, reference: str, arguments: bytes) -> None:
    assert split(item(call, token, reference, arguments)) == (call, token, 0, reference.encode(), arguments)


@given(st.builds(Failure, st.sampled_from(["raised", "lost", "cycle"]), st.text(), st.text(), traceback=st.text(), node=st.text(),
                 chain=st.lists(st.text(), max_size=3).map(tuple)))
def test_failures_come_back_and_pickle_as_errors(failure: Failure) -> None:
    assert Failure.decode(failure.encode()) == failure
    error = raised(failure)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.failure == failure
    assert str(error) == failure.text()


@given(st.binary())
def test_a_garbled_failure_is_still_a_failure(data: bytes) -> None:
    assert "could not be read" in Failure.decode(data).message


@pytest.mark.parametrize("cause", [ZeroDivisionError("x"), KeyError("k"), OSError(2, "gone"), ValueError(),
                                   UnicodeDecodeError("u", b"", 0, 1, "r")])
def test_an_error_is_an_instance_of_what_was_raised(cause: Exception) -> None:
    error = raised(Failure("raised", type(cause).__name__, str(cause), chain=("f()",), cause=pickle.dumps(cause)))
    assert isinstance(error, CallFailed)
    assert isinstance(error, type(cause))
    assert isinstance(error.__cause__, type(cause))


@pytest.mark.parametrize("cause", [FileNotFoundError(2, "No file", "here"), KeyError("k"), StopIteration(5), ImportError("no", name="it"),
                                   UnicodeDecodeError("utf-8", b"abc", 1, 2, "bad"), AttributeError("no", name="it"), OSError(5)])
def test_an_error_has_the_attributes_of_what_was_raised(cause: Exception) -> None:
    error = raised(Failure("raised", type(cause).__name__, str(cause), chain=("f(1)",), cause=pickle.dumps(cause)))
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert one.args == error.__cause__.args == cause.args
        assert str(one).startswith(f"f(1) raised {type(cause).__name__}: ")
        for name in ("errno", "strerror", "filename", "value", "name", "start", "end", "object", "reason"):
            assert getattr(one, name, None) == getattr(error.__cause__, name, None)


def test_a_function_that_was_given_other_code_is_another_version() -> None:
    functions = Functions()
    before = functions.reference(calls.inc).text
    assert with_other_code(lambda: functions.reference(calls.inc).text) != before
    assert functions.reference(calls.inc).text == before


def test_the_code_version_follows_code_and_defaults() -> None:
    def one(x: int, y: int = 1) -> int:
        return x + y

    def two(x: int, y: int = 2) -> int:
        return x + y

    def three(x: int, y: int = 1) -> int:
        return x - y

    assert len({code_version(function) for function in (one, two, three)}) == 3
    assert code_version(math.sqrt) == ""


def test_descriptions_are_short_and_survive_a_bad_repr() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert describe("f", (1, "a"), {"k": 2}) == "f(1, 'a', k=2)"
    assert describe("f", ("x" * 1000, Bad()), {}).endswith("…, <Bad: repr failed: RuntimeError>)")
    assert len(describe("f", ("x" * 1000,), {})) < 80


@given(st.text())
def test_names_are_checked(name: str) -> None:
    acceptable = name != "" and len(name) <= 100 and all(c.isascii() and (c.isalnum() or c in "_.-") for c in name)
    if acceptable:
        assert checked("pool", name) == name
        assert name_of(incarnation("pool", name)) == name
        assert Keys(name).queue("p") == f"{name}:q:p"
    else:
        with pytest.raises(InvalidName):
            checked("pool", name)
