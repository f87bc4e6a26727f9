"""SageMaker's control plane of one region: models, endpoint configurations, endpoints, tags.

A request is checked against botocore's model of the service and then against what the model does not say. Names are
those of the API, an operation a method. Knows nothing of HTTP and of how containers run.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from deploy import service_model
from deploy.emulator import access, rules
from deploy.emulator.describe import describe
from deploy.emulator.endpoint import Endpoint, Snapshot
from deploy.emulator.errors import ApiError, invalid
from deploy.emulator.host import Host
from deploy.emulator.listing import listed
from deploy.emulator.traffic import Fleet

Document = dict[str, Any]
MOST_TAGS = 50


class ControlPlane:
    """One region's."""

    def __init__(self, host: Host, region: str) -> None:
        self._host = host
        self._region = region
        self._lock = threading.RLock()
        self.models: dict[str, Document] = {}
        self.configs: dict[str, Document] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self._tags: dict[str, dict[str, str]] = {}

    def call(self, operation: str, request: Document) -> Document:
        """Raises ApiError."""
        method = getattr(self, _snake(operation), None) if operation in OPERATIONS else None
        if method is None:
            raise ApiError("UnknownOperationException", f"the emulator does not do {operation}")
        if wrong := service_model.problems("sagemaker", operation, request):
            raise invalid(f"{len(wrong)} validation error(s) detected: {'; '.join(wrong)}")
        with self._lock:
            return dict(method(request))

    def things(self) -> dict[str, list[str]]:
        """Names of all that is there, by kind."""
        return {"model": [*self.models], "endpoint-config": [*self.configs], "endpoint": [*self.endpoints]}

    def create_model(self, request: Document) -> Document:
        arn = self._new("model", request["ModelName"], self.models)
        rules.check_model(request, self._region)
        access.check_new_model(self._host, request, self._region)
        container = {"Mode": "SingleModel", **request["PrimaryContainer"]}
        self.models[request["ModelName"]] = {
            **_without(request, "Tags"), "PrimaryContainer": container, "ModelArn": arn, "CreationTime": time.time(),
        }  # fmt: skip
        self._tag(arn, request.get("Tags", []))
        return {"ModelArn": arn}

    def describe_model(self, request: Document) -> Document:
        return dict(self._there("model", request["ModelName"], self.models))

    def delete_model(self, request: Document) -> Document:
        self._there("model", request["ModelName"], self.models)
        return self._forget("model", request["ModelName"], self.models)

    def list_models(self, request: Document) -> Document:
        return listed("Models", "Model", self.models.values(), request)

    def create_endpoint_config(self, request: Document) -> Document:
        arn = self._new("endpoint-config", request["EndpointConfigName"], self.configs)
        rules.check_config(request)
        for variant in [*request["ProductionVariants"], *request.get("ShadowProductionVariants", [])]:
            self._there("model", variant["ModelName"], self.models)
        self.configs[request["EndpointConfigName"]] = {
            **_without(request, "Tags"), "EndpointConfigArn": arn, "CreationTime": time.time(),
        }  # fmt: skip
        self._tag(arn, request.get("Tags", []))
        return {"EndpointConfigArn": arn}

    def describe_endpoint_config(self, request: Document) -> Document:
        return dict(self._there("endpoint-config", request["EndpointConfigName"], self.configs))

    def delete_endpoint_config(self, request: Document) -> Document:
        self._there("endpoint-config", request["EndpointConfigName"], self.configs)
        return self._forget("endpoint-config", request["EndpointConfigName"], self.configs)

    def list_endpoint_configs(self, request: Document) -> Document:
        return listed("EndpointConfigs", "EndpointConfig", self.configs.values(), request)

    def create_endpoint(self, request: Document) -> Document:
        name = request["EndpointName"]
        arn = self._new("endpoint", name, self.endpoints)
        snapshot = self._snapshot(request["EndpointConfigName"])
        deployment = request.get("DeploymentConfig", {})
        rules.check_deployment(deployment, snapshot.config)
        self.endpoints[name] = Endpoint(self._host, name, arn, self._region, snapshot)
        self._tag(arn, request.get("Tags", []))
        self.endpoints[name].create(deployment)
        return {"EndpointArn": arn}

    def describe_endpoint(self, request: Document) -> Document:
        return describe(self._there("endpoint", request["EndpointName"], self.endpoints))

    def update_endpoint(self, request: Document) -> Document:
        endpoint = self._settled(request["EndpointName"])
        snapshot = self._snapshot(request["EndpointConfigName"])
        if request.get("RetainDeploymentConfig"):
            if "DeploymentConfig" in request:
                raise invalid("RetainDeploymentConfig and DeploymentConfig exclude each other.")
            deployment = endpoint.deployment
        else:
            deployment = request.get("DeploymentConfig", {})
        rules.check_deployment(deployment, snapshot.config)
        names = [_variant_names(config) for config in (endpoint.snapshot.config, snapshot.config)]
        if deployment and names[0] != names[1]:
            raise invalid(f"With a DeploymentConfig, variants keep their names: {names[0]} are not {names[1]}.")
        if not request.get("RetainAllVariantProperties"):
            endpoint.update(snapshot, deployment, lambda fleet: None)
            return {"EndpointArn": endpoint.arn}
        excluded = {each["VariantPropertyType"] for each in request.get("ExcludeRetainedVariantProperties", [])}
        if "DataCaptureConfig" not in excluded:
            snapshot = Snapshot(_with_capture_of(endpoint.snapshot.config, snapshot.config), snapshot.models)
        endpoint.update(snapshot, deployment, _keeper(endpoint, excluded))
        return {"EndpointArn": endpoint.arn}

    def update_endpoint_weights_and_capacities(self, request: Document) -> Document:
        endpoint = self._settled(request["EndpointName"])
        by_name = {variant.name: variant for variant in endpoint.now().variants}
        weights = {name: variant.weight for name, variant in by_name.items()}
        for each in request["DesiredWeightsAndCapacities"]:
            if each["VariantName"] not in by_name:
                raise invalid(f"Variant {each['VariantName']} is not of endpoint {endpoint.name}.")
            weights[each["VariantName"]] = each.get("DesiredWeight", weights[each["VariantName"]])
        if sum(weights.values()) <= 0:
            raise invalid("The sum of all variant weights must be more than 0.")

        def change(fleet: Fleet) -> None:
            for each in request["DesiredWeightsAndCapacities"]:
                variant = by_name[each["VariantName"]]
                variant.weight = weights[variant.name]
                variant.instances = each.get("DesiredInstanceCount", variant.instances)

        endpoint.rescale(change)
        return {"EndpointArn": endpoint.arn}

    def delete_endpoint(self, request: Document) -> Document:
        endpoint = self._settled(request["EndpointName"], ("InService", "Failed"))
        endpoint.delete(lambda: self._gone(endpoint))
        return {}

    def list_endpoints(self, request: Document) -> Document:
        return listed("Endpoints", "Endpoint", map(describe, self.endpoints.values()), request)

    def add_tags(self, request: Document) -> Document:
        self._tag(self._tagged(request), request["Tags"])
        return {"Tags": _tag_list(self._tags[request["ResourceArn"]])}

    def list_tags(self, request: Document) -> Document:
        return {"Tags": _tag_list(self._tags[self._tagged(request)])}

    def delete_tags(self, request: Document) -> Document:
        tags = self._tags[self._tagged(request)]
        for key in request["TagKeys"]:
            tags.pop(key, None)
        return {}

    def _snapshot(self, config_name: str) -> Snapshot:
        config = self._there("endpoint-config", config_name, self.configs)
        variants = [*config["ProductionVariants"], *config.get("ShadowProductionVariants", [])]
        names = [variant["ModelName"] for variant in variants]
        return Snapshot(config, {name: self._there("model", name, self.models) for name in names})

    def _settled(self, name: str, states: Iterable[str] = ("InService",)) -> Endpoint:
        endpoint: Endpoint = self._there("endpoint", name, self.endpoints)
        if endpoint.status == "Failed" and "Failed" not in states:
            raise invalid(f'Cannot update failed endpoint "{endpoint.arn}".')
        if endpoint.status not in states:
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        return endpoint

    def _there(self, kind: str, name: str, things: dict[str, Any]) -> Any:
        if name not in things:
            raise rules.not_found(kind.replace("-config", " configuration"), self._arn(kind, name))
        return things[name]

    def _new(self, kind: str, name: str, things: dict[str, Any]) -> str:
        arn = self._arn(kind, name)
        if name in things:
            raise rules.exists(kind.replace("-config", " configuration"), arn)
        return arn

    def _forget(self, kind: str, name: str, things: dict[str, Any]) -> Document:
        del things[name]
        self._tags.pop(self._arn(kind, name), None)
        return {}

    def _gone(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._forget("endpoint", endpoint.name, self.endpoints)

    def _arn(self, kind: str, name: str) -> str:
        return self._host.arn(self._region, f"{kind}/{name}")

    def _tag(self, arn: str, tags: list[Document]) -> None:
        merged = {**self._tags.get(arn, {}), **{tag["Key"]: tag["Value"] for tag in tags}}
        if len(merged) > MOST_TAGS:
            raise invalid(f"{len(merged)} tags are more than {MOST_TAGS}.")
        self._tags[arn] = merged

    def _tagged(self, request: Document) -> str:
        arn = str(request["ResourceArn"])
        if arn not in self._tags:
            raise invalid(f"Could not find {arn}.")
        return arn


OPERATIONS = (
    "CreateModel", "DescribeModel", "DeleteModel", "ListModels",
    "CreateEndpointConfig", "DescribeEndpointConfig", "DeleteEndpointConfig", "ListEndpointConfigs",
    "CreateEndpoint", "DescribeEndpoint", "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities",
    "DeleteEndpoint", "ListEndpoints", "AddTags", "ListTags", "DeleteTags",
)  # fmt: skip


def _keeper(endpoint: Endpoint, excluded: set[str]) -> Callable[[Fleet], None]:
    """Gives a new fleet's variants the weight and number of instances that those of the same name have now."""
    now = {variant.name: (variant.weight, variant.instances) for variant in endpoint.now().variants}

    def keep(fleet: Fleet) -> None:
        for variant in fleet.variants:
            weight, instances = now.get(variant.name, (variant.weight, variant.instances))
            variant.weight = variant.weight if "DesiredWeight" in excluded else weight
            variant.instances = variant.instances if "DesiredInstanceCount" in excluded else instances

    return keep


def _with_capture_of(old: Document, new: Document) -> Document:
    kept = {"DataCaptureConfig": old["DataCaptureConfig"]} if "DataCaptureConfig" in old else {}
    return {**_without(new, "DataCaptureConfig"), **kept}


def _variant_names(config: Document) -> list[str]:
    return sorted(variant["VariantName"] for variant in config["ProductionVariants"])


def _without(document: Document, key: str) -> Document:
    return {name: value for name, value in document.items() if name != key}


def _tag_list(tags: dict[str, str]) -> list[Document]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _snake(operation: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
