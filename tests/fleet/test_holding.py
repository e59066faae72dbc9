"""Events and locks stand on the machine itself: whoever reaches it sees the same, and of several who want a lock one has it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from openssh import openssh  # noqa: F401  the fixture

from fleetctl import hosts
from fleetctl.errors import MachineError, RequestInvalid
from fleetctl.reach import holding


@pytest.fixture
def two(openssh):  # noqa: F811
    """One machine as two controllers see it."""
    server = openssh()
    told = [{**server.said, "name": "box"}]
    with hosts(told, host_key=server.host_key) as ours, hosts(told, host_key=server.host_key) as theirs:
        yield ours["box"], theirs["box"]


async def test_an_event_that_one_has_written_down_another_one_sees(two):
    one, other = two
    assert await other.events() == {}
    await one.mark("installed", "version 3\nof it")
    await one.mark("installed", "version 4")
    seen = (await other.events())["installed"]
    assert (seen.name, seen.text) == ("installed", "version 4")
    assert abs(seen.at - datetime.now(UTC)) < timedelta(minutes=5)


async def test_of_many_who_want_a_lock_one_has_it_at_a_time(two):
    inside, most, turns = 0, 0, 0

    async def work(machine):
        nonlocal inside, most, turns
        async with machine.lock("deploy", wait=60):
            inside += 1
            most, turns = max(most, inside), turns + 1
            await asyncio.sleep(0.05)
            inside -= 1

    await asyncio.gather(*(work(machine) for machine in two for _ in range(3)))
    assert (most, turns) == (1, 6)
    assert await two[0].events() == {}


async def test_a_lock_that_is_held_is_an_error_that_names_its_holder(two):
    one, other = two
    async with one.lock("deploy"):
        with pytest.raises(MachineError, match=r"holds the lock 'deploy' on box") as caught:
            async with other.lock("deploy"):
                pytest.fail("it is held")
        assert caught.value.fields["holder"].startswith(holding.me())
        assert set(await other.events()) == {"lock.deploy"}
    async with other.lock("deploy"):
        pass


async def test_a_lock_ends_some_time_after_its_holder_and_not_before(two):
    one, other = two
    lock = holding.held(one.link(), "deploy", 6.0, 0.0, "box")
    loop = one.home._background.loop

    async def enter_and_die():
        before = asyncio.all_tasks()
        await lock.__aenter__()
        for task in asyncio.all_tasks() - before:
            task.cancel()  # nobody renews it any more, and nobody lets go

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(enter_and_die(), loop))
    with pytest.raises(MachineError, match="holds the lock"):
        async with other.lock("deploy"):
            pass
    async with other.lock("deploy", wait=60):
        pass


async def test_a_lock_is_renewed_while_its_block_runs(two):
    one, other = two

    async def end():
        return int((await other.events())["lock.deploy"].text.split()[0])

    async with one.lock("deploy", seconds=6), asyncio.timeout(60):
        first = await end()
        while await end() == first:  # noqa: ASYNC110  what changes is on the machine
            await asyncio.sleep(0.2)


async def test_whoever_stops_waiting_for_a_lock_never_gets_it(two):
    one, other = two
    async with one.lock("deploy"):
        async def want():
            async with other.lock("deploy", wait=600):
                pytest.fail("nobody waits any more")

        waiting = asyncio.create_task(want())
        await other.run("true")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.sleep(2 * holding.WAIT_SECONDS)
    assert await one.events() == {}


@pytest.mark.parametrize("name", ["", "../x", "a b", "lock.x", ".hidden", "x" * 65])
async def test_a_name_that_could_be_a_path_is_refused(two, name):
    with pytest.raises(RequestInvalid):
        two[0].mark(name)
    with pytest.raises(RequestInvalid):
        async with two[0].lock(name):
            pass
