"""Which version of a function this is, and whether another process has the same: those that go by import path are compared.

A function's version is a hash of its code and defaults; not of what it calls, nor of the data of its module.
"""

from __future__ import annotations

import sys
from types import FunctionType
from weakref import WeakKeyDictionary

from .errors import CodeMismatch

try:                                        # hashlib would load OpenSSL: several ms at each start
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

_Module = type(sys)
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"       # functions travel between equal versions only: their byte code differs
_known: WeakKeyDictionary[FunctionType, tuple[CodeType, str]] = WeakKeyDictionary()      # versions of functions that are arguments


def code_of(function: Any) -> Any:
    """The code of a function, or of what it wraps; None for what has no Python code (builtins)."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return getattr(function, "__code__", None)


def code_version(function: Any) -> str:
    """16 hex digits that change when the function's code or defaults do; "" for what has no Python code (builtins)."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = code_of(function)
    if code is None:
        return ""
    from .serialize import canonical

    state = blake2b(digest_size=8)
    stack = [code]
    while stack:
        code = stack.pop()
        state.update(repr((code.co_code, code.co_names, code.co_varnames, code.co_flags)).encode())
        for constant in code.co_consts:
            if hasattr(constant, "co_code"):
                stack.append(constant)
            elif type(constant) is frozenset:
                state.update(canonical(constant))
            else:
                state.update(repr(constant).encode())
    try:
        state.update(canonical((function.__defaults__, function.__kwdefaults__)))
    except Exception:                       # defaults that can't travel don't have to: their function's import makes them
        state.update(b"?")
    return state.hexdigest()


def lookup(module: str, name: str) -> Any:
    """What an import path leads to, or None."""
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def cannot_import(module: str, error: Exception) -> CodeMismatch:
    """The error for a module that a worker does not have, with what to do about it."""
    return CodeMismatch(f"the worker cannot import {module}: {type(error).__name__}: {error}. Modules are not sent: install it there, or "
                        "copy it and start the workers with its directory in PYTHONPATH; what a notebook's cell defines is sent")


def made_with(function: Any) -> str:
    """The versions that a function depends on: Python's, and major and minor one of packages that its code names.

    >>> made_with(len) == PYTHON
    True
    """
    code = getattr(function, "__code__", None)
    known = getattr(function, "__globals__", None)
    if code is None or known is None:
        return PYTHON
    packages = {value.__name__.partition(".")[0] for name in code.co_names if type(value := known.get(name)) is _Module}
    return ";".join([PYTHON, *sorted(f"{package}={version}" for package in packages if (version := _version(package)))])


def _version(package: str) -> str:
    """Major and minor version of an imported package, "" if it does not tell."""
    version = getattr(sys.modules.get(package), "__version__", None)
    return ".".join(version.split(".")[:2]).replace("-", "_") if isinstance(version, str) else ""


def check_made_with(theirs: str, what: str) -> None:
    """Raises CodeMismatch if the caller's Python or packages are not this worker's. Imports the packages."""
    python, *packages = theirs.split(";")
    if python != PYTHON:
        raise CodeMismatch(f"{what} comes from Python {python}, and this worker runs Python {PYTHON}: start workers with the same version")
    for entry in packages:
        package, _, version = entry.partition("=")
        try:
            __import__(package)
        except Exception as error:
            raise CodeMismatch(f"{what} needs {package} {version}, which this worker cannot import: {error}") from error
        if _version(package) != version:
            raise CodeMismatch(f"{what} comes from {package} {version}, and this worker has {_version(package) or 'another'}: "
                               "install the same version on the workers")


def path_of(function: Any) -> str | None:
    """The path by which a function can be imported, module:name; None if that would not give this very function."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}:{name}" if module and name and module != "__main__" and lookup(module, name) is function else None


def version_of(function: FunctionType) -> str:
    """The code version of a function, which is looked at once while it has this code."""
    known = _known.get(function)
    if known is None or known[0] is not function.__code__:
        known = _known[function] = function.__code__, code_version(function)
    return known[1]


def imported(path: str, version: str) -> Callable[..., Any]:
    """The function at a path, if it has that version. CodeMismatch."""
    module, _, name = path.partition(":")
    try:
        __import__(module)
    except Exception as error:
        raise cannot_import(module, error) from error
    found = lookup(module, name)
    if found is None:
        raise CodeMismatch(f"the worker's module {module} has no {name}")
    if code_version(found) != version:
        raise CodeMismatch(f"the worker has another version of {module}.{name} than its caller: restart the workers")
    function: Callable[..., Any] = found
    return function
