"""Lenses: read and rewrite one place deep inside nested dicts and lists, without changing the original.

A path is a sequence of steps. A step is a key of a dict (str), an index of a list (int ≥ 0), or a `Transform`: a pair
`(into, out)` where `into` turns what is stored into what is seen beyond it, and `out` turns it back.

>>> request = {"spec": {"zones": ["a", "b"], "price": "0.05"}}
>>> get(request, ["spec", "zones", 1])
'b'
>>> put(request, ["spec", "zones", 2], "c")["spec"]["zones"]          # the index one past the end appends
['a', 'b', 'c']
>>> update(request, ["spec", "price", (float, str)], lambda price: price * 2)["spec"]["price"]
'0.1'

Nothing given is ever mutated: `put` returns a new structure, in which only the containers along the path are new. Levels
that are missing are made, a dict for a str and a list for an int. Three laws hold wherever `get` finds something and the
transforms on the way are lawful (`out(into(stored)) == stored` and `into(out(seen)) == seen`):

    get-put    put(data, path, get(data, path)) == data
    put-get    get(put(data, path, value), path) == value
    put-put    put(put(data, path, a), path, b) == put(data, path, b)

What does not fit is refused with `RequestInvalid`, which carries the alias, the path down to the place, and what was found there.
"""

from __future__ import annotations

import copy
import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

from .errors import RequestInvalid

__all__ = [
    "MISSING", "Alias", "Aliases", "Lens", "Transform",
    "get", "project", "put", "update", "update_each", "update_together",
    "describe", "misfit", "show_path",
]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Any] = _Missing()
"""Stands for a place that is not there (None can be a value)."""


class Transform(NamedTuple):
    """A two-way conversion in a path. `into`: stored → seen. `out`: seen → stored.

    A plain pair of callables in a path means the same. What one of them raises for a value it cannot convert (ValueError, TypeError,
    AttributeError, ArithmeticError, LookupError) becomes a `RequestInvalid` that says where.
    """

    into: Callable[[Any], Any]
    out: Callable[[Any], Any]

    def __repr__(self) -> str:
        return f"Transform({_name(self.into)}, {_name(self.out)})"


@dataclass(frozen=True)
class Alias:
    """A step that stands for another alias of the same `Aliases` table."""

    name: str


Step = str | int | Transform


class Lens:
    """A path, with the alias that error messages name. Its parts may be steps or other lenses: that is how lenses compose.

    >>> interface = Lens("NetworkInterfaces", 0)
    >>> Lens("spec", interface, "SubnetId", alias="subnet")
    Lens('spec', 'NetworkInterfaces', 0, 'SubnetId', alias='subnet')

    The repr can be pasted back wherever the names of the transforms' functions are known. Raises TypeError for a part that is no step.
    """

    __slots__ = ("alias", "steps")

    def __init__(self, *parts: Any, alias: str | None = None) -> None:
        self.alias = alias
        self.steps: tuple[Step, ...] = tuple(step for part in parts for step in _steps(part))

    @property
    def keys(self) -> tuple[str | int, ...]:
        """The path without its transforms."""
        return tuple(step for step in self.steps if not isinstance(step, Transform))

    def get(self, data: Any, default: Any = MISSING) -> Any:
        """What is seen at the path. Without a default, a place that is not there raises RequestInvalid."""
        seen, walked = data, 0
        for step in self.steps:
            if isinstance(step, Transform):
                seen = self._convert(step.into, seen, walked)
                continue
            below = self._child(seen, step, walked)
            if below is MISSING:
                if default is not MISSING:
                    return default
                self._refuse(f"nothing is there; {self._stands(seen, walked)}", seen, walked, step)
            seen, walked = below, walked + 1
        return seen

    def put(self, data: Any, value: Any) -> Any:
        """A copy of `data` with `value` at the path; everything beside the path is shared with `data`."""
        last = max((at for at, step in enumerate(self.steps) if not isinstance(step, Transform)), default=-1)
        return self._put(data, value, 0, 0, last)

    def update(self, data: Any, function: Callable[[Any], Any], default: Any = MISSING) -> Any:
        """A copy of `data` with `function(what was seen)` at the path; the function gets `default`, if given, where nothing was."""
        return self.put(data, function(self.get(data, default)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lens) and (self.steps, self.alias) == (other.steps, other.alias)

    def __hash__(self) -> int:
        return hash((self.steps, self.alias))

    def __repr__(self) -> str:
        alias = [] if self.alias is None else [f"alias={self.alias!r}"]
        return f"Lens({', '.join([*map(repr, self.steps), *alias])})"

    def _put(self, node: Any, value: Any, at: int, walked: int, last: int) -> Any:
        if at == len(self.steps):
            return value
        step = self.steps[at]
        if isinstance(step, Transform):
            # Behind the last key the old value is replaced whole, so an unreadable one does no harm.
            seen = MISSING if node is MISSING or at > last else self._convert(step.into, node, walked)
            return self._convert(step.out, self._put(seen, value, at + 1, walked, last), walked)
        if node is MISSING:
            node = {} if isinstance(step, str) else []
        child = self._child(node, step, walked)
        if child is MISSING and isinstance(step, int) and step > len(node):
            self._refuse(f"past the end; the next index is {len(node)}, as {self._stands(node, walked)}", node, walked, step)
        below = self._put(child, value, at + 1, walked + 1, last)
        if isinstance(step, str):
            changed = copy.copy(node)
            changed[step] = below
            return changed
        items = [*node[:step], below, *node[step + 1:]]
        return tuple(items) if isinstance(node, tuple) else items

    def _child(self, node: Any, key: str | int, walked: int) -> Any:
        """What `node` holds under `key`, MISSING if nothing; refuses keys that do not fit the kind of node."""
        if isinstance(key, str):
            if not isinstance(node, dict):
                self._refuse(f"{self._stands(node, walked)}, not a dict", node, walked, key)
            return node.get(key, MISSING)
        if not isinstance(node, list | tuple):
            self._refuse(f"{self._stands(node, walked)}, not a list", node, walked, key)
        if key < 0:
            self._refuse(f"a negative index; {self._stands(node, walked)}", node, walked, key)
        return node[key] if key < len(node) else MISSING

    def _convert(self, function: Callable[[Any], Any], value: Any, walked: int) -> Any:
        try:
            return function(value)
        except RequestInvalid as error:
            raise misfit(error.what, alias=self.alias, path=self.keys[:walked], found=value, todo=error.todo) from error
        except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
            reason = str(error) or type(error).__name__
            raise misfit(f"{reason}; found {describe(value)}", alias=self.alias, path=self.keys[:walked], found=value) from error

    def _stands(self, node: Any, walked: int) -> str:
        return f"at {show_path(self.keys[:walked])} stands {describe(node)}"

    def _refuse(self, why: str, found: Any, walked: int, key: str | int) -> NoReturn:
        """Raise for a step that does not fit; the error's path ends where `found` stands, just above the step."""
        at = self.keys[:walked]
        place = "" if (*at, key) == self.keys else f"{show_path([*at, key])}: "
        text = misfit(place + why, alias=self.alias, path=self.keys, found=found).what
        raise RequestInvalid(text, alias=self.alias, path=at, found=found)


def get(data: Any, path: Any, default: Any = MISSING) -> Any:
    """What is seen at `path`, or `default` where nothing is. Raises RequestInvalid where nothing is and no default was given."""
    return lens(path).get(data, default)


def put(data: Any, path: Any, value: Any) -> Any:
    """A copy of `data` with `value` at `path`. Raises RequestInvalid where the path does not fit what is there."""
    return lens(path).put(data, value)


def update(data: Any, path: Any, function: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """A copy of `data` with `function` applied to what is seen at `path`."""
    return lens(path).update(data, function, default)


def update_each(data: Any, paths: Iterable[Any], function: Callable[[Any], Any]) -> Any:
    """A copy of `data` with `function` applied at every one of the paths, one after the other.

    >>> update_each({"a": 1, "b": [2]}, ["a", ["b", 0]], lambda value: value + 1)
    {'a': 2, 'b': [3]}
    """
    for path in paths:
        data = update(data, path, function)
    return data


def update_together(data: Any, paths: Sequence[Any], function: Callable[..., Iterable[Any]]) -> Any:
    """A copy of `data` rewritten at several paths at once: the function takes one value from each and returns as many.

    >>> update_together({"low": 9, "high": 1}, ["low", "high"], lambda low, high: sorted([low, high]))
    {'low': 1, 'high': 9}

    Paths that overlap are written in the order given. Raises ValueError if the function returns another number of values.
    """
    values = list(function(*(get(data, path) for path in paths)))
    for path, value in zip(paths, values, strict=True):
        data = put(data, path, value)
    return data


def project(data: Any, paths: Mapping[str, Any], default: Any = MISSING) -> dict[str, Any]:
    """A flat dict of what is seen at several paths, under new names.

    >>> project({"spec": {"type": "t3.micro", "zones": ["a"]}}, {"itype": ["spec", "type"], "zone": ["spec", "zones", 0]})
    {'itype': 't3.micro', 'zone': 'a'}
    """
    return {name: get(data, path, default) for name, path in paths.items()}


class Aliases:
    """A table of short names for paths. A path in it may begin with, or contain, `Alias("other")` of the same table.

    >>> table = Aliases({"net": ["spec", "interfaces", 0], "subnet": [Alias("net"), "id"]})
    >>> table["subnet"]
    Lens('spec', 'interfaces', 0, 'id', alias='subnet')
    >>> request = table.put({}, subnet="subnet-1")
    >>> table.project(request, where="subnet")
    {'where': 'subnet-1'}

    Raises RequestInvalid for a name it does not have, and ValueError when aliases stand for each other in a circle.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._lenses = {name: Lens(*_expand(table, name, ()), alias=name) for name in table}

    def __getitem__(self, name: str) -> Lens:
        if name not in self._lenses:
            close = difflib.get_close_matches(name, self._lenses, 1)
            raise RequestInvalid(f"there is no alias {name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""),
                                 alias=name, todo=f"the aliases are {', '.join(self._lenses)}")
        return self._lenses[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lenses)

    def __contains__(self, name: object) -> bool:
        return name in self._lenses

    def __len__(self) -> int:
        return len(self._lenses)

    def __repr__(self) -> str:
        return f"Aliases({{{', '.join(f'{name!r}: {list(lens.steps)!r}' for name, lens in self._lenses.items())}}})"

    def put(self, data: Any, **values: Any) -> Any:
        """A copy of `data` with each value at the place its alias names."""
        for name, value in values.items():
            data = self[name].put(data, value)
        return data

    def project(self, data: Any, *names: str, **renamed: str) -> dict[str, Any]:
        """A flat dict of what several aliases see: `names` under their own names, `renamed` as new name = alias."""
        return project(data, {**{name: self[name] for name in names}, **{new: self[name] for new, name in renamed.items()}})


def lens(path: Any) -> Lens:
    """The lens of a path: a Lens as it is, a single key, or a sequence of steps."""
    if isinstance(path, Lens):
        return path
    return Lens(path) if isinstance(path, str | int | Transform) else Lens(*path)


def show_path(path: Iterable[str | int]) -> str:
    """A path as people write it.

    >>> show_path(["NetworkInterfaces", 0, "SubnetId"])
    'NetworkInterfaces[0].SubnetId'
    """
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "the top"


def describe(value: Any) -> str:
    """A value for an error message: short, with its type, and never a long text in full."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def misfit(what: str, *, path: Sequence[str | int], found: Any, alias: str | None = None, todo: str = "") -> RequestInvalid:
    """The error for a value that does not fit at a place. `what` says why; the place is written in front of it."""
    place = show_path(path) if alias is None else f"alias {alias!r} ({show_path(path)})"
    return RequestInvalid(f"{place}: {what}", alias=alias, path=path, found=found, todo=todo)


def _steps(part: Any) -> Iterator[Step]:
    if isinstance(part, Lens):
        yield from part.steps
    elif isinstance(part, str | Transform) or (isinstance(part, int) and not isinstance(part, bool)):
        yield part
    elif isinstance(part, tuple) and len(part) == 2 and all(map(callable, part)):
        yield Transform(*part)
    else:
        raise TypeError(f"a path is made of str, int, Transform, pairs of functions and lenses, not {part!r}")


def _expand(table: Mapping[str, Any], name: str, seen: tuple[str, ...]) -> Iterator[Any]:
    """The parts of an alias's path with the aliases in it resolved. A KeyError says which alias is not in the table."""
    if name in seen:
        raise ValueError(f"aliases stand for each other: {' → '.join([*seen, name])}")
    path = table[name]
    for part in [path] if isinstance(path, str | int | Transform | Lens | Alias) else path:
        if isinstance(part, Alias):
            yield from _expand(table, part.name, (*seen, name))
        else:
            yield part


def _name(function: Callable[[Any], Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
