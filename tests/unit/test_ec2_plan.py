"""A plan: what a template's parameters become, and what is refused before AWS is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy import ec2_parameters, ec2_plan
from deploy.hosting.place import Place
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings, Mirror
from model_configs.schema import load_model
from tests.fakes.ec2_models import EVERYTHING, IMAGE, PLACE, SECTION, model, planned
from tests.fakes.instance import write_archive


def test_a_model_without_the_section_says_how_one_begins() -> None:
    config = load_model("digits")
    with pytest.raises(KitError, match="digits.yaml has no deploy.ec2") as caught:
        ec2_parameters.section(config)
    assert "instance_type" in caught.value.hint


def test_what_is_missing_is_named_all_at_once() -> None:
    with pytest.raises(KitError) as caught:
        ec2_plan.require_whole(model({"instance_type": "c7i.large"}))
    expected = "model_configs/minilm.yaml: deploy.ec2 lacks vpc_id, subnets, certificate_arn, keys_arn, allowed_cidrs"
    assert str(caught.value) == expected
    assert "--on emulator" in caught.value.hint


def test_the_least_section_gets_what_follows_from_the_model(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    given = plan.parameters
    assert plan.stack == "servekit-minilm"
    assert given["Architecture"] == "amd64"
    assert given["AmiParameter"].endswith("al2023-ami-kernel-default-x86_64")
    assert given["LoadBalancerSubnets"] == given["Subnets"]
    assert given["ResponseTimeout"] == "70", "longer than TorchServe's 60 s"
    assert given["LongestStream"] == "60"
    assert given["StartTimeout"] == "1200", "startupTimeout and 15 minutes"
    assert given["LatencyP95"] == "0.1", "the loadtest's SLO"
    assert given["DesiredSize"] == "1"
    assert given["InServiceDuringUpdate"] == "1"
    assert given["RequestsPerMinutePerInstance"] == "0"
    assert given["Image"] == IMAGE
    assert given["ImageRepositoryArn"] == "arn:aws:ecr:eu-west-1:123456789012:repository/servekit"
    assert given["ArchiveBucket"] == "servekit-123456789012-eu-west-1"
    assert given["KeysVersion"] == "7"
    assert given["DeletionProtection"] == "true"


def test_everything_of_the_section_reaches_the_stack(tmp_path: Path) -> None:
    given = planned(tmp_path, EVERYTHING).parameters
    expected = {
        "AmiId": "ami-0123456789abcdef0",
        "AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:on-call",
        "DesiredSize": "3",
        "HostedZoneId": "Z0123456789ABC",
        "Hostname": "minilm.example.com",
        "InServiceDuringUpdate": "3",
        "LatencyP95": "0.5",
        "LoadBalancerSubnets": "subnet-0123456789abcdef2,subnet-0123456789abcdef3",
        "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/a-boundary",
        "RequestsPerMinutePerInstance": "600",
        "VolumeSize": "200",
    }
    assert {key: given[key] for key in expected} == expected
    assert planned(tmp_path, EVERYTHING).tags == {
        "servekit:endpoint": "servekit-minilm",
        "servekit:model": "minilm",
        "team": "search",
    }


def test_inf2_gets_neurons_ami_and_room_for_its_image(tmp_path: Path) -> None:
    given = planned(tmp_path, SECTION | {"instance_type": "inf2.8xlarge"}, "llama-2-7b-inf2").parameters
    assert given["AmiParameter"] == "/aws/service/neuron/dlami/base/amazon-linux-2023/latest/image_id"
    assert int(given["VolumeSize"]) > 100
    assert given["ResponseTimeout"] == "1810"
    assert given["LongestStream"] == "1800"


def test_the_same_inputs_give_the_same_stack(tmp_path: Path) -> None:
    assert planned(tmp_path).change_set("CREATE") == planned(tmp_path).change_set("CREATE")


def test_a_folder_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="is no archive folder"):
        ec2_plan.plan(model(), tmp_path, PLACE, IMAGE)


def test_clients_are_let_in_one_rule_each(tmp_path: Path) -> None:
    plan = planned(tmp_path, EVERYTHING)
    rules = plan.template["Resources"]["LoadBalancerGroup"]["Properties"]["SecurityGroupIngress"]
    assert [{key: each[key] for key in each if "Cidr" in key or "Source" in key} for each in rules] == [
        {"CidrIp": "10.0.0.0/8"},
        {"CidrIpv6": "fd00::/8"},
        {"SourceSecurityGroupId": "sg-0123456789abcdef0"},
    ]


def test_a_whole_group_is_never_taken_out_of_service_at_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, SECTION | {"min_size": 3, "max_size": 3})
    assert plan.parameters["InServiceDuringUpdate"] == "2"
    assert any("every update takes an instance out of service" in line for line in plan.advice)


@pytest.mark.parametrize(
    ("name", "serving", "section", "words"),
    [
        ("minilm", {"responseTimeout": 3995}, {"longest_stream_s": 60}, "torchserve.responseTimeout: 3995; load balancers wait 4000 s at most"),
        ("minilm", {"responseTimeout": 3900}, {}, "deploy.ec2.longest_stream_s: torchserve.responseTimeout=3900"),
        ("minilm", {"startupTimeout": 10800}, {}, "torchserve.startupTimeout: 10800; a rolling update waits 3600 s at most"),
        ("minilm", {}, {"volume_gb": 25}, "deploy.ec2.volume_gb: 25 is too small"),
        ("minilm", {}, {"allowed_cidrs": [f"10.{n}.0.0/16" for n in range(255)]}, "the template: "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_aws_is_asked(
    tmp_path: Path, name: str, serving: dict[str, Any], section: dict[str, Any], words: str
) -> None:
    config = model(SECTION | section, name)
    config = config.model_copy(update={"torchserve": config.torchserve.model_copy(update=serving)})
    write_archive(tmp_path / "archive")
    with pytest.raises(KitError) as caught:
        ec2_plan.plan(config, tmp_path / "archive", PLACE, IMAGE)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("section", "name", "seconds"),
    [
        ({"alarms": {"latency_p95_s": 2.5}}, "minilm", 2.5),
        ({}, "minilm", 0.1),
        ({}, "pydoc-llama", 0.25),
        ({}, "llama-2-7b-inf2", 1800.0),
    ],
)
def test_the_latency_alarm_keeps_what_the_loadtest_promises(section: dict[str, Any], name: str, seconds: float) -> None:
    assert ec2_parameters.latency_alarm_s(model(SECTION | section, name)) == seconds


@pytest.mark.parametrize(
    ("instance_type", "tag"), [("c7i.large", "cpu"), ("c8g.large", "cpu-arm64"), ("inf2.xlarge", "neuronx")]
)
def test_the_image_fits_the_instance(instance_type: str, tag: str) -> None:
    uri = ec2_plan.image_uri(model(SECTION | {"instance_type": instance_type}), PLACE)
    assert uri == f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/servekit:{tag}"


def test_an_image_of_the_yaml_is_taken_as_it_is() -> None:
    uri = "210987654321.dkr.ecr.us-east-1.amazonaws.com/team/servekit:v3"
    assert ec2_plan.image_uri(model(SECTION | {"image_uri": uri}), PLACE) == uri
    arn = "arn:aws:ecr:us-east-1:210987654321:repository/team/servekit"
    assert ec2_plan.repository_arn(uri, "aws") == arn
    with pytest.raises(KitError, match="is not in ECR"):
        ec2_plan.repository_arn("public.ecr.aws/neuron/pytorch-inference-neuronx:2.7.0", "aws")


def test_other_partitions_have_their_own_arns(tmp_path: Path) -> None:
    china = Place("123456789012", "cn-north-1", "aws-cn")
    write_archive(tmp_path / "archive")
    image = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/servekit:cpu"
    plan = ec2_plan.plan(model(), tmp_path / "archive", china, image)
    assert plan.parameters["ImageRepositoryArn"] == "arn:aws-cn:ecr:cn-north-1:123456789012:repository/servekit"


def test_the_gateway_is_as_the_yaml_has_it(tmp_path: Path) -> None:
    config = model()
    assert config.deploy
    deploy = config.deploy.model_copy(update={"gateway": GatewaySettings(max_concurrent=8, burst=0)})
    write_archive(tmp_path / "archive")
    plan = ec2_plan.plan(config.model_copy(update={"deploy": deploy}), tmp_path / "archive", PLACE, IMAGE)
    assert plan.parameters["GatewaySettings"] == '{"burst": 0, "max_concurrent": 8}'
    assert planned(tmp_path).parameters["GatewaySettings"] == "{}"


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ({"url": "http://other.example.com"}, "deploy.gateway.mirror.url: http://other.example.com; instances reach"),
        ({"url": "https://other.example.com:8443/x"}, "deploy.gateway.mirror.url: "),
        ({"url": "https://other.example.com", "key_file": "key"}, "deploy.gateway.mirror.key_file: key is not"),
        ({"url": "https://other.example.com", "ca_file": "ca.pem"}, "deploy.gateway.mirror.ca_file: ca.pem is not"),
    ],
)
def test_a_mirror_that_instances_do_not_reach(tmp_path: Path, mirror: dict[str, Any], words: str) -> None:
    config = model()
    assert config.deploy
    gateway = GatewaySettings(mirror=Mirror(**mirror))
    config = config.model_copy(update={"deploy": config.deploy.model_copy(update={"gateway": gateway})})
    write_archive(tmp_path / "archive")
    with pytest.raises(KitError) as caught:
        ec2_plan.plan(config, tmp_path / "archive", PLACE, IMAGE)
    assert words in str(caught.value)
