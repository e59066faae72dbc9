"""`fleetctl image bake`, `ls` and `rm`: an image from a base, packages and a script, by a machine that lives for it alone.

By itself it has what nodes of a grid need (`equipment`): launches from it need no bundle, and one with the same bundle fetches nothing.
The builder is a launch like any other, of a session that ends with the command: its ledger, its sidecar and its fuse hold for it, so
whatever kills the command leaves no builder. The image is asked for when every command has ended well, and is nobody's but the account's.
It bears the hash of what it was made of: whoever was cut off says the same again, and is given the image if it is there already.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..errors import RequestInvalid
from .rescue import asked

if TYPE_CHECKING:  # what works is imported where it is needed: AWS's library takes a while, and --help should not
    from ..bundle import Bundle
    from ..images import Image, Told
    from ..session import Session

MINUTES, HOURS = 30.0, 2.0  # for the commands; and the builder's hard end
TYPES = {"x86_64": "m5.large", "aarch64": "m7g.large"}
BEGINNINGS = "ami-… or al2023, al2023-arm64, ubuntu-24.04, debian-12 (the profile's image)"


def lines(install: Sequence[str], script: bytes | None) -> tuple[str, ...]:
    """What the builder runs: the packages by whichever manager its system has, then the script, with its own first line.

    >>> lines([], b"")
    ('true',)
    """
    made = []
    if install:
        packages = " ".join(map(shlex.quote, install))
        apt = f"apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install {packages}"
        made.append(f"if command -v dnf; then sudo dnf -q -y install {packages}; else sudo sh -c {shlex.quote(apt)}; fi")
    if script:
        text = base64.b64encode(script).decode()
        made.append(f"base64 -d >.bake <<<{text}\nchmod 700 .bake\n./.bake\nrm .bake")
    return (*made, "true")  # which marks that all before it has ended well


def bake(name: str, *, begin: str = "", install: Sequence[str] = (), run: Path | None = None, bare: bool = False, python: str = "",
         cloud: str = "aws", itype: str = "", minutes: float = MINUTES, home: Path | None = None,
         told: Told = lambda what: None) -> Image:  # fmt: skip
    """Bake an image. `begin` is an id or one of `images.BASES` ('': the profile's image, else al2023); `cloud` aws, local or a profile.

    It has what nodes of a grid need, with Python `python` (as this process has it, or as the base does), but for `bare` ones. One that was
    made the same way before is taken as it is. Its id is written into the profile, if that is a file. Raises what a launch raises,
    RequestInvalid and AwsError; the builder is gone then, or StillBilling says what is left.
    """
    from .. import profiles
    from ..session import Session
    from ..upkeep import guard

    try:
        script = run.read_bytes() if run else None
    except OSError as error:
        raise RequestInvalid(f"the script cannot be read: {error}", alias="run", found=str(run)) from None
    profile = profiles.load(cloud, home=home)
    begin = begin or profile.image or "al2023"
    session = Session(profile, sidecar=guard.wanted())
    try:
        source, machine = session.submit(_source(session.call, begin), "a look at the images").result()
        equipped = None if bare else _equipped(begin, python, machine, home, told)
        recipe = _recipe(source, equipped, install, script)
        image = session.submit(_there(session.call, name, profile.region, recipe, told), "a look at the images").result()
        if image is None:
            image = _built(session, name, source, lines(install, script), equipped, itype or TYPES[machine], minutes, recipe, told)
    finally:
        session.close()
    if profiles.path_of(cloud).exists():
        profiles.record_image(cloud, image.id, name)
    return image


def _built(session: Session, name: str, source: str, own: Sequence[str], equipped: Bundle | None, itype: str, minutes: float, recipe: str,
           told: Told) -> Image:  # fmt: skip
    """The image of a builder that has run all of it, and goes with the session."""
    from ..bootstrap import Program
    from ..images import equipment
    from ..spot import bring_up_one_spot
    from ..templates import spot

    if equipped is not None:
        equipped.ship(session=session).result()
        own = (equipment.prepare(equipped.python), *equipped.commands(session=session), equipment.furnish(), *own)
    told(f"a builder comes up from {source}")
    place: dict[str, Any] = {"subnet": "public"} if "public" in session.profile.subnets else {}
    launch = bring_up_one_spot(spot(itype=itype, image=source), Program(tuple(own)), minutes=minutes, hours=max(HOURS, minutes / 30),
                               fallback="on-demand", session=session, **place)  # fmt: skip
    builder = launch.result()
    told(f"all commands have ended well on {builder.instance_id}")
    return builder.image(name, recipe=recipe, told=told).result()


def _equipped(begin: str, python: str, machine: str, home: Path | None, told: Told) -> Bundle:
    """gridworker with all that it needs, and uv where it is here."""
    from .. import bundle
    from ..bundle.distributions import HERE, installed
    from ..images import equipment

    also = [f"uv=={one.version}"] if (one := installed().get("uv")) else []
    made = bundle.build(python=python or equipment.python_of(begin, HERE), machine=machine, requires=also, home=home)
    told(f"it will have {made!r}")
    return made


def _recipe(source: str, equipped: Bundle | None, install: Sequence[str], script: bytes | None) -> str:
    """What an image is made of, as a short mark."""
    said = json.dumps([source, equipped and equipped.name, *install]).encode() + b"\0" + (script or b"")
    return hashlib.sha256(said).hexdigest()[:16]


async def _source(call: Any, begin: str) -> tuple[str, str]:
    from .. import images

    source = await images.base(call, begin)
    return source, await images.machine(call, source)


async def _there(call: Any, name: str, region: str, recipe: str, told: Told) -> Image | None:
    """That very image, if it is there. Raises RequestInvalid where its name is taken by another."""
    from .. import images

    image = await images.made(call, name, region, recipe, told=told)
    if image is None:
        await images.check_name(call, name, region)
    return image


def add_commands(commands: Any) -> None:
    """Add the parsers of the three commands."""
    verbs = commands.add_parser("image", help="images for machines: bake, list, remove").add_subparsers(required=True, metavar="bake|ls|rm")
    baking = verbs.add_parser("bake", help="make one: a machine runs what is to be in it, and ends")
    baking.add_argument("--name", required=True, metavar="NAME", help="the image's name")
    baking.add_argument("--from", dest="begin", default="", metavar="IMAGE", help=BEGINNINGS)
    baking.add_argument("--install", action="append", default=[], metavar="PACKAGE", help="of the system's package manager; more than once")
    baking.add_argument("--run", dest="script", type=Path, metavar="SCRIPT", help="a script, run as the login user by its first line (#!)")
    baking.add_argument("--bare", action="store_true", help="leave out Python, uv, valkey and gridworker")
    baking.add_argument("--python", default="", metavar="VERSION", help="of gridworker's Python (as here, or as the system has it)")
    baking.add_argument("--type", default="", metavar="TYPE", help=f"the builder's instance type ({', '.join(TYPES.values())})")
    baking.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help=f"within which all of it has to end ({MINUTES:.0f})")
    baking.set_defaults(run=_bake)
    listing = verbs.add_parser("ls", help="the images that were made here, and what they cost")
    listing.set_defaults(run=_ls)
    removing = verbs.add_parser("rm", help="remove one, with its snapshots")
    removing.add_argument("name", metavar="NAME", help="or its id")
    removing.add_argument("--yes", action="store_true", help="ask nothing")
    removing.add_argument("--force", action="store_true", help="also one that is in use")
    removing.set_defaults(run=_rm)
    for one in (baking, listing, removing):
        one.add_argument("--cloud", default="aws", metavar="CLOUD", help="aws (default), local, or a profile")


def _bake(options: argparse.Namespace) -> int:
    console = Console()

    def told(what: str) -> None:
        console.print(what, highlight=False, markup=False, soft_wrap=True)

    image = bake(options.name, begin=options.begin, install=options.install, run=options.script, bare=options.bare, python=options.python,
                 cloud=options.cloud, itype=options.type, minutes=options.minutes, told=told)  # fmt: skip
    told(f"image {image.name} is {image.id}, ${image.per_month:.2f} a month at most; its builder is gone")
    return 0


def _ls(options: argparse.Namespace) -> int:
    found = _asking(options.cloud, lambda call, region: _listing(call, region))
    table = Table("name", "image", "state", "made", "GB", "$/month")
    for one in found:
        table.add_row(one.name, one.id, one.state, one.made[:16], str(one.gigabytes), f"{one.per_month:.2f}")
    Console().print(table if found else "no image was made here")
    return 0


def _rm(options: argparse.Namespace) -> int:
    from .. import images

    console = Console()
    used = _asking(options.cloud, lambda call, region: images.users(call, options.name, region))
    for line in used:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if used and not options.force:
        console.print(f"nothing was removed: image {options.name} is in use; --force removes it all the same", highlight=False)
        return 1
    if not options.yes and not asked(console, f"remove image {options.name} with its snapshots?"):
        console.print("nothing was removed", highlight=False)
        return 1
    console.print(_asking(options.cloud, lambda call, region: images.remove(call, options.name, region)).table())
    return 0


async def _listing(call: Any, region: str) -> list[Image]:
    from .. import images

    return await images.listing(call, region)


def _asking(cloud: str, work: Any) -> Any:
    """Ask a cloud something, without a session: what is in no ledger ends nothing that a teardown would look for."""
    import asyncio

    from .. import profiles

    profile = profiles.load(cloud)

    async def ask() -> Any:
        aws = profile.aws()
        try:
            return await work(aws.call, profile.region)
        finally:
            await aws.close()

    return asyncio.run(ask())
