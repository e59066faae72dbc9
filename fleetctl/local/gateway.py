"""The way in: one WSGI application that tells whose call it is, which call it is, and gives it to moto or to `/_fleetctl`.

Every answer is what an AWS SDK expects of that service's protocol, errors too: moto's own unhandled errors would be HTML.
Calls go straight to moto's response classes; only S3, whose operations are in method and path, goes through moto's Flask
application, which is loaded with the first S3 call.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from moto.core.request import Request
from werkzeug.wrappers import Response

from fleetctl.local.calls import CallLog
from fleetctl.local.faults import Faults
from fleetctl.local.patches import publish_images, tidy_buckets
from fleetctl.local.throttle import Throttle

log = logging.getLogger(__name__)

CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
LAUNCH = re.compile(r" launch/([0-9a-f-]{36})")
S3_OPERATIONS = {("GET", 0): "ListBuckets", ("PUT", 1): "CreateBucket", ("DELETE", 1): "DeleteBucket", ("GET", 1): "ListObjects",
                 ("HEAD", 1): "HeadBucket", ("POST", 1): "DeleteObjects", ("GET", 2): "GetObject", ("PUT", 2): "PutObject",
                 ("HEAD", 2): "HeadObject", ("DELETE", 2): "DeleteObject", ("POST", 2): "MultipartUpload"}
SERVICES = {"ec2": ("fleetctl.local.ec2_api", "LocalEC2API"), "sqs": ("moto.sqs.responses", "SQSResponse"),
            "sns": ("moto.sns.responses", "SNSResponse"), "iam": ("moto.iam.responses", "IamResponse"),
            "sts": ("moto.sts.responses", "TokenResponse"), "ssm": ("moto.ssm.responses", "SimpleSystemManagerResponse"),
            "servicequotas": ("fleetctl.local.quotas", "LocalServiceQuotas"), "dynamodb": ("moto.dynamodb.responses", "DynamoHandler"),
            "monitoring": ("moto.cloudwatch.responses", "CloudWatchResponse"), "budgets": ("fleetctl.local.budgets", "LocalBudgets"),
            "elasticloadbalancing": ("fleetctl.local.balancers", "LocalBalancers"), "rds": ("moto.rds.responses", "RDSResponse"),
            "cloudformation": ("fleetctl.local.stack_api", "LocalCloudFormation"), "lambda": ("fleetctl.local.functions", "LocalFunctions"),
            "events": ("fleetctl.local.schedules", "LocalEvents"), "logs": ("moto.logs.responses", "LogsResponse"),
            "bcm-data-exports": ("fleetctl.local.costs", "DataExports"), "ce": ("fleetctl.local.costs", "CostTags"),
            "secretsmanager": ("moto.secretsmanager.responses", "SecretsManagerResponse")}
REST_JSON = ("lambda", "eks", "elasticfilesystem")   # name no target, and speak JSON all the same
GLOBAL_SERVICES = ("iam", "sts", "s3", "budgets", "monitoring", "bcm-data-exports", "ce")   # their calls may be signed for another region


class LocalRequest(Request):
    """moto's request, as from a server."""

    from_wsgi_server = True


@dataclass(frozen=True)
class Call:
    """What is known of a call before it is answered."""

    service: str
    operation: str
    region: str
    key_id: str
    caller: str
    json: bool       # speaks a JSON protocol


class Gateway:
    """The application. `callers` maps access key ids to "controller" and "machine"; other keys must be known to IAM or STS.

    `regions` are those that there are; more may come while it runs.
    """

    def __init__(self, regions: Collection[str], callers: dict[str, str], calls: CallLog, faults: Faults,
                 admin: Callable[[Request], Response]) -> None:
        self.regions, self.callers, self.calls, self.faults, self.admin = regions, callers, calls, faults, admin
        self._throttle = Throttle(faults)
        self.last_call = time.monotonic()
        self._services: dict[str, Callable[[Request], Response]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """One request."""
        request = LocalRequest(environ)
        if request.path.startswith("/_fleetctl/"):
            answer = self.admin(request)
        else:
            self.last_call = time.monotonic()
            answer = self._aws(request)
        return answer(environ, start_response)

    def _aws(self, request: Request) -> Response:
        call = self._recognise(request)
        if call is None:
            return _error(Call("", "", "", "", "", False), 403, "MissingAuthenticationToken", "Request is missing Authentication Token")
        named = LAUNCH.search(request.headers.get("User-Agent", ""))
        self.calls.add(call.caller, call.service, call.operation, named[1] if named else "")
        facts = {"service": call.service, "operation": call.operation, "caller": call.caller, "region": call.region}
        if delay := self.faults.strikes("delay", **facts):
            time.sleep(float(delay.settings["seconds"]))
        if not call.caller:
            return _error(call, 403, "InvalidClientTokenId", "The security token included in the request is invalid.")
        if self.faults.strikes("throttling", **facts) or self._throttle.refuses(request, facts):
            return _error(call, 503 if call.service == "ec2" else 400, _throttled(call.service), "Request limit exceeded.")
        if self.faults.strikes("denied", **facts):
            return _error(call, 403, *_denied(call))
        if refused := self.faults.strikes("refused", **facts):
            return _error(call, 400, str(refused.settings["code"]), f"{call.operation} is refused, as a fault says.")
        lost = self.faults.strikes("answer-lost", **facts)
        if lost and not lost.settings["applied"]:
            raise AnswerLost(call.operation)
        broken = self.faults.strikes("server-error", **facts)
        if broken and not broken.settings["applied"]:
            return _error(call, 500, "InternalError", "An internal error has occurred")
        if call.region not in self.regions and call.service not in GLOBAL_SERVICES:
            there = ", ".join(self.regions)
            return _error(call, 400, "InvalidParameterValue", f"This local cloud has the region {there} only, not {call.region}.")
        answer = self._answer(call, request)
        if lost:
            raise AnswerLost(call.operation)
        return _error(call, 500, "InternalError", "An internal error has occurred") if broken else answer

    def _answer(self, call: Call, request: Request) -> Response:
        try:
            if call.service not in self._services:
                self._services[call.service] = load_service(call.service)
            return self._services[call.service](request)
        except UnknownService:
            return _error(call, 400, "InvalidAction", f"The local cloud has no {call.service}.")
        except NotImplementedError as missing:
            return _error(call, 400, "InvalidAction", f"The local cloud does not have {call.service} {call.operation}: {missing}")
        except Exception as error:   # whatever moto raises must still reach the client as its protocol's error
            log.exception("%s %s failed", call.service, call.operation)
            return _error(call, 500, "InternalFailure", f"{type(error).__name__}: {error}")

    def _recognise(self, request: Request) -> Call | None:
        found = CREDENTIAL.search(request.headers.get("Authorization", "")
                                  or f"Credential={request.args.get('X-Amz-Credential', '')}")
        if found is None:
            return None
        key_id, region, service = found.groups()
        target = request.headers.get("X-Amz-Target", "")
        if service == "s3":
            depth = len([part for part in request.path.split("/", 2) if part])
            operation = S3_OPERATIONS.get((request.method, depth), "?")
        else:
            operation = target.rpartition(".")[2] or request.values.get("Action", "?")
        return Call(service, operation, region, key_id, self.callers.get(key_id) or _made_here(key_id),
                    bool(target) or service in REST_JSON)

    def __repr__(self) -> str:
        return f"<Gateway {' '.join(self.regions)} {self.calls!r}>"


class AnswerLost(ConnectionError):
    """By a fault: the server closes the connection without an answer, and nothing is logged."""


class UnknownService(LookupError):
    """A service that the local cloud does not have."""


def load_service(service: str) -> Callable[[Request], Response]:
    """The function that answers a service's calls; imports it. Raises UnknownService."""
    if service == "s3":
        from moto.moto_server.werkzeug_app import create_backend_app
        application = create_backend_app("s3")
        tidy_buckets()
        return lambda request: Response.from_app(application, request.environ)
    if service not in SERVICES:
        raise UnknownService(service)
    module, name = SERVICES[service]
    if service == "ssm":
        publish_images()
    dispatch = getattr(import_module(module), name).dispatch

    def answer(request: Request) -> Response:
        status, headers, body = dispatch(request)
        passed = {name: str(value) for name, value in headers.items() if name.lower() not in ("status", "content-length")}
        return Response(body, status=status, headers=passed)
    return answer


def _made_here(key_id: str) -> str:
    """ "other" for a key that IAM or STS of this cloud made, else ''."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    keys = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].access_keys
    assumed = sts_backends[DEFAULT_ACCOUNT_ID]["aws"].get_assumed_role_from_access_key(key_id)
    return "other" if key_id in keys or assumed is not None else ""


def _throttled(service: str) -> str:
    return {"ec2": "RequestLimitExceeded", "sqs": "RequestThrottled", "s3": "SlowDown"}.get(service, "ThrottlingException")


def _denied(call: Call) -> tuple[str, str]:
    """The code and the words of a refusal by IAM: EC2 has its own, and services that speak JSON add a word to the code."""
    if call.service == "ec2":
        return "UnauthorizedOperation", "You are not authorized to perform this operation."
    said = f"User: arn:aws:iam::123456789012:user/{call.caller} is not authorized to perform: {call.service}:{call.operation}"
    return "AccessDeniedException" if call.json else "AccessDenied", said


def _error(call: Call, status: int, code: str, message: str) -> Response:
    """An error document in the service's own form."""
    text = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if call.json:
        return Response(json.dumps({"__type": code, "message": message}), status, {"x-amzn-ErrorType": code},
                        content_type="application/x-amz-json-1.0")
    if call.service == "ec2":
        body = (f"<Response><Errors><Error><Code>{code}</Code><Message>{text}</Message></Error></Errors>"
                "<RequestID>local</RequestID></Response>")
    elif call.service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{text}</Message><RequestId>local</RequestId></Error>"
    else:
        kind = "Sender" if status < 500 else "Receiver"
        body = (f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{text}</Message></Error>"
                "<RequestId>local</RequestId></ErrorResponse>")
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{body}', status, content_type="text/xml")
