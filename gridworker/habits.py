"""What people type who know other tools, and what it is called here: told by the error for an attribute that is not there."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import ClassVar


class Habits:
    """Says in the AttributeError of a name in `habits` what to write in its place."""

    __slots__ = ()
    habits: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:               # a type checker is to go on refusing what is not there
        def __getattr__(self, name: str) -> object:
            hint = f"; {self.habits[name]}" if name in self.habits else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)


OF_A_GRID = {
    "submit": "write grid.request(f, x), whose answer is awaited or asked for its .result(); grid.executor() has a submit()",
    "gather": "await the answers, or call their .result(); grid.requests([(f, x), …]) is one answer with all values",
    "get": "await the answer, or call its .result()",
    "scatter": "pass the value itself: a big one is stored once, and fetched by who needs it",
    "put": "pass the value itself: a big one is stored once, and fetched by who needs it",
    "shutdown": "write grid.close()",
}
OF_AN_ANSWER = {
    "get": "await it, or call its .result()",
    "_condition": "concurrent.futures' wait() and as_completed() take no answers: gridworker.as_completed(answers) does, and the futures "
                  "of grid.executor() go into those",
    "add_done_callback": "await it, or take a future of grid.executor(), which has one",
}
OF_A_REMOTE = {
    "remote": "write f.on(grid).submit(x), or f.submit(x) within `with grid:`",
    "delay": "write f.on(grid).submit(x), or f.submit(x) within `with grid:`",
    "options": "write f.on(grid, pool); a machine's size is asked for when it is brought up",
}
