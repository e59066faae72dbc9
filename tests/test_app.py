"""A function of an options dictionary is a program: one JSON object on stdout whatever happens, and an exit status to rely on."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridworker import app
from gridworker.app import Option, run

PROGRAM = '''
import atexit, ctypes, logging, os, subprocess, sys, threading
from gridworker.app import Option, UsageError, run

def names(value):
    """A whole number, or names: a list, or by commas."""
    if isinstance(value, str):
        return int(value) if value.isdigit() else value.split(",")
    if isinstance(value, (int, list)):
        return value
    raise TypeError(f"{value} is neither a number nor names")

class Opaque(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def write_to_stdout_in_every_way():
    print("printed")
    sys.stdout.write("unflushed")
    os.write(1, b"raw")
    os.system("echo shell")
    subprocess.run([sys.executable, "-c", "print('child')"])
    libc = ctypes.CDLL(None)
    libc.printf(b"buffered by C until the exit")
    atexit.register(print, "at exit")

def fork(way):
    pid = os.fork()
    if pid == 0:
        if way == "raises":
            raise RuntimeError("from the copy")
        return "from the copy"
    assert os.waitpid(pid, 0)[1] == (256 if way == "raises" else 0)
    return "from the original"

ACTIONS = {
    "noise": write_to_stdout_in_every_way,
    "divide": lambda: 1 / 0,
    "exit": lambda: sys.exit(0),
    "interrupt": lambda: os.kill(os.getpid(), 2),
    "set": lambda: {1, 2},
    "nan": lambda: float("nan"),
    "opaque": lambda: (_ for _ in ()).throw(Opaque()),
    "usage": lambda: (_ for _ in ()).throw(UsageError("--number and --names do not go together")),
    "fork": lambda: fork("returns"),
    "fork-raises": lambda: fork("raises"),
    "surrogate": lambda: "\\udcff",
    "big": lambda: "x" * 1_000_000,
}

def main(options):
    logging.getLogger("part").debug("fine")
    logging.getLogger("part").warning("odd %s", "thing")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("part").exception("caught")
    action = options.pop("do")
    return ACTIONS[action]() if action else options

OPTIONS = [
    Option("number", int, 21, "a number, 100% whole"),
    Option("share", float, 0.5),
    Option("pool", help="a pool's name"),
    Option("names", list, ["a", "b"]),
    Option("worker", names),
    Option("dry_run", bool, False),
    Option("do"),
]

sys.exit(run(main, OPTIONS, prog="program", description="What it is for."))
'''
DEFAULTS = {"number": 21, "share": 0.5, "pool": None, "names": ["a", "b"], "worker": None, "dry_run": False}

Run = Callable[..., "Outcome"]


class Outcome:
    """One run of the program; makes sure that stdout held exactly one line with one JSON object."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status, self.stderr = process.returncode, process.stderr
        assert process.stdout.endswith("\n")
        assert process.stdout.count("\n") == 1
        self.output: dict[str, Any] = json.loads(process.stdout, parse_constant=pytest.fail)
        assert isinstance(self.output, dict)
        assert ("result" in self.output) is (self.status == 0)
        assert ("exception" in self.output) is (self.status != 0)
        assert self.output["id"]
        assert self.output["time"] >= 0

    @property
    def result(self) -> Any:
        return self.output["result"]

    @property
    def exception(self) -> dict[str, str]:
        failure: dict[str, str] = self.output["exception"]
        assert set(failure) == {"class", "message", "traceback"}
        return failure


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def launch(program: Path) -> Run:
    def launch(*argv: str) -> Outcome:
        return Outcome(subprocess.run([sys.executable, program, *argv], capture_output=True, text=True, timeout=30, check=False))
    return launch


# -- options

def test_without_flags_the_function_gets_the_defaults(launch: Run) -> None:
    outcome = launch()
    assert (outcome.status, outcome.result) == (0, DEFAULTS)
    assert set(outcome.output) == {"id", "result", "time"}


def test_flags_are_converted_to_their_kinds(launch: Run) -> None:
    outcome = launch("--number", "-4", "--share", "1", "--pool", "p", "--names", "x, y,,z", "--worker", "4", "--dry-run")
    assert outcome.result == {"number": -4, "share": 1.0, "pool": "p", "names": ["x", "y", "z"], "worker": 4, "dry_run": True}


def test_opts_win_over_defaults_and_flags_win_over_opts(launch: Run) -> None:
    opts = {"number": 1, "share": 2, "names": "x,y", "worker": ["n1", "n2"], "dry_run": True, "pool": None}
    outcome = launch("--number", "7", "--opts", json.dumps(opts), "--no-dry-run")
    assert outcome.result == {"number": 7, "share": 2.0, "names": ["x", "y"], "worker": ["n1", "n2"], "dry_run": False, "pool": None}


def test_opts_hold_the_options_of_every_program_too(launch: Run) -> None:
    outcome = launch("--opts", '{"id": "job-7", "with_log": true, "log": "warning", "hang": 0}')
    assert outcome.output["id"] == "job-7"
    assert [entry["level"] for entry in outcome.output["log"]] == ["WARNING", "ERROR"]


@pytest.mark.parametrize(("argv", "words"), [
    (["--number", "x"], "argument --number: invalid int value: 'x'"),
    (["--numb", "3"], "unrecognized arguments: --numb 3"),
    (["stray"], "unrecognized arguments: stray"),
    (["--pool"], "argument --pool: expected one argument"),
    (["--opts", "{"], "argument --opts: not JSON"),
    (["--opts", "[1]"], "argument --opts: not a JSON object: [1]"),
    (["--opts", '{"nmber": 1}'], "--opts: unknown option nmber; the options are number, share"),
    (["--opts", '{"number": "3"}'], '--opts: number must be int, not "3"'),
    (["--opts", '{"number": true}'], "--opts: number must be int, not true"),
    (["--opts", '{"names": [1]}'], "--opts: names must be a,b,…, not [1]"),
    (["--opts", '{"worker": {}}'], "--opts: worker: {} is neither a number nor names"),
    (["--opts", '{"log": 3}'], "--opts: log: '3' is no log level"),
    (["--opts", '{"hang": []}'], "--opts: hang: [] is no number of seconds"),
    (["--log", "loud"], "argument --log: 'loud' is no log level; they are debug, info, warning, error, critical"),
    (["--log", "debug:6379"], "argument --log: '6379' is no HOST:PORT"),
    (["--log", "debug:host:0"], "argument --log: 'host:0' is no HOST:PORT"),
    (["--log", "debug:127.0.0.1:6379"], "--log: this program logs to stderr only"),
    (["--hang", "-1"], "argument --hang: '-1' is no number of seconds"),
    (["--hang", "nan"], "argument --hang: 'nan' is no number of seconds"),
    (["--do", "usage"], "--number and --names do not go together"),
])
def test_a_wrong_command_line_is_a_usage_error_with_status_2(launch: Run, argv: list[str], words: str) -> None:
    outcome = launch(*argv)
    assert (outcome.status, outcome.exception["class"]) == (2, "UsageError")
    assert words in outcome.exception["message"]
    assert "usage: program" in outcome.stderr
    assert words in outcome.stderr


def test_help_is_plain_text_for_people_and_runs_nothing(program: Path) -> None:
    process = subprocess.run([sys.executable, program, "--help", "--do", "divide"], capture_output=True, text=True, timeout=30, check=True)
    assert process.stderr == ""
    for words in ("What it is for.", "--number INT", "a number, 100% whole (default: 21)", "--names A,B,…", "(default: a,b)",
                  "--worker NAMES", "--no-dry-run", "--opts JSON",
                  "--log LEVEL[:HOST:PORT]", "--with-log", "--hang SECONDS", "--id ID", "--help"):
        assert words in process.stdout


# -- what comes out

def test_nothing_that_is_written_to_stdout_gets_in_the_way_of_the_output(launch: Run) -> None:
    outcome = launch("--do", "noise")
    assert (outcome.status, outcome.result) == (0, None)
    for words in ("printed", "unflushed", "raw", "shell", "child", "buffered by C until the exit", "at exit"):
        assert words in outcome.stderr


def test_an_exception_is_told_with_class_message_and_traceback(launch: Run) -> None:
    outcome = launch("--do", "divide", "--id", "q")
    assert (outcome.status, outcome.output["id"]) == (1, "q")
    assert (outcome.exception["class"], outcome.exception["message"]) == ("ZeroDivisionError", "division by zero")
    assert outcome.exception["traceback"].startswith("Traceback (most recent call last):")
    assert '"divide": lambda: 1 / 0' in outcome.exception["traceback"]


@pytest.mark.parametrize(("action", "kind", "words"), [
    ("exit", "SystemExit", "0"),
    ("interrupt", "KeyboardInterrupt", ""),
    ("set", "TypeError", "Object of type set is not JSON serializable"),
    ("nan", "ValueError", "Out of range float values are not JSON compliant"),
    ("opaque", "Opaque", "Opaque: <exception str() failed>"),
])
def test_whatever_keeps_a_result_from_being_written_is_an_exception_with_status_1(launch: Run, action: str, kind: str, words: str) -> None:
    outcome = launch("--do", action)
    assert (outcome.status, outcome.exception["class"]) == (1, kind)
    assert words in outcome.exception["message"]


@pytest.mark.parametrize(("action", "result"), [("surrogate", "\udcff"), ("big", "x" * 1_000_000)])
def test_odd_results_come_through(launch: Run, action: str, result: str) -> None:
    assert launch("--do", action).result == result


def test_a_forked_copy_that_comes_back_writes_no_output(launch: Run) -> None:
    assert launch("--do", "fork").result == "from the original"


def test_an_exception_in_a_forked_copy_is_its_own_and_goes_to_stderr(launch: Run) -> None:
    outcome = launch("--do", "fork-raises")
    assert outcome.result == "from the original"
    assert "RuntimeError: from the copy" in outcome.stderr


def test_a_reader_that_is_gone_means_a_status_that_is_not_0(program: Path) -> None:
    end, stdout = os.pipe()
    os.close(end)
    try:
        process = subprocess.run([sys.executable, program], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    finally:
        os.close(stdout)
    assert process.returncode != 0
    assert "BrokenPipeError" in process.stderr


def test_a_program_started_without_stderr_keeps_its_promise(program: Path) -> None:
    command = ["sh", "-c", '"$0" "$1" --do noise --log debug 2>&-', sys.executable, program]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (process.returncode, json.loads(process.stdout)["result"]) == (0, None)


# -- log

def test_log_goes_to_stderr_from_its_level_on(launch: Run) -> None:
    quiet, loud = launch("--log", "WARNING"), launch("--log", "debug")
    assert "WARNING part: odd thing" in quiet.stderr
    assert "DEBUG part: fine" not in quiet.stderr
    assert "DEBUG part: fine" in loud.stderr
    assert "ValueError: inner" in loud.stderr
    assert "log" not in loud.output


def test_log_entries_come_with_the_output_if_asked(launch: Run) -> None:
    before = time.time()
    outcome = launch("--with-log", "--log", "debug", "--do", "divide")
    fine, odd, caught = outcome.output["log"]
    assert {key: odd[key] for key in ("level", "name", "message")} == {"level": "WARNING", "name": "part", "message": "odd thing"}
    assert fine["message"] == "fine"
    assert caught["message"].startswith("caught\nTraceback")
    assert before - 1 < odd["time"] < time.time() + 1


def test_log_entries_are_from_info_on_if_no_level_is_given(launch: Run) -> None:
    outcome = launch("--with-log")
    assert [entry["level"] for entry in outcome.output["log"]] == ["WARNING", "ERROR"]
    assert "odd thing" not in outcome.stderr


class Recording(logging.Handler):
    """Stands in for the handler that sends to Redis."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.address, self.lines, self.closed = (host, port), [], False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    assert (root.level, root.handlers) == (level, handlers)


def test_log_to_a_host_uses_the_programs_own_handler_and_closes_it(root_logger: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    made: list[Recording] = []

    def make(host: str, port: int) -> Recording:
        made.append(Recording(host, port))
        return made[0]

    def main(options: dict[str, Any]) -> None:
        logging.getLogger("part").debug("fine")

    assert run(main, argv=["--log", "debug:127.0.0.1:6379"], log_handler=make) == 0
    assert (made[0].address, made[0].lines, made[0].closed) == (("127.0.0.1", 6379), ["fine"], True)
    assert json.loads(capfd.readouterr().out)["result"] is None


def test_a_log_handler_that_cannot_be_made_is_an_exception_like_any_other(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(host: str, port: int) -> logging.Handler:
        raise ConnectionRefusedError(f"nobody at {host}:{port}")

    assert run(lambda options: None, argv=["--log", "info:localhost:1"], log_handler=refuse) == 1
    assert json.loads(capfd.readouterr().out)["exception"]["message"] == "nobody at localhost:1"


# -- hanging

def test_the_output_is_out_and_stdout_at_its_end_before_the_program_hangs(program: Path) -> None:
    process = subprocess.Popen([sys.executable, program, "--hang", "60"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["result"] == DEFAULTS   # read() ends with stdout, not with the process
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_program_hangs_as_long_as_it_is_told_and_after_an_exception_too(launch: Run) -> None:
    started = time.monotonic()
    assert launch("--hang", "0.7", "--do", "divide").status == 1
    assert time.monotonic() - started >= 0.7


# -- inside another program

def test_called_with_arguments_it_gives_stdout_back(capfd: pytest.CaptureFixture[str]) -> None:
    def main(options: dict[str, Any]) -> int:
        os.write(1, b"noise\n")
        return options["n"] + 1

    assert run(main, [Option("n", int)], argv=["--n", "3"]) == 0
    os.write(1, b"mine\n")
    out, err = capfd.readouterr()
    result, mine = out.splitlines()
    assert (json.loads(result)["result"], mine, err) == (4, "mine", "noise\n")


def test_options_that_clash_are_refused() -> None:
    with pytest.raises(ValueError, match="options that clash: help, id, n"):
        run(lambda options: None, [Option("n"), Option("n"), Option("id"), Option("help")], argv=[])


def test_the_module_itself_imports_little() -> None:
    code = """if True:
        import sys, types
        sys.modules["gridworker"] = types.ModuleType("gridworker")
        sys.modules["gridworker"].__path__ = [sys.argv[1]]
        import gridworker.app
        heavy = {"asyncio", "dataclasses", "inspect", "redis", "socket", "subprocess"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", code, str(Path(app.__file__).parent)], check=True, timeout=30)
