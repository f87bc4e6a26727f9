"""What of a model's YAML cannot be on EC2, and what may be but costs: pure functions."""

from __future__ import annotations

import math
import re

from deploy.ec2_parameters import ANSWER_SPARE_S, BASE_GB, START_SPARE_S, gateway, section
from deploy.hosting.archive import Manifest
from deploy.hosting.archive import problems as archive_problems
from model_configs.schema import AnyModelConfig

MOST_IDLE_S = 4000
"""Of a load balancer's idle timeout."""
MOST_START_S = 3600
"""Of a rolling update's PauseTime."""
MOST_DRAIN_S = 3600
"""Of a target group's deregistration delay."""


def problems(config: AnyModelConfig, manifest: Manifest, prefix: str) -> list[str]:
    """What does not go together, a line each."""
    found, serving = section(config), config.torchserve
    wrong = archive_problems(manifest, prefix) + _mirror_problems(config)
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


def _mirror_problems(config: AnyModelConfig) -> list[str]:
    mirror = gateway(config).mirror
    if mirror is None:
        return []
    wrong = []
    if not re.match(r"https://[^/:]+(:443)?(/|$)", mirror.url):
        wrong.append(f"deploy.gateway.mirror.url: {mirror.url}; instances reach https on 443, and nothing else")
    files = {"key_file": mirror.key_file, "ca_file": mirror.ca_file}
    wrong += [f"deploy.gateway.mirror.{key}: {file} is not on an instance" for key, file in files.items() if file]
    return wrong
