"""Makes a planned endpoint by the SageMaker SDK's version 2: `Model(…S3DataSource…).deploy(…)`.

Run in an environment that has it and nothing of the kit: the plan's requests come as JSON on standard input. Waits for
nothing.
"""

import json
import sys
from typing import Any

import boto3
from sagemaker import Session
from sagemaker.async_inference import AsyncInferenceConfig
from sagemaker.model import Model
from sagemaker.model_monitor import DataCaptureConfig

Request = dict[str, Any]


def deploy(model: Request, config: Request, endpoint: Request, region: str) -> None:
    """The three requests of a plan, by the SDK's own call."""
    boto_session = boto3.Session(region_name=region)
    client = boto_session.client("sagemaker")
    name_configuration(client, config["EndpointConfigName"])
    session = Session(boto_session=boto_session, sagemaker_client=client)
    container, (variant,) = model["PrimaryContainer"], config["ProductionVariants"]
    Model(
        name=model["ModelName"],
        image_uri=container["Image"],
        model_data=container["ModelDataSource"],
        env=container["Environment"],
        role=model["ExecutionRoleArn"],
        vpc_config=model.get("VpcConfig"),
        enable_network_isolation=model["EnableNetworkIsolation"],
        sagemaker_session=session,
    ).deploy(
        endpoint_name=endpoint["EndpointName"],
        instance_type=variant["InstanceType"],
        initial_instance_count=variant["InitialInstanceCount"],
        volume_size=variant.get("VolumeSizeInGB"),
        model_data_download_timeout=variant.get("ModelDataDownloadTimeoutInSeconds"),
        container_startup_health_check_timeout=variant.get("ContainerStartupHealthCheckTimeoutInSeconds"),
        inference_ami_version=variant.get("InferenceAmiVersion"),
        routing_config=variant["RoutingConfig"],
        kms_key=config.get("KmsKeyId"),
        data_capture_config=data_capture(config.get("DataCaptureConfig"), session),
        async_inference_config=async_inference(config.get("AsyncInferenceConfig")),
        tags=endpoint["Tags"],
        wait=False,
    )


def name_configuration(client: Any, name: str) -> None:
    """The SDK gives a configuration its endpoint's name, so that the next version's would need another."""

    def rename(params: Request, **context: Any) -> None:
        params["EndpointConfigName"] = name

    for operation in ("CreateEndpointConfig", "CreateEndpoint"):
        client.meta.events.register(f"provide-client-params.sagemaker.{operation}", rename)


def data_capture(request: Request | None, session: Session) -> DataCaptureConfig | None:
    """The SDK's form of DataCaptureConfig."""
    if request is None:
        return None
    capture = DataCaptureConfig(
        enable_capture=request["EnableCapture"],
        sampling_percentage=request["InitialSamplingPercentage"],
        destination_s3_uri=request["DestinationS3Uri"],
        kms_key_id=request.get("KmsKeyId"),
        capture_options=[option["CaptureMode"] for option in request["CaptureOptions"]],
        json_content_types=request["CaptureContentTypeHeader"]["JsonContentTypes"],
        sagemaker_session=session,
    )
    capture.csv_content_types = None  # the SDK puts text/csv where it is given none
    return capture


def async_inference(request: Request | None) -> AsyncInferenceConfig | None:
    """The SDK's form of AsyncInferenceConfig."""
    if request is None:
        return None
    output, client = request["OutputConfig"], request.get("ClientConfig", {})
    return AsyncInferenceConfig(
        output_path=output["S3OutputPath"],
        failure_path=output["S3FailurePath"],
        kms_key_id=output.get("KmsKeyId"),
        notification_config=output.get("NotificationConfig"),
        max_concurrent_invocations_per_instance=client.get("MaxConcurrentInvocationsPerInstance"),
    )


if __name__ == "__main__":
    planned = json.load(sys.stdin)
    deploy(planned["model"], planned["config"], planned["endpoint"], planned["region"])
