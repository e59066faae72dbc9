"""What each script does when it is run again, as its header says; on every server that is here, and on a store in memory. Nodes and
clients are only names."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory import Memory

import gridworker
from gridworker.errors import CodeMismatch
from gridworker.keys import WIRE, Keys
from gridworker.messages import ID, item
from gridworker.node import Node, reap
from gridworker.server import Server, found
from gridworker.store import GONE, Connection, Script
from gridworker.waits import Wait, batches
from gridworker.wire import enter
from gridworker.withdrawal import cancel_arguments

SCRIPTS = Path(gridworker.__file__).parent / "scripts"
A, B, C = "a" * 32, "b" * 32, "c" * 32


def wire(call: str, token: str = "f" * 8) -> bytes:
    return item(call, token, "m:f@", b"args")


class Bench:
    """Scripts by name, with the arguments that matter in a test."""

    def __init__(self, keys: Keys, connection: Connection) -> None:
        self.keys, self.connection = keys, connection
        self.node = Node(keys, "pool", "ann", kind="worker", supervisor="s1")
        self.other = Node(keys, "pool", "bob", kind="worker", supervisor="s1")
        for node in (self.node, self.other):
            node.register(connection, Script("register"))

    def submit(self, *calls: str, client: str = "c.1", again: bool = False, pool: str = "pool") -> int:
        arguments: list[Any] = [self.keys.prefix, client, "1" if again else ""]
        for call in calls:
            arguments += (pool, wire(call))
        new: int = self.connection.run(Script("submit"), (self.keys.nodes,), arguments)
        return new

    def step(self, node: Node | None = None, *, want: int = 0, done: tuple[tuple[str, str, bytes], ...] = (), back: tuple[bytes, ...] = (),
             asks: tuple[tuple[str, str, bytes], ...] = (), idle: bool = False, capped: bool = False, again: bool = False,
             token: str = "", spare: int = 0, known: int = 0) -> Any:
        node, keys = node or self.node, self.keys
        name, pool = node.incarnation, node.pool
        fixed = (keys.nodes, keys.owned(name), keys.mine(name), keys.inbox(name), keys.up(pool), keys.queue(pool), keys.busy(pool),
                 keys.volunteers(pool), keys.helpers(pool), keys.executed)
        arguments = [keys.prefix, name, pool, node.name, 60000, 60000, want, token, "idle" if idle else "", "1" if capped else "",
                     "1" if again else "", len(done), len(back), spare, known]
        told = [kind.encode() + call.encode() + body for kind, call, body in done] + [*back] + [word for ask in asks for word in ask]
        return self.connection.run(Script("step"), fixed, arguments + told)

    def inbox(self, who: str = "c.1") -> list[bytes]:
        """What lies in an inbox; empties it."""
        messages: list[bytes] = self.connection.call("LPOP", self.keys.inbox(who), 1000) or []
        return messages

    def reap(self, node: Node, tries: int = 5, dead: bool = True) -> tuple[int, int]:
        return reap(self.connection, Script("reap"), self.keys, node.incarnation, dead=dead, tries=tries, why=b"lost")

    def acknowledge(self, *calls: str, by: str) -> int:
        """As if results that all who waited for them have were kept for no time: how many have gone."""
        keys = (self.keys.kept, self.keys.unheard, self.keys.nodes)
        heard = batches([f"R{call}".encode() for call in calls])
        gone: int = self.connection.run(Script("acknowledge"), keys, [self.keys.prefix, 0, 100, by, *heard])
        return gone

    def state(self, call: str) -> bytes:
        return self.connection.call("GET", self.keys.call(call)) or b""

    def owned(self, node: Node) -> set[str]:
        return {call.decode() for call in self.connection.call("HKEYS", self.keys.owned(node.incarnation))}

    def length(self, key: str) -> int:
        count: int = self.connection.call("LLEN", key)
        return count


@pytest.fixture(scope="module", params=[*found(), Memory], ids=lambda store: "memory" if store is Memory else store.name)
def server(request: pytest.FixtureRequest) -> Iterator[Server | Memory]:
    """Every server that is here, in place of the one that other tests use (Redis and Valkey where both are), and a store in memory."""
    with Memory() if request.param is Memory else Server(unix=True, binary=request.param) as server:
        yield server


@pytest.fixture
def bench(server: Server | Memory) -> Iterator[Bench]:
    connection = server.connection()
    yield Bench(Keys(f"t{uuid.uuid4().hex[:8]}"), connection)
    connection.close()


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.lua")), ids=lambda path: path.stem)
def test_every_script_says_what_it_does_and_what_repeating_it_does(path: Path) -> None:
    if path.stem != "common":
        text = [line for line in path.read_text().splitlines() if not line.startswith("#!")]
        header = itertools.takewhile(lambda line: line.startswith("--"), text)
        words = [line.split()[1] for line in header if line[3] != " "]
        assert words == ["purpose", "keys", "arguments", "reply", "repeated"]


def test_submitting_twice_queues_once(bench: Bench) -> None:
    assert bench.submit(A, B) == 2
    assert bench.submit(A, B) == 0
    assert bench.length(bench.keys.queue("pool")) == 2
    assert bench.state(A) == b"P<c.1,>"
    assert bench.submit(A, client="c.2") == 0
    assert bench.state(A) == b"P<c.1,><c.2,>"


def test_a_volunteer_is_handed_the_call_and_volunteers_no_more(bench: Bench) -> None:
    assert bench.step(idle=True, want=1) == [[], []]
    assert bench.submit(A, B) == 2
    assert bench.inbox(bench.node.incarnation) == [b"W" + wire(A)]
    assert bench.owned(bench.node) == {A}
    assert bench.length(bench.keys.queue("pool")) == 1
    assert bench.connection.call("SCARD", bench.keys.volunteers("pool")) == 0


def test_a_completion_answers_every_asker_once(bench: Bench) -> None:
    bench.submit(A)
    bench.submit(A, client="c.2")
    assert bench.step(want=1) == [[], [wire(A)]]
    for _ in range(2):
        bench.step(done=(("R", A, b"five"),))
    assert bench.inbox("c.1") == bench.inbox("c.2") == [b"R" + A.encode() + b"five"]
    assert bench.owned(bench.node) == set()
    assert bench.submit(A, client="c.3") == 0                     # kept: answered at once
    assert bench.inbox("c.3") == [b"R" + A.encode() + b"five"]


def test_a_worker_that_knows_an_outcome_is_not_told_and_others_are(bench: Bench) -> None:
    bench.step(want=1, asks=(("", C, wire(A)),))
    bench.submit(A)
    assert bench.step(done=(("R", A, b"five"),), known=1) == [[], []]
    assert bench.inbox() == [b"R" + A.encode() + b"five"]
    assert bench.acknowledge(A, by="c.1") == 0                    # the worker counts as one who waited
    assert bench.acknowledge(A, by=bench.node.incarnation) == 1


def test_a_late_failure_of_a_former_owner_does_not_count_but_a_late_success_does(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1)
    assert bench.reap(bench.node) == (1, 0)
    [[], [requeued]] = bench.step(bench.other, want=1)
    assert requeued[:ID] == A.encode()
    assert bench.step(done=(("E", A, b"why"),)) == GONE
    assert bench.inbox() == []
    assert bench.step(done=(("R", A, b"late"),)) == GONE
    assert bench.inbox() == [b"R" + A.encode() + b"late"]
    bench.step(bench.other, done=(("E", A, b"why"),))             # and the present owner's failure comes too late
    assert bench.inbox() == []
    assert bench.state(A) == b"R" + A.encode() + b"late"


def test_a_failure_is_kept_only_for_those_who_ask_again(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1)
    for _ in range(2):
        bench.step(done=(("E", A, b"why"),))
    assert bench.inbox() == [b"E" + A.encode() + b"why"]
    assert bench.submit(A, again=True) == 0
    assert bench.inbox() == [b"E" + A.encode() + b"why"]
    assert bench.submit(A) == 1                                   # a new request is a new attempt


def test_asking_twice_for_a_parent_changes_nothing(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1)
    for _ in range(2):
        bench.step(asks=(("", A, wire(B)),), again=True)
    assert bench.state(B) == f"P<{bench.node.incarnation},{A}>".encode()
    assert bench.length(bench.keys.mine(bench.node.incarnation)) == 1


def test_the_own_queue_is_taken_newest_first_and_robbed_of_the_oldest(bench: Bench) -> None:
    calls = [f"{n:032x}" for n in range(6)]
    bench.step(asks=tuple(("", A, wire(call)) for call in calls))
    assert bench.step(want=1)[1] == [wire(calls[5])]
    assert bench.step(bench.other, want=1)[1] == [wire(calls[0])]
    assert bench.step(bench.other, want=9, token="f" * 8)[1] == [wire(calls[1]), wire(calls[2])]     # at most half
    assert bench.step(want=9, token="f" * 8)[1] == [wire(calls[4]), wire(calls[3])]


def test_only_calls_of_the_function_that_is_wanted_come_in_numbers(bench: Bench) -> None:
    for n, token in enumerate(("1" * 8, "1" * 8, "2" * 8, "1" * 8)):
        bench.connection.call("RPUSH", bench.keys.queue("pool"), wire(f"{n:032x}", token))
    assert len(bench.step(want=9, token="1" * 8)[1]) == 2
    assert len(bench.step(want=9, token="1" * 8)[1]) == 1
    assert len(bench.step(want=9, token="1" * 8)[1]) == 1


def test_a_worker_with_spare_time_adds_half_of_the_fresh_calls_of_its_function(bench: Bench) -> None:
    for n, token in enumerate("fffff1"):
        bench.connection.call("RPUSH", bench.keys.queue("pool"), wire(f"{n:032x}", 8 * token))
    asks = (("", A, wire(B)), ("", A, wire(C)))
    assert bench.step(want=9, spare=9, token="f" * 8, asks=asks)[1] == [wire(C), wire(B), *(wire(f"{n:032x}") for n in range(3))]
    assert bench.step(want=1, spare=9, token="f" * 8)[1] == [wire(f"{3:032x}")]
    assert bench.step(want=9, spare=9, token="f" * 8, asks=(("", A, wire("d" * 32)),))[1] == [wire("d" * 32), wire(f"{4:032x}")]


def test_help_that_is_free_gets_the_oldest_and_the_newest_stays(bench: Bench) -> None:
    bench.step(bench.other, want=1, idle=True)
    assert bench.step(want=1, asks=(("", A, wire(B)), ("", A, wire(C))))[1] == [wire(C)]
    assert bench.inbox(bench.other.incarnation) == [b"W" + wire(B)]


def test_a_node_at_its_cap_takes_calls_of_calls_only(bench: Bench) -> None:
    bench.submit(A)
    assert bench.step(want=1, capped=True, idle=True) == [[], []]
    assert bench.submit(B) == 1
    assert bench.inbox(bench.node.incarnation) == []
    bench.step(bench.other, asks=(("pool", A, wire(C)),))
    assert bench.inbox(bench.node.incarnation) == [b"W" + wire(C)]


def test_what_is_given_back_can_be_taken_by_others(bench: Bench) -> None:
    bench.submit(A)
    [[], [got]] = bench.step(want=1)
    for _ in range(2):
        bench.step(back=(got,))
        assert bench.owned(bench.node) == set()
        assert bench.length(bench.keys.mine(bench.node.incarnation)) == 1
    assert bench.step(bench.other, want=1)[1] == [got]


def test_reaping_counts_a_try_and_repeating_it_finds_nothing(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1, asks=(("", A, wire(B)),))
    bench.step(want=1)
    assert bench.reap(bench.node) == (2, 0)
    assert bench.reap(bench.node) == (-1, 0)
    tries = sorted(bytes(part)[ID + 8:ID + 9] for part in bench.connection.call("LRANGE", bench.keys.up("pool"), 0, -1))
    assert tries == [b"1", b"1"]
    assert bench.connection.call("EXISTS", bench.keys.owned(bench.node.incarnation), bench.keys.mine(bench.node.incarnation)) == 0


def test_leaving_costs_no_try_and_the_last_try_is_the_end(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1)
    assert bench.reap(bench.node, dead=False) == (1, 0)
    assert bench.step(bench.other, want=1)[1] == [wire(A)]
    assert bench.reap(bench.other, tries=1) == (0, 1)
    assert bench.inbox() == [b"E" + A.encode() + b"lost"]


def test_a_finished_call_of_a_dead_node_is_not_run_again(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1)
    bench.connection.call("SET", bench.keys.call(A), "Rdone")
    assert bench.reap(bench.node) == (0, 0)


def test_hoisting_moves_the_older_half_and_then_half_of_the_rest(bench: Bench) -> None:
    calls = [f"{n:032x}" for n in range(8)]
    bench.step(asks=tuple(("", A, wire(call)) for call in calls))

    def hoist() -> Any:
        return bench.connection.run(Script("hoist"), (bench.keys.nodes, bench.keys.busy("pool")), [bench.keys.prefix, "pool", 100])

    assert [hoist(), hoist(), hoist(), hoist()] == [4, 2, 1, 0]
    up = bench.connection.call("LRANGE", bench.keys.up("pool"), 0, -1)
    assert up == [wire(call) for call in calls[:7]]


def test_resync_only_reads(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1)
    fixed = (bench.keys.nodes, bench.keys.owned(bench.node.incarnation))
    for _ in range(2):
        assert bench.connection.run(Script("resync"), fixed, [bench.keys.prefix, bench.node.incarnation]) == [wire(A)]
    bench.reap(bench.node)
    assert bench.connection.run(Script("resync"), fixed, [bench.keys.prefix, bench.node.incarnation]) == GONE


def test_a_cycle_is_told_with_its_way(bench: Bench) -> None:
    bench.submit(A)
    bench.step(asks=(("", A, wire(B)), ("", B, wire(C))))
    messages, _ = bench.step(asks=(("", C, wire(A)),))
    assert messages == [b"C" + A.encode() + ",".join([A, B, C]).encode()]
    wait = Wait([A], True, lambda wait: None)
    wait.arrive(A, messages[0])
    assert wait.over


def test_nothing_is_sent_to_nodes_that_are_gone(bench: Bench) -> None:
    bench.submit(A)
    bench.step(want=1, asks=(("", A, wire(B)),))
    bench.reap(bench.node)
    bench.step(bench.other, want=9, token="f" * 8)
    bench.step(bench.other, done=(("R", B, b"b"),))
    assert bench.connection.call("EXISTS", bench.keys.inbox(bench.node.incarnation)) == 0


def test_the_time_of_a_result_starts_when_the_last_who_waited_for_it_has_it(bench: Bench) -> None:
    for client in ("c.1", "c.2", "c.3"):
        bench.submit(A, B, C, client=client)
    bench.step(want=9, token="f" * 8)
    bench.step(done=tuple(("R", call, b"value") for call in (A, B, C)))
    assert bench.acknowledge(A, B, by="c.1") == bench.acknowledge(A, by="c.3") == 0
    assert bench.acknowledge(A, by="c.1") == 0                    # the same one again is nobody else
    assert bench.acknowledge(A, by="c.2") == 1
    assert [bench.state(call)[:1] for call in (A, B, C)] == [b"", b"R", b"R"]
    assert bench.acknowledge(B, C, by="c.2") == bench.acknowledge(C, by="c.1") == 0
    assert bench.acknowledge(B, C, by="c.3") == 2
    assert not bench.connection.call("EXISTS", bench.keys.unheard)


def test_one_who_hears_of_one_result_has_not_heard_of_another(bench: Bench) -> None:
    for client in ("c.1", "c.2"):
        bench.submit(A, B, client=client)
    bench.step(want=9, token="f" * 8)
    bench.step(done=(("R", A, b"value"), ("R", B, b"value")))
    assert bench.acknowledge(A, B, by="c.2") == 0
    assert bench.acknowledge(A, by="c.1") == 1
    assert bench.state(B) == b"R" + B.encode() + b"value"


def test_a_node_that_is_gone_is_not_waited_for(bench: Bench) -> None:
    bench.submit(A, B)
    assert len(bench.step(want=1)[1]) == 1
    bench.step(asks=(("pool", A, wire(B)),))
    assert bench.step(bench.other, want=1) == [[], [wire(B)]]
    bench.step(bench.other, done=(("R", B, b"value"),))
    assert bench.acknowledge(B, by="c.1") == 0
    assert bench.acknowledge(by="") == 0                          # as a distributor does
    bench.reap(bench.node)
    assert bench.acknowledge(by="") == 1


def test_askers_that_never_come_back_are_forgotten_when_the_result_has_gone_by_itself(bench: Bench) -> None:
    gone = [f"{number:032x}" for number in range(100)]
    bench.connection.call("HSET", bench.keys.unheard, *(word for call in gone for word in (call, "<c.8><c.9>")))
    assert bench.acknowledge(B, by="c.1") == 0
    assert not bench.connection.call("EXISTS", bench.keys.unheard)


@pytest.mark.parametrize("left", [lambda bench: bench.connection.call("RPUSH", bench.keys.kept, b"%013d" % 5 + A.encode()),
                                  lambda bench: bench.connection.call("HSET", bench.keys.nodes, "pool/old~0", '{"name": "old"}')])
def test_what_an_older_release_has_left_refuses_whoever_comes(bench: Bench, left: Any) -> None:
    bench.connection.call("DEL", bench.keys.wire, bench.keys.nodes)
    left(bench)
    for _ in range(2):
        with pytest.raises(CodeMismatch, match=r"an older release of gridworker|the node old speaks wire format 0"):
            bench.node.register(bench.connection, Script("register"))
    assert bench.connection.call("EXISTS", bench.keys.wire) == 0


def test_the_first_to_come_fixes_the_wire_format(bench: Bench) -> None:
    bench.connection.call("DEL", bench.keys.wire)
    for _ in range(2):
        enter(bench.connection, bench.keys, "client")
        assert bench.connection.call("GET", bench.keys.wire).split() == [str(WIRE).encode(), gridworker.__version__.encode()]
    bench.submit(A)
    bench.acknowledge(A, by="c.1")
    enter(bench.connection, bench.keys, "node")
    assert bench.connection.call("EXISTS", bench.keys.refused) == 0


def test_who_has_computed_what_nobody_asks_for_is_told_so_and_only_once(bench: Bench) -> None:
    bench.submit(A, B)
    bench.step(want=2, token="f" * 8)
    keys, arguments = cancel_arguments(bench.keys, "c.1", [(A, "", "pool")], False)
    assert bench.connection.run(Script("cancel"), keys, arguments) == 1
    done = (("R", A, b"big"), ("R", B, b"asked"))
    assert bench.step(done=done) == [[b"N" + A.encode() + b"big", b"X" + A.encode()], []]
    assert bench.step(done=done) == [[], []]
    assert bench.state(A) == b"R" + A.encode() + b"big"
    assert bench.inbox() == [b"R" + B.encode() + b"asked"]


@pytest.mark.parametrize("kill", [True, False])
def test_a_cancelled_call_that_is_given_back_is_not_queued_again(bench: Bench, kill: bool) -> None:
    bench.submit(A, B)
    _, items = bench.step(want=2, token="f" * 8)
    keys, arguments = cancel_arguments(bench.keys, "c.1", [(A, "", "pool")], kill)
    assert bench.connection.run(Script("cancel"), keys, arguments) == 1
    for _ in range(2):
        bench.step(back=tuple(items))
        assert bench.connection.call("LRANGE", bench.keys.mine(bench.node.incarnation), 0, -1) == [wire(B)]
        assert bench.owned(bench.node) == set()
