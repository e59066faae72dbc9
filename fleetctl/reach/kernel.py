"""A Jupyter kernel on a machine, driven from here. The only importer of jupyter_client.

Kernel and client speak over Unix sockets, five of them, each forwarded through the machine's one SSH connection. So no port is taken on
either side, and nobody else on either computer can reach the kernel, which would run anything for them. The key that signs the messages
travels on the kernel's standard input: it stands in no command line. The kernel ends with its connection.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from ..errors import CommandFailed, MachineError
from ..futures import Pending
from . import ssh
from .ssh import Tied

if TYPE_CHECKING:
    from .hands import Hands

START_SECONDS = 60.0  # a cold disk reads a scientific Python slowly
INTERRUPTS = 20  # at one a second
SOCKETS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
_LONGEST = 80  # characters of the directory: a socket's path has room for about a hundred (unix(7))

# the directory is private, and short; its name is the first line; the log's end comes when the kernel has ended
_BEFORE = f"""umask 077
IFS= read -r key <&3 || exit 1
d=$(mktemp -d) || exit 1
[ "${{#d}}" -le {_LONGEST} ] || {{ rmdir "$d"; d=$(mktemp -d /tmp/fleetctl-XXXXXX) || exit 1; }}
printf '%s' "$key" | sed "s|@here@|$d|" >"$d/connection.json"
echo "$d"
"""
_AFTER = 'said=$(tail -c 2000 "$d/log"); rm -rf "$d"; printf %s "$said" >&2'


@dataclass(slots=True)
class Answer:
    """What came of some code: `stdout`, `stderr`, `value` (the last expression, as text) and `data`, its other forms by MIME type.

    `shown` is what it displayed, `error` the traceback of what it raised.
    """

    code: str
    stdout: str = ""
    stderr: str = ""
    value: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def __repr__(self) -> str:
        return f"<answer to {self.code.strip().splitlines()[0][:40] if self.code.strip() else ''!r}: {self.error[-60:] or self.value[:60]}>"

    def __str__(self) -> str:
        return self.stdout + self.value

    @property
    def ok(self) -> bool:
        """It raised nothing."""
        return not self.error

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        wrote = self.stdout + self.stderr + self.error
        bundle: dict[str, Any] = {**self.data} or {"text/plain": ""}
        if wrote:
            value = str(bundle.get("text/html") or f"<pre>{html.escape(self.value)}</pre>")
            bundle |= {"text/plain": wrote + self.value, "text/html": f"<pre>{html.escape(wrote)}</pre>{value}"}
        return bundle

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """One message of the kernel's."""
        match kind:
            case "stream":
                setattr(self, content["name"], getattr(self, content["name"]) + content["text"])
            case "execute_result":
                self.data = dict(content["data"])
                self.value = str(self.data.get("text/plain", ""))
            case "display_data":
                self.shown.append(dict(content["data"]))
            case "error":
                self.error = "\n".join(content["traceback"]) or f"{content['ename']}: {content['evalue']}"


class Kernel:
    """A Jupyter kernel on a machine. `await kernel.execute("1+1")`; `jupyter console --existing` takes its `connection_file`."""

    def __init__(self, machine: Hands, tied: Tied, directory: Path, client: Any) -> None:
        self.machine, self._tied, self._directory, self._client = machine, tied, directory, client
        self.connection_file = directory / "connection.json"
        self._turn = asyncio.Lock()
        self._end = asyncio.get_running_loop().create_task(self._watch())
        self._last = ""

    def __repr__(self) -> str:
        return f"<kernel on {self.machine.called}: {'ended' if self._end.done() else 'running'}>"

    def execute(self, code: str, *, check: bool = True, timeout: float | None = None) -> Pending[Answer]:
        """Run code there, one after the other. Await it for an Answer.

        Raises CommandFailed with the traceback of what it raised (`check=False`: never), MachineError when the kernel or the connection
        ends, or `timeout` seconds are over: the code is interrupted then.
        """
        return self.machine.home.submit(self._execute(code, check, timeout), f"code on {self.machine.called}")

    async def _execute(self, code: str, check: bool, timeout: float | None) -> Answer:
        async with self._turn:
            if self._end.done():
                raise MachineError(f"the kernel on {self.machine.called} has ended{self._last}", todo="start another")
            answer = Answer(code)
            work = asyncio.create_task(
                self._client.execute_interactive(
                    code, allow_stdin=False, output_hook=lambda message: answer.take(message["msg_type"], message["content"])
                )
            )
            done, _ = await asyncio.wait({work, self._end}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if work not in done:
                if self._end in done:
                    work.cancel()
                    raise MachineError(f"the kernel on {self.machine.called} has ended{self._last}", todo="start another")
                for _ in range(INTERRUPTS):  # one that comes before the code has begun is lost on it
                    self._interrupt()
                    await asyncio.wait({work, self._end}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                    if work.done() or self._end.done():
                        break
                what = "was interrupted" if work.done() else "does not let itself be interrupted"
                work.cancel()
                raise MachineError(f"code on {self.machine.called} was not done within {timeout:g} s, and {what}",
                                   left=[f"the kernel on {self.machine.called} runs on"], todo="allow more time")  # fmt: skip
            reply = work.result()["content"]
        if reply["status"] == "error" and not answer.error:
            answer.error = f"{reply.get('ename')}: {reply.get('evalue')}"
        if check and answer.error:
            raise CommandFailed(f"code on {self.machine.called} raised {reply.get('ename')}: {reply.get('evalue')}\n{answer.error}",
                                exit_status=1, left=[f"the kernel on {self.machine.called} runs on"],
                                todo="check=False gives the answer as a value")  # fmt: skip
        return answer

    def interrupt(self) -> None:
        """Interrupt what runs, as Ctrl-C does."""
        self.machine.home.submit(self._interrupt_there(), f"interrupt of the kernel on {self.machine.called}")

    async def _interrupt_there(self) -> None:
        self._interrupt()

    def _interrupt(self) -> None:
        self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))

    async def _watch(self) -> None:
        """Until the kernel has ended."""
        while await self._tied.lines():
            pass
        said = (await self._tied.ending()).strip()
        self._last = f": {said[-500:]}" if said else ""

    def close(self) -> Pending[None]:
        """End it, and remove its files on both sides. Harmless when repeated."""
        return self.machine.home.submit(self._close(), f"end of the kernel on {self.machine.called}")

    async def _close(self) -> None:
        self._client.stop_channels()
        await self._tied.aclose()
        await asyncio.wait([self._end], timeout=1.0)  # what it wrote last
        self._end.cancel()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def __aenter__(self) -> Kernel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


async def start(machine: Hands, python: str, keep: Callable[[Any], None]) -> Kernel:
    """A kernel there, and a client here that it has answered. On the loop. Raises MachineError."""
    try:
        from jupyter_client.asynchronous.client import AsyncKernelClient
    except ImportError as error:
        raise MachineError("a kernel is driven with jupyter_client, which is not here", todo="pip install 'fleetctl[notebook]'") from error
    link = machine.link()
    said: dict[str, Any] = {
        "transport": "ipc", "ip": "@here@/k", "key": secrets.token_hex(32), "signature_scheme": "hmac-sha256",
        "kernel_name": "python3", **SOCKETS,
    }  # fmt: skip
    program = f'{python} -m ipykernel_launcher -f "$d/connection.json" >"$d/log" 2>&1'
    tied = await link.tied(program, before=_BEFORE, after=_AFTER, stdin=json.dumps(said) + "\n")
    directory = Path(tempfile.mkdtemp(prefix="fleetctl-"))  # mode 0700
    client = None
    try:
        async with asyncio.timeout(START_SECONDS):
            first = await tied.lines()
        there = first[0].strip() if first else ""
        if not there.startswith("/"):
            raise MachineError(f"no kernel on {machine.called}: {(await tied.ending()).strip()[-500:]}", todo="look at its /tmp")
        names = [f"-{number}" for number in SOCKETS.values()]
        connection = await link.connection()
        await ssh.forward_sockets(connection, f"{there}/k", directory / "k", names, f"the kernel on {machine.called}")
        local = {**said, "ip": str(directory / "k")}
        file = os.open(directory / "connection.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as out:
            json.dump(local, out)
        client = AsyncKernelClient()
        client.load_connection_info(cast(Any, local))
        client.start_channels(hb=False)  # a thread of its own, for what the connection tells
        kernel = Kernel(machine, tied, directory, client)
        ready = asyncio.ensure_future(client.wait_for_ready(timeout=START_SECONDS))
        await asyncio.wait({ready, kernel._end}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done() or ready.exception() is not None:  # the client may hear first that there is nobody
            await asyncio.wait({kernel._end}, timeout=2.0)
        if kernel._end.done():
            ready.cancel()
            raise MachineError(f"the kernel on {machine.called} did not start{kernel._last}",
                               todo=f"`{python} -m pip install ipykernel` there")  # fmt: skip
        ready.result()
    except BaseException as error:
        if client is not None:
            client.stop_channels()
        await tied.aclose()
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, RuntimeError | TimeoutError):
            raise MachineError(f"the kernel on {machine.called} did not answer within {START_SECONDS:g} s", todo="try again") from error
        raise
    keep(kernel._close)
    return kernel
