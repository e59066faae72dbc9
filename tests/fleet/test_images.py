"""Images: baked, made of a machine, listed, and removed with their snapshots; on the local cloud they really carry their files."""

import asyncio
import base64
import os
import signal
import subprocess
import sys

import pytest

from fleetctl import bring_up_one_spot, images, profiles
from fleetctl.errors import BadRequest, FleetError, Network, NotFound, RequestInvalid, StillBilling
from fleetctl.images import equipment

SCRIPT = "#!/bin/bash\nmkdir -p tools\necho 'echo from the image' >tools/hello\nchmod 700 tools/hello\n"
cloudy = pytest.mark.cloud


@pytest.fixture
def clean(cloud):
    """No image of this test stays, nor a snapshot."""
    yield
    import boto3

    ec2 = boto3.client("ec2", **cloud.client())
    for image in ec2.describe_images(Owners=["self"], Filters=[{"Name": "tag-key", "Values": [images.IMAGE_TAG]}])["Images"]:
        ec2.deregister_image(ImageId=image["ImageId"])
    for one in ec2.describe_snapshots(Filters=[{"Name": "tag-key", "Values": [images.IMAGE_TAG]}])["Snapshots"]:
        ec2.delete_snapshot(SnapshotId=one["SnapshotId"])
    ec2.close()


@cloudy
def test_a_baked_image_carries_what_its_script_made_to_machines_that_come_up_from_it(fleetctl, session, request_, clean, tmp_path, cloud):
    (tmp_path / "script").write_text(SCRIPT)
    before = {one["id"] for one in cloud.inventory()["instances"]}
    baked = fleetctl("image", "bake", "--name", "lab", "--run", str(tmp_path / "script"), "--type", "t3.micro", "--cloud", "local")
    assert baked.returncode == 0, baked.stderr
    assert "a builder comes up" in baked.stdout and "is being made" in baked.stdout, "it says how far it is"
    assert "it will have <bundle" in baked.stdout and "of gridworker" in baked.stdout
    assert {one["id"] for one in cloud.inventory()["instances"]} == before, "its builder is gone"
    listed = fleetctl("image", "ls", "--cloud", "local").stdout
    assert "lab" in listed and "available" in listed
    id = next(word for word in baked.stdout.split() if word.startswith("ami-") and word.endswith(",")).rstrip(",")
    machine = bring_up_one_spot(request_, "true", session=session, image=id).result(60)
    assert machine.run("tools/hello").result(30).stdout == "from the image\n"
    same = fleetctl("image", "bake", "--name", "lab", "--run", str(tmp_path / "script"), "--type", "t3.micro", "--cloud", "local")
    assert same.returncode == 0 and f"was asked for before: {id}" in same.stdout and "a builder" not in same.stdout, "made of the same"
    again = fleetctl("image", "bake", "--name", "lab", "--bare", "--cloud", "local")
    assert again.returncode == 1 and "there is an image 'lab' already" in again.stderr and "image rm lab" in again.stderr
    used = fleetctl("image", "rm", "lab", "--cloud", "local", "--yes")
    assert used.returncode == 1 and f"1 machine ({machine.instance_id}) came up from it" in used.stdout and "--force" in used.stdout
    assert "nothing was removed" in fleetctl("image", "rm", "lab", "--cloud", "local", "--force").stdout, "nobody has said yes"
    removed = fleetctl("image", "rm", "lab", "--cloud", "local", "--force", "--yes")
    assert removed.returncode == 0 and "2 things found, all seen gone" in removed.stdout, removed.stdout + removed.stderr
    assert "no image was made here" in fleetctl("image", "ls", "--cloud", "local").stdout
    gone = fleetctl("image", "rm", "lab", "--cloud", "local", "--yes")
    assert gone.returncode == 1 and "no image of fleetctl's is called lab" in gone.stderr


@cloudy
def test_a_script_that_fails_bakes_nothing_and_its_builder_is_gone(fleetctl, tmp_path, cloud, clean):
    (tmp_path / "script").write_text("#!/bin/bash\necho out of luck >&2\nexit 7\n")
    before = {one["id"] for one in cloud.inventory()["instances"]}
    words = ("--bare", "--run", str(tmp_path / "script"), "--type", "t3.micro", "--cloud", "local")
    baked = fleetctl("image", "bake", "--name", "bad", *words)
    assert baked.returncode == 1 and "out of luck" in baked.stderr
    assert {one["id"] for one in cloud.inventory()["instances"]} == before
    assert "no image was made here" in fleetctl("image", "ls", "--cloud", "local").stdout


@cloudy
def test_a_bake_that_is_killed_leaves_no_builder_and_no_image_that_is_called_done(fleetctl, environment, tmp_path, cloud, clean, wait_for):
    (tmp_path / "script").write_text("#!/bin/bash\nsleep 1000\n")
    before = {one["id"] for one in cloud.inventory()["instances"]}
    words = [sys.executable, "-m", "fleetctl", "image", "bake", "--name", "cut", "--bare", "--cloud", "local", "--run",
             str(tmp_path / "script")]  # fmt: skip
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: {one["id"] for one in cloud.inventory()["instances"] if one["state"] == "running"} - before)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    fleetctl("recover", "--end")
    wait_for(lambda: {one["id"] for one in cloud.inventory()["instances"]} <= before)
    assert "no image was made here" in fleetctl("image", "ls", "--cloud", "local").stdout


DYING = """
import os, sys
from fleetctl.cloud import aws
from fleetctl.cloud.journal import READS
real, last, name = aws.Aws.call, sys.argv[1], sys.argv[2]
async def call(self, service, operation, /, **parameters):
    answer = await real(self, service, operation, **parameters)
    if not operation.startswith(READS):
        print(operation, flush=True)
        if operation == last:
            os.kill(os.getpid(), 9)
    return answer
aws.Aws.call = call
from fleetctl.cli.baking import bake
bake(name, bare=True, cloud="local", itype="t3.micro")
"""


@cloudy
def test_killed_after_any_call_of_a_bake_no_builder_stays_and_the_same_command_completes_it(fleetctl, environment, cloud, clean, wait_for):
    """Each dies once its call was applied and before it has the answer, some at a time as they take long; each has an image of its own."""
    before = {one["id"] for one in cloud.inventory()["instances"]}

    def baking(last, name):
        words = [sys.executable, "-c", DYING, last, name]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended(process):
        said, trouble = process.communicate(timeout=120)
        assert process.returncode in (0, -9), trouble
        return process.returncode, said.split()

    code, whole = ended(baking("none of them", "whole"))
    operations = list(dict.fromkeys(whole))
    assert code == 0 and {"create_topic", "create_image"} < {*operations}
    died = []
    for some in (operations[first : first + 3] for first in range(0, len(operations), 3)):
        running = {one: baking(one, f"cut-{one}") for one in some}
        died += [one for one, process in running.items() if ended(process)[0]]
    assert "create_image" in died and len(died) > len(operations) / 2
    fleetctl("recover", "--end")
    wait_for(lambda: {one["id"] for one in cloud.inventory()["instances"]} <= before)
    again = fleetctl("image", "bake", "--name", "cut-create_image", "--bare", "--type", "t3.micro", "--cloud", "local")
    assert again.returncode == 0, again.stderr
    assert fleetctl("image", "ls", "--cloud", "local").stdout.count("cut-create_image ") == 1
    assert {one["id"] for one in cloud.inventory()["instances"]} <= before


@cloudy
def test_an_image_that_a_profile_names_is_removed_only_by_force(fleetctl, session, request_, clean, environment, tmp_path):
    machine = bring_up_one_spot(request_, "true", session=session).result(60)
    image = machine.image("mine").result(60)
    profiles_at = tmp_path / "config" / "fleetctl"
    profiles_at.mkdir(parents=True)
    (profiles_at / "lab.toml").write_text(f'cloud = "local"\nregion = "us-east-1"\nimage = "{image.id}"\n')
    (profiles_at / "torn.toml").write_text("image = ")
    with_config = {**environment, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    words = [sys.executable, "-m", "fleetctl", "image", "rm", "mine", "--cloud", "local", "--yes"]
    ran = subprocess.run(words, env=with_config, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and "profile lab has it: what it launches would fail" in ran.stdout and "nothing was removed" in ran.stdout
    assert fleetctl("image", "ls", "--cloud", "local").stdout.count(image.id) == 1
    ran = subprocess.run([*words, "--force"], env=with_config, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and "all seen gone" in ran.stdout


@cloudy
def test_a_local_machine_installs_nothing_on_this_computer(fleetctl, cloud, clean):
    baked = fleetctl("image", "bake", "--name", "none", "--bare", "--install", "cowsay", "--type", "t3.micro", "--cloud", "local")
    assert baked.returncode == 1 and "shares its system with your computer" in baked.stderr


UNIT_RUNS = """#!/bin/bash
export FLEETCTL_USER_DATA=$HOME/unit
if [[ ! -e unit ]]; then
    echo 'as cloud-init would'
    for time in first second; do bash -c "$(base64 -d <<<'SCRIPT')" && echo "$time: the unit has ended well"; done
    stat -c '%a %n' .ssh/authorized_keys
    cat .ssh/authorized_keys
    exit
fi
echo 'run by the unit'
"""


@cloudy
def test_where_there_is_no_cloud_init_the_boot_unit_lets_in_the_key_and_runs_the_user_data_once(session, cloud, wait_for):
    """The unit's script on a machine of the local cloud, with its metadata service: called as systemd would, by what cloud-init runs."""
    script = UNIT_RUNS.replace("SCRIPT", base64.b64encode(equipment.boot_script().encode()).decode())
    ec2 = session.boto3().client("ec2")
    place = {"ImageId": session.profile.image, "KeyName": session.profile.key}
    [one] = ec2.run_instances(**place, MinCount=1, MaxCount=1, UserData=script)["Instances"]
    try:
        def console():
            return ec2.get_console_output(InstanceId=one["InstanceId"]).get("Output", "")

        wait_for(lambda: "ssh-ed25519" in console())
        lines = console().split("\n")
        begin = lines.index("as cloud-init would")
        assert lines[begin + 1 : begin + 4] == ["run by the unit", "first: the unit has ended well", "second: the unit has ended well"]
        assert lines[begin + 4] == "600 .ssh/authorized_keys"
        assert len([line for line in lines if "ssh-ed25519" in line]) == 1
    finally:
        ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
        wait_for(lambda: ec2.describe_instances(InstanceIds=[one["InstanceId"]])["Reservations"][0]["Instances"][0]["State"]["Code"] == 48)
        ec2.close()


@cloudy
def test_an_image_of_a_living_machine_outlives_its_session(asked, session, request_, clean):
    machine = bring_up_one_spot(request_, "echo kept >note", session=session).result(60)
    told = []
    image = machine.image("living", told=told.append).result(60)
    assert (image.name, image.state) == ("living", "available") and "is being made" in told[0]
    with pytest.raises(RequestInvalid, match="already"):
        machine.image("living").result(30)
    from fleetctl import teardown_all

    assert teardown_all(session=session).result(60).remaining == ()
    [there] = asyncio.run(_listed(session))
    assert there.id == image.id and there.snapshots == image.snapshots
    assert asyncio.run(_removed(session)).remaining == ()
    assert asked.faults() == [] and {("ec2", "create_image"), ("ec2", "deregister_image")} < asked.calls


async def _listed(session):
    aws = session.profile.aws()
    try:
        return await images.listing(aws.call, "us-east-1")
    finally:
        await aws.close()


async def _removed(session):
    aws = session.profile.aws()
    try:
        assert await images.machine(aws.call, (await images.listing(aws.call, "us-east-1"))[0].id) == "x86_64"
        assert await images.users(aws.call, "living", "us-east-1") == []
        return await images.remove(aws.call, "living", "us-east-1")
    finally:
        await aws.close()


# --- against an AWS in memory ----------------------------------------------------------------------------------------------------------


class Registry:
    """EC2's images and snapshots. `lost`: of these calls no answer arrives; `looks`: how often a new image is pending."""

    def __init__(self, lost=(), looks=2, unseen=0, ends="available"):
        self.images, self.snapshots, self.calls = {}, {}, []
        self.lost, self.looks, self.unseen, self.ends = list(lost), looks, unseen, ends

    async def __call__(self, service, operation, /, **given):
        self.calls.append(operation)
        answer = getattr(self, operation)(**given)
        if operation in self.lost:
            self.lost.remove(operation)
            raise Network(f"{operation}: nothing came", service=service, operation=operation, code="EndpointConnectionError")
        return answer

    def create_image(self, Name, TagSpecifications, **_):
        if any(one["Name"] == Name for one in self.images.values()):
            raise BadRequest("taken", service="ec2", operation="create_image", code="InvalidAMIName.Duplicate")
        number = len(self.images) + len(self.snapshots) + 1
        tags = {one["ResourceType"]: one["Tags"] for one in TagSpecifications}
        self.snapshots[f"snap-{number}"] = {"SnapshotId": f"snap-{number}", "Tags": tags["snapshot"]}
        disk = {"Ebs": {"SnapshotId": f"snap-{number}", "VolumeSize": 8}}
        self.images[f"ami-{number}"] = {"ImageId": f"ami-{number}", "Name": Name, "Tags": tags["image"], "BlockDeviceMappings": [disk],
                                        "State": "pending"}
        return {"ImageId": f"ami-{number}"}

    def describe_images(self, ImageIds=None, Filters=(), **_):
        self.looks -= 1
        self.unseen -= 1
        for one in self.images.values():
            one["State"] = self.ends if one["State"] == "pending" and self.looks <= 0 else one["State"]
        if ImageIds is not None:
            if ImageIds[0] not in self.images or self.unseen > 0:
                raise NotFound("no such", service="ec2", operation="describe_images", code="InvalidAMIID.NotFound")
            return {"Images": [self.images[ImageIds[0]]]}
        [condition] = Filters
        found = [one for one in self.images.values() if condition["Name"] == "tag-key" or one["Name"] in condition["Values"]]
        return {"Images": [] if self.unseen > 0 else found}

    def describe_snapshots(self, SnapshotIds=None, Filters=(), **_):
        if SnapshotIds is not None:
            if SnapshotIds[0] not in self.snapshots:
                raise NotFound("no such", service="ec2", operation="describe_snapshots", code="InvalidSnapshot.NotFound")
            return {"Snapshots": [self.snapshots[SnapshotIds[0]]]}
        names = Filters[0]["Values"]
        return {"Snapshots": [one for one in self.snapshots.values() if one["Tags"][0]["Value"] in names]}

    def deregister_image(self, ImageId):
        del self.images[ImageId]
        return {}

    def delete_snapshot(self, SnapshotId):
        if any(SnapshotId == one["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] for one in self.images.values()):
            raise BadRequest("held", service="ec2", operation="delete_snapshot", code="InvalidSnapshot.InUse")
        del self.snapshots[SnapshotId]
        return {}


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    if "cloud" not in os.environ.get("PYTEST_CURRENT_TEST", ""):
        monkeypatch.setattr(images, "PAUSES", (0.01,))
        monkeypatch.setattr(images, "DOUBT", (0.01, 0.01, 0.01))


async def test_an_image_whose_making_was_not_answered_is_made_once():
    for registry in (Registry(["create_image"]), Registry(["create_image"], unseen=4)):  # it is seen at once, or only later
        image = await images.make(registry, "i-1", "lab", "us-east-1")
        assert (len(registry.images), image.state) == (1, "available")


async def test_one_that_is_not_seen_yet_is_waited_for_and_one_that_fails_is_told_and_goes_with_the_next():
    registry = Registry(looks=6, unseen=4)
    assert (await images.make(registry, "i-1", "lab", "us-east-1")).state == "available"
    registry = Registry(ends="failed")
    with pytest.raises(FleetError, match="came to failed"):
        await images.make(registry, "i-1", "lab", "us-east-1")
    registry.ends, registry.looks = "available", 3
    assert (await images.make(registry, "i-1", "lab", "us-east-1")).state == "available"
    assert len(registry.images) == len(registry.snapshots) == 1, "what had failed has made room"


async def test_a_removal_that_was_cut_off_is_completed_by_the_same_command():
    registry = Registry()
    image = await images.make(registry, "i-1", "lab", "us-east-1")
    registry.deregister_image(image.id)  # and then it was killed
    receipt = await images.remove(registry, "lab", "us-east-1")
    assert [line.id for line in receipt.found] == ["snap-1"] and registry.snapshots == {}


@pytest.mark.parametrize("name", ["ab", "x" * 129, "a;b", ""])
async def test_a_name_that_no_image_can_have_is_refused_before_anything_is_asked(name):
    registry = Registry()
    with pytest.raises(RequestInvalid, match="no name that an image can have"):
        await images.make(registry, "i-1", name, "us-east-1")
    assert registry.calls == []


async def test_what_was_made_the_same_way_is_found_and_waited_for_and_no_other():
    registry = Registry(looks=4)
    registry.create_image("lab", [{"ResourceType": kind, "Tags": [{"Key": "fleetctl:image", "Value": "lab"}, {"Key": "fleetctl:recipe",
                                                                                                         "Value": "one"}]}
                                  for kind in ("image", "snapshot")])  # fmt: skip
    assert await images.made(registry, "lab", "us-east-1", "other") is None
    found = await images.made(registry, "lab", "us-east-1", "one")
    assert (found.id, found.state, registry.calls.count("create_image")) == ("ami-1", "available", 0)


async def test_what_is_not_ours_is_neither_replaced_nor_removed():
    registry = Registry()
    registry.create_image("theirs", [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": "b"}]} for kind in ("image", "snapshot")])
    registry.images["ami-1"]["State"] = "failed"
    with pytest.raises(RequestInvalid, match="already") as caught:
        await images.make(registry, "i-1", "theirs", "us-east-1")
    assert caught.value.todo == "give another name"
    registry.describe_images = lambda **given: {"Images": []}  # by our tag there is none
    with pytest.raises(FleetError, match="no image of fleetctl's"):
        await images.remove(registry, "theirs", "us-east-1")
    assert len(registry.images) == 1


async def test_what_aws_does_not_let_go_of_is_told():
    registry = Registry()
    await images.make(registry, "i-1", "lab", "us-east-1")

    def held(SnapshotId):
        raise BadRequest("held", service="ec2", operation="delete_snapshot", code="InvalidSnapshot.InUse")

    registry.delete_snapshot = held
    with pytest.raises(StillBilling) as caught:
        await images.remove(registry, "lab", "us-east-1")
    [line] = caught.value.receipt.remaining
    assert (line.thing, line.proof) == ("snapshot", "InvalidSnapshot.InUse")


async def test_where_to_begin_is_an_id_or_a_name_that_aws_keeps_up_to_date():
    asked = []

    async def call(service, operation, /, **given):
        asked.append(given["Name"])
        return {"Parameter": {"Value": "ami-9"}}

    assert await images.base(call, "ami-1") == "ami-1" and asked == []
    assert await images.base(call, "al2023") == "ami-9" and asked == [images.BASES["al2023"]]
    with pytest.raises(RequestInvalid, match="no image 'windows'"):
        await images.base(call, "windows")


def test_a_baked_image_stands_in_the_profile_in_place_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for values in ({"region": "eu-west-1", "subnets": {"public": "subnet-1"}}, {"region": "eu-west-1", "image": "ami-01"}):
        profiles.write("lab", values, head="for a test")
        assert profiles.baked_image("lab") is None
        profiles.record_image("lab", "ami-02", "tools")
        assert profiles.load("lab", home=tmp_path).image == "ami-02"
        profiles.record_image("lab", "ami-03", "tools")
        assert profiles.baked_image("lab") == ("ami-03", "tools")
        assert dict(profiles.load("lab", home=tmp_path).subnets) == values.get("subnets", {})
