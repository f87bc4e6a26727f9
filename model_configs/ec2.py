"""`deploy.ec2` of a model's YAML: the instances, and the network, keys and buckets that they find in an account.

What only an account's owner knows may be missing here; `kit.py deploy ec2 MODEL plan` names what is. Knows nothing of
AWS's API but its list of instance types.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from model_configs import instances
from servekit.settings import PositiveInt
from servekit.strict import Strict, closest

Architecture = Literal["amd64", "arm64", "cuda", "inf2"]
GENERAL = re.compile(r"[cmr][5-9].*|t[348].*")
"""Families that the kit's CPU images run on, and Amazon Linux 2023 does."""
NVIDIA = re.compile(r"g4dn|g[5-9]e?|gr6|p[4-9][a-z0-9-]*")
"""Those that NVIDIA's open driver is for, which the AMI has."""
NEEDED = ("vpc_id", "subnets", "certificate_arn", "keys_arn")
"""Keys that nothing can be deployed without, and that only an account's owner knows."""

LogRetentionDays = Literal[
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653
]  # fmt: skip
"""What CloudWatch Logs takes."""


@lru_cache
def instance_types() -> tuple[str, ...]:
    """Every EC2 instance type that the installed botocore knows."""
    from botocore.loaders import Loader  # only who deploys to EC2 pays for reading 0.5 MB of it

    return tuple(Loader().load_service_model("ec2", "service-2")["shapes"]["InstanceType"]["enum"])


def architecture_of(instance_type: str) -> Architecture:
    """What an image has to be made for. Raises ValueError for a type that no image of the kit runs on."""
    family = instances.family(instance_type)
    if family == "inf2":
        return "inf2"
    if NVIDIA.fullmatch(family):
        return "cuda"
    if GENERAL.fullmatch(family):
        return "arm64" if instances.flavour(instance_type) == "cpu-arm64" else "amd64"
    raise ValueError(f"{instance_type!r}: no image of the kit runs there; c, m, r, t, g, p and inf2 instances do")


def _known_type(instance_type: str) -> str:
    if instance_type not in instance_types():
        bare = instance_type.removeprefix("ml.")
        near = bare if bare in instance_types() else closest(bare, instance_types())
        raise ValueError(f"{instance_type!r} is no EC2 instance type" + (f"; did you mean {near}?" if near else ""))
    architecture_of(instance_type)
    return instance_type


def _private_network(cidr: str) -> str:
    try:
        network = ip_network(cidr)
    except ValueError as error:
        raise ValueError(f"no network: {error}") from None
    if network.prefixlen == 0:
        raise ValueError(f"{cidr!r} is everyone; name the networks of your clients")
    return cidr


def _pinned_image(image: str) -> str:
    if image.endswith(":latest"):
        raise ValueError(f"{image!r}: latest moves; a tag that stays, or @sha256:…")
    return image


def _arn(service: str, resource: str) -> str:
    return rf"^arn:aws[a-z-]*:{service}:[a-z0-9-]*:[0-9]{{12}}:{resource}$"


InstanceType = Annotated[str, AfterValidator(_known_type)]
Image = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[a-z0-9._/-]+"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$"
    ),
    AfterValidator(_pinned_image),
]
Cidr = Annotated[str, AfterValidator(_private_network)]
SecurityGroup = Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")]
Subnet = Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]
Bucket = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Prefix = Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+/)+$")]
Keys = Annotated[
    str,
    Field(
        pattern=r"^arn:aws[a-z-]*:(ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9_./-]+"
        r"|secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+)$"
    ),
]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9 _.:/=+@-]{1,128}$")]


class Alarms(Strict):
    """When somebody is told."""

    topic_arn: Annotated[str, Field(pattern=_arn("sns", r"[A-Za-z0-9_.-]+"))] | None = None
    """An SNS topic; without one the alarms only show in CloudWatch."""
    errors_5xx_per_minute: PositiveInt = 5
    latency_p95_s: Annotated[float, Field(gt=0)] | None = None
    """To the first byte of an answer; else the loadtest's SLO, else torchserve.responseTimeout."""


class Ec2(Strict):
    """Where it runs on EC2: instances with one container each, behind an internal load balancer."""

    instance_type: InstanceType
    image_uri: Image | None = None
    """In ECR, pinned by a tag that stays or by its digest; else the account's own repository `servekit` with the tag
    that fits the instance."""
    bucket: Bucket | None = None
    """For archives; else servekit-<account>-<region>, which the kit makes."""
    prefix: Prefix = "servekit/"
    """In the bucket; it ends in /."""
    vpc_id: Annotated[str, Field(pattern=r"^vpc-[0-9a-f]{8,17}$")] | None = None
    subnets: list[Subnet] | None = None
    """Private ones, of two zones at least, with a NAT gateway or VPC endpoints."""
    load_balancer_subnets: list[Subnet] | None = None
    """Private ones, of two zones at least; the instances' own if not given."""
    certificate_arn: Annotated[str, Field(pattern=_arn("acm", r"certificate/[0-9a-f-]+"))] | None = None
    hostname: Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")] | None = None
    """What the certificate is for; with hosted_zone_id it is made to lead to the load balancer."""
    hosted_zone_id: Annotated[str, Field(pattern=r"^Z[A-Z0-9]{8,31}$")] | None = None
    allowed_cidrs: list[Cidr] = Field(default_factory=list)
    """Clients' networks. These and the groups are all that reaches the load balancer."""
    allowed_security_groups: list[SecurityGroup] = Field(default_factory=list)
    keys_arn: Keys | None = None
    """The ARN of an SSM SecureString or a Secrets Manager secret: the gateway's file of hashed bearer keys."""
    kms_key_arn: Annotated[str, Field(pattern=_arn("kms", r"key/[0-9a-f-]+"))] | None = None
    """For volumes and logs, and what keys and archive may be encrypted with; AWS's own keys if not given. Its policy
    has to let CloudWatch Logs and Auto Scaling's service-linked role use it."""
    min_size: PositiveInt = 1
    max_size: PositiveInt = 2
    desired_size: PositiveInt | None = None
    """Instances at the start, else min_size; from then on scaling decides."""
    requests_per_minute_per_instance: PositiveInt | None = None
    """What target tracking keeps each instance near; no scaling if not given. `kit.py sweep` tells what one takes."""
    volume_gb: Annotated[int, Field(ge=20, le=16384)] | None = None
    """Image, archive and logs; by the archive's size and the architecture if not given."""
    volume_throughput_mb_s: Annotated[int, Field(ge=125, le=750)] = 250
    ami: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")] | None = None
    """Instead of the newest of ami_parameter."""
    ami_parameter: Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]+$")] | None = None
    """An SSM parameter that holds an AMI with dnf; by the architecture if not given."""
    start_timeout_s: Annotated[int, Field(ge=300, le=3600)] | None = None
    """From launch to the first right answer; torchserve.startupTimeout and 15 minutes more if not given. An hour is
    what a rolling update waits at most."""
    longest_stream_s: Annotated[int, Field(ge=1, le=3600)] | None = None
    """How long an instance that leaves may go on answering; torchserve.responseTimeout if not given."""
    deletion_protection: bool = True
    log_retention_days: LogRetentionDays = 30
    permissions_boundary_arn: Annotated[str, Field(pattern=_arn("iam", r"policy/[A-Za-z0-9+=,.@_/-]+"))] | None = None
    alarms: Alarms = Alarms()
    tags: dict[Tag, Tag] = Field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        """What the image and the AMI have to be made for."""
        return architecture_of(self.instance_type)

    @model_validator(mode="after")
    def _sizes_and_pairs(self) -> Ec2:
        desired = self.desired_size or self.min_size
        if not self.min_size <= desired <= self.max_size:
            raise ValueError(
                f"desired_size: {desired} is not from min_size={self.min_size} to max_size={self.max_size}"
            )
        if self.hosted_zone_id and not self.hostname:
            raise ValueError("hosted_zone_id goes with hostname")
        for key in ("subnets", "load_balancer_subnets"):
            subnets = getattr(self, key)
            if subnets is not None and len(set(subnets)) < 2:
                raise ValueError(f"{key}: a load balancer needs two zones, so two subnets at least, got {len(subnets)}")
        if reserved := [key for key in self.tags if key.lower().startswith("aws:")]:
            raise ValueError(f"tags: {reserved[0]!r} begins with aws:, which is AWS's own")
        return self

    def missing(self) -> list[str]:
        """Keys without which nothing can be deployed."""
        keys = [key for key in NEEDED if getattr(self, key) is None]
        return keys if self.allowed_cidrs or self.allowed_security_groups else [*keys, "allowed_cidrs"]


def problems(section: Ec2, device_type: str | None) -> list[str]:
    """What does not go with the rest of the model's YAML: one line `key.path: …` for each."""
    if device_type == "gpu" and section.architecture != "cuda":
        return [f"deploy.ec2.instance_type: {section.instance_type} has no GPU for torchserve.deviceType: gpu"]
    return []
