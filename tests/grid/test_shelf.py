"""On a grid of one machine big values lie in shared memory: written once, mapped by whoever needs them, gone when nobody does."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import big_calls as big
import grid_calls as calls
import numpy
import pytest
from grid_lab import Lab, lines, until
from test_big_values import MIB, N, keep, same, stored
from test_embedded import script

from gridworker import Grid, GridError, NotTrusted, PartsGone, ServerNotFound, blobs, salted, shelf
from gridworker.blobs import Blobs
from gridworker.keys import Keys
from gridworker.parts import Part
from gridworker.server import Server
from gridworker.shelf import Shelf, note, read_note
from gridworker.store import ServerError
from gridworker.supervisor import Supervisor

if TYPE_CHECKING:
    from gridworker.store import Connection

pytestmark = pytest.mark.skipif(not os.access(shelf.MEMORY, os.W_OK), reason="there are no files in memory here")
MARK = "0123abcd"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(unix=True, shelf=True) as server:
        yield server


@pytest.fixture
def empty(tmp_path: Path) -> Shelf:
    return Shelf(str(tmp_path))


def lying(lab: Lab) -> set[str]:
    """The names of this grid's parts on the shelf, without their marks."""
    key = lab.keys.part("")
    return {each[len(key):].rpartition(".")[0] for each in os.listdir(lab.server.directory / "parts") if each.startswith(key)}


def both(lab: Lab, connection: Connection, what: str = "*") -> set[str]:
    """The names of parts that lie there and of which the server has a note, too."""
    return lying(lab) & set(stored(lab, connection, what))


def test_parts_lie_on_the_shelf_and_the_server_has_notes_of_them(lab: Lab, connection: Connection) -> None:
    grid, array = lab.client(), numpy.ones(N)
    answers = [grid.request("pool", big.add, array, float(i)) for i in range(10)]
    until(lambda: len(both(lab, connection)) == 1, "the array, once")
    lab.workers(1)
    assert [float(answer.result(20)[0]) for answer in answers] == [i + 1.0 for i in range(10)]
    until(lambda: len(both(lab, connection)) == 11, "the results")
    assert all(connection.call("STRLEN", lab.keys.part(name)) < shelf.NOTE_MOST for name in stored(lab, connection))
    assert int(connection.call("GET", lab.keys.parts + ":bytes")) == 11 * array.nbytes


def test_a_value_of_many_parts_is_found_by_a_later_call_too(lab: Lab) -> None:
    lab.workers(1)
    grid, arrays = lab.client(), [numpy.full(N, float(number)) for number in range(12)]
    for _ in range(3):                      # from the second on, the server is asked where each of them lies
        assert grid.request("pool", salted(len), arrays).result(20) == 12


def test_what_is_read_is_the_readers_own(lab: Lab) -> None:
    lab.workers(1)
    grid, array = lab.client(), numpy.ones(N)
    assert grid.request("pool", big.in_place, array).result(20) == 2 * N
    assert grid.request("pool", big.total, array).result(20) == N
    got = grid.request("pool", big.ones, N).result(20)
    got += 1
    assert lab.client().request("pool", big.ones, N).result(20).sum() == N


@pytest.mark.parametrize("key", [True, False], ids=["signed", "bare"])
def test_values_of_every_kind_come_and_go(lab: Lab, monkeypatch: pytest.MonkeyPatch, key: bool) -> None:
    if not key:
        monkeypatch.delenv("GRIDWORKER_SECRET_FILE", raising=False)
        lab.secret.write_text(f"{lab.server.password}\n")
    lab.workers(1)
    grid = lab.client(key=lab.key if key else None)
    value = {"many": [numpy.full(20_000, i) for i in range(40)], "text": "ä" * MIB, "array": bytearray(MIB), "small": numpy.arange(3)}
    assert same(grid.request("pool", big.identity, value).result(20), value)
    assert grid.request("pool", calls.length, "x" * MIB).result(20) == MIB
    assert grid.request("pool", big.nested, N).result(20)[1].sum() == 4 * N


def test_values_that_are_held_cost_no_descriptors(lab: Lab) -> None:
    lab.workers(1)
    grid = lab.client()
    grid.request("pool", big.ones, N).result(20)
    before = len(os.listdir("/proc/self/fd"))
    held = grid.requests("pool", [(big.ones, N + i) for i in range(100)]).result(20)
    assert len(os.listdir("/proc/self/fd")) < before + 10
    assert [len(each) for each in held] == [N + i for i in range(100)]


def test_a_function_over_something_big_is_found_there_too(lab: Lab) -> None:
    lab.workers(2)
    table = numpy.arange(N)
    assert lab.client().requests("pool", [(lambda i: int(table[i]), i) for i in range(20)]).result(20) == list(range(20))


def test_a_call_whose_worker_died_finds_its_arguments_again(lab: Lab) -> None:
    lab.workers(1)
    path = lab.directory / "died"
    assert lab.client().request("pool", big.dies_once, str(path), numpy.ones(N)).result(30) == N
    assert len(lines(path)) == 2


def test_a_client_s_big_results_are_collected_by_its_next_process(lab: Lab) -> None:
    before = lab.client(name="me")
    ids = before.requests("pool", [(big.ones, N + i) for i in range(3)]).calls
    before.status()
    before.close()
    lab.workers(1)
    after = lab.client(name="me")
    assert [answer.result(20).sum() for answer in after.collect(ids).values()] == [N, N + 1, N + 2]


# where there is no shelf, no room, or nothing left

@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)


def test_without_room_parts_go_to_the_server(lab: Lab, connection: Connection) -> None:
    grid = lab.client()
    with files_of_at_most(1000):
        answer = grid.request("pool", big.add, numpy.full(N, 0.125), 1.0)
        assert not both(lab, connection)
        assert [connection.call("STRLEN", lab.keys.part(name)) for name in stored(lab, connection)] == [8 * N]
        with files_of_at_most(1000):        # the workers inherit it
            lab.workers(1)
    assert answer.result(20).sum() == 1.125 * N
    assert grid.request("pool", big.total, numpy.full(N, 2.0)).result(20) == 2 * N


def test_who_comes_by_another_way_gives_big_values_and_is_told_why_he_gets_none(lab: Lab) -> None:
    lab.workers(1)
    way = lab.directory / "socket"
    way.symlink_to(lab.address.path)
    grid = Grid.connect(f"unix://{way}", password=lab.server.password, key=lab.key, namespace=lab.keys.namespace)
    with grid:
        assert grid.request("pool", big.total, numpy.ones(N)).result(20) == N
        with pytest.raises(GridError, match="lies in the memory of the server's machine: connect to this grid there"):
            grid.request("pool", big.ones, N).result(20)
    assert lab.client().request("pool", big.ones, N).result(20).sum() == N


def test_what_somebody_has_taken_from_the_shelf_is_computed_or_given_again(lab: Lab, connection: Connection) -> None:
    def empty_it() -> None:
        for each in (lab.server.directory / "parts").iterdir():
            each.unlink()

    grid = lab.client()
    answer = grid.request("pool", big.total, numpy.ones(N))
    until(lambda: both(lab, connection), "the arguments")
    empty_it()
    lab.workers(1)
    with pytest.raises(PartsGone, match="the big arguments of call"):
        answer.result(20)
    grid._blobs._known.clear()              # a minute later
    assert grid.request("pool", big.total, numpy.ones(N)).result(20) == N
    path = lab.directory / "noted"
    assert grid.request("pool", big.noted_ones, str(path), N).result(20).sum() == N
    empty_it()
    assert lab.client().request("pool", big.noted_ones, str(path), N).result(20).sum() == N
    assert len(lines(path)) == 2


def test_what_the_server_has_in_place_of_an_unsigned_part_is_not_used(lab: Lab, connection: Connection) -> None:
    grid = lab.client(name="me")
    answer = grid.request("pool", big.ones, N)
    grid.status()
    grid.close()
    lab.workers(1)
    until(lambda: both(lab, connection, "*.*"), "the result")
    name, = both(lab, connection, "*.*")
    next((lab.server.directory / "parts").glob(f"*{name}*")).unlink()
    connection.call("SET", lab.keys.part(name), bytes(8 * N))
    with pytest.raises(NotTrusted, match="not the one that was signed"):
        lab.client(name="me").collect(answer.calls)[answer.calls[0]].result(20)


def test_threads_that_ask_for_the_same_call_do_not_disturb_each_other(lab: Lab) -> None:
    lab.workers(1)
    grid, wrong = lab.client(), list[object]()

    def ask() -> None:
        for number in range(60):
            try:
                if (got := grid.request("pool", big.total, numpy.full(N, float(number))).result(30)) != number * N:
                    wrong.append(got)
            except Exception as error:      # any of them is what this test is about
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """Ctrl-C comes once, as parts have just been stored: these."""
    seen, store = list[Part](), Blobs._store

    def stored_and_interrupted(self: Blobs, parts: list[Part], *arguments: Any) -> Any:
        result = store(self, parts, *arguments)
        if not seen:
            seen.extend(parts)
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Blobs, "_store", stored_and_interrupted)
    return seen


def test_what_was_not_asked_for_in_the_end_is_not_kept(lab: Lab, interrupted: list[Part]) -> None:
    grid = lab.client()
    with pytest.raises(KeyboardInterrupt):
        grid.request("pool", big.total, numpy.ones(N))
    assert interrupted and not grid._blobs._held


def test_a_file_that_is_about_to_be_removed_is_not_taken_for_a_new_one(lab: Lab, interrupted: list[Part],
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in {"PARTS_MOST": 1, "KNOWN_SECONDS": 0.0, "HOLD_MS": 1}.items():
        monkeypatch.setattr(blobs, limit, value)
    grid, array = lab.client(), numpy.ones(N)
    with pytest.raises(KeyboardInterrupt):
        grid.request("pool", big.total, array, 1.0)
    assert list(grid._blobs._parts.values()) == interrupted     # it is still there, as with a call that is not answered
    workers = lab.workers(1)
    grid.request("pool", big.ones, N).result(20)                # lets go the array; the client has not been told so yet
    workers.terminate()
    workers.wait()
    answer = grid.request("pool", big.total, array, 2.0)
    lab.workers(1)
    assert answer.result(20) == N + 2


def test_notes_that_were_lost_are_given_again(lab: Lab, connection: Connection) -> None:
    grid = lab.client()
    grid.request("pool", big.total, numpy.ones(N), 1.0)
    until(lambda: both(lab, connection), "the first note")
    connection.call("SCRIPT", "FLUSH")
    answer = grid.request("pool", big.total, numpy.full(N, 2.0), 1.0)
    assert len(both(lab, connection)) == 2
    lab.workers(1)
    assert answer.result(20) == 2 * N + 1


def test_beyond_many_maps_parts_are_copied(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MAPS_MOST", shelf._Maps.count + 3)
    lab.workers(1)
    path = lab.directory / "noted"
    held = lab.client().requests("pool", [(big.noted_ones, str(path), N + i) for i in range(10)]).result(20)
    assert [each.sum() for each in held] == [N + i for i in range(10)]
    assert len(lines(path)) == 10
    del held
    gc.collect()
    assert shelf._Maps.count < shelf.MAPS_MOST


# what is not needed goes

def test_the_shelf_of_a_grid_that_carries_big_values_stays_small(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PARTS_MOST", 4 * MIB)
    lab.workers(1)
    grid, before = lab.client(), lying(lab)
    for number in range(40):
        assert grid.request("pool", salted(big.add), numpy.full(MIB // 8, float(number)), 1.0).result(20)[0] == number + 1
    assert len(lying(lab) - before) <= 12


def test_notes_weigh_what_they_tell_of_and_are_told_when_they_go(lab: Lab, connection: Connection) -> None:
    gone: list[bytes] = []
    keep(lab, connection, "a" * 32, "@70000.11111111", 1, "c" * 32, "b" * 32, "@80000.22222222", 1, "c" * 32, most=200_000, hold=60_000)
    assert connection.call("GET", lab.keys.parts + ":bytes") == b"150000"
    keep(lab, connection, "a" * 32, "@70000.33333333", 1, "d" * 32, most=200_000, hold=60_000, gone=gone)
    assert gone == [b"a" * 32, b"@70000.33333333"]      # there was one, which stays
    assert connection.call("GET", lab.keys.part("a" * 32)) == b"@70000.11111111"
    gone.clear()
    until(lambda: keep(lab, connection, most=0, hold=1, gone=gone) == [] and not stored(lab, connection), "the time to be over")
    assert sorted(gone[1::2]) == [b"@70000.11111111", b"@80000.22222222"]
    assert connection.call("GET", lab.keys.parts + ":bytes") == b"0"


def old(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    Path(path).touch()
    os.utime(path, (time.time() - 1000,) * 2)
    return path


def test_a_sweep_takes_what_has_no_note_and_is_not_new(empty: Shelf) -> None:
    there = {"a": b"@1.11111111", "b": b"@1.22222222", "c.d0": b""}
    stays = old(empty.directory, "a.11111111")
    goes = [old(empty.directory, name) for name in ("b.11111111", "c.d0.33333333")]
    (fresh := Path(empty.directory, "e.44444444")).touch()
    assert empty.sweep(lambda keys: [there.get(key, b"") for key in keys]) == 2
    assert os.path.exists(stays) and fresh.exists() and not any(map(os.path.exists, goes))
    assert empty.sweep(lambda keys: [there[key] for key in keys]) == 0


def test_a_sweep_that_the_server_does_not_answer_takes_nothing(lab: Lab) -> None:
    stays = old(str(lab.server.directory / "parts"), lab.keys.part("a") + ".11111111")
    supervisor = Supervisor(lab.address, lab.server.password, lab.keys, [], lambda *whatever: None)
    supervisor._connection.pipeline = lambda commands: [ServerError("BUSY a script") for _ in commands]  # type: ignore[method-assign]
    supervisor._sweep(time.monotonic() + shelf.SETTLED_SECONDS)
    assert os.path.exists(stays)


def test_supervisors_sweep(lab: Lab, connection: Connection) -> None:
    others = Keys("another")                # on the same server: none of its business
    connection.call("MSET", lab.keys.part("a"), "@1.11111111", others.part("b"), "@1.22222222")
    directory = str(lab.server.directory / "parts")
    stays = old(directory, lab.keys.part("a") + ".11111111"), old(directory, others.part("b") + ".22222222")
    goes = old(directory, lab.keys.part("c") + ".33333333")
    supervisor = Supervisor(lab.address, lab.server.password, lab.keys, [], lambda *whatever: None)
    supervisor._connection.connect()
    supervisor._sweep(time.monotonic())
    assert os.path.exists(goes)             # not yet
    supervisor._sweep(time.monotonic() + shelf.SETTLED_SECONDS)
    assert all(map(os.path.exists, stays)) and not os.path.exists(goes)
    supervisor._connection.close()


def test_a_killed_process_leaves_nothing_in_memory() -> None:
    process = script("""
        import os, signal, time
        import numpy
        from gridworker import Grid
        grid = Grid(workers=1)
        assert grid.request(numpy.ones, 40_000).result(20).sum() == 40_000
        print(os.path.realpath(os.path.join(os.path.dirname(grid.address.path), "parts")), flush=True)
        time.sleep(60)
    """)
    assert process.stdout is not None
    memory = Path(process.stdout.readline().strip())
    assert list(memory.iterdir())
    process.kill()
    process.communicate()
    until(lambda: not memory.exists(), "the shelf to go")


# a shelf by itself

DATA = b"x" * 70_000


def test_a_part_is_put_once_and_read_while_anybody_holds_it(empty: Shelf) -> None:
    assert empty.put("key", MARK, DATA) and empty.put("key", MARK, DATA)
    got = empty.read("key", MARK, len(DATA))
    assert got is not None and got == DATA
    empty.remove("key", MARK)
    empty.remove("key", MARK)
    assert os.listdir(empty.directory) == [] and got == DATA
    got[0] = 7
    assert got[0] == 7


@pytest.mark.parametrize("what", [("key", "01234567", len(DATA)), ("key", MARK, len(DATA) - 1), ("yek", MARK, len(DATA)),
                                  ("../key", MARK, len(DATA))])
def test_what_is_not_there_is_not_read(empty: Shelf, what: tuple[str, str, int]) -> None:
    assert empty.put("key", MARK, DATA) and empty.read(*what) is None


def test_no_key_leads_out_of_a_shelf(empty: Shelf, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    assert Shelf(str(inner)).put("../out", MARK, DATA)
    assert [each.parent for each in tmp_path.rglob("*out*")] == [inner]


def test_what_does_not_fit_leaves_nothing_behind(empty: Shelf) -> None:
    with files_of_at_most(1000):
        assert not empty.put("key", MARK, DATA)
    assert os.listdir(empty.directory) == []
    assert not empty.put("x" * 300, MARK, DATA)


def test_a_note_tells_the_mark() -> None:
    assert read_note(note(Part("name", 70_000, mark=MARK))) == MARK
    assert read_note(b"x" * 10) is None


def test_a_server_that_does_not_start_leaves_no_shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shelf, "MEMORY", str(tmp_path))
    monkeypatch.setattr("gridworker.server.find", lambda: (_ for _ in ()).throw(ServerNotFound("none")))
    with pytest.raises(ServerNotFound):
        Server(unix=True, shelf=True).start()
    assert not list(tmp_path.iterdir())


def test_a_server_without_a_place_for_it_has_no_shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shelf, "MEMORY", str(tmp_path / "nothing"))
    with Server(unix=True, shelf=True) as server:
        assert shelf.beside(server.address) is None
    assert shelf.beside(Server().address) is None
    assert repr(Shelf(str(tmp_path))) == f"<Shelf {tmp_path}>"
