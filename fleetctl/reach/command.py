"""A command as a value: what is to run on a machine, and what came of it. Pure; `link` carries it there.

A text is shell; a sequence of words is a program with its arguments, and no shell looks at them. Where the command runs, with which
variables, and its words all travel in one line for the login shell, for OpenSSH's server takes variables from clients only where it is
told to (sshd_config(5), AcceptEnv).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import CommandFailed, RequestInvalid

__all__ = ["Command", "Done", "command"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN = 60  # characters of a command in a repr
_TAIL = 2000  # characters of output in an error


@dataclass(frozen=True, slots=True)
class Command:
    """What runs on a machine, as the login user: shell text, or the words of one program.

    `cwd` is where (default: the home directory), `env` variables to set, `stdin` what it reads (default: nothing), `timeout` seconds
    after which it is killed (default: never), `combine` puts what it writes as errors into its output, in order. Values of `env` stand in
    the machine's process list: secrets belong into `stdin`. Raises RequestInvalid on what no machine could run.
    """

    what: str | tuple[str, ...]
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str | bytes = b""
    timeout: float | None = None
    combine: bool = False

    def __post_init__(self) -> None:
        words = (self.what,) if isinstance(self.what, str) else self.what
        if not isinstance(words, tuple) or not words or not all(isinstance(word, str) for word in words) or not words[0].strip():
            raise RequestInvalid("a command is shell text, or a sequence of words", alias="command", found=self.what)
        for text in (*words, self.cwd, *self.env, *self.env.values()):
            if not isinstance(text, str) or "\0" in text:
                raise RequestInvalid("no machine can run text with a null character, or what is no text", alias="command", found=text)
        for name in self.env:
            if not _NAME.fullmatch(name):
                raise RequestInvalid("that is no name of a variable", alias="env", found=name)
        if self.timeout is not None and not self.timeout > 0:
            raise RequestInvalid("a timeout is a positive number of seconds", alias="timeout", found=self.timeout)
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))

    def __repr__(self) -> str:
        text = self.text
        return f"<command {text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}>"

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """The command itself as shell text.

        >>> Command(("ls", "two words")).text
        "ls 'two words'"
        """
        return self.what if isinstance(self.what, str) else shlex.join(self.what)

    @property
    def line(self) -> str:
        """The line that the login shell on the machine gets.

        >>> print(Command("make && ./run", cwd="tide model", env={"LEVEL": "3 m"}).line)
        cd 'tide model' && export LEVEL='3 m' && {
        make && ./run
        }
        """
        where = [f"cd {shlex.quote(self.cwd)}"] if self.cwd else []
        variables = [f"export {name}={shlex.quote(value)}" for name, value in self.env.items()]
        before = "".join(f"{step} && " for step in (*where, *variables))
        # joined by the shell itself: the server's two pipes would lose the order
        after = " 2>&1" if self.combine else ""
        # in braces, for no part of several commands may run where the directory is missing
        return f"{before}{{\n{self.text}\n}}{after}" if before or after else self.text


def command(
    what: str | Sequence[str] | Command, *, cwd: str = "", env: Mapping[str, str] | None = None, stdin: str | bytes = b"",
    timeout: float | None = None, combine: bool = False,
) -> Command:  # fmt: skip
    """The command that `what` means: text, words, or a command as it is (then without options). Raises RequestInvalid."""
    if isinstance(what, Command):
        if cwd or env or stdin or timeout is not None or combine:
            raise RequestInvalid("this is a Command already, which has its own options", alias="command", found=what)
        return what
    if not isinstance(what, str) and (isinstance(what, bytes) or not isinstance(what, Sequence)):
        raise RequestInvalid("a command is shell text, or a sequence of words", alias="command", found=what)
    return Command(what if isinstance(what, str) else tuple(what), cwd, env or {}, stdin, timeout, combine)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended. `exit_status` is its exit code, or minus the number of the signal that ended it; `seconds` its time.

    `stdout` and `stderr` are text; bytes that are no UTF-8 are replaced. `machine` names the machine.
    """

    command: Command
    exit_status: int
    stdout: str
    stderr: str
    seconds: float
    machine: str = ""

    def __repr__(self) -> str:
        wrote = len(self.stdout) + len(self.stderr)
        return f"<{self.command.text[:_SHOWN]!r} on {self.machine}: exit {self.exit_status}, {wrote} characters, {self.seconds:.2f} s>"

    def __str__(self) -> str:
        return self.stdout

    @property
    def ok(self) -> bool:
        """Exit code 0."""
        return self.exit_status == 0

    def json(self) -> Any:
        """The JSON that it has written as its last line. Raises CommandFailed for what is none."""
        try:
            return json.loads(self.stdout.rstrip().rpartition("\n")[2])
        except ValueError as error:
            raise CommandFailed(
                f"{self.command.text[:_SHOWN]!r} on {self.machine or 'a machine'} has not written JSON as its last line: {error}",
                exit_status=self.exit_status,
                todo="look at its stdout and stderr",
            ) from error

    def check(self) -> Done:
        """Itself, if the command has succeeded. Raises CommandFailed with exit code and the end of what it wrote."""
        if self.ok:
            return self
        how = f"exit code {self.exit_status}" if self.exit_status >= 0 else f"signal {-self.exit_status}"
        tail = (self.stderr.strip() or self.stdout.strip())[-_TAIL:]
        raise CommandFailed(
            f"{self.command.text[:_SHOWN]!r} ended with {how} on {self.machine or 'a machine'}{': ' + tail if tail else ''}",
            exit_status=self.exit_status,
            left=[f"{self.machine} runs on"] if self.machine else [],
            todo="look at the output; check=False gives the outcome as a value",
        )

