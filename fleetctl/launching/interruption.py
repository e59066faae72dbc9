"""What a launch does about a machine that EC2 takes back: the decision. Pure.

`"shrink"`, the default, goes on with fewer. `"replace"` asks for another machine, as long as the launch has not ended and nobody tears
it down. A function is called with the machine, and does what it likes. In each case the machine's state says what has happened.

A machine that was never ready is not this module's business: it counts as lost, and the launch's own rules say what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeAlias

from ..errors import RequestInvalid
from ..states import GIVEN_UP, LaunchState

Policy: TypeAlias = str | Callable[[Any], object]
POLICIES = ("shrink", "replace")
FUNCTION = "function"  # what is written down of one


class Answer(StrEnum):
    """What is to be done."""

    NOTHING = "nothing"
    REPLACE = "replace"
    CALL = "call"


def checked(policy: Policy) -> Policy:
    """The policy, if it is one. Raises RequestInvalid."""
    if callable(policy) or policy in POLICIES:
        return policy
    raise RequestInvalid(
        f'on_interruption is "shrink", "replace" or a function of the machine, not {policy!r}', alias="on_interruption", found=policy
    )


def kept(policy: Policy) -> str:
    """A policy as it is written down for another process: a function cannot be, and only that there was one."""
    return policy if isinstance(policy, str) else FUNCTION


def again(policy: str) -> Policy:
    """The policy out of what was written down. What was a function's business is nobody's: the launch goes on with fewer."""
    return policy if policy in POLICIES else POLICIES[0]


def answer(policy: Policy, *, was_ready: bool, state: LaunchState, ending: bool) -> Answer:
    """What is to be done about one interrupted machine of a launch in `state`; `ending`: it is being torn down."""
    if not was_ready or ending or state in GIVEN_UP:
        return Answer.NOTHING
    if callable(policy):
        return Answer.CALL
    return Answer.REPLACE if policy == "replace" else Answer.NOTHING


def words(answered: Answer, machine: str, taken_at: str) -> str:
    """What the log says of it."""
    when = f" at {taken_at}" if taken_at else " within two minutes"
    then = {
        Answer.NOTHING: "the launch goes on without it",
        Answer.REPLACE: "another is asked for",
        Answer.CALL: "on_interruption is called",
    }[answered]
    return f"EC2 takes {machine} back{when}; {then}"
