"""botocore's model of a launch call, and what it has against a request. The only user of botocore's service models.

The model is read once a process, at the first use (0.2 s), and botocore is imported only then.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from ..lenses import describe, show_path
from .rules import Fault, Path

__all__ = ["model_faults", "table_faults"]

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {   # model's type → what Python may give for it, and how the user calls that
    "structure": ((dict,), "dict"),
    "map": ((dict,), "dict"),
    "list": ((list, tuple), "list"),
    "string": ((str,), "str"),
    "boolean": ((bool,), "bool"),
    "integer": ((int,), "int"),
    "long": ((int,), "int"),
    "float": ((int, float), "float"),
    "double": ((int, float), "float"),
    "timestamp": ((datetime, str), "datetime"),
    "blob": ((bytes, bytearray, str), "bytes"),
}
_TYPE_AND_SIZE = re.compile(r"[a-z][a-z0-9-]*\.([a-z0-9-]+)")


def model_faults(operation: str, value: Any, at: Path = ()) -> Iterator[Fault]:
    """Whatever in the value is not as the model of the EC2 operation says: unknown keys, wrong types, missing keys, enums, bounds.

    The value is the whole request, or what stands `at` one of its keys.
    """
    shape = _input(operation)
    for key in at:
        shape = shape.members[key]
    yield from _check(shape, value, at)


def table_faults(operation: str, places: Iterable[Path]) -> Iterator[Fault]:
    """The places that the operation does not have."""
    for place in places:
        shape = _input(operation)
        for depth, key in enumerate(place, 1):
            below = shape.members.get(key) if shape.type_name == "structure" else shape.member if shape.type_name == "list" else None
            if below is None or isinstance(key, int) is not (shape.type_name == "list"):
                yield Fault(place, f"{operation} has no {show_path(place[:depth])}")
                break
            shape = below


@functools.lru_cache(maxsize=8)
def _input(operation: str) -> Any:
    import botocore.loaders
    import botocore.model
    description = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    return botocore.model.ServiceModel(description, "ec2").operation_model(operation).input_shape


def _check(shape: Any, value: Any, at: Path) -> Iterator[Fault]:
    types, name = _TYPES[shape.type_name]
    if isinstance(value, types) and not (isinstance(value, bool) and bool not in types):
        yield from _check_inside(shape, value, at)
    else:
        yield Fault(at, f"expected {name}, found {describe(value)}", value)


def _check_inside(shape: Any, value: Any, at: Path) -> Iterator[Fault]:
    """The faults of a value that has the right type itself."""
    yield from _bounds(shape, value, at)
    if shape.type_name == "structure":
        for key, item in value.items():
            if key in shape.members:
                yield from _check(shape.members[key], item, (*at, key))
            else:
                yield Fault((*at, key), _unknown(key, tuple(shape.members)), item)
        yield from (Fault((*at, key), "required, but nothing is there") for key in shape.required_members if key not in value)
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from _check(shape.member, item, (*at, index))
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _check(shape.value, item, (*at, key))
    elif shape.type_name == "string" and shape.enum and not _among(value, shape):
        yield Fault(at, f"{value!r} is none of the values it can have{_nearest(value, tuple(shape.enum))}", value)
    elif shape.type_name == "timestamp" and isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield Fault(at, f"expected datetime, found {describe(value)}", value)


def _bounds(shape: Any, value: Any, at: Path) -> Iterator[Fault]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is None and high is None:
        return
    size = value if isinstance(value, int | float) else len(value)
    what = "is" if isinstance(value, int | float) else "has a length of"
    if (low is not None and size < low) or (high is not None and size > high):
        yield Fault(at, f"{what} {size}, outside of {'…' if low is None else low} to {'…' if high is None else high}", value)


def _among(value: str, shape: Any) -> bool:
    """Whether an enum has the value. Instance types are an open enum, as AWS adds some every month: there a known size is enough."""
    if value in shape.enum:
        return True
    match = _TYPE_AND_SIZE.fullmatch(value) if shape.name == "InstanceType" else None
    return match is not None and match[1] in {known.partition(".")[2] for known in shape.enum}


def _unknown(key: Any, known: tuple[str, ...]) -> str:
    return f"there is no such key{_nearest(str(key), known)}"


@functools.lru_cache   # a fleet says the same wrong type in each of its places, and there are 1,000 types to compare with
def _nearest(value: str, known: tuple[str, ...]) -> str:
    if close := difflib.get_close_matches(value, known, 1):
        return f" (did you mean {close[0]!r}?)"
    return f"; they are {', '.join(known)}" if len(known) <= 20 else ""
