"""Carries out what `interruption` decides: asks for other machines, or calls the user's function. On the session's loop.

Machines are replaced by a launch of their own, with the same request, commands, minutes, fuse and policy: so it is in the ledger under
its own client token, and everything that holds for a launch holds for it. EC2 takes machines of a pool together, so those that go
within a moment are replaced by one launch, and whatever it gets is welcome.

The user's function runs in a thread of its own, an `async def` in an event loop there: whatever it does, the session is not delayed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..states import LaunchState
from .interruption import Answer, Policy, answer, words

if TYPE_CHECKING:
    from ..machines import Machine
    from .launch import Conductor

log = logging.getLogger(__name__)

GATHER_SECONDS = 2.0  # from the first of some machines that go together to the launch that replaces them


class Replacing:
    """One launch's interruptions. `begin(n)` starts a launch of n machines like this one; `launches` are those that it has started."""

    def __init__(self, policy: Policy = "shrink", begin: Callable[[int], Conductor] | None = None) -> None:
        self.policy, self.launches = policy, list[Any]()
        self._begin = begin
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False

    def __repr__(self) -> str:
        policy = self.policy if isinstance(self.policy, str) else "function"
        return f"<replacing by {policy}: {len(self.launches)} launches, {self._due} due>"

    def interrupted(self, machine: Machine, *, was_ready: bool, state: LaunchState) -> None:
        """EC2 takes this machine back. Once for each."""
        answered = answer(self.policy, was_ready=was_ready, state=state, ending=self._ending)
        log.warning("%s", words(answered, str(machine.instance_id), machine.taken_at or ""))
        if answered is Answer.CALL:
            threading.Thread(target=self._call, args=(machine,), name=f"on_interruption of {machine.instance_id}", daemon=True).start()
        elif answered is Answer.REPLACE and self._begin is not None:
            self._due += 1
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._replace)

    def stop(self) -> None:
        """Nothing is replaced any more: the launch is being ended, and so are those that this has started."""
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()

    def _replace(self) -> None:
        count, self._due, self._timer = self._due, 0, None
        assert self._begin is not None
        try:
            launch = self._begin(count)
        except Exception as error:  # the budget, or a session that has ended: the launch goes on without them
            log.warning("%d interrupted machine(s) are not replaced: %s", count, error)
            return
        self.launches.append(launch)
        launch.future.add_done_callback(lambda future: self._told(count, future.exception()))

    @staticmethod
    def _told(count: int, error: BaseException | None) -> None:
        if error is not None:
            log.warning("%d interrupted machine(s) could not be replaced: %s", count, error)

    def _call(self, machine: Machine) -> None:
        try:
            made = self.policy(machine) if callable(self.policy) else None
            if inspect.isawaitable(made):
                asyncio.run(_awaited(made))
        except Exception:
            log.exception("on_interruption failed for %r", machine)


async def _awaited(made: Awaitable[Any]) -> None:
    await made
