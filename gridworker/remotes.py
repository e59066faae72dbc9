"""`@gridworker.remote`: a function that can be called here, and on a grid, and on many arguments at once.

    @remote
    def ratio(i: int) -> float: …

    ratio(5)                                     here, as ever
    ratio.on(grid, "pool")(5)                    there: the value
    await ratio.on(grid, "pool").submit(5)       there: an Answer, to await or to block on
    ratio.on(grid).map(range(100))               there, all of them: `Many` values

What `on` gives has the function's own signature and keeps its promise: a plain function gives the value (so it goes wherever a function
goes: into `map`, `scipy.optimize`, a callback), an `async def` function something to await. `submit` is for who wants to go on meanwhile.
Without `on`, `submit` and `map` use the grid of the innermost `with grid:`, and inside of a function that runs on a grid that grid; there
they give a `Later`, which has an Answer's `result()`, `await` and iteration, and lets other calls run while it waits.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from .habits import OF_A_REMOTE, Habits
from .here import current
from .later import Later, is_here

if TYPE_CHECKING:
    from .answers import Answer
    from .asking import Call
    from .client import Grid
    from .many import Many

P = ParamSpec("P")
R = TypeVar("R")            # what a plain call gives: a value, or a coroutine that will
T = TypeVar("T")            # the value


class Bound(Generic[P, R, T]):
    """A function and where its calls go: `grid` None means the grid that the caller is in, `pool` None that grid's usual one."""

    def __init__(self, function: Callable[P, R], grid: Grid | None, pool: str | None) -> None:
        self.function, self.grid, self.pool = function, grid, pool

    def __repr__(self) -> str:
        where = "the grid it is called in" if self.grid is None else f"grid {self.grid.keys.namespace}"
        name = getattr(self.function, "__qualname__", self.function)
        return f"<{name} on {where}, {'its usual pool' if self.pool is None else self.pool}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The value, computed there; of an `async def` function a coroutine that gives it. Raises CallFailed."""
        submitted = self.submit(*args, **kwargs)
        return cast(R, _waiting(submitted) if is_async(self.function) else submitted.result())

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Answer[T]:
        """Asks for the value and goes on: `await` what this gives, or call its `result()`."""
        if self.grid is None and is_here():
            return cast("Answer[T]", Later(self.pool or "", [(self.function, args, kwargs)], single=True))
        from .answers import Answer  # not before: workers import this module, and need no asyncio

        answer: Answer[T] = self._grid()._ask(self._pool(), [(self.function, args, kwargs)], Answer, single=True)
        return answer

    def map(self, first: Iterable[Any], /, *more: Iterable[Any], progress: bool | None = None,
            return_exceptions: bool = False) -> Many[T]:
        """The values for each item (of several iterables: for each tuple of them, up to the shortest), in order; all asked for at once.

        `progress`: whether to show a bar while it is waited for; None is after a second, in a terminal or a notebook.
        """
        if self.grid is None and is_here():
            calls: list[Call] = [(self.function, args, {}) for args in zip(first, *more, strict=False)]
            return cast("Many[T]", Later(self.pool or "", calls, single=False, patient=return_exceptions))
        return self._grid().map(self.function, first, *more, pool=self._pool(), progress=progress, return_exceptions=return_exceptions)

    def _grid(self) -> Grid:
        return current() if self.grid is None else self.grid

    def _pool(self) -> str:
        return self._grid().pool if self.pool is None else self.pool


class Remote(Habits, Generic[P, R, T]):
    """A function made by `@remote`. A call of it runs here."""

    habits = OF_A_REMOTE

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], pool: str | None = None) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self.pool = pool

    def __repr__(self) -> str:
        return f"<remote {self.__wrapped__.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    @property
    def __code__(self) -> types.CodeType:
        """That of the function: by it workers see what is an `async def`."""
        return self.__wrapped__.__code__

    def on(self, grid: Grid | None = None, pool: str | None = None) -> Bound[P, R, T]:
        """The same function with its calls computed on that grid, in that pool."""
        return Bound(self, grid, pool or self.pool)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Answer[T]:
        """As Bound.submit, on the grid that the caller is in."""
        return self.on().submit(*args, **kwargs)

    def map(self, first: Iterable[Any], /, *more: Iterable[Any], progress: bool | None = None,
            return_exceptions: bool = False) -> Many[T]:
        """As Bound.map, on the grid that the caller is in."""
        return self.on().map(first, *more, progress=progress, return_exceptions=return_exceptions)


def is_async(function: Any) -> bool:
    """Whether calls of the function give a coroutine."""
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)


async def _waiting(submitted: Answer[T]) -> T:
    return await submitted


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> Remote[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Remote[P, T, T]: ...


@overload
def remote(function: Callable[P, Coroutine[Any, Any, T]], /) -> Remote[P, Coroutine[Any, Any, T], T]: ...
@overload
def remote(function: Callable[P, T], /) -> Remote[P, T, T]: ...
@overload
def remote(*, pool: str) -> _Decorator: ...
def remote(function: Callable[..., Any] | None = None, /, *, pool: str | None = None) -> Any:
    """Makes a function that can be called on a grid: `@remote`, or `@remote(pool="big")` for one that belongs in a pool of its own."""
    return functools.partial(Remote, pool=pool) if function is None else Remote(function, pool)
