"""List operations: sorted, filtered, in pages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from deploy.emulator.errors import ApiError
from deploy.emulator.listing import listed

MODELS = [
    {"ModelName": name, "ModelArn": f"arn/{name}", "CreationTime": float(number), "PrimaryContainer": {}}
    for number, name in enumerate(["b", "a", "ab"])
]


def names(**request: Any) -> list[str]:
    return [each["ModelName"] for each in listed("Models", "Model", MODELS, request)["Models"]]


def test_lists_are_sorted_filtered_and_short() -> None:
    assert names() == ["ab", "a", "b"]
    assert names(SortBy="Name", SortOrder="Ascending") == ["a", "ab", "b"]
    assert names(NameContains="A") == ["ab", "a"]
    assert names(CreationTimeAfter=0.5, CreationTimeBefore=1.5) == ["a"]
    assert names(CreationTimeAfter="1970-01-01T00:00:01.500000+00:00") == ["ab"]
    assert "PrimaryContainer" not in listed("Models", "Model", MODELS, {})["Models"][0]


def test_lists_come_in_pages() -> None:
    first = listed("Models", "Model", MODELS, {"MaxResults": 2})
    rest = listed("Models", "Model", MODELS, {"MaxResults": 2, "NextToken": first["NextToken"]})
    assert [each["ModelName"] for each in first["Models"] + rest["Models"]] == ["ab", "a", "b"]
    assert "NextToken" not in rest
    with pytest.raises(ApiError, match="NextToken"):
        listed("Models", "Model", MODELS, {"NextToken": "x"})


def test_endpoints_are_listed_by_state() -> None:
    found = [
        {"EndpointName": name, "EndpointStatus": status, "CreationTime": time.time(), "LastModifiedTime": time.time()}
        for name, status in (("a", "Failed"), ("b", "InService"))
    ]
    (only,) = listed("Endpoints", "Endpoint", found, {"StatusEquals": "Failed"})["Endpoints"]
    assert only["EndpointName"] == "a"
