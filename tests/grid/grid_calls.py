"""Functions that the tests send to workers, by import path (this directory is on the workers' PYTHONPATH)."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from typing import Any

import versioned

from gridworker import CallTimeout, node_id, request, requests


def inc(x: int) -> int:
    return x + 1


def divide(a: float, b: float) -> float:
    return a / b


def ratio(i: int) -> Any:
    return request(divide, i, i - 1)


def careful_ratio(i: int) -> Any:
    try:
        return request(divide, i, i - 1)
    except ZeroDivisionError:
        return "infinite"


def fib(n: int) -> Any:
    return n if n < 2 else sum(requests([(fib, n - 1), (fib, n - 2)]))


def held_after(n: int, path: str) -> int:
    """Asks for a quick call, and then computes until there is a file."""
    value: int = request(inc, n)
    while not os.path.exists(path):
        time.sleep(0.01)
    return value


def tree(level: int, path: str) -> int:
    """How many calls it took, itself included: 16, 65, 326 for levels 3, 4, 5. No two calls are equal."""
    parts: list[int] = requests([(tree, level - 1, f"{path}.{i}") for i in range(level)])
    return 1 + sum(parts)


def depth(n: int) -> Any:
    """A chain of n calls, each of which waits for the next."""
    return 0 if n == 0 else 1 + request(depth, n - 1)


def note(path: str, text: str) -> None:
    """One line in a file that processes share: counts executions outside the grid."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{text}\n".encode())
    finally:
        os.close(handle)


def noted(path: str, x: Any) -> Any:
    note(path, str(x))
    return x


def noted_failure(path: str) -> None:
    note(path, "tried")
    raise LookupError("nothing there")


def noted_bogosity(path: str, jobnum: int, reclevel: int, tag: str) -> str:
    """The shape of gridworker.bogosity, noted."""
    note(path, f"{jobnum}.{reclevel}")
    parts = requests([(noted_bogosity, path, i, reclevel - 1, tag) for i in range(reclevel)])
    return f"{jobnum}.{reclevel}({' '.join(parts)})"


def wait_for(path: str, x: Any, seconds: float = 30.0) -> Any:
    """Notes that it has started, then returns x once the file `path`.go exists."""
    note(path, f"{x} {os.getpid()}")
    deadline = time.monotonic() + seconds
    while not os.path.exists(path + ".go"):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.005)
    return x


def parent_of_wait(path: str, x: Any) -> Any:
    return request(wait_for, path, x)


def where(x: Any) -> str:
    return node_id()


def die(path: str) -> None:
    """Kills its worker each time."""
    note(path, str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def cycle(i: int) -> Any:
    return request(cycle, (i + 1) % 3)


def self_cycle() -> Any:
    return request(self_cycle)


def unpicklable() -> Any:
    return (i for i in range(3))


def leave() -> None:
    raise SystemExit("this function wants out")


class Odd(Exception):
    """Its constructor cannot be called with what it pickles."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} is not {b}")


def odd() -> None:
    raise Odd(1, 2)


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaving(Exception):
    """Wants out when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit("no pickle")


class Unspeakable:
    """An argument that wants out when it is shown."""

    def __repr__(self) -> str:
        raise GeneratorExit("no name")


def defiant(error: Any, *args: Any) -> None:
    """Raises what is asked for."""
    raise error(*args)


def with_own_loop(x: int) -> int:
    """A plain function that uses asyncio.run, and asks the grid from inside."""

    async def inner() -> int:
        await asyncio.sleep(0)
        value: int = request(inc, x)
        await asyncio.sleep(0)
        return value

    return asyncio.run(inner())


async def aio_inc(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


async def aio_sum(n: int) -> Any:
    values = await asyncio.gather(*[request(aio_inc, i) for i in range(n)])
    return sum(values) + await request(inc, 0)


async def aio_fails() -> Any:
    return await request(divide, 1, 0)


def sum_of_aio(n: int) -> Any:
    return request(aio_sum, n) + request(aio_sum, n + 1)


def elsewhere(pool: str, x: int) -> Any:
    return request(pool, inc, x)


def options(a: int, *, b: int = 0, c: dict[str, int] | None = None) -> Any:
    return a, b, c


def recurse(function: Any, n: int) -> Any:
    """Sends a function that it got by value on."""
    return request(function, n)


def logged(text: str) -> str:
    import logging

    logging.getLogger("calls").warning("it says %s", text)
    return text


def ask_in_a_thread() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(request, inc, 1).result()


async def aio_sleeps(path: str) -> None:
    """Notes its beginning, sleeps for long, and notes how that ended."""
    note(path, "child")
    try:
        await asyncio.sleep(60)
    except BaseException as error:
        note(path, f"child {type(error).__name__}")
        raise


def parent_notes_its_end(path: str) -> Any:
    try:
        value = request(aio_sleeps, path)
    except Exception as error:
        note(path, type(error).__name__)
        raise
    note(path, "end")
    return value


def impatient(path: str) -> str:
    try:
        request(aio_sleeps, path, timeout=0.1)
    except TimeoutError:
        return "too late"
    return "in time"


async def aio_impatient(path: str) -> str:
    try:
        await request(aio_sleeps, path, timeout=0.1)
    except TimeoutError:
        return "too late"
    return "in time"


async def aio_waits_for(path: str) -> str:
    try:
        await asyncio.wait_for(request(aio_sleeps, path), 0.1)
    except TimeoutError:
        return "too late"
    return "in time"


def takes_timeout(timeout: float) -> float:
    return timeout


def endless(n: int) -> Any:
    return request(endless, n + 1)


def big(n: int) -> bytes:
    return bytes(n)


def length(x: Any) -> int:
    return len(x)


def _not_here() -> None:
    raise RuntimeError("not here")


class Unreadable:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> Any:
        return _not_here, ()


def asks_when_told(path: str, x: Any) -> Any:
    """Waits as wait_for does, then asks for a call; says if there was no room for it."""
    from gridworker import GridFull

    wait_for(path, x)
    try:
        return request(inc, 41)
    except GridFull:
        return "full"


async def aio_returns(path: str, x: Any) -> Any:
    """wait_for as a coroutine."""
    return await asyncio.to_thread(wait_for, path, x)


def names_a_package() -> int:
    return versioned.VALUE


def starts_and_ends_a_process() -> int | None:
    """Its exit status, after it was told to end."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    status = process.exitcode
    process.kill()
    process.join()
    return status


def asks_in_a_process(x: int) -> str:
    """What a process hears that asks the grid although it is no worker."""
    out, into = os.pipe()
    if os.fork() == 0:
        try:
            request(inc, x)
        except Exception as error:
            os.write(into, type(error).__name__.encode())
        os._exit(0)
    os.close(into)
    with open(out) as heard:
        return heard.read()


def comes_back_twice() -> tuple[int, int]:
    """Returns in the worker, and in a copy of it: (pid of the worker, exit status of the copy)."""
    copy = os.fork()
    if copy == 0:
        return 0, 0
    return os.getpid(), os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


async def aio_is_impatient_late() -> str:
    """Gives up after a tenth of a second, when its worker has begun to wait for its bell already, which takes ten seconds."""
    await asyncio.sleep(0.1)
    asked = asyncio.ensure_future(request("nobody", inc, 1, timeout=0.1))
    done, _ = await asyncio.wait({asked, asyncio.ensure_future(asyncio.sleep(8))}, return_when=asyncio.FIRST_COMPLETED)
    return "too late" if asked in done and isinstance(asked.exception(), CallTimeout) else "no answer"


class AioAdder:
    """Its calls are coroutines, though it is no function."""

    def __init__(self, more: int) -> None:
        self.more = more

    async def __call__(self, x: int) -> int:
        value: int = await request(aio_inc, x)
        return value + self.more


def aio_after_a_wait(x: int) -> Any:
    """A plain function, which may wait as such, whose value is a coroutine."""
    return aio_inc(request(inc, x))


async def aio_generates() -> Any:
    yield 1


def take_descriptors(below: int) -> list[int]:
    """Takes all descriptors below that one."""
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < below:
        taken.append(os.dup(taken[0]))
    return taken


def keep_descriptors(below: int) -> int:
    """The same, for as long as the worker lives, whose process it names."""
    kept_descriptors.extend(take_descriptors(below))
    return os.getpid()


kept_descriptors: list[int] = []
