"""An AWS account in this process: moto for all services but SageMaker, whose control plane is scripted here.

Every request to it is checked against botocore's model. An endpoint goes through the statuses that `course` says, one a
DescribeEndpoint, so that nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from deploy import service_model
from deploy.aws import Aws
from deploy.hosting.archive import ArchiveFile, Manifest

ACCOUNT, REGION = "123456789012", "eu-west-1"
CLIENTS: dict[str, Any] = {}
"""Made once; moto forgets what they have made."""
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/servekit@sha256:{'a' * 64}"


@dataclass(frozen=True)
class FakeAws(Aws):
    """Says that it is emulated, so that polls are short and buckets need no TLS."""

    sagemaker: Any = None

    @property
    def emulated(self) -> bool:
        return True

    def client(self, service: str, **config: Any) -> Any:
        if service == "sagemaker":
            return self.sagemaker
        if service not in CLIENTS:
            CLIENTS[service] = self.session.client(service)
        return CLIENTS[service]


@dataclass
class FakeSageMaker:
    """course: the statuses after the next CreateEndpoint or UpdateEndpoint; rolls_back: the next update, and why."""

    course: tuple[str, ...] = ("Creating", "InService")
    rolls_back: str = ""
    fails: str = ""
    refusals: list[str] = field(default_factory=list)
    """Messages that the next CreateModel calls are refused with."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _ahead: list[str] = field(default_factory=list)
    _clock: int = 0

    def create_model(self, **request: Any) -> dict[str, Any]:
        self._check("CreateModel", request)
        if self.refusals:
            raise _error("CreateModel", self.refusals.pop(0))
        return self._keep("model", self.models, request["ModelName"], request)

    def describe_model(self, ModelName: str) -> dict[str, Any]:
        return self._find("model", self.models, ModelName)

    def delete_model(self, ModelName: str) -> dict[str, Any]:
        self.calls.append("DeleteModel")
        del self.models[ModelName]
        return {}

    def create_endpoint_config(self, **request: Any) -> dict[str, Any]:
        self._check("CreateEndpointConfig", request)
        return self._keep("endpoint-config", self.configs, request["EndpointConfigName"], request)

    def describe_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:
        return self._find("endpoint configuration", self.configs, EndpointConfigName)

    def delete_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:
        self.calls.append("DeleteEndpointConfig")
        del self.configs[EndpointConfigName]
        return {}

    def create_endpoint(self, **request: Any) -> dict[str, Any]:
        self._check("CreateEndpoint", request)
        self._find("endpoint configuration", self.configs, request["EndpointConfigName"])
        self._keep("endpoint", self.endpoints, request["EndpointName"], request)
        self._go(request["EndpointName"], request["EndpointConfigName"])
        return {}

    def update_endpoint(self, **request: Any) -> dict[str, Any]:
        self._check("UpdateEndpoint", request)
        endpoint = self.endpoints[request["EndpointName"]]
        if endpoint["EndpointStatus"] != "InService":
            raise _error("UpdateEndpoint", "Cannot update in-progress endpoint")
        self._find("endpoint configuration", self.configs, request["EndpointConfigName"])
        self._go(request["EndpointName"], request["EndpointConfigName"])
        return {}

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:
        endpoint = self._find("endpoint", self.endpoints, EndpointName)
        if self._ahead:
            self._clock += 1
            status = self._ahead.pop(0)
            endpoint |= {"EndpointStatus": status, "LastModifiedTime": self._clock}
            if status == "gone":
                del self.endpoints[EndpointName]
                return self.describe_endpoint(EndpointName)
            if not self._ahead:
                self._arrive(endpoint)
        return dict(endpoint)

    def delete_endpoint(self, EndpointName: str) -> dict[str, Any]:
        self.calls.append("DeleteEndpoint")
        self._ahead = ["Deleting", "gone"]
        return {}

    def add_tags(self, ResourceArn: str, Tags: list[dict[str, str]]) -> dict[str, Any]:
        self._check("AddTags", {"ResourceArn": ResourceArn, "Tags": Tags})
        keys = {tag["Key"] for tag in Tags}
        self.tags[ResourceArn] = [tag for tag in self.tags[ResourceArn] if tag["Key"] not in keys] + Tags
        return {}

    def get_paginator(self, method: str) -> Any:
        return _Pages(getattr(self, f"_{method}"))

    def _list_tags(self, ResourceArn: str) -> dict[str, Any]:
        return {"Tags": self.tags[ResourceArn]}

    def _list_models(self, NameContains: str) -> dict[str, Any]:
        return {"Models": [each for name, each in self.models.items() if NameContains in name]}

    def _list_endpoint_configs(self, NameContains: str) -> dict[str, Any]:
        return {"EndpointConfigs": [each for name, each in self.configs.items() if NameContains in name]}

    def _check(self, operation: str, request: dict[str, Any]) -> None:
        assert service_model.problems("sagemaker", operation, request) == []
        self.calls.append(operation)

    def _keep(self, kind: str, things: dict[str, Any], name: str, request: dict[str, Any]) -> dict[str, Any]:
        if name in things:
            raise _error("Create", f"Cannot create already existing {kind}")
        arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"
        key = {"model": "ModelArn", "endpoint-config": "EndpointConfigArn", "endpoint": "EndpointArn"}[kind]
        self.tags[arn] = request.pop("Tags", [])
        things[name] = {**request, key: arn}
        return {key: arn}

    def _find(self, kind: str, things: dict[str, Any], name: str) -> dict[str, Any]:
        if name not in things:
            raise _error("Describe", f'Could not find {kind} "{name}".')
        found: dict[str, Any] = things[name]
        return found

    def _go(self, name: str, config: str) -> None:
        self._ahead = list(self.course)
        self.endpoints[name] |= {"EndpointStatus": self._ahead[0], "LastModifiedTime": self._clock, "_config": config}
        self.endpoints[name].pop("FailureReason", None)

    def _arrive(self, endpoint: dict[str, Any]) -> None:
        if self.fails:
            endpoint |= {"EndpointStatus": "Failed", "FailureReason": self.fails}
        elif self.rolls_back:
            endpoint["FailureReason"] = self.rolls_back
        else:
            endpoint["EndpointConfigName"] = endpoint.get("_config", endpoint["EndpointConfigName"])
        self.fails = self.rolls_back = ""


class _Pages:
    def __init__(self, method: Any) -> None:
        self._method = method

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        yield self._method(**request)


def _error(operation: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationException", "Message": message}}, operation)


@contextmanager
def account() -> Iterator[FakeAws]:
    """An empty one."""
    from moto import mock_aws

    with mock_aws():
        session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
        yield FakeAws(session, REGION, sagemaker=FakeSageMaker())


def manifest(folder: Path, files: dict[str, bytes]) -> Manifest:
    """Of files that are written there."""
    import hashlib

    found = []
    for name, content in sorted(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found.append(ArchiveFile(name, len(content), hashlib.sha256(content).hexdigest()))
    return Manifest(folder, tuple(found))
