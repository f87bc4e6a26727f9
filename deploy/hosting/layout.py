"""Where everything of one endpoint is: its names, its bucket and prefixes, its role, its tags."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.hosting import names
from deploy.hosting.archive import Manifest
from deploy.hosting.place import Place
from model_configs.errors import KitError
from model_configs.sagemaker import SageMaker
from model_configs.schema import AnyModelConfig

SHORT_DIGEST = 16


@dataclass(frozen=True)
class Layout:
    """model: its name in model_configs/."""

    model: str
    section: SageMaker
    place: Place

    @property
    def endpoint(self) -> str:
        """The endpoint's name, which stays."""
        return names.endpoint_name(self.model, self.section.endpoint_name)

    @property
    def bucket(self) -> str:
        """The YAML's, or the kit's."""
        return self.section.bucket or names.default_bucket(self.place.account, self.place.region)

    @property
    def root(self) -> str:
        """The endpoint's prefix in the bucket."""
        return f"{self.section.prefix}{self.endpoint}/"

    @property
    def archives(self) -> str:
        """The prefix of all its archives."""
        return f"{self.root}archives/"

    @property
    def role(self) -> str:
        """The YAML's, by ARN or name, or the one that the kit makes."""
        return self.section.role or names.role(self.endpoint, self.place.region)

    @property
    def tags(self) -> dict[str, str]:
        """Of everything that can have tags."""
        return {**self.section.tags, names.ENDPOINT_TAG: self.endpoint, names.MODEL_TAG: self.model}

    @property
    def tag_list(self) -> list[dict[str, str]]:
        """The same, as requests have them."""
        return names.as_list(self.tags)

    @property
    def written(self) -> list[str]:
        """URIs that the endpoint writes to."""
        section, found = self.section, []
        if section.data_capture:
            found.append(section.data_capture.s3_uri or self.uri("capture"))
        if section.async_inference:
            found.append(section.async_inference.s3_output_path or self.uri("async/output"))
            found.append(section.async_inference.s3_failure_path or self.uri("async/failure"))
        return found

    def archive_prefix(self, manifest: Manifest) -> str:
        """Where an archive lies; another content lies elsewhere, so that a running endpoint's never changes."""
        return f"{self.archives}{manifest.digest[:SHORT_DIGEST]}/"

    def uri(self, folder: str) -> str:
        """Of a folder beside the archives."""
        return f"s3://{self.bucket}/{self.root}{folder}/"


def of(config: AnyModelConfig, place: Place) -> Layout:
    """A model's. Raises KitError when its YAML has no deploy.sagemaker."""
    name = config.model.name
    if config.deploy is None or config.deploy.sagemaker is None:
        raise KitError(f"{name} says nothing of SageMaker", f"deploy.sagemaker.instance_type in {name}.yaml")
    return Layout(name, config.deploy.sagemaker, place)
