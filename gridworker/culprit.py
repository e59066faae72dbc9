"""What of a value cannot travel, and what to do about it. Looked for when a pickle has failed, never before."""

from __future__ import annotations

import functools
import types

from .errors import NotSerializable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

DEPTH = 20          # so far into a value it is looked
_HINTS = {
    "generator": "a generator stays where it was made; let its items travel, `list(…)`",
    "async_generator": "a generator stays where it was made; let its items travel, `[item async for item in …]`",
    "coroutine": "a coroutine stays where it was made; await it, and let its value travel",
    "_thread.lock": "a lock is of one process; make it in the function, or leave it out of what travels (`__getstate__`)",
    "_thread.RLock": "a lock is of one process; make it in the function, or leave it out of what travels (`__getstate__`)",
    "_io.BufferedReader": "an open file is of one process; open it in the function",
    "_io.BufferedWriter": "an open file is of one process; open it in the function",
    "module": "import the module in the function",
}


class Stays:
    """What belongs to the process that has made it, and says so when it is to be pickled. `instead`: what to do."""

    __slots__ = ()
    instead = "in a function on the grid call `gridworker.request(f, x)`, which asks the grid that it runs on"

    def __reduce__(self) -> NoReturn:
        raise NotSerializable(f"{self!r} does not travel: {self.instead}")


def explain(value: Any, error: Exception, root: str, dumps: Callable[[Any], object]) -> str:
    """Why `dumps(value)` has raised: the error, where its cause is (`args[0].lock`; `f › grid` is what f refers to), what to do."""
    import re  # not before: workers do without it

    where, error = _search(value, error, root, dumps, frozenset())
    place = f", which is `{where}`" if where != root else ""
    if isinstance(error, NotSerializable):          # it says for itself what to do
        return f"{error}{place}"
    kind = re.search(r"cannot pickle '([\w.]+)'", str(error))
    hint = _HINTS.get(kind.group(1)) if kind is not None else None
    return f"{type(error).__name__}: {error}{place}" + (f". {hint[0].upper()}{hint[1:]}" if hint else "")


def _search(value: Any, error: Exception, where: str, dumps: Callable[[Any], object], above: frozenset[int]) -> tuple[str, Exception]:
    above |= {id(value)}                            # a function may refer to itself
    for name, part in _parts(value) if len(above) <= DEPTH and not isinstance(value, Stays) else ():
        try:
            if id(part) not in above:
                dumps(part)
        except Exception as found:
            return _search(part, found, where + name, dumps, above)
    return where, error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value consists of or refers to, with how one would write it behind the value's own name."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"[{_short(key)}]", part
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield f"[{number}]", part
    elif isinstance(value, set | frozenset):
        for part in value:
            yield f"{{{_short(part)}}}", part
    elif isinstance(value, types.FunctionType):
        for name, part in _referred(value):
            yield f" › {name}", part
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif not isinstance(value, type | types.ModuleType):
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part


def _referred(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:                          # nothing has been assigned to it yet
            continue
    names, stack = dict[str, None](), [function.__code__]
    while stack:
        code = stack.pop()
        names.update(dict.fromkeys(code.co_names))
        stack += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    for name in names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
    yield "its defaults", (function.__defaults__, function.__kwdefaults__)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
