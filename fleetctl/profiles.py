"""Where a session works: cloud, region, and what a launch request need not name itself.

`"local"` is the local cloud, started if none runs. `"aws"` takes credentials and region from where boto3 does and fills nothing in.
Any other name is a TOML file in the user's configuration directory:

    # ~/.config/fleetctl/<name>.toml
    region = "eu-west-1"
    aws_profile = "research"          # optional: a profile of ~/.aws/config
    image = "ami-0123456789abcdef0"
    key = "me"                        # name of the EC2 key pair
    key_file = "~/.ssh/id_ed25519"
    instance_profile = "fleetctl-machine"
    login_user = "ec2-user"
    bucket = "my-lab"                  # optional, in this region: else a session makes one when it needs it, and deletes it
    nat_instance = "i-…"               # optional: by which the subnets named private… go out; sessions start it, and stop it
    cloud = "local"                    # optional: the profile that says where AWS is and with which keys; default "aws"
    [subnets]
    public = "subnet-…"
    [groups]
    default = "sg-…"
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.session

from .cloud.aws import Aws, Credentials
from .errors import ProfileError

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3 User Guide, "General purpose bucket naming rules"


def state_home() -> Path:
    """Where fleetctl keeps its state: $FLEETCTL_HOME, or fleetctl's directory under the XDG state directory."""
    if chosen := os.environ.get("FLEETCTL_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fleetctl"


@dataclass(frozen=True)
class Profile:
    """What `connect(name)` loads. Values that a launch request names itself win over these."""

    name: str
    region: str
    endpoint_url: str | None = None
    credentials: Credentials | None = None
    aws_profile: str | None = None
    subnets: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    key: str | None = None
    key_file: Path | None = None
    instance_profile: str | None = None
    login_user: str = "ec2-user"
    topic: str | None = None
    bucket: str | None = None
    nat_instance: str | None = None
    cloud: str = "aws"
    home: Path = field(default_factory=state_home)

    def aws(self) -> Aws:
        """A way to this profile's cloud."""
        return Aws(region=self.region, endpoint_url=self.endpoint_url, credentials=self.credentials, profile=self.aws_profile)

    def subnet(self, name: str) -> str:
        """A subnet's id from its name in this profile; ids pass. Raises ProfileError for a name that is not there."""
        return self._resolve("subnet", name, self.subnets, "subnet-")

    def group(self, name: str) -> str:
        """A security group's id from its name in this profile; ids pass. Raises ProfileError for a name that is not there."""
        return self._resolve("group", name, self.groups, "sg-")

    def aliases(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The aliases of a bring-up with names such as subnet="public" made into ids."""
        out = dict(given)
        if isinstance(out.get("subnet"), str):
            out["subnet"] = self.subnet(out["subnet"])
        elif isinstance(out.get("subnet"), (list, tuple)):
            out["subnet"] = [self.subnet(one) if isinstance(one, str) else one for one in out["subnet"]]
        if isinstance(out.get("group"), str):
            out["group"] = self.group(out["group"])
        if isinstance(out.get("groups"), (list, tuple)):
            out["groups"] = [self.group(one) if isinstance(one, str) else one for one in out["groups"]]
        return out

    def goes_by_nat(self, subnets: Iterable[str]) -> bool:
        """Whether machines in these subnets go out by the profile's NAT instance."""
        private = {id for name, id in self.subnets.items() if name.startswith("private")}
        return self.nat_instance is not None and not private.isdisjoint(subnets)

    def _resolve(self, what: str, name: str, table: Mapping[str, str], prefix: str) -> str:
        if name in table:
            return table[name]
        if name.startswith(prefix):
            return name
        known = ", ".join(table) or "none"
        raise ProfileError(
            f"profile {self.name!r} has no {what} named {name!r}; it has: {known}",
            todo=f"give an id ({prefix}…), or add the name to the profile",
        )


def load(name: str, *, home: Path | None = None) -> Profile:
    """The profile of that name. `home` is where state is kept (default: `state_home()`), a local cloud's too.

    Raises ProfileError, LocalCloudError.
    """
    home = home or state_home()
    if name == "local":
        return _local(home)
    if name == "aws":
        # the aws command goes by the first of these, botocore itself by AWS_DEFAULT_REGION alone
        region = os.environ.get("AWS_REGION") or botocore.session.Session().get_config_variable("region")
        if not region:
            raise ProfileError("no AWS region is configured", todo="set AWS_REGION, or run `aws configure`")
        return Profile("aws", region, home=home)
    path = path_of(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileError(
            f"there is no profile {name!r}: {path} does not exist", todo='use connect("local") or connect("aws"), or write that file'
        ) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"profile {name!r} cannot be read: {error}", todo=f"mend {path}") from error
    known = {f.name for f in fields(Profile)} - {"name", "credentials", "home"}
    if unknown := sorted(set(values) - known):
        raise ProfileError(f"profile {name!r} has unknown keys: {', '.join(unknown)}", todo=f"it may have: {', '.join(sorted(known))}")
    for key, value in values.items():
        table = key in ("subnets", "groups")
        if not all(isinstance(one, str) for one in (value.values() if table and isinstance(value, dict) else [None if table else value])):
            raise ProfileError(f"profile {name!r}: {key} is not {'a table of names and ids' if table else 'a text'}", todo=f"mend {path}")
    if "region" not in values:
        raise ProfileError(f"profile {name!r} names no region", todo=f"add region = \"…\" to {path}")
    if not BUCKET.fullmatch(values.get("bucket", "none")):
        raise ProfileError(f"profile {name!r}: {values['bucket']!r} is no bucket's name", todo="give the name without address and path")
    if "key_file" in values:
        values["key_file"] = Path(values["key_file"]).expanduser()
    made = Profile(name, **values, home=home)
    if made.cloud == "aws":
        return made
    if made.cloud != "local":
        raise ProfileError(f"profile {name!r}: there is no cloud {made.cloud!r}", todo='it is "aws" or "local"')
    base = _local(home)
    return replace(made, endpoint_url=base.endpoint_url, credentials=base.credentials)


def config_home() -> Path:
    """Where profiles are: fleetctl's directory under the XDG configuration directory."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fleetctl"


def path_of(name: str) -> Path:
    """The file of a profile."""
    return config_home() / f"{name}.toml"


def write(name: str, values: Mapping[str, str | Mapping[str, str]], *, head: str) -> Path:
    """Write a profile: whole, or not at all. Texts first, then tables; `head` is its comment. Raises ProfileError."""
    texts = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if isinstance(value, str)]
    tables = [
        "\n".join(["", f"[{key}]", *(f"{name} = {json.dumps(id)}" for name, id in table.items())])
        for key, table in values.items()
        if isinstance(table, Mapping)
    ]
    path = path_of(name)
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.write_text("\n".join([f"# {head}", *texts, *tables, ""]), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ProfileError(f"profile {name!r} cannot be written: {error}", todo=f"make room for {path}") from error
    return path


def record_image(name: str, id: str, what: str) -> Path:
    """Have a profile name an image that was baked as `what`, in place of whichever it named. Raises ProfileError."""
    path = path_of(name)
    line = f'image = "{id}"  # baked: {what}'
    try:
        text = path.read_text(encoding="utf-8")
        text, found = re.subn(r"^image *=.*$", line, text, count=1, flags=re.MULTILINE)
        if not found:  # before the first table
            text = re.sub(r"^(?=region *=)", f"{line}\n", text, count=1, flags=re.MULTILINE)
        new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"image {id} could not be written into profile {name!r}: {error}", todo=f"write {line} into {path}") from error
    return path


def baked_image(name: str) -> tuple[str, str] | None:
    """The image that was baked for a profile, with its name; None where it names another, or none."""
    try:
        text = path_of(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r'^image = "(ami-[0-9a-f]+)"  # baked: (.*)$', text, re.MULTILINE)
    return (found[1], found[2]) if found else None


def with_image(ids: Collection[str]) -> list[str]:
    """The profiles on this computer that name one of these images."""
    found = []
    for path in sorted(config_home().glob("*.toml")):
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if values.get("image") in ids:
            found.append(path.stem)
    return found


def local_cloud() -> ModuleType:
    """The local cloud's package. This is the only wiring to it: everywhere else an endpoint URL is the whole difference."""
    from . import local

    return local


def _local(home: Path) -> Profile:
    cloud = local_cloud().up(home / "local")
    return Profile(
        "local",
        cloud.region,
        endpoint_url=cloud.endpoint_url,
        credentials=Credentials(cloud.access_key_id, cloud.secret_access_key),
        subnets=cloud.subnets,
        groups=cloud.groups,
        image=cloud.image,
        key=cloud.key,
        key_file=Path(cloud.key_file),
        instance_profile=cloud.instance_profile,
        login_user=cloud.login_user,
        cloud="local",
        home=home,
    )
