"""How an endpoint describes itself: DescribeEndpoint's document, out of its state. Changes nothing."""

from __future__ import annotations

import hashlib
from typing import Any

from deploy.emulator.endpoint import Endpoint
from deploy.emulator.traffic import Variant

KEPT = ("DesiredServerlessConfig", "ManagedInstanceScaling", "RoutingConfig")


def describe(endpoint: Endpoint) -> dict[str, Any]:
    """DescribeEndpoint's answer."""
    config, fleet, pending = endpoint.snapshot.config, endpoint.fleet, endpoint.pending
    document: dict[str, Any] = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": config["EndpointConfigName"],
        "EndpointStatus": endpoint.status,
        "CreationTime": endpoint.created,
        "LastModifiedTime": endpoint.modified,
    }
    if endpoint.failure_reason:
        document["FailureReason"] = endpoint.failure_reason
    if endpoint.deployment:
        document["LastDeploymentConfig"] = endpoint.deployment
    if fleet:
        stage = pending.stage if pending and pending.fleet else ""
        document["ProductionVariants"] = [_variant(each, endpoint.created, stage) for each in fleet.variants]
        if fleet.shadows:
            document["ShadowProductionVariants"] = [_variant(each, endpoint.created, "") for each in fleet.shadows]
    for name in ("AsyncInferenceConfig", "MetricsConfig"):
        if name in config:
            document[name] = config[name]
    if capture := config.get("DataCaptureConfig"):
        document["DataCaptureConfig"] = _capture(capture)
    if pending:
        document["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending.config["EndpointConfigName"],
            "StartTime": pending.started,
            "ProductionVariants": [
                {
                    "VariantName": each["VariantName"],
                    "DesiredInstanceCount": each["InitialInstanceCount"],
                    "InstanceType": each["InstanceType"],
                    "VariantStatus": [{"Status": pending.stage, "StartTime": pending.started}],
                }
                for each in pending.config["ProductionVariants"]
            ],
        }
    return document


def _variant(variant: Variant, since: float, stage: str) -> dict[str, Any]:
    digest = hashlib.sha256(variant.image.encode()).hexdigest()
    repository = variant.image.split("@")[0].rsplit(":", 1)[0]
    found: dict[str, Any] = {
        "VariantName": variant.name,
        "DeployedImages": [
            {
                "SpecifiedImage": variant.image,
                "ResolvedImage": f"{repository}@sha256:{digest}",
                "ResolutionTime": since,
            }
        ],
        "CurrentWeight": variant.weight,
        "DesiredWeight": variant.weight,
        "CurrentInstanceCount": variant.instances,
        "DesiredInstanceCount": variant.instances,
    }
    if stage:
        found["VariantStatus"] = [{"Status": stage}]
    return found | {name: variant.settings[name] for name in KEPT if name in variant.settings}


def _capture(config: dict[str, Any]) -> dict[str, Any]:
    enabled = config.get("EnableCapture", True)
    return {
        "EnableCapture": enabled,
        "CaptureStatus": "Started" if enabled else "Stopped",
        "CurrentSamplingPercentage": config["InitialSamplingPercentage"],
        "DestinationS3Uri": config["DestinationS3Uri"],
        "KmsKeyId": config.get("KmsKeyId", ""),
    }
