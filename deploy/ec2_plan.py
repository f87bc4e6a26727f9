"""What a model's stack on EC2 is made from: a pure function from its YAML, its archive and the account it goes to.

Knows nothing of calls; ec2_stack.py makes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import ec2_archive, ec2_checks, ec2_template, service_model
from deploy.ec2_parameters import parameters, section
from deploy.hosting import archive as archives
from deploy.hosting import images, names
from deploy.hosting.layout import Layout
from deploy.hosting.place import Place
from model_configs.ec2 import Ec2
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig

CHANGE_SET = "servekit"
OPTIONAL = {"Record": "HostedZoneId", "Scaling": "RequestsPerMinutePerInstance"}
"""Resources that are only made where a parameter has a value."""


@dataclass(frozen=True)
class Plan:
    """A stack. parameters: of the template; archive: what is uploaded; where: the archive lies."""

    stack: str
    template: dict[str, Any]
    parameters: dict[str, str]
    tags: dict[str, str]
    archive: archives.Manifest
    where: Layout
    advice: tuple[str, ...]

    def change_set(self, kind: str) -> dict[str, Any]:
        """CreateChangeSet. kind: CREATE or UPDATE."""
        return {
            "StackName": self.stack,
            "ChangeSetName": CHANGE_SET,
            "ChangeSetType": kind,
            "TemplateBody": ec2_template.body(self.template),
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in self.parameters.items()],
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": names.as_list(self.tags),
        }

    def resources(self) -> dict[str, dict[str, Any]]:
        """Those that are made with these parameters, by logical name."""
        off = {name for name, parameter in OPTIONAL.items() if self.parameters[parameter] in ("", "0")}
        return {name: each for name, each in self.template["Resources"].items() if name not in off}


def require_whole(config: AnyModelConfig) -> Ec2:
    """The section, with all that only an account's owner knows. Raises KitError that names what is missing."""
    found = section(config)
    if missing := found.missing():
        raise KitError(
            f"model_configs/{config.model.name}.yaml: deploy.ec2 lacks {', '.join(missing)}",
            "they are your account's; --on emulator rehearses without one",
        )
    return found


def stack_name(model: str) -> str:
    """A model's stack, named as its endpoint on SageMaker."""
    return names.endpoint_name(model)


def image_uri(config: AnyModelConfig, place: Place) -> str:
    """The image of the YAML, or the kit's own in the account's ECR."""
    found = section(config)
    if found.image_uri:
        return found.image_uri
    tag = images.flavour(found.instance_type, config.handler)
    return images.default_uri(place.account, place.region, place.dns_suffix, tag)


def plan(config: AnyModelConfig, folder: Path, place: Place, image: str, keys_version: str = "") -> Plan:
    """The plan of a model whose archive stands in a folder. Raises KitError for what cannot be.

    image: its address, by its digest where that is known; keys_version: of what keys_arn holds now.
    """
    found = require_whole(config)
    manifest = archives.read(folder)
    where = ec2_archive.layout(config.model.name, found, place)
    prefix = where.archive_prefix(manifest)
    given = {
        **parameters(config, manifest),
        "ArchiveBucket": where.bucket,
        "ArchivePrefix": prefix.rstrip("/"),
        "Image": image,
        "ImageRepositoryArn": repository_arn(image, place.partition),
        "KeysVersion": re.sub(r"[^A-Za-z0-9-]", "", keys_version),
    }
    template = ec2_template.template(found.allowed_cidrs, found.allowed_security_groups)
    tags = {**found.tags, names.ENDPOINT_TAG: where.endpoint, names.MODEL_TAG: config.model.name}
    made = Plan(where.endpoint, template, given, tags, manifest, where, tuple(ec2_checks.advice(config)))
    request = made.change_set("CREATE")
    wrong = ec2_checks.problems(config, manifest, prefix)
    wrong += ec2_template.size_problems(request["TemplateBody"])
    wrong += service_model.problems("cloudformation", "CreateChangeSet", request)
    if wrong:
        raise KitError("\n       ".join(wrong), f"see deploy.ec2 in model_configs/{config.model.name}.yaml")
    return made


def repository_arn(uri: str, partition: str) -> str:
    """The one repository that instances read. Raises KitError for an image that is not in ECR."""
    image = images.parse(uri)
    if image is None:
        raise KitError(f"deploy.ec2.image_uri: {uri} is not in ECR", "docker pull, tag and push it to your own ECR")
    return f"arn:{partition}:ecr:{image.region}:{image.account}:repository/{image.repository}"
