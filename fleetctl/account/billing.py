"""What tells the user of money: alarms on the month's total, the topic that sends them as mail, and a budget.

The metric of a month's charges is in one region, whichever the set-up is in, and so are its alarms and their topic. Budgets are the
account's own. The metric exists once the account lets CloudWatch have it, which no call does: docs/aws.md says where.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import NotFound
from .options import BILLED, BILLS_REGION
from .place import DONE_TAG, PART_TAG, SETUP_TAG, Kind, Place, tags_of
from .planning import Seen, Wanted

__all__ = ["KINDS", "SERVICES"]

SERVICES = ("cloudwatch", "sns", "budgets")  # whose calls go to the region of the bills
METRIC = {"Namespace": "AWS/Billing", "MetricName": "EstimatedCharges", "Dimensions": [{"Name": "Currency", "Value": "USD"}]}
PERIOD = 6 * 3600  # seconds; the metric comes several times a day (CloudWatch User Guide, "Create a billing alarm …")
SHARES = (50.0, 80.0, 100.0)  # percent of the budget at which a mail is sent


def _name(place: Place, part: str) -> str:
    return f"{place.facts.stem}-{part}"


def _seen(place: Place, kind: str, id: str, tags: dict[str, str], settings: dict[str, Any], part: str) -> Seen:
    """Found by its name: without the set-up's tag it is somebody else's."""
    return Seen(kind, tags.get(PART_TAG, part), id, settings, ours=tags.get(SETUP_TAG) == place.facts.setup, done=DONE_TAG in tags)


# --- topic -------------------------------------------------------------------------------------------------------------------------------


async def _subscribers(place: Place, topic: str) -> dict[str, str]:
    """The addresses that get mail, with the ids of their subscriptions."""
    rows = (await place.call("sns", "list_subscriptions_by_topic", TopicArn=topic))["Subscriptions"]
    return {row["Endpoint"]: row["SubscriptionArn"] for row in rows if row["Protocol"] == "email"}


async def _find_topic(place: Place) -> list[Seen]:
    if place.facts.partition != BILLED:
        return []
    topic = place.facts.alarms_topic
    try:
        tags = tags_of(await place.call("sns", "list_tags_for_resource", ResourceArn=topic))
        mail = "+".join(sorted(await _subscribers(place, topic)))
    except NotFound:
        return []
    return [_seen(place, "topic", topic, tags, {"mail": mail}, "alarms")]


async def _make_topic(place: Place, wanted: Wanted) -> str:
    answer = await place.do("sns", "create_topic", Name=place.facts.alarms_topic.rpartition(":")[2], Tags=place.tags(wanted.part))
    return str(answer["TopicArn"])


async def _put_topic(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """The address gets a mail with a link, and is a subscriber once somebody has followed it."""
    there = await _subscribers(place, id)
    for address, subscription in there.items():
        if address != wanted.settings["mail"] and subscription.startswith("arn:"):  # one that waits for its confirmation has no id
            await place.do("sns", "unsubscribe", SubscriptionArn=subscription)
    if wanted.settings["mail"] not in there:
        await place.do("sns", "subscribe", TopicArn=id, Protocol="email", Endpoint=wanted.settings["mail"])


async def _mark_topic(place: Place, part: str, id: str) -> None:
    await place.do("sns", "tag_resource", ResourceArn=id, Tags=[{"Key": DONE_TAG, "Value": "yes"}])


async def _remove_topic(place: Place, thing: Seen) -> None:
    await place.call("sns", "delete_topic", TopicArn=thing.id)


# --- alarms ------------------------------------------------------------------------------------------------------------------------------


async def _find_alarms(place: Place) -> list[Seen]:
    found: list[Seen] = []
    if place.facts.partition != BILLED:
        return found
    answer = await place.call("cloudwatch", "describe_alarms", AlarmNamePrefix=_name(place, "over-"), MaxRecords=100)
    for row in answer["MetricAlarms"]:
        tags = tags_of(await place.call("cloudwatch", "list_tags_for_resource", ResourceARN=row["AlarmArn"]))
        settings = {"over": f"{row.get('Threshold', 0):g} USD", "tells": "+".join(sorted(row.get("AlarmActions", ())))}
        found.append(_seen(place, "alarm", row["AlarmName"], tags, settings, row["AlarmName"][len(_name(place, "")) :]))
    return found


async def _make_alarm(place: Place, wanted: Wanted) -> str:
    await _put_alarm(place, wanted, _name(place, wanted.part), (), Tags=place.tags(wanted.part, done=True))
    return _name(place, wanted.part)


async def _put_alarm(place: Place, wanted: Wanted, id: str, keys: Collection[str], **more: Any) -> None:
    """The call replaces an alarm of that name; tags it takes only when it makes one."""
    told = wanted.settings["tells"]
    await place.do(
        "cloudwatch", "put_metric_alarm", AlarmName=id, **METRIC, Statistic="Maximum", Period=PERIOD, EvaluationPeriods=1,
        ComparisonOperator="GreaterThanThreshold", Threshold=float(wanted.settings["over"].split()[0]),
        AlarmActions=[told] if told else [], AlarmDescription="fleetctl: what the account has cost this month", **more
    )  # fmt: skip


async def _mark_alarm(place: Place, part: str, id: str) -> None:
    arn = f"arn:{place.facts.partition}:cloudwatch:{BILLS_REGION}:{place.facts.account}:alarm:{id}"
    await place.do("cloudwatch", "tag_resource", ResourceARN=arn, Tags=[{"Key": DONE_TAG, "Value": "yes"}])


async def _remove_alarm(place: Place, thing: Seen) -> None:
    await place.call("cloudwatch", "delete_alarms", AlarmNames=[thing.id])


async def _end_of_alarm(place: Place, id: str) -> str:
    """That CloudWatch does not list it under its own name: there is no error for an alarm that is gone."""
    return "" if (await place.call("cloudwatch", "describe_alarms", AlarmNames=[id]))["MetricAlarms"] else "NotListed"


# --- budget ------------------------------------------------------------------------------------------------------------------------------


async def _find_budget(place: Place) -> list[Seen]:
    if place.facts.partition != BILLED:
        return []
    mine = {"AccountId": place.facts.account, "BudgetName": _name(place, "month")}
    try:
        limit = (await place.call("budgets", "describe_budget", **mine))["Budget"]["BudgetLimit"]
    except NotFound:
        return []
    arn = f"arn:{place.facts.partition}:budgets::{place.facts.account}:budget/{mine['BudgetName']}"
    tags = tags_of(await place.call("budgets", "list_tags_for_resource", ResourceARN=arn), "ResourceTags")
    told: set[str] = set()
    for one in (await place.call("budgets", "describe_notifications_for_budget", **mine)).get("Notifications", ()):
        rows = await place.call("budgets", "describe_subscribers_for_notification", **mine, Notification=_plain(one))
        told |= {row["Address"] for row in rows["Subscribers"]}
    settings = {"a month": f"{float(limit['Amount']):g} {limit['Unit']}", "mail": "+".join(sorted(told))}
    return [_seen(place, "budget", mine["BudgetName"], tags, settings, "month")]


def _plain(notification: dict[str, Any]) -> dict[str, Any]:
    """A notification without the state that it is in, as the calls want it that name one."""
    return {key: value for key, value in notification.items() if key != "NotificationState"}


async def _make_budget(place: Place, wanted: Wanted) -> str:
    amount, unit = wanted.settings["a month"].split()
    mail = wanted.settings["mail"]
    at = {"NotificationType": "ACTUAL", "ComparisonOperator": "GREATER_THAN", "ThresholdType": "PERCENTAGE"}
    told: list[dict[str, Any]] = [
        {"Notification": {**at, "Threshold": share}, "Subscribers": [{"SubscriptionType": "EMAIL", "Address": mail}]} for share in SHARES
    ]
    name = _name(place, wanted.part)
    await place.do(
        "budgets", "create_budget", AccountId=place.facts.account, NotificationsWithSubscribers=told if mail else [],
        Budget={"BudgetName": name, "BudgetLimit": {"Amount": amount, "Unit": unit}, "TimeUnit": "MONTHLY", "BudgetType": "COST"},
        ResourceTags=place.tags(wanted.part, done=True)
    )  # fmt: skip
    return name


async def _put_budget(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """Made anew: it has no memory that would be lost, as what was spent is counted elsewhere."""
    await place.do("budgets", "delete_budget", AccountId=place.facts.account, BudgetName=id)
    await _make_budget(place, wanted)


async def _remove_budget(place: Place, thing: Seen) -> None:
    await place.call("budgets", "delete_budget", AccountId=place.facts.account, BudgetName=thing.id)


async def _end_of_budget(place: Place, id: str) -> str:
    try:
        await place.call("budgets", "describe_budget", AccountId=place.facts.account, BudgetName=id)
    except NotFound as error:
        return error.code
    return ""


async def _never(place: Place, part: str, id: str) -> None:
    """One call makes a budget whole, with its mark."""


KINDS = (
    Kind("topic", _find_topic, _make_topic, _remove_topic, _put_topic, _mark_topic, ("sns", "get_topic_attributes", "TopicArn"),
         optional=True),
    Kind("alarm", _find_alarms, _make_alarm, _remove_alarm, _put_alarm, _mark_alarm, _end_of_alarm, needs=("topic",), whole=True,
         optional=True),
    Kind("budget", _find_budget, _make_budget, _remove_budget, _put_budget, _never, _end_of_budget, whole=True, optional=True),
)  # fmt: skip
