"""The shapes in which people write calls, and a word to whoever writes another: `request(f, x)`, `requests([(f, x), …])`."""

from __future__ import annotations

from .errors import NotACall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]       # function, positional and keyword arguments


def one(words: tuple[Any, ...], pool: str) -> tuple[str, Callable[..., Any], tuple[Any, ...]]:
    """Pool, function and arguments of `request([pool,] f, *args)`; `pool` where none is named. NotACall."""
    if words and isinstance(words[0], str):
        pool, words = words[0], words[1:]
    if not words:
        raise NotACall(f'request("{pool}") names no function: request("{pool}", f, *args)' if pool else
                       "request() names no function: request(f, *args)")
    return pool, words[0], words[1:]


def several(words: tuple[Any, ...], pool: str) -> tuple[str, list[Call]]:
    """Pool and calls of `requests([pool,] [(f, *args), …])`; `pool` where none is named. NotACall."""
    if len(words) == 2:
        pool = words[0]
    if len(words) not in (1, 2) or not isinstance(pool, str):
        raise NotACall(f'requests("pool", [(f, *args), …]), or without the pool; not requests({", ".join(map(_short, words))})')
    calls = words[-1]
    if isinstance(calls, str) or not hasattr(calls, "__iter__"):
        raise NotACall(f"requests() takes a list of calls, [(f, *args), …], not {_short(calls)}")
    calls = list(calls)
    try:
        return pool, [(function, tuple(args), {}) for function, *args in calls]
    except (TypeError, ValueError):         # one of them is no sequence, or empty: which?
        for number, call in enumerate(calls):
            if not hasattr(call, "__iter__") or not call:
                hint = "; a single call is request(f, *args)" if callable(call) and number == 0 else ""
                raise NotACall(f"call {number} is {_short(call)}, where requests() expects (f, *args){hint}") from None
        raise


def _short(value: object) -> str:
    text = getattr(value, "__qualname__", None) if callable(value) else None
    text = text or repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
