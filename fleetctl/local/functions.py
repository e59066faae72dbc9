"""Lambda: functions really run, each call as a process of its own with the credentials of the function's role.

moto keeps the functions; what it would run them in are containers. Here it is a Python of this computer, whatever the runtime's number,
in an empty directory, with the environment that Lambda gives: the region, the role's credentials, the function's own variables. What it
prints goes to its log group.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moto.awslambda.responses import LambdaResponse
from moto.awslambda.utils import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from fleetctl.local.serverless import needs

log = logging.getLogger(__name__)

RUNNER = """
import ctypes, importlib, json, os, sys, traceback
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)   # PR_SET_PDEATHSIG: the daemon's end is this process's
sys.path.insert(0, os.getcwd())
answer = os.fdopen(int(sys.argv[2]), "w")
try:
    module, _, name = sys.argv[1].rpartition(".")
    value = getattr(importlib.import_module(module), name)(json.load(sys.stdin), None)
    answer.write(json.dumps({"value": value}))
except BaseException as error:
    traceback.print_exc()
    answer.write(json.dumps({"error": {"errorMessage": str(error), "errorType": type(error).__name__}}))
answer.close()
"""


@dataclass(frozen=True)
class Outcome:
    """What a function came to: its value as JSON, or what Lambda says of its failure."""

    payload: str
    failed: bool = False


class LocalFunctions(LambdaResponse):
    """Lambda's calls."""

    def create_function(self) -> Any:
        """As moto's, which overlooks where the log goes."""
        answer = super().create_function()
        self._log_to(self.json_body, self.json_body["FunctionName"])
        return answer

    def update_function_configuration(self) -> Any:
        """As moto's, likewise."""
        answer = super().update_function_configuration()
        self._log_to(self.json_body, unquote(self.path.rsplit("/", 2)[-2]))
        return answer

    def _log_to(self, given: dict[str, Any], name: str) -> None:
        if group := (given.get("LoggingConfig") or {}).get("LogGroup"):
            self.backend.get_function(name, None).logs_group_name = group

    def invoke(self) -> tuple[int, dict[str, str], str]:
        """Run it; by the type Event in the background."""
        named = unquote(self.path.rsplit("/", 2)[-2])
        function = self.backend.get_function(named, self._get_param("qualifier"))
        kind = self.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if kind != "RequestResponse":
            return 400, {}, json.dumps({"Type": "User", "Message": f"The local cloud does not know the invocation type {kind}."})
        outcome = run(function, json.loads(self.body or "{}"))
        failed = {"x-amz-function-error": "Unhandled"} if outcome.failed else {}
        return 200, {"content-type": "application/json", **failed}, outcome.payload


def run(function: Any, event: dict[str, Any]) -> Outcome:
    """Run a function of moto's, to its end or its timeout."""
    cloud, name, region = needs(), function.function_name, function.region
    role = cloud.clients("sts", region).assume_role(RoleArn=function.role, RoleSessionName=name[:64])["Credentials"]
    given = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_ENDPOINT_URL": cloud.endpoint,
             "AWS_ACCESS_KEY_ID": role["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
             "AWS_SESSION_TOKEN": role["SessionToken"], "PATH": os.environ.get("PATH", ""), **function.environment_vars}
    cloud.directory.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cloud.directory) as directory:
        zipfile.ZipFile(io.BytesIO(function.code_bytes)).extractall(directory)
        outcome, printed = _process(function.handler, event, {**given, "HOME": directory}, Path(directory), float(function.timeout))
    _write_log(cloud.clients("logs", region), function.logs_group_name, printed)
    return outcome


def find(region: str, arn: str) -> Any:
    """The function of an ARN, as moto has it; raises what moto raises."""
    return get_backend(DEFAULT_ACCOUNT_ID, region).get_function(arn, None)


def _process(handler: str, event: dict[str, Any], environment: dict[str, str], directory: Path, seconds: float) -> tuple[Outcome, str]:
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen([sys.executable, "-c", RUNNER, handler, str(writing)], cwd=directory, env=environment, text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[writing])
    finally:
        os.close(writing)
    with os.fdopen(reading) as answers:
        try:
            printed, _ = child.communicate(json.dumps(event), timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            printed, _ = child.communicate()
            return Outcome(json.dumps({"errorMessage": f"Task timed out after {seconds:.2f} seconds"}), failed=True), printed
        said = json.loads(answers.read() or "{}")
    if "value" in said:
        return Outcome(json.dumps(said["value"])), printed
    died = {"errorType": "Runtime.ExitError", "errorMessage": f"Runtime exited with {child.returncode}"}
    return Outcome(json.dumps(said.get("error") or died), failed=True), printed


def _write_log(logs: Any, group: str, printed: str) -> None:
    """One stream for each run. Where there is no log group nothing is written: roles are not asked here whether they may make one."""
    stream = f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}"
    lines = printed.splitlines()
    if not lines:
        return
    if not [one for one in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"] if one["logGroupName"] == group]:
        log.info("there is no log group %s", group)
        return
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    now = int(time.time() * 1000)
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[{"timestamp": now, "message": one} for one in lines])
