"""What lasts: following a file, a terminal lent, a kernel driven. On Debian's OpenSSH server and on the local cloud's machines."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest
from openssh import openssh  # noqa: F401  the fixture

from fleetctl import bring_up_one_spot, hosts
from fleetctl.errors import CommandFailed, FleetError, MachineError


@pytest.fixture
async def box(openssh):  # noqa: F811
    """A machine that exists already."""
    server = openssh()
    with hosts([{**server.said, "name": "box"}], host_key=server.host_key) as machines:
        yield machines["box"]


@pytest.fixture(params=["openssh", pytest.param("cloud", marks=pytest.mark.cloud)])
async def either(request):
    """A machine of either kind."""
    if request.param == "openssh":
        server = request.getfixturevalue("openssh")()
        with hosts([{**server.said, "name": "box"}], host_key=server.host_key) as machines:
            yield machines["box"]
    else:
        session, request_ = request.getfixturevalue("session"), request.getfixturevalue("request_")
        yield await bring_up_one_spot(request_, "exec sleep 1000", session=session)


async def gone(box, pattern):
    """Nothing whose command line has the pattern runs there any more."""
    await box.run(f"while pgrep -f '{pattern[0]}[{pattern[1]}]{pattern[2:]}' >/dev/null; do sleep 0.05; done", timeout=30)


async def test_a_file_is_followed_through_its_replacement_until_nobody_iterates(either, tmp_path):
    log = f"{(await either.run('mktemp -d')).stdout.strip()}/steps"
    await either.run(f"seq 5 >{log}")
    lines = either.tail(log, lines=2)
    assert [await anext(lines), await anext(lines)] == ["4", "5"]
    await either.run(f"echo six >>{log}; printf 'sev' >>{log}")
    assert await anext(lines) == "six"
    await either.run(f"echo en >>{log}")
    assert await anext(lines) == "seven"
    await either.run(f"mv {log} {log}.1; echo new >{log}")
    assert await anext(lines) == "new"
    await lines.aclose()
    await gone(either, f"tail -n 2 -F -- {log}")


async def test_a_tail_that_is_cancelled_ends_on_the_machine_too(box):
    log = f"{(await box.run('mktemp -d')).stdout.strip()}/empty"

    async def follow():
        async for _ in box.tail(log):
            pass

    waiting = asyncio.create_task(follow())
    await box.run(f"until pgrep -f 'tai[l] -n 10 -F -- {log}' >/dev/null; do sleep 0.05; done", timeout=30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gone(box, f"tail -n 10 -F -- {log}")


async def test_a_tail_whose_connection_breaks_is_an_error_and_leaves_nothing_there(box):
    log = f"{(await box.run('mktemp -d')).stdout.strip()}/steps"
    await box.run(f"echo one >{log}")
    lines = box.tail(log)
    assert await anext(lines) == "one"
    connection = await box.home.submit(box.link().connection(), "connection")
    box.home.submit(asyncio.sleep(0), "round").result(5)
    box.link()._opening.get_loop().call_soon_threadsafe(connection.abort)
    with pytest.raises(MachineError):
        await anext(lines)
    await gone(box, f"tail -n 10 -F -- {log}")


class Screen:
    """A process whose terminal is a real one, and what stands on it."""

    def __init__(self, script, environment):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
                                        start_new_session=True)
        os.close(theirs)
        os.set_blocking(self.ours, False)
        self.text = ""

    def type(self, keys):
        os.write(self.ours, keys.encode())

    def until(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, self.text
            with contextlib.suppress(BlockingIOError, OSError):
                self.text += os.read(self.ours, 65536).decode(errors="replace")
            time.sleep(0.02)
        self.text = self.text[found.end() :]
        return found

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self.ours)


@pytest.fixture
def screen(openssh):  # noqa: F811
    """Starts what is awaited of a machine in a process with a terminal of its own."""
    server, made = openssh(), []

    def start(awaited):
        told = {**server.said, "key_file": str(server.key), "name": "box"}
        script = (
            f"import asyncio, fleetctl, sys\nbox = fleetctl.hosts([{told!r}], host_key={server.host_key!r})['box']\n"
            f"async def main():\n    print('it gave', await {awaited})\nasyncio.run(main())\nprint('and', input('here: '))\n"
        )
        home = server.directory / "home"
        made.append(Screen(script, {**os.environ, "TERM": "xterm", "IPYTHONDIR": str(home)}))
        return made[-1]

    yield start
    for one in made:
        one.end()


def test_a_shell_in_a_terminal_takes_keys_signals_and_sizes_and_gives_the_terminal_back(screen):
    one = screen("box.shell('PS1= exec bash --norc --noprofile -i')")
    one.type("tty; echo it $((40 + 2)) ready\r")
    one.until(r"/dev/pts/\d+\s+it 42 ready")
    one.type("sh -c 'trap \"echo caught \\$((1 + 1)); exit\" INT; echo $((6 * 7)); while :; do sleep 0.1; done'\r")
    one.until(r"[\r\n]42\s")
    one.type("\x03")  # Ctrl-C is the machine's
    one.until(r"caught 2")
    fcntl.ioctl(one.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    one.type("until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done; echo size $((3 * 11))\r")
    one.until(r"size 33\s")
    one.type("exit 7\r")
    one.until(r"it gave 7")
    one.until(r"here: ")
    one.type("as before\r")  # echoed, and a line at a time again
    one.until(r"as before\s+and as before")
    assert one.process.wait(30) == 0


def test_ipython_on_the_machine_in_a_terminal(screen):
    one = screen(f"box.ipython(python={sys.executable!r})")
    one.until(r"In \[")
    one.type("6 * 7\r")
    one.until(r"42")
    one.type("exit\r")
    one.until(r"it gave 0")


async def test_where_there_is_no_terminal_a_shell_is_refused_with_what_to_do(box):
    with pytest.raises(MachineError, match="no terminal here"):
        await box.shell()


async def test_a_kernel_on_the_machine_computes_for_the_notebook(either):
    async with await either.kernel(python=sys.executable) as kernel:
        answer = await kernel.execute("import os; x = 40; print('written'); x + 2")
        assert (answer.value, answer.stdout, answer.ok) == ("42", "written\n", True)
        assert (await kernel.execute("x")).value == "40", "it remembers"
        assert "written" in answer._repr_mimebundle_()["text/html"]
        with pytest.raises(CommandFailed, match="ZeroDivisionError"):
            await kernel.execute("1 / 0")
        bad = await kernel.execute("1 / 0", check=False)
        assert not bad.ok and "ZeroDivisionError" in bad.error
        with pytest.raises(MachineError, match=r"not done within 0\.5 s, and was interrupted"):
            await kernel.execute("import time; time.sleep(1000)", timeout=0.5)
        assert (await kernel.execute("x + 1")).value == "41", "it was interrupted, not ended"
        assert oct(kernel.connection_file.stat().st_mode)[-3:] == "600"
        number = (await kernel.execute("os.getpid()")).value
        there = (await kernel.execute("from ipykernel.connect import get_connection_file as f; print(os.path.dirname(f()))")).stdout.strip()
    await either.run(f"while kill -0 {number} 2>/dev/null || [ -e {there} ]; do sleep 0.05; done", timeout=30)
    assert not kernel.connection_file.exists()
    with pytest.raises(FleetError):
        await kernel.execute("1")


async def test_other_clients_may_use_the_kernel_too(openssh):  # noqa: F811
    """As `jupyter console --existing` does, by the connection file alone."""
    from jupyter_client import BlockingKernelClient

    server = openssh()

    def ask(path):
        client = BlockingKernelClient(connection_file=str(path))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            shown = []
            client.execute_interactive("shared * 2", output_hook=lambda message: shown.append(message["content"]), timeout=60)
            return [one["data"]["text/plain"] for one in shown if "data" in one]
        finally:
            client.stop_channels()

    with hosts([server.said], host_key=server.host_key) as machines:
        async with await next(iter(machines.values())).kernel(python=sys.executable) as kernel:
            await kernel.execute("shared = 21")
            assert await asyncio.to_thread(ask, kernel.connection_file) == ["42"]


async def test_a_machine_without_ipykernel_says_so(box):
    with pytest.raises(MachineError, match="did not start") as caught:
        await box.kernel(python="/nowhere/python")
    assert "/nowhere/python" in str(caught.value)


async def test_a_kernel_that_dies_is_an_error_not_a_wait(box):
    async with await box.kernel(python=sys.executable) as kernel:
        with pytest.raises(MachineError, match="has ended"):
            await kernel.execute("import os; os._exit(3)")
