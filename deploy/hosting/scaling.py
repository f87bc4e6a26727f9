"""Requests that make application-autoscaling set an endpoint's number of instances, as pure functions.

Target tracking on one metric; and for asynchronous endpoints that may have no instance, a step up from zero, since no
tracked metric has a value there.
"""

from __future__ import annotations

from typing import Any

from deploy.hosting import names
from model_configs.sagemaker import Autoscaling

NAMESPACE = "sagemaker"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
POLICY_ARN = "<the ARN that PutScalingPolicy answers>"
"""Stands in the alarm's request until the policy is there."""


def target(endpoint: str) -> dict[str, str]:
    """What is scaled."""
    return {
        "ServiceNamespace": NAMESPACE,
        "ResourceId": names.resource(endpoint),
        "ScalableDimension": DIMENSION,
    }


def register(endpoint: str, scaling: Autoscaling) -> dict[str, Any]:
    """RegisterScalableTarget."""
    return {**target(endpoint), "MinCapacity": scaling.min_instances, "MaxCapacity": scaling.max_instances}


def tracking_policy(endpoint: str, scaling: Autoscaling) -> dict[str, Any]:
    """PutScalingPolicy that keeps the metric at its target."""
    return {
        **target(endpoint),
        "PolicyName": tracking_policy_name(endpoint),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            **_metric(endpoint, scaling),
            "ScaleInCooldown": scaling.scale_in_cooldown_s,
            "ScaleOutCooldown": scaling.scale_out_cooldown_s,
        },
    }


def from_zero_policy(endpoint: str, scaling: Autoscaling) -> dict[str, Any]:
    """PutScalingPolicy that makes the first instance; the alarm below sets it off."""
    return {
        **target(endpoint),
        "PolicyName": from_zero_name(endpoint),
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Average",
            "Cooldown": scaling.scale_out_cooldown_s,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
        },
    }


def from_zero_alarm(endpoint: str, tags: list[dict[str, str]]) -> dict[str, Any]:
    """PutMetricAlarm that goes off when requests wait and no instance is there."""
    return {
        "AlarmName": from_zero_name(endpoint),
        "AlarmDescription": "requests wait and there is no instance",
        "Namespace": "AWS/SageMaker",
        "MetricName": "HasBacklogWithoutCapacity",
        "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [POLICY_ARN],
        "Tags": tags,
    }


def tracking_policy_name(endpoint: str) -> str:
    """Of the policy that keeps the target."""
    return f"{endpoint}-tracking"


def from_zero_name(endpoint: str) -> str:
    """Of the policy and of the alarm that make the first instance."""
    return f"{names.stem(endpoint)}-from-zero"


def _metric(endpoint: str, scaling: Autoscaling) -> dict[str, Any]:
    if scaling.concurrent_requests_per_model is not None:
        return {
            "TargetValue": scaling.concurrent_requests_per_model,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
            },
        }
    if scaling.invocations_per_instance is not None:
        return {
            "TargetValue": scaling.invocations_per_instance,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        }
    return {
        "TargetValue": scaling.backlog_per_instance,
        "CustomizedMetricSpecification": {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
            "Statistic": "Average",
        },
    }
