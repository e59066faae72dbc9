"""A request's calls as they are sent, by clients and by workers: each with its id, the pool it goes to and its item. No I/O."""

from __future__ import annotations

from .messages import assembled, shared
from .parts import Aside
from .serialize import call_id, long_arguments, short_arguments
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
    big: dict[str, list[Part]] = {}
    aside = last = None
    for function, args, kwargs in calls:
        reference = references.get(id(function))
        if reference is None:
            reference = references[id(function)] = refer(function)
        if reference is not last:                       # mostly all calls of a request are of one function
            last = reference
            head, named = shared(marked(reference.token) if trace else reference.token, reference.text, depth)
        parts: list[Part] = []
        data = hashed = short_arguments(args, kwargs)
        if not data:
            aside = aside or Aside(new_mark)
            data, hashed = long_arguments(args, kwargs, aside)
            parts, aside.parts = aside.parts, []
        call = call_id(reference, hashed)
        if parts or reference.part is not None:
            big[call] = parts if reference.part is None else [*parts, reference.part]
        asks.append((call, (pool, parent, assembled(call.encode(), head, named, data, seal))))
    return asks, big
