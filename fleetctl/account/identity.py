"""IAM's kinds, and key pairs: the machines' role and instance profile, the controller's policy.

IAM knows no filter by tag, so these are found by their names, which say set-up and region. What bears the name and not the set-up's tag
is somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Collection, Mapping
from typing import Any

from ..errors import NotFound
from . import rights
from .place import DONE_TAG, PART_TAG, SETUP_TAG, Kind, Place, mark_ec2, tags_of
from .planning import Seen, Wanted

__all__ = ["KINDS", "key_name", "name_of"]

INLINE = "machine"  # the name of the role's own policy
VERSIONS = 5  # of a managed policy (IAM User Guide, "IAM and AWS STS quotas")


def name_of(place: Place, part: str) -> str:
    """The name of something of IAM's."""
    return f"{place.facts.stem}-{part}"


def _arn(place: Place, part: str) -> str:
    return f"arn:{place.facts.partition}:iam::{place.facts.account}:policy/{name_of(place, part)}"


def _seen(place: Place, kind: str, part: str, id: str, tags: Mapping[str, str], settings: Mapping[str, Any]) -> list[Seen]:
    return [Seen(kind, part, id, settings, ours=tags.get(SETUP_TAG) == place.facts.setup, done=DONE_TAG in tags)]


async def _absent(asking: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """What a look answers with, {} where the thing is not there."""
    try:
        return await asking
    except NotFound:
        return {}


def _document(shown: Any) -> str:
    """A policy as IAM shows it, in the form that ours have; botocore decodes it into a dictionary."""
    return rights.encode(json.loads(shown) if isinstance(shown, str) else shown)


# --- role --------------------------------------------------------------------------------------------------------------------------------


async def _find_role(place: Place) -> list[Seen]:
    name = name_of(place, "machine")
    role = (await _absent(place.call("iam", "get_role", RoleName=name))).get("Role")
    if role is None:
        return []
    own = await _absent(place.call("iam", "get_role_policy", RoleName=name, PolicyName=INLINE))
    settings = {
        "trust": _document(role["AssumeRolePolicyDocument"]),
        "rights": _document(own["PolicyDocument"]) if own else None,
    }
    return _seen(place, "role", "machine", name, tags_of(role), settings)


async def _make_role(place: Place, wanted: Wanted) -> str:
    name = name_of(place, wanted.part)
    await place.do(
        "iam", "create_role", RoleName=name, AssumeRolePolicyDocument=wanted.settings["trust"], Tags=place.tags(wanted.part),
        Description="what fleetctl's machines may do"
    )  # fmt: skip
    return name


async def _put_role(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    if "trust" in keys:
        await place.do("iam", "update_assume_role_policy", RoleName=id, PolicyDocument=wanted.settings["trust"])
    if "rights" in keys:
        await place.do("iam", "put_role_policy", RoleName=id, PolicyName=INLINE, PolicyDocument=wanted.settings["rights"])


async def _mark_role(place: Place, part: str, id: str) -> None:
    await place.do("iam", "tag_role", RoleName=id, Tags=[{"Key": DONE_TAG, "Value": "yes"}])


async def _remove_role(place: Place, thing: Seen) -> None:
    """With the policies that somebody has added, since a role that has any is not deleted."""
    for name in (await place.call("iam", "list_role_policies", RoleName=thing.id))["PolicyNames"]:
        await place.call("iam", "delete_role_policy", RoleName=thing.id, PolicyName=name)
    for one in (await place.call("iam", "list_attached_role_policies", RoleName=thing.id))["AttachedPolicies"]:
        await place.call("iam", "detach_role_policy", RoleName=thing.id, PolicyArn=one["PolicyArn"])
    await place.call("iam", "delete_role", RoleName=thing.id)


# --- instance profile ------------------------------------------------------------------------------------------------------------------


async def _find_profile(place: Place) -> list[Seen]:
    name = name_of(place, "machine")
    profile = (await _absent(place.call("iam", "get_instance_profile", InstanceProfileName=name))).get("InstanceProfile")
    if profile is None:
        return []
    role = next((one["RoleName"] for one in profile["Roles"]), "")
    return _seen(place, "profile", "machine", name, tags_of(profile), {"role": role})


async def _make_profile(place: Place, wanted: Wanted) -> str:
    name = name_of(place, wanted.part)
    await place.do("iam", "create_instance_profile", InstanceProfileName=name, Tags=place.tags(wanted.part))
    return name


async def _put_profile(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """A profile holds one role at most, so what is in it must go first."""
    answer = await place.do("iam", "get_instance_profile", InstanceProfileName=id)
    there = [one["RoleName"] for one in answer["InstanceProfile"]["Roles"]]
    for role in there:
        if role != wanted.settings["role"]:
            await place.do("iam", "remove_role_from_instance_profile", InstanceProfileName=id, RoleName=role)
    if wanted.settings["role"] not in there:
        await place.do("iam", "add_role_to_instance_profile", InstanceProfileName=id, RoleName=wanted.settings["role"])


async def _mark_profile(place: Place, part: str, id: str) -> None:
    await place.do("iam", "tag_instance_profile", InstanceProfileName=id, Tags=[{"Key": DONE_TAG, "Value": "yes"}])


async def _remove_profile(place: Place, thing: Seen) -> None:
    if thing.settings["role"]:
        await place.call("iam", "remove_role_from_instance_profile", InstanceProfileName=thing.id, RoleName=thing.settings["role"])
    await place.call("iam", "delete_instance_profile", InstanceProfileName=thing.id)


# --- the controller's policy -----------------------------------------------------------------------------------------------------------


async def _find_policy(place: Place) -> list[Seen]:
    arn = _arn(place, "controller")
    policy = (await _absent(place.call("iam", "get_policy", PolicyArn=arn))).get("Policy")
    if policy is None:
        return []
    version = await place.call("iam", "get_policy_version", PolicyArn=arn, VersionId=policy["DefaultVersionId"])
    settings = {"rights": _document(version["PolicyVersion"]["Document"])}
    return _seen(place, "policy", "controller", arn, tags_of(policy), settings)


async def _make_policy(place: Place, wanted: Wanted) -> str:
    tags = place.tags(wanted.part, done=True)
    answer = await place.do(
        "iam", "create_policy", PolicyName=name_of(place, wanted.part), PolicyDocument=wanted.settings["rights"], Tags=tags,
        Description="what a fleetctl session may do"
    )  # fmt: skip
    return str(answer["Policy"]["Arn"])


async def _put_policy(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """A changed policy is a new version of it; the oldest makes room."""
    if "rights" not in keys:
        return
    versions = (await place.call("iam", "list_policy_versions", PolicyArn=id))["Versions"]
    spare = sorted((one["CreateDate"], one["VersionId"]) for one in versions if not one["IsDefaultVersion"])
    if len(versions) >= VERSIONS:
        await place.do("iam", "delete_policy_version", PolicyArn=id, VersionId=spare[0][1])
    await place.do("iam", "create_policy_version", PolicyArn=id, PolicyDocument=wanted.settings["rights"], SetAsDefault=True)


async def _mark_policy(place: Place, part: str, id: str) -> None:
    await place.do("iam", "tag_policy", PolicyArn=id, Tags=[{"Key": DONE_TAG, "Value": "yes"}])


async def _remove_policy(place: Place, thing: Seen) -> None:
    """From whoever has it, with its old versions: otherwise IAM refuses."""
    answer = await place.call("iam", "list_entities_for_policy", PolicyArn=thing.id)
    for rows, key, operation in (
        ("PolicyUsers", "UserName", "detach_user_policy"),
        ("PolicyGroups", "GroupName", "detach_group_policy"),
        ("PolicyRoles", "RoleName", "detach_role_policy"),
    ):
        for row in answer.get(rows, ()):
            await place.call("iam", operation, PolicyArn=thing.id, **{key: row[key]})
    for one in (await place.call("iam", "list_policy_versions", PolicyArn=thing.id))["Versions"]:
        if not one["IsDefaultVersion"]:
            await place.call("iam", "delete_policy_version", PolicyArn=thing.id, VersionId=one["VersionId"])
    await place.call("iam", "delete_policy", PolicyArn=thing.id)


# --- key pairs ------------------------------------------------------------------------------------------------------------------------


def key_name(place: Place, part: str) -> str:
    """The name of a key pair in EC2, which is the region's own."""
    return f"fleetctl-{place.facts.setup}-{part}"


async def _find_keys(place: Place) -> list[Seen]:
    """By name: a key pair of that name that bears no tag of ours is somebody else's."""
    found = []
    names = {key_name(place, part): part for part in place.facts.keys}
    by_name = [{"Name": "key-name", "Values": [f"fleetctl-{place.facts.setup}-*"]}]
    for row in (await place.call("ec2", "describe_key_pairs", Filters=by_name, IncludePublicKey=True)).get("KeyPairs", []):
        tags = tags_of(row)
        if (part := names.get(row["KeyName"]) or tags.get(PART_TAG)) and (row["KeyName"] in names or SETUP_TAG in tags):
            found += _seen(place, "key", part, row["KeyName"], tags, {"public": " ".join(row.get("PublicKey", "").split()[:2])})
    return found


async def _make_key(place: Place, wanted: Wanted) -> str:
    name = key_name(place, wanted.part)
    specification = place.specification("key-pair", wanted.part, done=True)
    public = wanted.settings["public"].encode()
    await place.do("ec2", "import_key_pair", KeyName=name, PublicKeyMaterial=public, TagSpecifications=specification)
    return name


async def _put_key(place: Place, wanted: Wanted, id: str, keys: Collection[str]) -> None:
    """A key pair is looked at only when a machine is launched, so it may be replaced under its name."""
    if "public" in keys:
        await place.do("ec2", "delete_key_pair", KeyName=id)
        await _make_key(place, wanted)


async def _remove_key(place: Place, thing: Seen) -> None:
    await place.call("ec2", "delete_key_pair", KeyName=thing.id)


async def _mark_key(place: Place, part: str, id: str) -> None:
    """EC2 tags key pairs by their id, which nothing else here needs."""
    rows = (await place.call("ec2", "describe_key_pairs", KeyNames=[id]))["KeyPairs"]
    await mark_ec2(place, part, rows[0]["KeyPairId"])


KINDS = (
    Kind("role", _find_role, _make_role, _remove_role, _put_role, _mark_role, ("iam", "get_role", "RoleName"), given=frozenset({"trust"})),
    Kind("profile", _find_profile, _make_profile, _remove_profile, _put_profile, _mark_profile,
         ("iam", "get_instance_profile", "InstanceProfileName"), needs=("role",)),
    Kind("policy", _find_policy, _make_policy, _remove_policy, _put_policy, _mark_policy, ("iam", "get_policy", "PolicyArn"), whole=True),
    Kind("key", _find_keys, _make_key, _remove_key, _put_key, _mark_key, ("ec2", "describe_key_pairs", "KeyNames"), whole=True),
)  # fmt: skip
