"""An AWS in memory, whose machines report as soon as they run: for tests that stop, delay or refuse single calls.

It speaks only the operations that a session uses, with AWS's parameters and answers. The real protocol is met by the tests on the local
cloud. `calls` records every call; `before` and `after` are awaited around each, and may wait or raise. All on one event loop.
"""

import asyncio
import itertools
import json
import threading
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

from fleetctl.errors import AwsError, NotFound
from fleetctl.messages import Phase, Report
from fleetctl.profiles import Profile

REQUEST = {"SpotPrice": "0.01", "LaunchSpecification": {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.micro"}}
READS = ("describe_", "get_", "receive_", "publish", "delete_message")


def refusal(kind, service, operation, code):
    return kind(f"{service} {operation} was refused with {code}", service=service, operation=operation, code=code)


async def nothing(service, operation, parameters):
    """The hook that does nothing."""


class FakeAws:
    """`fill`, `boot` and `end` are seconds until a request has its instance, an instance reports, a terminated one is gone; `boot` may be
    a function of the machine's number. Ids in `protected` may not be terminated. `phase` is what machines report, None for silence.
    """

    region = "us-east-1"

    def __init__(self, *, fill=0.0, boot=0.0, end=0.0, phase=Phase.READY):
        self.fill, self.boot, self.end, self.phase = fill, boot if callable(boot) else lambda number: boot, end, phase
        self.before = self.after = nothing
        self.calls, self.parameters = [], []
        self.requests, self.instances, self.tokens, self.tags = {}, {}, {}, {}
        self.topics, self.queues, self.subscriptions, self.stored = set(), {}, {}, {}
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
        spoken = ("describe_", "request_", "cancel_", "terminate_", "create_tags")
        return Counter(name for name in self.calls if name.startswith(spoken))

    def alive(self):
        """What costs money, or will: living instances and open requests."""
        running = {key for key, one in self.instances.items() if "ended" not in one}
        return running | {key for key, one in self.requests.items() if one["State"] == "open"}

    def left(self):
        """Everything that a teardown has to end."""
        return self.alive() | self.topics | {*self.queues} | {*self.subscriptions} | {*self.stored}

    # --- EC2 ------------------------------------------------------------------------------------------------------------------------

    def _request_spot_instances(self, p):
        if p["ClientToken"] not in self.tokens:
            numbers = [next(self._numbers) for _ in range(p["InstanceCount"])]
            self.tokens[p["ClientToken"]] = keys = [f"sir-{number:08x}" for number in numbers]
            for key, number in zip(keys, numbers, strict=True):
                self.tags[key] = list(p["TagSpecifications"][0]["Tags"])
                self.requests[key] = {"SpotInstanceRequestId": key, "State": "open", "Status": {"Code": "pending-evaluation"}}
                self._later(self.fill, self._fulfil, key, number, p["ClientToken"])
        return {"SpotInstanceRequests": [dict(self.requests[key]) for key in self.tokens[p["ClientToken"]]]}

    def _fulfil(self, key, number, launch):
        request = self.requests[key]
        if request["State"] == "open":
            instance = request["InstanceId"] = f"i-{number:08x}"
            request |= {"State": "active", "Status": {"Code": "fulfilled"}}
            self.instances[instance] = {"InstanceId": instance, "LaunchTime": datetime.now(UTC), "InstanceType": "t3.micro", "request": key}
            self._later(self.boot(number), self.report, instance, launch)

    def report(self, instance, launch):
        """The machine speaks to every topic, if it still runs."""
        if self.phase is not None and "ended" not in self.instances[instance]:
            code = 1 if self.phase is Phase.FAILED else None
            said = Report(UUID(launch), instance, self.phase, seq=1, ip="10.0.0.1", exit_code=code, tail="no\n" if code else "")
            self._publish({"Message": said.encode()})

    def _describe_spot_instance_requests(self, p):
        [value] = p["Filters"][0]["Values"]
        tag = p["Filters"][0]["Name"].removeprefix("tag:")
        found = [key for key in self.requests if {"Key": tag, "Value": value} in self.tags[key]]
        rows = [{**self.requests[key], "Tags": self.tags[key]} for key in found]
        for row in rows:
            if row["SpotInstanceRequestId"] in self.hidden:
                row.pop("InstanceId", None)
        return {"SpotInstanceRequests": rows}

    def _cancel_spot_instance_requests(self, p):
        for key in p["SpotInstanceRequestIds"]:
            if key not in self.requests:
                raise refusal(NotFound, "ec2", "cancel_spot_instance_requests", "InvalidSpotInstanceRequestID.NotFound")
        for key in p["SpotInstanceRequestIds"]:
            one = self.requests[key]
            if one["State"] in ("open", "active"):
                code = "request-canceled-and-instance-running" if "InstanceId" in one else "canceled-before-fulfillment"
                one |= {"State": "cancelled", "Status": {"Code": code}}

    def _describe_instances(self, p):
        [wanted] = [one["Values"] for one in p["Filters"]]
        found = [self.instances[key] for key in wanted if key in self.instances]
        return {"Reservations": [{"Instances": [{**one, "State": {"Name": self._state(one)}} for one in found]}]}

    def _state(self, one):
        if "ended" not in one:
            return "running"
        return "terminated" if asyncio.get_running_loop().time() >= one["ended"] + self.end else "shutting-down"

    def _terminate_instances(self, p):
        for key in p["InstanceIds"]:
            if key not in self.instances:
                raise refusal(NotFound, "ec2", "terminate_instances", "InvalidInstanceID.NotFound")
            if key in self.protected:
                raise refusal(AwsError, "ec2", "terminate_instances", "OperationNotPermitted")
        for key in p["InstanceIds"]:
            one = self.instances[key]
            one.setdefault("ended", asyncio.get_running_loop().time())
            self.requests[one["request"]]["Status"] = {"Code": "instance-terminated-by-user"}

    def _create_tags(self, p):
        for key in p["Resources"]:
            self.tags.setdefault(key, []).extend(p["Tags"])

    def _describe_spot_price_history(self, p):
        return {"SpotPriceHistory": [{"InstanceType": kind, "AvailabilityZone": "us-east-1a", "SpotPrice": "0.0031"}
                                     for kind in p["InstanceTypes"]]}

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
        arn = f"{p['TopicArn']}:1"
        [url] = [url for url in self.queues if url.endswith(p["Endpoint"].rpartition(":")[2])]
        self.subscriptions[arn] = self._there(self.topics, p["TopicArn"]) or url
        return {"SubscriptionArn": arn}

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
        self.topics.discard(p["TopicArn"])

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
        self._there(self.stored, p["Name"])

    @staticmethod
    def _there(table, key):
        if key not in table:
            raise refusal(NotFound, "any", "any", "NotFoundException")
        return table[key] if isinstance(table, dict) else None

    @staticmethod
    def _later(seconds, do, *arguments):
        asyncio.get_running_loop().call_later(seconds, do, *arguments)


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
