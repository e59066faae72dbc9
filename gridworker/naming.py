"""What to call a call of which only the item is known: as one would write it, `divide(1, 0)`.

Scripts know calls by their ids. Whoever tells a person of what a script has found (its nodes died, it would wait for itself) looks here.
"""

from __future__ import annotations

from .messages import CYCLE, ID, Failure, shortened, split
from .parts import MANIFEST
from .serialize import decode_arguments, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .serialize import Functions
    from .signing import Seal


def named(data: bytes, functions: Functions, seal: Seal) -> str:
    """The call in an item. Never raises: it is asked when something has gone wrong already. Big arguments are not fetched for it."""
    try:
        _, _, _, reference, arguments = split(data, seal)
        name = functions.name(reference)
        if arguments[1:2] == MANIFEST:
            return f"{name}(…)"
        return describe(name, *decode_arguments(arguments))
    except Exception:                       # not signed, or made of what cannot be imported here
        return f"call {data[:8].decode('ascii', 'replace')}"


def cycle(message: bytes, items: Mapping[str, bytes], functions: Functions, seal: Seal) -> bytes:
    """The failure, as an inbox has it, in place of a script's word that a call would wait for itself through others (`C`)."""
    assert message[0] == CYCLE
    way = message[1 + ID:].decode("ascii").split(",")
    names = [named(items[call], functions, seal) if call in items else f"call {call[:8]}" for call in way]
    text = f"it would wait for itself: {' > '.join(shortened((*names, names[0])))}"
    failure = Failure("cycle", "CycleFound", text, chain=(names[0],))
    call = message[1:1 + ID]
    return b"E" + call + seal.close(b"E", call, failure.encode())
