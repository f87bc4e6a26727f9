"""What SageMaker asks of requests beside their form: what goes together, and the documented limits.

Pure functions of a request; each raises ApiError. What exists is the control plane's business. What SageMaker does and
the emulator does not is refused by name, so that nothing only seems to work.
"""

from __future__ import annotations

import re
from typing import Any

from deploy.emulator import model_data
from deploy.emulator.errors import ApiError, invalid, not_emulated

Request = dict[str, Any]
ENVIRONMENT_BYTES = 32 << 10
VARIABLE_BYTES = 1024
ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"/(?P<repository>[a-z0-9][a-z0-9._/-]*)(?::[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})?"
)
OWN_DISK = re.compile(r"ml\.(?:g4dn|g5|g6|g6e|gr6|p4d|p4de|p5|p5e|p5en|[a-z]+\d+[a-z]*d)\..*")
"""Instance types with disks of their own take no VolumeSizeInGB."""
NO_EFFECT = ("VpcConfig", "KmsKeyId", "EnableNetworkIsolation", "MetricsConfig")
"""Kept and told again, but nothing on this machine is different for them."""

REFUSED_OF_MODELS = ("Containers", "InferenceExecutionConfig")
REFUSED_OF_CONTAINERS = (
    "ModelPackageName", "InferenceSpecificationName", "MultiModelConfig", "AdditionalModelDataSources",
    "ContainerMetricsConfig",
)  # fmt: skip
REFUSED_OF_VARIANTS = (
    "ServerlessConfig", "InstancePools", "AcceleratorType", "CoreDumpConfig", "CapacityReservationConfig",
    "AcceleratorPartitionLayouts",
)  # fmt: skip
REFUSED_OF_CONFIGS = ("ExplainerConfig", "CrossRegionTrafficConfig", "ExecutionRoleArn")


def check_model(request: Request, region: str) -> None:
    """A CreateModel request."""
    _refuse(request, REFUSED_OF_MODELS, "models with")
    container = request.get("PrimaryContainer")
    if container is None:
        raise invalid("PrimaryContainer is required.")
    _refuse(container, REFUSED_OF_CONTAINERS, "containers with")
    if container.get("Mode") == "MultiModel":
        raise not_emulated("multi-model endpoints")
    if "Image" not in container:
        raise invalid("PrimaryContainer.Image is required.")
    _check_image(container, region)
    _check_environment(container.get("Environment", {}))
    if "ModelDataUrl" in container and "ModelDataSource" in container:
        raise invalid("Only one of ModelDataUrl and ModelDataSource can be specified.")
    data = container.get("ModelDataSource", {}).get("S3DataSource", {})
    _refuse(data, ("HubAccessConfig", "ManifestS3Uri"), "model data with")
    try:
        found = model_data.source(container)
    except ValueError as error:
        raise invalid(str(error)) from None
    if found and "ExecutionRoleArn" not in request:
        raise invalid("ExecutionRoleArn is required for model data.")


def check_config(request: Request) -> None:
    """A CreateEndpointConfig request."""
    _refuse(request, REFUSED_OF_CONFIGS, "endpoint configurations with")
    variants, shadows = request["ProductionVariants"], request.get("ShadowProductionVariants", [])
    for variant in [*variants, *shadows]:
        _check_variant(variant)
    names = [variant["VariantName"] for variant in [*variants, *shadows]]
    if len(set(names)) < len(names):
        raise invalid(f"Variant names must be unique: {', '.join(names)}.")
    if shadows and (len(variants) != 1 or len(shadows) != 1):
        raise invalid("With ShadowProductionVariants, one production variant and one shadow variant can be specified.")
    if sum(variant.get("InitialVariantWeight", 1.0) for variant in variants) <= 0:
        raise invalid("The sum of all variant weights must be more than 0.")
    if "AsyncInferenceConfig" in request:
        output = request["AsyncInferenceConfig"]["OutputConfig"]
        _refuse(output.get("NotificationConfig", {}), ("IncludeInferenceResponseIn",), "notifications with")
        if "S3OutputPath" not in output:
            raise invalid("AsyncInferenceConfig.OutputConfig.S3OutputPath is required.")


def check_deployment(deployment: Request, config: Request) -> None:
    """A DeploymentConfig for an endpoint of this configuration."""
    blue_green, rolling = deployment.get("BlueGreenUpdatePolicy"), deployment.get("RollingUpdatePolicy")
    if blue_green and rolling:
        raise invalid("Only one update policy can be used in the deployment configuration.")
    variants = config["ProductionVariants"]
    if any(variant["InstanceType"].startswith("ml.inf1.") for variant in variants):
        raise invalid("Deployment guardrails do not support ml.inf1 instances.")
    smallest = min(variant["InitialInstanceCount"] for variant in variants)
    if rolling:
        if len(variants) > 1:
            raise invalid("Rolling deployments do not support endpoints with several variants.")
        _percent("MaximumBatchSize", rolling["MaximumBatchSize"], smallest, 5, 50)
        _check_duration(rolling, rolling["WaitIntervalInSeconds"])
    if blue_green:
        routing = blue_green["TrafficRoutingConfiguration"]
        sizes = {"CANARY": ("CanarySize", 1), "LINEAR": ("LinearStepSize", 10)}
        wanted, least = sizes.get(routing["Type"], (None, 0))
        for name, _ in sizes.values():
            if (name in routing) != (name == wanted):
                does = "needs" if name == wanted else "does not take"
                raise invalid(f"TrafficRoutingConfiguration of type {routing['Type']} {does} {name}.")
        if wanted:
            _percent(wanted, routing[wanted], smallest, least, 50)
        wait_s = routing["WaitIntervalInSeconds"] + blue_green.get("TerminationWaitInSeconds", 0)
        _check_duration(blue_green, wait_s)


def percent(size: Request, instances: int) -> float:
    """A CapacitySize in percent of so many instances."""
    return 100.0 * size["Value"] / instances if size["Type"] == "INSTANCE_COUNT" else float(size["Value"])


def without_effect(config: Request, models: list[Request]) -> list[str]:
    """What of an endpoint's configuration the emulator only keeps."""
    return [name for name in NO_EFFECT if config.get(name) or any(model.get(name) for model in models)]


def _check_image(container: Request, region: str) -> None:
    if container.get("ImageConfig", {}).get("RepositoryAccessMode") == "Vpc":
        return
    image = container["Image"]
    found = ECR_IMAGE.fullmatch(image)
    if found is None:
        raise invalid(f'Using non-ECR image "{image}" without Vpc repository access mode is not supported.')
    if found["region"] != region:
        raise invalid(f"Image {image} is not in {region}, the region of the model.")


def _check_environment(environment: dict[str, str]) -> None:
    sizes = [len(key.encode()) + len(value.encode()) for key, value in environment.items()]
    for key, value in environment.items():
        if max(len(key.encode()), len(value.encode())) > VARIABLE_BYTES:
            raise invalid(f"Environment: {key[:40]} or its value is longer than {VARIABLE_BYTES} bytes.")
    if sum(sizes) > ENVIRONMENT_BYTES:
        raise invalid(f"Environment: {sum(sizes)} bytes are more than {ENVIRONMENT_BYTES}.")


def _check_variant(variant: Request) -> None:
    name = variant["VariantName"]
    _refuse(variant, REFUSED_OF_VARIANTS, "variants with")
    if "ModelName" not in variant:
        raise not_emulated("inference components: a variant without ModelName")
    for key in ("InstanceType", "InitialInstanceCount"):
        if key not in variant:
            raise invalid(f"{key} is required for variant {name}.")
    if "VolumeSizeInGB" in variant and OWN_DISK.fullmatch(variant["InstanceType"]):
        raise invalid(
            f"VolumeSizeInGB parameter is not allowed for the selected Instance type {variant['InstanceType']}."
        )
    if variant.get("RoutingConfig", {}).get("RoutingStrategy") in ("PREFIX_AWARE", "KV_AWARE"):
        raise not_emulated(f"{variant['RoutingConfig']['RoutingStrategy']} routing")
    scaling = variant.get("ManagedInstanceScaling", {})
    if scaling.get("MinInstanceCount", 0) > scaling.get("MaxInstanceCount", float("inf")):
        raise invalid(f"ManagedInstanceScaling of variant {name}: MinInstanceCount is more than MaxInstanceCount.")


def _percent(name: str, size: Request, instances: int, least: float, most: float) -> None:
    value = percent(size, instances)
    if not least <= value <= most:
        raise invalid(
            f"{name} of {size['Value']} ({size['Type']}) is {value:g}% of {instances} instances; "
            f"it must be {least:g}% to {most:g}%."
        )


def _check_duration(policy: Request, waits_s: float) -> None:
    limit_s = policy.get("MaximumExecutionTimeoutInSeconds")
    if limit_s is not None and limit_s <= waits_s:
        raise invalid(f"MaximumExecutionTimeoutInSeconds {limit_s} must be more than all waits, {waits_s} s.")


def _refuse(request: Request, names: tuple[str, ...], what: str) -> None:
    for name in names:
        if request.get(name):
            raise not_emulated(f"{what} {name}")


def not_found(kind: str, arn: str) -> ApiError:
    """Something that is named and is not there."""
    return invalid(f'Could not find {kind} "{arn}".')


def exists(kind: str, arn: str) -> ApiError:
    """A name that is taken."""
    return invalid(f'Cannot create already existing {kind} "{arn}".')
