"""Looking into a grid: what it is doing, what its functions log, and the graph of the calls that one request became.

    python examples/grid_looking.py

`gridworker top --host … --port …` shows the same live in a terminal.
"""

import logging
import tempfile
from pathlib import Path

from gridworker import Grid, request, requests

log = logging.getLogger("example")


def leaf(x: int) -> int:
    logging.getLogger("example").info("leaf %d", x)
    return x * x


def branch(x: int) -> int:
    return request(leaf, x) + request(leaf, x + 1)


def tree(n: int) -> int:
    return sum(requests([(branch, i) for i in range(n)]))


with Grid(workers=2) as grid:
    answer = grid.request(tree, 3, trace=True)
    print("tree(3) =", answer.result())
    graph = grid.graph(answer)
    print(graph)
    picture = Path(tempfile.gettempdir()) / "grid_looking.svg"
    picture.write_text(graph.svg())
    print(f"drawn: {picture.stat().st_size > 1000}, calls: {sorted(call.name for call in graph.calls.values())}")
    following = grid.logs("info", follow=True)
    print("logged:", sorted(next(following).text for _ in range(4)))
    print(grid.status())
picture.unlink()
