"""An AWS in memory, whose machines report as soon as they run: for tests that stop, delay or refuse single calls.

It speaks only the operations that a session uses, with AWS's parameters and answers; those of EC2 are in `fake_ec2`. The real protocol
is met by the tests on the local cloud. `calls` records every call; `before` and `after` are awaited around each, and may wait or raise.
All on one event loop.
"""

import asyncio
import itertools
import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from fake_ec2 import FakeEc2, refusal

from fleetctl.errors import AwsError, BadRequest, NotFound
from fleetctl.messages import Phase, Report
from fleetctl.profiles import Profile

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.micro"}}
MACHINE = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.micro"}
REQUESTS = {  # the same machine by each launch call
    "RequestSpotInstances": REQUEST,
    "RunInstances": MACHINE,
    "CreateFleet": {"LaunchTemplateData": MACHINE, "LaunchTemplateConfigs": []},
}
READS = ("describe_", "get_", "head_", "receive_", "publish", "delete_message")


async def nothing(service, operation, parameters):
    """The hook that does nothing."""


class FakeAws(FakeEc2):
    """`fill`, `boot` and `end` are seconds until a request has its instance, an instance reports, a terminated one is gone; `boot` may be
    a function of the machine's number. Ids in `protected` may not be terminated. `phase` is what machines report, None for silence.
    """

    region = "us-east-1"

    def __init__(self, *, fill=0.0, boot=0.0, end=0.0, phase=Phase.READY):
        self.fill, self.boot, self.end, self.phase = fill, boot if callable(boot) else lambda number: boot, end, phase
        self.before = self.after = nothing
        self.calls, self.parameters = [], []
        self.requests, self.instances, self.tokens, self.tags = {}, {}, {}, {}
        self.consoles = {}
        self.volumes, self.fleets, self.templates = {}, {}, {}
        self.topics, self.queues, self.subscriptions, self.stored = set(), {}, {}, {}
        self.buckets = {}  # name -> key -> body
        self.ages = {}  # key -> how long ago it was put there
        self.uploads = {}
        self.protected, self.hidden = set(), set()  # hidden: requests whose instance listings do not show yet
        self._numbers = itertools.count(1)
        self._news = asyncio.Event()

    def __repr__(self):
        return f"<fake AWS: {len(self.calls)} calls, {len(self.alive())} alive>"

    async def call(self, service, operation, /, *, launch=None, **parameters):
        self.calls.append(operation)
        self.parameters.append(parameters)
        await self.before(service, operation, parameters)
        answer = getattr(self, f"_{operation}")(parameters)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        await self.after(service, operation, parameters)
        return answer or {}

    async def close(self):
        """There is nothing to close."""

    def count(self, operation):
        return self.calls.count(operation)

    def ec2_calls(self):
        """How often each EC2 operation was called."""
        spoken = ("describe_", "request_spot", "run_", "cancel_", "terminate_", "create_tags", "create_fleet", "create_launch",
                  "delete_launch", "delete_fleets", "delete_volume")
        return Counter(name for name in self.calls if name.startswith(spoken))

    def alive(self):
        """What costs money, or will: living instances and open requests."""
        running = {key for key, one in self.instances.items() if "ended" not in one}
        return running | {key for key, one in self.requests.items() if one["State"] == "open"}

    def left(self):
        """Everything that a teardown has to end."""
        fleets = {key for key, one in self.fleets.items() if one["FleetState"] == "active"}
        made = fleets | {*self.volumes} | {*self.templates}
        return self.alive() | made | self.topics | {*self.queues} | {*self.subscriptions} | {*self.stored}

    def report(self, instance, launch):
        """The machine speaks to every topic, if it still runs."""
        if self.phase is not None and "ended" not in self.instances[instance]:
            code = 1 if self.phase is Phase.FAILED else None
            said = Report(UUID(launch), instance, self.phase, seq=1, ip="10.0.0.1", exit_code=code, tail="no\n" if code else "")
            self._publish({"Message": said.encode()})

    # --- the clock: the running loop's ----------------------------------------------------------------------------------------------

    def time(self):
        return asyncio.get_running_loop().time()

    def utc(self):
        return datetime.now(UTC)

    def _later(self, seconds, do, *arguments):
        asyncio.get_running_loop().call_later(seconds, do, *arguments)

    def _get_caller_identity(self, p):
        return {"Account": "123456789012"}

    # --- the channel ------------------------------------------------------------------------------------------------------------------

    def _create_topic(self, p):
        arn = f"arn:aws:sns:us-east-1:123456789012:{p['Name']}"
        self.topics.add(arn)
        return {"TopicArn": arn}

    def _create_queue(self, p):
        assert json.loads(p["Attributes"]["Policy"])["Statement"]
        url = f"https://sqs.us-east-1.amazonaws.com/123456789012/{p['QueueName']}"
        self.queues.setdefault(url, [])
        return {"QueueUrl": url}

    def _subscribe(self, p):
        self._there(self.topics, p["TopicArn"])
        arn, name = f"{p['TopicArn']}:1", p["Endpoint"].rpartition(":")[2]
        url = next((url for url in self.queues if url.endswith(f"/{name}")), None)
        if url is None:  # SNS does not say in its reference what it does then: the harder of both cases
            raise refusal(BadRequest, "sns", "subscribe", "InvalidParameter")
        self.subscriptions[arn] = url
        return {"SubscriptionArn": arn}

    def _list_subscriptions_by_topic(self, p):
        self._there(self.topics, p["TopicArn"])
        there = {arn: url for arn, url in self.subscriptions.items() if arn.startswith(p["TopicArn"])}
        return {"Subscriptions": [{"SubscriptionArn": arn, "Endpoint": f"arn:aws:sqs:us-east-1:123456789012:{url.rpartition('/')[2]}"}
                                  for arn, url in there.items()]}

    def _publish(self, p):
        for url in self.subscriptions.values():
            if url in self.queues:
                self.queues[url].append({"Body": p["Message"], "ReceiptHandle": str(next(self._numbers))})
        self._news.set()

    async def _receive_message(self, p):
        queue = self._there(self.queues, p["QueueUrl"])
        try:
            async with asyncio.timeout(p["WaitTimeSeconds"]):
                while not queue:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return {}
        messages, queue[:10] = queue[:10], []
        return {"Messages": messages}

    def _delete_message_batch(self, p):
        self._there(self.queues, p["QueueUrl"])
        return {"Successful": p["Entries"]}

    def _delete_topic(self, p):
        """With all its subscriptions (SNS API reference, DeleteTopic)."""
        self.topics.discard(p["TopicArn"])
        for arn in [arn for arn in self.subscriptions if arn.startswith(p["TopicArn"])]:
            del self.subscriptions[arn]

    def _get_topic_attributes(self, p):
        self._there(self.topics, p["TopicArn"])

    def _unsubscribe(self, p):
        self.subscriptions.pop(p["SubscriptionArn"], None)

    def _get_subscription_attributes(self, p):
        self._there(self.subscriptions, p["SubscriptionArn"])

    def _delete_queue(self, p):
        self._there(self.queues, p["QueueUrl"])
        del self.queues[p["QueueUrl"]]

    def _get_queue_attributes(self, p):
        self._there(self.queues, p["QueueUrl"])

    def _put_parameter(self, p):
        self.stored[p["Name"]] = p["Value"]

    def _delete_parameter(self, p):
        self._there(self.stored, p["Name"])
        del self.stored[p["Name"]]

    def _get_parameter(self, p):
        return {"Parameter": {"Value": self._there(self.stored, p["Name"])}}

    # --- the bucket -------------------------------------------------------------------------------------------------------------------

    def _create_bucket(self, p):
        self.buckets.setdefault(p["Bucket"], {})

    def _put_bucket_tagging(self, p):
        self.tags[p["Bucket"]] = p["Tagging"]["TagSet"]

    def _put_public_access_block(self, p):
        self._there(self.buckets, p["Bucket"])
        assert all(p["PublicAccessBlockConfiguration"].values())

    def _list_object_versions(self, p):
        return {"Versions": [{"Key": key, "VersionId": "null"} for key in self._there(self.buckets, p["Bucket"])][: p["MaxKeys"]]}

    def _list_objects_v2(self, p):
        keys = [key for key in self._there(self.buckets, p["Bucket"]) if key.startswith(p.get("Prefix", ""))]
        return {"Contents": [{"Key": key} for key in keys]}

    def _delete_objects(self, p):
        for one in p["Delete"]["Objects"]:
            self.buckets[p["Bucket"]].pop(one["Key"], None)

    def _delete_object(self, p):
        self._there(self.buckets, p["Bucket"]).pop(p["Key"], None)

    def _delete_bucket(self, p):
        if self._there(self.buckets, p["Bucket"]):
            raise refusal(AwsError, "s3", "delete_bucket", "BucketNotEmpty")
        del self.buckets[p["Bucket"]]

    def _head_object(self, p):
        body = self._there(self.buckets, p["Bucket"]).get(p["Key"])
        if body is None:
            raise refusal(AwsError, "s3", "head_object", "404")
        return {"ContentLength": len(body), "LastModified": datetime.now(UTC) - self.ages.get(p["Key"], timedelta())}

    def _put_object(self, p):
        self._there(self.buckets, p["Bucket"])[p["Key"]] = p["Body"]

    def _create_multipart_upload(self, p):
        self._there(self.buckets, p["Bucket"])
        id = f"upload-{len(self.uploads)}"
        self.uploads[id] = {"Bucket": p["Bucket"], "Key": p["Key"], "Initiated": datetime.now(UTC), "parts": {}}
        return {"UploadId": id}

    def _upload_part(self, p):
        self._there(self.uploads, p["UploadId"])["parts"][p["PartNumber"]] = p["Body"]
        return {"ETag": f"etag-{p['PartNumber']}"}

    def _complete_multipart_upload(self, p):
        if p["UploadId"] not in self.uploads:
            raise refusal(AwsError, "s3", "complete_multipart_upload", "NoSuchUpload")
        parts = self.uploads.pop(p["UploadId"])["parts"]
        assert p["MultipartUpload"]["Parts"] == [{"ETag": f"etag-{number}", "PartNumber": number} for number in sorted(parts)]
        self.buckets[p["Bucket"]][p["Key"]] = b"".join(parts[number] for number in sorted(parts))

    def _abort_multipart_upload(self, p):
        if self.uploads.pop(p["UploadId"], None) is None:
            raise refusal(AwsError, "s3", "abort_multipart_upload", "NoSuchUpload")

    def _list_multipart_uploads(self, p):
        mine = {id: one for id, one in self.uploads.items() if one["Bucket"] == p["Bucket"] and one["Key"].startswith(p.get("Prefix", ""))}
        return {"Uploads": [{"UploadId": id, "Key": one["Key"], "Initiated": one["Initiated"]} for id, one in mine.items()]}

    @staticmethod
    def _there(table, key):
        if key not in table:
            raise refusal(NotFound, "any", "any", "NotFoundException")
        return table[key] if isinstance(table, dict) else None


class FakeProfile(Profile):
    """A profile whose cloud is a FakeAws."""

    def aws(self):
        return self.cloud


def profile(cloud, home):
    made = FakeProfile("fake", "us-east-1", home=home)
    object.__setattr__(made, "cloud", cloud)
    return made


class Held:
    """Stops call number `k` (from 0), before it is applied or after; `at` is that call's operation, `release` lets all go on."""

    def __init__(self, cloud, k, *, applied=False):
        self.k, self.at, self._reached, self._seen = k, None, threading.Event(), itertools.count()
        self._gate, self._cloud = asyncio.Event(), cloud
        setattr(cloud, "after" if applied else "before", self._hook)

    async def _hook(self, service, operation, parameters):
        if next(self._seen) == self.k:
            self.at = operation
            self._reached.set()
            await self._gate.wait()

    def reached(self, launch):
        """Block until call `k` stands; False if the launch is done without it."""
        while not self._reached.wait(0.005):
            if launch.done():
                return False
        return True

    def release(self):
        self._gate.set()
        self._cloud.before = self._cloud.after = nothing
