"""An in-memory AWS with weather: the one of the fleet's tests, on a clock of its own, where everything can go wrong that a seed asks for.

What is `foreign` in it was there before, and must be there after. What really happened is in `made`, `spoke` and `alive()`: the oracle.
"""

import asyncio
import random
from datetime import UTC, datetime
from uuid import UUID

from fake_aws import FakeAws
from fake_ec2 import ZONE, refusal
from virtual import EPOCH
from weather import Weather

from fleetctl.errors import AwsError, Network, Throttled
from fleetctl.messages import Phase, Report
from fleetctl.profiles import Profile

IDS = {"SpotInstanceRequests": "SpotInstanceRequestId", "Reservations": "InstanceId", "Volumes": "VolumeId", "Fleets": "FleetId",
       "LaunchTemplates": "LaunchTemplateId"}
BEAT = 90.0  # seconds between the reports of a machine
VISIBILITY = 30.0  # seconds until a message that was not deleted comes again
TRIES = 3  # of a call; botocore makes five
SPOKEN = 24  # reports of a machine: what says more adds time only


class World(FakeAws):
    """`clock` is its time, `weather` what goes wrong. Controllers reach it through a `Port` each."""

    def __init__(self, seed, clock, weather):
        super().__init__()
        self.clock, self.weather, self.draw = clock, weather, random.Random(f"world {seed}")
        self.seen_at, self.shown_at = {}, {}  # when a thing is seen, when a request shows its instance
        self.rooms, self.prices, self.tokens_left = {}, {}, (0.0, 5.0)
        self.made = {}  # launch -> its instances, ever
        self.spoke = set()  # instances that said that they are ready
        self.point = lambda: None  # called before and after each call is applied
        self._waiters, self._stray = set(), None
        self.foreign = self._settlers()

    def _settlers(self):
        """What others have in the account: nothing of it may be touched."""
        for number, tags in enumerate(([], [{"Key": "fleetctl:session", "Value": "another"}], [{"Key": "Name", "Value": "database"}]), 1):
            instance, request = self._instance(0xF0000 + number, {}, spot=True), f"sir-000f000{number}"
            self.requests[request] = {"SpotInstanceRequestId": request, "State": "active", "Status": {"Code": "fulfilled"},
                                      "InstanceId": instance, "LaunchSpecification": {}}
            self.instances[instance]["request"] = request
            self.tags |= {instance: list(tags), request: list(tags)}
        self.topics.add("arn:aws:sns:us-east-1:123456789012:alarms")
        self.queues["https://sqs.us-east-1.amazonaws.com/123456789012/jobs"] = []
        self.stored["/database/password"] = "theirs"
        return {key: self._portrait(key) for key in self.left()}

    def _portrait(self, key):
        one = self.instances.get(key) or self.requests.get(key) or self.volumes.get(key) or {}
        return repr((sorted(one.items(), key=str), self.tags.get(key)))

    def harmed(self):
        """What was touched of what is foreign."""
        there = self.left()
        return sorted(key for key, portrait in self.foreign.items() if key not in there or self._portrait(key) != portrait)

    def ours(self):
        """Everything that is left and is not foreign."""
        return {key for key in self.left() if key not in self.foreign}

    def alive_of(self, launch):
        """Living instances of a launch."""
        return {one for one in self.made.get(launch, ()) if "ended" not in self.instances[one]}

    def clear(self):
        """From now on nothing goes wrong. What is on its way goes on."""
        self.weather = Weather(boot=5.0)
        self.rooms.clear()

    # --- a call ---------------------------------------------------------------------------------------------------------------------

    async def served(self, port, service, operation, parameters):
        """One call of a controller, through the weather."""
        self.calls.append(operation)
        self.parameters.append(parameters)
        self.point()
        port.living()
        await asyncio.sleep(self.draw.uniform(0.01, 0.1 + self.weather.slow))
        fault = self._fault()
        if fault == "throttled" or self._empty(service):
            raise refusal(Throttled, service, operation, "RequestLimitExceeded")
        if fault == "unanswered":
            raise refusal(Network, service, operation, "ConnectTimeoutError")
        if fault == "applied_late" and service == "ec2":  # what has a name and no token may be made anew after its end: nobody can tell
            self._later(self.draw.uniform(1, 20), self._quietly, operation, parameters)
            raise refusal(Network, service, operation, "ReadTimeoutError")
        if fault == "broken" and self.draw.random() < 0.5:
            raise refusal(Network, service, operation, "InternalError")
        port.living()
        answer = getattr(self, f"_{operation}")(parameters)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        self.point()
        port.living()
        if fault in ("answer_lost", "broken"):
            raise refusal(Network, service, operation, "ReadTimeoutError" if fault == "answer_lost" else "InternalError")
        return answer or {}

    def _fault(self):
        drawn = self.draw.random()
        for kind in ("throttled", "unanswered", "answer_lost", "applied_late", "broken"):
            drawn -= getattr(self.weather, kind)
            if drawn < 0:
                return kind
        return ""

    def _empty(self, service):
        """Is EC2's token bucket empty?"""
        if not self.weather.buckets or service != "ec2":
            return False
        at, left = self.tokens_left
        left = min(5.0, left + (self.clock.now - at) * self.weather.buckets)
        self.tokens_left = self.clock.now, max(0.0, left - 1)
        return left < 1

    def _quietly(self, operation, parameters):
        """A call whose sender has given up; a token that has been used meanwhile makes nothing more."""
        if parameters.get("ClientToken") in self.tokens:
            return
        try:
            answer = getattr(self, f"_{operation}")(parameters)
            if asyncio.iscoroutine(answer):
                answer.close()
        except AwsError:
            return

    # --- what is seen ---------------------------------------------------------------------------------------------------------------

    def _unseen(self, key):
        return self.seen_at.get(key, 0.0) > self.clock.now

    def _tag(self, p, kind, key):
        self.seen_at[key] = self.clock.now + self.draw.uniform(0, self.weather.lag)
        super()._tag(p, kind, key)

    def _known(self, table, keys, operation, code):
        FakeAws._known({key: one for key, one in table.items() if not self._unseen(key)}, keys, operation, code)

    def _page(self, names, rows, key, p):
        rows = [row for row in rows if not self._unseen(row[IDS[key]])]
        if "MaxResults" in p:
            p = {**p, "MaxResults": min(self.weather.pages, p["MaxResults"])}
        return super()._page(names, rows, key, p)

    def _request_row(self, key):
        row = super()._request_row(key)
        if self.shown_at.get(key, 0.0) > self.clock.now:
            row.pop("InstanceId", None)
            if row["State"] == "active":
                row |= {"State": "open", "Status": {"Code": "pending-fulfillment"}}
        return row

    # --- the market -----------------------------------------------------------------------------------------------------------------

    def grant(self, kind, zone, wanted, least, spot):
        left = self._room(kind, zone, wanted)
        granted = min(left, wanted)
        if granted < least or (spot and self._dear(kind, zone)):
            return 0, "SpotMaxPriceTooLow" if spot and self._dear(kind, zone) else "InsufficientInstanceCapacity"
        self.rooms[kind, zone] = left - granted
        return granted, "InsufficientInstanceCapacity"

    def _room(self, kind, zone, wanted):
        if self.weather.room >= 1:
            return wanted
        return self.rooms.setdefault((kind, zone), int(self.weather.room * wanted * self.draw.uniform(0.3, 1.5)))

    def _dear(self, kind, zone):
        return self.prices.setdefault((kind, zone), self.draw.random()) < self.weather.dear

    def _requested(self, p):
        keys = super()._requested(p)
        for key in keys:
            self._later(p["ValidUntil"].timestamp() - EPOCH - self.clock.now, self._expire, key)
        return keys

    def _expire(self, key):
        if self.requests[key]["State"] == "open":
            self.requests[key] |= {"State": "closed", "Status": {"Code": "schedule-expired"}}

    def _fulfil(self, key, number):
        request = self.requests[key]
        spec = request["LaunchSpecification"]
        pool = spec.get("InstanceType", "t3.micro"), spec.get("Placement", {}).get("AvailabilityZone", ZONE)
        if request["State"] != "open":
            return
        if "due" not in request:
            request["due"] = self.clock.now + self.draw.uniform(0, self.weather.fill)
            if self.draw.random() < self.weather.bad:
                request |= {"State": "failed", "Status": {"Code": "bad-parameters"}}
        if request["State"] == "open" and self.clock.now < request["due"]:
            request["Status"] = {"Code": "pending-fulfillment"}
        elif self._dear(*pool):
            request["Status"] = {"Code": "price-too-low"}
        elif self._room(*pool, 1 + len(self.requests) // 2) < 1:
            request["Status"] = {"Code": "capacity-not-available"}
        else:
            if self.weather.room < 1:
                self.rooms[pool] -= 1
            super()._fulfil(key, number)
            self.shown_at[key] = self.clock.now + self.draw.uniform(0, self.weather.lag)
        if request["State"] == "open":
            self._later(max(1.0, min(20.0, request["due"] - self.clock.now)), self._fulfil, key, number)

    # --- machines -------------------------------------------------------------------------------------------------------------------

    def _boot(self, instance, launch):
        """A machine begins to live: it may say nothing, fail, die or be taken back."""
        self.made.setdefault(launch, []).append(instance)
        self.seen_at.setdefault(instance, self.clock.now + self.draw.uniform(0, self.weather.lag))
        weather, draw = self.weather, self.draw
        booted = draw.uniform(0.5, weather.boot)
        if draw.random() < weather.dying:
            self._later(draw.uniform(0, 3 * weather.boot), self._end_instance, instance, "instance-terminated-by-user")
        if draw.random() < weather.interrupted:
            self._later(draw.uniform(0, 3 * weather.boot), self._take, instance, launch)
        if draw.random() >= weather.silent:
            last = Phase.FAILED if draw.random() < weather.failing else Phase.READY
            self._later(booted, self._say, instance, launch, Phase.BOOTED, 1)
            self._later(booted + draw.uniform(0, 5), self._say, instance, launch, last, 2)

    def _take(self, instance, launch):
        self._say(instance, launch, Phase.INTERRUPTED, 1000)
        self._later(120, self._end_instance, instance, "instance-terminated-no-capacity")

    def _say(self, instance, launch, phase, seq):
        """One report, and the next ones after it: the state goes out again and again."""
        if "ended" in self.instances[instance]:
            return
        if phase is Phase.READY:
            self.spoke.add(instance)
        code = 1 if phase is Phase.FAILED else None
        body = Report(UUID(launch), instance, phase, seq=seq, ip="10.0.0.1", exit_code=code, tail="no\n" if code else "").encode()
        self._publish({"Message": body})
        if phase is not Phase.BOOTED and seq < SPOKEN:
            self._later(BEAT, self._say, instance, launch, phase, seq + 1)

    # --- messages -------------------------------------------------------------------------------------------------------------------

    def _publish(self, p):
        weather, draw, body = self.weather, self.draw, p["Message"]
        if draw.random() < weather.lost:
            return
        if draw.random() < weather.garbled:
            at = draw.randrange(len(body))
            body = (body[:at] + chr(33 + draw.randrange(90)) + body[at + 1:])[:draw.randrange(1, 2 * len(body))]
        for _ in range(2 if draw.random() < weather.doubled else 1):
            if draw.random() < weather.late:
                self._later(draw.uniform(1, 200), self._deliver, body)
            elif draw.random() < weather.reordered and self._stray is None:
                self._stray = body
            else:
                self._deliver(body)
                if self._stray is not None:
                    stray, self._stray = self._stray, None
                    self._deliver(stray)

    def _deliver(self, body):
        super()._publish({"Message": body})
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    async def _receive_message(self, p):
        """A long poll; what is not deleted in time comes again."""
        queue = self._there(self.queues, p["QueueUrl"])
        if not queue:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                async with asyncio.timeout(p["WaitTimeSeconds"]):
                    await waiter
            except TimeoutError:
                return {}
            finally:
                self._waiters.discard(waiter)
        messages, queue[:10] = queue[:10], []
        for message in messages:
            message["out"] = True
            self._later(VISIBILITY, self._again, p["QueueUrl"], message)
        return {"Messages": messages}

    def _again(self, url, message):
        if message["out"] and url in self.queues:
            self.queues[url].append(message)

    def _delete_message_batch(self, p):
        self._there(self.queues, p["QueueUrl"])
        gone = {one["ReceiptHandle"] for one in p["Entries"]}
        for *_, do, arguments in self.clock._tasks:
            if do == self._again and arguments[1]["ReceiptHandle"] in gone:
                arguments[1]["out"] = False
        return {"Successful": p["Entries"]}

    # --- the clock ------------------------------------------------------------------------------------------------------------------

    def time(self):
        return self.clock.now

    def utc(self):
        return datetime.fromtimestamp(EPOCH + self.clock.now, UTC)

    def _later(self, seconds, do, *arguments):
        self.clock.later(max(0.0, seconds), do, *arguments)


class Port:
    """One controller's way to the world. When it is `dead`, nothing comes through any more in either direction."""

    region, endpoint_url = "us-east-1", None

    def __init__(self, world):
        self.world, self.dead = world, False

    async def call(self, service, operation, /, *, launch=None, **parameters):
        """As botocore's standard mode, it tries again what got no answer, or was told to wait."""
        for attempt in range(TRIES):
            self.living()
            try:
                return await self.world.served(self, service, operation, parameters)
            except (Throttled, Network):
                if attempt == TRIES - 1:
                    raise
            await asyncio.sleep(self.world.draw.uniform(0, 2**attempt))
        raise AssertionError

    def living(self):
        if self.dead:
            raise asyncio.CancelledError

    async def close(self):
        """There is nothing to close."""


class WorldProfile(Profile):
    """A profile whose cloud is a World; each controller gets a port of its own."""

    def aws(self):
        self.ports.append(Port(self.world))
        return self.ports[-1]


def profile(world, home):
    made = WorldProfile("chaos", "us-east-1", home=home)
    object.__setattr__(made, "world", world)
    object.__setattr__(made, "ports", [])
    return made
