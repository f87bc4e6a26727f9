"""The template's parameters, from a model's YAML and its archive: pure functions."""

from __future__ import annotations

import json
import math

from deploy.hosting.archive import Manifest
from model_configs.archive_files import SUMS_FILE
from model_configs.ec2 import Architecture, Ec2
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings
from model_configs.schema import AnyModelConfig

AMI_PARAMETERS: dict[Architecture, str] = {
    "amd64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    "arm64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
    "cuda": "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id",
    "inf2": "/aws/service/neuron/dlami/base/amazon-linux-2023/latest/image_id",
}
"""Amazon's own; the last two have drivers. Neuron's goes with older runtimes in the container."""
BASE_GB: dict[Architecture, int] = {"amd64": 30, "arm64": 30, "cuda": 120, "inf2": 120}
"""System and image; AMIs with drivers and the images for them are large."""
ARCHIVE_COPIES = 2
"""Volumes have room for the archive twice, for what workers unpack."""
START_SPARE_S = 900
"""For an instance to boot and to get image and archive, before the workers' own startupTimeout."""
ANSWER_SPARE_S = 10
"""That the load balancer waits beyond TorchServe, whose own error then comes first."""


def section(config: AnyModelConfig) -> Ec2:
    """The YAML's `deploy.ec2`. Raises KitError where it is not there."""
    found = config.deploy.ec2 if config.deploy else None
    if found is None:
        raise KitError(
            f"model_configs/{config.model.name}.yaml has no deploy.ec2", "deploy: {ec2: {instance_type: c7i.xlarge}}"
        )
    return found


def gateway(config: AnyModelConfig) -> GatewaySettings:
    """`deploy.gateway`, or what it is when nothing is said."""
    return config.deploy.gateway if config.deploy else GatewaySettings()


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


def parameters(config: AnyModelConfig, manifest: Manifest) -> dict[str, str]:
    """All that do not come from the account."""
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
        "GatewaySettings": json.dumps(gateway(config).model_dump(mode="json", exclude_defaults=True)),
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
