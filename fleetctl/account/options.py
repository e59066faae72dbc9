"""What a user can choose of a set-up, and the things that the account is to have by that choice. Pure.

The choice is written down in the account itself, as a tag of the network, so that every computer knows it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import RequestInvalid
from ..oversight import reaper_template
from . import rights
from .planning import Wanted

__all__ = ["NETWORK", "PRIVATE", "Facts", "Options", "wanted"]

NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")  # so that the longest of the names, a bucket's, has no more than S3's 63 characters
NETWORK = "10.0.0.0/16"
BLOCKS = [str(block) for block in ipaddress.ip_network(NETWORK).subnets(new_prefix=20)]
ZONES = len(BLOCKS) // 2
PRIVATE = ("endpoints", "nat", "nat-instance", "none")
OUT_BY = {"nat": "nat nat", "nat-instance": "nat-instance nat"}  # kind and part of what the private subnets' default route goes to
NAT_TYPE = "t4g.nano"  # up to 5 Gbit/s for a while, 32 Mbit/s for ever (EC2 User Guide, "Network bandwidth"): reports and packages
SERVICES = ("sns", "ssm")  # what a machine talks to, besides S3, whose endpoint costs nothing; to SQS only controllers do
INSIDE = "all from its members"
TAG_LENGTH = 256  # of a value (EC2 User Guide, "Tag restrictions")
BILLED = "aws"  # the partition whose accounts have a metric of their charges, and budgets
BILLS_REGION = "us-east-1"  # where that metric is (CloudWatch User Guide, "Create a billing alarm to monitor your estimated AWS charges")
ALARMS = (1, 5, 20, 100)  # USD of a month
MAIL = re.compile(r"[A-Za-z0-9._+=-]+@[A-Za-z0-9.-]+")  # of what mail allows, what a tag's value does, too
REPORTS = "costs/"  # where in the bucket AWS writes what was spent
OBJECT_DAYS = {"fleetctl/": 30, "logs/": 90, REPORTS: 400}  # after which it ends by itself; a month is compared with the year before's
COLUMNS = ("line_item_usage_start_date", "line_item_product_code", "line_item_usage_type", "line_item_operation", "line_item_resource_id",
           "line_item_usage_amount", "line_item_unblended_cost", "line_item_currency_code", "resource_tags")  # fmt: skip
TABLE = "COST_AND_USAGE_REPORT"
COST_TAG = "fleetctl:session"  # by which AWS tells costs apart: what all things of a session bear


@dataclass(frozen=True, slots=True)
class Options:
    """The zones to have subnets in, the private subnets' way out, and who may reach port 22, as address blocks.

    `alarms` are sums of a month's bill in USD; the highest is the budget too, and `mail` is told of both. `alarms=()`: nothing about bills.
    What is left out is as the account remembers it; in a new one: all zones, endpoints, the address of this computer, the `ALARMS`, and
    nobody is told. `reaper`: AWS itself ends, every quarter of an hour, what has outlived its expires tag; not unless asked for.
    """

    zones: tuple[str, ...] = ()
    private: str = ""
    ssh: tuple[str, ...] = ()
    alarms: tuple[int, ...] | None = None
    mail: str = ""
    reaper: bool | None = None

    def over(self, others: Options | None) -> Options:
        """With what is left out taken from others.

        >>> Options(private="nat").over(Options(("us-east-1a",), "none", alarms=(5,)))
        Options(zones=('us-east-1a',), private='nat', ssh=(), alarms=(5,), mail='', reaper=None)
        """
        if others is None:
            return self
        alarms = others.alarms if self.alarms is None else self.alarms
        reaper = others.reaper if self.reaper is None else self.reaper
        return Options(
            self.zones or others.zones, self.private or others.private, self.ssh or others.ssh, alarms, self.mail or others.mail, reaper
        )

    def encode(self) -> str:
        """As the value of a tag: EC2 takes letters, digits, spaces and + - = . _ : / @ (EC2 User Guide, "Tag restrictions").

        >>> Options(("us-east-1a",), "nat", ("203.0.113.7/32",), (5, 20)).encode()
        'private=nat ssh=203.0.113.7/32 zones=us-east-1a alarms=5+20 mail='
        """
        alarms = "+".join(map(str, self.alarms or ()))
        said = f"private={self.private} ssh={'+'.join(self.ssh)} zones={'+'.join(self.zones)} alarms={alarms} mail={self.mail}"
        return f"{said} reaper=yes" if self.reaper else said

    @classmethod
    def decode(cls, text: str) -> Options | None:
        """The choice from a tag; None for a text that is none.

        >>> Options.decode("private=nat ssh=203.0.113.7/32 zones=us-east-1a alarms= mail=").private
        'nat'
        """
        values = dict(part.partition("=")[::2] for part in text.split(" "))
        reaper = values.pop("reaper", "") == "yes"
        if set(values) != {"private", "ssh", "zones", "alarms", "mail"} or values["private"] not in PRIVATE:
            return None
        lists = {key: tuple(filter(None, values[key].split("+"))) for key in ("zones", "ssh", "alarms")}
        if not all(one.isdecimal() for one in lists["alarms"]):
            return None
        return cls(lists["zones"], values["private"], lists["ssh"], tuple(map(int, lists["alarms"])), values["mail"], reaper)

    def checked(self, zones: Sequence[str]) -> Options:
        """With all of it said: the zones sorted and known, the blocks as AWS writes them. Raises RequestInvalid."""
        chosen = tuple(sorted(set(self.zones or zones)))
        if unknown := [zone for zone in chosen if zone not in zones]:
            raise RequestInvalid(f"the region has no zone {', '.join(unknown)}", todo=f"its zones are {', '.join(zones)}", found=unknown)
        if beyond := [zone for zone in chosen if place(zone) >= ZONES]:
            raise RequestInvalid(f"{NETWORK} has room for the zones a to h only, not for {', '.join(beyond)}", todo="leave these out")
        private = self.private or PRIVATE[0]
        if private not in PRIVATE:
            raise RequestInvalid(f"there is no private side {private!r}", todo=f"it is one of {', '.join(PRIVATE)}")
        if self.mail and not MAIL.fullmatch(self.mail):
            raise RequestInvalid(f"{self.mail!r} is no address for mail", todo="such as me@example.org")
        alarms = ALARMS if self.alarms is None else tuple(sorted(set(self.alarms)))
        if bad := [one for one in alarms if one < 1]:
            raise RequestInvalid(f"no alarm can be on {bad[0]} USD", todo="name whole dollars, 1 or more", found=bad)
        made = Options(chosen, private, tuple(sorted({block(one) for one in self.ssh})), alarms, self.mail, bool(self.reaper))
        if len(made.encode()) > TAG_LENGTH:
            raise RequestInvalid(f"{len(made.ssh)} address blocks for SSH are more than a tag holds", todo="name larger blocks, or fewer")
        return made


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a set-up is: what the names and documents of its things are made of."""

    setup: str
    region: str
    account: str
    partition: str = "aws"
    keys: Mapping[str, str] = field(default_factory=dict)  # public halves by part, '' where this computer has none

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.setup):
            raise RequestInvalid(
                f"{self.setup!r} is no name for a set-up", todo="up to 20 small letters, digits and hyphens, a letter first"
            )

    @property
    def stem(self) -> str:
        """How the names of its things begin that are one account's or the world's."""
        return f"fleetctl-{self.setup}-{self.region}"

    @property
    def bucket(self) -> str:
        """The bucket's name, which is one in the whole world."""
        return f"{self.stem}-{self.account}"

    @property
    def report(self) -> str:
        """The name of the export that writes the cost report."""
        return f"{self.stem}-costs"

    @property
    def stack(self) -> str:
        """The name of the CloudFormation stack that holds the reaper."""
        return f"{self.stem}-reaper"

    @property
    def alarms_topic(self) -> str:
        """The ARN of the topic by which alarms are sent."""
        return f"arn:{self.partition}:sns:{BILLS_REGION}:{self.account}:{self.stem}-alarms"


def place(zone: str) -> int:
    """The number of a zone by its letter, which never changes, so that adding a zone moves no subnet.

    >>> place("eu-west-1c")
    2
    """
    return ord(zone[-1]) - ord("a")


def block(text: str) -> str:
    """An address block as AWS writes it; a single address is a block of one. Raises RequestInvalid.

    >>> block("203.0.113.7"), block("10.1.2.3/8")
    ('203.0.113.7/32', '10.0.0.0/8')
    """
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise RequestInvalid(f"{text!r} is no address and no block of addresses", todo="such as 203.0.113.7 or 203.0.113.0/24") from None


def wanted(options: Options, facts: Facts) -> list[Wanted]:
    """All that the account is to have. `options` must be `checked`."""
    return [*_network(options), *_ways_out(options), *_account(facts), *_bills(options, facts), *_reaper(options)]


def _network(options: Options) -> list[Wanted]:
    things = [
        Wanted("vpc", "vpc", {"addresses": NETWORK, "host names": True, "options": options.encode()}),
        Wanted("gateway", "gateway", {"attached": True}),
        Wanted("group", "machines", {"lets in": tuple(sorted((INSIDE, *(f"tcp 22 from {one}" for one in options.ssh))))}),
    ]
    for zone in options.zones:
        for side, above in (("public", 0), ("private", ZONES)):
            addresses = BLOCKS[place(zone) + above]
            things.append(Wanted("subnet", f"{side}-{zone[-1]}", {"addresses": addresses, "zone": zone, "public": side == "public"}))
    return things


def _ways_out(options: Options) -> list[Wanted]:
    letters = [zone[-1] for zone in options.zones]
    public, private = (tuple(f"{side}-{letter}" for letter in letters) for side in ("public", "private"))
    things = [
        Wanted("routes", "public", {"out by": "gateway gateway", "subnets": public}),
        Wanted("routes", "private", {"out by": OUT_BY.get(options.private, ""), "subnets": private}),
        Wanted("endpoint", "s3", {"service": "s3", "type": "Gateway", "in": ("private", "public")}),
    ]
    if options.private == "nat":
        things += [Wanted("address", "nat"), Wanted("nat", "nat", {"subnet": public[0]})]
    if options.private == "nat-instance":
        inside = tuple(sorted(f"all from {BLOCKS[place(zone) + ZONES]}" for zone in options.zones))
        things += [Wanted("group", "nat", {"lets in": inside}),
                   Wanted("nat-instance", "nat", {"type": NAT_TYPE, "subnet": public[0], "group": "nat", "protected": True,
                                                  "forwards": True, "at shutdown": "stop"})]  # fmt: skip
    if options.private == "endpoints":  # in one zone: the other zones' machines reach it too, and each further one costs as much again
        things += [Wanted("endpoint", one, {"service": one, "type": "Interface", "in": private[:1]}) for one in SERVICES]
    return things


def _account(facts: Facts) -> list[Wanted]:
    machine = rights.machine(facts.partition, facts.region, facts.account, facts.bucket)
    controller = rights.controller(facts.partition, facts.region, facts.account, facts.bucket, f"{facts.stem}-machine")
    return [
        Wanted("bucket", "bucket", {"name": facts.bucket, "public access": "blocked", "encryption": "AES256",
                                    "policy": rights.encode(_bucket_policy(facts)),
                                    "expiry": dict(OBJECT_DAYS)}),
        Wanted("role", "machine", {"trust": rights.encode(rights.TRUST), "rights": rights.encode(machine)}),
        Wanted("profile", "machine", {"role": f"{facts.stem}-machine"}),
        Wanted("policy", "controller", {"rights": rights.encode(controller)}),
        *(Wanted("key", part, {"public": public} if public else {}) for part, public in facts.keys.items()),
    ]  # fmt: skip


def _bucket_policy(facts: Facts) -> rights.Document:
    """Whether reports are wanted or not, so that wanting them later is no drift of the bucket."""
    return rights.bucket_policy(facts.partition, facts.account, facts.bucket, reports=REPORTS if facts.partition == BILLED else "")


def _bills(options: Options, facts: Facts) -> list[Wanted]:
    if not options.alarms or facts.partition != BILLED:
        return []
    tells = facts.alarms_topic if options.mail else ""
    return [
        *([Wanted("topic", "alarms", {"mail": options.mail})] if options.mail else []),
        *(Wanted("alarm", f"over-{amount}", {"over": f"{amount} USD", "tells": tells}) for amount in options.alarms),
        Wanted("budget", "month", {"a month": f"{max(options.alarms)} USD", "mail": options.mail}),
        Wanted("report", "costs", {"by": "day", "to": f"{facts.bucket}/{REPORTS}", "state": "HEALTHY",
                                   "query": f"SELECT {', '.join(COLUMNS)} FROM {TABLE}"}),
        Wanted("tag", "session", {"name": COST_TAG}),
    ]


def _reaper(options: Options) -> list[Wanted]:
    if not options.reaper:
        return []
    return [Wanted("stack", "reaper", {"runs": reaper_template.SCHEDULE, "template": rights.encode(reaper_template.template())})]
