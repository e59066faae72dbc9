"""Turn a function of an options dictionary into a command-line program that other programs can read.

    def main(options):
        return {"answer": options["base"] * 2}

    if __name__ == "__main__":
        sys.exit(run(main, [Option("base", int, 21, "the number to double")]))

    $ program --base 4 --id job-7
    {"id": "job-7", "result": {"answer": 8}, "time": 0.012}

To the app's own options the wrapper adds

    --opts JSON               an object with values for any of the options; explicit flags win over it, it wins over defaults
    --log LEVEL[:HOST:PORT]   log records from LEVEL on, to stderr or to the Redis server at HOST:PORT
    --with-log                put the log entries into the output too, under "log" (from LEVEL on, or from INFO)
    --hang SECONDS            stay alive that long after the output is written; Ctrl-C ends it
    --id ID                   what to call this run in the output (default: random)
    --help                    say all this in plain text, and do nothing else

What it promises to whoever reads: on stdout stands exactly one JSON object, on one line, whatever happens; it holds `id`, `time` (of
the function, in ms) and either `result` or `exception` (`class`, `message`, `traceback`). Everything else that is written to stdout,
by C code and child processes too, goes to stderr. The exit status is 0 with a result, 2 when the command line
is wrong and 1 after any other exception, SystemExit and KeyboardInterrupt included. The one exception is `--help`, which is for people.

This module imports little, because a machine starts one Python for its nodes and waits for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

__all__ = ["Option", "UsageError", "run"]

_KEPT_ENTRIES = 10_000   # of the log in the output: the newest; a program that hangs in a debug loop must not fill the memory


class UsageError(Exception):
    """The command line is wrong. Raised by the wrapper, or by the function for options that do not go together: exit status 2."""


class Option(NamedTuple):
    """One option of a program: `--name` on the command line, `name` in `--opts` and in the dictionary that the function gets.

    `kind` is int, float, str, bool (`--name` and `--no-name`), list (of str, by commas: `--name a,b`), or a function that makes the value
    of the flag's text or of what stands in `--opts`, and raises ValueError or TypeError. An underscore in the name is a dash in the flag.
    """

    name: str
    kind: Callable[[Any], Any] = str
    default: Any = None
    help: str = ""
    metavar: str | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def from_json(self, value: Any) -> Any:
        """The option's value for one in `--opts`; null means: as if it were not there. Raises UsageError for a wrong type."""
        if value is None:
            return self.default
        if self.kind is list and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        if self.kind is list and isinstance(value, str):
            return _by_commas(value)
        if self.kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if self.kind not in (int, float, str, bool, list):
            try:
                return self.kind(value)
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                raise UsageError(f"--opts: {self.name}: {error}") from error
        if type(value) is self.kind and self.kind is not list:
            return value
        raise UsageError(f"--opts: {self.name} must be {_kind_name(self.kind)}, not {json.dumps(value)}")


def run(main: Callable[[dict[str, Any]], Any], options: Iterable[Option] = (), *, prog: str | None = None, description: str | None = None,
        argv: Sequence[str] | None = None, log_handler: Callable[[str, int], logging.Handler] | None = None) -> int:
    """Run `main` with the options of the command line, print its output, and return the exit status, for `sys.exit`.

    Called without `argv`, it takes this process's command line and its stdout for good: after the output stdout is closed to the reader,
    who sees the end of it at once, and what is still written (by exit handlers, or by C code that flushes late) goes to stderr. Called
    with `argv` from inside another program, it gives stdout back when it returns.

    `main` gets a dictionary with every one of `options` in it and returns something that JSON can hold. `log_handler(host, port)` makes
    the handler for `--log LEVEL:HOST:PORT`; without it that form is refused. Raises ValueError for options that clash.
    """
    own, pid, written = list(options), os.getpid(), False
    parser = _parser(own, prog, description)
    try:
        with _stdout_kept(back=argv is not None) as emit:
            text, status, hang = _run(main, own, parser, sys.argv[1:] if argv is None else argv, log_handler)
            if os.getpid() != pid:   # a forked copy of the process came back here: the output is for the original to write
                return status
            emit(text)
            written = True
        time.sleep(hang)
    except KeyboardInterrupt:
        if not written:
            raise
    return status


def _run(main: Callable[[dict[str, Any]], Any], own: list[Option], parser: _Parser, argv: Sequence[str],
         log_handler: Callable[[str, int], logging.Handler] | None) -> tuple[str, int, float]:
    """What to write, the exit status, and how long to hang."""
    output: dict[str, Any] = {"id": os.urandom(6).hex()}
    status, hang, pid, started = 1, 0.0, os.getpid(), time.perf_counter()
    entries: _Entries | None = None
    try:
        values, wrapper = _values(parser, own, argv)
        if wrapper["help"]:
            return parser.format_help(), 0, 0.0
        output["id"], hang = wrapper["id"] or output["id"], wrapper["hang"]
        entries = _Entries() if wrapper["with_log"] else None
        with _logging(wrapper["log"], entries, log_handler):
            started = time.perf_counter()
            result = main(values)
        spent = time.perf_counter() - started
        json.dumps(result, allow_nan=False)   # here, so that what cannot be written is an exception like any other
        output["result"], status = result, 0
    except BaseException as error:
        if os.getpid() != pid:   # in a forked copy an exception goes the way it does in any Python
            raise
        spent = time.perf_counter() - started
        output["exception"] = _exception(error)
        if isinstance(error, UsageError):
            status = 2
            print(parser.format_usage() + f"{parser.prog}: {error}", file=sys.stderr)
    output["time"] = round(spent * 1000, 3)
    if entries is not None:
        output["log"] = list(entries.kept)
    return json.dumps(output, allow_nan=False) + "\n", status, hang


def _parser(own: list[Option], prog: str | None, description: str | None) -> _Parser:
    names = [option.name for option in own]
    taken = [*names, *(option.name for option in _WRAPPER), "opts", "help"]
    if clash := sorted({name for name in names if taken.count(name) > 1}):
        raise ValueError(f"options that clash: {', '.join(clash)}")
    parser = _Parser(prog=prog, description=description, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for title, group in (("options", own), ("options of every program", _WRAPPER)):
        section = parser.add_argument_group(title)
        for option in group:
            _add(section, option)
    section.add_argument("--opts", type=_object, metavar="JSON", help="an object with values for any of these; flags win over it")
    section.add_argument("--help", action="store_true", help="show this and do nothing else")
    return parser


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    text = option.help.replace("%", "%%")
    if option.default not in (None, False, "") and option.default != []:
        shown = ",".join(option.default) if isinstance(option.default, list) else option.default
        text = f"{text} (default: {shown})".lstrip()
    if option.kind is bool:
        section.add_argument(option.flag, dest=option.name, action=argparse.BooleanOptionalAction, help=text)
    else:
        kind = _by_commas if option.kind is list else option.kind
        section.add_argument(option.flag, dest=option.name, type=kind, metavar=option.metavar or _kind_name(option.kind).upper(), help=text)


def _values(parser: _Parser, own: list[Option], argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of the app's options and of the wrapper's: flags before `--opts` before defaults."""
    flags = vars(parser.parse_args(argv))
    asked_help, opts = flags.pop("help", False), flags.pop("opts", {})
    known = {option.name: option for option in [*own, *_WRAPPER]}
    unknown = [name for name in opts if name not in known]
    if unknown:
        raise UsageError(f"--opts: unknown option {', '.join(unknown)}; the options are {', '.join(known)}")
    values = {name: option.default for name, option in known.items()}
    values |= {name: known[name].from_json(value) for name, value in opts.items()}
    values |= flags
    wrapper = {option.name: values.pop(option.name) for option in _WRAPPER}
    return values, {**wrapper, "help": asked_help}


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of printing and exiting."""

    def error(self, message: str) -> Any:
        raise UsageError(message) from None


class _LogTarget(NamedTuple):
    """Where `--log` sends records: stderr if there is no host."""

    level: int
    host: str | None
    port: int


def _log_target(text: Any) -> _LogTarget:
    """`debug` or `info:127.0.0.1:6379`. Raises ArgumentTypeError."""
    name, _, address = str(text).partition(":")
    level = logging.getLevelName(name.upper())
    if not isinstance(level, int):
        raise argparse.ArgumentTypeError(f"{name!r} is no log level; they are debug, info, warning, error, critical")
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{address!r} is no HOST:PORT")
    return _LogTarget(level, host or None, int(port or 0))


def _seconds(value: Any) -> float:
    with suppress(ValueError, TypeError):
        if 0 <= (seconds := float(value)) <= threading.TIMEOUT_MAX:
            return seconds
    raise argparse.ArgumentTypeError(f"{value!r} is no number of seconds")


_WRAPPER = [
    Option("log", _log_target, None, "log records from LEVEL on, to stderr or to the Redis server there", "LEVEL[:HOST:PORT]"),
    Option("with_log", bool, False, "put the log entries into the output too"),
    Option("hang", _seconds, 0.0, "stay alive that long after the output is written", "SECONDS"),
    Option("id", str, "", "what to call this run in the output", "ID"),
]


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"not a JSON object: {text}")
    return value


def _by_commas(text: str) -> list[str]:
    return [item for item in (item.strip() for item in text.split(",")) if item]


def _kind_name(kind: Callable[[Any], Any]) -> str:
    return "a,b,…" if kind is list else getattr(kind, "__name__", "value").strip("_")


def _exception(error: BaseException) -> dict[str, str]:
    lines = traceback.format_exception(error)   # with all causes, so that what a remote node wrote is in it
    try:
        message = str(error)
    except Exception:   # an error whose message cannot be made must not cost the output
        message = lines[-1].strip()
    return {"class": type(error).__name__, "message": message, "traceback": "".join(lines)}


class _Entries(logging.Handler):
    """Keeps the newest log records as dictionaries for the output: `time` in s since 1970, `level`, `name`, `message`."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[dict[str, Any]] = deque(maxlen=_KEPT_ENTRIES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)   # with the traceback, if it has one
        except Exception:
            self.handleError(record)
            return
        self.kept.append({"time": round(record.created, 3), "level": record.levelname, "name": record.name, "message": text})


@contextmanager
def _logging(target: _LogTarget | None, entries: _Entries | None, make: Callable[[str, int], logging.Handler] | None) -> Iterator[None]:
    """Send what is logged inside to where `--log` and `--with-log` say; flushed and taken down afterwards."""
    handlers: list[logging.Handler] = [entries] if entries else []
    if target and target.host:
        if make is None:
            raise UsageError("--log: this program logs to stderr only")
        handlers.append(make(target.host, target.port))
    elif target:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before = root.level
    for handler in handlers:
        root.addHandler(handler)
    if handlers:
        root.setLevel(target.level if target else logging.INFO)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextmanager
def _stdout_kept(back: bool) -> Iterator[Callable[[str], None]]:
    """Keep stdout for the one output: inside, and afterwards unless `back`, file descriptor 1 is stderr's. Gives the function that
    writes to the real one."""
    try:
        os.fstat(2)
    except OSError:   # started without a stderr, as some services are
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout.flush()
    real = os.dup(1)   # programs that are started from here do not inherit it

    def emit(text: str) -> None:
        with os.fdopen(os.dup(real), "w", encoding="utf-8") as out:
            out.write(text)

    try:
        os.dup2(2, 1)
        yield emit
    finally:
        if back:
            sys.stdout.flush()   # what was written here and not flushed belongs on stderr still
            os.dup2(real, 1)
        os.close(real)
