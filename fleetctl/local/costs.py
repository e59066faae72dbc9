"""Data Exports and cost-allocation tags, as far as a set-up asks for them; moto has neither.

Parameters are checked against botocore's models, as nothing else here knows them. An export is kept and shown; nothing is written by it, as
the local cloud has no bill. Whether AWS could write is answered by the bucket's own policy, at the making and at each look. A tag is known
as soon as something in EC2 bears it; AWS takes up to a day.
"""

from __future__ import annotations

import functools
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import botocore.session
from botocore.validate import ParamValidator
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.request import Request

from fleetctl.local import policy

REGION = "us-east-1"  # both are there only, whatever region a bucket is in
EXPORTER = "bcm-data-exports.amazonaws.com"
MOST_EXPORTS = 300
NOT_SEEN = "the key is not known as a cost-allocation tag"

Answer = dict[str, Any]


class Refused(Exception):
    """What AWS would answer instead."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Handler:
    """Answers the calls of one service that speaks JSON, each by the method of its name; what botocore's model refuses comes to none."""

    service: ClassVar[str]

    @classmethod
    def dispatch(cls, request: Request) -> tuple[int, dict[str, str], str]:
        """One call."""
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        try:
            answer: Callable[[Answer], Answer] | None = getattr(HANDLERS[cls.service], operation, None)
            if answer is None:
                raise NotImplementedError(operation)
            given = json.loads(request.get_data() or b"{}")
            if faults := ParamValidator().validate(given, _model(cls.service).operation_model(operation).input_shape).generate_report():
                raise Refused("ValidationException", faults)
            return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer(given))
        except Refused as refused:
            body = {"__type": refused.code, "message": str(refused)}
            return 400, {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": refused.code}, json.dumps(body)


@functools.cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# the methods bear AWS's names
class DataExports(Handler):
    """The exports of the account, by ARN."""

    service = "bcm-data-exports"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exports: dict[str, Answer] = {}

    def __repr__(self) -> str:
        return f"<DataExports {len(self._exports)}>"

    def CreateExport(self, given: Answer) -> Answer:
        """A new one; its name is taken once."""
        export = given["Export"]
        with self._lock:
            if export["Name"] in {one["export"]["Name"] for one in self._exports.values()}:
                raise Refused("ValidationException", f"An export with the name {export['Name']} exists already.")
            if len(self._exports) >= MOST_EXPORTS:
                raise Refused("ServiceQuotaExceededException", "The account has as many exports as it may have.")
            arn = f"arn:aws:bcm-data-exports:{REGION}:{DEFAULT_ACCOUNT_ID}:export/{export['Name']}-{uuid.uuid4()}"
            _writable(arn, export)
            self._exports[arn] = {"export": export, "tags": given.get("ResourceTags", []), "made": time.time(), "changed": time.time()}
        return {"ExportArn": arn}

    def UpdateExport(self, given: Answer) -> Answer:
        """All of it anew; its name lasts."""
        with self._lock:
            known = self._known(given["ExportArn"])
            if given["Export"]["Name"] != known["export"]["Name"]:
                raise Refused("ValidationException", "The name of an export cannot be changed.")
            _writable(given["ExportArn"], given["Export"])
            known.update(export=given["Export"], changed=time.time())
        return {"ExportArn": given["ExportArn"]}

    def GetExport(self, given: Answer) -> Answer:
        """What it is, and whether AWS can write it."""
        known = self._known(given["ExportArn"])
        return {"Export": {**known["export"], "ExportArn": given["ExportArn"]}, "ExportStatus": _status(given["ExportArn"], known)}

    def ListExports(self, given: Answer) -> Answer:
        """All of them, in pages; a page's token is the ARN that it begins after."""
        after, most = given.get("NextToken", ""), given.get("MaxResults", MOST_EXPORTS)
        rows = [{"ExportArn": arn, "ExportName": one["export"]["Name"], "ExportStatus": _status(arn, one)}
                for arn, one in sorted(self._exports.items()) if arn > after]
        more = {"NextToken": rows[most - 1]["ExportArn"]} if len(rows) > most else {}
        return {"Exports": rows[:most], **more}

    def DeleteExport(self, given: Answer) -> Answer:
        """Ends one."""
        with self._lock:
            self._known(given["ExportArn"])
            del self._exports[given["ExportArn"]]
        return {"ExportArn": given["ExportArn"]}

    def ListTagsForResource(self, given: Answer) -> Answer:
        """Its tags."""
        return {"ResourceTags": self._known(given["ResourceArn"])["tags"]}

    def _known(self, arn: str) -> Answer:
        if arn not in self._exports:
            raise Refused("ResourceNotFoundException", f"There is no export {arn}.")
        return self._exports[arn]


def _status(arn: str, known: Mapping[str, Any]) -> Answer:
    times = {"CreatedAt": known["made"], "LastUpdatedAt": known["changed"]}
    try:
        _writable(arn, known["export"])
    except Refused:
        return {"StatusCode": "UNHEALTHY", "StatusReason": "INSUFFICIENT_PERMISSION", **times}
    return {"StatusCode": "HEALTHY", **times}


def _writable(arn: str, export: Answer) -> None:
    """Raises Refused unless the bucket is there and lets AWS write below the prefix and look at the policy."""
    from moto.s3.models import s3_backends

    where = export["DestinationConfigurations"]["S3Destination"]
    name, prefix = where["S3Bucket"], where["S3Prefix"]
    bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(name)
    if bucket is None or bucket.region_name != where["S3Region"]:
        raise Refused("ValidationException", f"There is no bucket {name} in {where['S3Region']}.")
    stated = json.loads(bucket.policy) if bucket.policy else None
    context = {"aws:sourcearn": arn, "aws:sourceaccount": DEFAULT_ACCOUNT_ID, "aws:securetransport": "true"}
    needed = {"s3:PutObject": f"arn:aws:s3:::{name}/{prefix}/{export['Name']}", "s3:GetBucketPolicy": f"arn:aws:s3:::{name}"}
    for action, resource in needed.items():
        if not policy.allows(stated, action=action, resource=resource, principal=EXPORTER, context=context):
            raise Refused("ValidationException", f"S3 bucket permission validation failed: the policy of {name} does not allow {action}.")


class CostTags(Handler):
    """The cost-allocation tags of the account: those that something in EC2 has borne."""

    service = "ce"

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str]] = {}

    def __repr__(self) -> str:
        return f"<CostTags {self._states}>"

    def ListCostAllocationTags(self, given: Answer) -> Answer:
        """Those that are known, in one page."""
        self._look()
        rows = [{"TagKey": key, "Type": "UserDefined", "Status": status, **({"LastUpdatedDate": since} if since else {})}
                for key, (status, since) in sorted(self._states.items())]
        wanted = {"TagKey": given.get("TagKeys"), "Status": given.get("Status"), "Type": given.get("Type")}
        return {"CostAllocationTags": [row for row in rows
                                       if all(not of or (row[key] in of if isinstance(of, list) else row[key] == of)
                                              for key, of in wanted.items())]}

    def UpdateCostAllocationTagsStatus(self, given: Answer) -> Answer:
        """Those that are known get their status; of the others the answer tells."""
        self._look()
        errors = []
        for row in given["CostAllocationTagsStatus"]:
            if row["TagKey"] not in self._states:
                errors.append({"TagKey": row["TagKey"], "Code": "TagKeyNotFound", "Message": NOT_SEEN})
            elif self._states[row["TagKey"]][0] != row["Status"]:
                self._states[row["TagKey"]] = (row["Status"], _now())
        return {"Errors": errors}

    def _look(self) -> None:
        from moto.ec2.models import ec2_backends

        for backend in list(ec2_backends[DEFAULT_ACCOUNT_ID].values()):
            for tags in list(backend.tags.values()):
                for key in tags:
                    if not key.startswith("aws:"):
                        self._states.setdefault(key, ("Inactive", ""))


HANDLERS: dict[str, Handler] = {"bcm-data-exports": DataExports(), "ce": CostTags()}
