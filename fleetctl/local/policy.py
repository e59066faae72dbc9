"""Whether a queue's policy lets a topic deliver, and a bucket's an object be used: the part of IAM's policy language that these use. Pure.

A request is allowed if some statement allows it and none denies it (IAM User Guide, "Policy evaluation logic").
Conditions: StringEquals, StringLike, ArnEquals, ArnLike (both ARN operators take wildcards) and Bool, with IfExists; an
operator that is not here makes its statement not hold for an Allow, and hold for a Deny: the careful side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringEqualsIgnoreCase": lambda value, wanted: value.lower() == wanted.lower(),
    "StringNotEquals": lambda value, wanted: value != wanted,
    "StringLike": fnmatchcase,
    "ArnEquals": fnmatchcase,
    "ArnLike": fnmatchcase,
    "Bool": lambda value, wanted: value.lower() == wanted.lower(),
}


def allows(policy: Mapping[str, Any] | None, *, action: str, resource: str, principal: str, context: Mapping[str, str]) -> bool:
    """Whether `principal` (a service such as "sns.amazonaws.com") may do `action` ("sqs:SendMessage") on `resource`.

    `context` holds condition keys in lower case, such as "aws:sourcearn".
    """
    allowed = False
    for statement in _list((policy or {}).get("Statement")):
        effect = statement.get("Effect")
        if not _concerns(statement, action, resource, principal):
            continue
        holds = _conditions(statement.get("Condition") or {}, context, unknown=effect == "Deny")
        if holds and effect == "Deny":
            return False
        allowed = allowed or (holds and effect == "Allow")
    return allowed


def denies(policy: Mapping[str, Any] | None, *, action: str, resource: str, principal: str, context: Mapping[str, str]) -> bool:
    """Whether some statement denies it, whatever others allow: the same account's callers need nothing else of a bucket's policy."""
    return any(
        statement.get("Effect") == "Deny" and _concerns(statement, action, resource, principal)
        and _conditions(statement.get("Condition") or {}, context, unknown=True)
        for statement in _list((policy or {}).get("Statement"))
    )


def _concerns(statement: Mapping[str, Any], action: str, resource: str, principal: str) -> bool:
    return (any(fnmatchcase(action.lower(), pattern.lower()) for pattern in _list(statement.get("Action")))
            and any(fnmatchcase(resource, pattern) for pattern in _list(statement.get("Resource")))
            and _principal(statement.get("Principal"), principal))


def _principal(given: Any, principal: str) -> bool:
    if given == "*":
        return True
    if not isinstance(given, Mapping):
        return False
    return principal in _list(given.get("Service")) or "*" in _list(given.get("AWS")) or "*" in _list(given.get("Service"))


def _conditions(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str], *, unknown: bool) -> bool:
    for operator, keys in conditions.items():
        name = operator.removesuffix("IfExists")
        for key, wanted in keys.items():
            value = context.get(key.lower())
            if value is None:
                if name == operator:
                    return False
            elif name not in OPERATORS:
                return unknown
            elif name == "StringNotEquals":
                if not all(OPERATORS[name](value, str(w)) for w in _list(wanted)):
                    return False
            elif not any(OPERATORS[name](value, str(w)) for w in _list(wanted)):
                return False
    return True


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
