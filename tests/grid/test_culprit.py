"""Errors about what cannot travel name it, and say what to do."""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gridworker import NotSerializable, remote
from gridworker.serialize import Functions, encode_arguments, pickled

if TYPE_CHECKING:
    from grid_lab import Lab

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


def test_a_grid_and_its_answers_say_what_to_do_instead(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client()
    answer = grid.request("pool", abs, -1)
    executor = grid.executor("pool")

    def uses_the_grid(x: int) -> Any:
        return grid.request("pool", abs, x).result()

    inside = r"does not travel: in a function on the grid call `gridworker.request\(f, x\)`, which asks the grid that it runs on"
    calls: list[tuple[tuple[Any, ...], str]] = [
        ((uses_the_grid, 1), rf"the function <.*: <Grid .*> {inside}, which is `.*uses_the_grid › grid`"),
        ((abs, grid), rf"an argument cannot be pickled: <Grid .*> {inside}, which is `args\[0\]`"),
        ((abs, {"a": [answer]}), r"<Answer .*> does not travel: let its value travel, .*, which is `args\[0\]\['a'\]\[0\]`"),
        ((abs, executor), rf"<GridExecutor .*> {inside}"),
        ((abs, executor.submit(abs, -2)), r"<GridFuture .*> does not travel: let its value travel, `answer.result\(\)`"),
        ((remote(pow).on(grid), 1), rf"<Grid .*> {inside}, which is `Bound.grid`"),
    ]
    for call, said in calls:
        with pytest.raises(NotSerializable, match=said):
            grid.request("pool", *call)
    with pytest.raises(NotSerializable, match=r"the result of .* cannot be pickled: <Later 1 call\(s\)> does not travel: let its value"):
        grid.request("pool", lambda: remote(pow).submit(2, 2)).result(20)
    executor.shutdown()
