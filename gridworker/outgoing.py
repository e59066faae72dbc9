"""A request's calls as they are sent, by clients and by workers: each with its id, the pool it goes to and its item. No I/O."""

from __future__ import annotations

from .messages import item
from .parts import Aside
from .serialize import call_id, encode_arguments
from .shelf import new_mark
from .trace import marked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .asking import Call
    from .parts import Part
    from .serialize import Reference
    from .signing import Seal

    Ask = tuple[str, tuple[str, str, bytes]]    # a call: its id; to which pool, by which call ("" is a client), its item


def encoded(
    pool: str, calls: Iterable[Call], references: dict[int, Reference], refer: Callable[[Callable[..., Any]], Reference], seal: Seal, *,
    parent: str = "", depth: int = 0, trace: bool = False,
) -> tuple[list[Ask], dict[str, list[Part]]]:  # fmt: skip
    """The calls to send, and the big values that go past them, by call. `references` is filled: a function is looked at once.

    `parent`: the call that makes them, `depth`: how many calls stand above them. Raises what encoding raises: NotACall, and errors of
    arguments that cannot be pickled.
    """
    asks: list[Ask] = []
    aside, big = Aside(new_mark), {}
    for function, args, kwargs in calls:
        reference = references.get(id(function))
        if reference is None:
            reference = references[id(function)] = refer(function)
        data, hashed = encode_arguments(args, kwargs, aside)
        call = call_id(reference, hashed)
        if aside.parts or reference.part is not None:
            big[call] = aside.parts if reference.part is None else [*aside.parts, reference.part]
            aside.parts = []
        token = marked(reference.token) if trace else reference.token
        asks.append((call, (pool, parent, item(call, token, reference.text, data, depth, seal))))
    return asks, big
