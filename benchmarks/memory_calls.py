"""The call of memory.py."""


def double(x: int) -> int:
    """As little as a call can do."""
    return 2 * x
