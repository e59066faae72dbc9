"""In-memory AWS in several regions, which lists what others have made too: for tests of what looks over a whole account."""

import itertools

from fake_aws import FakeAws
from fake_ec2 import refusal

from fleetctl.errors import AwsError
from fleetctl.profiles import Profile

STRANGER = "5eaf00d5eaf0"  # somebody else's session, whose ledger is on another computer


class Region(FakeAws):
    """One region with its neighbours: things of others, which nobody may touch, as `portraits` shows them."""

    def __init__(self, name, regions):
        super().__init__()
        self.region, self.regions = name, regions
        self._numbers = itertools.count(1 + 0x10000 * len(regions))  # ids are unique in the world
        regions[name] = self
        self.buckets = next(iter(regions.values())).buckets  # S3's namespace is the world's
        self.places, self.addresses = {}, {}
        self._settle()
        self.foreign = self.portraits()

    def _settle(self):
        stranger = [{"Key": "fleetctl:session", "Value": STRANGER}, {"Key": "fleetctl:expires", "Value": "2999-01-01T00:00:00Z"}]
        for tags in ([], [{"Key": "Name", "Value": "fleetctl:session"}], stranger):
            instance = self._instance(next(self._numbers), {}, spot=True)
            volume = f"vol-{next(self._numbers):08x}"
            self.volumes[volume] = {"VolumeId": volume, "instance": None, "goes": False}
            self.tags |= {instance: list(tags), volume: list(tags)}
            self.addresses[f"eipalloc-{next(self._numbers):08x}"] = tags
        for name in ("alarms", "fleetctl-alarms", f"fleetctl-{STRANGER}-0123abcd", "fleetctl-0123456789ab-0123abcd-dead-letters"):
            topic = self._create_topic({"Name": name, "Tags": stranger if STRANGER in name else []})["TopicArn"]
            url = self._create_queue({"QueueName": name, "Attributes": {"Policy": '{"Statement": [1]}'}})["QueueUrl"]
            self.tags[url] = self.tags[topic]
            self._subscribe({"TopicArn": topic, "Endpoint": f"arn:aws:sqs:{self.region}:123456789012:{name}"})
            self._create_bucket({"Bucket": f"{name}-{self.region}"})
            self.buckets[f"{name}-{self.region}"]["data"] = b"theirs"
        self.stored |= {"/database/password": "theirs", "/fleetctlx/0123456789ab/grid": "theirs", f"/fleetctl/{STRANGER}/grid-0a": "theirs"}

    def portraits(self):
        """Everything that there is, with its tags."""
        buckets = {name: dict(inside) for name, inside in self.buckets.items() if name in self.places}
        things = {**self.instances, **self.volumes, **self.templates, **dict.fromkeys(self.topics, "topic"), **self.subscriptions,
                  **dict.fromkeys(self.queues, "queue"), **self.stored, **buckets, **self.addresses}
        return {id: repr((one, self.tags.get(id))) for id, one in things.items()}

    def harmed(self):
        """What is foreign and not as it was."""
        now = self.portraits()
        return sorted(id for id, portrait in self.foreign.items() if now.get(id) != portrait)

    def ours(self):
        """What lives here and is not foreign."""
        return {id for id in self.left() | (self.places.keys() & self.buckets.keys()) if id not in self.foreign}

    # --- what a survey asks ---------------------------------------------------------------------------------------------------------

    def _create_topic(self, p):
        answer = super()._create_topic(p)
        self.tags[answer["TopicArn"]] = p.get("Tags", [])
        return answer

    def _create_queue(self, p):
        answer = super()._create_queue(p)
        self.tags[answer["QueueUrl"]] = [{"Key": key, "Value": value} for key, value in p.get("tags", {}).items()]
        return answer

    def _describe_regions(self, p):
        return {"Regions": [{"RegionName": name} for name in self.regions]}

    def _get_caller_identity(self, p):
        return {"Account": "123456789012"}

    def _list_topics(self, p):
        return {"Topics": [{"TopicArn": one} for one in sorted(self.topics)]}

    def _list_subscriptions(self, p):
        return {"Subscriptions": [{"SubscriptionArn": arn, "Endpoint": url.rpartition("/")[2]} for arn, url in self.subscriptions.items()]}

    def _list_queues(self, p):
        return {"QueueUrls": [url for url in self.queues if url.rpartition("/")[2].startswith(p["QueueNamePrefix"])]}

    def _describe_parameters(self, p):
        [wanted] = p["ParameterFilters"]
        return {"Parameters": [{"Name": name} for name in self.stored if name.startswith(wanted["Values"][0])]}

    def _create_bucket(self, p):
        self.places[p["Bucket"]] = None if self.region == "us-east-1" else self.region
        return super()._create_bucket(p)

    def _get_bucket_location(self, p):
        places = {name: place for region in self.regions.values() for name, place in region.places.items()}
        return {"LocationConstraint": places[p["Bucket"]]}

    def _list_buckets(self, p):
        return {"Buckets": [{"Name": name} for name in self.buckets]}

    def _list_tags_for_resource(self, p):
        return {"Tags": self.tags[p["ResourceArn"]]}

    def _list_queue_tags(self, p):
        return {"Tags": {tag["Key"]: tag["Value"] for tag in self.tags[p["QueueUrl"]]}}

    def _get_bucket_tagging(self, p):
        tags = next(filter(None, (region.tags.get(p["Bucket"]) for region in self.regions.values())), None)
        if tags is None:
            raise refusal(AwsError, "s3", "get_bucket_tagging", "NoSuchTagSet")
        return {"TagSet": tags}

    def _delete_bucket(self, p):
        assert p["Bucket"] in self.places, "S3 sends whoever asks another region elsewhere"
        return super()._delete_bucket(p)

    def _describe_addresses(self, p):
        rows = [{"AllocationId": id, "Tags": tags} for id, tags in self.addresses.items() if tags]
        return {"Addresses": [row for row in rows if any(tag["Key"] in p["Filters"][0]["Values"] for tag in row["Tags"])]}


def world(home, *names):
    """A profile at the first of these regions, and the regions by their names."""
    regions = {}
    for name in names:
        Region(name, regions)

    class World(Profile):
        """The profile of an account with several regions."""

        def aws(self):
            return regions[self.region]

    return World("world", names[0], home=home), regions
