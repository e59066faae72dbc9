"""Images on the local cloud: what is on a machine is on those that come up from an image of it."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.cloud

WRITES = (b"#!/bin/bash\nmkdir -p lab\necho learnt >lab/notes\nln -s lab/notes link\nmkfifo pipe\n"
          b"mkdir -p .fleetctl\ntouch .fleetctl/own\necho written\n")
READS = b"#!/bin/bash\nls -A\ncat link\necho read\n"


def said(world: Any, id: str) -> str:
    """An instance's console."""
    return str(world.ec2.get_console_output(InstanceId=id).get("Output", ""))


def launched(world: Any, script: bytes, image: str = "") -> str:
    """A machine that has run its script to its last word."""
    spec = world.specification(UserData=base64.b64encode(script).decode(), **({"ImageId": image} if image else {}))
    [id] = world.fulfilled(world.request_spot(spec=spec))
    last = script.decode().split()[-1]
    world.until(lambda: last in said(world, id), 60)
    return str(id)


def made(world: Any, instance: str, **more: Any) -> str:
    """An image, once it is available."""
    image = world.ec2.create_image(InstanceId=instance, Name=f"image-{uuid.uuid4().hex[:8]}", **more)["ImageId"]
    world.until(lambda: described(world, image)["State"] == "available", 60)
    return str(image)


def described(world: Any, image: str) -> dict[str, Any]:
    [row] = world.ec2.describe_images(ImageIds=[image])["Images"]
    return dict(row)


@pytest.fixture
def builder(world: Any) -> Any:
    id = launched(world, WRITES)
    yield id
    world.ec2.terminate_instances(InstanceIds=[id])


def test_an_image_carries_its_machine_s_files_to_those_that_come_up_from_it_when_that_is_long_gone(world: Any, builder: str) -> None:
    image = made(world, builder)
    world.ec2.terminate_instances(InstanceIds=[builder])
    world.in_state(builder, "terminated")
    first, second = (launched(world, READS, image) for _ in range(2))
    try:
        for one in (first, second):
            assert said(world, one).split() == ["lab", "link", "learnt", "read"], "what is one machine's own does not travel"
    finally:
        world.ec2.terminate_instances(InstanceIds=[first, second])
        world.ec2.deregister_image(ImageId=image)


def test_a_snapshot_is_held_by_its_image_and_both_bear_the_tags_that_they_were_made_with(world: Any, builder: str) -> None:
    tags = [{"ResourceType": kind, "Tags": [{"Key": "whose", "Value": kind}]} for kind in ("image", "snapshot")]
    image = made(world, builder, TagSpecifications=tags)
    row = described(world, image)
    assert row["Tags"] == [{"Key": "whose", "Value": "image"}] and row["RootDeviceName"] == "/dev/xvda"
    [disk] = row["BlockDeviceMappings"]
    snapshot = disk["Ebs"]["SnapshotId"]
    [shown] = world.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert shown["Tags"] == [{"Key": "whose", "Value": "snapshot"}]
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.InUse"):
        world.ec2.delete_snapshot(SnapshotId=snapshot)
    world.ec2.deregister_image(ImageId=image)
    world.ec2.delete_snapshot(SnapshotId=snapshot)
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        world.ec2.describe_snapshots(SnapshotIds=[snapshot])
    with pytest.raises(ClientError, match=r"InvalidAMIID"):
        world.request_spot(spec=world.specification(ImageId=image))


def test_what_ec2_refuses_of_an_image_is_refused(world: Any, builder: str) -> None:
    image = made(world, builder)
    with pytest.raises(ClientError, match=r"InvalidAMIName\.Duplicate"):
        world.ec2.create_image(InstanceId=builder, Name=described(world, image)["Name"])
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        world.ec2.create_image(InstanceId="i-0123456789abcdef0", Name="of-nobody")
    world.ec2.deregister_image(ImageId=image)
