"""The reaper that AWS runs: a template that can be deployed, and a function that ends what is over and nothing else."""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from fake_aws import REQUESTS
from test_launch_calls import requests

from fleetctl import bring_up_one_spot, bring_up_spots, extend
from fleetctl.oversight import orphans, reaper, reaper_template, recovery


def references(part):
    """Whatever a template refers to."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Ref":
                yield value
            elif key == "Fn::GetAtt":
                yield value[0]
            else:
                yield from references(value)
    elif isinstance(part, list):
        for one in part:
            yield from references(one)


def test_the_template_is_whole_and_holds_the_function_as_it_is():
    made = json.loads(json.dumps(reaper_template.template()))
    assert set(references(made)) <= made["Resources"].keys() | made["Parameters"].keys()
    function = made["Resources"]["Reaper"]["Properties"]
    code = function["Code"]["ZipFile"]
    assert len(code.encode()) <= reaper_template.CODE_BYTES
    names = {}
    exec(compile(code, "index.py", "exec"), names)
    assert callable(names[function["Handler"].removeprefix("index.")])


def test_the_function_imports_nothing_that_lambda_lacks():
    modules = re.findall(r"^(?:import|from) (\w+)", reaper_template.code(), re.M)
    assert set(modules) <= sys.stdlib_module_names | {"boto3"}


def test_the_role_allows_what_the_function_calls_and_ending_only_what_is_ours():
    role = reaper_template.template()["Resources"]["Role"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    allowed = {action.partition(":")[2] for statement in role for action in statement["Action"]}
    code = reaper_template.code()
    called = {*re.findall(r"ec2\.([a-z_]+)\(", code), *re.findall(r'get_paginator\("([a-z_]+)"\)', code)} - {"get_paginator"}
    names = {one.title().replace("_", "") for one in called}
    assert names | {"CreateLogStream", "PutLogEvents"} == allowed
    for statement in role:
        if statement["Action"][0].startswith("logs:"):
            assert statement["Resource"] == {"Fn::GetAtt": ["Log", "Arn"]}, "its own log, and none that it makes"
        elif not all(action.startswith("ec2:Describe") for action in statement["Action"]):
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/fleetctl:session": "false"}}


def test_the_command_prints_the_template_and_asks_aws_nothing(environment):
    lost = {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-m", "fleetctl", "reap", "--template"], env=lost, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == reaper_template.template()


class Refusing:
    """An EC2 client that refuses one id."""

    def __init__(self, ids, refused):
        self.ids, self.refused, self.ended = ids, refused, []
        self.exceptions = SimpleNamespace(ClientError=ClientError)

    def get_paginator(self, operation):
        tags = [{"ResourceId": one, "Key": "fleetctl:expires", "Value": end} for one, end in self.ids.items()]
        pages = {"describe_tags": {"Tags": tags}, "describe_spot_instance_requests": {"SpotInstanceRequests": [{"InstanceId": "i-9"}]}}
        return SimpleNamespace(paginate=lambda **_: [pages[operation]])

    def __getattr__(self, operation):
        def call(**parameters):
            [id] = [one for value in parameters.values() if value is not True for one in ([value] if isinstance(value, str) else value)]
            if id == self.refused:
                raise ClientError({"Error": {"Code": "OperationNotPermitted"}}, operation)
            self.ended.append(id)

        return call


def test_one_thing_that_aws_refuses_spares_no_other_and_what_is_not_over_stays():
    over, later = "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"
    ids = {"i-1": over, "i-2": over, "i-3": later, "sir-1": over, "fleet-1": over, "vol-1": over, "vol-2": "soon"}
    ec2 = Refusing(ids, "i-1")
    told = reaper.reap(ec2, datetime(2026, 1, 2, tzinfo=UTC))
    assert set(ec2.ended) == set(told["ended"]) == {"i-2", "i-9", "sir-1", "fleet-1", "vol-1"}
    assert told["refused"] == ["i-1: OperationNotPermitted"]


@pytest.mark.cloud
@pytest.mark.parametrize("call", REQUESTS)
def test_neither_reaper_ends_anything_of_a_launch_that_was_extended(session, call, living, home):
    launch = bring_up_spots(requests(session)[call], 2, "sleep 1000", session=session, hours=1)
    mine = {one.instance_id for one in launch.result(60).succeeded}
    extend(4, session=session).result(30)
    found = [one for one in recovery.look(recovery.cloud("local", home)) if one.session == session.id]
    assert orphans.expired(found, time.time() + 7200) == []
    whole = {one.id for one in found if one.launch}
    told = reaper.reap(session.boto3().client("ec2"), datetime.now(UTC) + timedelta(hours=2))
    assert not whole & {*told["ended"], *(one.partition(":")[0] for one in told["refused"])}
    assert mine <= living()
    assert {one.id for one in orphans.expired(found, time.time() + 6 * 3600)} >= whole >= mine


@pytest.mark.cloud
def test_on_the_local_cloud_it_ends_what_is_over_and_nothing_else(session, request_):
    ends = bring_up_spots(request_, 2, "sleep 1000", session=session, hours=1)
    stays = bring_up_one_spot(request_, "sleep 1000", session=session, hours=5)
    over, lives = {one.instance_id for one in ends.result(60).succeeded}, stays.result(60).instance_id
    ec2 = session.boto3().client("ec2")
    [foreign] = ec2.run_instances(ImageId=session.profile.image, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"]
    foreign = foreign["InstanceId"]
    try:
        told = reaper.reap(ec2, datetime.now(UTC))
        assert not {*over, lives, foreign} & {*told["ended"]}, "an hour is not over; what others left on this cloud may be"
        told = reaper.reap(ec2, datetime.now(UTC) + timedelta(hours=2))
        assert over < set(told["ended"])
        assert all(one.endswith(": VolumeInUse") for one in told["refused"])  # until its machine is gone; the next run deletes it
        states = {one["InstanceId"]: one["State"]["Name"] for page in ec2.get_paginator("describe_instances").paginate()
                  for row in page["Reservations"] for one in row["Instances"]}
        assert {states[one] for one in over} <= {"shutting-down", "terminated"}
        assert {states[lives], states[foreign]} <= {"pending", "running"}
    finally:
        ec2.terminate_instances(InstanceIds=[foreign])
