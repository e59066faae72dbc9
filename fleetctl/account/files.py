"""What a set-up writes on this computer: the profile that `connect` loads, and private keys. All else of it is in the account."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .. import profiles
from ..ending.receipt import Line
from ..errors import ProfileError, RequestInvalid
from ..profiles import Profile
from . import keys
from .identity import key_name
from .options import Options
from .place import Place

__all__ = ["KEYS", "check", "forget", "image", "key_files", "public_halves", "write"]

KEYS = ("user", "machines")  # how one reaches the machines, and how they reach each other
WRITTEN = "written by fleetctl setup"  # how the profiles begin that a set-up may write over
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"


def key_files(name: str, profile: Profile, key_file: Path | None) -> dict[str, Path]:
    """The private halves by part. The user's own is the one that is named, or that the profile names, or one that the set-up makes."""
    made = dict(zip(KEYS, _made(name, profile.region), strict=True))
    if key_file is None and _is_ours(name):
        key_file = profiles.load(name, home=profile.home).key_file
    return {**made, "user": key_file.expanduser() if key_file else made["user"]}


def public_halves(name: str, profile: Profile, key_file: Path | None) -> dict[str, str]:
    """The public halves by part, '' for those that this computer does not have."""
    return {part: keys.public(file) for part, file in key_files(name, profile, key_file).items()}


def check(name: str, profile: Profile) -> None:
    """Whether the profile may be written. Raises ProfileError and RequestInvalid."""
    path = profiles.path_of(name)
    if name in ("local", "aws"):
        raise RequestInvalid(f"{name!r} is a cloud's name, and no profile can have it", todo="give the set-up another name")
    if path.exists() and not _is_ours(name):
        raise ProfileError(f"{path} is a profile that no set-up wrote", todo="move it away, or give the set-up another name")
    if path.exists() and profiles.load(name, home=profile.home).region != profile.region:
        raise ProfileError(f"{path} is the profile of a set-up in another region", todo="give the set-up another name")


async def write(place: Place, profile: Profile, options: Options, key_file: Path) -> None:
    """What `connect(name)` loads. Nothing in it is secret."""
    letters = [zone[-1] for zone in options.zones]
    subnets = {f"{side}-{letter}": place.id("subnet", f"{side}-{letter}") for letter in letters for side in ("public", "private")}
    first = {side: subnets[f"{side}-{letters[0]}"] for side in ("public", "private")}
    values: dict[str, Any] = {
        "cloud": profile.cloud,
        **({"endpoint_url": profile.endpoint_url} if profile.endpoint_url and not profile.credentials else {}),
        **({"aws_profile": profile.aws_profile} if profile.aws_profile else {}),
        "region": profile.region,
        "image": profile.image or await image(place),
        "key": key_name(place, "user"),
        "key_file": str(key_file),
        "instance_profile": place.id("profile", "machine"),
        "login_user": profile.login_user,
        "bucket": place.facts.bucket,
        **({"nat_instance": place.id("nat-instance", "nat")} if options.private == "nat-instance" else {}),
        "subnets": {**first, **subnets},
        "groups": {"default": place.id("group", "machines")},
    }
    name = place.facts.setup
    baked = profiles.baked_image(name)
    profiles.write(name, values, head=f"{WRITTEN}: `fleetctl setup apply {name}` writes it anew")
    if baked is not None and await _is_there(place, baked[0]):
        profiles.record_image(name, *baked)


async def _is_there(place: Place, image: str) -> bool:
    """Whether an image that was baked for the profile can still be launched from: it may have been removed since."""
    by_id = [{"Name": "image-id", "Values": [image]}, {"Name": "state", "Values": ["available", "pending"]}]
    return bool((await place.call("ec2", "describe_images", Filters=by_id)).get("Images"))


async def image(place: Place) -> str:
    """The newest Amazon Linux 2023 of the region."""
    answer = await place.call("ssm", "get_parameter", Name=IMAGE)
    return str(answer["Parameter"]["Value"])


def forget(name: str, region: str) -> list[Line]:
    """Remove the files that a set-up wrote. A key pair of the user's own stays."""
    gone = [*_made(name, region), *([profiles.path_of(name)] if _is_ours(name) else [])]
    there = [path for path in gone if path.exists()]
    for path in there:
        path.unlink()
    return [Line("file", path.name, "here", "deleted", "unlinked", time.time()) for path in there]


def _made(name: str, region: str) -> list[Path]:
    return [profiles.config_home() / "keys" / f"{name}-{region}-{part}" for part in KEYS]


def _is_ours(name: str) -> bool:
    try:
        return profiles.path_of(name).read_text(encoding="utf-8").startswith(f"# {WRITTEN}")
    except (OSError, UnicodeDecodeError):
        return False
