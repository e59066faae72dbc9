"""Faults that seeds have found, each by itself."""

from fake_aws import FakeAws
from virtual import EPOCH, run

from fleetctl.ending.estate import Estate
from fleetctl.ending.things import end_things
from fleetctl.errors import LedgerError
from fleetctl.ledger import Entry

TOPIC = "arn:aws:sns:us-east-1:123456789012:reports"
QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/reports"
ASKED = {"Name": "reports", "Tags": []}


def entry(number, service, operation, request, result):
    return Entry(number, EPOCH, None, service, operation, "us-east-1", None, request, result, None)


def test_a_topic_that_looking_for_it_has_made_anew_is_deleted_anew():
    async def main():
        cloud = FakeAws()
        entries = [entry(1, "sns", "create_topic", ASKED, None),  # the disk refused its result
                   entry(2, "sns", "delete_topic", {"TopicArn": TOPIC}, {})]
        [line] = await end_things(cloud.call, Estate.read("s", "us-east-1", entries))
        assert line.gone is not None
        assert cloud.left() == set()

    run(main())


def test_a_topic_that_was_made_after_its_end_has_to_be_ended_again():
    entries = [entry(1, "sns", "create_topic", ASKED, {"TopicArn": TOPIC}), entry(2, "sns", "delete_topic", {"TopicArn": TOPIC}, {}),
               entry(3, "sns", "create_topic", ASKED, {"TopicArn": TOPIC})]
    assert Estate.read("s", "us-east-1", entries[:2]).ended
    assert not Estate.read("s", "us-east-1", entries).ended


def test_a_full_disk_keeps_a_teardown_from_nothing_that_it_knows():
    async def main():
        cloud = FakeAws()
        cloud.queues[QUEUE] = []

        async def call(service, operation, /, **parameters):
            if operation == "create_topic":
                raise LedgerError("the ledger could not be written", todo="free the disk")
            return await cloud.call(service, operation, **parameters)

        entries = [entry(1, "sns", "create_topic", ASKED, None),
                   entry(2, "sqs", "create_queue", {"QueueName": "reports"}, {"QueueUrl": QUEUE})]
        lines = {line.thing: line for line in await end_things(call, Estate.read("s", "us-east-1", entries))}
        assert cloud.left() == set()
        assert lines["queue"].gone is not None
        assert lines["topic"].gone is None
        assert "free the disk" in lines["topic"].todo

    run(main())
