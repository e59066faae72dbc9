"""What can be known of a launch before it is made: checks of facts that were looked up, each with what to do. Pure.

`inspection` looks the facts up; nothing is made by it. A fact that AWS would not tell makes its check "unknown", never "ok".

| check | fails | warns |
|---|---|---|
| permission | a dry run of a call is denied, or refused | |
| user data | the boot script does not fit, nor without its commands | |
| image | it does not exist, is not available, or is for another architecture | |
| quota | no type fits below the account's vCPUs | some types do not |
| addresses | the subnets have too few together | the first has |
| reports | machines have no way to SNS | |
| volumes | | they would outlive their machine, until a teardown |
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import AwsError, Denied, FleetError, Kind, NotFound

__all__ = ["Check", "Facts", "Preflight", "Verdict", "judge", "quota_code"]

Row = Mapping[str, Any]
Rows = Sequence[Row] | AwsError
COLUMNS = ("check", "verdict", "found", "to do")
DRY_RUN = "DryRunOperation"  # the code of a dry run that would have been done

# Quotas in vCPUs: spot, on demand, families (AWS General Reference, "Amazon EC2 quotas"); p5 and later have quotas that are not here
QUOTAS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("L-34B43A08", "L-1216C47A", frozenset({*"acdhimrtz"})),
    ("L-3819A6DF", "L-DB2E81BA", frozenset({"g", "gr", "vt"})),
    ("L-7212CCBC", "L-417A185B", frozenset({"p"})),
    ("L-88CF9481", "L-74FC7D96", frozenset({"f"})),
    ("L-E3A00192", "L-7295265B", frozenset({"x"})),
    ("L-B5D1601B", "L-1945791B", frozenset({"inf"})),
    ("L-6B0D517C", "L-2C3B7624", frozenset({"trn"})),
    ("L-85EED4F7", "L-6E869C2A", frozenset({"dl"})),
)


class Verdict(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    todo: str = ""

    def cells(self) -> tuple[str, ...]:
        """The check as a table's cells."""
        return self.name, self.verdict.value, self.found, self.todo


@dataclass(frozen=True)
class Facts:
    """What was looked up for `n` machines. Rows are as AWS shows them, an AwsError where it would not.

    `dry` holds what each call's dry run was answered with; `user_data` the size, or why there is none; `aside` the bytes of commands that
    go into the session's bucket, since they are too long for it; `quotas` the vCPUs by code;
    `running` the instances that count against them. `needs` are the services that machines must reach, `public` whether the request
    gives them public addresses (None: as the subnet does). `nat` is the NAT instance that a launch starts.
    """

    n: int
    region: str
    on_demand: bool
    types: tuple[str, ...]
    subnets: tuple[str, ...]
    dry: Mapping[str, FleetError]
    user_data: int | FleetError
    image: Rows
    kinds: Rows
    places: Rows
    routes: Rows
    endpoints: Rows
    quotas: Mapping[str, float | AwsError]
    running: Rows
    disks: Sequence[Row] = ()
    needs: tuple[str, ...] = ("sns",)
    public: bool | None = None
    limit: int = 16_384
    aside: int = 0
    nat: str | None = None

    def vcpus(self) -> dict[str, int]:
        """vCPUs of each type that is known."""
        rows = () if isinstance(self.kinds, AwsError) else self.kinds
        return {row["InstanceType"]: int(row["VCpuInfo"]["DefaultVCpus"]) for row in rows}


@dataclass(frozen=True, repr=False)
class Preflight:
    """The checks of a launch that was not made. It is true where nothing speaks against the launch."""

    checks: tuple[Check, ...] = field(default=())

    @property
    def failed(self) -> tuple[Check, ...]:
        """What would make the launch fail."""
        return tuple(one for one in self.checks if one.verdict is Verdict.FAIL)

    @property
    def ok(self) -> bool:
        """Whether nothing is known that would make the launch fail."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, name: str) -> Check:
        for one in self.checks:
            if one.name == name:
                return one
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, "checks": [asdict(one) for one in self.checks]}

    def headline(self) -> str:
        """One sentence."""
        counts = ", ".join(f"{number} {verdict.value}" for verdict in Verdict if (number := self._count(verdict)))
        return f"Preflight: {'nothing speaks against it' if self.ok else 'it would fail'} ({counts or 'nothing was checked'})"

    def _count(self, verdict: Verdict) -> int:
        return sum(one.verdict is verdict for one in self.checks)

    def __repr__(self) -> str:
        table = Table(title=self.headline(), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in COLUMNS:
            table.add_column(name, overflow="fold")
        for one in self.checks:
            table.add_row(*one.cells())
        out = io.StringIO()
        Console(file=out, width=120, force_terminal=False, force_jupyter=False).print(table)
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        def row(tag: str, cells: Iterable[str]) -> str:
            return "<tr>" + "".join(f"<{tag} style='text-align:left'>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "".join(row("td", one.cells()) for one in self.checks)
        return f"<b>{html.escape(self.headline())}</b><table>{row('th', COLUMNS)}{rows}</table>"


def judge(facts: Facts) -> Preflight:
    """Every check of the facts."""
    return Preflight(tuple(check(facts) for check in CHECKS))


def quota_code(kind: str, *, on_demand: bool) -> str | None:
    """The code of the vCPU quota that a type counts against; None for families that this table has not.

    >>> quota_code("m7g.large", on_demand=False), quota_code("p5.48xlarge", on_demand=False)
    ('L-34B43A08', None)
    """
    found = re.match(r"([a-z]+?)(?=\d)(\d+)", kind)
    if found is None or (found[1] == "p" and int(found[2]) >= 5):
        return None
    return next((fixed if on_demand else spot for spot, fixed, families in QUOTAS if found[1] in families), None)


def _unknown(name: str, error: AwsError) -> Check:
    return Check(name, Verdict.UNKNOWN, error.what, error.todo)


def _permission(facts: Facts) -> Check:
    """A dry run that would have been done is refused with DryRunOperation (API reference)."""
    bad = {name: error for name, error in facts.dry.items() if getattr(error, "code", "") != DRY_RUN}
    if not bad:
        return Check("permission", Verdict.OK, f"a dry run of {', '.join(facts.dry)} was allowed")
    if all(name == "create_fleet" and isinstance(error, NotFound) for name, error in bad.items()):  # it looks for the template first
        others = ", ".join(name for name in facts.dry if name not in bad)
        return Check("permission", Verdict.UNKNOWN, f"{others} is allowed; create_fleet cannot be tried before its template is there")
    error = min(bad.values(), key=lambda one: not isinstance(one, Denied))
    told = error.kind in (Kind.PERMISSION, Kind.INVALID, Kind.QUOTA, Kind.PRICE)
    return Check("permission", Verdict.FAIL if told else Verdict.UNKNOWN, error.what, error.todo)


def _user_data(facts: Facts) -> Check:
    if isinstance(facts.user_data, FleetError):
        return Check("user data", Verdict.FAIL, facts.user_data.what, facts.user_data.todo)
    aside = f"; {facts.aside:,} of commands go into the session's bucket, where machines fetch them" if facts.aside else ""
    return Check("user data", Verdict.OK, f"{facts.user_data:,} of {facts.limit:,} bytes{aside}")


def _image(facts: Facts) -> Check:
    name = "image"
    if isinstance(facts.image, NotFound):
        return Check(name, Verdict.FAIL, facts.image.what, "name an image of this region (image=…)")
    if isinstance(facts.kinds, AwsError) and facts.kinds.kind is Kind.INVALID:
        return Check(name, Verdict.FAIL, facts.kinds.what, "name types that the region has (itype=…)")
    if isinstance(facts.image, AwsError):
        return _unknown(name, facts.image)
    if isinstance(facts.kinds, AwsError):
        return _unknown(name, facts.kinds)
    if not facts.image:
        return Check(name, Verdict.FAIL, "the request names no image, or none that exists", "name one (image=…)")
    [image, *_] = facts.image
    id, made_for, state = image["ImageId"], image.get("Architecture", ""), image.get("State", "available")
    if state != "available":
        return Check(name, Verdict.FAIL, f"{id} is {state}", "wait for it, or name another")
    other = [row["InstanceType"] for row in facts.kinds
             if made_for not in row.get("ProcessorInfo", {}).get("SupportedArchitectures", [made_for])]  # fmt: skip
    if other:
        return Check(name, Verdict.FAIL, f"{id} is for {made_for}; {', '.join(other)} is not", "name an image for these types (image=…)")
    return Check(name, Verdict.OK, f"{id} for {made_for}")


def _quota(facts: Facts) -> Check:
    """By the size of each type; open spot requests of others count on AWS's side, and are not known here."""
    name, sizes = "quota", facts.vcpus()
    if isinstance(facts.kinds, AwsError):
        return _unknown(name, facts.kinds)
    if isinstance(facts.running, AwsError):
        return _unknown(name, facts.running)
    short: list[str] = []
    fits: list[str] = []
    for kind, size in sizes.items():
        code = quota_code(kind, on_demand=facts.on_demand)
        limit = facts.quotas.get(code or "")
        if limit is None:
            return Check(name, Verdict.UNKNOWN, f"no quota is known for {kind}", "look into Service Quotas")
        if isinstance(limit, AwsError):
            return _unknown(name, limit)
        used = sum(_vcpus_of(row) for row in facts.running if quota_code(row["InstanceType"], on_demand=facts.on_demand) == code)
        text = f"{facts.n} × {kind} are {facts.n * size} vCPUs; {used} of {limit:,.0f} ({code}) are in use"
        (fits if used + facts.n * size <= limit else short).append(text)
    if not sizes:
        return Check(name, Verdict.UNKNOWN, "EC2 chooses the types", "look into Service Quotas")
    todo = "raise the quota in Service Quotas, end something, or ask for fewer or smaller machines"
    if short:
        return Check(name, Verdict.WARN if fits else Verdict.FAIL, "; ".join(short), todo)
    return Check(name, Verdict.OK, fits[0])


def _vcpus_of(row: Row) -> int:
    said = row.get("CpuOptions", {})
    return int(said.get("CoreCount", 1)) * int(said.get("ThreadsPerCore", 1))


def _addresses(facts: Facts) -> Check:
    name = "addresses"
    if not facts.subnets:
        return Check(name, Verdict.UNKNOWN, "EC2 chooses the subnet", "name one (subnet=…)")
    if isinstance(facts.places, NotFound):
        return Check(name, Verdict.FAIL, facts.places.what, "name subnets of this region (subnet=…)")
    if isinstance(facts.places, AwsError):
        return _unknown(name, facts.places)
    free = {row["SubnetId"]: int(row["AvailableIpAddressCount"]) for row in facts.places}
    text = ", ".join(f"{number:,} in {id}" for id, number in free.items()) + f"; {facts.n} are needed"
    if sum(free.values()) < facts.n:
        return Check(name, Verdict.FAIL, text, "name a larger subnet, or further ones (subnet=[…])")
    if free.get(facts.subnets[0], 0) < facts.n:
        return Check(name, Verdict.WARN, text, "the first subnet alone does not do: launch with all of them (subnet=[…])")
    return Check(name, Verdict.OK, text)


def _reports(facts: Facts) -> Check:
    """Each subnet's way to what the machines must reach: a default route out, or endpoints in the VPC."""
    name = "reports"
    if not facts.subnets:
        return Check(name, Verdict.UNKNOWN, "EC2 chooses the subnet", "name one (subnet=…)")
    if isinstance(facts.places, AwsError):
        return _unknown(name, facts.places)
    if isinstance(facts.routes, AwsError):
        return _unknown(name, facts.routes)
    if isinstance(facts.endpoints, AwsError):
        return _unknown(name, facts.endpoints)
    found = {str(row["SubnetId"]): _way_out(facts, row, facts.routes, facts.endpoints) for row in facts.places}
    blocked = {id: why for id, (why, way) in found.items() if not way}
    if blocked:
        todo = "give the subnet a route (public=True where it has an internet gateway; NAT; VPC endpoints), or name another"
        return Check(name, Verdict.FAIL, "; ".join(f"{id}: {why}" for id, why in blocked.items()), todo)
    return Check(name, Verdict.OK, "; ".join(f"{id}: {why}" for id, (why, _) in found.items()))


def _way_out(facts: Facts, subnet: Row, routes: Sequence[Row], endpoints: Sequence[Row]) -> tuple[str, bool]:
    """In words, and whether it is one."""
    services = {
        str(row["ServiceName"]).rpartition(".")[2]
        for row in endpoints
        if row.get("VpcId") == subnet["VpcId"] and str(row.get("State", "")).lower() == "available"
    }
    if set(facts.needs) <= services:
        return f"endpoints for {', '.join(facts.needs)}", True
    own = [row for row in routes if _applies(row, "SubnetId", subnet["SubnetId"])]
    main = [row for row in routes if row.get("VpcId") == subnet["VpcId"] and _applies(row, "Main", True)]
    default = [one for row in own or main for one in row.get("Routes", ()) if one.get("DestinationCidrBlock") == "0.0.0.0/0"]
    if not default:
        return f"no route out, and no endpoints for {', '.join(sorted(set(facts.needs) - services))}", False
    route = default[0]
    if facts.nat is not None and route.get("InstanceId") == facts.nat:
        return f"by NAT instance {facts.nat}, which the launch starts", True
    if route.get("State") == "blackhole":
        return "its default route ends nowhere", False
    gateway = str(route.get("GatewayId", ""))
    if not gateway.startswith("igw-"):
        return f"by {route.get('NatGatewayId') or route.get('TransitGatewayId') or gateway or 'an instance'}", True
    public = bool(subnet.get("MapPublicIpOnLaunch")) if facts.public is None else facts.public
    return (f"by {gateway}", True) if public else (f"by {gateway}, but machines get no public address", False)


def _applies(table: Row, key: str, value: Any) -> bool:
    return any(one.get(key) == value for one in table.get("Associations", ()))


def _volumes(facts: Facts) -> Check:
    """An image's volumes are kept if it says so; those of a request, but for the root one, unless it says that they go."""
    name = "volumes"
    if isinstance(facts.image, AwsError):
        return _unknown(name, facts.image)
    image: Row = facts.image[0] if facts.image else {}
    root = image.get("RootDeviceName", "")
    stays: dict[str, bool] = {}
    for row in image.get("BlockDeviceMappings", ()):
        if "Ebs" in row:
            stays[str(row["DeviceName"])] = row["Ebs"].get("DeleteOnTermination") is False
    for row in facts.disks:
        device = str(row.get("DeviceName", ""))
        if "NoDevice" in row:
            stays.pop(device, None)
        elif "Ebs" in row:
            stays[device] = not row["Ebs"].get("DeleteOnTermination", stays.get(device) is False or device == root)
    kept = [device for device, stay in stays.items() if stay]
    if kept:
        return Check(name, Verdict.WARN, f"{', '.join(kept)} would outlive the machines: a fuse alone ends no volume, a teardown does",
                     'say "DeleteOnTermination": True in the request\'s BlockDeviceMappings')  # fmt: skip
    return Check(name, Verdict.OK, "all end with their machine")


CHECKS: Sequence[Callable[[Facts], Check]] = (_permission, _user_data, _image, _quota, _addresses, _reports, _volumes)
