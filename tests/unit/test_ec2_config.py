"""`deploy.ec2` of a model's YAML."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from model_configs.ec2 import Ec2, architecture_of, instance_types
from model_configs.ec2 import problems as section_problems
from servekit.strict import problems
from tests.fakes.ec2_models import EVERYTHING, SECTION


def read(**changes: Any) -> Ec2:
    return Ec2.model_validate({**SECTION, **changes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instance_type": "c7i.huge"}, "instance_type: Value error, 'c7i.huge' is no EC2 instance type; did you mean c7i."),
        ({"instance_type": "ml.c7i.xlarge"}, "did you mean c7i.xlarge?"),
        ({"instance_type": "g5g.xlarge"}, "'g5g.xlarge': no image of the kit runs there"),
        ({"instance_type": "g4ad.xlarge"}, "'g4ad.xlarge': no image of the kit runs there"),
        ({"instance_type": "inf1.xlarge"}, "'inf1.xlarge': no image of the kit runs there"),
        ({"instance_type": "m4.large"}, "'m4.large': no image of the kit runs there"),
        ({"instance_tpye": "c7i.large"}, "instance_tpye: unknown key; did you mean 'instance_type'?"),
        ({"image_uri": "servekit:cpu"}, "image_uri: String should match pattern"),
        ({"image_uri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/servekit"}, "image_uri: String should match"),
        ({"image_uri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/servekit:latest"}, "latest moves"),
        ({"bucket": "My_Bucket"}, "bucket: String should match pattern"),
        ({"prefix": "servekit"}, "prefix: String should match pattern"),
        ({"prefix": "a b/"}, "prefix: String should match pattern"),
        ({"vpc_id": "vpc-xyz"}, "vpc_id: String should match pattern"),
        ({"subnets": ["subnet-0123456789abcdef0"]}, "subnets: a load balancer needs two zones, so two subnets at least, got 1"),
        ({"load_balancer_subnets": ["subnet-01234567"] * 2}, "load_balancer_subnets: a load balancer needs two zones"),
        ({"certificate_arn": "arn:aws:iam::123456789012:server-certificate/x"}, "certificate_arn: String should match"),
        ({"allowed_cidrs": ["0.0.0.0/0"]}, "'0.0.0.0/0' is everyone; name the networks of your clients"),
        ({"allowed_cidrs": ["::/0"]}, "'::/0' is everyone"),
        ({"allowed_cidrs": ["127.0.0.1/0"]}, "no network: 127.0.0.1/0 has host bits set"),
        ({"allowed_cidrs": ["10.0.0.0/33"]}, "allowed_cidrs.0: Value error, no network"),
        ({"allowed_security_groups": ["web"]}, "allowed_security_groups.0: String should match pattern"),
        ({"keys_arn": "/servekit/keys"}, "keys_arn: String should match pattern"),
        ({"keys_arn": "arn:aws:ssm:eu-west-1:123456789012:parameter/a'b"}, "keys_arn: String should match pattern"),
        ({"min_size": 3, "max_size": 2}, "desired_size: 3 is not from min_size=3 to max_size=2"),
        ({"desired_size": 5}, "desired_size: 5 is not from min_size=1 to max_size=2"),
        ({"hosted_zone_id": "Z0123456789ABC"}, "hosted_zone_id goes with hostname"),
        ({"volume_gb": 8}, "volume_gb: Input should be greater than or equal to 20, got 8"),
        ({"volume_gb": 20000}, "volume_gb: Input should be less than or equal to 16384, got 20000"),
        ({"volume_throughput_mb_s": 2000}, "volume_throughput_mb_s: Input should be less than or equal to 750"),
        ({"ami": "ami-latest"}, "ami: String should match pattern"),
        ({"log_retention_days": 31}, "log_retention_days: Input should be 1, 3, 5"),
        ({"start_timeout_s": 60}, "start_timeout_s: Input should be greater than or equal to 300, got 60"),
        ({"longest_stream_s": 7200}, "longest_stream_s: Input should be less than or equal to 3600, got 7200"),
        ({"tags": {"aws:team": "x"}}, "tags: 'aws:team' begins with aws:, which is AWS's own"),
        ({"alarms": {"topic_arn": "on-call"}}, "alarms.topic_arn: String should match pattern"),
        ({"alarms": {"latency_p95_s": 0}}, "alarms.latency_p95_s: Input should be greater than 0, got 0"),
    ],
)  # fmt: skip
def test_errors_name_key_and_value(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**change)
    assert words in "\n".join(problems(caught.value, Ec2))


def test_everything_that_can_be_said() -> None:
    assert read(**EVERYTHING).missing() == []


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        (("vpc_id", "subnets"), ["vpc_id", "subnets"]),
        (("certificate_arn", "keys_arn"), ["certificate_arn", "keys_arn"]),
        (("allowed_cidrs",), ["allowed_cidrs"]),
    ],
)
def test_what_only_an_account_knows_may_be_missing_and_is_named(left_out: tuple[str, ...], missing: list[str]) -> None:
    found = Ec2.model_validate({key: value for key, value in SECTION.items() if key not in left_out})
    assert found.missing() == missing


def test_groups_of_clients_do_without_networks() -> None:
    assert read(allowed_cidrs=[], allowed_security_groups=["sg-0123456789abcdef0"]).missing() == []


@pytest.mark.parametrize(
    ("instance_type", "architecture"),
    [
        ("c7i.xlarge", "amd64"),
        ("m7i-flex.large", "amd64"),
        ("m7a.large", "amd64"),
        ("c5n.large", "amd64"),
        ("t3.medium", "amd64"),
        ("c7g.xlarge", "arm64"),
        ("m8gd.large", "arm64"),
        ("t4g.small", "arm64"),
        ("g5.2xlarge", "cuda"),
        ("g6e.xlarge", "cuda"),
        ("p5.48xlarge", "cuda"),
        ("inf2.xlarge", "inf2"),
        ("inf2.48xlarge", "inf2"),
    ],
)
def test_the_instance_tells_what_it_needs(instance_type: str, architecture: str) -> None:
    assert instance_type in instance_types()
    assert read(instance_type=instance_type).architecture == architecture


def test_every_type_has_one_architecture_or_none() -> None:
    found: Counter[str] = Counter()
    for instance_type in instance_types():
        try:
            found[architecture_of(instance_type)] += 1
        except ValueError:
            found["none"] += 1
    assert found["inf2"] == 4
    assert set(found) == {"amd64", "arm64", "cuda", "inf2", "none"}


@pytest.mark.parametrize(
    ("instance_type", "device_type", "wrong"),
    [("c7i.large", "gpu", 1), ("g5.xlarge", "gpu", 0), ("c7i.large", "cpu", 0), ("inf2.xlarge", None, 0)],
)
def test_a_gpu_model_needs_a_gpu(instance_type: str, device_type: str | None, wrong: int) -> None:
    assert len(section_problems(read(instance_type=instance_type), device_type)) == wrong
