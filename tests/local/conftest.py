"""A local cloud of the tests' own: its directory is temporary, its daemon is ended by its pid, and nothing may remain."""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from fleetctl import local
from fleetctl.local import LocalCloud

SLEEPER = base64.b64encode(b"#!/bin/bash\nexec sleep 1000\n").decode()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:      # not there, or gone between opening and reading
        return True


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for what the API has no event for: a state behind a describe call."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return found


class World:
    """A cloud as its user has it: boto3 clients, and the steps that many tests take."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud, self._clients, self._session = cloud, {}, boto3.Session()

    def client(self, service: str) -> Any:
        """A boto3 client that does not retry."""
        if service not in self._clients:
            config = Config(retries={"total_max_attempts": 1})
            self._clients[service] = self._session.client(service, **self.cloud.client(), config=config)
        return self._clients[service]

    ec2 = property(lambda self: self.client("ec2"))
    sqs = property(lambda self: self.client("sqs"))
    sns = property(lambda self: self.client("sns"))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    until = staticmethod(until)

    def specification(self, **more: Any) -> dict[str, Any]:
        """A launch specification that EC2 accepts."""
        interface = {"DeviceIndex": 0, "SubnetId": self.cloud.subnets["private"], "Groups": [self.cloud.groups["default"]]}
        return {"ImageId": self.cloud.image, "InstanceType": "t3.micro", "KeyName": self.cloud.key, "UserData": SLEEPER,
                "IamInstanceProfile": {"Name": self.cloud.instance_profile}, "NetworkInterfaces": [interface], **more}

    def request_spot(self, count: int = 1, *, spec: dict[str, Any] | None = None, **more: Any) -> list[str]:
        """Spot request ids."""
        answer = self.ec2.request_spot_instances(**{
            "SpotPrice": "0.01", "InstanceCount": count, "LaunchSpecification": spec or self.specification(), **more})
        return [request["SpotInstanceRequestId"] for request in answer["SpotInstanceRequests"]]

    def requests(self, ids: list[str]) -> list[dict[str, Any]]:
        """What EC2 says of these spot requests."""
        found: list[dict[str, Any]] = self.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=ids)["SpotInstanceRequests"]
        return found

    def fulfilled(self, ids: list[str]) -> list[str]:
        """The instances of these requests, once all have one."""
        def all_there() -> list[str] | None:
            instances = [request.get("InstanceId", "") for request in self.requests(ids)]
            return instances if all(instances) else None
        found: list[str] = self.until(all_there)
        return found

    def instance(self, id: str) -> dict[str, Any]:
        """What EC2 says of this instance."""
        found: dict[str, Any] = self.ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
        return found

    def in_state(self, id: str, state: str) -> dict[str, Any]:
        """The instance, once it is in this state."""
        found: dict[str, Any] = self.until(lambda: (seen := self.instance(id))["State"]["Name"] == state and seen)
        return found

    def channel(self, *, policy: bool = True, raw: bool = False) -> tuple[str, str]:
        """A topic and the queue subscribed to it: ARN and URL."""
        name = f"t-{uuid.uuid4().hex[:8]}"
        topic = self.sns.create_topic(Name=name)["TopicArn"]
        queue_arn = topic.replace(":sns:", ":sqs:")
        allow = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": queue_arn,
                 "Condition": {"ArnEquals": {"aws:SourceArn": topic}}}
        attributes = {"Policy": json.dumps({"Version": "2012-10-17", "Statement": [allow]})} if policy else {}
        url = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": str(raw).lower()})
        return topic, url

    def receive(self, url: str, wait: int = 2) -> list[str]:
        """The bodies of one batch, deleted."""
        messages = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=wait).get("Messages", [])
        for message in messages:
            self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in messages]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    directory = tmp_path_factory.mktemp("cloud")
    running = local.up(directory)
    yield running
    processes = list(running.inventory()["processes"].values())
    log = (directory / "daemon.log").read_text()
    local.down(directory, force=True)
    assert gone(running.pid)
    assert [pid for pid in processes if not gone(pid)] == []
    assert os.listdir(directory) == []
    assert "a timer failed" not in log, log
    assert "a connection broke" not in log, log


@pytest.fixture(scope="module")
def _world(cloud: LocalCloud) -> Iterator[World]:
    made = World(cloud)
    yield made
    made.close()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """The cloud with all its faults mended afterwards."""
    yield _world
    _world.cloud.clear_faults()
