"""From a model's YAML and its archive to every call that makes its endpoint: a pure function.

The same input gives the same names and requests. Knows nothing of what is there already: changes.py compares.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import Any

from deploy.hosting import alarms, api_requests, archive, iam, iam_deployer, images, layout, scaling, storage
from deploy.hosting.archive import Manifest
from deploy.hosting.layout import Layout
from deploy.hosting.place import Place
from deploy.hosting.policy import Scope
from deploy.hosting.steps import Step, problems
from model_configs import instances
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig

POLICY_NAME = "servekit"
GATEWAY_VARIABLE = "SERVEKIT_GATEWAY"


@dataclass(frozen=True)
class Part:
    """What one variant runs: an archive, and an image by its digest."""

    manifest: Manifest
    image: str


@dataclass(frozen=True)
class Plan:
    """steps: all calls where nothing is there yet, in their order. update: instead of CreateEndpoint, where one is.

    documents: IAM's, by who they are for.
    """

    layout: Layout
    parts: tuple[Part, ...]
    config_name: str
    steps: tuple[Step, ...]
    update: Step
    documents: dict[str, dict[str, Any]]

    def only(self, *operations: str) -> list[Step]:
        """The steps of these operations."""
        return [step for step in self.steps if step.operation in operations]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "endpoint": self.layout.endpoint,
            "region": self.layout.place.region,
            "account": self.layout.place.account,
            "endpoint_config": self.config_name,
            "model_data": f"s3://{self.layout.bucket}/{self.layout.archive_prefix(self.parts[0].manifest)}",
            "image": self.parts[0].image,
            "calls": [step.document() for step in self.steps],
            "update": self.update.document(),
            "iam": self.documents,
        }


def plan(config: AnyModelConfig, place: Place, production: Part, shadow: Part | None = None) -> Plan:
    """Everything that the YAML asks for. Raises KitError with each thing that AWS would refuse."""
    where = layout.of(config, place)
    parts = (production,) if shadow is None else (production, shadow)
    models = _models(where, parts, _gateway(config))
    config_request = api_requests.endpoint_config(where, models[0]["ModelName"], models[-1]["ModelName"])
    config_name = str(config_request["EndpointConfigName"])
    scope = Scope(where, tuple(part.image for part in parts))
    steps = (
        *storage.bucket_steps(where),
        *_role_steps(where, scope),
        *storage.upload_steps(where, [part.manifest for part in parts]),
        *(Step("sagemaker", "CreateModel", each, "archive, image, environment") for each in _unique(models)),
        Step("sagemaker", "CreateEndpointConfig", config_request, "instances, and how they are used"),
        *_alarm_steps(where, config_name),
        Step("sagemaker", "CreateEndpoint", api_requests.endpoint(where, config_name), "what is asked"),
        *scaling_steps(where),
    )
    update = Step("sagemaker", "UpdateEndpoint", api_requests.update(where, config_name), where.section.update.strategy)
    wrong = [line for step in (*steps, update) for line in problems(step)]
    wrong += [line for part in parts for line in _part_problems(where, part)]
    wrong += _mirror_problems(config, where)
    if wrong:
        raise KitError("\n       ".join(dict.fromkeys(wrong)), "AWS would refuse this: deploy.sagemaker in the YAML")
    documents = {
        "execution": iam.execution(scope),
        "deployer": iam_deployer.deployer(scope),
        "client": iam.client(scope),
    }
    return Plan(where, parts, config_name, steps, update, documents)


def advice(config: AnyModelConfig, machine: str = platform.machine()) -> list[str]:
    """What is allowed but costs, and only shows when an archive of this machine goes to another kind."""
    section = layout.of(config, Place("", "")).section
    arm = instances.flavour(section.instance_type) == "cpu-arm64"
    compiled = getattr(getattr(config.handler, "compile", None), "mode", None) == "aot"
    if compiled and arm != (machine in ("arm64", "aarch64")):
        return [f"handler.compile.mode: what aot compiled here ({machine}) does not run on {section.instance_type}"]
    return []


def _role_steps(where: Layout, scope: Scope) -> list[Step]:
    if where.section.role:
        return []
    create = {
        "RoleName": where.role,
        "Description": f"what {where.endpoint} may do",
        "AssumeRolePolicyDocument": json.dumps(iam.trust(where.place)),
        "Tags": where.tag_list,
    }
    policy = {
        "RoleName": where.role,
        "PolicyName": POLICY_NAME,
        "PolicyDocument": json.dumps(iam.execution(scope)),
    }
    return [
        Step("iam", "CreateRole", create, "what the endpoint runs as"),
        Step("iam", "PutRolePolicy", policy, "no more than it needs"),
    ]


def _gateway(config: AnyModelConfig) -> dict[str, str]:
    """What tells the container's gateway what the YAML says of it."""
    said = config.deploy.gateway.model_dump(mode="json", exclude_defaults=True) if config.deploy else {}
    return {GATEWAY_VARIABLE: json.dumps(said)} if said else {}


def _mirror_problems(config: AnyModelConfig, where: Layout) -> list[str]:
    mirror = config.deploy.gateway.mirror if config.deploy else None
    if mirror is None:
        return []
    files = {"key_file": mirror.key_file, "ca_file": mirror.ca_file}
    wrong = [f"deploy.gateway.mirror.{key}: {path} is in no container" for key, path in files.items() if path]
    if where.section.network_isolation:
        wrong.append("deploy.gateway.mirror: network_isolation lets the container reach nothing")
    return wrong


def _models(where: Layout, parts: tuple[Part, ...], gateway: dict[str, str]) -> list[dict[str, Any]]:
    """CreateModel of each variant: production first."""
    env, shadow = gateway | where.section.env, where.section.shadow
    environments = [env, env | shadow.env] if shadow else [env]
    return [
        api_requests.model(where, where.archive_prefix(part.manifest), part.image, variables)
        for part, variables in zip(parts, environments, strict=True)
    ]


def _unique(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A shadow may run the same model on other instances."""
    return list({request["ModelName"]: request for request in models}.values())


def _alarm_steps(where: Layout, config_name: str) -> list[Step]:
    watched = where.section.update.rollback_on
    made = alarms.requests(where.endpoint, config_name, watched, where.tag_list) if watched else []
    return [Step("cloudwatch", "PutMetricAlarm", request, "sends an update back") for request in made]


def scaling_steps(where: Layout) -> list[Step]:
    """What makes application-autoscaling set the number of instances; none if the YAML asks for none."""
    wanted, service = where.section.autoscaling, "application-autoscaling"
    if wanted is None:
        return []
    steps = [
        Step(service, "RegisterScalableTarget", scaling.register(where.endpoint, wanted), "how few and how many"),
        Step(service, "PutScalingPolicy", scaling.tracking_policy(where.endpoint, wanted), "keeps the metric's target"),
    ]
    if wanted.min_instances == 0:
        policy = scaling.from_zero_policy(where.endpoint, wanted)
        steps.append(Step(service, "PutScalingPolicy", policy, "makes the first instance"))
        alarm = scaling.from_zero_alarm(where.endpoint, where.tag_list)
        steps.append(Step("cloudwatch", "PutMetricAlarm", alarm, "requests wait, and no instance is there"))
    return steps


def _part_problems(where: Layout, part: Part) -> list[str]:
    wrong = archive.problems(part.manifest, where.archive_prefix(part.manifest))
    image, region = images.parse(part.image), where.place.region
    if image is None:
        wrong.append(f"image_uri: {part.image} is not in ECR, and SageMaker pulls from nowhere else")
    elif image.region != region:
        wrong.append(f"image_uri: {part.image} is in {image.region}, and SageMaker pulls from {region} only")
    return wrong
