"""An account's set-up on the local cloud: made, used, found otherwise, cut off anywhere, and removed without a trace."""

import json
import os
import shutil
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleetctl import account, bring_up_spots, connect, profiles, templates
from fleetctl.account import Options, files, rights, work
from fleetctl.account.planning import Verb
from fleetctl.cloud.aws import Aws
from fleetctl.cloud.journal import READS, Journal
from fleetctl.errors import Denied, LedgerError, ProfileError, SetupFailed, StillBilling
from fleetctl.ledger import Ledger
from fleetctl.local import policy
from fleetctl.oversight import reaper_template
from fleetctl.session import LEDGERS

pytestmark = [pytest.mark.cloud, pytest.mark.usefixtures("config")]

ONE_ZONE = Options(zones=("us-east-1a",), ssh=("203.0.113.7",))
REAPER = ("stack", "function", "rule", "log")  # what the one stack is made of, and its role


SELDOM = ("abort_multipart_upload", "create_policy_version", "delete_objects", "delete_policy_version", "describe_images",
          "describe_network_interfaces", "describe_stack_events", "detach_group_policy", "detach_role_policy", "detach_user_policy",
          "head_bucket", "list_buckets", "modify_vpc_endpoint", "tag_policy", "tag_resource", "update_assume_role_policy",
          "update_export", "update_stack")  # what things that hold others, drift and failures ask for  # fmt: skip


class Killed(Exception):
    """The process has died."""


def verbs(plan):
    """What is to be done; the cost tag is the account's own, and as other tests have left it."""
    return {step.verb for step in plan.steps if step.kind != "tag"}


def test_a_plan_asks_and_changes_nothing(setup, there, home):
    def all_of_it():
        return there(), sorted((path, path.stat().st_mtime_ns) for path in (home / account.LEDGERS).glob("*lab*"))

    before = all_of_it()
    plan = setup.plan(ONE_ZONE)
    assert verbs(plan) == {Verb.MAKE} and not plan.empty
    assert all_of_it() == before
    assert plan.per_hour == pytest.approx(0.02)
    assert max(len(line) for line in str(plan).splitlines()) <= 80


def test_an_applied_set_up_is_complete_and_applying_it_again_makes_nothing(setup, cloud):
    assert setup.apply().complete
    mark = cloud.calls()["mark"]
    assert setup.apply(None).complete, "the account remembers the options"
    calls = [operation for operations in cloud.calls(mark)["calls"]["controller"].values() for operation in operations]
    assert [one for one in calls if not one.startswith(("Describe", "Get", "List"))] == []


def test_a_fleet_comes_up_in_what_was_made_and_all_is_gone_afterwards(setup, home, config):
    setup.apply(Options(ssh=("127.0.0.1",), mail="me@example.org", reaper=True))
    session = connect("lab", home=home)
    try:
        for side in ("public", "private"):
            launch = bring_up_spots(templates.spot(itype="t3.micro"), 1, "true", session=session, subnet=side)
            (machine,) = launch.result(60).values()
            assert machine.state == "ready"
            shown = session.boto3().client("ec2").describe_instances(InstanceIds=[machine.instance_id])["Reservations"][0]["Instances"][0]
            assert shown["SubnetId"] == session.profile.subnets[side]
            assert ("PublicIpAddress" in shown) == (side == "public")
            assert shown["IamInstanceProfile"]["Arn"].endswith("fleetctl-lab-us-east-1-machine")
        with pytest.raises(SetupFailed, match="2 machines are in the set-up's network") as caught:
            setup.destroy()
        assert len(caught.value.left) == 2 and "fleetctl down" in caught.value.todo
    finally:
        session.close()
    receipt = setup.destroy()
    unused = {"nat", "nat-instance", "address", "tag"}
    assert receipt.remaining == () and {line.thing for line in receipt.found} >= {*work.KINDS} - unused | {"file"}
    assert all(line.proof for line in receipt.found)
    assert list(config.rglob("*lab*")) == []


def test_the_profile_names_what_was_made_and_no_secret(setup, home, config):
    setup.apply()
    profile = profiles.load("lab", home=home)
    assert profile.subnets == {"public": setup.id("subnet", "public-a"), "private": setup.id("subnet", "private-a"),
                               "public-a": setup.id("subnet", "public-a"), "private-a": setup.id("subnet", "private-a")}  # fmt: skip
    assert profile.groups == {"default": setup.id("group", "machines")}
    assert (profile.key, profile.bucket) == ("fleetctl-lab-user", "fleetctl-lab-us-east-1-123456789012")
    text = (config / "lab.toml").read_text()
    assert profile.credentials.secret_key not in text and "PRIVATE" not in text


def test_an_image_that_was_baked_for_the_profile_stays_there_when_it_is_written_anew_until_it_is_removed(setup, home, client, near, aws):
    setup.apply()
    made = client("ec2").run_instances(ImageId=near.image, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    try:
        client("ec2").get_waiter("instance_running").wait(InstanceIds=[made], WaiterConfig={"Delay": 1})
        baked = client("ec2").create_image(InstanceId=made, Name="tools", NoReboot=True)["ImageId"]
        client("ec2").get_waiter("image_available").wait(ImageIds=[baked], WaiterConfig={"Delay": 1})
    finally:
        client("ec2").terminate_instances(InstanceIds=[made])
    first = profiles.load("lab", home=home).image
    profiles.record_image("lab", baked, "tools")
    setup.apply(None)
    assert (profiles.load("lab", home=home).image, profiles.baked_image("lab")[1]) == (baked, "tools") and baked != first
    [row] = client("ec2").describe_images(ImageIds=[baked])["Images"]
    if shutil.which("aws"):  # another client sees it, too
        disk = row["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        assert [one["Name"] for one in aws(("ec2", "describe-images", "--image-ids", baked))["Images"]] == ["tools"]
        assert [one["SnapshotId"] for one in aws(("ec2", "describe-snapshots", "--snapshot-ids", disk))["Snapshots"]] == [disk]
    client("ec2").deregister_image(ImageId=baked)
    client("ec2").delete_snapshot(SnapshotId=row["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])
    setup.apply(None)
    assert (profiles.load("lab", home=home).image, profiles.baked_image("lab")) == (first, None)


def test_private_keys_are_for_their_owner_only_and_never_travel(setup, home, config, client):
    setup.apply()
    for part in files.KEYS:
        file = config / "keys" / f"lab-us-east-1-{part}"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        (pair,) = client("ec2").describe_key_pairs(KeyNames=[f"fleetctl-lab-{part}"], IncludePublicKey=True)["KeyPairs"]
        assert pair["PublicKey"].split()[1] in subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True).stdout \
            if shutil.which("ssh-keygen") else pair["PublicKey"]
    (ledger,) = (home / account.LEDGERS).glob("*lab.sqlite")
    assert b"PRIVATE KEY" not in ledger.read_bytes()


def test_one_s_own_key_pair_is_imported_and_outlives_the_set_up(setup, home, tmp_path):
    own = tmp_path / "id"
    own.write_text("a private half with a passphrase")
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7dPtjqZYTHfvzyIW0r1cPnbFyGHMyDZVdHxHYkGlGx me@here\n")
    setup.apply(key_file=own)
    assert profiles.load("lab", home=home).key_file == own
    assert setup.apply(None).complete, "the profile remembers the key"
    setup.destroy()
    assert own.exists()


@pytest.mark.parametrize("private", ["endpoints", "nat", "nat-instance"])
def test_killed_after_any_call_that_changes_something_the_same_command_completes_it(setup, monkeypatch, there, private):
    """Each run dies after its first such call has been applied and before the ledger has its answer, so it dies after every one."""
    before, options = there(), Options(("us-east-1a",), private, ("203.0.113.7",), (5,), "me@example.org", reaper=True)
    setup.apply(options)
    whole = {kind: len(ids) for kind, ids in there().items()}
    setup.destroy()
    assert there() == before

    class Dying(Journal):
        async def __call__(self, service, operation, /, **parameters):
            answer = await self._aws.call(service, operation, **parameters) if operation.startswith(READS) else None
            if answer is None:
                self._ledger.intent(service, operation, {}, region="")
                await self._aws.call(service, operation, **parameters)
                raise Killed
            return answer

    def until_done(verb):
        for deaths in range(200):
            try:
                verb()
            except Killed:
                continue
            return deaths
        raise AssertionError("it never ends")

    with monkeypatch.context() as patch:  # what tidies up afterwards does not die
        patch.setattr(account, "Journal", Dying)
        made = until_done(lambda: setup.apply(options))
        assert {kind: len(ids) for kind, ids in there().items()} == whole, "nothing was made twice"
        assert setup.plan().complete
        removed = until_done(setup.destroy)
    assert there() == before
    assert made > 25 and removed > 15, "it has died often"


def test_what_somebody_has_changed_is_shown_and_changed_back_only_with_fix(setup, client):
    setup.apply()
    ec2, group, subnet = client("ec2"), setup.id("group", "machines"), setup.id("subnet", "private-a")
    everybody = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everybody)
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    client("s3").delete_public_access_block(Bucket="fleetctl-lab-us-east-1-123456789012")
    client("iam").put_role_policy(RoleName="fleetctl-lab-us-east-1-machine", PolicyName="machine",
                                  PolicyDocument=json.dumps(rights.allowing([("ec2", "run_instances")])))  # fmt: skip
    changed = {("group", "machines"), ("subnet", "private-a"), ("bucket", "bucket"), ("role", "machine")}
    assert {(step.kind, step.part) for step in setup.plan().drift} == changed
    assert {(step.kind, step.part) for step in setup.apply(None).drift} == changed, "without --fix it stays"
    assert setup.apply(None, fix=True).complete
    (shown,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [source["CidrIp"] for one in shown["IpPermissions"] for source in one["IpRanges"]] == ["203.0.113.7/32"]


def test_what_is_missing_is_made_again_and_other_wishes_are_met_with_fix(setup, client, there):
    setup.apply(Options(("us-east-1a",), "nat", ("203.0.113.7",)))
    found = there()
    assert (len(found["nat"]), len(found["address"])) == (1, 1)
    client("iam").delete_role_policy(RoleName="fleetctl-lab-us-east-1-machine", PolicyName="machine")
    client("ec2").delete_key_pair(KeyName="fleetctl-lab-machines")
    assert verbs(setup.apply(None)) == {Verb.LEAVE, Verb.DRIFT}, "a changed role is drift, a missing key is made"
    wish = Options(("us-east-1a", "us-east-1b"), "endpoints", ("203.0.113.0/24",))
    assert setup.apply(wish, fix=True).complete
    found = there()
    assert (found["nat"], found["address"]) == ([], [])


def test_the_month_s_bill_has_alarms_and_a_budget_that_tell_by_mail(setup, client):
    setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",), mail="me@example.org"))
    alarms = client("cloudwatch").describe_alarms(AlarmNamePrefix="fleetctl-lab-")["MetricAlarms"]
    assert sorted(one["Threshold"] for one in alarms) == [1, 5, 20, 100]
    assert {(one["Namespace"], one["MetricName"]) for one in alarms} == {("AWS/Billing", "EstimatedCharges")}
    (topic,) = {action for one in alarms for action in one["AlarmActions"]}
    (row,) = client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert (row["Protocol"], row["Endpoint"]) == ("email", "me@example.org")
    account = {"AccountId": "123456789012", "BudgetName": "fleetctl-lab-us-east-1-month"}
    assert client("budgets").describe_budget(**account)["Budget"]["BudgetLimit"] == {"Amount": "100", "Unit": "USD"}
    shares = client("budgets").describe_notifications_for_budget(**account)["Notifications"]
    assert [one["Threshold"] for one in shares] == [50, 80, 100]

    client("cloudwatch").delete_alarms(AlarmNames=["fleetctl-lab-us-east-1-over-20"])
    wish = Options(alarms=(20, 50), mail="you@example.org")
    assert {(step.kind, step.part): step.verb for step in setup.plan(wish).steps if step.kind in ("alarm", "budget", "topic")} == {
        ("topic", "alarms"): Verb.DRIFT, ("alarm", "over-20"): Verb.MAKE, ("alarm", "over-50"): Verb.MAKE, ("budget", "month"): Verb.DRIFT,
        ("alarm", "over-1"): Verb.DRIFT, ("alarm", "over-5"): Verb.DRIFT, ("alarm", "over-100"): Verb.DRIFT,
    }  # fmt: skip
    assert setup.apply(wish, fix=True).complete
    (row,) = client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert row["Endpoint"] == "you@example.org"


def test_the_cost_report_is_written_by_day_thing_and_tag_into_the_bucket_and_ends_by_itself(setup, client):
    setup.apply()
    exports = client("bcm-data-exports")
    (row,) = exports.list_exports()["Exports"]
    shown = exports.get_export(ExportArn=row["ExportArn"])
    where, query = shown["Export"]["DestinationConfigurations"]["S3Destination"], shown["Export"]["DataQuery"]["QueryStatement"]
    bucket = "fleetctl-lab-us-east-1-123456789012"
    assert (where["S3Bucket"], where["S3Prefix"], shown["ExportStatus"]["StatusCode"]) == (bucket, "costs", "HEALTHY")
    assert {"line_item_usage_start_date", "line_item_resource_id", "resource_tags"} < set(query.replace(",", "").split())
    rules = client("s3").get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {one["Filter"]["Prefix"]: one["Expiration"]["Days"] for one in rules}["costs/"] == 400


def test_what_a_session_puts_into_the_bucket_lies_there_and_what_comes_without_tls_is_refused_by_its_policy(setup, client):
    """The local cloud evaluates the policy, and takes its wire for TLS."""
    setup.apply()
    s3, bucket = client("s3"), "fleetctl-lab-us-east-1-123456789012"
    s3.put_object(Bucket=bucket, Key="fleetctl/one", Body=b"there")
    assert s3.get_object(Bucket=bucket, Key="fleetctl/one")["Body"].read() == b"there"
    stated = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    whole = {"action": "s3:PutObject", "resource": f"arn:aws:s3:::{bucket}/costs/one", "principal": "bcm-data-exports.amazonaws.com"}
    ours = {"aws:sourceaccount": "123456789012", "aws:sourcearn": "arn:aws:bcm-data-exports:us-east-1:123456789012:export/one"}
    assert policy.allows(stated, **whole, context={**ours, "aws:securetransport": "true"})
    assert not policy.allows(stated, **whole, context={**ours, "aws:securetransport": "false"})
    assert not policy.allows(stated, **whole, context={**ours, "aws:sourceaccount": "999999999999", "aws:securetransport": "true"})
    assert not policy.allows(stated, **{**whole, "resource": f"arn:aws:s3:::{bucket}/fleetctl/one"}, context={**ours})
    assert policy.denies(stated, **whole, context={"aws:securetransport": "false"})


def test_a_report_that_aws_may_not_write_or_that_was_changed_is_drift_and_put_right_with_fix(setup, client):
    setup.apply()
    exports, bucket = client("bcm-data-exports"), "fleetctl-lab-us-east-1-123456789012"
    (row,) = exports.list_exports()["Exports"]
    export = exports.get_export(ExportArn=row["ExportArn"])["Export"]
    del export["ExportArn"]
    export["DataQuery"] = {"QueryStatement": "SELECT line_item_unblended_cost FROM COST_AND_USAGE_REPORT"}
    exports.update_export(ExportArn=row["ExportArn"], Export=export)
    client("s3").delete_bucket_policy(Bucket=bucket)
    drift = {step.kind: {one.key: one.seen for one in step.differs} for step in setup.plan().drift}
    assert sorted(drift) == ["bucket", "report"]
    assert drift["report"]["state"] == "INSUFFICIENT_PERMISSION" and sorted(drift["report"]) == ["by", "query", "state"]
    assert setup.apply(None, fix=True).complete
    assert exports.list_exports()["Exports"][0]["ExportStatus"]["StatusCode"] == "HEALTHY"


def test_a_report_of_that_name_that_is_somebody_else_s_is_a_clash(setup, client, there):
    client("s3").create_bucket(Bucket="theirs")
    policy = rights.bucket_policy("aws", "123456789012", "theirs", reports="a/")
    client("s3").put_bucket_policy(Bucket="theirs", Policy=rights.encode(policy))
    files = {"OutputType": "CUSTOM", "Format": "TEXT_OR_CSV", "Compression": "GZIP", "Overwrite": "OVERWRITE_REPORT"}
    where = {"S3Bucket": "theirs", "S3Prefix": "a", "S3Region": "us-east-1", "S3OutputConfigurations": files}
    export = {"Name": "fleetctl-lab-us-east-1-costs", "DataQuery": {"QueryStatement": "SELECT resource_tags FROM COST_AND_USAGE_REPORT"},
              "DestinationConfigurations": {"S3Destination": where}, "RefreshCadence": {"Frequency": "SYNCHRONOUS"}}  # fmt: skip
    arn = client("bcm-data-exports").create_export(Export=export)["ExportArn"]
    try:
        before = there()
        with pytest.raises(SetupFailed, match=r"names are taken.*report"):
            setup.apply()
        setup.destroy()
        assert there() == before
    finally:
        client("bcm-data-exports").delete_export(ExportArn=arn)
        client("s3").delete_bucket(Bucket="theirs")


def test_the_cost_tag_is_waited_for_until_aws_knows_it_then_made_active_and_left_when_the_set_up_goes(setup, monkeypatch):
    """It is the account's: here another test may have had it made known, so what AWS answers is played; that it is real is seen below."""
    state, asked = {}, []
    real = Aws.call

    async def call(self, service, operation, /, **parameters):
        if operation == "list_cost_allocation_tags":
            assert parameters["TagKeys"] == ["fleetctl:session"]
            return {"CostAllocationTags": [{"TagKey": key, "Type": "UserDefined", "Status": status} for key, status in state.items()]}
        if operation == "update_cost_allocation_tags_status":
            (row,) = parameters["CostAllocationTagsStatus"]
            asked.append(row["Status"])
            state[row["TagKey"]] = row["Status"]
            return {"Errors": []}
        return await real(self, service, operation, **parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Aws, "call", call)
        waiting = setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",)))
        (step,) = [step for step in waiting.steps if step.kind == "tag"]
        assert (step.verb, waiting.complete, asked) == (Verb.WAIT, True, [])
        assert "a day after the first launch" in step.why
        state["fleetctl:session"] = "Inactive"
        assert not setup.plan().complete
        assert setup.apply(None).complete and asked == ["Active"]
        said = []
        setup.destroy(agree=lambda steps: said.extend(map(str, steps)) or True)
        assert [one for one in said if "tag" in one] == [
            "leave tag session (the account's own and free; what sessions have cost is told by it)"
        ]
        assert state == {"fleetctl:session": "Active"} and asked == ["Active"]


def test_a_cost_tag_that_may_not_be_looked_at_is_no_failure_and_one_that_may_not_be_set_is_told(setup, monkeypatch, client):
    with monkeypatch.context() as patch:
        refusing(patch, {"list_cost_allocation_tags"})
        plan = setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",)))
        (step,) = [step for step in plan.steps if step.kind == "tag"]
        assert plan.complete and step.verb is Verb.WAIT and "only the account that pays" in step.why
    bear_the_tag(client)
    inactive(client)
    with monkeypatch.context() as patch:
        refusing(patch, {"update_cost_allocation_tags_status"})
        with pytest.raises(SetupFailed) as caught:
            setup.apply(None)
    assert caught.value.denied == (("ce", "update_cost_allocation_tags_status"),)
    assert caught.value.policy["Statement"][0]["Action"] == ["ce:UpdateCostAllocationTagsStatus"]
    with monkeypatch.context() as patch:
        real = Aws.call

        async def call(self, service, operation, /, **parameters):
            if operation == "update_cost_allocation_tags_status":
                return {"Errors": [{"TagKey": "fleetctl:session", "Code": "TagKeyNotFound", "Message": "never seen"}]}
            return await real(self, service, operation, **parameters)

        patch.setattr(Aws, "call", call)
        with pytest.raises(SetupFailed, match="was not activated, with TagKeyNotFound: never seen"):
            setup.apply(None)
    assert setup.apply(None).complete
    assert tag_states(client) == {"fleetctl:session": "Active"}


def bear_the_tag(client):
    """Something in EC2 has borne the session's tag, so AWS knows it."""
    volume = client("ec2").create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    client("ec2").create_tags(Resources=[volume], Tags=[{"Key": "fleetctl:session", "Value": "one"}])
    tag_states(client)
    client("ec2").delete_volume(VolumeId=volume)


def inactive(client):
    rows = [{"TagKey": "fleetctl:session", "Status": "Inactive"}]
    assert client("ce").update_cost_allocation_tags_status(CostAllocationTagsStatus=rows)["Errors"] == []


def tag_states(client):
    rows = client("ce").list_cost_allocation_tags(TagKeys=["fleetctl:session"])["CostAllocationTags"]
    return {row["TagKey"]: row["Status"] for row in rows}


def test_the_reaper_comes_only_when_asked_for_and_goes_with_fix(setup, there):
    before = there()
    setup.apply()
    assert there()["stack"] == before["stack"], "nobody has asked for it"
    asked = setup.plan(Options(reaper=True))
    assert [(step.verb, step.kind) for step in asked.steps if step.verb is Verb.MAKE] == [(Verb.MAKE, "stack")]
    assert setup.apply(Options(reaper=True), fix=True).complete
    made = there()
    assert all(made[kind][0].startswith("fleetctl-lab-us-east-1-r") for kind in REAPER)
    assert setup.apply(None).complete, "the account remembers it"
    assert ("stack", "reaper") in {(step.kind, step.part) for step in setup.plan(Options(reaper=False)).drift}
    assert setup.apply(Options(reaper=False), fix=True).complete
    assert there() == {**there(), **{kind: before[kind] for kind in REAPER}}


def test_a_reaper_of_another_version_or_schedule_is_drift_and_brought_up_to_date_with_fix(setup, client, monkeypatch):
    wish = Options(("us-east-1a",), "none", ("203.0.113.7",), (), reaper=True)
    with monkeypatch.context() as patch:
        patch.setattr(reaper_template, "code", lambda: "def handler(event, context):\n    return 'an older one'\n")
        setup.apply(wish)
    stack = {"StackName": "fleetctl-lab-us-east-1-reaper", "Capabilities": ["CAPABILITY_IAM"]}
    (drift,) = setup.plan().drift
    assert (drift.kind, [one.key for one in drift.differs]) == ("stack", ["template"])
    assert setup.apply(None, fix=True).complete
    seldom = [{"ParameterKey": "Schedule", "ParameterValue": "rate(7 days)"}]
    client("cloudformation").update_stack(**stack, TemplateBody=json.dumps(reaper_template.template()), Parameters=seldom,
                                          Tags=client("cloudformation").describe_stacks()["Stacks"][0]["Tags"])  # fmt: skip
    until_whole(client)
    (drift,) = setup.plan().drift
    assert [tuple(one) for one in drift.differs] == [("runs", "rate(15 minutes)", "rate(7 days)")]
    assert setup.apply(None, fix=True).complete
    (rule,) = client("events").list_rules()["Rules"]
    assert rule["ScheduleExpression"] == "rate(15 minutes)"


def until_whole(client):
    end = time.monotonic() + 60
    while client("cloudformation").describe_stacks()["Stacks"][0]["StackStatus"].endswith("_IN_PROGRESS"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_stack_that_cannot_be_made_says_in_aws_s_words_why_leaves_nothing_and_is_made_by_the_same_command(setup, cloud, there):
    cloud.fault("denied", caller="daemon", operation="PutRule")
    before = there()
    with pytest.raises(SetupFailed, match=r"the stack fleetctl-lab-us-east-1-reaper came to DELETE_COMPLETE: Rule: .*AccessDenied"):
        setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",), reaper=True))
    assert there() == {**there(), **{kind: before[kind] for kind in REAPER}}
    cloud.clear_faults()
    assert setup.apply(None).complete


def test_what_is_left_of_a_stack_that_failed_is_no_reaper_and_goes_before_one_is_made(setup, cloud, client):
    cloud.fault("denied", caller="daemon", operation="PutRule")
    client("cloudformation").create_stack(
        StackName="fleetctl-lab-us-east-1-reaper", TemplateBody=json.dumps(reaper_template.template()), Capabilities=["CAPABILITY_IAM"],
        Tags=[{"Key": "fleetctl:setup", "Value": "lab"}, {"Key": "fleetctl:part", "Value": "reaper"}], OnFailure="DO_NOTHING")  # fmt: skip
    until_whole(client)
    cloud.clear_faults()
    wish = Options(("us-east-1a",), "none", ("203.0.113.7",), reaper=True)
    assert ("make", "stack") in {(step.verb, step.kind) for step in setup.plan(wish).steps}
    assert setup.apply(wish).complete
    assert len(client("lambda").list_functions()["Functions"]) == 1


def test_a_stack_of_that_name_that_is_somebody_else_s_is_a_clash_and_is_never_touched(setup, client):
    empty = {"Resources": {"Log": {"Type": "AWS::Logs::LogGroup"}}}
    client("cloudformation").create_stack(StackName="fleetctl-lab-us-east-1-reaper", TemplateBody=json.dumps(empty))
    try:
        with pytest.raises(SetupFailed, match=r"names are taken.*stack"):
            setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",), reaper=True))
        setup.destroy()
        until_whole(client)
        assert client("cloudformation").describe_stacks()["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"
    finally:
        client("cloudformation").delete_stack(StackName="fleetctl-lab-us-east-1-reaper")
        while client("cloudformation").describe_stacks()["Stacks"]:
            time.sleep(0.05)


def test_the_installed_reaper_ends_what_is_over_by_its_own_clock_and_nothing_else(setup, near, client, cloud):
    """The function that was installed runs as a process, on its rule's schedule, with its role's credentials."""
    ec2, made = client("ec2"), {}
    for whose, tags in {"over": {"fleetctl:session": "gone", "fleetctl:expires": "2026-01-01T00:00:00Z"},
                        "lives": {"fleetctl:session": "gone", "fleetctl:expires": "2999-01-01T00:00:00Z"}, "foreign": {"a": "b"}}.items():
        marks = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
        (one,) = ec2.run_instances(ImageId=near.image, MinCount=1, MaxCount=1, TagSpecifications=marks)["Instances"]
        made[whose] = one["InstanceId"]
    try:
        cloud.fault("hasty-schedule", seconds=1)
        setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",), (), reaper=True))
        end = time.monotonic() + 60
        while states(ec2, made)["over"] not in ("shutting-down", "terminated"):
            assert time.monotonic() < end
            time.sleep(0.1)
        cloud.clear_faults()
        now = states(ec2, made)
        assert {now["lives"], now["foreign"]} <= {"pending", "running"}
    finally:
        ec2.terminate_instances(InstanceIds=list(made.values()))


def states(ec2, made):
    rows = ec2.describe_instances(InstanceIds=list(made.values()))["Reservations"]
    found = {one["InstanceId"]: one["State"]["Name"] for row in rows for one in row["Instances"]}
    return {whose: found[id] for whose, id in made.items()}


def test_who_may_not_see_the_bills_gets_everything_else(setup, monkeypatch):
    with monkeypatch.context() as patch:
        refusing(patch, {"describe_budget", "create_budget", "describe_alarms", "put_metric_alarm"})
        assert verbs(setup.plan(ONE_ZONE)) == {Verb.MAKE}
        with pytest.raises(SetupFailed) as caught:
            setup.apply()
        assert caught.value.denied == (("cloudwatch", "put_metric_alarm"), ("budgets", "create_budget"))
        assert setup.apply(Options(("us-east-1a",), ssh=("203.0.113.7",), alarms=()), fix=True).complete, "which wants none of them"


def test_a_name_that_somebody_has_already_stops_it_before_anything_is_made(setup, client, there):
    iam = client("iam")
    iam.create_role(RoleName="fleetctl-lab-us-east-1-machine", AssumeRolePolicyDocument="{}")
    try:
        before = there()
        with pytest.raises(SetupFailed, match=r"names are taken.*role fleetctl-lab-us-east-1-machine"):
            setup.apply()
        assert there() == before
    finally:
        iam.delete_role(RoleName="fleetctl-lab-us-east-1-machine")


NAMED = "fleetctl-lab-us-east-1"
A_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7dPtjqZYTHfvzyIW0r1cPnbFyGHMyDZVdHxHYkGlGx"
A_POLICY = json.dumps(rights.allowing([("s3", "list_buckets")]))
THEIRS = {  # a name of each kind that has one, taken by somebody else: who makes it and who removes it, and the parameters of both
    "key": ("ec2", "import_key_pair", {"KeyName": "fleetctl-lab-user", "PublicKeyMaterial": A_KEY},
            "delete_key_pair", {"KeyName": "fleetctl-lab-user"}),
    "profile": ("iam", "create_instance_profile", {"InstanceProfileName": f"{NAMED}-machine"},
                "delete_instance_profile", {"InstanceProfileName": f"{NAMED}-machine"}),
    "policy": ("iam", "create_policy", {"PolicyName": f"{NAMED}-controller", "PolicyDocument": A_POLICY},
               "delete_policy", {"PolicyArn": f"arn:aws:iam::123456789012:policy/{NAMED}-controller"}),
    "alarm": ("cloudwatch", "put_metric_alarm", {"AlarmName": f"{NAMED}-over-77", "MetricName": "m", "Namespace": "theirs", "Period": 60,
                                                  "EvaluationPeriods": 1, "Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold",
                                                  "Statistic": "Sum"},
              "delete_alarms", {"AlarmNames": [f"{NAMED}-over-77"]}),
    "topic": ("sns", "create_topic", {"Name": f"{NAMED}-alarms"},
              "delete_topic", {"TopicArn": f"arn:aws:sns:us-east-1:123456789012:{NAMED}-alarms"}),
    "budget": ("budgets", "create_budget", {"AccountId": "123456789012", "Budget": {
                   "BudgetName": f"{NAMED}-month", "BudgetLimit": {"Amount": "1", "Unit": "USD"}, "TimeUnit": "MONTHLY",
                   "BudgetType": "COST"}},
               "delete_budget", {"AccountId": "123456789012", "BudgetName": f"{NAMED}-month"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", THEIRS)
def test_a_name_of_each_kind_that_is_somebody_else_s_is_told_and_never_touched(setup, client, there, kind):
    service, make, given, end, named = THEIRS[kind]
    getattr(client(service), make)(**given)
    try:
        before = there()
        with pytest.raises(SetupFailed, match=rf"names are taken by what is not this set-up's: .*{kind} ") as caught:
            setup.apply(Options(("us-east-1a",), "none", ("203.0.113.7",), (77,), "me@example.org"))
        assert "another name" in caught.value.todo
        setup.destroy()
        assert there() == before
    finally:
        getattr(client(service), end)(**named)


def test_a_bucket_of_that_name_that_is_another_set_up_s_or_another_account_s_is_told(setup, client, there, monkeypatch):
    s3, name = client("s3"), f"{NAMED}-123456789012"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": "team", "Value": "them"}]})
    try:
        before = there()
        with pytest.raises(SetupFailed, match=f"names are taken.*bucket {name}"):
            setup.apply()
        assert there() == before
    finally:
        s3.delete_bucket(Bucket=name)
    real = Aws.call

    async def call(self, service, operation, /, **parameters):
        if operation in ("get_bucket_tagging", "head_bucket") and parameters["Bucket"] == name:
            raise Denied("403", service=service, operation=operation, code="AccessDenied")
        return await real(self, service, operation, **parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Aws, "call", call)
        with pytest.raises(SetupFailed, match=f"names are taken.*bucket {name}"):
            setup.apply()


@pytest.mark.parametrize(("private", "operation", "code", "quota"), [
    ("none", "CreateVpc", "VpcLimitExceeded", "VPCs per Region"),
    ("none", "CreateInternetGateway", "InternetGatewayLimitExceeded", "Internet gateways per Region"),
    ("nat", "AllocateAddress", "AddressLimitExceeded", "EC2-VPC Elastic IPs"),
    ("nat", "CreateNatGateway", "NatGatewayLimitExceeded", "NAT gateways per Availability Zone"),
    ("endpoints", "CreateVpcEndpoint", "VpcEndpointLimitExceeded", "Interface VPC endpoints per VPC"),
    ("nat-instance", "RunInstances", "VcpuLimitExceeded", "Running On-Demand Standard instances"),
    ("none", "CreateBucket", "TooManyBuckets", "General purpose buckets"),
    ("none", "CreateRole", "LimitExceeded", "raise it in Service Quotas"),
])  # fmt: skip
def test_a_quota_that_is_used_up_is_named_with_what_raises_it_and_the_rest_is_made(setup, cloud, private, operation, code, quota):
    wish = Options(("us-east-1a",), private, ("203.0.113.7",), ())
    cloud.fault("refused", caller="controller", operation=operation, code=code)
    with pytest.raises(SetupFailed, match=f"the set-up is not complete; make .*was refused with {code}") as caught:
        setup.apply(wish)
    assert quota in caught.value.todo and "run the same command again" in caught.value.todo
    assert "request-service-quota-increase" in caught.value.todo or code == "LimitExceeded"
    cloud.clear_faults()
    assert setup.apply(wish).complete, "and the same command goes on from there"


def test_a_profile_that_somebody_wrote_is_not_written_over(setup, config, there):
    config.mkdir(parents=True)
    (config / "lab.toml").write_text('region = "us-east-1"\n')
    before = there()
    with pytest.raises(ProfileError, match="no set-up wrote"):
        setup.apply()
    assert there() == before


def refusing(monkeypatch, refused):
    """Makes AWS deny some operations."""
    real = Aws.call

    async def call(self, service, operation, /, **parameters):
        if operation in refused:
            raise Denied(f"{service} {operation} was refused with AccessDenied", service=service, operation=operation, code="AccessDenied")
        return await real(self, service, operation, **parameters)

    monkeypatch.setattr(Aws, "call", call)


def test_what_may_not_be_looked_at_is_told_all_at_once_with_the_policy_that_would_allow_it(setup, monkeypatch):
    with monkeypatch.context() as patch:
        refusing(patch, {"describe_vpcs", "get_role", "get_bucket_tagging"})
        with pytest.raises(SetupFailed) as caught:
            setup.plan(ONE_ZONE)
    assert caught.value.denied == (("ec2", "describe_vpcs"), ("s3", "get_bucket_tagging"), ("iam", "get_role"))
    assert caught.value.policy["Statement"][0]["Action"] == ["ec2:DescribeVpcs", "iam:GetRole", "s3:GetBucketTagging"]
    assert caught.value.kind == "permission"


def test_what_may_not_be_made_stops_only_what_needs_it_and_all_of_it_is_told(setup, monkeypatch, there):
    with monkeypatch.context() as patch:
        refusing(patch, {"create_role", "create_subnet"})
        said = {}
        with pytest.raises(SetupFailed) as caught:
            setup.apply(report=lambda step, trouble: said.setdefault((step.kind, step.part), trouble))
    assert caught.value.denied == (("ec2", "create_subnet"), ("iam", "create_role"))
    assert said["profile", "machine"] == "left out: it needs role" and said["bucket", "bucket"] == ""
    assert setup.apply().complete, "and the same command goes on from there"


def test_the_command_line_shows_all_denials_in_one_table_with_the_policy_that_would_allow_them(fleetctl, setup, cloud, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for operation in ("CreateInternetGateway", "CreateRole", "ImportKeyPair"):
        cloud.fault("denied", caller="controller", operation=operation)
    try:
        ran = fleetctl("setup", "apply", "lab", "--zones", "us-east-1a", "--private", "none", "--yes")
    finally:
        cloud.clear_faults()
    assert ran.returncode == 1 and "SetupFailed" in ran.stderr
    shown = [line.split() for line in ran.stdout.splitlines()]
    told = [line for line in shown if line[:1] in (["ec2"], ["iam"])]
    assert told == [["ec2", "create_internet_gateway"], ["iam", "create_role"], ["ec2", "import_key_pair"]]
    document, end = json.JSONDecoder().raw_decode(ran.stdout, ran.stdout.index("{"))
    assert "an administrator makes role fleetctl-lab-us-east-1-machine" in ran.stdout[end:] and "sns:Publish" in ran.stdout[end:]
    assert document["Statement"][0]["Action"] == ["ec2:CreateInternetGateway", "ec2:ImportKeyPair", "iam:CreateRole", "iam:TagRole"]


def test_two_at_once_are_not_let_in(setup, home):
    setup.apply()
    (path,) = (home / account.LEDGERS).glob("*lab.sqlite")
    held = Ledger.open(path)
    try:
        with pytest.raises(LedgerError, match="living") as caught:
            setup.apply()
        assert "another fleetctl" in caught.value.todo
    finally:
        held.close()


def test_a_network_that_something_else_uses_is_told_with_what_holds_it(setup, client, monkeypatch):
    setup.apply()
    monkeypatch.setattr(work, "HELD_SECONDS", 0.0)
    ec2 = client("ec2")
    group = ec2.create_security_group(GroupName="theirs", Description="theirs", VpcId=setup.id("vpc", "vpc"))["GroupId"]
    try:
        with pytest.raises(StillBilling) as caught:
            setup.destroy()
        (left,) = caught.value.receipt.remaining
        assert (left.thing, left.proof) == ("vpc", "DependencyViolation")
    finally:
        ec2.delete_security_group(GroupId=group)


def test_no_session_s_commands_touch_a_set_up(setup, home, fleetctl):
    """Its ledger is no session's, its things bear no session's tag, and its bucket's name is none that a session gives."""
    setup.apply()
    assert not list((home / LEDGERS).glob("*lab*"))
    assert "lab" not in fleetctl("orphans", "--cloud", "local").stdout
    fleetctl("down")
    assert setup.plan().complete


def test_the_command_line_plans_applies_looks_and_destroys(fleetctl, setup, home, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    options = ("--zones", "us-east-1a", "--private", "none")
    planned = fleetctl("setup", "plan", "lab", *options)
    assert planned.returncode == 1 and "make" in planned.stdout and "$0.000 an hour" in planned.stdout
    refused = fleetctl("setup", "apply", "lab", *options)
    assert refused.returncode == 1 and "nothing was made" in refused.stdout
    applied = fleetctl("setup", "apply", "lab", *options, "--yes")
    assert applied.returncode == 0 and 'connect("lab") uses it' in applied.stdout, applied.stderr
    assert fleetctl("setup", "status", "lab").returncode == 0
    assert "nothing was removed" in fleetctl("setup", "destroy", "lab").stdout
    destroyed = fleetctl("setup", "destroy", "lab", "--yes")
    assert destroyed.returncode == 0 and "all seen gone" in destroyed.stdout, destroyed.stderr
    assert fleetctl("setup", "destroy", "lab", "--yes").stdout.strip() == "Receipt: nothing was found"


BUCKET = ("--bucket", "fleetctl-lab-us-east-1-123456789012")
OURS = ("--filters", "Name=tag:fleetctl:setup,Values=lab")
ASKED = {  # what another client is asked, all at once
    "vpc": ("ec2", "describe-vpcs", *OURS), "subnets": ("ec2", "describe-subnets", *OURS),
    "routes": ("ec2", "describe-route-tables", *OURS),
    "groups": ("ec2", "describe-security-groups", *OURS), "keys": ("ec2", "describe-key-pairs", *OURS),
    "machine": ("ec2", "describe-instances", *OURS), "gateway": ("ec2", "describe-internet-gateways", *OURS),
    "endpoints": ("ec2", "describe-vpc-endpoints", *OURS),
    "role": ("iam", "get-role-policy", "--role-name", "fleetctl-lab-us-east-1-machine", "--policy-name", "machine"),
    "profile": ("iam", "get-instance-profile", "--instance-profile-name", "fleetctl-lab-us-east-1-machine"),
    "controller": ("iam", "get-policy", "--policy-arn", "arn:aws:iam::123456789012:policy/fleetctl-lab-us-east-1-controller"),
    "closed": ("s3api", "get-public-access-block", *BUCKET), "encrypted": ("s3api", "get-bucket-encryption", *BUCKET),
    "policy": ("s3api", "get-bucket-policy", *BUCKET), "expiry": ("s3api", "get-bucket-lifecycle-configuration", *BUCKET),
    "alarms": ("cloudwatch", "describe-alarms", "--alarm-name-prefix", "fleetctl-lab-"),
    "budgets": ("budgets", "describe-budgets", "--account-id", "123456789012"), "reports": ("bcm-data-exports", "list-exports"),
    "tag": ("ce", "list-cost-allocation-tags", "--tag-keys", "fleetctl:session"),
    "stack": ("cloudformation", "describe-stacks", "--stack-name", "fleetctl-lab-us-east-1-reaper"),
}  # fmt: skip


@pytest.fixture
def aws(home):
    """The aws command line on the local cloud, by explicit endpoint: shares no line of code, and no process, with what made things."""
    base = profiles.load("local", home=home)
    keys = {"AWS_ACCESS_KEY_ID": base.credentials.access_key, "AWS_SECRET_ACCESS_KEY": base.credentials.secret_key}
    where = ("--endpoint-url", base.endpoint_url, "--region", base.region, "--output", "json")

    def ask(words):
        ran = subprocess.run(["aws", *words, *where], env={**os.environ, **keys}, capture_output=True, text=True, timeout=100, check=False)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return ask


@pytest.mark.skipif(shutil.which("aws") is None, reason="the aws command line is not here")
def test_the_aws_command_line_sees_each_thing_that_was_made(setup, aws):
    setup.apply(Options(("us-east-1a",), "nat-instance", ("203.0.113.7",), reaper=True))
    with ThreadPoolExecutor(3) as pool:
        seen = dict(zip(ASKED, pool.map(aws, ASKED.values()), strict=True))

    (vpc,) = seen["vpc"]["Vpcs"]
    assert (vpc["VpcId"], vpc["CidrBlock"]) == (setup.id("vpc", "vpc"), "10.0.0.0/16")
    assert [one["VpcId"] for row in seen["gateway"]["InternetGateways"] for one in row["Attachments"]] == [vpc["VpcId"]]
    sides = {one["MapPublicIpOnLaunch"]: one["CidrBlock"] for one in seen["subnets"]["Subnets"]}
    assert sides == {True: "10.0.0.0/20", False: "10.0.128.0/20"}
    machines = [one for row in seen["machine"]["Reservations"] for one in row["Instances"]]
    (machine,) = [one for one in machines if one["State"]["Name"] != "terminated"]  # EC2 goes on showing those for a while
    assert (machine["InstanceId"], machine["SourceDestCheck"]) == (setup.id("nat-instance", "nat"), False)
    ways = {part["Value"]: [one.get("GatewayId") or one.get("InstanceId") for one in row["Routes"]
                            if one.get("DestinationCidrBlock") == "0.0.0.0/0"]
            for row in seen["routes"]["RouteTables"] for part in row["Tags"] if part["Key"] == "fleetctl:part"}  # fmt: skip
    assert ways == {"public": [setup.id("gateway", "gateway")], "private": [machine["InstanceId"]]}
    lets_in = {one["GroupName"]: {(rule["IpProtocol"], source["CidrIp"]) for rule in one["IpPermissions"] for source in rule["IpRanges"]}
               for one in seen["groups"]["SecurityGroups"]}  # fmt: skip
    assert lets_in == {"fleetctl-lab-machines": {("tcp", "203.0.113.7/32")}, "fleetctl-lab-nat": {("-1", "10.0.128.0/20")}}
    assert [one["VpcEndpointType"] for one in seen["endpoints"]["VpcEndpoints"] if one["State"] != "deleted"] == ["Gateway"]
    assert sorted(one["KeyName"] for one in seen["keys"]["KeyPairs"]) == ["fleetctl-lab-machines", "fleetctl-lab-user"]

    assert seen["role"]["PolicyDocument"] == rights.machine("aws", "us-east-1", "123456789012", BUCKET[1])
    (role,) = seen["profile"]["InstanceProfile"]["Roles"]
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "ec2.amazonaws.com"}
    assert seen["controller"]["Policy"]["IsAttachable"]

    assert all(seen["closed"]["PublicAccessBlockConfiguration"].values())
    (rule,) = seen["encrypted"]["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    refusal = json.loads(seen["policy"]["Policy"])["Statement"][0]
    assert (refusal["Effect"], refusal["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert {one["Filter"]["Prefix"]: one["Expiration"]["Days"] for one in seen["expiry"]["Rules"]} == {"fleetctl/": 30, "logs/": 90,
                                                                                                       "costs/": 400}  # fmt: skip

    assert sorted(one["Threshold"] for one in seen["alarms"]["MetricAlarms"]) == [1, 5, 20, 100]
    assert [one["BudgetName"] for one in seen["budgets"]["Budgets"]] == ["fleetctl-lab-us-east-1-month"]
    (report,) = seen["reports"]["Exports"]
    assert (report["ExportName"], report["ExportStatus"]["StatusCode"]) == ("fleetctl-lab-us-east-1-costs", "HEALTHY")
    assert "CostAllocationTags" in seen["tag"]
    assert seen["stack"]["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"


def test_every_call_of_a_set_up_its_status_and_its_removal_is_as_botocore_s_model_says(setup, asked, client):
    bear_the_tag(client)
    inactive(client)
    for private in ("nat", "nat-instance", "endpoints"):
        setup.apply(Options(("us-east-1a",), private, ("203.0.113.7",), mail="me@example.org", reaper=True), fix=True)
    setup.apply(Options(private="none", ssh=("203.0.113.8",), alarms=(7,), mail="you@example.org"), fix=True)
    setup.plan()
    setup.destroy()
    assert asked.faults() == []
    table = {(service, operation) for service, operations in rights.SETUP_CALLS.items() for operation in operations}
    assert asked.calls <= table, "what the administrator's policy would lack"
    unseen = sorted(operation for _, operation in table - asked.calls)
    assert unseen == sorted(SELDOM), "a set-up that is changed makes all but these"


def test_the_newest_image_is_asked_of_the_region(near, runner):
    """The local profile has an image of its own; AWS's has none, and then SSM names it."""
    place = account.Place(near.way.call, account.Facts("lab", "us-east-1", "123456789012"))
    assert runner.run(files.image(place)) == near.image, "here the newest Amazon Linux is the local cloud's own"
