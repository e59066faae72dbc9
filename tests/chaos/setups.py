"""An account's set-up made and removed by processes that are killed at one moment of their lives, each followed by the same command.

The oracle is what the services list, asked by another client; each life has a set-up of its own, so that many may be lived at a time.
"""

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from killable import Moments, watch
from lives import Lives
from slaughter import Slaughter, place

from fleetctl import account

# of the three ways out the one with most to make and to remove
OPTIONS = account.Options(("us-east-1a",), "nat", ("203.0.113.7",), reaper=True)
VERBS = ("apply", "destroy")
ROWS = {  # what bears the set-up's tag in EC2: call, key of its rows, and the states in which nothing is left
    "describe_vpcs": ("Vpcs", ()),
    "describe_subnets": ("Subnets", ()),
    "describe_internet_gateways": ("InternetGateways", ()),
    "describe_route_tables": ("RouteTables", ()),
    "describe_security_groups": ("SecurityGroups", ()),
    "describe_addresses": ("Addresses", ()),
    "describe_key_pairs": ("KeyPairs", ()),
    "describe_vpc_endpoints": ("VpcEndpoints", ("deleted",)),
    "describe_nat_gateways": ("NatGateways", ("deleted",)),
}


def live(home, verb, name, kill=None, passed=""):
    """One command over a set-up; the names of its moments go into the file `passed`."""
    os.environ["XDG_CONFIG_HOME"] = str(Path(home) / "config")
    account.DOUBT_SECONDS = 0.2  # nothing here takes as long as in AWS
    moments = Moments(kill)
    watch(moments)
    given = {"options": OPTIONS} if verb == "apply" else {}
    getattr(account, verb)(**given, name=name, cloud="local", home=Path(home))
    if passed:
        Path(passed).write_text(json.dumps(moments.passed))
    os._exit(0)


class Surveyor:
    """Lives such lives on the local cloud that runs in `home`."""

    def __init__(self, home, cloud):
        self.home = home
        self._lives = Lives(["fleetctl.account", "aiobotocore.session", "boto3"])
        session = boto3.Session()
        services = ("ec2", "iam", "s3", "cloudformation", "lambda", "events")
        self._clients = [session.client(service, **cloud.client()) for service in services]
        self._ec2, self._iam, self._s3, self._stacks, self._functions, self._rules = self._clients

    def close(self):
        for client in self._clients:
            client.close()

    def there(self, name):
        """How many of each kind a set-up has, as the services list them."""
        found = {}
        for operation, (key, over) in ROWS.items():
            asked = {"Filter" if operation == "describe_nat_gateways" else "Filters": [{"Name": "tag:fleetctl:setup", "Values": [name]}]}
            found[key] = len([row for row in getattr(self._ec2, operation)(**asked)[key] if row.get("State") not in over or not over])
        begins = f"fleetctl-{name}-"
        found["Buckets"] = len([one for one in self._s3.list_buckets()["Buckets"] if one["Name"].startswith(begins)])
        found["Roles"] = len([one for one in self._iam.list_roles()["Roles"] if one["RoleName"].startswith(begins)])
        profiles = self._iam.list_instance_profiles()["InstanceProfiles"]
        found["Profiles"] = len([one for one in profiles if one["InstanceProfileName"].startswith(begins)])
        policies = self._iam.list_policies(Scope="Local")["Policies"]
        found["Policies"] = len([one for one in policies if one["PolicyName"].startswith(begins)])
        found["Stacks"] = len([one for one in self._stacks.describe_stacks()["Stacks"] if one["StackName"].startswith(begins)])
        functions, rules = self._functions.list_functions()["Functions"], self._rules.list_rules()["Rules"]
        found["Functions"] = len([one for one in functions if one["FunctionName"].startswith(begins)])
        found["Rules"] = len([one for one in rules if one["Name"].startswith(begins)])
        return {kind: count for kind, count in found.items() if count}

    def whole(self, name):
        """A set-up that nobody kills, made and removed: what there is in between, and the moments of both."""
        with place(self.home) as home:
            moments = {}
            for verb in VERBS:
                assert self._lives.run(live, str(home), verb, name, None, str(home / "passed")) == 0
                moments[verb] = json.loads((home / "passed").read_text())
                if verb == "apply":
                    there = self.there(name)
            assert self.there(name) == {}
            return there, moments

    def kill(self, kills, whole, jobs=2):
        """Kills one life of each pair: its apply at the one moment, its destroy at the other; says what came of it."""
        done = Slaughter("set-up")
        with ThreadPoolExecutor(jobs) as pool:
            for pair, (statuses, made, left) in zip(kills.values(), pool.map(self._life, kills, kills.values()), strict=True):
                if statuses != [-9, 0, -9, 0]:
                    done.wrong.append(f"killed at {pair}: exit statuses {statuses}")
                done.killed += [moment for moment, status in zip(pair, statuses[::2], strict=True) if status == -9]
                done.doubles += [f"killed at {pair}: {made.get(kind, 0)} {kind} instead of {whole.get(kind, 0)}"
                                 for kind in made.keys() | whole.keys() if made.get(kind) != whole.get(kind)]  # fmt: skip
                done.left += [f"killed at {pair}: {count} {kind}" for kind, count in left.items()]
        return done

    def _life(self, name, pair):
        with place(self.home) as home:
            statuses = [self._lives.run(live, str(home), "apply", name, pair[0]), self._lives.run(live, str(home), "apply", name)]
            made = self.there(name)
            statuses += [self._lives.run(live, str(home), "destroy", name, pair[1]), self._lives.run(live, str(home), "destroy", name)]
            return statuses, made, self.there(name)


@contextlib.contextmanager
def surveying(home, cloud):
    """A surveyor, whose connections end with the block."""
    surveyor = Surveyor(home, cloud)
    try:
        yield surveyor
    finally:
        surveyor.close()
