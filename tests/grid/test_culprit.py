"""Errors about what cannot travel name it, and say what to do."""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import Any

import pytest

from gridworker import NotSerializable
from gridworker.serialize import Functions, encode_arguments, pickled

LOCK = threading.Lock()


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


def closure(value: Any) -> Any:
    return lambda: value


def with_a_global() -> Any:
    return lambda: [LOCK.locked() for _ in range(3)]


def with_a_default(value: Any) -> Any:
    def function(x: Any = value) -> Any:
        return x

    return function


def calls_itself() -> Any:
    def again(n: int) -> Any:
        return again(n - 1) if n else LOCK

    return again


@pytest.mark.parametrize(("args", "kwargs", "said"), [
    ((1, LOCK), {}, r"_thread.lock' object, which is `args\[1\]`\. A lock is of one process; make it in the function"),
    ((1,), {"x": [LOCK]}, r"which is `\(args, kwargs\)\[1\]\['x'\]\[0\]`"),
    ((Holder({"k": Holder(LOCK)}),), {}, r"which is `args\[0\]\.value\['k'\]\.value`"),
    (((item for item in "ab"),), {}, r"^an argument cannot be pickled: TypeError: .*, which is `args\[0\]`\. A generator stays"),
    (({1, 2}, Holder(open(__file__, "rb"))), {}, r"which is `args\[1\]\.value`\. An open file"),   # noqa: SIM115
])
def test_an_argument_is_named_by_its_place(args: Any, kwargs: Any, said: str) -> None:
    with pytest.raises(NotSerializable, match=said):
        encode_arguments(args, kwargs)


@pytest.mark.parametrize(("function", "said"), [
    (closure(LOCK), r"`closure.<?lambda>? › value`"),
    (with_a_global(), r"`with_a_global.<lambda> › LOCK`"),
    (with_a_default(LOCK), r"› its defaults\[0\]\[0\]`"),
    (partial(closure(Holder(LOCK)), 1), r"`partial\.func › value\.value`"),
    (calls_itself(), r"calls_itself.again › LOCK`"),
    (closure(closure(LOCK)), r"› value › value`"),
], ids=["closure", "global", "default", "partial", "itself", "closure of a closure"])
def test_what_a_function_refers_to_is_named(function: Any, said: str) -> None:
    with pytest.raises(NotSerializable, match=r"^the function .*cannot pickle '_thread.lock' object") as caught:
        Functions().reference(function)
    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_value_that_raises_by_itself_is_told_with_its_error() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("stays here")

    with pytest.raises(NotSerializable, match=r"the result of f cannot be pickled: RuntimeError: stays here, which is `result\[0\]`$"):
        pickled([Stubborn()], "the result of f", None, "result")
