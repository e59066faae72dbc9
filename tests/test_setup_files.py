"""What a set-up writes on this computer, key files and profiles, and how it learns the address that AWS sees."""

import http.server
import os
import stat
import threading

import pytest

from fleetctl import profiles
from fleetctl.account import keys, whence
from fleetctl.errors import ProfileError
from fleetctl.reach import ssh


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "fleetctl"


def test_a_private_key_is_its_owner_s_from_its_first_byte(tmp_path, monkeypatch):
    modes, real = [], os.open

    def opening(path, flags, mode=0o777, **more):
        descriptor = real(path, flags, mode, **more)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", opening)
    old = os.umask(0)
    try:
        keys.make(tmp_path / "deep" / "key", "me")
    finally:
        os.umask(old)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "deep") == ["key"]


def test_a_key_that_is_there_is_never_written_over(tmp_path):
    keys.make(tmp_path / "key", "me")
    first = (tmp_path / "key").read_text()
    keys.make(tmp_path / "key", "me")
    assert (tmp_path / "key").read_text() == first


def test_of_two_who_make_the_same_key_at_once_one_wins_and_both_have_it(tmp_path, monkeypatch):
    real = ssh.new_key

    def meanwhile(comment):
        if not (tmp_path / "key").exists():
            (tmp_path / "key").write_text(real("another"))
        return real(comment)

    monkeypatch.setattr(ssh, "new_key", meanwhile)
    keys.make(tmp_path / "key", "me")
    assert keys.public(tmp_path / "key") == ssh.public_half((tmp_path / "key").read_text())
    assert os.listdir(tmp_path) == ["key"]


def test_the_public_half_is_read_from_beside_or_made_of_the_private_one(tmp_path):
    assert keys.public(tmp_path / "key") == ""
    keys.make(tmp_path / "key", "me")
    made = keys.public(tmp_path / "key")
    assert made.startswith("ssh-ed25519 ") and len(made.split()) == 2
    (tmp_path / "key.pub").write_text("ssh-rsa AAAA me@here\n")
    assert keys.public(tmp_path / "key") == "ssh-rsa AAAA"


def test_a_file_that_is_no_key_is_told_with_what_would_help(tmp_path):
    (tmp_path / "key").write_text("no key at all")
    with pytest.raises(ProfileError, match="cannot be read") as caught:
        keys.public(tmp_path / "key")
    assert "key.pub" in caught.value.todo


def test_a_profile_that_was_written_is_the_one_that_is_read(config, tmp_path):
    values = {"region": "eu-west-1", "key_file": str(tmp_path / 'a "key"'), "subnets": {"public": "subnet-1", "public-a": "subnet-1"},
              "groups": {"default": "sg-1"}}  # fmt: skip
    path = profiles.write("lab", values, head="for a test")
    profile = profiles.load("lab", home=tmp_path)
    assert path == config / "lab.toml" and path.read_text().startswith("# for a test\n")
    assert (profile.region, dict(profile.subnets), dict(profile.groups)) == ("eu-west-1", values["subnets"], values["groups"])
    assert profile.key_file == tmp_path / 'a "key"'
    assert os.listdir(config) == ["lab.toml"]


def test_a_profile_that_cannot_be_written_leaves_the_old_one(config, tmp_path, monkeypatch):
    profiles.write("lab", {"region": "eu-west-1"}, head="old")
    monkeypatch.setattr(profiles.Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(ProfileError, match="no space left"):
        profiles.write("lab", {"region": "eu-west-2"}, head="new")
    assert profiles.load("lab", home=tmp_path).region == "eu-west-1"


def test_a_profile_of_no_known_cloud_is_refused(config, tmp_path):
    profiles.write("lab", {"region": "eu-west-1", "cloud": "moon"}, head="for a test")
    with pytest.raises(ProfileError, match="no cloud 'moon'"):
        profiles.load("lab", home=tmp_path)


@pytest.fixture
def says():
    """A server that says something to whoever asks."""
    servers = []

    def make(text):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_an_endpoint_on_this_computer_sees_its_loopback_address():
    assert await whence.caller("http://127.0.0.1:9", ask="http://127.0.0.1:9") == "127.0.0.1"


async def test_behind_nat_somebody_outside_is_asked(says, monkeypatch):
    monkeypatch.setattr(whence, "_source", lambda endpoint: "192.168.1.7")
    assert await whence.caller("https://ec2.example", ask=says("203.0.113.9\n")) == "203.0.113.9"
    monkeypatch.setattr(whence, "_source", lambda endpoint: "8.8.8.8")
    assert await whence.caller("https://ec2.example", ask="http://127.0.0.1:9") == "8.8.8.8"


async def test_an_answer_that_is_no_address_is_none(says, monkeypatch):
    monkeypatch.setattr(whence, "_source", lambda endpoint: "")
    with pytest.raises(ProfileError, match="not known") as caught:
        await whence.caller("https://ec2.example", ask=says("<html>sign in first</html>"))
    assert "--ssh" in caught.value.todo
