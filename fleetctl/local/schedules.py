"""EventBridge's rules with a rate: each calls its targets at its times. moto keeps the rules, and never calls anything by the clock.

A function is called only if its policy lets the rule, as on AWS, where a missing permission is the usual reason for silence. A first call
comes one period after the rule was made, or changed; a rule that is disabled or gone calls no more.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from moto.core import DEFAULT_ACCOUNT_ID
from moto.events.models import events_backends
from moto.events.responses import EventsHandler

from fleetctl.local import functions
from fleetctl.local.faults import Faults
from fleetctl.local.serverless import needs
from fleetctl.local.timers import Timers

log = logging.getLogger(__name__)

RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
SECONDS = {"minute": 60, "hour": 3600, "day": 86400}
PRINCIPAL = "events.amazonaws.com"


def period(expression: str | None) -> float | None:
    """The seconds between two calls; None for what has no rate.

    >>> period("rate(15 minutes)"), period("cron(0 12 * * ? *)")
    (900.0, None)
    """
    found = RATE.fullmatch(expression or "")
    return float(found[1]) * SECONDS[found[2]] if found else None


def lets(statements: list[Mapping[str, Any]], rule: str) -> bool:
    """Whether a function's policy lets a rule call it."""
    def one(statement: Mapping[str, Any]) -> bool:
        who = statement.get("Principal")
        service = who.get("Service") if isinstance(who, Mapping) else who
        sources = [arn for condition in (statement.get("Condition") or {}).values() for key, arn in condition.items() if "SourceArn" in key]
        return bool(statement.get("Effect") == "Allow" and service == PRINCIPAL and statement.get("Action") == "lambda:InvokeFunction"
                    and all(arn == rule for arn in sources))

    return any(map(one, statements))


class Schedules:
    """The clock behind the rules of all regions."""

    def __init__(self, timers: Timers, faults: Faults) -> None:
        self._timers, self._faults = timers, faults
        self._generations: dict[tuple[str, str], int] = {}

    def arm(self, region: str, name: str) -> None:
        """Begin to count for a rule that was made or changed; what was counted before is void."""
        key = (region, name)
        self._generations[key] = self._generations.get(key, 0) + 1
        self._wait(key, self._generations[key])

    def _wait(self, key: tuple[str, str], generation: int) -> None:
        rule = self._rule(key)
        seconds = period(rule.scheduled_expression) if rule is not None else None
        if seconds is None:
            return
        hurry = self._faults.strikes("hasty-schedule", rule=key[1], region=key[0])
        self._timers.after(float(hurry.settings["seconds"]) if hurry else seconds, partial(self._due, key, generation))

    def _due(self, key: tuple[str, str], generation: int) -> None:
        rule = self._rule(key)
        if rule is None or self._generations[key] != generation:
            return
        if rule.state == "ENABLED":
            for target in list(rule.targets):
                if ":function:" in target["Arn"]:   # a thread for each, as a function takes its time and other timers wait behind us
                    threading.Thread(target=_call, args=(key[0], rule.arn, dict(target)), name=f"rule {key[1]}", daemon=True).start()
        self._wait(key, generation)

    @staticmethod
    def _rule(key: tuple[str, str]) -> Any:
        region, name = key
        return events_backends[DEFAULT_ACCOUNT_ID][region].event_buses["default"].rules.get(name)

    def __repr__(self) -> str:
        return f"<Schedules of {len(self._generations)} rules>"


def _call(region: str, rule: str, target: Mapping[str, Any]) -> None:
    try:
        function = functions.find(region, target["Arn"])
        if not lets(function.policy.statements, rule):
            log.warning("%s may not call %s: the function's policy does not let it", rule, target["Arn"])
            return
        event = {"version": "0", "source": "aws.events", "detail-type": "Scheduled Event", "region": region, "resources": [rule],
                 "account": DEFAULT_ACCOUNT_ID, "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "detail": {}}
        outcome = functions.run(function, json.loads(target["Input"]) if target.get("Input") else event)
        log.info("%s called %s: %s", rule, target["Arn"], outcome)
    except Exception:   # the function is gone, or its role is: as on AWS, nobody hears of it but the log
        log.exception("%s could not call %s", rule, target["Arn"])


class LocalEvents(EventsHandler):
    """EventBridge's calls, which start the clock of a rule."""

    schedules: ClassVar[Schedules | None] = None

    def put_rule(self) -> tuple[str, dict[str, Any]]:
        """As moto's, and then it counts."""
        answer: tuple[str, dict[str, Any]] = super().put_rule()
        if LocalEvents.schedules is None:
            LocalEvents.schedules = Schedules(needs().timers, needs().faults)
        LocalEvents.schedules.arm(self.region, self._get_param("Name"))
        return answer
