"""What SageMaker refuses that its API's model lets pass, and what the emulator says that it does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deploy.emulator.errors import ApiError
from deploy.emulator.rules import check_config, check_deployment, check_model, without_effect

REGION = "eu-west-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/servekit:cpu"
ROLE = "arn:aws:iam::123456789012:role/r"
SOURCE = {"S3Uri": "s3://bucket/m/", "S3DataType": "S3Prefix", "CompressionType": "None"}
CONTAINER: dict[str, Any] = {"Image": IMAGE, "ModelDataSource": {"S3DataSource": SOURCE}}
MODEL: dict[str, Any] = {"ModelName": "m", "ExecutionRoleArn": ROLE, "PrimaryContainer": CONTAINER}
VARIANT: dict[str, Any] = {
    "VariantName": "v",
    "ModelName": "m",
    "InstanceType": "ml.inf2.xlarge",
    "InitialInstanceCount": 2,
    "VolumeSizeInGB": 512,
}
CONFIG: dict[str, Any] = {"EndpointConfigName": "c", "ProductionVariants": [VARIANT]}


def refused(check: Callable[[], None], words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        check()
    assert caught.value.code == "ValidationException"
    assert caught.value.status == 400


def test_what_is_right_passes() -> None:
    check_model(MODEL, REGION)
    check_config(CONFIG)
    check_deployment({}, CONFIG)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Image": "docker.io/library/python:3"}, "Using non-ECR image"),
        ({"Image": IMAGE.replace(REGION, "us-east-1")}, "is not in eu-west-1"),
        ({"Image": IMAGE + ":twice"}, "Using non-ECR image"),
        ({"ModelDataUrl": "s3://bucket/m.tar.gz"}, "Only one of"),
        ({"ModelDataSource": {"S3DataSource": {**SOURCE, "S3Uri": "s3://bucket/m"}}}, "forward slash"),
        ({"ModelDataSource": {"S3DataSource": {**SOURCE, "ManifestS3Uri": "s3://b/x"}}}, "the emulator does not do"),
        ({"Environment": {"A": "x" * 1025}}, "longer than 1024"),
        ({"Environment": {f"A{number}": "ü" * 400 for number in range(50)}}, "are more than 32768"),
        ({"Mode": "MultiModel"}, "does not do multi-model endpoints"),
        ({"ModelPackageName": "p"}, "does not do containers with ModelPackageName"),
    ],
)
def test_containers(change: dict[str, Any], words: str) -> None:
    refused(lambda: check_model({**MODEL, "PrimaryContainer": {**CONTAINER, **change}}, REGION), words)


def test_models() -> None:
    refused(lambda: check_model({"ModelName": "m"}, REGION), "PrimaryContainer is required")
    refused(lambda: check_model({**MODEL, "PrimaryContainer": {}}, REGION), "Image is required")
    refused(lambda: check_model({"ModelName": "m", "PrimaryContainer": CONTAINER}, REGION), "ExecutionRoleArn")
    refused(lambda: check_model({**MODEL, "Containers": [CONTAINER]}, REGION), "does not do models with Containers")
    private = {"Image": "registry/x:1", "ImageConfig": {"RepositoryAccessMode": "Vpc"}}
    check_model({"ModelName": "m", "PrimaryContainer": private}, REGION)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"InstanceType": None}, "InstanceType is required"),
        ({"InitialInstanceCount": None}, "InitialInstanceCount is required"),
        ({"ModelName": None}, "does not do inference components"),
        (
            {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}},
            "does not do variants with ServerlessConfig",
        ),
        ({"InstanceType": "ml.g5.xlarge"}, "VolumeSizeInGB parameter is not allowed"),
        ({"InstanceType": "ml.c6gd.xlarge"}, "VolumeSizeInGB parameter is not allowed"),
        ({"InitialVariantWeight": 0.0}, "sum of all variant weights"),
        ({"RoutingConfig": {"RoutingStrategy": "KV_AWARE"}}, "does not do KV_AWARE routing"),
        ({"ManagedInstanceScaling": {"MinInstanceCount": 3, "MaxInstanceCount": 2}}, "more than MaxInstanceCount"),
    ],
)
def test_variants(change: dict[str, Any], words: str) -> None:
    variant = {name: value for name, value in {**VARIANT, **change}.items() if value is not None}
    refused(lambda: check_config({**CONFIG, "ProductionVariants": [variant]}), words)


def test_configurations() -> None:
    shadow = {**VARIANT, "VariantName": "s"}
    check_config({**CONFIG, "ShadowProductionVariants": [shadow]})
    refused(lambda: check_config({**CONFIG, "ShadowProductionVariants": [VARIANT]}), "must be unique")
    two = [VARIANT, {**VARIANT, "VariantName": "w"}]
    refused(
        lambda: check_config({**CONFIG, "ProductionVariants": two, "ShadowProductionVariants": [shadow]}), "one shadow"
    )
    refused(lambda: check_config({**CONFIG, "AsyncInferenceConfig": {"OutputConfig": {}}}), "S3OutputPath is required")
    told = {
        "S3OutputPath": "s3://b/",
        "NotificationConfig": {"IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"]},
    }
    refused(
        lambda: check_config({**CONFIG, "AsyncInferenceConfig": {"OutputConfig": told}}), "does not do notifications"
    )
    refused(lambda: check_config({**CONFIG, "ExplainerConfig": {"x": 1}}), "does not do endpoint configurations with")


def routing(kind: str, **more: Any) -> dict[str, Any]:
    return {"TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": 600, **more}}


def size(value: int, kind: str = "CAPACITY_PERCENT") -> dict[str, Any]:
    return {"Type": kind, "Value": value}


ROLLING = {"MaximumBatchSize": size(50), "WaitIntervalInSeconds": 60}


@pytest.mark.parametrize(
    "deployment",
    [
        {"BlueGreenUpdatePolicy": routing("ALL_AT_ONCE")},
        {"BlueGreenUpdatePolicy": routing("CANARY", CanarySize=size(1, "INSTANCE_COUNT"))},
        {
            "BlueGreenUpdatePolicy": {
                **routing("LINEAR", LinearStepSize=size(10)),
                "MaximumExecutionTimeoutInSeconds": 601,
            }
        },
        {"RollingUpdatePolicy": ROLLING},
    ],
)
def test_deployments_that_are_right(deployment: dict[str, Any]) -> None:
    check_deployment(deployment, CONFIG)


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        ({"BlueGreenUpdatePolicy": routing("ALL_AT_ONCE"), "RollingUpdatePolicy": ROLLING}, "Only one update policy"),
        ({"BlueGreenUpdatePolicy": routing("ALL_AT_ONCE", CanarySize=size(10))}, "does not take CanarySize"),
        ({"BlueGreenUpdatePolicy": routing("CANARY")}, "needs CanarySize"),
        ({"BlueGreenUpdatePolicy": routing("CANARY", CanarySize=size(51))}, "1% to 50%"),
        ({"BlueGreenUpdatePolicy": routing("CANARY", CanarySize=size(2, "INSTANCE_COUNT"))}, "is 100% of 2 instances"),
        ({"BlueGreenUpdatePolicy": routing("LINEAR", LinearStepSize=size(9))}, "10% to 50%"),
        (
            {"BlueGreenUpdatePolicy": {**routing("ALL_AT_ONCE"), "TerminationWaitInSeconds": 5, "MaximumExecutionTimeoutInSeconds": 605}},
            "must be more than all waits, 605 s",
        ),
        ({"RollingUpdatePolicy": {**ROLLING, "MaximumBatchSize": size(51)}}, "5% to 50%"),
    ],
)  # fmt: skip
def test_deployments(deployment: dict[str, Any], words: str) -> None:
    refused(lambda: check_deployment(deployment, CONFIG), words)


def test_deployments_of_what_they_are_not_for() -> None:
    two = {"ProductionVariants": [VARIANT, {**VARIANT, "VariantName": "w"}]}
    refused(lambda: check_deployment({"RollingUpdatePolicy": ROLLING}, two), "several variants")
    inf1 = {"ProductionVariants": [{**VARIANT, "InstanceType": "ml.inf1.xlarge"}]}
    refused(lambda: check_deployment({}, inf1), "ml.inf1")


def test_what_is_only_kept_is_told() -> None:
    assert without_effect(CONFIG, [MODEL]) == []
    assert without_effect({**CONFIG, "KmsKeyId": "k"}, [{**MODEL, "VpcConfig": {"Subnets": ["s"]}}]) == [
        "VpcConfig",
        "KmsKeyId",
    ]
