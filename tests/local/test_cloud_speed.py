"""What the daemon costs: it shares two cores with a hundred booting machines, so nothing may grow with what it holds.

Processor time is compared with processor time of the same run: how fast a computer is, no test can know.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cloud


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of(world: Any, work: Callable[[], None]) -> float:
    before = cpu(world.cloud.pid)
    work()
    return cpu(world.cloud.pid) - before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_calls_of_the_hundredth_machine_cost_what_those_of_the_first_do(world: Any) -> None:
    topic, _ = world.channel()
    ssm = world.client("ssm")
    ssm.put_parameter(Name="/speed", Value="x" * 100, Type="SecureString")

    def machines() -> None:
        for _ in range(25):
            ssm.get_parameter(Name="/speed", WithDecryption=True)
            for _ in range(3):
                world.sns.publish(TopicArn=topic, Message="x" * 600)

    machines()  # everything is loaded
    first, _, _, fourth = [cpu_of(world, machines) for _ in range(4)]
    assert fourth < 3 * first + 0.2
    ssm.delete_parameter(Name="/speed")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_full_queue_is_as_quick_as_an_empty_one(world: Any) -> None:
    _, url = world.channel()
    batch = [{"Id": str(number), "MessageBody": "x"} for number in range(10)]
    for _ in range(100):
        world.sqs.send_message_batch(QueueUrl=url, Entries=batch)

    def half() -> None:
        seen = 0
        while seen < 500:
            found = world.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
            seen += len(found)
            world.sqs.delete_message_batch(QueueUrl=url, Entries=[
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(found)])

    full, emptier = cpu_of(world, half), cpu_of(world, half)
    assert full < 3 * emptier + 0.2
    assert "Messages" not in world.sqs.receive_message(QueueUrl=url)
