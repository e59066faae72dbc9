"""The commands over an account's set-up: `fleetctl setup plan`, `apply`, `status`, `destroy`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..errors import SetupFailed, StillBilling
from .rescue import asked

if TYPE_CHECKING:  # what works is imported where it is needed: AWS's library takes a while, and --help should not
    from ..account import Options, Plan
    from ..account.planning import Step

DEFAULT = "default"


def add_commands(commands: Any) -> None:
    """Add the parsers of the four commands."""
    setup = commands.add_parser("setup", help="what an account needs before the first launch: network, bucket, rights, keys")
    verbs = setup.add_subparsers(required=True, metavar="plan|apply|status|destroy")
    planning = verbs.add_parser("plan", help="what would be made or changed, and what it costs; changes nothing")
    planning.set_defaults(run=_plan)
    applying = verbs.add_parser("apply", help="make what is missing, and write the profile")
    applying.set_defaults(run=_apply)
    looking = verbs.add_parser("status", help="whether all is there and as it was")
    looking.set_defaults(run=_status)
    destroying = verbs.add_parser("destroy", help="remove all of it")
    destroying.set_defaults(run=_destroy)
    for one in (planning, applying, looking, destroying):
        one.add_argument("name", nargs="?", default=DEFAULT, metavar="NAME", help=f"the set-up and its profile ({DEFAULT})")
        one.add_argument("--cloud", metavar="NAME", help="aws, local, or a profile; without it the local cloud while it runs, else aws")
    for one in (planning, applying):
        one.add_argument("--zones", type=_listed, default=(), metavar="A,B", help="the zones to have subnets in (all of the region)")
        one.add_argument("--private", metavar="WAY", help="the private side's way out: endpoints (if not said), nat-instance, nat, none")
        one.add_argument("--ssh", type=_listed, default=(), metavar="BLOCK,…", help="who may use SSH (the address of this computer)")
        one.add_argument("--key-file", type=Path, metavar="FILE", help="the private half of your key pair (one is made)")
        one.add_argument("--alarms", type=_sums, metavar="USD,…", help="when to be told of a month's bill (1,5,20,100); none for no alarms")
        one.add_argument("--mail", default="", metavar="ADDRESS", help="who is told by the alarms and the budget (nobody)")
        one.add_argument("--reaper", action=argparse.BooleanOptionalAction, help="have AWS end what outlives its expires tag (no)")
        one.add_argument("--fix", action="store_true", help="change what is otherwise than wanted")
    looking.add_argument("--self-test", action="store_true", help="bring up two machines in it, try every way, tear them down")
    for one in (applying, looking, destroying):
        one.add_argument("--yes", action="store_true", help="ask nothing")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _sums(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(one) for one in _listed(text))


def _options(options: argparse.Namespace) -> Options:
    """What was said of the set-up; what was not is as the account remembers."""
    from .. import account

    return account.Options(options.zones, options.private or "", options.ssh, options.alarms, options.mail, options.reaper)


def _plan(options: argparse.Namespace) -> int:
    from .. import account

    return _shown(options, lambda: account.plan(_options(options), name=options.name, cloud=options.cloud, key_file=options.key_file,
                                                fix=options.fix))  # fmt: skip


def _status(options: argparse.Namespace) -> int:
    from .. import account

    shown = _shown(options, lambda: account.status(name=options.name, cloud=options.cloud))
    return max(shown, _self_test(options)) if options.self_test else shown


def _self_test(options: argparse.Namespace) -> int:
    """0 where nothing has failed, else 1."""
    from .. import profiles
    from ..account import selftest

    console = Console()
    hourly, most = selftest.cost(profiles.load(options.name).region)
    console.print(f"the self-test runs two {selftest.TYPE} for some minutes: about ${hourly:.3f} an hour, ${most:.3f} at most, as they end "
                  f"themselves after {60 * selftest.HOURS:.0f} minutes", highlight=False, soft_wrap=True)  # fmt: skip
    if not options.yes and not asked(console, "run it?"):
        console.print("nothing was launched", highlight=False)
        return 1
    examined = selftest.run(options.name, say=lambda text: console.print(text, highlight=False))
    console.print(repr(examined), highlight=False, markup=False, soft_wrap=True)
    return 0 if examined.ok else 1


def _shown(options: argparse.Namespace, work: Any) -> int:
    """0 where all is there and as wanted, else 1."""
    console = Console()
    try:
        plan: Plan = work()
    except SetupFailed as error:
        return _failed(console, error)
    console.print(plan.table())
    return 0 if plan.complete else 1


def _apply(options: argparse.Namespace) -> int:
    from .. import account

    console, answers = Console(), []

    def agree(plan: Plan) -> bool:
        console.print(plan.table())
        answers.append(options.yes or asked(console, "make it so?"))
        return bool(answers[-1])

    def report(step: Step, trouble: str) -> None:
        console.print(f"{step.verb} {step.kind} {step.part}: {trouble or 'done'}", highlight=False, markup=False)

    try:
        after = account.apply(_options(options), name=options.name, cloud=options.cloud, key_file=options.key_file, fix=options.fix,
                              agree=agree, report=report)  # fmt: skip
    except SetupFailed as error:
        return _failed(console, error)
    if answers == [False]:
        console.print("nothing was made", highlight=False)
        return 1
    if after.drift:
        console.print(after.table())
        console.print("what has drifted stays so; --fix changes what can be changed", highlight=False)
    console.print(f'{after.headline()}\nconnect("{options.name}") uses it', highlight=False, soft_wrap=True)
    return 0 if after.complete else 1


def _destroy(options: argparse.Namespace) -> int:
    from .. import account

    console, answers = Console(), []

    def agree(steps: Sequence[Step]) -> bool:
        for step in steps:
            why = f" ({step.why})" if step.why else ""
            console.print(f"{step.verb} {step.kind} {step.part} {step.id}{why}", highlight=False, markup=False)
        answers.append(options.yes or asked(console, "remove all of this?"))
        return bool(answers[-1])

    try:
        receipt = account.destroy(name=options.name, cloud=options.cloud, agree=agree)
    except SetupFailed as error:
        return _failed(console, error)
    except StillBilling as error:
        console.print(error.receipt.table())
        console.print("`fleetctl setup destroy` again goes on from there", highlight=False)
        return 1
    if answers == [False]:
        console.print("nothing was removed", highlight=False)
        return 1
    console.print(receipt.table())
    return 0


def _failed(console: Console, error: SetupFailed) -> int:
    """A denial is a table and a policy to pass on; the rest is said as any error is."""
    from .. import account

    if error.denied:
        console.print(account.refusal(error.denied, error.policy, error.documents))
    Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False)
    return 1
