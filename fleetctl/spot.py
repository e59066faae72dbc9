"""The public verbs: bring machines up, tear them down. Each starts at the call; awaiting only waits."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import uuid4

from . import bootstrap, shapes
from .bootstrap import Program
from .bundle import Bundle
from .bundle.cargo import Cargo, Files, loaded
from .ending import fuse
from .ending.receipt import Receipt
from .errors import RequestInvalid
from .futures import Pending
from .launching import topup
from .launching.checks import Preflight, judge
from .launching.handle import Launch
from .launching.inspection import inspect_launch
from .launching.interruption import Policy, checked, kept
from .launching.launch import Conductor
from .launching.order import Order
from .launching.readiness import Ready, readiness
from .launching.replacing import Replacing
from .launching.topup import Pool
from .machines import Machine, Machines
from .profiles import Profile
from .reach.command import Command
from .session import Session, current
from .upkeep.retiring import retirable

T = TypeVar("T")
Commands: TypeAlias = str | Sequence[str] | Program


def bring_up_spots(
    request: dict[str, Any],
    n: int,
    cmds: Commands,
    *,
    minimum: int | None = None,
    minutes: float = 10,
    lifetime: str = "session",
    hours: float = fuse.HOURS,
    on_interruption: Policy = "shrink",
    fallback: str | None = None,
    ready: str | Command = "reported",
    via: Machine | None = None,
    bundle: Bundle | None = None,
    files: Files = (),
    env: Mapping[str, str] | None = None,
    session: Session | None = None,
    **aliases: Any,
) -> Launch[Machines]:
    """Bring up `n` spot machines that run `cmds`. Returns at once; the launch is already under way.

    `request` is a dictionary for RequestSpotInstances, RunInstances or CreateFleet as boto3 takes it (see `templates` for good ones);
    `aliases` change it (subnet, itype, price, … see `shapes`), and names such as subnet="public" are looked up in the session's profile,
    which also fills in what neither names. It resolves to `Machines` when `n` machines have reported that their commands are up, or,
    `minutes` from now, when at least `minimum` have (default: all).

    In a RunInstances request `itype` and `subnet` (or `zone`) may be lists: what one pool has not is asked for from the next. In it and
    in a fleet `fallback="on-demand"` asks for what is missing then at the on-demand price. Pools that had none are asked again while there
    is time.

    `lifetime="session"`: the machines end with this process at the latest, even if it is killed; with "fuse" they outlive it, and their
    fuses end them. Machines end themselves `hours` from now, unless `extend` moves that, and in any case two hours after the last sign of
    life of this session. `on_interruption` says what follows when EC2 takes back a machine that was ready: "shrink" goes on with fewer,
    "replace" asks for another by a launch of its own (`launch.replacements`), a function is called with the machine, in a thread.

    The commands' Python is that of `bundle` (see `fleetctl.bundle`). `files` are copied into the login user's home directory, by their last
    names or by those that a mapping gives; `env` are variables for the commands, which stay out of user data. All of it goes through S3:
    machines fetch it there, and what the launch alone has there ends with it.

    `ready` says when a machine is ready: "reported" when it says itself that its commands are up; "running" when EC2 says that it runs;
    "ssh" when it answers over SSH; or a command (text, `Command`), when that exits 0 there. The last three are for machines that cannot
    report, too: the host key comes with the report, or from the console that EC2 keeps, and never from the connection. EC2 is asked for
    the states of all silent machines at once, at most twice a minute after the first half minute. `via` is a machine of this session that
    SSH is to go through from the beginning, as into a private subnet.

    Raises RequestInvalid, ProfileError and NotConnected at once. The future raises ScriptFailed, NeverReported, LaunchFailed, AwsError or
    ChannelSilent; everything of a failed launch has then been cancelled and terminated.
    """
    return _bring_up(
        request, n, cmds, lambda machines: machines, minimum=minimum, minutes=minutes, lifetime=lifetime, hours=hours,
        on_interruption=on_interruption, fallback=fallback, ready=ready, via=via, bundle=bundle, files=files, env=env,
        session=session, **aliases,
    )  # fmt: skip


def bring_up_one_spot(
    request: dict[str, Any],
    cmds: Commands,
    *,
    minutes: float = 10,
    lifetime: str = "session",
    hours: float = fuse.HOURS,
    on_interruption: Policy = "shrink",
    fallback: str | None = None,
    ready: str | Command = "reported",
    via: Machine | None = None,
    bundle: Bundle | None = None,
    files: Files = (),
    env: Mapping[str, str] | None = None,
    session: Session | None = None,
    **aliases: Any,
) -> Launch[Machine]:
    """Bring up one machine; as `bring_up_spots`, but resolves to the machine itself."""
    return _bring_up(
        request, 1, cmds, lambda found: found.succeeded[0], minutes=minutes, lifetime=lifetime, hours=hours,
        on_interruption=on_interruption, fallback=fallback, ready=ready, via=via, bundle=bundle, files=files, env=env,
        session=session, **aliases,
    )  # fmt: skip


def preflight(
    request: dict[str, Any],
    n: int = 1,
    cmds: Commands = "true",
    *,
    session: Session | None = None,
    **options: Any,
) -> Pending[Preflight]:
    """Look whether a launch would succeed, without making anything: rights, quota, user data, image, addresses, way of reports, volumes.

    Takes what `bring_up_spots` takes. Resolves to a `Preflight`, which is true where nothing speaks against the launch. What AWS does not
    tell is "unknown". Raises RequestInvalid, ProfileError and NotConnected at once.
    """
    whole = asked(request, n, cmds, session=session, **options)
    session, order = whole.session, whole.order(n, whole.hours)

    async def looking() -> Preflight:
        return judge(await inspect_launch(session.aws.call, order, whole.pools, region=session.profile.region,
                                          nat=session.profile.nat_instance))  # fmt: skip

    return session.submit(looking(), "preflight")


def teardown(what: Launch[Any] | Machine | Machines | Sequence[Machine], *, session: Session | None = None) -> Pending[Receipt]:
    """End one launch, whatever its state, or some machines of launches that are up and go on; and prove it. By the session that began it.

    Volumes that outlive such machines are ended with their launch. Resolves to the receipt; raises StillBilling when something may still
    cost, and RequestInvalid at once for machines that this session has not brought up, or of a launch that is not up yet.
    """
    if isinstance(what, Launch):
        session = session or what.session
        return session.submit(session.end_launches([what._conductor]), f"teardown of {what.uuid}")
    machines = [what] if isinstance(what, Machine) else list(what.values()) if isinstance(what, Machines) else list(what)
    homes = {one.home for one in machines}
    home = session or next((one for one in homes if isinstance(one, Session)), None) or current()
    return home.submit(home.end_machines(retirable(home.launches, machines)), f"teardown of {len(machines)} machine(s)")


def teardown_all(*, session: Session | None = None) -> Pending[Receipt]:
    """End everything that the session made, and prove it. Starts at the call, awaited or not.

    Resolves to the receipt; raises StillBilling.
    """
    return (session or current()).teardown_all()


def extend(hours: float, *, session: Session | None = None) -> Pending[datetime]:
    """Let all machines of the session run `hours` longer than they would. `launch.extend(hours)` does it for one launch.

    Resolves to the new end, the earliest if there are several. Raises RequestInvalid where nothing runs, BudgetExceeded, and AwsError where
    it could not be written down for the machines: their end is as before then, unless the error says that it has moved.
    """
    session = session or current()
    return session.submit(session.move_end(hours), "extension")


class Asked(NamedTuple):
    """What was asked for, as far as it can be told right or wrong before anything is sent."""

    session: Session
    program: Program
    policy: Policy
    minimum: int
    pools: list[Pool]
    cargo: Cargo | None
    ready: Ready
    via: Machine | None
    minutes: float
    hours: float

    def order(self, n: int, hours: float) -> Order:
        """What AWS gets for a launch of `n` that begins now."""
        now, uuid, place = time.time(), uuid4(), self.session.place
        program = self.cargo.program(self.program, place, uuid) if self.cargo else self.program
        return Order(uuid, self.session.id, self.pools[0].request, program, n, now, now + 60 * self.minutes, hours=hours,
                     fuse_object=place.whole(fuse.KEY), policy=kept(self.policy), cargo=self.cargo)  # fmt: skip


def asked(
    request: dict[str, Any],
    n: int,
    cmds: Commands,
    *,
    minimum: int | None = None,
    minutes: float = 10,
    lifetime: str = "session",
    hours: float = fuse.HOURS,
    on_interruption: Policy = "shrink",
    fallback: str | None = None,
    ready: str | Command = "reported",
    via: Machine | None = None,
    bundle: Bundle | None = None,
    files: Files = (),
    env: Mapping[str, str] | None = None,
    session: Session | None = None,
    **aliases: Any,
) -> Asked:
    """Raises at once what `bring_up_spots` raises at once: RequestInvalid, ProfileError, NotConnected."""
    session = session or current()
    minimum = n if minimum is None else minimum
    _check_numbers(n, minimum, minutes, lifetime, hours)
    program, policy = bootstrap.program(cmds), checked(on_interruption)
    if via is not None and (not isinstance(via, Machine) or via.home is not session):
        raise RequestInvalid(f"via is a machine of this session, not {via!r}", alias="via", found=via)
    pools = _pools(session.profile, request, n, fallback, aliases)
    return Asked(session, program, policy, minimum, pools, loaded(bundle, files, env or {}), readiness(ready), via, minutes, hours)


def _bring_up(
    request: dict[str, Any], n: int, cmds: Commands, choose: Callable[[Machines], T], *, lifetime: str, **options: Any
) -> Launch[T]:
    whole = asked(request, n, cmds, lifetime=lifetime, **options)
    session = whole.session

    def like_this(wanted: int, least: int, hours: float) -> Conductor:
        made = Conductor(session, whole.order(wanted, hours), minimum=least, pools=whole.pools, ready=whole.ready)
        made.lifetime, made.replacing, made.via = lifetime, Replacing(whole.policy, instead), whole.via
        return made

    def instead(lost: int) -> Conductor:
        made = like_this(lost, 1, max(0.0, conductor.expires - time.time()) / 3600)  # it ends when those would have that it replaces
        session.begin_again(made)
        return made

    conductor = like_this(n, whole.minimum, whole.hours)
    session.begin(conductor)
    return Launch(conductor, session, choose)


def _pools(profile: Profile, request: dict[str, Any], n: int, fallback: str | None, aliases: Mapping[str, Any]) -> list[Pool]:
    """The capacity pools to ask: the request with the aliases, and with what the profile fills in. Raises RequestInvalid, ProfileError."""
    options = profile.aliases(aliases)
    asked = topup.pools(request, options, fallback)
    said = shapes.view(asked[0].request)
    if "udata" in said:
        raise RequestInvalid(
            "user data is what fleetctl tells machines: their reports, commands and fuse; what the request says there would be lost",
            alias="udata", found=said["udata"], todo="give its lines as the commands instead: they run as the login user, who has sudo",
        )  # fmt: skip
    defaults = {
        "image": profile.image,
        "key": profile.key,
        "profile": profile.instance_profile,
        "subnet": next(iter(profile.subnets.values()), None),
        "groups": list(profile.groups.values())[:1] or None,
    }
    missing = {alias: value for alias, value in defaults.items() if value is not None and alias not in said}
    if "subnet" in missing and isinstance(zones := options.get("zone"), list | tuple) and len(zones) > 1:
        raise RequestInvalid(
            f"profile {profile.name!r} would put all zones into its subnet {next(iter(profile.subnets))!r}, which is in one of them",
            alias="zone", found=zones, todo=f"name subnets instead (subnet=[…]); the profile has: {', '.join(profile.subnets)}",
        )  # fmt: skip
    # the caller may change the dictionary before the launch comes to use it
    pools = [pool._replace(request=copy.deepcopy(shapes.apply(pool.request, **missing))) for pool in asked]
    for pool in pools:
        shapes.validate(shapes.apply(pool.request, n=n))
    return pools


def _check_numbers(n: int, minimum: int, minutes: float, lifetime: str, hours: float) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise RequestInvalid(f"n is the number of machines, a whole number from 1 on, not {n!r}", alias="n", found=n)
    if isinstance(minimum, bool) or not isinstance(minimum, int) or not 1 <= minimum <= n:
        raise RequestInvalid(f"minimum is between 1 and n = {n}, not {minimum!r}", alias="minimum", found=minimum)
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 < minutes <= 7 * 24 * 60:
        raise RequestInvalid(f"minutes is the time allowed, above 0 and at most a week, not {minutes!r}", alias="minutes", found=minutes)
    if isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 0 < hours <= fuse.MOST_HOURS:
        raise RequestInvalid(f"hours is how long machines may run, above 0 and at most a year, not {hours!r}", alias="hours", found=hours)
    if lifetime not in ("session", "fuse"):
        raise RequestInvalid(f'lifetime is "session" or "fuse", not {lifetime!r}', alias="lifetime", found=lifetime)
