"""Models with a whole deploy.ec2, as an account's owner would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.ec2_plan import Plan, plan
from deploy.hosting.place import Place
from model_configs.ec2 import Ec2
from model_configs.schema import AnyModelConfig, Deploy, load_model
from tests.fakes.instance import write_archive

PLACE = Place("123456789012", "eu-west-1")
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/servekit@sha256:" + "a" * 64
SECTION: dict[str, Any] = {
    "instance_type": "c7i.xlarge",
    "vpc_id": "vpc-0123456789abcdef0",
    "subnets": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    "certificate_arn": "arn:aws:acm:eu-west-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef",
    "keys_arn": "arn:aws:ssm:eu-west-1:123456789012:parameter/servekit/minilm/keys",
    "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"],
}
EVERYTHING: dict[str, Any] = {
    **SECTION,
    "load_balancer_subnets": ["subnet-0123456789abcdef2", "subnet-0123456789abcdef3"],
    "hostname": "minilm.example.com",
    "hosted_zone_id": "Z0123456789ABC",
    "allowed_security_groups": ["sg-0123456789abcdef0"],
    "kms_key_arn": "arn:aws:kms:eu-west-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef",
    "min_size": 2,
    "max_size": 4,
    "desired_size": 3,
    "requests_per_minute_per_instance": 600,
    "volume_gb": 200,
    "ami": "ami-0123456789abcdef0",
    "permissions_boundary_arn": "arn:aws:iam::123456789012:policy/a-boundary",
    "alarms": {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:on-call", "latency_p95_s": 0.5},
    "tags": {"team": "search"},
}


def model(section: dict[str, Any] | None = None, name: str = "minilm") -> AnyModelConfig:
    """One of the kit's models with this deploy.ec2."""
    found = Ec2.model_validate(SECTION if section is None else section)
    return load_model(name).model_copy(update={"deploy": Deploy(ec2=found)})


def planned(folder: Path, section: dict[str, Any] | None = None, name: str = "minilm") -> Plan:
    """The plan of a small archive that is made in a folder."""
    archive = folder / "archive"
    if not archive.exists():
        write_archive(archive)
    return plan(model(section, name), archive, PLACE, IMAGE, "7")
