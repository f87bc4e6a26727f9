"""Which image an endpoint runs, and its digest: a tag moves, and what an endpoint runs may not.

Knows the kit's flavours and ECR's addresses; nothing of what is in an image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deploy.aws import Aws
from model_configs import instances
from model_configs.errors import KitError
from servekit.settings import ClassifierSettings

REPOSITORY = "servekit"
ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<suffix>amazonaws\.com(\.cn)?)/"
    r"(?P<repository>[a-z0-9._/-]+?)(:(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class EcrImage:
    """An image's address, in parts; of tag and digest at most one is there."""

    account: str
    region: str
    suffix: str
    repository: str
    tag: str | None
    digest: str | None


def parse(uri: str) -> EcrImage | None:
    """The parts of an address in ECR; None for another registry's."""
    found = ECR.fullmatch(uri)
    return EcrImage(**found.groupdict()) if found else None


def flavour(instance_type: str, handler: Any) -> str:
    """The tag of the kit's image for an instance and a handler. Raises KitError for Inferentia 1."""
    fits = instances.flavour(instance_type)
    if fits is None:
        raise KitError(f"{instance_type}: the kit has no image for it", "deploy.sagemaker.image_uri")
    wants_ipex = isinstance(handler, ClassifierSettings) and handler.step == "ipex"
    return "ipex" if fits == "cpu" and wants_ipex else fits


def default_uri(account: str, region: str, dns_suffix: str, tag: str) -> str:
    """The kit's image in the account's own ECR."""
    return f"{account}.dkr.ecr.{region}.{dns_suffix}/{REPOSITORY}:{tag}"


def resolved(aws: Aws, uri: str) -> str:
    """The address with the digest that its tag stands for now. Raises KitError when ECR has no such image.

    The emulator has no images, and other registries are not asked: their addresses stay as they are.
    """
    image = parse(uri)
    if aws.emulated or image is None or image.digest:
        return uri
    tag = image.tag or "latest"
    try:
        found = aws.client("ecr").describe_images(
            registryId=image.account, repositoryName=image.repository, imageIds=[{"imageTag": tag}]
        )
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ImageNotFoundException", "RepositoryNotFoundException"):
            raise
        raise KitError(
            f"ECR has no {uri}", "docker/README.md says how to push it; deploy.sagemaker.image_uri names another"
        ) from None
    digest = found["imageDetails"][0]["imageDigest"]
    return f"{uri.partition(':')[0]}@{digest}"
