"""What one can ask of a grid: the verbs of `Grid`, whose own file has the wire below them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from .answers import Answer
from .asking import one, several
from .executor import GridExecutor
from .keys import Keys, checked
from .many import Many
from .withdrawal import OPTIONS, own_option

if TYPE_CHECKING:
    from .asking import Call
    from .client import Grid

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=Answer[Any])


class Verbs(ABC):
    """The verbs, over one of the wire's, `_ask`."""

    keys: Keys
    pool: str

    @abstractmethod
    def _ask(self, pool: str, calls: list[Call], kind: type[A], *, single: bool = False, patient: bool = False,
             timeout: float | None = None, durable: bool = False, memo_errors: bool = False, trace: bool = False) -> A: ...

    # requests

    @overload
    def request(self, pool: str, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]: ...
    @overload
    def request(self, pool: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]: ...
    @overload
    def request(self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]: ...
    @overload
    def request(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]: ...
    @overload   # with options of the request; mypy believes that a ParamSpec matches everything, also keywords that f has not
    def request(self, pool: str, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any,  # type: ignore[overload-cannot-match]
                timeout: float | None, **kwargs: Any) -> Answer[T]: ...
    @overload
    def request(self, pool: str, function: Callable[..., T], /, *args: Any,  # type: ignore[overload-cannot-match]
                timeout: float | None, **kwargs: Any) -> Answer[T]: ...
    @overload
    def request(self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any,  # type: ignore[overload-cannot-match]
                timeout: float | None, **kwargs: Any) -> Answer[T]: ...
    @overload
    def request(self, function: Callable[..., T], /, *args: Any,  # type: ignore[overload-cannot-match]
                timeout: float | None, **kwargs: Any) -> Answer[T]: ...
    @overload
    def request(self, first: Any, /, *call: Any, durable: bool, **kwargs: Any) -> Answer[Any]: ...
    @overload
    def request(self, first: Any, /, *call: Any, memo_errors: bool, **kwargs: Any) -> Answer[Any]: ...
    @overload
    def request(self, first: Any, /, *call: Any, trace: bool, **kwargs: Any) -> Answer[Any]: ...
    def request(self, first: Any, /, *call: Any, **kwargs: Any) -> Answer[Any]:
        """`request([pool,] f, *args, **kwargs)`: the value of f(*args, **kwargs), computed in that pool; an Answer to await or block on.

        Not passed on to f are `timeout=` (in seconds: when it is over, the call is cancelled and the answer raises CallTimeout),
        `durable=True` (returns only when the call is on the server's disk; raises NotDurable), `memo_errors=True` (if the call has
        failed lately, that is the answer, and it is not run again) and `trace=True` (what is run is written down for `graph`).
        """
        pool, function, args = one((first, *call), self.pool)
        options = {name: own_option(function, name, kwargs) for name in OPTIONS if name in kwargs}
        return self._ask(pool, [(function, args, kwargs)], Answer, single=True, **options)

    @overload
    def requests(self, pool: str, calls: Iterable[Sequence[Any]], /, *, return_exceptions: bool = False,
                 timeout: float | None = None, durable: bool = False,
                 memo_errors: bool = False, trace: bool = False) -> Answer[list[Any]]: ...
    @overload
    def requests(self, calls: Iterable[Sequence[Any]], /, *, return_exceptions: bool = False,
                 timeout: float | None = None, durable: bool = False,
                 memo_errors: bool = False, trace: bool = False) -> Answer[list[Any]]: ...
    def requests(self, *where: Any, return_exceptions: bool = False, timeout: float | None = None, durable: bool = False,
                 memo_errors: bool = False, trace: bool = False) -> Answer[list[Any]]:
        """`requests([pool,] [(f, *args), …])`: the values of the calls, in order.

        Raises the first failure while the others go on, or returns failures among the values with `return_exceptions`.
        What is not done after `timeout` seconds is cancelled, and fails with CallTimeout. The other options are as in `request`.
        """
        pool, calls = several(where, self.pool)
        return self._ask(pool, calls, Answer, patient=return_exceptions,
                         timeout=timeout, durable=durable, memo_errors=memo_errors, trace=trace)

    def map(self, function: Callable[..., Any], first: Iterable[Any], /, *more: Iterable[Any], pool: str | None = None,
            progress: bool | None = None, return_exceptions: bool = False) -> Many[Any]:
        """`map(f, xs)`: f of each item (of several iterables: of each tuple of them, up to the shortest), in order; all asked for at once.

        As `f.on(grid, pool).map(xs)` of a `@remote` function, which editors and mypy know more of. `progress`: whether to show a bar while
        it is waited for; None is after a second, in a terminal or a notebook.
        """
        calls: list[Call] = [(function, args, {}) for args in zip(first, *more, strict=False)]
        many: Many[Any] = self._ask(self.pool if pool is None else pool, calls, Many, patient=return_exceptions)
        many.progress = progress
        return many

    def executor(self, pool: str | None = None) -> GridExecutor:
        """That pool as a `concurrent.futures.Executor`."""
        return GridExecutor(cast("Grid", self), checked("pool", self.pool if pool is None else pool))
