"""Images: baked, made of a machine, listed, and removed with their snapshots; on the local cloud they really carry their files."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from fleetctl import bring_up_one_spot, images, profiles
from fleetctl.errors import BadRequest, FleetError, Network, NotFound, RequestInvalid, StillBilling

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
    assert {one["id"] for one in cloud.inventory()["instances"]} == before, "its builder is gone"
    listed = fleetctl("image", "ls", "--cloud", "local").stdout
    assert "lab" in listed and "available" in listed
    id = next(word for word in baked.stdout.split() if word.startswith("ami-") and word.endswith(",")).rstrip(",")
    machine = bring_up_one_spot(request_, "true", session=session, image=id).result(60)
    assert machine.run("tools/hello").result(30).stdout == "from the image\n"
    again = fleetctl("image", "bake", "--name", "lab", "--cloud", "local")
    assert again.returncode == 1 and "there is an image 'lab' already" in again.stderr and "image rm lab" in again.stderr
    assert "nothing was removed" in fleetctl("image", "rm", "lab", "--cloud", "local").stdout
    removed = fleetctl("image", "rm", "lab", "--cloud", "local", "--yes")
    assert removed.returncode == 0 and "2 things found, all seen gone" in removed.stdout, removed.stdout + removed.stderr
    assert "no image was made here" in fleetctl("image", "ls", "--cloud", "local").stdout
    gone = fleetctl("image", "rm", "lab", "--cloud", "local", "--yes")
    assert gone.returncode == 1 and "no image of fleetctl's is called lab" in gone.stderr


@cloudy
def test_a_script_that_fails_bakes_nothing_and_its_builder_is_gone(fleetctl, tmp_path, cloud, clean):
    (tmp_path / "script").write_text("#!/bin/bash\necho out of luck >&2\nexit 7\n")
    before = {one["id"] for one in cloud.inventory()["instances"]}
    baked = fleetctl("image", "bake", "--name", "bad", "--run", str(tmp_path / "script"), "--type", "t3.micro", "--cloud", "local")
    assert baked.returncode == 1 and "out of luck" in baked.stderr
    assert {one["id"] for one in cloud.inventory()["instances"]} == before
    assert "no image was made here" in fleetctl("image", "ls", "--cloud", "local").stdout


@cloudy
def test_a_bake_that_is_killed_leaves_no_builder_and_no_image_that_is_called_done(fleetctl, environment, tmp_path, cloud, clean, wait_for):
    (tmp_path / "script").write_text("#!/bin/bash\nsleep 1000\n")
    before = {one["id"] for one in cloud.inventory()["instances"]}
    words = [sys.executable, "-m", "fleetctl", "image", "bake", "--name", "cut", "--run", str(tmp_path / "script"), "--cloud", "local"]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: {one["id"] for one in cloud.inventory()["instances"] if one["state"] == "running"} - before)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    fleetctl("recover", "--end")
    wait_for(lambda: {one["id"] for one in cloud.inventory()["instances"]} <= before)
    assert "no image was made here" in fleetctl("image", "ls", "--cloud", "local").stdout


@cloudy
def test_an_image_of_a_living_machine_outlives_its_session(session, request_, clean):
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


async def _listed(session):
    aws = session.profile.aws()
    try:
        return await images.listing(aws.call, "us-east-1")
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
