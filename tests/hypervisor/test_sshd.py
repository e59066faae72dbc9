"""The SSH server of an instance, met by asyncssh and by OpenSSH's own client."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest


async def test_commands_run_inside_with_their_output_status_and_input(lab: Any) -> None:
    boot = lab.boot()
    async with lab.login(boot) as connection:
        result = await connection.run('echo out; echo err >&2; cat; exit 7', input="typed")
        assert (result.stdout, result.stderr, result.exit_status) == ("out\ntyped", "err\n", 7)
        inside = await connection.run('echo "$EUID $(hostname) $HOME $PWD $AWS_EC2_METADATA_SERVICE_ENDPOINT"')
        uid, hostname, home, cwd, imds = inside.stdout.split()
        assert uid != "0"
        assert hostname == "ip-" + boot.ip.replace(".", "-")
        assert home == cwd == str(lab.home(boot))
        assert imds == f"http://{boot.ip}:1338"
        assert (await connection.run("kill -9 $$")).exit_signal[0] == "KILL"
        assert (await connection.run("no-such-command")).exit_status == 127


async def test_much_output_comes_whole(either_lab: Any) -> None:
    boot = either_lab.boot()
    async with either_lab.login(boot, compression_algs=None) as connection:
        result = await connection.run("head -c 3000000 /dev/zero; echo end >&2", encoding=None, check=True)
        assert (len(result.stdout), result.stderr) == (3_000_000, b"end\n")


async def test_many_commands_at_once(lab: Any) -> None:
    boot = lab.boot()
    async with lab.login(boot) as connection:
        results = await asyncio.gather(*(connection.run(f"echo {n}", check=True) for n in range(30)))
    assert [int(result.stdout) for result in results] == list(range(30))


async def test_a_shell_on_a_terminal_knows_its_size_and_controls_jobs(either_lab: Any) -> None:
    boot = either_lab.boot()
    async with either_lab.login(boot) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(91, 27))
        shell.stdin.write("stty size; tty; echo $TERM-$SSH_TTY\n")
        await shell.stdout.readuntil("27 91")
        await shell.stdout.readuntil("xterm-/dev/pts/")
        shell.change_terminal_size(100, 40)
        shell.stdin.write("stty size\n")
        await shell.stdout.readuntil("40 100")
        shell.stdin.write("bash -c 'echo in-''front; exec sleep 1000'\n")
        await shell.stdout.readuntil("in-front\r\n")
        shell.stdin.write("\x03")
        shell.stdin.write("echo in''terrupted; exit 3\n")
        await shell.stdout.readuntil("interrupted\r\n")
        assert (await shell.wait()).exit_status == 3


async def test_signals_reach_the_whole_command(either_lab: Any) -> None:
    boot = either_lab.boot()
    async with either_lab.login(boot) as connection:
        process = await connection.create_process("trap 'echo caught' USR1; echo ready; while :; do sleep 0.01; done")
        assert await process.stdout.readline() == "ready\n"
        process.send_signal("USR1")
        assert await process.stdout.readline() == "caught\n"
        process.send_signal("NOSUCH")
        process.terminate()
        assert (await process.wait()).exit_signal[0] == "TERM"


async def test_only_the_machines_keys_and_its_user_get_in(lab: Any) -> None:
    boot = lab.boot()
    nobody = lab.boot(public_keys=())
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    for target, options in ((boot, {"client_keys": [stranger]}), (boot, {"username": "root"}), (nobody, {}),
                            (boot, {"client_keys": [], "password": "guess", "preferred_auth": "password"})):
        with pytest.raises(asyncssh.PermissionDenied):
            async with lab.login(target, **options):
                pass


async def test_each_machine_has_its_own_host_key(lab: Any) -> None:
    one, other = lab.boot(), lab.boot()
    of_other = (lab.home(other).parent / "ssh_host_ed25519_key.pub").read_text()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        async with lab.login(one, known_hosts=asyncssh.import_known_hosts(f"[{one.ip}]:2222 {of_other}")):
            pass


async def test_what_listens_on_another_machine_is_reached_through_ssh(lab: Any) -> None:
    gate, server = lab.boot(), lab.boot()
    async with lab.login(server) as connection:
        redis = await connection.create_process(f"exec valkey-server --port 6379 --bind {server.ip} --save '' --appendonly no")
        async for line in redis.stdout:
            if "eady to accept connections" in line:
                break
        for door, host in ((gate, server.ip), (server, server.ip), (server, "localhost"), (server, "127.0.0.1")):
            async with lab.login(door) as way:
                listener = await way.forward_local_port("127.0.0.1", 0, host, 6379)
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
                writer.write(b"PING\r\n")
                assert await reader.readline() == b"+PONG\r\n"
                writer.close()
                await writer.wait_closed()


async def test_forwarding_ends_at_the_local_clouds_edge(lab: Any) -> None:
    boot = lab.boot()
    with socket.create_server(("127.0.0.1", 0)) as host_service:
        port = host_service.getsockname()[1]
        async with lab.login(boot) as connection:
            for host in ("10.0.0.1", "example.com", "127.0.0.2"):
                with pytest.raises(asyncssh.ChannelOpenError) as refused:
                    await connection.open_connection(host, port)
                assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            with pytest.raises(asyncssh.ChannelOpenError):      # this is the machine itself, not the host
                await connection.open_connection("127.0.0.1", port)
            with pytest.raises(asyncssh.ChannelListenError):
                await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port)


async def test_files_come_and_go_relative_to_home(lab: Any, tmp_path: Path) -> None:
    boot = lab.boot()
    (tmp_path / "sent").write_bytes(bytes(range(256)) * 1000)
    async with lab.login(boot) as connection:
        async with connection.start_sftp_client() as sftp:
            await sftp.put(str(tmp_path / "sent"), "file")
            assert await sftp.realpath(".") == str(lab.home(boot))
            await sftp.get("file", str(tmp_path / "back"))
        inside = await connection.run("sha256sum file", check=True)
        assert inside.stdout.split()[0] == hashlib.sha256((tmp_path / "sent").read_bytes()).hexdigest()
        await asyncssh.scp(str(tmp_path / "sent"), (connection, "by-scp"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes() == (lab.home(boot) / "by-scp").read_bytes()


async def test_a_machine_that_is_terminated_ends_its_sessions(lab: Any) -> None:
    boot = lab.boot()
    connection = await lab.login(boot)
    process = await connection.create_process("echo ready; exec sleep 1000")
    assert await process.stdout.readline() == "ready\n"
    lab.hypervisor.terminate(boot.instance_id)
    async with asyncio.timeout(10):
        await connection.wait_closed()
    await asyncio.to_thread(lab.wait, "gone", boot)


async def test_who_connects_and_says_nothing_or_nonsense_harms_nobody(lab: Any) -> None:
    boot = lab.boot()
    silent = socket.create_connection((boot.ip, 2222), timeout=10)
    with socket.create_connection((boot.ip, 2222), timeout=10) as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    async with lab.login(boot) as connection:
        assert (await connection.run("echo fine")).stdout == "fine\n"
    silent.close()


@pytest.mark.skipif(not shutil.which("ssh"), reason="no OpenSSH client on this host")
def test_openssh_logs_in_with_strict_host_keys(lab: Any, tmp_path: Path) -> None:
    boot = lab.boot()
    key, known = tmp_path / "key", tmp_path / "known_hosts"
    lab.key.write_private_key(str(key))
    key.chmod(0o600)
    known.write_text(f"[{boot.ip}]:2222 {(lab.home(boot).parent / 'ssh_host_ed25519_key.pub').read_text()}")
    settings = ("IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "BatchMode=yes")
    options = ["-F", "none", "-i", str(key), *(word for setting in settings for word in ("-o", setting))]

    def client(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(args, capture_output=True, text=True, timeout=30, input="")

    def ssh(*args: str) -> subprocess.CompletedProcess[str]:
        return client("ssh", *options, "-p", "2222", *args)

    done = ssh(f"ec2-user@{boot.ip}", "hostname; exit 5")
    assert (done.stdout, done.returncode) == (f"ip-{boot.ip.replace('.', '-')}\n", 5), done.stderr
    assert "xterm" in ssh("-tt", "-o", "SetEnv=TERM=xterm", f"ec2-user@{boot.ip}", "echo $TERM $SSH_TTY").stdout
    sent = client("scp", *options, "-P", "2222", str(known), f"ec2-user@{boot.ip}:copied")
    assert sent.returncode == 0, sent.stderr
    assert (lab.home(boot) / "copied").read_text() == known.read_text()
    assert ssh(f"root@{boot.ip}", "true").returncode == 255
    known.write_text(f"[{boot.ip}]:2222 {lab.public_key}\n")
    assert "HOST IDENTIFICATION HAS CHANGED" in ssh(f"ec2-user@{boot.ip}", "true").stderr
