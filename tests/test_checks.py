"""What a preflight makes of the facts that were looked up: pure judgements."""

from dataclasses import replace

import pytest

from fleetctl.errors import AwsError, BadRequest, Denied, Network, NotFound, UserDataTooLarge
from fleetctl.launching.checks import Facts, Preflight, Verdict, judge, quota_code

OK, WARN, FAIL, UNKNOWN = Verdict.OK, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN


def said(kind, code, operation="run_instances"):
    return kind(f"ec2 {operation} was refused with {code}", service="ec2", operation=operation, code=code, todo="do this")


ALLOWED = said(AwsError, "DryRunOperation")
SILENT = said(Network, "EndpointConnectionError")
IMAGE = {"ImageId": "ami-1", "Architecture": "x86_64", "State": "available", "RootDeviceName": "/dev/xvda",
         "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True}}]}  # fmt: skip
KINDS = [
    {"InstanceType": "m5.large", "VCpuInfo": {"DefaultVCpus": 2}, "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]}},
    {"InstanceType": "m5.4xlarge", "VCpuInfo": {"DefaultVCpus": 16}, "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]}},
]
SUBNET = {"SubnetId": "subnet-1", "VpcId": "vpc-1", "AvailableIpAddressCount": 10, "MapPublicIpOnLaunch": True}
OUT = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "State": "active"}
MAIN = {"VpcId": "vpc-1", "Associations": [{"Main": True}], "Routes": [OUT]}
GOOD = Facts(
    n=4, region="us-east-1", on_demand=False, types=("m5.large",), subnets=("subnet-1",), dry={"run_instances": ALLOWED}, user_data=9000,
    image=[IMAGE], kinds=KINDS[:1], places=[SUBNET], routes=[MAIN], endpoints=[], quotas={"L-34B43A08": 64.0}, running=[],
)  # fmt: skip


def busy(vcpus, kind="c5.large"):
    return {"InstanceType": kind, "CpuOptions": {"CoreCount": vcpus // 2, "ThreadsPerCore": 2}}


def endpoint(service, state="available", vpc="vpc-1"):
    return {"VpcId": vpc, "ServiceName": f"com.amazonaws.us-east-1.{service}", "State": state}


def route(**to):
    return [{**MAIN, "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", "State": "active", **to}]}]


def disk(name, **ebs):
    return {"DeviceName": name, "Ebs": ebs}


OWN_TABLE = {"VpcId": "vpc-1", "Associations": [{"SubnetId": "subnet-1"}], "Routes": []}
SMALL = {**SUBNET, "AvailableIpAddressCount": 3}
OTHER = {**SUBNET, "SubnetId": "subnet-2"}
KEPT = {**IMAGE, "BlockDeviceMappings": [disk("/dev/xvda", DeleteOnTermination=True), disk("/dev/sdb", DeleteOnTermination=False)]}


@pytest.mark.parametrize(
    ("check", "verdict", "words", "facts"),
    [
        ("permission", OK, "run_instances was allowed", {}),
        ("permission", FAIL, "UnauthorizedOperation", {"dry": {"run_instances": said(Denied, "UnauthorizedOperation")}}),
        ("permission", FAIL, "InvalidParameterValue", {"dry": {"run_instances": said(BadRequest, "InvalidParameterValue")}}),
        ("permission", UNKNOWN, "EndpointConnectionError", {"dry": {"run_instances": SILENT}}),
        ("permission", UNKNOWN, "before its template",
         {"dry": {"create_launch_template": ALLOWED, "create_fleet": said(NotFound, "InvalidLaunchTemplateName.NotFoundException")}}),
        ("permission", FAIL, "UnauthorizedOperation",
         {"dry": {"create_launch_template": said(Denied, "UnauthorizedOperation"), "create_fleet": said(NotFound, "NotFound")}}),
        ("user data", OK, "9,000 of 16,384", {}),
        ("user data", FAIL, "too much", {"user_data": UserDataTooLarge("too much", todo="less")}),
        ("image", OK, "ami-1 for x86_64", {}),
        ("image", FAIL, "InvalidAMIID.NotFound", {"image": said(NotFound, "InvalidAMIID.NotFound")}),
        ("image", FAIL, "is pending", {"image": [{**IMAGE, "State": "pending"}]}),
        ("image", FAIL, "m5.large is not", {"image": [{**IMAGE, "Architecture": "arm64"}]}),
        ("image", FAIL, "InvalidInstanceType", {"kinds": said(BadRequest, "InvalidInstanceType")}),
        ("image", UNKNOWN, "EndpointConnectionError", {"image": SILENT}),
        ("quota", OK, "4 × m5.large are 8 vCPUs; 56 of 64", {"running": [busy(56), busy(96, "g5.48xlarge")]}),
        ("quota", FAIL, "58 of 64", {"running": [busy(58)]}),
        ("quota", WARN, "4 × m5.4xlarge are 64", {"kinds": KINDS, "running": [busy(2)]}),
        ("quota", UNKNOWN, "EndpointConnectionError", {"quotas": {"L-34B43A08": SILENT}}),
        ("quota", UNKNOWN, "no quota is known for p5.48xlarge",
         {"kinds": [{"InstanceType": "p5.48xlarge", "VCpuInfo": {"DefaultVCpus": 192}}]}),
        ("quota", UNKNOWN, "EC2 chooses", {"kinds": []}),
        ("addresses", OK, "10 in subnet-1; 4 are needed", {}),
        ("addresses", FAIL, "3 in subnet-1; 4", {"places": [SMALL]}),
        ("addresses", WARN, "3 in subnet-1, 10 in subnet-2", {"places": [SMALL, OTHER], "subnets": ("subnet-1", "subnet-2")}),
        ("addresses", FAIL, "InvalidSubnetID.NotFound", {"places": said(NotFound, "InvalidSubnetID.NotFound")}),
        ("addresses", UNKNOWN, "EC2 chooses", {"subnets": (), "places": []}),
        ("reports", OK, "by igw-1", {}),
        ("reports", OK, "by igw-1", {"places": [{**SUBNET, "MapPublicIpOnLaunch": False}], "public": True}),
        ("reports", FAIL, "no public address", {"places": [{**SUBNET, "MapPublicIpOnLaunch": False}]}),
        ("reports", FAIL, "no public address", {"public": False}),
        ("reports", OK, "by nat-1", {"routes": route(NatGatewayId="nat-1"), "public": False}),
        ("reports", FAIL, "ends nowhere", {"routes": route(NatGatewayId="nat-1", State="blackhole")}),
        ("reports", FAIL, "ends nowhere", {"routes": route(InstanceId="i-1", State="blackhole"), "nat": "i-2"}),
        ("reports", OK, "i-1, which the launch starts", {"routes": route(InstanceId="i-1", State="blackhole"), "nat": "i-1"}),
        ("reports", FAIL, "no endpoints for sns", {"routes": [MAIN, OWN_TABLE]}),
        ("reports", OK, "endpoints for sns", {"routes": [OWN_TABLE], "endpoints": [endpoint("sns", "Available")]}),
        ("reports", FAIL, "no endpoints for ssm", {"routes": [OWN_TABLE], "endpoints": [endpoint("sns")], "needs": ("sns", "ssm")}),
        ("reports", FAIL, "no endpoints for sns", {"routes": [OWN_TABLE], "endpoints": [endpoint("sns", "pending")]}),
        ("reports", FAIL, "no endpoints for sns", {"routes": [OWN_TABLE], "endpoints": [endpoint("sns", vpc="vpc-2")]}),
        ("reports", UNKNOWN, "EndpointConnectionError", {"routes": SILENT}),
        ("volumes", OK, "all end", {"disks": [disk("/dev/xvda", VolumeSize=20)]}),
        ("volumes", WARN, "/dev/sdb would outlive", {"image": [KEPT]}),
        ("volumes", OK, "all end", {"image": [KEPT], "disks": [disk("/dev/sdb", DeleteOnTermination=True)]}),
        ("volumes", OK, "all end", {"image": [KEPT], "disks": [{"DeviceName": "/dev/sdb", "NoDevice": ""}]}),
        ("volumes", WARN, "/dev/xvda would outlive", {"disks": [disk("/dev/xvda", DeleteOnTermination=False)]}),
        ("volumes", WARN, "/dev/sdc would outlive", {"disks": [disk("/dev/sdc", VolumeSize=9)]}),
    ],
)
def test_each_check_says_what_was_found_and_what_it_comes_to(check, verdict, words, facts):
    found = judge(replace(GOOD, **facts))[check]
    assert (found.verdict, words in found.found) == (verdict, True), found
    assert found.todo or verdict is OK or "template" in words, "what is not well says what to do"


def test_a_preflight_is_true_where_nothing_fails_and_shows_itself():
    good, bad = judge(GOOD), judge(replace(GOOD, places=[SMALL]))
    assert good
    assert good.ok
    assert not bad
    assert [one.name for one in bad.failed] == ["addresses"]
    assert "nothing speaks against it (7 ok)" in repr(good)
    assert "it would fail (6 ok, 1 fail)" in repr(bad)
    assert "<td" in bad._repr_html_()
    assert bad.as_dict()["checks"][4]["verdict"] == "fail"
    assert Preflight(())
    with pytest.raises(KeyError):
        good["weather"]


@pytest.mark.parametrize(
    ("kind", "spot", "on_demand"),
    [
        ("t3.micro", "L-34B43A08", "L-1216C47A"),
        ("m7gd.metal", "L-34B43A08", "L-1216C47A"),
        ("g4dn.xlarge", "L-3819A6DF", "L-DB2E81BA"),
        ("p3.2xlarge", "L-7212CCBC", "L-417A185B"),
        ("p5.48xlarge", None, None),
        ("x2iedn.xlarge", "L-E3A00192", "L-7295265B"),
        ("inf2.xlarge", "L-B5D1601B", "L-1945791B"),
        ("hpc7g.4xlarge", None, None),
        ("u-6tb1.metal", None, None),
    ],
)
def test_types_count_against_the_quota_of_their_family(kind, spot, on_demand):
    assert (quota_code(kind, on_demand=False), quota_code(kind, on_demand=True)) == (spot, on_demand)
