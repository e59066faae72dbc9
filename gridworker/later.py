"""What a function that runs on a grid has asked for and not waited for yet: like an Answer, but waiting parks instead of blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import node
from .culprit import Stays
from .errors import CallCancelled, GridError, NotOnWorker
from .parking import Runner, current_runner
from .waits import Wait, values
from .withdrawal import cancelled

if TYPE_CHECKING:
    from .asking import Call
    from .worker import Worker

T_co = TypeVar("T_co", covariant=True)


def is_here() -> bool:
    """Whether this code runs on a grid, or within `local()`: then `Later` takes its calls."""
    return node._here is not None or bool(node._local.get())


class Later(Stays, Generic[T_co]):
    """The value, or values, of calls that a running call has made. They leave for the grid with this worker's next step: when a call waits
    or ends. In a plain function call `result()`, which lets other calls run meanwhile; in an `async def` function `await` it.
    """

    instead = "let its value travel: `result()`, in an `async def` function `await`"

    def __init__(self, pool: str, calls: list[Call], *, single: bool, patient: bool = False) -> None:
        self._single, self._count = single, len(calls)
        self._parked: list[Runner] = []
        self._worker = node._here if calls else None
        self._coming: Awaitable[T_co] | None = None
        self._wait: Wait | None = None
        self._local: list[Any] = []
        if self._worker is None:
            self._local = [_outcome(call) for call in calls]
            self._patient = patient
        else:
            self._ask(self._worker, pool, calls, patient)

    def _ask(self, worker: Worker, pool: str, calls: list[Call], patient: bool) -> None:
        coroutines = worker._coroutines
        if coroutines is not None and (running := coroutines.running()) is not None:
            self._coming = coroutines.request(worker._asks(pool, running, calls), running, single=self._single, patient=patient)
            return
        runner = current_runner()
        if runner is None or runner.running is None:
            raise GridError("called in a thread that a function on the grid has started; call it in the function itself")
        asks = worker._asks(pool, runner.running, calls)
        self._wait = Wait([call for call, _ in asks], patient, self._over, runner.running)
        worker.ask(self._wait, asks)

    def __repr__(self) -> str:
        return f"<Later {self._count} call(s){', here' if self.done() else ''}>"

    def __len__(self) -> int:
        return self._count

    def done(self) -> bool:
        """Whether `result()` would not wait."""
        return self._worker is None or (self._wait is not None and self._wait.over)

    def _over(self, wait: Wait) -> None:
        assert self._worker is not None
        self._worker._woken.extend((runner, wait) for runner in self._parked)

    def result(self, timeout: None = None) -> T_co:
        """The value (values, in order). Raises CallFailed. Nothing stands still while it waits, so it takes no timeout."""
        if self._worker is None:
            return self._here()
        if self._wait is None:
            raise NotOnWorker("in an `async def` function: await it")
        if not self._wait.over:
            runner = current_runner()
            assert runner is not None
            self._parked.append(runner)
            self._worker.parked += 1
            runner.park()
            if runner.running is not None and runner.running.cancelled:
                raise CallCancelled(cancelled())
        outcome: T_co = values(self._wait, self._single, self._worker.seal)
        return outcome

    def _here(self) -> T_co:
        if not self._patient:
            for kind, value in self._local:
                if kind is BaseException:
                    raise value
        got: Any = [value for _, value in self._local]
        outcome: T_co = got[0] if self._single else got
        return outcome

    async def _result(self) -> T_co:
        return self.result()

    def __await__(self) -> Generator[Any, None, T_co]:
        return (self._result() if self._coming is None else self._coming).__await__()

    def __iter__(self) -> Iterator[Any]:
        listed: Any = self.result()
        return iter(listed)

    async def __aiter__(self) -> AsyncIterator[Any]:
        listed: Any = await self
        for value in listed:
            yield value


def _outcome(call: Call) -> tuple[type, Any]:
    function, args, kwargs = call
    try:
        return object, function(*args, **kwargs)
    except Exception as error:
        return BaseException, error
