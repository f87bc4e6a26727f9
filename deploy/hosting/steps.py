"""One call of AWS's API, with its reason; what botocore's model and the developer guide say against its request."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from deploy import service_model
from model_configs.sagemaker import checked_environment
from model_configs.sagemaker_update import SIZES_PERCENT

NAMES = (
    "Key", "Bucket", "RoleName", "ModelName", "EndpointName", "EndpointConfigName", "AlarmName", "AlarmNames",
    "PolicyName", "ResourceId", "ResourceArn", "logGroupName",
)  # fmt: skip
"""Members of requests that name what the call is about, the first that is there."""


@dataclass(frozen=True)
class Step:
    """A call that changes something. service: as botocore names it; operation: as the API does."""

    service: str
    operation: str
    request: dict[str, Any] = field(hash=False)
    why: str

    @property
    def method(self) -> str:
        """The boto3 client's method: create_endpoint_config."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.operation).lower()

    @property
    def name(self) -> str:
        """Of what it is about."""
        found = next((self.request[key] for key in NAMES if key in self.request), "")
        return ", ".join(found) if isinstance(found, list) else str(found)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"service": self.service, "operation": self.operation, "why": self.why, "request": self.request}


def problems(step: Step) -> list[str]:
    """What AWS would refuse the request for, as far as its model and its documentation tell: a line each."""
    wrong = service_model.problems(step.service, step.operation, step.request)
    check = DOCUMENTED.get(step.operation)
    return [f"{step.operation}: {line}" for line in [*wrong, *(check(step.request) if check else [])]]


def _model(request: dict[str, Any]) -> list[str]:
    container = request["PrimaryContainer"]
    wrong = []
    try:
        checked_environment(container.get("Environment", {}))
    except ValueError as error:
        wrong.append(f"PrimaryContainer.Environment: {error}")
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    if source.get("S3DataType") == "S3Prefix" and not source["S3Uri"].endswith("/"):
        wrong.append(f"PrimaryContainer.ModelDataSource.S3DataSource.S3Uri: {source['S3Uri']} must end in /")
    if container.get("Mode") == "MultiModel" and source:
        wrong.append("PrimaryContainer.Mode: MultiModel takes no ModelDataSource")
    return wrong


def _config(request: dict[str, Any]) -> list[str]:
    production, shadows = request["ProductionVariants"], request.get("ShadowProductionVariants", [])
    wrong = []
    if shadows and (len(production), len(shadows)) != (1, 1):
        wrong.append("ShadowProductionVariants: one goes with exactly one of ProductionVariants")
    if shadows and "AsyncInferenceConfig" in request:
        wrong.append("ShadowProductionVariants: AsyncInferenceConfig excludes them")
    variants = [variant["VariantName"] for variant in [*production, *shadows]]
    if len(set(variants)) < len(variants):
        wrong.append(f"ProductionVariants: a name stands twice in {', '.join(variants)}")
    return wrong


def _deployment(request: dict[str, Any]) -> list[str]:
    config = request.get("DeploymentConfig")
    if config is None:
        return []
    blue_green, rolling = config.get("BlueGreenUpdatePolicy"), config.get("RollingUpdatePolicy")
    if bool(blue_green) == bool(rolling):
        return ["DeploymentConfig: exactly one of BlueGreenUpdatePolicy and RollingUpdatePolicy is needed"]
    if rolling:
        return _share("RollingUpdatePolicy.MaximumBatchSize", rolling["MaximumBatchSize"], "rolling")
    routing = blue_green["TrafficRoutingConfiguration"]
    sizes = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}
    wrong = []
    for kind, member in sizes.items():
        if (routing["Type"] == kind) != (member in routing):
            wrong.append(f"TrafficRoutingConfiguration.{member}: goes with Type {kind}, and only with it")
        elif member in routing:
            wrong += _share(f"TrafficRoutingConfiguration.{member}", routing[member], kind.lower())
    most_s = blue_green.get("MaximumExecutionTimeoutInSeconds")
    waits_s = routing["WaitIntervalInSeconds"] + blue_green.get("TerminationWaitInSeconds", 0)
    if most_s is not None and most_s <= waits_s:
        wrong.append(f"MaximumExecutionTimeoutInSeconds: {most_s} is not more than the waits, {waits_s} s")
    return wrong


def _share(path: str, size: dict[str, Any], strategy: str) -> list[str]:
    least, most = SIZES_PERCENT[strategy]
    if size["Type"] == "CAPACITY_PERCENT" and not least <= size["Value"] <= most:
        return [f"{path}: {size['Value']} % is not between {least} and {most}"]
    return []


DOCUMENTED = {
    "CreateModel": _model,
    "CreateEndpointConfig": _config,
    "CreateEndpoint": _deployment,
    "UpdateEndpoint": _deployment,
}
"""What the developer guide and the API's prose say, and the API's model does not."""
