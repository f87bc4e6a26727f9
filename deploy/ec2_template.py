"""The CloudFormation template of a model on EC2: templates/ec2.yaml and what no parameter can hold.

That is the user data, the CloudWatch agent's configuration, and a rule for each network and group of clients. Pure
functions; knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from deploy.render import TEMPLATES

MAX_TEMPLATE_BYTES = 51_200
"""CloudFormation's limit for a template that is sent with the request."""
MAX_USER_DATA_BYTES = 16_384
"""EC2's, before base64."""
HTTPS_PORT = 443
GPU_METRICS = ["utilization_gpu", "memory_used", "memory_total", "temperature_gpu"]
SETTINGS = """\
#!/bin/bash
# shellcheck disable=SC2034
STACK='${AWS::StackName}'
REGION='${AWS::Region}'
IMAGE='${Image}'
IMAGE_ARCHITECTURE='${ImageArchitecture}'
ACCELERATOR='${Accelerator}'
ARCHIVE_BUCKET='${ArchiveBucket}'
ARCHIVE_PREFIX='${ArchivePrefix}'
ARCHIVE_SHA256='${ArchiveSha256}'
GATEWAY='${GatewaySettings}'
KEYS_ARN='${KeysArn}'
KEYS_VERSION='${KeysVersion}'
AGENT_CONFIGURATION='${AgentConfiguration}'
BOOT_LOGS='${BootLogs}'
CONTAINER_LOGS='${ContainerLogs}'
RESPONSE_TIMEOUT_S='${ResponseTimeout}'
START_TIMEOUT_S='${StartTimeout}'
"""
"""The script's names, as Fn::Sub fills them in; parameters' patterns let no quote through."""


def template(cidrs: Sequence[str] = (), security_groups: Sequence[str] = ()) -> dict[str, Any]:
    """The template; clients come from these networks and groups."""
    document: dict[str, Any] = yaml.safe_load((TEMPLATES / "ec2.yaml").read_text())
    resources = document["Resources"]
    resources["LoadBalancerGroup"]["Properties"]["SecurityGroupIngress"] = [
        *(_client("CidrIpv6" if ":" in cidr else "CidrIp", cidr) for cidr in cidrs),
        *(_client("SourceSecurityGroupId", group) for group in security_groups),
    ]
    resources["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"] = user_data()
    with_gpu, without = ({"Fn::Sub": json.dumps(agent(gpu=gpu))} for gpu in (True, False))
    resources["AgentConfiguration"]["Properties"]["Value"] = {"Fn::If": ["HasGpu", with_gpu, without]}
    return document


def agent(*, gpu: bool) -> dict[str, Any]:
    """The CloudWatch agent's configuration, as Fn::Sub reads it."""
    document: dict[str, Any] = json.loads((TEMPLATES / "ec2-cloudwatch-agent.json").read_text())
    if gpu:
        document["metrics"]["metrics_collected"]["nvidia_gpu"] = {"measurement": GPU_METRICS}
    return document


def user_data() -> dict[str, Any]:
    """The launch template's UserData: settings that CloudFormation fills in, and the script."""
    values = {"ImageArchitecture": _of_architecture("Image"), "Accelerator": _of_architecture("Accelerator")}
    settings = {"Fn::Sub": [SETTINGS, values]}
    return {"Fn::Base64": {"Fn::Join": ["", [settings, script()]]}}


def script() -> str:
    """The instance's script, without the settings that come before it."""
    text = (TEMPLATES / "ec2-user-data.sh").read_text()
    for unit in ("servekit", "neuron-monitor"):
        content = (TEMPLATES / f"ec2-{unit}.service").read_text().rstrip("\n")
        text = text.replace(f"@{unit.replace('-', '_')}_service@", content)
    return text


def body(document: dict[str, Any]) -> str:
    """The template as it is sent."""
    return json.dumps(document, separators=(",", ":"))


def size_problems(text: str) -> list[str]:
    """What of a template's text is larger than AWS takes, a line each."""
    found = {"the template": (len(text.encode()), MAX_TEMPLATE_BYTES)}
    longest = f"{SETTINGS}{script()}"  # values take the place of names about as long
    found["user data"] = (len(longest.encode()), MAX_USER_DATA_BYTES)
    return [f"{what}: {size} bytes, {most} at most" for what, (size, most) in found.items() if size > most]


def _client(kind: str, who: str) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": HTTPS_PORT, "ToPort": HTTPS_PORT, kind: who, "Description": "Clients"}


def _of_architecture(key: str) -> dict[str, Any]:
    return {"Fn::FindInMap": ["Architectures", {"Ref": "Architecture"}, key]}
