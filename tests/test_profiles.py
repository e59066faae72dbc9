"""A profile says where a session works; what is wrong with one is told before anything is asked of AWS."""

import pytest

from fleetctl.errors import ProfileError
from fleetctl.profiles import Profile, load, state_home

GOOD = """
region = "eu-west-1"
key_file = "~/.ssh/id"
[subnets]
public = "subnet-1"
[groups]
default = "sg-1"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    def write(text, name="mine"):
        (tmp_path / "fleetctl").mkdir(exist_ok=True)
        (tmp_path / "fleetctl" / f"{name}.toml").write_text(text)

    return write


def test_a_profile_is_a_file_with_its_name(write, tmp_path):
    write(GOOD)
    profile = load("mine", home=tmp_path)
    assert (profile.name, profile.region, profile.endpoint_url) == ("mine", "eu-west-1", None)
    assert profile.key_file == tmp_path / ".ssh" / "id"
    assert profile.aliases({"subnet": "public", "groups": ["default", "sg-9"], "price": 1}) == {
        "subnet": "subnet-1", "groups": ["sg-1", "sg-9"], "price": 1
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("region = ", "cannot be read"),
        ("[subnets]", "names no region"),
        ("region = 'r'\ncolour = 'red'", "unknown keys: colour"),
        ("region = 3", "region is not a text"),
        ("region = 'r'\nsubnets = 'subnet-1'", "subnets is not a table"),
        ("region = 'r'\nbucket = 's3://my-lab/here'", "is no bucket's name"),
        ("region = 'r'\n[groups]\ndefault = 7", "groups is not a table"),
        ("region = 'r'\ncredentials = 'x'", "unknown keys: credentials"),
    ],
)
def test_what_is_wrong_with_a_profile_is_told(write, text, words):
    write(text)
    with pytest.raises(ProfileError, match=words) as caught:
        load("mine")
    assert caught.value.todo


def test_a_profile_that_is_not_there_is_told_with_the_path_of_its_file(write, tmp_path):
    with pytest.raises(ProfileError, match=str(tmp_path)):
        load("nowhere")


def test_a_name_that_a_profile_lacks_is_told_with_those_that_it_has():
    profile = Profile("mine", "r", subnets={"public": "subnet-1"})
    with pytest.raises(ProfileError, match="it has: public"):
        profile.subnet("private")
    assert profile.subnet("subnet-7") == "subnet-7"


def test_aws_without_a_region_says_how_to_name_one(monkeypatch, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ProfileError, match="no AWS region"):
        load("aws")


def test_the_region_is_where_the_aws_command_looks_for_it(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert load("aws").region == "eu-north-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert load("aws").region == "us-west-2"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert load("aws").region == "eu-west-1"


def test_state_is_kept_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FLEETCTL_HOME", raising=False)
    assert state_home() == tmp_path / "fleetctl"
    monkeypatch.setenv("FLEETCTL_HOME", str(tmp_path / "own"))
    assert state_home() == tmp_path / "own"
