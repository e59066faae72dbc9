"""Everything that the local cloud changes in moto, in one place. Written against moto 5.2.5, and refused with any other.

Replaced classes (moto looks their names up in its modules when it makes one):
    ec2.Instance, ec2.EC2Backend   instances boot, spot requests live, launch rules hold        fleetctl.local.ec2
    sqs.Queue, sqs.SQSBackend      long polls wake at once, O(log n) instead of O(n)            fleetctl.local.channel
    sns.Subscription, sns.Topic    queue policies decide, faults disturb, no RSA per message    fleetctl.local.channel

For a quick start (1.1 s of imports become 0.3 s): at import moto loads the instance type offerings of all regions, and asks
botocore's endpoint data for all regions of all partitions, several times. Here it begins without any; they come by `add_region`.

Filters of DescribeInstances that moto has not: FILTERS. Root devices of images that end with their machine: _devices. Tags of buckets
that end with their bucket, and policies of buckets: tidy_buckets. The images that SSM's public parameters name: publish_images.

For quick calls:
    BaseResponse method names      inspected at each request: kept per class
    request ids                    52 random choices each: one token
    tags of a resource             a regular expression against every tag of the region: one dictionary access
"""

from __future__ import annotations

import functools
import json
import os
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetctl.errors import LocalCloudError

if TYPE_CHECKING:
    from fleetctl.local.ec2 import Wire

MOTO = "5.2.5"
LATEST = tuple(f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{machine}" for machine in ("x86_64", "arm64"))
CALLER = "arn:aws:iam::123456789012:root"   # who asks of S3: moto knows no more


class Regions:
    """What moto asks of `boto3.Session`, for a world of the regions that there are; `add_region` adds to them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def get_available_regions(self, service: str, partition_name: str = "aws", allow_non_regional: bool = False) -> list[str]:
        """The regions, in AWS's own partition."""
        return list(self.names) if partition_name == "aws" else []

    def get_available_partitions(self) -> list[str]:
        """AWS's own."""
        return ["aws"]


REGIONS = Regions()
FILTERS = {"client-token": "client_token", "instance-lifecycle": "lifecycle", "spot-instance-request-id": "spot_instance_request_id"}
OFFERINGS = ("ec2", "resources", "instance_type_offerings")   # in moto: a folder of files by region for each kind of location


def check_version() -> None:
    """Raise LocalCloudError unless moto is the version that all this was written against."""
    found = version("moto")
    if found != MOTO:
        raise LocalCloudError(f"the local cloud is made for moto {MOTO}, and found {found}",
                              todo=f'install "moto[ec2,sqs,sns,s3,iam,dynamodb,ssm]=={MOTO}"')


def prepare(images: Path) -> None:
    """Load moto's EC2, without any region; before anything else imports moto. `images` is the JSON file of the images there are."""
    check_version()
    os.environ["MOTO_AMIS_PATH"] = str(images)
    os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
    os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "true"
    with _no_regions():
        import moto.ec2.models  # noqa: F401
    _quick_calls()


def add_region(region: str) -> None:
    """One more region, with its instance types and up to three zones. Raises LocalCloudError if AWS has none of that name."""
    import moto
    from moto.core.base_backend import BackendDict
    from moto.ec2.models.availability_zones_and_regions import Region, RegionsAndZonesBackend, Zone
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
    from moto.utilities.utils import load_resource

    found = Path(moto.__file__).parent.joinpath(*OFFERINGS)
    files = {kind.name: file.name for kind in found.iterdir() for file in kind.glob(f"{region}.json*")}
    if not files:
        raise LocalCloudError(f"there is no region {region!r} that the local cloud could have", todo="name one of AWS's regions")
    for kind, name in files.items():
        offers = load_resource("/".join((*OFFERINGS, kind, name)))
        INSTANCE_TYPE_OFFERINGS[kind][region] = [{**offer, "LocationType": kind} for offer in offers]
    zones = sorted({offer["Location"] for offer in INSTANCE_TYPE_OFFERINGS["availability-zone"][region]})[:3]
    RegionsAndZonesBackend.zones[region] = [Zone(name, region, f"{region}-az{number}") for number, name in enumerate(zones, 1)]
    RegionsAndZonesBackend.regions.append(Region(region, f"ec2.{region}.amazonaws.com", "opt-in-not-required"))
    REGIONS.names.append(region)
    for backends in BackendDict._instances:
        for account in backends.values() if backends._use_boto3_regions else ():
            account.regions = list(dict.fromkeys([*account.regions, region]))


def install(wire: Wire) -> None:
    """Put our classes in moto's places; after `prepare`."""
    from moto.ec2 import models as ec2
    from moto.ec2 import utils
    from moto.ec2.models import amis, instances, route_tables
    from moto.sns import models as sns
    from moto.sqs import models as sqs

    from fleetctl.local.channel import LocalQueue, LocalSQS, LocalSubscription, LocalTopic
    from fleetctl.local.ec2 import LocalEC2, LocalInstance
    from fleetctl.local.network import route_state

    LocalEC2.wire = wire
    LocalSubscription.faults, LocalSubscription.timers = wire.faults, wire.timers
    LocalSubscription.held_back = deque()
    LocalTopic.settled, LocalTopic.mute = staticmethod(wire.instances.machines.settled), wire.instances.mute
    instances.Instance = LocalInstance
    amis.Ami.block_device_mappings = property(_devices)
    route_tables.Route.state = property(route_state)
    utils.filter_dict_attribute_mapping.update(FILTERS)
    ec2.ec2_backends.backend = LocalEC2
    sqs.Queue = LocalQueue
    sqs.sqs_backends.backend = LocalSQS
    sns.Subscription, sns.Topic = LocalSubscription, LocalTopic


def tidy_buckets() -> None:
    """Let a bucket's tags end with it (moto: the next of that name bears them), and its policy say what it says; once S3 is loaded."""
    from moto.s3.models import FakeBucket, S3Backend

    FakeBucket.get_permission = _permission

    delete = S3Backend.delete_bucket

    def delete_bucket(backend: Any, bucket_name: str) -> Any:
        deleted = delete(backend, bucket_name)
        if deleted is not None:
            backend.tagger.delete_all_tags_for_resource(deleted.arn)
        return deleted

    S3Backend.delete_bucket = delete_bucket


def publish_images() -> None:
    """Have the public parameters of Amazon Linux name the region's own image (moto: images that are not here); once SSM is loaded."""
    from moto.core.utils import utcnow
    from moto.ssm.models import Parameter, ParameterDict

    from fleetctl.local import seed

    def load(known: Any) -> None:
        for name in LATEST:
            known[name] = [Parameter(account_id=known.account_id, name=name, value=seed.image(known.region_name), parameter_type="String",
                                     description=None, allowed_pattern=None, keyid=None, last_modified_date=utcnow(), version=1,
                                     data_type="aws:ec2:image")]

    ParameterDict._load_latest_amis = load


def _permission(bucket: Any, action: str, resource: str) -> Any:
    """Whether a bucket's policy denies something (moto: every statement with a condition does). The wire counts as TLS."""
    from moto.iam.access_control import PermissionResult

    from fleetctl.local import policy

    asked: Any = {"action": action, "resource": resource, "principal": CALLER, "context": {"aws:securetransport": "true"}}
    stated = json.loads(bucket.policy) if bucket.policy else None
    if policy.denies(stated, **asked):
        return PermissionResult.DENIED
    return PermissionResult.PERMITTED if policy.allows(stated, **asked) else PermissionResult.NEUTRAL


def _devices(image: Any) -> list[dict[str, Any]]:
    """The root device of an image, which ends with its machine, as with all that AWS and the distributions publish (moto: it stays)."""
    disk = {"SnapshotId": image.ebs_snapshot.id, "VolumeSize": 8, "DeleteOnTermination": True, "VolumeType": "gp3"}
    return [{"DeviceName": image.root_device_name, "Ebs": disk}]


@contextmanager
def _no_regions() -> Iterator[None]:
    import boto3
    from moto.core import base_backend
    from moto.utilities import utils

    everywhere, session = utils.load_resource, boto3.Session
    utils.load_resource = lambda resource: [] if OFFERINGS[-1] in resource else everywhere(resource)
    boto3.Session = lambda: REGIONS
    base_backend.AccountSpecificBackend.get_session = classmethod(lambda cls: REGIONS)
    try:
        yield
    finally:
        utils.load_resource, boto3.Session = everywhere, session


def _quick_calls() -> None:
    from moto.core import responses
    from moto.ec2.models.core import TaggedEC2Resource

    responses.method_names_from_class = functools.cache(responses.method_names_from_class)
    responses.gen_amzn_requestid_long = _request_id
    TaggedEC2Resource.get_tags = _tags_of


def _request_id(headers: dict[str, Any] | None = None) -> str:
    """A request id, also put into the headers."""
    id = secrets.token_hex(26).upper()
    if headers is not None:
        headers["x-amzn-requestid"] = id
    return id


def _tags_of(resource: Any) -> list[dict[str, str]]:
    """The tags of one resource, in the form that moto's own look-up has."""
    backend = resource.ec2_backend
    return [{"resource_id": resource.id, "key": key, "value": value, "resource_type": ""}
            for key, value in backend.tags.get(resource.id, {}).items()]
