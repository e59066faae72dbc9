"""Machines that exist already: Debian's OpenSSH server, reached as ~/.ssh says, known before it is trusted."""

import asyncio
import os
import subprocess
import sys

import pytest
from openssh import openssh  # noqa: F401  the fixture

from fleetctl import hosts
from fleetctl.errors import CommandFailed, FleetError, MachineError, RequestInvalid
from fleetctl.reach import link, ssh


def said(*words):
    """What a program says that succeeds."""
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


async def test_a_machine_that_exists_is_worked_on_like_one_that_was_launched(openssh, tmp_path):  # noqa: F811
    server = openssh()
    with hosts([{**server.said, "name": "box"}], known_hosts=server.known()) as machines:
        box = machines["box"]
        assert (box.host, box.port, box.user) == ("127.0.0.1", server.port, server.user)
        done = await box.run("echo out; echo error >&2; exit 3", check=False)
        assert (done.stdout, done.stderr, done.exit_status, done.machine) == ("out\n", "error\n", 3, "box")
        with pytest.raises(CommandFailed, match="exit code 3 on box"):
            await box.run("exit 3")
        assert (await box.run("kill -9 $$", check=False)).exit_status == -9
        assert (await box.run("cat", stdin="lines\n")).stdout == "lines\n"
        tree = tmp_path / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / "deep" / "data").write_bytes(bytes(range(256)) * 500)
        await box.put(tree, str(tmp_path / "there"))
        await box.get(str(tmp_path / "there"), to=tmp_path / "back")
        assert (tmp_path / "back" / "deep" / "data").read_bytes() == (tree / "deep" / "data").read_bytes()
        forward = await box.forward(server.port)
        reader, writer = await asyncio.open_unix_connection(forward.path)
        assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")
        writer.close()
        outcomes = await machines.run("echo same")
        assert [(group.text, group.machines) for group in outcomes.groups()] == [("same\n", ("box",))]
        fetched = await machines.get(str(tmp_path / "there" / "deep"), to=tmp_path / "all", check=True)
        assert (fetched["box"] / "deep" / "data").exists()
    with pytest.raises(FleetError):
        await box.run("true")


async def test_what_takes_too_long_is_killed_there(openssh, tmp_path):  # noqa: F811
    server = openssh()
    with hosts([server.said], host_key=server.host_key) as machines:
        (box,) = machines.values()
        with pytest.raises(MachineError, match=r"was not done within 0\.3 s"):
            await box.run(f"echo $$ > {tmp_path}/pid; exec sleep 1000", timeout=0.3)
        await box.run(f"while kill -0 $(cat {tmp_path}/pid) 2>/dev/null; do sleep 0.05; done", timeout=20)


async def test_a_host_key_that_nobody_knows_is_an_error_that_shows_it_and_is_never_added(openssh):  # noqa: F811
    server = openssh()
    known = server.directory / "known_hosts"
    known.touch()
    fingerprint = said("ssh-keygen", "-lf", server.directory / "host.pub").split()[1]
    with hosts([server.said], known_hosts=known) as machines:
        (box,) = machines.values()
        for _ in range(2):
            with pytest.raises(MachineError, match="which nobody here knows") as caught:
                await box.run("true")
            assert fingerprint in caught.value.what
            assert caught.value.fields["fingerprint"] == fingerprint
            assert f'"[127.0.0.1]:{server.port} {server.host_key}"' in caught.value.todo
        assert known.read_text() == ""
    known.write_text(caught.value.todo.split('"')[1] + "\n")  # what it says to do, done
    with hosts([server.said], known_hosts=known) as machines:
        assert (await machines.run("true", check=True)).succeeded


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa"])
async def test_a_host_key_that_is_another_than_the_known_one_is_an_error_that_says_so(openssh, tmp_path, algorithm):  # noqa: F811
    server = openssh()
    said("ssh-keygen", "-q", "-t", algorithm, "-N", "", "-f", tmp_path / "other")
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    for told in ({"known_hosts": server.known(other)}, {"host_key": other}):
        with hosts([server.said], **told) as machines:
            with pytest.raises(MachineError, match="not the key that is known of it") as caught:
                await next(iter(machines.values())).run("true")
            assert "somebody stands between" in caught.value.todo
            assert caught.value.fields["host_key"] == server.host_key


async def test_a_configuration_cannot_switch_the_check_off(openssh, tmp_path):  # noqa: F811
    server = openssh()
    config = tmp_path / "config"
    for nothing in ("none", "/dev/null"):
        config.write_text(f"Host *\n UserKnownHostsFile {nothing}\n StrictHostKeyChecking no\n")
        with hosts([{**server.said, "config": config}]) as machines, pytest.raises(MachineError, match="which nobody here knows"):
            await next(iter(machines.values())).run("true")


async def test_the_users_configuration_says_where_a_name_leads_with_which_key_and_through_whom(openssh, tmp_path):  # noqa: F811
    door, inner = openssh(), openssh()
    config, known = tmp_path / "config", tmp_path / "known"
    known.write_text(door.known().read_text() + inner.known().read_text())
    config.write_text(
        f"Host door\n Port {door.port}\n IdentityFile {door.key}\n"
        f"Host inner\n Port {inner.port}\n IdentityFile {inner.key}\n ProxyJump door\n"
        f"Host *\n HostName 127.0.0.1\n User {door.user}\n UserKnownHostsFile {known}\n"
    )
    with hosts(["inner"], config=config) as machines:
        inside = machines["inner"]
        assert repr(inside) == f"<host inner: {inner.user}@127.0.0.1:{inner.port} via door>"
        ways = (await inside.run("echo $SSH_CONNECTION")).stdout.split()
        assert int(ways[3]) == inner.port
        assert repr(inside.via.link()) == "<link open>"
        assert "Accepted publickey" in door.log.read_text(), "it went through the door"
    with hosts(["inner"], config=config, via="door") as machines:
        assert (await machines["inner"].run("true")).ok
    known.write_text(inner.known().read_text())
    with hosts(["inner"], config=config) as machines, pytest.raises(MachineError, match=f"{door.port}: the server offers"):
        await machines["inner"].run("true")  # the way is as strict as its end


async def test_the_way_may_lead_through_a_machine_that_one_has_hands_on_already(openssh):  # noqa: F811
    door, inner, other = openssh(), openssh(), openssh()
    with hosts([door.said], host_key=door.host_key) as doors, hosts([other.said], host_key=other.host_key) as others:
        (way,), (elsewhere,) = doors.values(), others.values()
        with hosts([{**inner.said, "name": "inner"}], host_key=inner.host_key, via=way) as machines:
            async with asyncio.timeout(30):
                assert int((await machines["inner"].run("echo $SSH_CONNECTION")).stdout.split()[3]) == inner.port
            assert repr(way.link()) == "<link open>"
        with pytest.raises(RequestInvalid, match="two homes"):
            hosts([{**inner.said, "via": way}, {**inner.said, "name": "b", "via": elsewhere}])


async def test_the_agent_is_asked_for_keys(openssh, tmp_path, monkeypatch):  # noqa: F811
    server = openssh()
    path = f"/tmp/fleetctl-agent-{os.getpid()}"  # a socket's name is short
    agent = await asyncio.create_subprocess_exec("ssh-agent", "-D", "-a", path, stdout=subprocess.PIPE)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        async with asyncio.timeout(20):
            assert path.encode() in await agent.stdout.readline(), "it says where it listens"
        said("ssh-add", "-q", server.key)
        told = {key: value for key, value in server.said.items() if key != "key_file"}
        with hosts([told], host_key=server.host_key) as machines:
            assert (await machines.run("true", check=True)).succeeded
        said("ssh-add", "-q", "-D")
        with hosts([told], host_key=server.host_key) as machines, pytest.raises(MachineError, match="PermissionDenied") as caught:
            await next(iter(machines.values())).run("true")
        assert "which of your keys it takes" in caught.value.todo
    finally:
        agent.terminate()
        await agent.wait()


async def test_more_commands_at_a_time_than_a_server_takes_on_one_connection_all_run(openssh):  # noqa: F811
    """sshd_config(5): MaxSessions is ten."""
    server = openssh()
    with hosts([server.said], host_key=server.host_key) as machines:
        (box,) = machines.values()
        done = await asyncio.gather(*(box.run(f"sleep 0.3; echo {number}") for number in range(25)))
        assert [one.stdout for one in done] == [f"{number}\n" for number in range(25)]


async def test_more_machines_behind_one_server_than_it_takes_log_ins_at_a_time_are_all_reached(openssh, monkeypatch):  # noqa: F811
    """sshd_config(5): MaxStartups. All that comes while three log-ins are under way is dropped, and comes again."""
    monkeypatch.setattr(link, "SECONDS", 60.0)
    server = openssh("MaxStartups 3:100:3")
    with hosts([{**server.said, "name": f"box {number}"} for number in range(16)], host_key=server.host_key) as machines:
        outcomes = await machines.run("echo here")
        assert len(outcomes.succeeded) == 16, str(outcomes)


async def test_a_server_that_comes_back_is_reached_again(openssh, monkeypatch):  # noqa: F811
    monkeypatch.setattr(link, "SECONDS", 1.0)
    server = openssh()
    with hosts([server.said], host_key=server.host_key) as machines:
        (box,) = machines.values()
        server.stop()
        with pytest.raises(MachineError, match="no SSH to"):
            async with asyncio.timeout(30):
                await box.run("true")
        server.start()
        monkeypatch.setattr(link, "SECONDS", 20.0)
        with pytest.raises(MachineError):
            await box.run("kill -9 $PPID; sleep 20")  # the server's process for this connection
        assert (await box.run("echo again")).stdout == "again\n"


async def test_a_dead_machine_hides_no_other(openssh, monkeypatch):  # noqa: F811
    monkeypatch.setattr(link, "SECONDS", 1.0)
    server = openssh()
    told = [{**server.said, "name": "alive"}, {**server.said, "name": "dead", "port": 1}]
    with hosts(told, host_key=server.host_key) as machines:
        outcomes = await machines.run("echo fine")
        assert outcomes["alive"].stdout == "fine\n"
        assert "no SSH to" in outcomes.failed["dead"].what


def test_in_a_script_without_a_loop_and_without_a_close_nothing_hangs_and_nothing_is_said(openssh):  # noqa: F811
    server = openssh()
    script = f"""
        from fleetctl import hosts
        box = hosts([{ {key: str(value) if key == 'key_file' else value for key, value in server.said.items()} }],
                    host_key={server.host_key!r})
        print(box.run("echo here").result())
    """
    lines = "\n".join(line.strip() for line in script.splitlines())
    ran = subprocess.run([sys.executable, "-X", "dev", "-c", lines], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "here" in ran.stdout


@pytest.mark.parametrize(
    "wrong",
    [[], "db", ["two words"], ["db:99999"], [{"port": 3}], [{"host": "db", "colour": 1}], ["db", "db"], [3]],
)
def test_what_is_no_machine_is_refused_before_anything_is_connected(wrong):
    with pytest.raises(RequestInvalid):
        hosts(wrong, config="")


def test_a_key_or_a_configuration_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(MachineError, match="what is said of db cannot be used"):
        hosts(["db"], config=tmp_path / "absent")
    with pytest.raises(MachineError, match="what is said of db cannot be used"):
        hosts(["db"], host_key="nonsense", config="")


def test_a_way_that_leads_through_itself_is_refused(tmp_path):
    (tmp_path / "config").write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(RequestInvalid, match="leads through itself"):
        hosts(["a"], config=tmp_path / "config")


def test_an_address_says_what_it_means():
    shown = ssh.look_up(ssh.Address("db", user="me", config=""))
    assert shown == ("db", 22, "me", ())
