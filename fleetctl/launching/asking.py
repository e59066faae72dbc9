"""Sending a launch: its calls in order, each asked again while AWS is slow to answer, with the same token, so nothing is made twice.

A launch template is there for the length of its fleet's call. It is deleted whatever came of that; what is left of it after a fault is
found by the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cloud import ec2
from ..errors import AwsError, NotFound
from ..events import Asked, Seen
from ..shapes import Call, Launched, Shortfall, launched, shortfalls, view
from .topup import Ask, Plan, Pool, mends

log = logging.getLogger(__name__)

TEMPLATE, FLEET = "create_launch_template", "create_fleet"
VISIBLE_SECONDS = 60.0  # how long a launch template that was just made may not be found yet


class Asking:
    """One launch's calls on their way. `stopped` tells whether the launch was given up meanwhile."""

    def __init__(self, call: ec2.Call, what: str, deadline: float, stopped: Callable[[], bool]) -> None:
        self._call, self._what, self._deadline, self._stopped = call, what, deadline, stopped
        self.sent = False  # a call that makes something was made at least once
        self.in_call = False  # one is on its way: its answer names what must be ended
        self.trouble: AwsError | None = None  # why the call is being asked again
        self._short: dict[int, Sequence[Shortfall]] = {}  # by pool
        self._plan: Plan | None = None
        self._template: str | None = None

    def __repr__(self) -> str:
        return f"<asking for {self._what}{', on its way' if self.in_call else ''}>"

    async def fill(
        self, plan: Plan, pools: Sequence[Pool], calls: Callable[[Ask], Sequence[Call]], tell: Callable[[Asked], None]
    ) -> None:
        """Ask pool after pool, round after round, until there are enough machines, or no pool or time is left; tell what each has made.

        Raises what the last one was refused with, where none gave any, and where its answer was lost.
        """
        refusal: AwsError | None = None
        owed, self._plan = True, plan
        while (ask := await self._next(plan)) is not None:
            try:
                answer = await self.send(calls(ask))
            except AwsError as error:
                refusal = error
                self._short[ask.pool] = (_shortfall(pools[ask.pool], error),)
                plan.refused(error.kind, error.code)
                continue
            finally:
                await self.clear_up()
            if answer is None:
                return
            self._short[ask.pool] = short = shortfalls(answer)
            made = asked(answer, on_demand=pools[ask.pool].on_demand)
            # RunInstances says nothing of what it did not give, a request that waits is open, and a fleet names the reasons
            plan.gave(len(made.keys), mends=not short or any(mends(one.code) for one in short))
            owed = plan.owed > 0
            tell(replace(made, owed=plan.owed))
        self._plan = None
        if refusal is not None and (not plan.given or isinstance(refusal, ec2.TRANSIENT)):
            raise refusal
        if owed:
            tell(Asked(()))

    async def _next(self, plan: Plan) -> Ask | None:
        """The next call; None where there is none, or no time for it. Waits between rounds."""
        ask = None if self._stopped() else plan.ask()
        if ask is None and not self._stopped() and (gap := plan.again()) is not None and time.time() + gap < self._deadline:
            log.info("%s: %d machines are missing, asking again in %.0f s", self._what, plan.owed, gap)
            await asyncio.sleep(gap)
            ask = None if self._stopped() else plan.ask()
        return ask if ask is None or ask.part == 0 or time.time() < self._deadline else None

    def missing(self) -> dict[str, int]:
        """How many machines are still being asked for, by AWS's word for why there are none. From any thread."""
        plan, short = self._plan, self.shortfalls
        return {short[0].code: plan.wanted - plan.given} if plan is not None and short and plan.given < plan.wanted else {}

    @property
    def shortfalls(self) -> list[Shortfall]:
        """The capacity pools that gave none, or not enough, when each was last asked."""
        return [one for _, short in sorted(self._short.items()) for one in short]

    async def send(self, calls: Sequence[Call]) -> dict[str, Any] | None:
        """The launch call's answer; None when the launch was given up before that call was made. Raises AwsError."""
        answer: dict[str, Any] | None = None
        for one in calls:
            if self._stopped():
                return None
            if one.method == TEMPLATE:
                self._template = one.parameters["LaunchTemplateName"]
            answer = await self._persist(one)
        self.trouble = None
        return answer

    async def _persist(self, one: Call) -> dict[str, Any]:
        pauses = iter(ec2.PAUSES)
        began = time.time()
        while True:
            try:
                self.sent = self.in_call = True
                return await self._call("ec2", one.method, **one.parameters)
            except AwsError as error:
                pause = next(pauses, None)
                early = one.method == FLEET and isinstance(error, NotFound) and time.time() - began < VISIBLE_SECONDS
                if not (isinstance(error, ec2.TRANSIENT) or early) or pause is None:
                    raise
                if time.time() + pause >= self._deadline or self._stopped():
                    raise
                log.warning("%s: %s; asking again in %d s with the same token", self._what, error.what, pause)
                self.trouble = error
            finally:
                self.in_call = False
            await asyncio.sleep(pause)

    async def clear_up(self) -> None:
        """Delete the launch template, if one was asked for. Raises nothing: it costs nothing, and a teardown finds it."""
        if self._template is None:
            return
        name, self._template = self._template, None
        self.in_call = True
        try:
            await ec2.persist(self._call, "ec2", "delete_launch_template", LaunchTemplateName=name)
        except NotFound:
            log.debug("%s: there is no launch template %s", self._what, name)
        except AwsError as error:
            log.warning("%s: the launch template %s could not be deleted, the teardown will: %s", self._what, name, error.what)
        finally:
            self.in_call = False


def asked(answer: Mapping[str, Any], *, on_demand: bool = False) -> Asked:
    """What a launch learns from the answer of its call."""
    made = launched(answer)
    return Asked(tuple(_key(one) for one in made), tuple(_seen(one, on_demand) for one in made))


def _key(one: Launched) -> str:
    return one.request or str(one.instance)


def _seen(one: Launched, on_demand: bool) -> Seen:
    request = one.request if one.instance else None
    return Seen(_key(one), one.instance, request=request, type=one.type, zone=one.zone, on_demand=on_demand)


def _shortfall(pool: Pool, error: AwsError) -> Shortfall:
    said = view(pool.request)
    return Shortfall(error.code, error.what, _words(said.get("itype")), _words(said.get("subnet") or said.get("zone")))


def _words(said: str | Sequence[str] | None) -> str:
    return said if isinstance(said, str) else " or ".join(said or ())
