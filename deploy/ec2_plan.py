"""What a model's stack on EC2 is made from: a pure function from its YAML, its archive and the account it goes to.

Knows nothing of calls; ec2_stack.py makes them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import ec2_archive, ec2_template, service_model
from deploy.hosting import archive as archives
from deploy.hosting import images, names
from deploy.hosting.layout import Layout
from deploy.hosting.place import Place
from model_configs.archive_files import SUMS_FILE
from model_configs.ec2 import Architecture, Ec2
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings
from model_configs.schema import AnyModelConfig

AMI_PARAMETERS: dict[Architecture, str] = {
    "amd64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    "arm64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
    "inf2": "/aws/service/neuron/dlami/base/amazon-linux-2023/latest/image_id",
}
"""Amazon's own; the last has Neuron's driver, which goes with older runtimes in the container."""
BASE_GB: dict[Architecture, int] = {"amd64": 30, "arm64": 30, "inf2": 100}
"""System and image; Neuron's AMI and images are large."""
ARCHIVE_COPIES = 2
"""Volumes have room for the archive twice, for what workers unpack."""
START_SPARE_S = 900
"""For an instance to boot and to get image and archive, before the workers' own startupTimeout."""
ANSWER_SPARE_S = 10
"""That the load balancer waits beyond TorchServe, whose own error then comes first."""
MOST_IDLE_S = 4000
"""Of a load balancer's idle timeout."""
MOST_START_S = 3600
"""Of a rolling update's PauseTime."""
MOST_DRAIN_S = 3600
"""Of a target group's deregistration delay."""
CHANGE_SET = "servekit"
OPTIONAL = {"Record": "HostedZoneId", "Scaling": "RequestsPerMinutePerInstance"}
"""Resources that are only made where a parameter has a value."""


@dataclass(frozen=True)
class Plan:
    """A stack. parameters: of the template; archive: what is uploaded; where: the archive lies."""

    stack: str
    template: dict[str, Any]
    parameters: dict[str, str]
    tags: dict[str, str]
    archive: archives.Manifest
    where: Layout
    advice: tuple[str, ...]

    def change_set(self, kind: str) -> dict[str, Any]:
        """CreateChangeSet. kind: CREATE or UPDATE."""
        return {
            "StackName": self.stack,
            "ChangeSetName": CHANGE_SET,
            "ChangeSetType": kind,
            "TemplateBody": ec2_template.body(self.template),
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in self.parameters.items()],
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": names.as_list(self.tags),
        }

    def resources(self) -> dict[str, dict[str, Any]]:
        """Those that are made with these parameters, by logical name."""
        off = {name for name, parameter in OPTIONAL.items() if self.parameters[parameter] in ("", "0")}
        return {name: each for name, each in self.template["Resources"].items() if name not in off}


def section(config: AnyModelConfig) -> Ec2:
    """The YAML's `deploy.ec2`. Raises KitError where it is not there."""
    found = config.deploy.ec2 if config.deploy else None
    if found is None:
        raise KitError(
            f"model_configs/{config.model.name}.yaml has no deploy.ec2", "deploy: {ec2: {instance_type: c7i.xlarge}}"
        )
    return found


def require_whole(config: AnyModelConfig) -> Ec2:
    """The section, with all that only an account's owner knows. Raises KitError that names what is missing."""
    found = section(config)
    if missing := found.missing():
        raise KitError(
            f"model_configs/{config.model.name}.yaml: deploy.ec2 lacks {', '.join(missing)}",
            "they are your account's; --on emulator rehearses without one",
        )
    return found


def stack_name(model: str) -> str:
    """A model's stack, named as its endpoint on SageMaker."""
    return names.endpoint_name(model)


def image_uri(config: AnyModelConfig, place: Place) -> str:
    """The image of the YAML, or the kit's own in the account's ECR."""
    found = section(config)
    if found.image_uri:
        return found.image_uri
    tag = images.flavour(found.instance_type, config.handler)
    return images.default_uri(place.account, place.region, place.dns_suffix, tag)


def plan(config: AnyModelConfig, folder: Path, place: Place, image: str, keys_version: str = "") -> Plan:
    """The plan of a model whose archive stands in a folder. Raises KitError for what cannot be.

    image: its address, by its digest where that is known; keys_version: of what keys_arn holds now.
    """
    found = require_whole(config)
    manifest = archives.read(folder)
    where = ec2_archive.layout(config.model.name, found, place)
    prefix = where.archive_prefix(manifest)
    parameters = {
        **_parameters(config, manifest),
        "ArchiveBucket": where.bucket,
        "ArchivePrefix": prefix.rstrip("/"),
        "Image": image,
        "ImageRepositoryArn": repository_arn(image, place.partition),
        "KeysVersion": re.sub(r"[^A-Za-z0-9-]", "", keys_version),
    }
    template = ec2_template.template(found.allowed_cidrs, found.allowed_security_groups)
    tags = {**found.tags, names.ENDPOINT_TAG: where.endpoint, names.MODEL_TAG: config.model.name}
    made = Plan(where.endpoint, template, parameters, tags, manifest, where, tuple(advice(config)))
    request = made.change_set("CREATE")
    wrong = problems(config, manifest, prefix)
    wrong += ec2_template.size_problems(request["TemplateBody"])
    wrong += service_model.problems("cloudformation", "CreateChangeSet", request)
    if wrong:
        raise KitError("\n       ".join(wrong), f"see deploy.ec2 in model_configs/{config.model.name}.yaml")
    return made


def problems(config: AnyModelConfig, manifest: archives.Manifest, prefix: str) -> list[str]:
    """What does not go together, a line each."""
    found, serving = section(config), config.torchserve
    wrong = archives.problems(manifest, prefix) + _mirror_problems(config)
    if serving.responseTimeout + ANSWER_SPARE_S > MOST_IDLE_S:
        wrong.append(
            f"torchserve.responseTimeout: {serving.responseTimeout}; load balancers wait {MOST_IDLE_S} s at most"
        )
    if found.longest_stream_s is None and serving.responseTimeout > MOST_DRAIN_S:
        wrong.append(f"deploy.ec2.longest_stream_s: torchserve.responseTimeout={serving.responseTimeout} is no answer: "
                     f"instances that leave are waited for {MOST_DRAIN_S} s at most")  # fmt: skip
    if found.start_timeout_s is None and serving.startupTimeout + START_SPARE_S > MOST_START_S:
        wrong.append(
            f"torchserve.startupTimeout: {serving.startupTimeout}; a rolling update waits {MOST_START_S} s at most, "
            f"and {START_SPARE_S} of them are for image and archive: compile before, or say deploy.ec2.start_timeout_s"
        )
    image_gb = manifest.size_bytes / 1e9
    if found.volume_gb is not None and found.volume_gb < BASE_GB[found.architecture] + image_gb:
        needed = math.ceil(BASE_GB[found.architecture] + image_gb)
        wrong.append(f"deploy.ec2.volume_gb: {found.volume_gb} is too small for system, image and archive: {needed}")
    return wrong


def advice(config: AnyModelConfig) -> list[str]:
    """What is allowed but costs, a line each."""
    found, lines = section(config), []
    if found.min_size == found.max_size:
        lines.append(
            f"deploy.ec2.max_size: {found.max_size} as min_size: every update takes an instance out of service"
        )
    if found.requests_per_minute_per_instance is None and found.max_size > found.min_size + 1:
        lines.append("deploy.ec2.max_size: nothing scales without requests_per_minute_per_instance")
    if found.hostname is None:
        lines.append(
            "deploy.ec2.hostname: clients have to call the certificate's name, which must lead to the balancer"
        )
    if found.alarms.topic_arn is None:
        lines.append("deploy.ec2.alarms.topic_arn: alarms go off, and nobody is told")
    return lines


def latency_alarm_s(config: AnyModelConfig) -> float:
    """What the p95 to an answer's first byte may be: the alarm's own, the SLO's, or TorchServe's responseTimeout."""
    own = section(config).alarms.latency_p95_s
    if own is not None:
        return own
    limits = {(metric, name): limit for metric, name, limit in config.loadtest.slo.limits()} if config.loadtest else {}
    for metric in ("ttft_ms", "ttft_sched_ms", "e2e_ms", "e2e_sched_ms"):
        if (metric, "p95") in limits:
            return limits[metric, "p95"] / 1e3
    return float(config.torchserve.responseTimeout)


def repository_arn(uri: str, partition: str) -> str:
    """The one repository that instances read. Raises KitError for an image that is not in ECR."""
    image = images.parse(uri)
    if image is None:
        raise KitError(f"deploy.ec2.image_uri: {uri} is not in ECR", "docker pull, tag and push it to your own ECR")
    return f"arn:{partition}:ecr:{image.region}:{image.account}:repository/{image.repository}"


def _gateway(config: AnyModelConfig) -> GatewaySettings:
    return config.deploy.gateway if config.deploy else GatewaySettings()


def _mirror_problems(config: AnyModelConfig) -> list[str]:
    mirror = _gateway(config).mirror
    if mirror is None:
        return []
    wrong = []
    if not re.match(r"https://[^/:]+(:443)?(/|$)", mirror.url):
        wrong.append(f"deploy.gateway.mirror.url: {mirror.url}; instances reach https on 443, and nothing else")
    if mirror.key_file:
        wrong.append(f"deploy.gateway.mirror.key_file: {mirror.key_file} is not on an instance")
    return wrong


def _parameters(config: AnyModelConfig, manifest: archives.Manifest) -> dict[str, str]:
    found, serving = section(config), config.torchserve
    desired = found.desired_size or found.min_size
    archive_gb = ARCHIVE_COPIES * manifest.size_bytes / 1e9
    volume_gb = found.volume_gb or BASE_GB[found.architecture] + math.ceil(archive_gb)
    subnets = found.subnets or []
    values: dict[str, object] = {
        "Architecture": found.architecture,
        "InstanceType": found.instance_type,
        "AmiParameter": found.ami_parameter or AMI_PARAMETERS[found.architecture],
        "AmiId": found.ami or "",
        "VpcId": found.vpc_id,
        "Subnets": ",".join(subnets),
        "LoadBalancerSubnets": ",".join(found.load_balancer_subnets or subnets),
        "CertificateArn": found.certificate_arn,
        "Hostname": found.hostname or "",
        "HostedZoneId": found.hosted_zone_id or "",
        "GatewaySettings": json.dumps(_gateway(config).model_dump(mode="json", exclude_defaults=True)),
        "ArchiveSha256": next(file.sha256 for file in manifest.files if file.path == SUMS_FILE),
        "KeysArn": found.keys_arn,
        "KmsKeyArn": found.kms_key_arn or "",
        "PermissionsBoundaryArn": found.permissions_boundary_arn or "",
        "AlarmTopicArn": found.alarms.topic_arn or "",
        "MinSize": found.min_size,
        "MaxSize": found.max_size,
        "DesiredSize": desired,
        "InServiceDuringUpdate": min(desired, found.max_size - 1),
        "RequestsPerMinutePerInstance": found.requests_per_minute_per_instance or 0,
        "VolumeSize": volume_gb,
        "VolumeThroughput": found.volume_throughput_mb_s,
        "ResponseTimeout": serving.responseTimeout + ANSWER_SPARE_S,
        "LongestStream": found.longest_stream_s or serving.responseTimeout,
        "StartTimeout": found.start_timeout_s or serving.startupTimeout + START_SPARE_S,
        "DeletionProtection": str(found.deletion_protection).lower(),
        "LogRetentionDays": found.log_retention_days,
        "Errors5xxPerMinute": found.alarms.errors_5xx_per_minute,
        "LatencyP95": f"{latency_alarm_s(config):g}",
    }
    return {key: str(value) for key, value in values.items()}
