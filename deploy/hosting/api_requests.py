"""SageMaker's own requests, as pure functions: models, the configuration, the endpoint and its update."""

from __future__ import annotations

from typing import Any

from deploy.hosting import alarms, names
from deploy.hosting.layout import Layout
from model_configs.sagemaker import AsyncInference, SageMaker, Shadow
from model_configs.sagemaker_update import Update


def model(layout: Layout, archive_prefix: str, image: str, env: dict[str, str]) -> dict[str, Any]:
    """CreateModel: an archive in S3, not packed, and an image."""
    source = {
        "S3Uri": f"s3://{layout.bucket}/{archive_prefix}",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    container = {"Image": image, "ModelDataSource": {"S3DataSource": source}, "Environment": env}
    request: dict[str, Any] = {
        "PrimaryContainer": container,
        "ExecutionRoleArn": layout.place.role_arn(layout.role),
        "EnableNetworkIsolation": layout.section.network_isolation,
    }
    if vpc := layout.section.vpc:
        request["VpcConfig"] = {"Subnets": vpc.subnets, "SecurityGroupIds": vpc.security_groups}
    return {"ModelName": names.versioned(layout.endpoint, request), **request, "Tags": layout.tag_list}


def endpoint_config(layout: Layout, production: str, shadow: str | None) -> dict[str, Any]:
    """CreateEndpointConfig; production, shadow: names of models."""
    section = layout.section
    request: dict[str, Any] = {"ProductionVariants": [_variant(section, production)]}
    if section.shadow and shadow:
        request["ShadowProductionVariants"] = [_shadow_variant(section, section.shadow, shadow)]
    if capture := section.data_capture:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": capture.sampling_percent,
            "DestinationS3Uri": capture.s3_uri or layout.uri("capture"),
            "CaptureOptions": [{"CaptureMode": each.capitalize()} for each in capture.capture],
            "CaptureContentTypeHeader": {"JsonContentTypes": list(capture.json_content_types)},
            **_key(section),
        }
    if section.async_inference:
        request["AsyncInferenceConfig"] = _async(layout, section.async_inference)
    request |= _key(section)
    return {"EndpointConfigName": names.versioned(layout.endpoint, request), **request, "Tags": layout.tag_list}


def endpoint(layout: Layout, config_name: str) -> dict[str, Any]:
    """CreateEndpoint."""
    return {"EndpointName": layout.endpoint, "EndpointConfigName": config_name, "Tags": layout.tag_list}


def update(layout: Layout, config_name: str) -> dict[str, Any]:
    """UpdateEndpoint, under the YAML's policy and alarms."""
    section = layout.section
    deployment = _policy(section.update)
    if watched := alarm_names(layout, config_name):
        deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in watched]}
    request = {"EndpointName": layout.endpoint, "EndpointConfigName": config_name, "DeploymentConfig": deployment}
    return request | (_keep_scaled() if section.autoscaling else {})


def rollback(layout: Layout, config_name: str) -> dict[str, Any]:
    """UpdateEndpoint to a configuration that has served before: at once, and no alarm stops it."""
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    deployment = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}
    request = {"EndpointName": layout.endpoint, "EndpointConfigName": config_name, "DeploymentConfig": deployment}
    return request | (_keep_scaled() if layout.section.autoscaling else {})


def alarm_names(layout: Layout, config_name: str) -> list[str]:
    """Of the kit's alarms on a configuration, and of the YAML's own."""
    watched = layout.section.update.rollback_on
    if watched is None:
        return []
    made = alarms.requests(layout.endpoint, config_name, watched, layout.tag_list)
    return [request["AlarmName"] for request in made] + watched.alarms


def _variant(section: SageMaker, model_name: str) -> dict[str, Any]:
    optional = {
        "VolumeSizeInGB": section.volume_size_gb,
        "ModelDataDownloadTimeoutInSeconds": section.model_data_download_timeout_s,
        "ContainerStartupHealthCheckTimeoutInSeconds": section.container_startup_timeout_s,
        "InferenceAmiVersion": section.inference_ami_version,
    }
    return {
        "VariantName": names.VARIANT,
        "ModelName": model_name,
        "InstanceType": section.instance_type,
        "InitialInstanceCount": section.instance_count,
        "InitialVariantWeight": 1.0,
        "RoutingConfig": {"RoutingStrategy": section.routing.upper()},
        **{name: value for name, value in optional.items() if value is not None},
    }


def _shadow_variant(section: SageMaker, shadow: Shadow, model_name: str) -> dict[str, Any]:
    return {
        **_variant(section, model_name),
        "VariantName": names.SHADOW_VARIANT,
        "InstanceType": shadow.instance_type or section.instance_type,
        "InitialInstanceCount": shadow.instance_count,
        # Beside production's 1.0 it is the share of requests that are copied.
        "InitialVariantWeight": shadow.sampling_percent / 100,
    }


def _async(layout: Layout, wanted: AsyncInference) -> dict[str, Any]:
    topics = {"SuccessTopic": wanted.success_topic, "ErrorTopic": wanted.error_topic}
    told = {name: topic for name, topic in topics.items() if topic}
    output = {
        "S3OutputPath": wanted.s3_output_path or layout.uri("async/output"),
        "S3FailurePath": wanted.s3_failure_path or layout.uri("async/failure"),
        **({"NotificationConfig": told} if told else {}),
        **_key(layout.section),
    }
    most = wanted.max_concurrent_per_instance
    return {
        "OutputConfig": output,
        **({"ClientConfig": {"MaxConcurrentInvocationsPerInstance": most}} if most else {}),
    }


def _policy(wanted: Update) -> dict[str, Any]:
    most = {"MaximumExecutionTimeoutInSeconds": wanted.max_execution_s} if wanted.max_execution_s else {}
    if wanted.strategy == "rolling":
        back = wanted.rollback_size_percent
        rollback_size = {"RollbackMaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": back}} if back else {}
        policy = {"MaximumBatchSize": _size(wanted), "WaitIntervalInSeconds": wanted.wait_s, **rollback_size, **most}
        return {"RollingUpdatePolicy": policy}
    routing: dict[str, Any] = {"Type": wanted.strategy.upper(), "WaitIntervalInSeconds": wanted.wait_s}
    if wanted.strategy == "canary":
        routing["CanarySize"] = _size(wanted)
    if wanted.strategy == "linear":
        routing["LinearStepSize"] = _size(wanted)
    termination = {"TerminationWaitInSeconds": wanted.termination_wait_s}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, **termination, **most}}


def _size(wanted: Update) -> dict[str, Any]:
    if wanted.size_percent:
        return {"Type": "CAPACITY_PERCENT", "Value": wanted.size_percent}
    return {"Type": "INSTANCE_COUNT", "Value": wanted.size_instances}


def _keep_scaled() -> dict[str, Any]:
    """The number of instances is autoscaling's; what else is in the new configuration is taken from there."""
    taken = ("DesiredWeight", "DataCaptureConfig")
    return {
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": each} for each in taken],
    }


def _key(section: SageMaker) -> dict[str, str]:
    return {"KmsKeyId": section.kms_key_id} if section.kms_key_id else {}
