"""Whether a model's execution role suffices for what SageMaker does by it: read, pull, write, watch.

Each check is made when SageMaker makes it. Knows nothing of containers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from botocore.exceptions import ClientError

from deploy.emulator import model_data
from deploy.emulator.errors import StartFailed, invalid
from deploy.emulator.host import Host
from deploy.emulator.permissions import Role, read_role
from deploy.emulator.rules import ECR_IMAGE

SERVICE = "sagemaker.amazonaws.com"
PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability")


def check_new_model(host: Host, request: dict[str, Any], region: str) -> None:
    """At CreateModel: the role and the model data. Raises ApiError."""
    arn = request.get("ExecutionRoleArn")
    if arn is None:
        return
    account = host.aws(region).account
    if arn.split(":")[4] != account:
        raise invalid("Cross-account pass role is not allowed.")
    role = read_role(host.client("iam", region), arn)
    if role is None or not role.trusts(SERVICE, account):
        raise invalid(
            f"Could not assume role {arn}. Please ensure that the role exists and allows principal '{SERVICE}' to "
            "assume the role."
        )
    found = model_data.source(request["PrimaryContainer"])
    if found and not readable(host, role, found, region):
        raise invalid(
            f'Could not access model data at {found.uri}. Please ensure that the role "{arn}" exists and that its '
            f'trust relationship policy allows the action "sts:AssumeRole" for the service principal "{SERVICE}". '
            f'Also ensure that the role has "s3:GetObject" permissions and that the object is located in {region}. '
            "If your Model uses multiple models or uncompressed models, please ensure that the role has "
            '"s3:ListBucket" permission.'
        )


def check_start(host: Host, model: dict[str, Any], config: dict[str, Any], region: str) -> None:
    """When an endpoint's containers start: the image, the data, and what the endpoint writes. Raises StartFailed."""
    container, arn = model["PrimaryContainer"], model.get("ExecutionRoleArn")
    if arn is None:
        return
    role = read_role(host.client("iam", region), arn)
    if role is None:
        raise StartFailed(f"The role {arn} does not exist any more.")
    image = ECR_IMAGE.fullmatch(container["Image"])
    if image:
        partition = host.aws(region).partition
        repository = f"arn:{partition}:ecr:{region}:{image['account']}:repository/{image['repository']}"
        needed = [("ecr:GetAuthorizationToken", "*"), *((action, repository) for action in PULL)]
        _require(role, arn, needed, f"pull {container['Image']}")
    found = model_data.source(container)
    if found and not readable(host, role, found, region):
        raise StartFailed(
            f'Failed to download model data from {found.uri}. Please ensure that the role "{arn}" may read it.'
        )
    asynchronous = config.get("AsyncInferenceConfig", {}).get("OutputConfig", {})
    for topic in asynchronous.get("NotificationConfig", {}).values():
        _require(role, arn, [("sns:Publish", topic)], f"notify {topic}")
    outputs = [config.get("DataCaptureConfig", {}).get("DestinationS3Uri")]
    outputs += [asynchronous.get("S3OutputPath"), asynchronous.get("S3FailurePath")]
    for uri in filter(None, outputs):
        bucket, prefix = model_data.split(uri)
        target = f"arn:{host.aws(region).partition}:s3:::{bucket}/{prefix.rstrip('/')}/x".replace("//", "/")
        _require(role, arn, [("s3:PutObject", target)], f"write to {uri}")


def check_alarms(host: Host, models: Iterable[dict[str, Any]], alarms: list[str], region: str) -> None:
    """When a deployment watches alarms, by their names. Raises StartFailed."""
    aws = host.aws(region)
    start = f"arn:{aws.partition}:cloudwatch:{region}:{aws.account}:alarm"
    needed = [("cloudwatch:DescribeAlarms", f"{start}:{name}") for name in alarms]
    for model in models:
        if arn := model.get("ExecutionRoleArn"):
            role = read_role(host.client("iam", region), arn) or Role({"Statement": []}, ())
            _require(role, arn, needed, "watch alarms")


def readable(host: Host, role: Role, wanted: model_data.Source, region: str) -> bool:
    """Whether there is something, and the role may list and read all of it."""
    prefix = f"arn:{host.aws(region).partition}:s3:::{wanted.bucket}"
    if wanted.kind == "prefix" and not role.allows("s3:ListBucket", prefix, {"s3:prefix": wanted.key}):
        return False
    try:
        found = model_data.keys(host.client("s3", region), wanted)
    except ClientError:
        return False
    return bool(found) and all(role.allows("s3:GetObject", f"{prefix}/{key}") for key in found)


def _require(role: Role, arn: str, needed: list[tuple[str, str]], purpose: str) -> None:
    missing = [f"{action} on {resource}" for action, resource in needed if not role.allows(action, resource)]
    if missing:
        raise StartFailed(f"The role {arn} may not {purpose}: it lacks {', '.join(missing)}.")
