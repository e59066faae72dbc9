"""Big values are stored once and fetched by reference: past the scripts, without copies, for as long as a call needs them."""

from __future__ import annotations

import pickle
from contextlib import closing
from typing import TYPE_CHECKING, Any

import big_calls as big
import grid_calls as calls
import numpy
import pytest
from grid_lab import Lab, lines, until
from hypothesis import given
from hypothesis import strategies as st
from proxy import Proxy

from gridworker import GridFull, NotTrusted, PartsGone, TooBig, blobs, salted
from gridworker.parts import BIG, Aside, load, parts_of
from gridworker.serialize import Functions, call_id, decode_arguments, encode_arguments
from gridworker.store import Connection, Script

if TYPE_CHECKING:
    from gridworker import Grid

N = 40_000                                  # of 8 bytes: big
MIB = 1 << 20


def stored(lab: Lab, connection: Connection, what: str = "*") -> list[str]:
    """The names of the parts on the server."""
    key = lab.keys.part("")
    return sorted(found.decode()[len(key):] for found in connection.call("KEYS", key + what))


def encoded(*args: Any, **kwargs: Any) -> tuple[bytes, str, list[Any]]:
    """What travels, the call's id, its parts."""
    aside = Aside()
    data, hashed = encode_arguments(args, kwargs, aside)
    return data, call_id(Functions().reference(calls.inc), hashed), aside.parts


# values in parts

arrays = st.integers(0, 20).map(lambda n: numpy.arange(n * 2000) * 1.5)
things = st.recursive(st.one_of(st.integers(), st.text(max_size=5), st.sampled_from([b"x" * 10, b"y" * BIG, "z" * (2 * BIG)]), arrays),
                      lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)),
                      max_leaves=8)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, numpy.ndarray):
        return isinstance(other, numpy.ndarray) and bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(st.tuples(things, things), st.dictionaries(st.sampled_from("ab"), things))
def test_arguments_come_back_from_their_parts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    data, _, parts = encoded(*args, **kwargs)
    assert len(data) < 10 * BIG
    assert same((args, kwargs), decode_arguments(data, [bytearray(part.data) for part in parts]))


@given(things)
def test_a_call_has_one_id_wherever_its_big_arguments_lie(thing: Any) -> None:
    assert encoded(thing, 1)[1] == encoded(pickle.loads(pickle.dumps(thing)), 1)[1]


def test_one_number_in_a_big_argument_makes_another_call() -> None:
    array = numpy.zeros(N)
    before = encoded([array], x=1)[1]
    array[N // 2] = 1e-300
    assert encoded([array], x=1)[1] != before
    assert encoded(numpy.zeros(N))[1] != encoded(numpy.zeros(N, dtype="int64"))[1]
    assert encoded(b"x" * BIG)[1] != encoded("x" * BIG)[1]


def test_the_same_array_in_many_calls_is_one_part_and_hashed_once() -> None:
    aside, array, found = Aside(), numpy.ones(N), set()
    for number in range(5):
        encode_arguments((array, number), {}, aside)
        found |= {id(part) for part in aside.parts}
    assert len(found) == 1


def test_what_is_not_a_body_in_parts_is_refused() -> None:
    for garbage in (b"", b"&", b"&-\n", b"&x0:1:\n", b"&-name:1\n", b"&-name:x:\n", b"&-name:1:"):
        with pytest.raises(ValueError):
            parts_of(garbage)


# on a grid

def test_arrays_come_and_go_whole_and_can_be_written(grid: Grid) -> None:
    array = numpy.arange(N, dtype="float64")
    got = grid.request("pool", big.add, array, 1.0).result(20)
    assert (got == array + 1).all()
    got += 1                                # numpy's users expect that
    assert not got.flags.owndata            # it lies where it was read to
    assert grid.request("pool", big.in_place, array).result(20) == array.sum() + N
    assert array[0] == 0


@pytest.mark.parametrize("key", [True, False], ids=["signed", "bare"])
def test_values_of_every_kind_and_many_parts(lab: Lab, monkeypatch: pytest.MonkeyPatch, key: bool) -> None:
    if not key:
        monkeypatch.delenv("GRIDWORKER_SECRET_FILE", raising=False)
        lab.secret.write_text(f"{lab.server.password}\n")
    lab.workers(1)
    grid = lab.client(key=lab.key if key else None)
    value = {"many": [numpy.full(20_000, i) for i in range(40)], "text": "ä" * BIG, "bytes": bytes(3 * BIG), "array": bytearray(2 * BIG),
             "fortran": numpy.ones((300, 200)).T, "strided": numpy.arange(4 * N)[::2], "small": numpy.arange(3)}
    assert same(grid.request("pool", big.identity, value).result(20), value)
    assert grid.request("pool", big.texts, 30_000).result(20) == big.texts(30_000)
    assert grid.request("pool", calls.length, "x" * MIB).result(20) == MIB


def test_scripts_carry_references_only_and_equal_arguments_lie_there_once(lab: Lab, connection: Connection) -> None:
    grid, array = lab.client(), numpy.ones(N)
    answer = grid.requests("pool", [(big.total, array, float(i)) for i in range(30)])
    more = [grid.request("pool", big.total, numpy.ones(N), float(i)) for i in range(30, 40)]
    until(lambda: connection.call("LLEN", lab.keys.queue("pool")) == 40, "the calls")
    assert max(map(len, connection.call("LRANGE", lab.keys.queue("pool"), 0, -1))) < 1000
    assert len(stored(lab, connection)) == 1
    assert len({id(part) for parts in grid._blobs._held.values() for part in parts}) == 1
    lab.workers(2)
    assert answer.result(20) == [float(N + i) for i in range(30)]
    assert [each.result(20) for each in more] == [float(N + i) for i in range(30, 40)]
    assert not grid._blobs._held
    result = grid.request("pool", big.ones, N)
    assert result.result(20).sum() == N
    assert connection.call("STRLEN", lab.keys.call(result.calls[0])) < 1000


def test_a_value_may_be_changed_as_soon_as_it_was_asked_for(lab: Lab, connection: Connection) -> None:
    grid, array = lab.client(), numpy.ones(N)
    answer = grid.request("pool", big.total, array)
    array[:] = 7
    connection.call("DEL", *map(lab.keys.part, stored(lab, connection)))      # the client's own copy has to do
    grid._blobs.supply_again()
    lab.workers(1)
    assert answer.result(20) == N


def test_big_values_go_from_call_to_call(grid: Grid) -> None:
    assert [float(each.sum()) for each in grid.request("pool", big.nested, N).result(20)] == [3.0 * N, 4.0 * N]
    assert grid.request("pool", big.aio_nested, N).result(20).sum() == 2 * N


def test_each_asker_gets_arrays_of_its_own(lab: Lab) -> None:
    grid, path = lab.client(), lab.directory / "slow"
    one, two = (grid.request("pool", big.ones_when_told, str(path), N) for _ in range(2))
    lab.workers(1)
    until(lambda: lines(path), "the call to run")
    path.with_name("slow.go").touch()
    first = one.result(20)
    first[:] = 5
    assert two.result(20).sum() == N
    assert one.result() is first
    assert len(lines(path)) == 1


def test_tables_of_pandas_and_arrow(grid: Grid) -> None:
    pandas = pytest.importorskip("pandas")
    frame = big.frames(N)
    pandas.testing.assert_frame_equal(grid.request("pool", big.identity, frame).result(20), frame)
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"a": numpy.arange(N)})
    assert grid.request("pool", big.identity, table).result(20).equals(table)


# nothing is lost

def test_a_call_whose_worker_died_finds_its_arguments_again(lab: Lab) -> None:
    lab.workers(1)
    path = lab.directory / "died"
    assert lab.client().request("pool", big.dies_once, str(path), numpy.ones(N)).result(30) == N
    assert len(lines(path)) == 2


def test_a_server_that_forgets_everything_is_given_big_values_again(own: Lab) -> None:
    own.workers(1)
    grid, path, array = own.client(), own.directory / "slow", numpy.ones(N)
    answer = grid.requests("pool", [(big.total_when_told, str(path), array + i) for i in range(4)])
    until(lambda: lines(path), "a call to run")
    own.server.stop()
    own.server.start()
    path.with_name("slow.go").touch()
    assert answer.result(60) == [float(N * (1 + i)) for i in range(4)]


def test_a_connection_that_is_cut_while_big_values_travel_loses_none(lab: Lab) -> None:
    with Proxy(lab.server.address) as proxy:
        direct, lab.address = lab.address, proxy.address
        lab.workers(1)
        grid = lab.client()
        lab.address = direct
        answers = []
        for number in range(12):
            answers.append(grid.request("pool", big.add, numpy.full(N, float(number)), 1.0))
            if number in (3, 7):
                proxy.cut()
                until(lambda: proxy.refused > 2, "attempts in vain")
                proxy.refused = 0
                proxy.mend()
        assert [float(answer.result(60)[0]) for answer in answers] == [number + 1.0 for number in range(12)]


def test_a_part_is_fetched_however_often_the_connection_breaks_meanwhile(lab: Lab, connection: Connection) -> None:
    ours = lab.connection()
    wire, breaks = blobs.Blobs(ours, lab.keys, lab.client().seal, patience=60.0), []
    _, call, parts = encoded(numpy.ones(N))
    wire.supply({call: parts})
    send = ours.send

    def cut(data: bytes) -> None:
        if len(breaks) < 5 and b"GET" in data:
            breaks.append(connection.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes"))
        send(data)

    ours.send = cut  # type: ignore[method-assign]
    with closing(ours):
        assert [len(each) for each in wire._insisting(lambda: wire._fetch(parts, results=False)) if each] == [part.length for part in parts]
    assert len(breaks) == 5


def test_a_result_that_has_gone_before_it_was_fetched_is_computed_again(lab: Lab, connection: Connection) -> None:
    grid, path = lab.client(), lab.directory / "noted"
    fetch, seen = grid._blobs.whole, []

    def too_late(message: bytes) -> Any:
        if not seen:                        # as another client's results would, on a server that has no room
            seen.append(connection.call("DEL", *map(lab.keys.part, stored(lab, connection, "*.*"))))
        return fetch(message)

    grid._blobs.whole = too_late  # type: ignore[method-assign]
    lab.workers(1)
    answer = grid.request("pool", calls.noted, str(path), numpy.ones(N))
    assert answer.result(20).sum() == N
    assert seen == [1] and len(lines(path)) == 2


def test_results_and_arguments_that_are_gone_for_good_say_so(lab: Lab, connection: Connection) -> None:
    grid = lab.client()
    answer = grid.request("pool", big.total, numpy.ones(N))
    connection.call("DEL", *map(lab.keys.part, stored(lab, connection)))
    lab.workers(1)
    with pytest.raises(PartsGone, match=r"the big arguments of call \w+ \(320,000 bytes\) are not on the server any more"):
        answer.result(20)
    assert grid.request("pool", big.total, numpy.ones(N)).result(20) == N
    done = grid.request("pool", big.ones, N)
    done.result(20)
    connection.call("DEL", *map(lab.keys.part, stored(lab, connection, "*.*")))
    other = lab.client()
    with pytest.raises(PartsGone, match="the big result"):
        other.collect(done.calls)[done.calls[0]].result(20)
    assert other.request("pool", big.ones, N).result(20).sum() == N


def test_a_client_s_big_results_are_collected_by_its_next_process(lab: Lab) -> None:
    before = lab.client(name="me")
    ids = before.requests("pool", [(big.ones, N + i) for i in range(3)]).calls
    before.status()
    before.close()
    lab.workers(1)
    after = lab.client(name="me")
    assert [answer.result(20).sum() for answer in after.collect(ids).values()] == [N, N + 1, N + 2]


def test_a_full_server_refuses_big_calls_whole_and_big_results_arrive(own: Lab) -> None:
    own.workers(1)
    grid, path, connection = own.client(), own.directory / "slow", own.connection()
    answer = grid.request("pool", big.ones_when_told, str(path), N)
    until(lambda: lines(path), "the call to run")
    connection.call("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(GridFull, match="took nothing of this"):
        grid.request("pool", big.total, numpy.ones(N))
    assert not grid._blobs._held and not stored(own, connection)
    assert connection.call("LLEN", own.keys.queue("pool")) == 0
    path.with_name("slow.go").touch()
    assert answer.result(20).sum() == N
    connection.call("CONFIG", "SET", "maxmemory", "0")
    assert grid.request("pool", big.total, numpy.ones(N)).result(20) == N
    connection.close()


# trust and size

@pytest.mark.parametrize("what", ["arguments", "result"])
def test_parts_that_were_replaced_are_not_used(lab: Lab, connection: Connection, what: str) -> None:
    grid = lab.client(name="me")
    answer = grid.request("pool", *((big.total, numpy.ones(N)) if what == "arguments" else (big.ones, N)))
    if what == "result":
        grid.status()
        grid.close()
        lab.workers(1)
        until(lambda: stored(lab, connection, "*.*"), "the result")
    for name in stored(lab, connection):
        connection.call("SET", lab.keys.part(name), bytes(8 * N))
    if what == "result":
        answer = lab.client(name="me").collect(answer.calls)[answer.calls[0]]
    else:
        lab.workers(1)
    with pytest.raises(NotTrusted, match="not the one that was signed"):
        answer.result(20)


def test_the_limit_of_size_counts_parts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDWORKER_PAYLOAD_MOST", str(MIB))
    lab.workers(1)
    grid = lab.client()
    with pytest.raises(TooBig, match=r"the result of \w+: .* a grid carries 1,048,576"):
        grid.request("pool", big.ones, MIB // 4).result(20)
    with pytest.raises(TooBig, match="the arguments of"):
        grid.request("pool", big.total, numpy.ones(MIB // 4)).result(20)
    grid.seal.limit = MIB
    with pytest.raises(TooBig, match="the arguments of"):
        grid.request("pool", big.total, numpy.ones(MIB // 4))
    assert not grid._blobs._held
    assert grid.request("pool", big.total, numpy.ones(N)).result(20) == N


# how long parts are kept

def keep(lab: Lab, connection: Connection, *entries: Any, most: int = 100, ms: int = 1 << 40, hold: int = 0,
         gone: list[bytes] | None = None) -> list[bytes]:
    """What is missing; `entries`: name, note, number of calls, calls. What was let go of a shelf is added to `gone`."""
    keys = lab.keys
    missing, let_go = connection.run(Script("keep"), (keys.parts, keys.parts + ":bytes"), [keys.prefix, most, ms, hold, *entries])
    (gone if gone is not None else []).extend(let_go)
    return list(missing)


def part(lab: Lab, connection: Connection, name: str, *, call: str = "", state: str = "") -> str:
    """A part of 40 bytes, for a call that is in that state."""
    connection.call("SET", lab.keys.part(name), "x" * 40, "PX", 1000)
    if state:
        connection.call("SET", lab.keys.call(call), state)
    return name


def test_parts_of_pending_calls_stay_whatever_there_is_to_keep(lab: Lab, connection: Connection) -> None:
    for number in range(20):
        name, call = f"{number:032x}", f"{number + 100:032x}"
        part(lab, connection, name, call=call, state="P<c.1,>" if number % 2 else "Rdone")
        keep(lab, connection, name, "", 1, call)
    left = stored(lab, connection)
    assert set(left) >= {f"{number:032x}" for number in range(1, 20, 2)}
    assert len(left) <= 12                  # of the others what fits into 100 bytes, and no more
    assert all(connection.call("PTTL", lab.keys.part(name)) == -1 for name in left)
    assert int(connection.call("GET", lab.keys.parts + ":bytes")) == 40 * len(left) == 40 * connection.call("ZCARD", lab.keys.parts)
    for number in range(20):
        connection.call("DEL", lab.keys.call(f"{number + 100:032x}"))
    for _ in range(5):
        keep(lab, connection)
    assert len(stored(lab, connection)) <= 2
    keep(lab, connection, most=0)
    assert not connection.call("KEYS", lab.keys.prefix + "need:*") and not stored(lab, connection)
    assert connection.call("GET", lab.keys.parts + ":bytes") == b"0"


def test_a_part_is_kept_for_a_while_for_a_call_that_is_not_made_yet(lab: Lab, connection: Connection) -> None:
    name, call = "a" * 32, "b" * 32
    part(lab, connection, name)
    keep(lab, connection, name, "", 1, call, most=0, hold=60_000)
    assert stored(lab, connection) == [name]
    until(lambda: keep(lab, connection, most=0, hold=1) == [] and not stored(lab, connection), "the time to be over")


def test_a_part_of_a_heard_result_goes_together_with_the_result(lab: Lab, connection: Connection) -> None:
    call = "c" * 32
    name = part(lab, connection, f"{call}.abcd0", call=call, state="Rin parts")
    keep(lab, connection, name, "", 0)
    assert stored(lab, connection) == [name] and connection.call("EXISTS", lab.keys.call(call))
    keep(lab, connection, most=0)
    assert not stored(lab, connection) and not connection.call("EXISTS", lab.keys.call(call))
    again = part(lab, connection, f"{call}.abcd1", call=call, state="P<c.1,>")
    keep(lab, connection, again, "", 0, most=0)
    assert connection.call("GET", lab.keys.call(call)) == b"P<c.1,>"      # asked for anew: no business of an old part


def test_parts_that_are_not_there_are_named(lab: Lab, connection: Connection) -> None:
    part(lab, connection, "a" * 32)
    assert keep(lab, connection, "a" * 32, "", 1, "x" * 32, "b" * 32, "", 2, "x" * 32, "y" * 32, hold=60_000) == [b"b" * 32]


def test_the_memory_of_a_grid_that_carries_big_values_stays_flat(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PARTS_MOST", 4 * MIB)
    own.workers(1)
    grid, used = own.client(), []

    def memory() -> int:
        with closing(own.connection()) as connection:
            return int(connection.call("INFO", "memory").decode().split("used_memory:")[1].split()[0])

    for number in range(60):
        assert grid.request("pool", salted(big.add), numpy.full(MIB // 8, float(number)), 1.0).result(20)[0] == number + 1
        used.append(memory())
    assert max(used[30:]) - max(used[:30]) < 2 * MIB        # 60 MiB went in, and 60 out
    assert max(used) - used[0] < 10 * MIB


def test_loading_takes_the_memory_that_was_read_into() -> None:
    aside, array = Aside(), numpy.arange(N)
    data = encode_arguments(([array],), {}, aside)[0]
    memory = bytearray(aside.parts[0].data or b"")
    [[loaded]], _ = decode_arguments(data, [memory])
    memory[:8] = (99).to_bytes(8, "little")
    assert loaded[0] == 99
    assert load(data[1:], [memory])[0][0][0] == 99
