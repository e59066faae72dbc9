"""What a launch call is to fleetctl: `Option` (one short name in it), `Shape` (the call), `Terms` and `Call` (how it is sent)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from ..lenses import MISSING, Aliases, Lens, describe, misfit
from .callmodel import model_faults, table_faults
from .rules import Fault, Path

__all__ = ["Call", "Option", "Terms", "Request", "Shape", "single_call"]

Request = dict[str, Any]
"""A launch request: the keyword arguments of the launch call, as boto3 takes them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What one alias does. `takes` are the types its value may have; `ready` gives the request in the form that the lens is for, meaning
    the same; `join`, if given, makes the new value of the one stored (None if there is none) and the one given.

    Some options are said by a list of dicts as a whole: then the lens reaches the list, `inner` is the key in its dicts, and `show` gives
    what the list says (None: nothing).
    """

    lens: Lens
    takes: tuple[type, ...]
    ready: Callable[[Request], Request] = lambda request: request
    join: Callable[[Any, Any], Any] | None = None
    show: Callable[[Any], Any] | None = None
    inner: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """The path of what the option says, in the first dict of a list."""
        return (*self.lens.keys, 0, *self.inner) if self.inner else self.lens.keys

    def reaches(self, path: Path) -> bool:
        """Whether what stands at the path is said by this option, in whichever dict of the list."""
        place = self.place
        if self.inner and len(path) > (at := len(self.lens.keys)):
            path = (*path[:at], 0, *path[at + 1:])
        return path[:len(place)] == place


@dataclass(frozen=True)
class Terms:
    """What a launch adds to a request when it is finished. `valid_until` is in UTC and whole seconds."""

    n: int
    token: str
    valid_until: datetime
    tags: Mapping[str, str]
    on_demand: bool = False


class Call(NamedTuple):
    """One call of a boto3 client: `getattr(client, method)(**parameters)`."""

    method: str
    parameters: Request


def single_call(method: str) -> Callable[[Request], tuple[Call, ...]]:
    """The calls of a shape whose finished request is the call's parameters as it stands."""
    return lambda request: (Call(method, request),)


@dataclass(frozen=True)
class Shape:
    """One launch call: its names, the keys that tell its requests from those of the others, its options and its rules.

    `tagged` are the resource types that the call itself tags; what it creates beside them has to be tagged afterwards. `finish` says in
    a request what its terms say, and `calls` makes the calls of a finished one, in order. `beside` are the keys that belong to another
    operation, made before this one, and `filled` is what `finish` always says, so that nobody need say it before. `waits`: its requests
    wait for capacity, and are listed and cancelled as such; the other calls answer with instances.
    """

    operation: str
    method: str
    keys: tuple[str, ...]
    tagged: tuple[str, ...]
    options: Mapping[str, Option]
    rules: Callable[[Request], Iterator[Fault]]
    finish: Callable[[Request, Terms], Request]
    calls: Callable[[Request], tuple[Call, ...]]
    beside: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = False

    @functools.cached_property
    def aliases(self) -> Aliases:
        """The options' lenses by name; an unknown name raises RequestInvalid, which lists the known ones."""
        return Aliases({name: option.lens for name, option in self.options.items()})

    def put(self, request: Request, name: str, value: Any) -> Request:
        """A copy of the request with one option set. Raises RequestInvalid for an unknown one, or a value that it does not take."""
        lens, option = self.aliases[name], self.options[name]
        if not isinstance(value, option.takes) or (isinstance(value, bool) and bool not in option.takes):
            expected = " or ".join(kind.__name__ for kind in option.takes)
            raise misfit(f"expected {expected}, found {describe(value)}", alias=name, path=option.place, found=value)
        request = option.ready(request)
        if option.join:
            value = self._told(name, value, option.join, lens.get(request, None), value)
        changed: Request = lens.put(request, value)
        return changed

    def get(self, request: Request, name: str, default: Any = MISSING) -> Any:
        """What the request says for one option. Without a default, RequestInvalid is raised where it says nothing."""
        lens, option = self.aliases[name], self.options[name]
        request = option.ready(request)
        if option.show is None:
            return lens.get(request, default)
        stored = lens.get(request, None)
        said = self._told(name, stored, option.show, stored)
        if said is None and default is MISSING:
            raise misfit("nothing is there", alias=name, path=option.place, found=stored)
        return default if said is None else said

    def alias_at(self, path: Path) -> str | None:
        """The alias that reaches the place, or the nearest place above it."""
        reaching = [name for name, option in self.options.items() if option.reaches(path)]
        return max(reaching, key=lambda name: len(self.options[name].place), default=None)

    def faults(self, request: Request) -> Iterator[Fault]:
        """Whatever the models of the operations, or the rules, have against the request."""
        yield from self.table_faults()
        own = {key: value for key, value in request.items() if key not in self.beside}
        yield from model_faults(self.operation, {**self.filled, **own})
        for key, operation in self.beside.items():
            if key in request:
                yield from model_faults(operation, request[key], (key,))
        yield from self.rules(request)

    def table_faults(self) -> Iterator[Fault]:
        """The options that lead to a place that their operation does not have."""
        for option in self.options.values():
            yield from table_faults(self.beside.get(str(option.place[0]), self.operation), [option.place])

    def _told(self, name: str, found: Any, function: Callable[..., T], *values: Any) -> T:
        """What the function of an option makes of the values; what it cannot make something of is refused with the option's name."""
        try:
            return function(*values)
        except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
            why = f"{error or type(error).__name__}; found {describe(found)}"
            raise misfit(why, alias=name, path=self.options[name].place, found=found) from error

    def __repr__(self) -> str:
        return f"<Shape {self.operation}: {' '.join(self.options)}>"
