"""What IAM documents are written with: statements, and the ARNs of what an endpoint has to do with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.hosting import images, names
from deploy.hosting.layout import Layout
from deploy.hosting.place import Place
from model_configs.sagemaker import SageMaker

VERSION = "2012-10-17"
SERVICE = "sagemaker.amazonaws.com"


@dataclass(frozen=True)
class Scope:
    """What the documents are about: an endpoint, and the images that its variants run."""

    layout: Layout
    images: tuple[str, ...]

    @property
    def place(self) -> Place:
        """Account and region."""
        return self.layout.place

    @property
    def section(self) -> SageMaker:
        """The YAML's deploy.sagemaker."""
        return self.layout.section

    @property
    def endpoint(self) -> str:
        """The endpoint's name."""
        return self.layout.endpoint


def alarms(scope: Scope) -> str:
    """All alarms of the kit's on versions of an endpoint."""
    return scope.place.arn("cloudwatch", f"alarm:{names.any_version(scope.endpoint)}-*")


def repositories(scope: Scope) -> list[str]:
    """Those of ECR's that the images are in."""
    found = [image for image in map(images.parse, scope.images) if image]
    start = f"arn:{scope.place.partition}:ecr"
    return sorted({f"{start}:{image.region}:{image.account}:repository/{image.repository}" for image in found})


def objects(place: Place, uri: str) -> str:
    """Everything under an S3 URI."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return place.bucket_arn(bucket, f"{prefix.rstrip('/')}/*" if prefix else "*")


def key(scope: Scope, actions: list[str]) -> dict[str, Any]:
    """Actions on the YAML's KMS key, by whatever name it goes there."""
    place, name = scope.place, scope.section.kms_key_id or ""
    alias = name if name.startswith("alias/") else name.partition(":alias/")[2]
    if alias:  # a policy names no alias as its resource
        condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": f"alias/{alias.removeprefix('alias/')}"}}
        return allow(actions, place.arn("kms", "key/*"), condition)
    return allow(actions, name if name.startswith("arn:") else place.arn("kms", f"key/{name}"))


def allow(
    actions: str | list[str], resources: str | list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One statement."""
    statement: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return statement | ({"Condition": condition} if condition else {})


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    """Of statements, a whole one."""
    return {"Version": VERSION, "Statement": list(statements)}
