"""`deploy.sagemaker` of a model's YAML: what an endpoint of SageMaker's is made from.

Limits are SageMaker's own: of its API's model (botocore's), and of its developer guide where the model says nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from model_configs import instances
from model_configs.sagemaker_update import Update
from servekit.settings import PositiveInt
from servekit.strict import Strict

PING_S = 480
"""How long a container may take to its first good /ping when the YAML says nothing."""
ENV_ENTRIES, ENV_BYTES, ENV_TOTAL_BYTES = 100, 1024, 32 << 10

InstanceType = Annotated[str, AfterValidator(instances.checked_sagemaker_type)]
EndpointName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$", max_length=63)]
TimeoutSeconds = Annotated[int, Field(ge=60, le=3600)]
Percent = Annotated[int, Field(ge=0, le=100)]
Cooldown = Annotated[int, Field(ge=0)]
Target = Annotated[float, Field(gt=0, allow_inf_nan=False)]
S3Uri = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$", max_length=512)]
Bucket = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Prefix = Annotated[str, Field(pattern=r"^([A-Za-z0-9!_.*'()-]+/)+$", max_length=256)]
KmsKey = Annotated[str, Field(pattern=r"^[a-zA-Z0-9:/_-]+$", max_length=2048)]
Role = Annotated[str, Field(pattern=r"^(arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+|[\w+=,.@-]{1,64})$")]
Topic = Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9-]*:\d{12}:[a-zA-Z0-9_.-]+$", max_length=2048)]
Captured = Literal["input", "output"]
Image = Annotated[str, Field(pattern=r"^\S+$", max_length=255)]


def checked_environment(env: dict[str, str]) -> dict[str, str]:
    """The variables. Raises ValueError for what a container of SageMaker's cannot get."""
    if len(env) > ENV_ENTRIES:
        raise ValueError(f"{len(env)} variables are more than {ENV_ENTRIES}")
    for name, value in env.items():
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise ValueError(f"{name!r} is no name of a variable")
        for what in (name, value):
            if len(what.encode()) > ENV_BYTES:
                raise ValueError(f"{name[:60]}: {len(what.encode())} bytes are more than {ENV_BYTES}")
    total = sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
    if total > ENV_TOTAL_BYTES:
        raise ValueError(f"names and values of all variables are {total} bytes, more than {ENV_TOTAL_BYTES}")
    return env


def checked_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags. Raises ValueError for names that are AWS's or the kit's, and for what is too long."""
    for key, value in tags.items():
        if key.lower().startswith(("aws:", "servekit:")):
            raise ValueError(f"{key!r}: aws: and servekit: are not yours to set")
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise ValueError(f"{key!r}: at most 128 characters, and 256 of its value")
    return tags


Environment = Annotated[dict[str, str], AfterValidator(checked_environment)]
Tags = Annotated[dict[str, str], AfterValidator(checked_tags), Field(max_length=40)]


class Vpc(Strict):
    """The network that the containers get an interface in."""

    subnets: Annotated[list[Annotated[str, Field(pattern=r"^[-0-9a-zA-Z]+$")]], Field(min_length=1, max_length=16)]
    security_groups: Annotated[
        list[Annotated[str, Field(pattern=r"^[-0-9a-zA-Z]+$")]], Field(min_length=1, max_length=5)
    ]


class DataCapture(Strict):
    """Requests and answers that are kept in S3."""

    sampling_percent: Percent = 100
    s3_uri: S3Uri | None = None
    """Else a folder beside the model's archives."""
    capture: Annotated[tuple[Captured, ...], Field(strict=False, min_length=1, max_length=2)] = ("input", "output")
    json_content_types: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=10)] = (
        "application/json",
    )
    """Bodies of these types are kept as text, others in base64."""


class Shadow(Strict):
    """A second variant that gets copies of the requests; its answers go nowhere."""

    model: str | None = None
    """Another model of model_configs/; this model itself if not given."""
    instance_type: InstanceType | None = None
    instance_count: PositiveInt = 1
    image_uri: Image | None = None
    env: Environment = Field(default_factory=dict)
    """Instead of the model's own variables of these names."""
    sampling_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Of the requests."""


class AsyncInference(Strict):
    """Requests and answers go by way of S3: up to 1 GB, and up to an hour for each."""

    s3_output_path: S3Uri | None = None
    """Else a folder beside the model's archives; so are failures."""
    s3_failure_path: S3Uri | None = None
    max_concurrent_per_instance: Annotated[int, Field(ge=1, le=1000)] | None = None
    success_topic: Topic | None = None
    error_topic: Topic | None = None


class Autoscaling(Strict):
    """How many instances there are; one of the three targets is tracked."""

    min_instances: Annotated[int, Field(ge=0)] = 1
    """0 only for asynchronous endpoints."""
    max_instances: PositiveInt
    concurrent_requests_per_model: Target | None = None
    """Measured every 10 s, and a stream counts until its last token: the one for generation."""
    invocations_per_instance: Target | None = None
    """In a minute."""
    backlog_per_instance: Target | None = None
    """Asynchronous endpoints: requests that wait or are being answered."""
    scale_in_cooldown_s: Cooldown = 300
    scale_out_cooldown_s: Cooldown = 60

    @model_validator(mode="after")
    def _has_one_target(self) -> Autoscaling:
        targets = (self.concurrent_requests_per_model, self.invocations_per_instance, self.backlog_per_instance)
        if sum(target is not None for target in targets) != 1:
            raise ValueError(
                "one of concurrent_requests_per_model, invocations_per_instance, backlog_per_instance is needed"
            )
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances: {self.min_instances} is more than max_instances={self.max_instances}")
        return self


class SageMaker(Strict):
    """Where it runs on SageMaker."""

    instance_type: InstanceType
    instance_count: PositiveInt = 1
    """To begin with, where autoscaling is on."""
    endpoint_name: EndpointName | None = None
    """Else servekit-<model>. It tells several endpoints of a model apart, as staging and production."""
    role: Role | None = None
    """The execution role, by ARN or name; if not given the kit makes one that may do no more than it needs."""
    image_uri: Image | None = None
    """Else the account's own ECR repository `servekit` with the tag that fits the instance."""
    bucket: Bucket | None = None
    """For archives, captured data and answers; else servekit-<account>-<region>, which the kit makes."""
    prefix: Prefix = "servekit/"
    """In the bucket; it ends in /."""
    volume_size_gb: Annotated[int, Field(ge=1, le=512)] | None = None
    model_data_download_timeout_s: TimeoutSeconds | None = None
    container_startup_timeout_s: TimeoutSeconds | None = None
    """How long the container may take to its first good /ping."""
    env: Environment = Field(default_factory=dict)
    """The container's environment; it is readable to whoever may describe the model, so no secrets."""
    inference_ami_version: (
        Literal[
            "al2-ami-sagemaker-inference-gpu-2",
            "al2-ami-sagemaker-inference-gpu-2-1",
            "al2-ami-sagemaker-inference-gpu-3-1",
            "al2-ami-sagemaker-inference-neuron-2",
            "al2023-ami-sagemaker-inference-gpu-4-1",
        ]
        | None
    ) = None
    network_isolation: bool = False
    """No network for the container, S3 included; the archive still gets there."""
    vpc: Vpc | None = None
    kms_key_id: KmsKey | None = None
    """For the volume, the archive in S3, captured data and asynchronous answers."""
    data_capture: DataCapture | None = None
    shadow: Shadow | None = None
    async_inference: AsyncInference | None = None
    autoscaling: Autoscaling | None = None
    update: Update = Update()
    routing: Literal["least_outstanding_requests", "random"] = "least_outstanding_requests"
    tags: Tags = Field(default_factory=dict)

    @model_validator(mode="after")
    def _goes_together(self) -> SageMaker:
        for problem in (self._mode_problem(), self._fleet_problem(), self._processor_problem()):
            if problem:
                raise ValueError(problem)
        return self

    def _mode_problem(self) -> str | None:
        """What asynchronous endpoints and shadow variants exclude."""
        if self.shadow and self.async_inference:
            return "shadow: an asynchronous endpoint can have none"
        if self.shadow and self.update.strategy == "rolling":
            return "update.strategy: rolling is not for an endpoint of several variants, and shadow is one"
        scaling = self.autoscaling
        if scaling and not self.async_inference:
            if scaling.min_instances == 0:
                return "autoscaling.min_instances: 0 goes with async_inference only"
            if scaling.backlog_per_instance is not None:
                return "autoscaling.backlog_per_instance: goes with async_inference only"
        if scaling and self.async_inference and scaling.backlog_per_instance is None:
            return "autoscaling: an asynchronous endpoint publishes backlog_per_instance alone"
        return None

    def _fleet_problem(self) -> str | None:
        scaling, count = self.autoscaling, self.instance_count
        if scaling and not scaling.min_instances <= count <= scaling.max_instances:
            return (
                f"instance_count: {count} is not between autoscaling.min_instances={scaling.min_instances} and "
                f"max_instances={scaling.max_instances}"
            )
        return self.update.size_problem(count)

    def _processor_problem(self) -> str | None:
        kind = instances.family(self.instance_type)
        if kind == "inf1" and self.update.strategy != "all_at_once":
            return f"update.strategy: {self.update.strategy} is not for Inf1, and {self.instance_type} is one"
        if kind == "inf1" and self.shadow:
            return f"shadow: is not for Inf1, and {self.instance_type} is one"
        if kind == "inf1" and not self.image_uri:
            return f"image_uri: the kit has no image for Inf1, and {self.instance_type} is one"
        if kind == "t2" and self.autoscaling:
            return f"autoscaling: is not for burstable instances, and {self.instance_type} is one"
        if self.volume_size_gb and instances.has_own_disk(self.instance_type):
            return f"volume_size_gb: {self.instance_type} has a disk of its own and gets no volume"
        processor = {"gpu": "cuda", "neuron": "neuronx"}
        for word, flavour in processor.items():
            if self.inference_ami_version and f"-{word}-" in self.inference_ami_version:
                if instances.flavour(self.instance_type) == flavour:
                    return None
                return f"inference_ami_version: {self.inference_ami_version} is not for {self.instance_type}"
        return None
