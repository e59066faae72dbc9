"""A call that makes calls: the standard load for trying out a grid."""

from __future__ import annotations

import time
from typing import Any

from .node import node_id, requests


def bogosity(msec: float, jobnum: int, reclevel: int, numrecjobs: int, args: Any) -> str:
    """Requests itself for each i < `reclevel`, one level lower; sleeps `msec` ms; tells who it was and what its calls said.

    `numrecjobs` and `args` only travel along. The result reads `job.level@node(results of its calls)`.

    >>> from gridworker import local
    >>> with local():
    ...     bogosity(0, 7, 2, 5, "tag")
    '7.2@local(0.1@local(0.0@local()) 1.1@local(0.0@local()))'
    """
    parts = requests([(bogosity, msec, i, reclevel - 1, numrecjobs, args) for i in range(reclevel)])
    if msec > 0:
        time.sleep(msec / 1000)
    return f"{jobnum}.{reclevel}@{node_id()}({' '.join(parts)})"


def without_nodes(text: str) -> str:
    """A result of `bogosity` without the names of nodes: the same wherever it was computed.

    >>> without_nodes("7.1@w1(0.0@w2())")
    '7.1(0.0())'
    """
    import re

    return re.sub(r"@[A-Za-z0-9_.-]+", "", text)
