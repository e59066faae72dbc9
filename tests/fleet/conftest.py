"""One local cloud for each test process, and a session of its own for each test."""

import asyncio
import dataclasses
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fleetctl import account, notify, profiles
from fleetctl.account import Options
from fleetctl.ending import teardown as ending
from fleetctl.ending import things
from fleetctl.launching import listing, topup
from fleetctl.oversight.orphans import session_of
from fleetctl.profiles import Profile
from fleetctl.session import Session

sys.path.insert(0, str(Path(__file__).parent))  # fake_aws is shared by several test modules

import fake_aws

ONE_ZONE = Options(zones=("us-east-1a",), ssh=("203.0.113.7",))
REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"InstanceType": "t3.micro", "NetworkInterfaces": [{"DeviceIndex": 0}]}}


@pytest.fixture(autouse=True)
def leaves_no_machine(request):
    """Tests share a cloud, and count what there is."""
    if "cloud" not in request.fixturenames:
        yield
        return
    cloud = request.getfixturevalue("cloud")
    before = {one["id"] for one in cloud.inventory()["instances"]}
    yield
    assert {one["id"] for one in cloud.inventory()["instances"]} <= before, "this test leaves machines to those that come after it"


@pytest.fixture
def connect(home, cloud):
    """Makes sessions, and ends whatever they have left."""
    sessions = []

    def make():
        sessions.append(Session(profiles.load("local", home=home)))
        return sessions[-1]

    yield make
    cloud.clear_faults()
    for session in sessions:
        if not session.closed:
            session.close()


@pytest.fixture
def session(connect):
    return connect()


@pytest.fixture
def request_():
    """A plain RequestSpotInstances dictionary."""
    return {**REQUEST}


class Oracle:
    """What the cloud says of one session, and what it has counted."""

    def __init__(self, cloud, session):
        self.cloud, self.session = cloud, session
        self.mark = cloud.calls()["mark"]

    def ec2_calls(self):
        return self.cloud.calls(self.mark)["calls"].get("controller", {}).get("ec2", {})

    def living(self):
        """Ids of this session's instances that are not terminated, by way of its tagged spot requests."""
        ec2 = self.session.boto3().client("ec2")
        rows = ec2.describe_spot_instance_requests(Filters=[{"Name": "tag:fleetctl:session", "Values": [self.session.id]}])
        ids = {row.get("InstanceId") for row in rows["SpotInstanceRequests"]} - {None}
        return ids & {one["id"] for one in self.cloud.inventory()["instances"]}


@pytest.fixture
def oracle(cloud, session):
    return Oracle(cloud, session)


@pytest.fixture
def quick(monkeypatch):
    """No waiting for what a real AWS needs time for."""
    monkeypatch.setattr(listing, "FIRST_LISTING_SECONDS", 0.0)
    monkeypatch.setattr(notify, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(ending, "LOOKS", (0.0, 0.01))
    monkeypatch.setattr(things, "DOUBT_SECONDS", 0.0)


@pytest.fixture
def one_round(monkeypatch):
    """Launches have no time to ask a pool again that had no machines."""
    monkeypatch.setattr(topup, "FIRST_GAP", 1e6)


@pytest.fixture
def fake_session(quick, tmp_path):
    """Makes sessions on a FakeAws; whatever they leave is let go."""
    sessions = []

    def make(cloud, **options):
        sessions.append(Session(fake_aws.profile(cloud, tmp_path), **options))
        return sessions[-1]

    yield make
    for session in sessions:
        session.leave()


@pytest.fixture
def tasks_of():
    """Tells the names of what runs on a session's loop, the asking itself aside; what was sent there before has been heard by then."""

    async def ask():
        for _ in range(5):  # what was cancelled a moment ago ends in the loop's next rounds
            await asyncio.sleep(0)
        return sorted(task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()})

    return lambda session: session.submit(ask(), "tasks").result(10)


@pytest.fixture
def environment(home):
    """What a process needs in order to work where these tests do."""
    return {**os.environ, "FLEETCTL_HOME": str(home), "PYTHONPATH": str(Path(__file__).parent), "COLUMNS": "200",
            "FLEETCTL_SIDECAR": "off"}  # a test that kills a process looks at what it left, and ends it itself


@pytest.fixture
def start(environment):
    """Starts a Python process on a script; what still runs at the end of the test is killed."""
    running = []

    def make(script, *options):
        process = subprocess.Popen([sys.executable, *options, "-c", textwrap.dedent(script)], env=environment, text=True, bufsize=1,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        running.append(process)
        return process

    yield make
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def fleetctl(environment):
    """Runs one command of the command line, in a home of its own if one is given."""

    def run(*arguments, at=None, timeout=120):
        given = environment if at is None else {**environment, "FLEETCTL_HOME": str(at)}
        return subprocess.run([sys.executable, "-m", "fleetctl", *arguments], env=given, text=True, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=timeout, check=False)

    return run


@pytest.fixture
def living(cloud):
    """Ids of the cloud's instances that are not terminated."""
    return lambda: {one["id"] for one in cloud.inventory()["instances"]}


@pytest.fixture
def wait_for():
    """Waits for what another process does, of which there is no event here."""

    def wait(holds, seconds=60):
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.02)

    return wait


class Asked:
    """Every call that was asked of AWS, looked at by botocore's models once more, apart from the client that has sent it."""

    def __init__(self):
        self.made = []

    @property
    def calls(self):
        return {(service, operation) for service, operation, _ in self.made}

    def faults(self):
        import botocore.session
        from botocore import xform_name
        from botocore.validate import ParamValidator

        models, found = botocore.session.get_session(), []
        for service, operation, parameters in self.made:
            model = models.get_service_model(service)
            names = [one for one in model.operation_names if xform_name(one) == operation]
            report = ParamValidator().validate(parameters, model.operation_model(names[0]).input_shape) if names else None
            if report is None or report.has_errors():
                found.append((service, operation, report and report.generate_report()))
        return found


@pytest.fixture
def asked(monkeypatch):
    """What this test's own process asks of AWS, as `Asked`."""
    from fleetctl.cloud.aws import Aws

    seen, real = Asked(), Aws.call

    async def call(self, service, operation, /, *, launch=None, **parameters):
        seen.made.append((service, operation, parameters))
        return await real(self, service, operation, launch=launch, **parameters)

    monkeypatch.setattr(Aws, "call", call)
    return seen


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Profiles and keys of this test alone."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "fleetctl"


class Near(Profile):
    """The local cloud's profile with one way to it for many commands: making its clients takes longer than all that they ask."""

    def aws(self):
        return self.way


@pytest.fixture(scope="module")
def runner():
    """One event loop for the way to the cloud."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def near(home, runner):
    base = profiles.load("local", home=home)
    made = Near(**{field.name: getattr(base, field.name) for field in dataclasses.fields(Profile)})
    way = base.aws()
    real, way.close = way.close, _stay_open
    object.__setattr__(made, "way", way)
    yield made
    runner.run(real())


async def _stay_open():
    """What closes a way that others go on using."""


@pytest.fixture(scope="module")
def client(near):
    """boto3 clients of the local cloud, one of each service."""
    session, made = near.way.boto3(), {}

    def of(service):
        if service not in made:
            made[service] = session.client(service)
        return made[service]

    yield of
    for one in made.values():
        one.close()


@pytest.fixture
def there(client):
    """Everything of the kinds that a set-up makes, whoever made it, as the services list it."""

    def look():
        ec2, iam = client("ec2"), client("iam")
        found = {
            "vpc": [one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"]],
            "subnet": [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]],
            "gateway": [one["InternetGatewayId"] for one in ec2.describe_internet_gateways()["InternetGateways"]],
            "routes": [one["RouteTableId"] for one in ec2.describe_route_tables()["RouteTables"]],
            "group": [one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]],
            "endpoint": [one["VpcEndpointId"] for one in ec2.describe_vpc_endpoints()["VpcEndpoints"] if one["State"] != "deleted"],
            "address": [one["AllocationId"] for one in ec2.describe_addresses()["Addresses"]],
            "nat": [one["NatGatewayId"] for one in ec2.describe_nat_gateways()["NatGateways"] if one["State"] != "deleted"],
            "nat-instance": [one["InstanceId"] for row in ec2.describe_instances()["Reservations"] for one in row["Instances"]
                             if one["State"]["Name"] != "terminated"],
            "key": [one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]],
            "bucket": [one["Name"] for one in client("s3").list_buckets()["Buckets"]],
            "role": [one["RoleName"] for one in iam.list_roles()["Roles"]],
            "profile": [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
            "policy": [one["PolicyName"] for one in iam.list_policies(Scope="Local")["Policies"]],
            "topic": [one["TopicArn"] for one in client("sns").list_topics()["Topics"] if not session_of(one["TopicArn"])],
            "alarm": [one["AlarmName"] for one in client("cloudwatch").describe_alarms()["MetricAlarms"]],
            "stack": [one["StackName"] for one in client("cloudformation").describe_stacks()["Stacks"]],
            "function": [one["FunctionName"] for one in client("lambda").list_functions()["Functions"]],
            "rule": [one["Name"] for one in client("events").list_rules()["Rules"]],
            "log": [one["logGroupName"] for one in client("logs").describe_log_groups()["logGroups"]],
            "report": [one["ExportName"] for one in client("bcm-data-exports").list_exports()["Exports"]],
            "budget": [one["BudgetName"] for one in client("budgets").describe_budgets(AccountId="123456789012")["Budgets"]],
        }
        return {kind: sorted(ids) for kind, ids in found.items()}

    return look


@pytest.fixture
def setup(near, runner, there, config, monkeypatch):
    """The verbs of `account` for one set-up, which is gone at the end of the test, with all else as it was."""
    before = there()
    monkeypatch.setattr(account, "DOUBT_SECONDS", 0.0)

    class Setup:
        def plan(self, options=None, **more):
            return runner.run(account.looked(near, "lab", options, **more))

        def apply(self, options=ONE_ZONE, **more):
            return runner.run(account.applied(near, "lab", options, **more))

        def destroy(self, **more):
            return runner.run(account.destroyed(near, "lab", **more))

        def id(self, kind, part):
            return next(step.id for step in self.plan().steps if (step.kind, step.part) == (kind, part))

    yield Setup()
    Setup().destroy()
    assert there() == before
