"""A grid in one line: its machines come together, change their number without losing a call, and go together."""

import contextlib
import math

import pytest

from fleetctl import LaunchFailed, bring_up_grid, bring_up_one_spot, commands, teardown_all
from fleetctl.errors import FleetError, RequestInvalid
from fleetctl.states import MachineState
from gridworker import GridClosed
from gridworker.bogosity import bogosity

pytestmark = pytest.mark.cloud


async def test_a_grid_computes_on_its_machines_and_leaving_it_ends_them(session, oracle, request_):
    async with await bring_up_grid(request_, 2, each=2, session=session) as grid:
        assert await grid.requests([(math.factorial, number) for number in range(8)]) == [math.factorial(number) for number in range(8)]
        nodes = {name for name, node in grid.status().nodes.items() if node["kind"] == "worker"}
        assert nodes == {f"{one.instance_id}.{number}" for one in grid.machines.up for number in (1, 2)}
        load = commands.jobs("pool", grid.server, jobs=10, reclevel=1)
        done = await grid.server.run(load)
        assert {key: done.json()["result"][key] for key in ("asked", "done", "failed")} == {"asked": 10, "done": 10, "failed": 0}
        assert not any(word in repr((load, done, load.line)) for word in session.secret.split())
        assert len(oracle.living()) == 3
        assert "2 worker machines" in repr(grid)
    assert oracle.living() == set()
    with pytest.raises(GridClosed):
        await grid.request(math.factorial, 3)
    assert session.launches, "the session goes on"


async def test_a_grid_that_shrinks_loses_no_call_and_one_that_grows_has_more_hands(session, oracle, request_):
    grid = await bring_up_grid(request_, 3, each=1, session=session)
    answer = grid.requests([(bogosity, 200, number, 0, 0, "shrinking") for number in range(30)])
    machines = await grid.resize(1)
    assert len(machines.up) == 1
    assert sum(one.state is MachineState.GONE for one in machines.values()) == 2
    assert len(oracle.living()) == 2, "the server's, and one that works"
    assert len(await answer) == 30
    assert sum(grid.status().executed.values()) == 30, "what was given back was not begun"
    assert len((await grid.resize(2)).up) == 2
    workers = {name for name, node in grid.status().nodes.items() if node["kind"] == "worker"}
    assert {name.rpartition(".")[0] for name in workers} == {one.instance_id for one in grid.machines.up}
    receipt = await grid.teardown()
    assert receipt.remaining == ()
    assert oracle.living() == set()


async def test_a_server_that_was_there_before_serves_and_stays(session, oracle, request_):
    server = await bring_up_one_spot(request_, commands.server(), session=session, subnet="public")
    async with await bring_up_grid(request_, 1, each=1, server=server, distributors=1, session=session) as grid:
        assert await grid.request(math.factorial, 3) == 6
        assert len(oracle.living()) == 3
    assert len(oracle.living()) == 1
    await teardown_all(session=session)


async def test_workers_of_a_grid_are_ready_in_the_way_that_is_told_and_reached_through_its_server(session, request_):
    async with await bring_up_grid(request_, 2, each=1, ready="test -d /tmp", via="server", session=session) as grid:
        assert {one.via for one in grid.machines.values()} == {grid.server}
        assert len((await grid.machines.run("true")).succeeded) == 2
        assert grid._crews[0]._conductor.ready.word == "command"
        assert await grid.request(math.factorial, 5) == 120


async def test_a_grid_whose_workers_fail_leaves_nothing(session, oracle, request_, monkeypatch):
    monkeypatch.setattr(commands, "worker", lambda *_, **__: "echo no such worker; exit 9")
    with pytest.raises(LaunchFailed, match="no such worker"):
        await bring_up_grid(request_, 2, session=session)
    assert oracle.living() == set()


async def test_a_grid_that_is_given_up_leaves_nothing(session, oracle, request_):
    coming = bring_up_grid(request_, 2, session=session)
    assert str(coming.progress()).startswith("server: 0/1")
    await coming.cancel()
    with pytest.raises(FleetError, match="given up"):
        await coming
    assert oracle.living() == set()
    await coming.cancel()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"each": 0}, "each is a whole number"),
        ({"distributors": -1}, "distributors is a number"),
        ({"itype": 7}, "itype"),
        ({"workers": 0}, "n is the number of machines"),
    ],
)
def test_what_is_wrong_is_told_before_anything_costs(session, request_, wrong, words):
    with pytest.raises(RequestInvalid, match=words):
        bring_up_grid(request_, **{"workers": 2, "session": session, **wrong})
    assert session.launches == []


async def test_some_machines_of_a_launch_end_and_others_go_on(session, oracle, request_):
    from fleetctl import bring_up_spots, teardown

    machines = await bring_up_spots(request_, 3, "sleep 1000", session=session)
    going, *staying = machines.succeeded
    receipt = await teardown(going)
    assert [(line.id, line.proof) for line in receipt.lines] == [(going.instance_id, "terminated")]
    assert going.state is MachineState.GONE
    assert oracle.living() == {one.instance_id for one in staying}
    assert (await teardown([going])).lines == (), "it is gone already"
    final = await teardown_all(session=session)
    assert final.remaining == ()
    assert {line.id for line in final.found if line.thing == "instance"} == {one.instance_id for one in staying}
    with contextlib.suppress(FleetError):
        await teardown(staying)
