"""Requests against botocore's own models: what is checked is what botocore leaves to the services."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.model import Shape

from deploy import service_model
from deploy.emulator.control import OPERATIONS
from deploy.service_model import compiled_pattern, operation, problems

VARIANT = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.inf2.xlarge", "InitialInstanceCount": 1}
CONFIG = {"EndpointConfigName": "c", "ProductionVariants": [VARIANT]}


def test_a_good_request_has_no_problems() -> None:
    assert problems("sagemaker", "CreateEndpointConfig", CONFIG) == []
    assert problems("sagemaker", "ListModels", {}) == []


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"ProductionVariants": None}, "ProductionVariants", "is required"),
        ({"EndpointConfigName": "a_b"}, "EndpointConfigName", "regular expression"),
        ({"EndpointConfigName": "a" * 64}, "EndpointConfigName", "at most 63"),
        ({"EndpointConfigName": 7}, "EndpointConfigName", "be a string"),
        ({"EndpontConfigName": "x"}, "EndpontConfigName", "is unknown"),
        ({"ProductionVariants": []}, "ProductionVariants", "at least 1"),
        ({"ProductionVariants": {}}, "ProductionVariants", "be a list"),
        ({"ProductionVariants": [VARIANT] * 11}, "ProductionVariants", "at most 10"),
        ({"ProductionVariants": [{}]}, "ProductionVariants[0].VariantName", "is required"),
        ({"ProductionVariants": [VARIANT | {"InstanceType": "ml.x9.large"}]}, "ProductionVariants[0].InstanceType", "one of"),
        ({"ProductionVariants": [VARIANT | {"VolumeSizeInGB": 513}]}, "ProductionVariants[0].VolumeSizeInGB", "at most 512"),
        ({"ProductionVariants": [VARIANT | {"VolumeSizeInGB": True}]}, "ProductionVariants[0].VolumeSizeInGB", "whole number"),
        ({"ProductionVariants": [VARIANT | {"InitialVariantWeight": "1"}]}, "ProductionVariants[0].InitialVariantWeight", "a number"),
        ({"ProductionVariants": [VARIANT | {"EnableSSMAccess": 1}]}, "ProductionVariants[0].EnableSSMAccess", "true or false"),
        ({"Tags": [{"Key": "k", "Value": "a;b"}]}, "Tags[0].Value", "regular expression"),
        ({"EnableNetworkIsolation": "x" * 200}, "EnableNetworkIsolation", "…"),
        ({"AsyncInferenceConfig": []}, "AsyncInferenceConfig", "be an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], path: str, words: str) -> None:
    found = problems("sagemaker", "CreateEndpointConfig", CONFIG | change)
    assert all(line.startswith(f"{path}: ") for line in found)
    assert words in "".join(found)


def test_maps_and_times() -> None:
    container = {"Environment": {"1x": "v", "y": 2}}
    found = problems("sagemaker", "CreateModel", {"ModelName": "m", "PrimaryContainer": container})
    assert [line.split(":")[0] for line in found] == [
        "PrimaryContainer.Environment (key '1x')",
        "PrimaryContainer.Environment.y",
    ]
    wrong = {"ModelName": "m", "PrimaryContainer": {"Environment": ["x"]}}
    assert "be a map" in problems("sagemaker", "CreateModel", wrong)[0]
    assert problems("sagemaker", "ListModels", {"CreationTimeAfter": 1.5}) == []
    assert "be a time" in problems("sagemaker", "ListModels", {"CreationTimeAfter": [1]})[0]
    assert "at most 6291456" in problems("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "e", "Body": b"x" * 6291457})[0]  # fmt: skip


def test_java_s_letters_are_letters() -> None:
    request = {
        "ResourceArn": "arn:aws:sagemaker:eu-west-1:123456789012:model/m",
        "Tags": [{"Key": "größe", "Value": "東京 1"}],
    }
    assert problems("sagemaker", "AddTags", request) == []


def shapes(shape: Shape, seen: set[str]) -> list[Shape]:
    if shape.name in seen:
        return []
    seen.add(shape.name)
    inner = {
        "structure": lambda: list(shape.members.values()),
        "list": lambda: [shape.member],
        "map": lambda: [shape.key, shape.value],
    }.get(shape.type_name, list)()
    return [shape, *(found for each in inner for found in shapes(each, seen))]


@pytest.mark.parametrize(
    ("service", "names"),
    [
        ("sagemaker", OPERATIONS),
        ("sagemaker-runtime", ("InvokeEndpoint", "InvokeEndpointAsync", "InvokeEndpointWithResponseStream")),
        ("application-autoscaling", ("RegisterScalableTarget", "PutScalingPolicy")),
        ("s3", ("CreateBucket", "PutObject", "PutBucketTagging")),
        ("iam", ("CreateRole", "PutRolePolicy")),
        ("cloudwatch", ("PutMetricAlarm",)),
        ("cloudformation", ("CreateStack", "UpdateStack")),
    ],
)
def test_every_pattern_of_what_the_kit_calls_can_be_read(service: str, names: tuple[str, ...]) -> None:
    found = [each for name in names for each in shapes(operation(service, name).input_shape, set())]
    patterns = {each.metadata["pattern"] for each in found if "pattern" in each.metadata}
    assert [pattern for pattern in patterns if compiled_pattern(pattern) is None] == []


def test_a_pattern_that_python_cannot_read_is_not_checked() -> None:
    assert compiled_pattern(r"\p{Unheard}") is None
    assert service_model.service_model("iam") is service_model.service_model("iam")
