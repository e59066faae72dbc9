"""What tells afterwards who has spent what: a report of costs in the bucket, and the tag by which costs are told apart.

The report is an export of AWS Data Exports: one file a month, written anew up to three times a day, with the columns that are needed.
The tag is the account's own: activating it is a setting, free, and other set-ups live by it too, so it stays when this one goes. AWS
knows a tag up to a day after something has first borne it, and in an organisation only the account that pays may look at it; until then
it is waited for, and nothing is the matter.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import AwsError, Denied, NotFound
from .options import BILLED, COST_TAG, TABLE
from .place import DONE_TAG, PART_TAG, SETUP_TAG, Kind, Place, nothing_to_put, tags_of
from .planning import Seen, Wanted

__all__ = ["KINDS", "SERVICES"]

SERVICES = ("ce", "bcm-data-exports")  # whose calls go to the region of the bills
FILES = {"OutputType": "CUSTOM", "Format": "TEXT_OR_CSV", "Compression": "GZIP", "Overwrite": "OVERWRITE_REPORT"}
GRAIN = {"TIME_GRANULARITY": "DAILY", "INCLUDE_RESOURCES": "TRUE"}
PAGE = 300
LATER = "AWS knows it up to a day after the first launch; then apply again"
BARRED = "only who may, and in an organisation only the account that pays, can look at it or set it"
STAYS = "the account's own and free; what sessions have cost is told by it"


# --- report ------------------------------------------------------------------------------------------------------------------------------


async def _find_report(place: Place) -> list[Seen]:
    if place.facts.partition != BILLED:
        return []
    named = [row["ExportArn"] for row in await _exports(place) if row["ExportName"] == place.facts.report]
    found = []
    for arn in named:
        try:
            shown = await place.call("bcm-data-exports", "get_export", ExportArn=arn)
            tags = tags_of(await place.call("bcm-data-exports", "list_tags_for_resource", ResourceArn=arn), "ResourceTags")
        except NotFound:  # it went between the two looks
            continue
        export, state = shown["Export"], shown.get("ExportStatus", {})
        where, query = export["DestinationConfigurations"]["S3Destination"], export["DataQuery"]
        settings = {
            "by": "day" if query.get("TableConfigurations", {}).get(TABLE) == GRAIN else "otherwise",
            "to": f"{where['S3Bucket']}/{where['S3Prefix']}/",
            "query": query["QueryStatement"],
            "state": state.get("StatusReason") or state.get("StatusCode") or "HEALTHY",
        }
        ours = tags.get(SETUP_TAG) == place.facts.setup
        found.append(Seen("report", tags.get(PART_TAG, "costs"), arn, settings, ours=ours, done=DONE_TAG in tags))
    return found


async def _exports(place: Place) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        answer = await place.call("bcm-data-exports", "list_exports", MaxResults=PAGE, **more)
        rows += answer.get("Exports", ())
        if not (token := answer.get("NextToken")):
            return rows
        more = {"NextToken": token}


def _export(place: Place, wanted: Wanted) -> dict[str, Any]:
    bucket, prefix = wanted.settings["to"].rstrip("/").split("/", 1)
    place_in_s3 = {"S3Bucket": bucket, "S3Prefix": prefix, "S3Region": place.facts.region, "S3OutputConfigurations": FILES}
    return {
        "Name": place.facts.report,
        "Description": f"fleetctl set-up {place.facts.setup}: costs by day, thing and tag",
        "DataQuery": {"QueryStatement": wanted.settings["query"], "TableConfigurations": {TABLE: GRAIN}},
        "DestinationConfigurations": {"S3Destination": place_in_s3},
        "RefreshCadence": {"Frequency": "SYNCHRONOUS"},
    }


async def _make_report(place: Place, wanted: Wanted) -> str:
    tags = place.tags(wanted.part, done=True)
    answer = await place.do("bcm-data-exports", "create_export", Export=_export(place, wanted), ResourceTags=tags)
    return str(answer["ExportArn"])


async def _put_report(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    await place.do("bcm-data-exports", "update_export", ExportArn=id, Export=_export(place, wanted))


async def _remove_report(place: Place, thing: Seen) -> None:
    await place.call("bcm-data-exports", "delete_export", ExportArn=thing.id)


# --- tag ---------------------------------------------------------------------------------------------------------------------------------


async def _find_tag(place: Place) -> list[Seen]:
    """Active, waited for, or not there: inactive, which is what `make` ends."""
    if place.facts.partition != BILLED:
        return []
    settings = {"name": COST_TAG}
    try:
        rows = (await place.call("ce", "list_cost_allocation_tags", TagKeys=[COST_TAG]))["CostAllocationTags"]
    except Denied:
        return [Seen("tag", "session", COST_TAG, settings, barred=BARRED)]
    known = {row["TagKey"]: row["Status"] for row in rows}
    if COST_TAG not in known:
        return [Seen("tag", "session", COST_TAG, settings, barred=LATER)]
    return [Seen("tag", "session", COST_TAG, settings, shared=STAYS)] if known[COST_TAG] == "Active" else []


async def _make_tag(place: Place, wanted: Wanted) -> str:
    key = str(wanted.settings["name"])
    answer = await place.do("ce", "update_cost_allocation_tags_status", CostAllocationTagsStatus=[{"TagKey": key, "Status": "Active"}])
    for row in answer.get("Errors", ()):  # the call itself succeeds all the same
        code = row.get("Code", "Unknown")
        raise AwsError(f"the cost-allocation tag {key} was not activated, with {code}: {row.get('Message', '')}", service="ce",
                       operation="update_cost_allocation_tags_status", code=code)  # fmt: skip
    return key


async def _stays(place: Place, thing: Seen) -> None:
    """It is the account's own."""


async def _never(place: Place, part: str, id: str) -> None:
    """One call makes each of them whole."""


async def _no_end(place: Place, id: str) -> str:
    return ""


KINDS = (
    Kind("report", _find_report, _make_report, _remove_report, _put_report, _never, ("bcm-data-exports", "get_export", "ExportArn"),
         needs=("bucket",), whole=True, optional=True),
    Kind("tag", _find_tag, _make_tag, _stays, nothing_to_put, _never, _no_end, whole=True, optional=True),
)  # fmt: skip
