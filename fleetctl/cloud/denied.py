"""What AWS did not allow, out of the encoded message that EC2 puts into such a refusal. Reading it takes a right of its own."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from ..errors import AwsError, Denied
from .ec2 import Call

log = logging.getLogger(__name__)

ENCODED = re.compile(r"Encoded authorization failure message: (\S+)")


async def explain(call: Call, error: Denied) -> None:
    """Put into the error what was denied on what to whom, if its message tells and the credentials may have it read. Raises nothing."""
    found = ENCODED.search(error.what)
    if found is None:
        return
    error.what = error.what.replace(found[0], "").rstrip()
    try:
        answer = await call("sts", "decode_authorization_message", EncodedMessage=found[1])
        read(error, json.loads(answer["DecodedMessage"]))
    except (AwsError, KeyError, TypeError, ValueError) as trouble:
        log.info("AWS's reason for a refusal could not be read: %s", trouble)
        error.todo = f"{error.todo}; with the right to sts:DecodeAuthorizationMessage this error names what is missing"


def read(error: Denied, decoded: dict[str, Any]) -> None:
    """The parts of a decoded message that say what to mend. Raises KeyError and TypeError for one that is otherwise than documented."""
    context = decoded["context"]
    action, resource, principal = context["action"], context["resource"], context["principal"]["arn"]
    error.action, error.resource, error.principal, error.explicit = action, resource, principal, bool(decoded["explicitDeny"])
    error.fields |= {"action": action, "resource": resource, "principal": principal, "explicit": error.explicit}
    why = "a policy forbids" if error.explicit else "no policy allows"
    error.what = f"{error.what} {why} {principal} {action} on {resource}".strip()
    error.todo = f"{'change the policy that forbids it' if error.explicit else f'allow {action} on {resource}'}, or use other credentials"
